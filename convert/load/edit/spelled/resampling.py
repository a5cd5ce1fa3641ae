"""Resizing by other filters than bilinear to a known size: rows and columns are multiplied by TensorFlow's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _resized(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """``ResizeBicubic`` and ``ResizeArea`` (images, size), ``ScaleAndTranslate`` (images, size, scale, translation)."""
    import tensorflow as tf

    if len(shapes[0]) != 4 or any(value is None for value in values[1:]):
        return None
    weights = [_weights(node, shapes[0], axis, values[1:]) for axis in (0, 1)]
    height, width = weights[0].shape[0], weights[1].shape[0]
    batch, rows, columns, channels = shapes[0]

    def apply(images: Any, *_: Any) -> Any:
        # As layers with weights, which quantizers know; of a product with the weights on the left they make nothing.
        lines = tf.transpose(tf.cast(images, tf.float32), (0, 1, 3, 2))
        lines = tf.matmul(tf.reshape(lines, (-1, columns)), weights[1].T)
        lines = tf.transpose(tf.reshape(lines, (batch, rows, channels, width)), (0, 3, 2, 1))
        lines = tf.matmul(tf.reshape(lines, (-1, rows)), weights[0].T)
        return tf.transpose(tf.reshape(lines, (batch, width, channels, height)), (0, 3, 1, 2))

    return apply


def _weights(node: Any, shape: Sequence[int], axis: int, values: Sequence[Any]) -> NDArray[np.float32]:
    """What each row (or column) of the result takes of each of the image's: the operator, run on one at a time."""
    import tensorflow as tf

    length = shape[1 + axis]
    lines = np.eye(length, dtype=np.float32).reshape((length, length, 1, 1) if axis == 0 else (length, 1, length, 1))
    size = np.ones(2, np.int32)
    size[axis] = values[0][axis]
    numbers: list[NDArray[Any]] = [size]
    for value, neutral in zip(values[1:], (1.0, 0.0), strict=False):
        one = np.full(2, neutral, np.float32)
        one[axis] = value[axis]
        numbers.append(one)
    settings = {name: _setting(node, name) for name in _SETTINGS[node.op]}
    with tf.init_scope():  # the model is being traced, and this is to be computed now
        resized = getattr(tf.raw_ops, node.op)(**dict(zip(_NAMES[node.op], [lines, *numbers], strict=True)), **settings)
        return np.ascontiguousarray(np.asarray(resized).reshape(length, -1).T)


def _setting(node: Any, name: str) -> Any:
    value = node.attr[name]
    return value.s.decode() if value.WhichOneof("value") == "s" else value.b


_NAMES = {
    "ResizeArea": ("images", "size"),
    "ResizeBicubic": ("images", "size"),
    "ScaleAndTranslate": ("images", "size", "scale", "translation"),
}
_SETTINGS = {
    "ResizeArea": ("align_corners",),
    "ResizeBicubic": ("align_corners", "half_pixel_centers"),
    "ScaleAndTranslate": ("kernel_type", "antialias"),
}


def _patches(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """``ExtractImagePatches``: a convolution of which each output takes one value."""
    import tensorflow as tf

    del values
    height, width = (int(size) for size in node.attr["ksizes"].list.i[1:3])
    channels = shapes[0][-1]
    count = height * width * channels
    kernel = np.eye(count, dtype=np.float32).reshape(height, width, channels, count)
    strides, rates = (list(node.attr[name].list.i) for name in ("strides", "rates"))
    padding = node.attr["padding"].s.decode()
    return lambda images: tf.nn.conv2d(images, kernel, strides, padding, dilations=rates)


SPELLED: dict[str, Callable[..., Any]] = {
    "ExtractImagePatches": _patches,
    "ResizeArea": _resized,
    "ResizeBicubic": _resized,
    "ScaleAndTranslate": _resized,
}
