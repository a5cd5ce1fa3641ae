"""By how much an equalized graph's activations are larger than the float graph's, channel by channel.

Equalization divides the channels of a class by s_c in all constants that write them, and multiplies the weights that
read them (embedlite.convert.quantize.equalize), so the activations between are held in another scale, g_c = 1 / s_c.
The gains are read off the weights, which no activation range touches: a fault in a range must not be taken for a gain.
With W the float graph's weights, w the candidate's, i and o the classes of input and output channel, every layer says::

    w[o, i] g[i] = g[o] W[o, i]        g = 1 for the class that nothing scales

That is solved by least squares twice: forwards, where the gain of the input is known, and backwards, where that of the
output is. Each has a variance, from what it leaves unexplained and from the gains it was based on, and all of a
class are averaged with its inverse as weight. A layer whose weights are damaged spoils the forward solution after it
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

OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
"""Of the output channels in a layer's weights."""

_SAME_SCALE = 0.02
"""Gains closer to one than this are rounding."""

_FIRM = 1e-4
"""Largest relative variance of a gain that shows a tensor to be rescaled."""

_Array = NDArray[np.float64]
_Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Gains:
    """The gains of a candidate.

    Attributes:
        tensors: of every activation that is rescaled, (C,) float64 by index in the candidate.
        constants: by what the float graph's constants were multiplied, in a shape that broadcasts to them, by the
            operator's place in the reference and the constant's among its inputs.
    """

    tensors: dict[int, _Array]
    constants: dict[tuple[int, int], _Array]


@dataclass(frozen=True)
class _Layer:
    """Weights of both graphs, and the class of each value's input and output channel, all of one shape."""

    stored: _Array
    true: _Array
    read: _Labels
    written: _Labels


@dataclass(frozen=True)
class _Estimate:
    """Gains and their relative variances, by class."""

    gain: _Array
    variance: _Array


def channel_gains(
    candidate: ModelInfo,
    reference: ModelInfo,
    flatbuffer: bytes,
    match: Match,
    constant: Callable[[int], NDArray[Any]],
) -> Gains:
    """The gains of every activation of the candidate that is rescaled.

    Args:
        candidate: the quantized graph.
        reference: the float graph.
        flatbuffer: of the float graph.
        match: of the two.
        constant: the stored values of the candidate's constant with an index.
    """
    # It reads the schema, which what runs without --layers need not load.
    from ...convert.graph.channels import channels
    from ...convert.graph.graph import Graph

    graph = Graph(flatbuffer)
    found = channels(graph)
    counterparts = {other: place for place, other in match.operators.items()}
    places = {id(operator): place for place, operator in enumerate(graph.operators)}
    layers = []
    for item in found.scaled:
        place = counterparts.get(places[id(item.operator)])
        if item.times is None or place is None:
            continue
        index = candidate.wiring.operators[place][0][item.place]
        # Weights that are unpacked in the graph are float16, and those files are never equalized.
        if not candidate.tensors[index].constant:
            continue
        stored = dequantized(candidate.tensors[index], constant(index), OUTPUT_AXIS[candidate.operators[place].name])
        true = graph.constant(int(item.operator.inputs[item.place]))
        if true is not None and stored.shape == true.shape:
            classes = (np.broadcast_to(labels, true.shape).ravel() for labels in (item.times, item.over))
            layers.append(_Layer(stored.ravel(), true.astype(np.float64).ravel(), *classes))
    gain = _solved(layers, found.count)
    tensors = {
        index: gain.gain[found.labels[other]]
        for index, other in match.tensors.items()
        if other in found.labels and _is_rescaled(gain, found.labels[other])
    }
    constants = {
        (places[id(item.operator)], item.place): gain.gain[item.over]
        / (1 if item.times is None else gain.gain[item.times])
        for item in found.scaled
    }
    return Gains(tensors, constants if tensors else {})


def _is_rescaled(found: _Estimate, labels: _Labels) -> bool:
    firm = found.variance[labels] < _FIRM
    return bool((np.abs(found.gain[labels] - 1)[firm] > _SAME_SCALE).any())


def _solved(layers: list[_Layer], count: int) -> _Estimate:
    forwards, backwards = _unknown(count), _unknown(count)
    for layer in layers:
        true = layer.true / forwards.gain[layer.read]
        known = np.isfinite(forwards.variance[layer.read])
        forwards = _average(forwards, _fit(layer.stored * known, true * known, layer.written, forwards, layer.read))
    for layer in reversed(layers):
        stored = layer.stored / backwards.gain[layer.written]
        known = np.isfinite(backwards.variance[layer.written])
        # Rows are rounded in steps of their own, so each counts by its own size.
        power = _sums(stored * stored, layer.written, count) / np.maximum(_sums(known, layer.written, count), 1)
        weight = np.divide(known, power[layer.written], out=np.zeros_like(stored), where=power[layer.written] > 0)
        root = np.sqrt(weight)
        fitted = _fit(stored * root, layer.true * root, layer.read, backwards, layer.written)
        backwards = _average(backwards, _Estimate(1 / fitted.gain, fitted.variance))
    return _average(forwards, backwards)


def _unknown(count: int) -> _Estimate:
    """Nothing but the class that is not scaled."""
    variance = np.full(count, np.inf)
    variance[0] = 0
    return _Estimate(np.ones(count), variance)


def _sums(values: NDArray[Any], labels: _Labels, count: int) -> _Array:
    return np.bincount(labels, values, count).astype(np.float64)


def _fit(stored: _Array, true: _Array, labels: _Labels, known: _Estimate, based_on: _Labels) -> _Estimate:
    """The factor from ``true`` to ``stored`` for each class, by least squares, from gains that are known."""
    count = len(known.gain)
    power = _sums(true * true, labels, count)
    factor = np.divide(_sums(stored * true, labels, count), power, where=power > 0, out=np.zeros(count))
    rest = _sums(np.square(stored - factor[labels] * true), labels, count)
    used = true != 0
    number = _sums(used, labels, count)
    usable = np.where(np.isfinite(known.variance), known.variance, 0.0)[based_on] * used
    variance = np.full(count, np.inf)
    fitted = factor > 0
    variance[fitted] = (rest / np.maximum(number - 1, 1))[fitted] / power[fitted] / np.square(factor[fitted])
    variance[fitted] += (_sums(usable, labels, count) / np.maximum(number, 1))[fitted]
    return _Estimate(np.where(fitted, factor, 1.0), variance)


def _average(one: _Estimate, other: _Estimate) -> _Estimate:
    precisions = [1 / (estimate.variance + 1e-12) for estimate in (one, other)]
    total = precisions[0] + precisions[1]
    weighted = one.gain * precisions[0] + other.gain * precisions[1]
    gain = np.divide(weighted, total, out=np.ones_like(weighted), where=total > 0)
    gain[0] = 1.0
    variance = np.divide(1.0, total, out=np.full_like(total, np.inf), where=total > 0)
    variance[0] = 0.0
    return _Estimate(gain, variance)


def dequantized(tensor: TensorInfo, values: NDArray[Any], axis: int) -> _Array:
    """Weights as real numbers, from one scale or from one for each place along ``axis``."""
    if not tensor.scale:
        return values.astype(np.float64)
    shape = [1] * values.ndim
    shape[axis] = -1 if len(tensor.scale) > 1 else 1
    scale, zero = (np.reshape(np.asarray(part, np.float64), shape) for part in (tensor.scale, tensor.zero_point))
    return (values.astype(np.float64) - zero) * scale
