"""Lists of a graph without loops, as the values that they hold.

TFLite takes no list whose rows have no shape that is known beforehand, as ``tf.map_fn`` makes them. Where a graph has
no loops, every place in a list is known, so that a value that is read is the one that was written.
"""

from __future__ import annotations

from typing import Any

from .graph_def import as_function, scopes, values_of
from .spell import value_of


def has_shapeless_lists(graph: Any) -> bool:
    """Whether a GraphDef has a list of rows of which not even the number of axes is known."""
    for nodes in scopes(graph):
        shapes = {node.input[0].partition(":")[0] for node in nodes if node.op == "TensorListReserve"}
        if any(node.name in shapes and node.op == "Const" and values_of(node).ndim == 0 for node in nodes):
            return True
    return False


def without_lists(frozen: Any) -> Any:
    """A frozen function whose lists are the values in them; itself if one of them is used in a way not known here."""
    graph = frozen.graph.as_graph_def()
    nodes = {node.name: node for node in graph.node}
    held: dict[str, list[str | None]] = {}
    numbers: dict[str, int] = {}
    for operation in frozen.graph.get_operations():  # an operation comes after those that it reads
        inputs = [tensor.op.name for tensor in operation.inputs]
        _count(operation, inputs, numbers)
        kind = operation.type
        if kind == "TensorListReserve" and inputs[1] in numbers:
            held[operation.name] = [None] * numbers[inputs[1]]
        elif kind == "TensorListFromTensor" and operation.inputs[0].shape[:1].is_fully_defined():
            held[operation.name] = _rows(graph, nodes[operation.name], operation.inputs[0].shape[0])
        elif not any(name in held for name in inputs):
            if kind.startswith("TensorList"):
                return frozen
        elif kind == "Identity":
            held[operation.name] = held[inputs[0]]
        elif kind == "TensorListSetItem" and inputs[1] in numbers:
            changed = list(held[inputs[0]])
            changed[numbers[inputs[1]]] = operation.inputs[2].name
            held[operation.name] = changed
        elif inputs[0] not in held or not _read(operation, nodes[operation.name], held[inputs[0]], inputs, numbers):
            return frozen
    return as_function(graph, frozen)


def _count(operation: Any, inputs: list[str], numbers: dict[str, int]) -> None:
    """Remember the whole number that an operation gives, if it is known."""
    import tensorflow as tf

    known = [numbers.get(name) for name in inputs]
    if len(operation.outputs) != 1 or not operation.outputs[0].dtype.is_integer or operation.outputs[0].shape.rank:
        return
    if operation.type == "Const":
        numbers[operation.name] = int(tf.get_static_value(operation.outputs[0]))
    elif operation.type == "Identity" and known[0] is not None:
        numbers[operation.name] = known[0]
    elif operation.type in ("Add", "AddV2") and None not in known:
        numbers[operation.name] = sum(number for number in known if number is not None)
    elif operation.type == "StridedSlice" and (size := value_of(operation.outputs[0])) is not None:
        numbers[operation.name] = int(size)  # of a shape


def _read(operation: Any, node: Any, values: list[str | None], inputs: list[str], numbers: dict[str, int]) -> bool:
    """Put what a list holds in the place of what reads it; False where that is not known."""
    kind = node.attr["element_dtype"].type
    if operation.type == "TensorListGetItem" and inputs[1] in numbers:
        value = values[numbers[inputs[1]]]
        if value is not None:
            _become(node, "Identity", [value], T=kind)
        return value is not None
    if operation.type != "TensorListStack" or None in values or not values:
        return False
    _become(node, "Pack", [value for value in values if value is not None], T=kind, N=len(values))
    return True


def _rows(graph: Any, node: Any, rows: int) -> list[str | None]:
    """The rows of a tensor that becomes a list, each by itself: ``Unpack`` beside the list."""
    name = f"{node.name}/rows"
    unpack = graph.node.add(name=name)
    _become(unpack, "Unpack", [node.input[0]], T=node.attr["element_dtype"].type, num=rows)
    return [f"{name}:{place}" for place in range(rows)]


def _become(node: Any, operator: str, inputs: list[str], **settings: int) -> None:
    """Make another operator of a node; ``T`` is a type, all else numbers."""
    node.op = operator
    del node.input[:]
    node.input.extend(inputs)
    node.attr.clear()
    for name, value in settings.items():
        if name == "T":
            node.attr[name].type = value
        else:
            node.attr[name].i = value
