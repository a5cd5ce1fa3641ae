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
from .spelled import arithmetic, fourier, layouts, resampling, windows

_ELEMENTWISE: dict[str, Callable[..., Any]] = arithmetic.SPELLED
"""By operator: a function of its inputs, whatever their shapes."""

_SHAPED: dict[str, Callable[..., Any]] = {
    **arithmetic.SPELLED_BY_VALUE,
    **resampling.SPELLED,
    **layouts.SPELLED,
}
"""By operator: a function of its node and its inputs, with their shapes and what is known of their values; it returns a
function of the inputs, or None if it cannot tell."""

_ONLY: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(set(layouts.SPELLED) - set(windows.SPELLED), layouts.is_channels_first),
    "Conv2DBackpropInput": lambda node: layouts.is_channels_first(node) or windows.is_dilated(node),
    **dict.fromkeys(("MatMul", "BatchMatMulV2", "BatchMatMulV3"), arithmetic.has_bytes),
}
"""By operator that TFLite has, or its converter: whether this one needs to be spelled all the same."""

_OPEN = ("Conv3D",)
"""What can be spelled for an open batch as well."""

_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
"""What they give does not depend on values."""

_APART = ("_noinline", "_XlaMustCompile")
"""Marks of functions that freezing leaves where they are; Keras has some layers compiled by XLA."""

_MOST_OPERATIONS = 50
"""A size, a scale and the like are computed of a few."""


def spell_out(frozen: Any) -> Any:
    """A frozen function without the operators that can be spelled in others; the same where it has none."""
    import tensorflow as tf

    frozen = _inlined(frozen)
    graph = frozen.graph.as_graph_def()
    graphs = _graphs(frozen.graph, graph)
    changed = False
    for place, nodes in enumerate(list(scopes(graph))):  # it grows
        renamed = []
        name = None if place == 0 else graph.library.function[place - 1].signature.name
        known = frozen.graph if name is None else graphs.get(name)
        sources = {node.name: list(node.input) for node in nodes if node.op == fourier.TRANSFORM}
        for node in nodes:
            tensors = None if known is None or not _is_shaped(node) else _inputs(known, node)
            if tensors and node.op in fourier.PARTS and tensors[0].op.type == fourier.TRANSFORM:
                transform = tensors[0].op
                tensors = list(transform.inputs)
                function = fourier.part(node.op, _shape(tensors[0]), value_of(tensors[1]))
                if function is not None:
                    node.input[:] = sources[transform.name]
            else:
                function = _spelling(node, tensors)
            if function is None:
                continue
            specs = [_spec(tensor) for tensor in tensors] if _is_shaped(node) and tensors else _open_specs(node)
            _call(graph, node, tf.function(function, autograph=False).get_concrete_function(*specs))
            renamed.append(node.name)
        changed = changed or bool(renamed)
        if name is not None and renamed:
            # In a function a result goes by its operator's own name for it.
            _rename(graph.library.function[place - 1], set(renamed))
    return as_function(graph, frozen) if changed else frozen


def _inlined(frozen: Any) -> Any:
    """A frozen function with the bodies in place that are compiled apart, of whose results no shape is known."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = frozen.graph.as_graph_def()
    called = {item.signature.name: item for item in graph.library.function if any(mark in item.attr for mark in _APART)}
    calls = [node for node in graph.node if node.op in CALLS and node.attr["f"].func.name in called]
    if not calls:
        return frozen
    for item in (*calls, *called.values()):
        for mark in _APART:
            item.attr.pop(mark, None)
    return convert_variables_to_constants_v2(as_function(graph, frozen), lower_control_flow=False)


def _spelling(node: Any, tensors: list[Any] | None) -> Callable[..., Any] | None:
    if node.op in _ELEMENTWISE:
        return _ELEMENTWISE[node.op]
    if node.op not in _SHAPED or not tensors:
        return None
    shapes = [_shape(tensor) for tensor in tensors]
    if shapes[0] is None or (None in shapes[0] and node.op not in _OPEN):
        return None
    found: Callable[..., Any] | None = _SHAPED[node.op](node, shapes, [value_of(tensor) for tensor in tensors])
    return found


def _is_shaped(node: Any) -> bool:
    """Whether shapes and values decide what is to be done about a node."""
    return node.op in fourier.PARTS or (node.op in _SHAPED and (node.op not in _ONLY or _ONLY[node.op](node)))


def _shape(tensor: Any) -> tuple[int | None, ...] | None:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def _graphs(graph: Any, definition: Any) -> dict[str, Any]:
    """By name: the functions that a graph calls, as graphs by themselves, with the shapes that they are called with."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    functions = {item.signature.name: item for item in definition.library.function}
    if not any(_is_shaped(node) for item in functions.values() for node in item.node_def):
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
    inputs = [item.outputs[0] for item in tensor.graph.get_operations() if item.type == "Placeholder"]
    if not all(item.shape.is_fully_defined() for item in inputs):
        return None
    with tf.compat.v1.Session(graph=tensor.graph) as session:
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
