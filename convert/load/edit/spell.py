"""Operators of TensorFlow that TFLite lacks, spelled in those that it has: each becomes a call of a small function.

It works on the frozen graph, so that it does not matter how the model was written or saved. What needs shapes or
constants to be spelled, and has them only at run time or inside a loop, stays, and is told by the converter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..saved_operators import CALLS
from .graph_def import as_function, scopes
from .spelled import arithmetic, resampling, windows

_ELEMENTWISE: dict[str, Callable[..., Any]] = arithmetic.SPELLED
"""By operator: a function of its inputs, whatever their shapes."""

_SHAPED: dict[str, Callable[..., Any]] = {
    **arithmetic.SPELLED_BY_VALUE,
    **resampling.SPELLED,
    **windows.SPELLED,
}
"""By operator: a function of its node and its inputs, with their shapes and what is known of their values; it returns a
function of the inputs, or None if it cannot tell."""

_OPEN = ("Conv3D",)
"""What can be spelled for an open batch as well."""

_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
"""What they give does not depend on values."""

_MOST_OPERATIONS = 50
"""A size, a scale and the like are computed of a few."""


def spell_out(frozen: Any) -> Any:
    """A frozen function without the operators that can be spelled in others; the same where it has none."""
    import tensorflow as tf

    graph = frozen.graph.as_graph_def()
    graphs = _graphs(frozen.graph, graph)
    changed = False
    for place, nodes in enumerate(list(scopes(graph))):  # it grows
        renamed = []
        name = None if place == 0 else graph.library.function[place - 1].signature.name
        known = frozen.graph if name is None else graphs.get(name)
        for node in nodes:
            tensors = None if known is None or node.op not in _SHAPED else _inputs(known, node)
            function = _spelling(node, tensors)
            if function is None:
                continue
            specs = [_spec(tensor) for tensor in tensors] if node.op in _SHAPED and tensors else _open_specs(node)
            _call(graph, node, tf.function(function, autograph=False).get_concrete_function(*specs))
            renamed.append(node.name)
        changed = changed or bool(renamed)
        if name is not None and renamed:
            # In a function a result goes by its operator's own name for it.
            _rename(graph.library.function[place - 1], set(renamed))
    return as_function(graph, frozen) if changed else frozen


def _spelling(node: Any, tensors: list[Any] | None) -> Callable[..., Any] | None:
    if node.op in _ELEMENTWISE:
        return _ELEMENTWISE[node.op]
    if node.op not in _SHAPED or not tensors:
        return None
    shapes = [None if tensor.shape.rank is None else tuple(tensor.shape.as_list()) for tensor in tensors]
    if shapes[0] is None or (None in shapes[0] and node.op not in _OPEN):
        return None
    found: Callable[..., Any] | None = _SHAPED[node.op](node, shapes, [value_of(tensor) for tensor in tensors])
    return found


def _graphs(graph: Any, definition: Any) -> dict[str, Any]:
    """By name: the functions that a graph calls, as graphs by themselves, with the shapes that they are called with."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    functions = {item.signature.name: item for item in definition.library.function}
    if not any(node.op in _SHAPED for item in functions.values() for node in item.node_def):
        return {}
    found: dict[str, Any] = {}
    left = [graph]
    while left:
        for operation in left.pop().get_operations():
            name = str(operation.get_attr("f").name) if operation.type in CALLS else ""
            if name in functions and name not in found:
                shapes = [tensor.shape for tensor in operation.inputs]
                with graph.as_default():  # which has the functions that this one calls
                    found[name] = function_def_to_graph(functions[name], input_shapes=shapes)
                left.append(found[name])
    return found


def _inputs(graph: Any, node: Any) -> list[Any]:
    return list(graph.get_operation_by_name(node.name).inputs)


def value_of(tensor: Any) -> Any:
    """What is known of a tensor beforehand, whatever the input holds; None for nothing."""
    import tensorflow as tf

    known = tf.get_static_value(tensor)
    if known is not None:
        return known
    left, seen = [tensor.op], {tensor.op}
    while left:
        operation = left.pop()
        if operation.type == "Placeholder" or len(seen) > _MOST_OPERATIONS:
            return None
        if operation.type not in _OF_SHAPES:
            sources = {source.op for source in operation.inputs} - seen
            seen |= sources
            left += sources
    with tf.compat.v1.Session(graph=tensor.graph) as session:
        inputs = [item.outputs[0] for item in tensor.graph.get_operations() if item.type == "Placeholder"]
        return session.run(tensor, {item.name: np.zeros(item.shape, np.float32) for item in inputs})


def _spec(tensor: Any) -> Any:
    import tensorflow as tf

    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _open_specs(node: Any) -> list[Any]:
    import tensorflow as tf

    kind = tf.dtypes.as_dtype(node.attr["T"].type)
    return [tf.TensorSpec(None, kind) for name in node.input if not name.startswith("^")]


def _call(graph: Any, node: Any, function: Any) -> None:
    """Make a node a call of a function, which the graph gets as well."""
    definition = graph.library.function.add()
    definition.CopyFrom(function.function_def)
    types = [
        [argument.type for argument in arguments]
        for arguments in (definition.signature.input_arg, definition.signature.output_arg)
    ]
    node.op = "PartitionedCall"
    node.attr.clear()
    for name, numbers in zip(("Tin", "Tout"), types, strict=True):
        node.attr[name].list.type.extend(numbers)
    node.attr["f"].func.name = definition.signature.name


def _rename(function: Any, calls: set[str]) -> None:
    for node in function.node_def:
        for place, name in enumerate(node.input):
            node.input[place] = _result_of(name, calls)
    for key, name in function.ret.items():
        function.ret[key] = _result_of(name, calls)


def _result_of(name: str, calls: set[str]) -> str:
    owner, _, rest = name.partition(":")
    return f"{owner}:output:0" if owner in calls and rest else name
