"""Loops of a model that takes any batch, for the batch that is known: their lists hold rows of that size."""

from __future__ import annotations

from typing import Any

from ..bounds.loops import node_name
from .graph_def import scopes, store, values_of

_LISTS = ("TensorListReserve", "TensorListFromTensor", "TensorListStack", "TensorListGetItem", "EmptyTensorList")


def has_open_lists(graph: Any) -> bool:
    """Whether a GraphDef has lists whose rows have an open batch, which TFLite does not take."""
    return bool(_open_shapes(graph))


def close_lists(graph: Any, batch: int) -> Any:
    """A copy of a GraphDef whose lists hold rows of a known batch."""
    changed = type(graph)()
    changed.CopyFrom(graph)
    for node in _open_shapes(changed):
        shape = values_of(node)
        shape[0] = batch
        store(node, shape)
    return changed


def _open_shapes(graph: Any) -> list[Any]:
    """The constants that are the shape of a list's rows, (-1, ...), and of nothing else."""
    found = []
    for nodes in scopes(graph):
        constants = {node.name: node for node in nodes if node.op == "Const"}
        wanted = {node_name(name) for node in nodes if node.op in _LISTS for name in node.input[:]}
        for name in wanted & constants.keys():
            values = values_of(constants[name])
            if values.ndim == 1 and len(values) > 1 and values[0] == -1 and (values[1:] > 0).all():
                found.append(constants[name])
    return found
