"""Layers over windows that TFLite has in part: for pictures and not for volumes (batch, depth, height, width,
channels), or without the gaps of a dilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def _pooled(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """Pooling over height and width, then over depth; means leave out padding, and so do those of means."""
    import tensorflow as tf

    del values
    size, strides = (list(node.attr[name].list.i)[1:4] for name in ("ksize", "strides"))
    padding = _setting(node, "padding")
    pool = tf.nn.max_pool2d if node.op == "MaxPool3D" else tf.nn.avg_pool2d
    batch, depth, height, width, channels = shapes[0]

    def apply(volume: Any) -> Any:
        slices = tf.reshape(volume, (batch * depth, height, width, channels))
        slices = pool(slices, size[1:], strides[1:], padding)
        _, rows, columns, _ = slices.shape
        columns_of_depth = tf.reshape(slices, (batch, depth, rows * columns, channels))
        pooled = pool(columns_of_depth, (size[0], 1), (strides[0], 1), padding)
        return tf.reshape(pooled, (batch, -1, rows, columns, channels))

    return apply


def _grouped(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """A convolution in groups: each by itself."""
    import tensorflow as tf

    del values
    if shapes[1] is None or shapes[0][-1] is None:
        return None
    groups = shapes[0][-1] // shapes[1][-2]
    if groups == 1:
        return None
    strides, padding = list(node.attr["strides"].list.i), _setting(node, "padding")

    def apply(volume: Any, kernel: Any) -> Any:
        parts = zip(tf.split(volume, groups, -1), tf.split(kernel, groups, -1), strict=True)
        return tf.concat([tf.nn.conv3d(part, weights, strides, padding) for part, weights in parts], -1)

    return apply


def _to_batch(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """``SpaceToBatchND`` of three sizes, as a dilated convolution of volumes is made: one after the other."""
    import tensorflow as tf

    del node
    blocks, paddings = values[1:]
    if blocks is None or paddings is None or len(blocks) < 3:
        return None
    around = [(0, 0), *(tuple(ends) for ends in paddings), *[(0, 0)] * (len(shapes[0]) - 1 - len(blocks))]

    def apply(volume: Any, *_: Any) -> Any:
        volume = tf.pad(volume, around)
        for axis in reversed(range(len(blocks))):
            before = [slice(None)] * (axis + 1)
            step = int(blocks[axis])
            parts = [(*before, slice(first, None, step)) for first in range(step)]
            volume = tf.concat([volume[part] for part in parts], 0)
        return volume

    return apply


def _from_batch(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """``BatchToSpaceND`` of three sizes."""
    import tensorflow as tf

    del node
    blocks, crops = values[1:]
    if blocks is None or crops is None or len(blocks) < 3:
        return None
    rest = len(shapes[0]) - 1 - len(blocks)

    def apply(volume: Any, *_: Any) -> Any:
        for axis, block in enumerate(blocks):
            parts = tf.split(volume, int(block), 0)
            shape = list(parts[0].shape)
            shape[axis + 1] *= int(block)
            volume = tf.reshape(tf.stack(parts, axis + 2), shape)
        sizes = zip(crops, volume.shape[1:], strict=False)
        inside = [slice(int(first), int(size - last)) for (first, last), size in sizes]
        within = (slice(None), *inside, *[slice(None)] * rest)
        return volume[within]

    return apply


def is_dilated(node: Any) -> bool:
    """Whether an operator leaves gaps between the values that its window takes."""
    return "dilations" in node.attr and any(rate != 1 for rate in node.attr["dilations"].list.i)


def _transposed(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """A dilated transposed convolution: one by weights with zeros in the gaps."""
    import tensorflow as tf

    if not is_dilated(node) or shapes[1] is None or None in shapes[1]:
        return None
    rates = [int(rate) for rate in node.attr["dilations"].list.i[1:3]]
    height, width, *channels = shapes[1]
    sizes = [(length - 1) * rate + 1 for length, rate in zip((height, width), rates, strict=True)]
    plain = type(node)()
    plain.CopyFrom(node)
    plain.attr["dilations"].list.i[:] = [1, 1, 1, 1]
    known = None
    if values[1] is not None:
        # Weights of a layer, not something to be computed before each run of it.
        known = np.zeros((*sizes, *channels), np.float32)
        known[:: rates[0], :: rates[1]] = values[1]

    def spread(weights: Any) -> Any:
        wide = tf.reshape(weights, (height, 1, width, 1, *channels))
        wide = tf.pad(wide, [(0, 0), (0, rates[0] - 1), (0, 0), (0, rates[1] - 1), (0, 0), (0, 0)])
        wide = tf.reshape(wide, (height * rates[0], width * rates[1], *channels))
        return wide[: sizes[0], : sizes[1]]

    def apply(size: Any, weights: Any, data: Any) -> Any:
        return as_it_is(plain)(size, spread(weights) if known is None else tf.constant(known), data)

    return apply


def as_it_is(node: Any) -> Callable[..., Any]:
    """An operator as a function of its inputs, with the settings of a node."""
    import tensorflow as tf
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(node.op)
    names = [argument.name for argument in definition.input_arg]
    settings = {}
    for attribute in definition.attr:
        if attribute.name not in node.attr:
            continue
        value, kind = node.attr[attribute.name], attribute.type
        if kind == "list(int)":
            settings[attribute.name] = list(value.list.i)
        elif kind == "string":
            settings[attribute.name] = value.s.decode()
        elif kind == "int":
            settings[attribute.name] = value.i

    def apply(*inputs: Any) -> Any:
        return getattr(tf.raw_ops, node.op)(**dict(zip(names, inputs, strict=True)), **settings)

    return apply


def _setting(node: Any, name: str) -> str:
    return str(node.attr[name].s.decode())


SPELLED: dict[str, Callable[..., Any]] = {
    "AvgPool3D": _pooled,
    "BatchToSpaceND": _from_batch,
    "Conv2DBackpropInput": _transposed,
    "Conv3D": _grouped,
    "MaxPool3D": _pooled,
    "SpaceToBatchND": _to_batch,
}
