"""Loops in a float graph, as recurrent layers have them: kept where it is certain that they end."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .graph import Graph

_BOUNDS = ("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")

_WHOLE = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}

UNROLLED = 64
"""Steps up to which a loop is laid out where no loop can be; each is some 15 operators a layer."""


def has_loops(graph: Graph) -> bool:
    """Whether a graph has other subgraphs: loops, or branches."""
    return len(graph.model.subgraphs) > 1


def unbounded_loops(graph: Graph) -> list[str]:
    """Names of what the loops give that nothing known beforehand ends, in the order of the graph."""
    return [
        _text(owner.tensors[int(operator.outputs[0])].name)
        for owner in graph.model.subgraphs
        for operator in owner.operators
        if graph.operator_name(operator) == "WHILE" and not _is_bounded(graph, operator, owner)
    ]


def steps(graph: Graph) -> int:
    """The most steps that a loop of a graph takes, as far as its condition tells; 0 without loops."""
    found = [0]
    for owner in graph.model.subgraphs:
        for operator in owner.operators:
            if graph.operator_name(operator) == "WHILE":
                condition = graph.model.subgraphs[operator.builtinOptions.condSubgraphIndex]
                tensors = [*condition.tensors, *(owner.tensors[int(index)] for index in operator.inputs)]
                found += [number for tensor in tensors if (number := _number(graph, tensor)) is not None]
    return max(found)


def _number(graph: Graph, tensor: Any) -> int | None:
    """The value of a constant that is one whole number."""
    data = graph.model.buffers[tensor.buffer].data
    if data is None or tensor.type not in _WHOLE:
        return None
    values = np.frombuffer(bytes(data), _WHOLE[tensor.type])
    return int(values[0]) if values.size == 1 else None


def state(graph: Graph) -> list[str]:
    """Names of the tensors that are kept from one input to the next."""
    return [_text(tensor.name) for owner in graph.model.subgraphs for tensor in owner.tensors if tensor.isVariable]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _is_bounded(graph: Graph, operator: Any, owner: Any) -> bool:
    """Whether the condition compares a counter with a constant, if need be beside others that have to hold as well."""
    condition = graph.model.subgraphs[operator.builtinOptions.condSubgraphIndex]
    body = graph.model.subgraphs[operator.builtinOptions.bodySubgraphIndex]
    results = [int(condition.outputs[0])]
    while results:
        result = results.pop()
        source = next((item for item in condition.operators if result in list(item.outputs)), None)
        if source is None:
            continue
        inputs = [int(index) for index in source.inputs]
        if graph.operator_name(source) == "LOGICAL_AND":
            results += inputs
        elif graph.operator_name(source) in _BOUNDS:
            fixed = [_is_fixed(graph, index, condition, body, operator, owner) for index in inputs]
            if fixed.count(True) == 1:
                return True
    return False


def _is_fixed(graph: Graph, index: int, condition: Any, body: Any, operator: Any, owner: Any) -> bool:
    """Whether a tensor of a condition is constant: in itself, or because the loop hands a constant through."""
    if _has_values(graph, condition.tensors[index]):
        return True
    handed = [place for place, name in enumerate(condition.inputs) if int(name) == index]
    through = [place for place in handed if int(body.outputs[place]) == int(body.inputs[place])]
    return any(_has_values(graph, owner.tensors[operator.inputs[place]]) for place in through)


def _has_values(graph: Graph, tensor: Any) -> bool:
    data = graph.model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0
