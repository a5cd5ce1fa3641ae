"""By how much an equalized graph's activations are larger than the float graph's, channel by channel.

Equalization divides output channel c of a convolution by s_c and multiplies input channel c of the next one by it
(embedlite.convert.quantize.equalize), so the activation between them is held in another scale, g_c = 1 / s_c. The gains
are read off the weights, which no activation range touches: a fault in a range must not be taken for a gain. With W the
float graph's weights, w the candidate's, i and o the channels of input and output, every convolution says::

    w[o, i] g[i] = g[o] W[o, i]        g = 1 for an activation that is not such a one in between

That is solved by least squares twice: forwards, where the gain of the input is known, and backwards, where that of the
output is. Each solution has a variance, from what it leaves unexplained and from the gains it was based on, and the two
are averaged with its inverse as weight. A convolution whose weights are damaged spoils the forward solution after it
and the backward one before it, so that a sound one is left on either side. Weights of 8 bits tell a gain to about a
thousandth; an error of that size is counted at the wrong one of two neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.model.flatbuffer import ModelInfo, TensorInfo
from ...runtime.model.tensor_match import Match

# Axis of the output channels in a convolution's weights; the input channels are the last axis of both.
OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}

_SAME_SCALE = 0.02
"""Gains closer to one than this are rounding."""

_FIRM = 1e-4
"""Largest relative variance of a gain that shows a tensor to be rescaled."""

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Convolution:
    """Weights of both graphs, (outputs, inputs, places); a depthwise one has one input to each output."""

    source: int
    result: int
    depthwise: bool
    stored: _Array
    true: _Array


@dataclass(frozen=True)
class _Estimate:
    """Gains and their relative variances, (channels,)."""

    gain: _Array
    variance: _Array


def channel_gains(
    candidate: ModelInfo,
    reference: ModelInfo,
    match: Match,
    constant: Callable[[int], NDArray[Any]],
    float_constant: Callable[[int], NDArray[Any]],
) -> dict[int, _Array]:
    """The gains of every activation of the candidate that is rescaled.

    Args:
        candidate: the quantized graph.
        reference: the float graph.
        match: of the two.
        constant: the stored values of the candidate's constant with an index.
        float_constant: of the reference's.

    Returns:
        (C,) float64 by index of the activation.
    """
    between = _between_convolutions(candidate)
    convolutions = list(_convolutions(candidate, reference, match, constant, float_constant))
    forwards: dict[int, _Estimate] = {}
    for item in convolutions:
        if item.result in between:
            forwards[item.result] = _forwards(item, forwards.get(item.source))
    backwards: dict[int, _Estimate] = {}
    for item in reversed(convolutions):
        if item.source in between:
            backwards[item.source] = _backwards(item, backwards.get(item.result))
    gains = {}
    for index in forwards.keys() & backwards.keys():
        mean = _average(forwards[index], backwards[index])
        firm = mean.variance < _FIRM
        if (np.abs(mean.gain - 1)[firm] > _SAME_SCALE).any():
            gains[index] = mean.gain
    return gains


def _between_convolutions(info: ModelInfo) -> set[int]:
    """Activations that one convolution writes and one convolution, and nothing else, reads."""
    readers: dict[int, list[str]] = {}
    for operator, (reads, _) in zip(info.operators, info.wiring.operators, strict=True):
        for index in reads:
            readers.setdefault(index, []).append(operator.name)
    written = [
        writes[0]
        for operator, (_, writes) in zip(info.operators, info.wiring.operators, strict=True)
        if operator.name in OUTPUT_AXIS
    ]
    single = {index for index in written if len(readers.get(index, [])) == 1 and readers[index][0] in OUTPUT_AXIS}
    return single - set(info.wiring.outputs)


def _convolutions(
    candidate: ModelInfo,
    reference: ModelInfo,
    match: Match,
    constant: Callable[[int], NDArray[Any]],
    float_constant: Callable[[int], NDArray[Any]],
) -> list[_Convolution]:
    found = []
    for place, other in match.operators.items():
        kind, (reads, writes) = candidate.operators[place].name, candidate.wiring.operators[place]
        # Weights that are unpacked in the graph are float16, and those files are never equalized.
        if kind not in OUTPUT_AXIS or not candidate.tensors[reads[1]].constant:
            continue
        stored = dequantized(candidate.tensors[reads[1]], constant(reads[1]), OUTPUT_AXIS[kind])
        true = float_constant(reference.wiring.operators[other][0][1]).astype(np.float64)
        inputs = candidate.tensors[reads[0]].shape[-1]
        depthwise = kind != "CONV_2D"
        # Grouped convolutions, and depthwise ones with a multiplier, are never equalized.
        if stored.shape == true.shape and stored.shape[-1] == inputs:
            found.append(_Convolution(reads[0], writes[0], depthwise, *(_rows(w, depthwise) for w in (stored, true))))
    return found


def _rows(weights: _Array, depthwise: bool) -> _Array:
    if depthwise:
        return weights.reshape(-1, weights.shape[-1]).T[:, None, :]
    return weights.reshape(weights.shape[0], -1, weights.shape[-1]).transpose(0, 2, 1)


def _forwards(item: _Convolution, source: _Estimate | None) -> _Estimate:
    true, variance = item.true, np.zeros(1)
    if source is not None:
        true = true / (source.gain[:, None, None] if item.depthwise else source.gain[None, :, None])
        variance = source.variance if item.depthwise else source.variance.mean(keepdims=True)
    fitted = _fit(item.stored, true, np.ones((len(true), 1, 1)), axes=(1, 2))
    return _Estimate(fitted.gain, fitted.variance + variance)


def _backwards(item: _Convolution, result: _Estimate | None) -> _Estimate:
    stored, variance = item.stored, np.zeros(1)
    if result is not None:
        stored = stored / result.gain[:, None, None]
        variance = result.variance if item.depthwise else result.variance.mean(keepdims=True)
    # Rows are rounded in steps of their own, so each counts by its own size.
    power = np.square(stored).mean(axis=(1, 2), keepdims=True)
    weight = np.divide(1.0, power, out=np.zeros_like(power), where=power > 0)
    fitted = _fit(stored, item.true, weight, axes=(1, 2) if item.depthwise else (0, 2))
    return _Estimate(1 / fitted.gain, fitted.variance + variance)


def _fit(stored: _Array, true: _Array, weight: _Array, axes: tuple[int, int]) -> _Estimate:
    """The factor from ``true`` to ``stored`` for each place along the remaining axis, by weighted least squares."""
    power = (weight * true * true).sum(axis=axes, keepdims=True)
    factor = np.divide((weight * stored * true).sum(axis=axes, keepdims=True), power, where=power > 0, out=power * 0)
    rest = (weight * np.square(stored - factor * true)).sum(axis=axes)
    freedom = max(1, int(np.prod([stored.shape[axis] for axis in axes])) - 1)
    factor, power = factor.ravel(), power.ravel()
    known = factor > 0
    variance = np.full(factor.shape, np.inf)
    variance[known] = rest[known] / freedom / power[known] / np.square(factor[known])
    return _Estimate(np.where(known, factor, 1.0), variance)


def _average(one: _Estimate, other: _Estimate) -> _Estimate:
    precisions = [1 / (estimate.variance + 1e-12) for estimate in (one, other)]
    total = precisions[0] + precisions[1]
    weighted = one.gain * precisions[0] + other.gain * precisions[1]
    gain = np.divide(weighted, total, out=np.ones_like(weighted), where=total > 0)
    return _Estimate(gain, np.divide(1.0, total, out=np.full_like(total, np.inf), where=total > 0))


def dequantized(tensor: TensorInfo, values: NDArray[Any], axis: int) -> _Array:
    """Weights as real numbers, from one scale or from one for each place along ``axis``."""
    if not tensor.scale:
        return values.astype(np.float64)
    shape = [1] * values.ndim
    shape[axis] = -1 if len(tensor.scale) > 1 else 1
    scale, zero = (np.reshape(np.asarray(part, np.float64), shape) for part in (tensor.scale, tensor.zero_point))
    return (values.astype(np.float64) - zero) * scale
