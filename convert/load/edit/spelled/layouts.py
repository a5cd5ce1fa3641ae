"""Layers on channels first (batch, channels, height, width), as on channels last.

TFLite has channels last only, and its converter brings just the two-dimensional layers of the plainest kinds there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import windows

_DATA = {
    "AvgPool": 0,
    "AvgPool3D": 0,
    "Conv2D": 0,
    "Conv2DBackpropInput": 2,
    "Conv3D": 0,
    "Conv3DBackpropInputV2": 2,
    "DepthToSpace": 0,
    "DepthwiseConv2dNative": 0,
    "MaxPool": 0,
    "MaxPool3D": 0,
    "SpaceToDepth": 0,
}
"""Which input of an operator has channels; the first of those that undo a convolution is the sizes of their result."""

_PER_AXIS = ("strides", "dilations", "ksize")


def is_channels_first(node: Any) -> bool:
    """Whether an operator is told that its channels come first."""
    return "data_format" in node.attr and bool(node.attr["data_format"].s.startswith(b"NC"))


def _channels_last(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """An operator with channels last between two transpositions, spelled in others if it has to be then."""
    import tensorflow as tf

    if not is_channels_first(node):
        spelled = windows.SPELLED.get(node.op)
        return None if spelled is None else spelled(node, shapes, values)
    place = _DATA[node.op]
    if shapes[place] is None:
        return None
    rank = len(shapes[place])
    last, first = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    moved = _moved(node, last)
    there = [list(shape) if shape is not None else None for shape in shapes]
    there[place] = [shapes[place][axis] for axis in last]
    known = [value if n or not place or value is None else value[last] for n, value in enumerate(values)]
    spelled = windows.SPELLED.get(node.op)
    apply = (None if spelled is None else spelled(moved, there, known)) or windows.as_it_is(moved)

    def around(*inputs: Any) -> Any:
        given = [tf.transpose(item, last) if n == place else item for n, item in enumerate(inputs)]
        if place:
            given[0] = tf.gather(given[0], last) if known[0] is None else tf.constant(known[0])
        return _channels_first(apply(*given), first)

    return around


def _channels_first(data: Any, order: Sequence[int]) -> Any:
    """A result with its channels first; one of a single row, as of one-dimensional layers, without it in between.

    The converter joins that transposition with the one before or after it, whatever axis was dropped there.
    """
    import tensorflow as tf

    shape = data.shape.as_list()
    if len(shape) != 4 or 1 not in shape[1:3] or None in shape:
        return tf.transpose(data, order)
    rows = tf.transpose(tf.reshape(data, (shape[0], -1, shape[3])), (0, 2, 1))
    return tf.reshape(rows, [shape[axis] for axis in order])


def _moved(node: Any, last: Sequence[int]) -> Any:
    """The same operator with its channels last."""
    moved = type(node)()
    moved.CopyFrom(node)
    moved.attr["data_format"].s = b"NHWC" if len(last) == 4 else b"NDHWC"
    for name in _PER_AXIS:
        numbers = list(node.attr[name].list.i) if name in node.attr else []
        if numbers:
            moved.attr[name].list.i[:] = [numbers[axis] for axis in last]
    ends = list(node.attr["explicit_paddings"].list.i) if "explicit_paddings" in node.attr else []
    if ends:
        moved.attr["explicit_paddings"].list.i[:] = [ends[2 * axis + end] for axis in last for end in (0, 1)]
    return moved


def _added(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """``BiasAdd`` to the second of any number of axes."""
    import tensorflow as tf

    del values
    if not is_channels_first(node):
        return None
    shape = (-1, *[1] * (len(shapes[0]) - 2))
    return lambda data, bias: data + tf.reshape(bias, shape)


SPELLED: dict[str, Callable[..., Any]] = {
    **windows.SPELLED,
    **dict.fromkeys(_DATA, _channels_last),
    "BiasAdd": _added,
}
