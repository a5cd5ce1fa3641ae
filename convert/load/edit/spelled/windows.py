"""Layers that TFLite has for pictures and not for volumes (batch, depth, height, width, channels)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def _pooled(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """Pooling over height and width, then over depth; means leave out padding, and so do those of means."""
    import tensorflow as tf

    del values
    if _setting(node, "data_format") not in ("", "NDHWC"):
        return None
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
    if shapes[1] is None or shapes[0][-1] is None or _setting(node, "data_format") not in ("", "NDHWC"):
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


def _setting(node: Any, name: str) -> str:
    return str(node.attr[name].s.decode())


SPELLED: dict[str, Callable[..., Any]] = {
    "AvgPool3D": _pooled,
    "BatchToSpaceND": _from_batch,
    "Conv3D": _grouped,
    "MaxPool3D": _pooled,
    "SpaceToBatchND": _to_batch,
}
