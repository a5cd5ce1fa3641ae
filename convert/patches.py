"""Convolutions as products of matrices: weights times the patches of the input, one for each place of the output."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .linear_layers import LinearLayer

MOST_PLACES = 64
"""Places of one image's output that are looked at: neighbouring patches are nearly the same."""


def weight_matrices(layer: LinearLayer, weights: NDArray[Any]) -> NDArray[Any]:
    """A layer's weights as (groups, outputs, inputs): one group, or one for each channel of a depthwise convolution."""
    if layer.kind == "DEPTHWISE_CONV_2D":
        return weights.reshape(-1, weights.shape[-1]).T[:, None, :]
    return weights.reshape(1, weights.shape[0], -1)


def stored_weights(layer: LinearLayer, matrices: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of :func:`weight_matrices`; ``shape`` is that of the stored weights."""
    if layer.kind == "DEPTHWISE_CONV_2D":
        return matrices[:, 0, :].T.reshape(shape)
    return matrices.reshape(shape)


def input_rows(layer: LinearLayer, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """What a layer multiplies its weights with, at :data:`MOST_PLACES` places of its output at most.

    Args:
        layer: the layer.
        values: its input for one image, in real numbers.
        shape: of its stored weights.

    Returns:
        (groups, places, inputs), to be multiplied with :func:`weight_matrices`; None for grouped convolutions and for
        depthwise ones with a multiplier.
    """
    if layer.kind == "FULLY_CONNECTED":
        rows = values.reshape(-1, shape[1])
        return rows[_some(len(rows))][None]
    if values.shape[-1] != shape[-1]:
        return None
    found = patches(values, (shape[1], shape[2]), layer.options)
    # Only these are copied: all patches together are as many times the input's size as the kernel has places.
    rows = found[np.unravel_index(_some(found.shape[0] * found.shape[1]), found.shape[:2])]
    if layer.kind == "CONV_2D":
        return rows.reshape(1, len(rows), -1)
    return rows.reshape(len(rows), -1, shape[-1]).transpose(2, 0, 1)


def patches(values: NDArray[Any], kernel: tuple[int, int], options: Any) -> NDArray[Any]:
    """The patches of one image.

    Args:
        values: a convolution's input, (1, H, W, C), in real numbers: padding is zero.
        kernel: height and width of the convolution's kernel.
        options: the operator's ``Conv2DOptionsT`` or ``DepthwiseConv2DOptionsT``: strides, dilation, padding.

    Returns:
        (rows of the output, columns of the output, kernel height, kernel width, C), a view if nothing is padded.
    """
    strides = (options.strideH, options.strideW)
    dilations = (options.dilationHFactor, options.dilationWFactor)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if options.padding == schema.Padding.SAME:
        margins = []
        for size, stride, length in zip(values.shape[1:3], strides, reach, strict=True):
            missing = max((-(-size // stride) - 1) * stride + length - size, 0)
            # TensorFlow puts the odd one behind.
            margins.append((missing // 2, missing - missing // 2))
        values = np.pad(values, ((0, 0), *margins, (0, 0)))
    windows = sliding_window_view(values[0], tuple(reach), axis=(0, 1))  # type: ignore[call-overload]  # two axes
    chosen = windows[:: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    found: NDArray[Any] = chosen.transpose(0, 1, 3, 4, 2)
    return found


def _some(count: int) -> NDArray[np.intp]:
    """The places that are looked at, of ``count``: always the same, and in no step with rows or columns."""
    return np.sort(np.random.default_rng(count).permutation(count)[:MOST_PLACES])
