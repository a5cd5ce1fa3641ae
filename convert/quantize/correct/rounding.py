"""Weight rounding with error feedback (GPTQ): which of the two nearest steps each weight takes, chosen for the outputs.

Rounding each weight to the nearest step makes the least error in the *weights*. What counts is the error of what the
layer answers, and there the errors of several weights can cancel: inputs of a layer go together. So the weights of an
output channel are rounded one after the other, those of the strongest inputs first, and each error is spread over the
weights that are not rounded yet, as the inputs' second moments H = X'X say it is cancelled best. Step sizes stay, and
so do size and time of the file. X is what the quantized graph gives the layer, its own earlier layers already rounded.

Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, 2022
(arXiv:2210.17323), after Hassibi and Stork, Optimal Brain Surgeon, 1993.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....runtime.progress import progress
from .linear_layer import LinearLayer
from .paired_graph import PairedGraph, input_rows, stored_weights, weight_matrices

LARGEST = 127
"""8-bit weights are symmetric: from -127 to 127 steps."""

MOST_INPUTS = 2304
"""Layers with more inputs to each output stay as they are: the time grows with the third power, to seconds each."""

_DAMPING = 0.01
"""Added to H's diagonal, as a share of its mean, as in the paper: weights of inputs that hardly occur stay near."""

_BLOCK = 64
"""Weights whose errors are handed on together; a matter of speed alone."""

_ROWS, _BLOCK_BYTES = 4096, 8 << 20
"""Rows of X that are multiplied at a time, in single precision, and added up in double."""

_Array = NDArray[np.float64]


def round_weights(graph: PairedGraph) -> None:
    """Round the weights of every layer again; see the module's text.

    Args:
        graph: the quantized graph, which is changed, and the images.
    """
    for layer in progress(graph.layers, len(graph.layers), "rounding weights"):
        weights = graph.float_constant(layer.float_tensors[1])
        moments = input_moments(graph, layer, weights.shape)
        if moments is None:
            continue
        matrices = weight_matrices(layer, weights)
        groups, outputs, _ = matrices.shape
        scales = graph.scales(layer.tensors[1], groups * outputs).reshape(groups, outputs)
        rounded = round_groups(matrices, moments, scales)
        graph.replace(layer.tensors[1], stored_weights(layer, rounded, weights.shape))


def input_moments(graph: PairedGraph, layer: LinearLayer, shape: tuple[int, ...]) -> _Array | None:
    """Second moments of what a layer multiplies its weights with, (groups, inputs, inputs); None where unknown.

    Args:
        graph: whose quantized half gives the inputs.
        layer: the layer.
        shape: of its stored weights.
    """
    inputs = int(np.prod(shape[1:-1] if layer.kind == "DEPTHWISE_CONV_2D" else shape[1:], dtype=np.int64))
    if inputs > MOST_INPUTS:
        return None
    found = [item for item in graph.inputs(layer, lambda values: input_rows(layer, values, shape)) if item is not None]
    if not found:
        return None
    moments = np.zeros((len(found[0]), inputs, inputs))
    for part in _in_blocks(found):
        moments += part.transpose(0, 2, 1) @ part
    return moments


def _in_blocks(found: list[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
    """Many rows of each group at a time: (groups, rows, inputs); ``found`` is emptied."""
    groups, _, inputs = found[0].shape
    most = _ROWS if groups == 1 else max(_BLOCK, _BLOCK_BYTES // (4 * groups * inputs))
    left = sum(item.shape[1] for item in found)
    found.reverse()
    while left:
        # Copied: a depthwise layer's rows lie channel beside channel, and a product of such is fifty times slower.
        block = np.empty((groups, min(most, left), inputs), np.float32)
        filled = 0
        while filled < block.shape[1]:
            item = found.pop()
            taken = item[:, : block.shape[1] - filled]
            block[:, filled : filled + taken.shape[1]] = taken
            filled += taken.shape[1]
            if taken.shape[1] < item.shape[1]:
                found.append(item[:, taken.shape[1] :])
        left -= filled
        yield block


def round_groups(matrices: _Array, moments: _Array, scales: _Array) -> _Array:
    """:func:`round_with_feedback` of each group; the channels of a depthwise convolution at once, not one by one."""
    groups, _, inputs = matrices.shape
    used = (np.einsum("gii->gi", moments) > 0).all(axis=1)
    result = np.empty_like(matrices)
    together = used if groups > 1 and inputs <= _BLOCK else np.zeros(groups, bool)
    for group in np.flatnonzero(~together):
        result[group] = round_with_feedback(matrices[group], moments[group], scales[group])
    if together.any():
        result[together] = _round_alike(matrices[together], moments[together], scales[together])
    return result


def _round_alike(weights: _Array, moments: _Array, scales: _Array) -> _Array:
    """:func:`round_with_feedback` of groups that use all their inputs, few of them: (groups, outputs, inputs)."""
    order = np.argsort(-np.einsum("gii->gi", moments), axis=1, kind="stable")
    rest = np.take_along_axis(weights, order[:, None, :], axis=2)
    hessian = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], axis=1), order[:, None, :], axis=2)
    diagonal = np.einsum("gii->gi", hessian)
    diagonal += _DAMPING * diagonal.mean(axis=1, keepdims=True)
    factor = _small_factors(hessian)
    result = np.empty_like(weights)
    for place in range(weights.shape[2]):
        rounded = np.clip(np.rint(rest[:, :, place] / scales), -LARGEST, LARGEST)
        errors = (rest[:, :, place] - rounded * scales) / factor[:, None, place, place]
        rest[:, :, place:] -= errors[:, :, None] * factor[:, None, place, place:]
        np.put_along_axis(result, order[:, None, place, None].repeat(result.shape[1], 1), rounded[:, :, None], axis=2)
    return result


def _small_factors(hessians: _Array) -> _Array:
    """The upper Cholesky factor of the inverse of each of many small matrices, (groups, inputs, inputs).

    It is the inverse of the factor of the matrix itself, begun at the far end. LAPACK's inverse of a thousand matrices
    of nine rows takes a second where its threads wait for each other on a busy machine, this six milliseconds.
    """
    upper = np.linalg.cholesky(hessians[:, ::-1, ::-1])[:, ::-1, ::-1]
    inverse = np.zeros_like(upper)
    for row in reversed(range(upper.shape[1])):
        inverse[:, row, row] = 1
        inverse[:, row] -= (upper[:, row, row + 1 :, None] * inverse[:, row + 1 :]).sum(axis=1)
        inverse[:, row] /= upper[:, row, row, None]
    return inverse


def round_with_feedback(weights: _Array, moments: _Array, scales: _Array) -> _Array:
    """Whole numbers for weights in steps of ``scales``, with little error of the outputs.

    Args:
        weights: (outputs, inputs).
        moments: H = X'X of the inputs, (inputs, inputs).
        scales: step size of each output's weights, (outputs,).

    Returns:
        (outputs, inputs), whole numbers from -127 to 127.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    order = order[np.diag(moments)[order] > 0]
    # A weight whose input these images never use is rounded by itself.
    result = np.clip(np.rint(weights / scales[:, None]), -LARGEST, LARGEST)
    if not len(order):
        return result
    rest, hessian = weights[:, order].copy(), moments[np.ix_(order, order)].copy()
    diagonal = np.einsum("ii->i", hessian)
    diagonal += _DAMPING * diagonal.mean()
    # The upper Cholesky factor of the inverse holds, row by row, what the paper updates column by column.
    if len(order) <= _BLOCK:
        (factor,) = _small_factors(hessian[None])
    else:
        factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    for first in range(0, len(order), _BLOCK):
        last = min(first + _BLOCK, len(order))
        errors = np.empty((len(rest), last - first))
        for place in range(first, last):
            rounded = np.clip(np.rint(rest[:, place] / scales), -LARGEST, LARGEST)
            errors[:, place - first] = error = (rest[:, place] - rounded * scales) / factor[place, place]
            rest[:, place:last] -= np.outer(error, factor[place, place:last])
            result[:, order[place]] = rounded
        rest[:, last:] -= errors @ factor[first:last, last:]
    return result
