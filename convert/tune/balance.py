"""Channels balanced by what the embedding hears of them: factors as in equalization, found by gradient.

Equalization judges a factor by the layer that reads a channel. Here it is judged by the embedding: a backward pass
gives, for every channel of every activation, how much of a small error there arrives at the end, and for every weight
likewise. With that the noise of a file is known in closed form for any factors s of the channels,

    sum over activations of  step(s)^2 * sum over channels of (s_c * d embedding / d activation_c)^2
    + share * sum over outputs of  step of its weights(s)^2 * sum over weights of (d embedding / d weight / s_c)^2

and its least value is found by gradient descent in seconds, without the network. An activation that is exactly zero,
as behind a ReLU, is rounded without an error and adds nothing. The second sum is lessened by what the corrections and
the training make good of the weights' rounding; by how much differs, so that several shares are tried and the file is
judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...calibration import Ranges
from ..graph.channels import FIXED, Channels, Scaled, channels
from ..graph.graph import Graph
from ..quantize.equalize import LARGEST_FACTOR, divided, least_factors, observed
from .network import Network
from .sensitivity import heard, rounded

SHARES = (0.3, 0.1, 1.0)
"""How much of the noise of the weights' steps is left, tried in this order."""

_STEPS, _RATE = 300, 0.03
_FIRST_MOMENT, _SECOND_MOMENT = 0.9, 0.999
_POWER = 16
"""Norm in place of the maximum, which has a gradient for the largest channel alone."""

_TINY = 1e-30

Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Activation:
    """Channels of an 8-bit activation: their classes, how far they reach, and how much of their noise arrives."""

    labels: NDArray[np.int64]
    low: Values
    high: Values
    arrives: Values


@dataclass(frozen=True)
class _Weights:
    """Weights with a step size for each output: (outputs, inputs) each."""

    labels: NDArray[np.int64]
    sizes: Values
    arrives: Values


class Balance:
    """What a file's noise is made of, measured; then the factors that lessen it."""

    def __init__(self, quantized: bytes, original: bytes, ranges: Ranges) -> None:
        """Find what can be scaled.

        Args:
            quantized: the graph in integers.
            original: the float graph that it was made from.
            ranges: of its activations.
        """
        self._original, self._ranges = original, ranges
        self._network = Network(original)
        graph = self._network.graph
        self._found = channels(graph)
        self._observed = observed(graph, self._found)
        self._rounded = rounded(quantized, original)
        self._readers = [item for item in self._found.scaled if item.times is not None and not item.own_step]
        self._low: dict[int, Values] = {}
        self._high: dict[int, Values] = {}
        self._arrives: dict[int, Values] = {}
        self._by_weight = [np.zeros(graph.shape(_constant(item))) for item in self._readers]

    @property
    def scales(self) -> bool:
        """Whether there is anything to scale."""
        return bool(self._found.scaled)

    def measure(self, images: NDArray[np.float32], seed: int) -> None:
        """Add what these images say.

        Args:
            images: a batch, (N, H, W, C).
            seed: of the signs.
        """
        for passed in heard(self._network, images, seed, self._observed, [*map(_constant, self._readers)]):
            for index, values in passed.values.items():
                self._add(index, values, passed.of_values[index])
            for place, item in enumerate(self._readers):
                self._by_weight[place] += np.square(passed.of_constants[_constant(item)], dtype=np.float64)

    def _add(self, index: int, values: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        axes = tuple(range(values.ndim - 1))
        low, high = values.min(axis=axes).astype(np.float64), values.max(axis=axes).astype(np.float64)
        arrives = np.square(gradient, dtype=np.float64).sum(axis=axes, where=values != 0)
        self._low[index] = np.minimum(self._low.get(index, low), low)
        self._high[index] = np.maximum(self._high.get(index, high), high)
        self._arrives[index] = self._arrives.get(index, 0.0) + arrives

    def balanced(self, share: float, part: float = 1.0) -> tuple[bytes, Ranges]:
        """The float graph with balanced channels, which computes the same, and its ranges.

        Args:
            share: how much of the noise of the weights' steps is left.
            part: how much of the way to those factors is gone, in their logarithms.
        """
        graph = Graph(self._original)
        found = channels(graph)
        limits = {index: self._limits(graph.tensor_name(index), index) for index in self._observed}
        return divided(graph, found, self._factors(found, limits, share) ** part, limits, self._ranges)

    def _limits(self, name: str, index: int) -> tuple[Values, Values]:
        """How far each channel reaches, within the range of the tensor, and as far beyond these images as that."""
        low, high = self._low[index], self._high[index]
        if name not in self._ranges.limits:
            return low, high
        least, most = self._ranges.limits[name]
        return -_within(-low, -least), _within(high, most)

    def _factors(self, found: Channels, limits: dict[int, tuple[Values, Values]], share: float) -> Values:
        """Adam on the logarithms of the factors."""
        activations = [
            _Activation(found.labels[index], np.maximum(-low, 0), np.maximum(high, 0), self._arrives[index])
            for index, (low, high) in limits.items()
            if index in self._rounded
        ]
        weights = [
            _weights(self._network.graph, item, arrives)
            for item, arrives in zip(self._readers, self._by_weight, strict=True)
        ]
        least = np.log(least_factors(found, {index: np.maximum(high, -low) for index, (low, high) in limits.items()}))
        moves = least < 0
        moves[FIXED] = False
        logs, first, second = (np.zeros(found.count) for _ in range(3))
        for step in range(1, _STEPS + 1):
            slope = np.where(moves, _slope(logs, activations, weights, share), 0)
            first = _FIRST_MOMENT * first + (1 - _FIRST_MOMENT) * slope
            second = _SECOND_MOMENT * second + (1 - _SECOND_MOMENT) * slope**2
            spread = np.sqrt(second / (1 - _SECOND_MOMENT**step)) + 1e-9
            rate = _RATE * 0.5 * (1 + math.cos(math.pi * step / _STEPS))
            moved = np.clip(logs - rate * first / (1 - _FIRST_MOMENT**step) / spread, least, math.log(LARGEST_FACTOR))
            logs = np.where(moves, moved, 0)
        return np.exp(logs)


def _constant(item: Scaled) -> int:
    return int(item.operator.inputs[item.place])


def _within(values: Values, limit: float) -> Values:
    most = max(float(values.max()), 0.0)
    return np.minimum(values, limit) * (max(1.0, limit / most) if most > 0 else 1.0)


def _weights(graph: Graph, item: Scaled, arrives: Values) -> _Weights:
    """Places of a kernel together: they share a class."""
    values = graph.constant(_constant(item))
    assert values is not None and item.times is not None
    places = tuple(axis for axis in range(1, values.ndim) if item.times.shape[axis] == 1)
    sizes = np.abs(values).max(axis=places, keepdims=True).astype(np.float64)
    rows = len(sizes)
    labels = np.broadcast_to(item.times, sizes.shape).reshape(rows, -1)
    return _Weights(labels, sizes.reshape(rows, -1), arrives.sum(axis=places).reshape(rows, -1))


def _slope(logs: Values, activations: Sequence[_Activation], weights: Sequence[_Weights], share: float) -> Values:
    """Derivative of the logarithm of the noise by the logarithms of the factors."""
    factors = np.exp(logs)
    slope, noise = np.zeros(len(logs)), _TINY
    for item in activations:
        inside = factors[item.labels]
        (low, of_low), (high, of_high) = (_largest(side / inside) for side in (item.low, item.high))
        width, power = low + high + _TINY, inside**2 * item.arrives
        here = ((width / 255) ** 2 * power.sum()).item()
        wider = -(low * of_low + high * of_high) / width + power / (power.sum() + _TINY)
        slope += np.bincount(item.labels, here * wider, len(logs))
        noise += here
    for layer in weights:
        inside = factors[layer.labels]
        largest, of_largest = _largest(layer.sizes * inside)
        power = layer.arrives / inside**2
        sums = power.sum(axis=-1, keepdims=True)
        by_output = share * (largest / 127) ** 2 * sums
        wider = by_output * (of_largest - power / (sums + _TINY))
        slope += np.bincount(layer.labels.ravel(), wider.ravel(), len(logs))
        noise += float(by_output.sum())
    return 2 * slope / noise


def _largest(values: Values) -> tuple[Values, Values]:
    """Nearly the largest along the last axis, and how much of it each value is."""
    most = values.max(axis=-1, keepdims=True) + _TINY
    powers = (values / most) ** _POWER
    sums = powers.sum(axis=-1, keepdims=True) + _TINY
    return most * sums ** (1 / _POWER), powers / sums
