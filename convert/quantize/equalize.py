"""Equalization: the same float function, with activations that int8 can tell apart better.

int8 gives all channels of an activation one step size, set by the widest channel; narrow channels then lose most of
their steps. Where nothing but layers with weights, and what passes a factor on, writes and reads a channel, it can be
divided by s_c > 0 and the weights that read it multiplied by it: the float model computes the same, and no operator is
added. Which channels share a factor is found in :mod:`embedlite.convert.graph.channels`. Weights are quantized per
output channel, so only the layers that read pay, in the spread of their weights; an exponent balances the two, as in
SmoothQuant:

    s_c = max|activation_c|^a / max|weights that read c|^(1 - a)

over all activations and all layers of a class. Which exponent suits, and whether any does, is found for each part of
the graph by what it is for: the noise of the steps of its activations, as the layers that read them add it up, and that
of the steps of those layers' weights. A depthwise convolution has a step size for each channel that it reads, and pays
nothing; an average further on lessens the noise of activations, which differs from place to place.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019 (arXiv:1906.04721);
Xiao et al., SmoothQuant, 2023 (arXiv:2211.10438).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...calibration import Ranges
from ..graph.channels import FIXED, Channels, Labels, Scaled, channels, scale_channels
from ..graph.graph import Graph
from ..graph.repair import drop_unused_tensors

_EXPONENTS, _SHARES = (0.3, 0.5, 0.7), (0.5, 1.0)
"""What is tried: SmoothQuant's alpha, and how much of the way to those factors is gone."""

_WIDE_EXPONENTS = (0.0, 0.2, 0.4)
"""With 16-bit activations: the weights are what has few steps."""

_POWER = 0.1
"""The mean square of a channel's values where its largest one is one: of digits and photos, by and large."""

_STEPS, _WIDE_STEPS = 255, 32767
"""Of activations in 8 bits, and in 16 where half of the range is left free."""

LARGEST_FACTOR, _FAR_LARGER = 1e3, 4.0
_BOUND, _MARGIN = 6.0, 2.0
"""Where RELU6 ends, and how far below a channel must have stayed: images may have larger values than those before."""

_SAME_VALUES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE")

Values = NDArray[np.float64]
Limits = tuple[Values, Values]


def equalizable(graph: Graph) -> set[str]:
    """The activations whose channels have to be observed, by name; none where nothing can be scaled."""
    found = channels(graph)
    return set() if not found.scaled else {graph.tensor_name(index) for index in observed(graph, found)}


def observed(graph: Graph, found: Channels) -> list[int]:
    """Activations in the order of execution, without those that hold another one's values."""
    return [
        int(index)
        for operator in graph.operators
        if graph.operator_name(operator) not in _SAME_VALUES
        for index in operator.outputs
        if int(index) in found.labels
    ]


def equalize(flatbuffer: bytes, ranges: Ranges, *, backwards: bool = False, wide: bool = False) -> tuple[bytes, Ranges]:
    """The float graph with its channels equalized, and its ranges, which follow from the old ones.

    Args:
        flatbuffer: the float graph.
        ranges: with the channels of the activations that :func:`equalizable` names.
        backwards: whether the last factors are chosen first. They depend on the weights that read a channel, whose
            other axis the next factors scale: backwards that has been done, and channels of very unequal size further
            on no longer matter; forwards the weights are those that training left, which suits ordinary networks
            better.
        wide: whether activations will have 16 bits.
    """
    graph = Graph(flatbuffer)
    found = channels(graph)
    limits = {
        index: (low.astype(np.float64), high.astype(np.float64))
        for index in observed(graph, found)
        for low, high in [ranges.channels[name] for name in [graph.tensor_name(index)] if name in ranges.channels]
    }
    factors = _Factors(graph, found, limits, ranges, wide=wide).chosen(backwards=backwards)
    return divided(graph, found, factors, limits, ranges)


def divided(
    graph: Graph, found: Channels, factors: Values, limits: Mapping[int, Limits], ranges: Ranges
) -> tuple[bytes, Ranges]:
    """The float graph with every class divided by its factor, and the ranges that follow.

    Args:
        graph: is changed.
        found: its classes.
        factors: (classes,), that of :data:`embedlite.convert.graph.channels.FIXED` one.
        limits: of the channels of those activations that :func:`observed` names, before.
        ranges: of all activations, before.
    """
    scale_channels(graph, found, factors)
    changed = dict(ranges.limits)
    for operator in graph.operators:
        for index in map(int, operator.outputs):
            name = graph.tensor_name(index)
            if index in limits:
                low, high = (side / factors[found.labels[index]] for side in limits[index])
                changed[name] = float(low.min()), float(high.max())
            elif index in found.labels and name in changed:
                changed[name] = changed[graph.tensor_name(int(operator.inputs[0]))]
    drop_unused_tensors(graph)
    return graph.to_bytes(), replace(ranges, limits=changed)


def least_factors(found: Channels, maxima: Mapping[int, Values]) -> Values:
    """The least factor of every class: at its bound a channel has none, and those that come near stay as they are.

    Args:
        found: the classes.
        maxima: the largest magnitude of each channel of the observed activations, by index.
    """
    least = np.full(found.count, 1 / LARGEST_FACTOR)
    for index in found.clipped & maxima.keys():
        np.maximum.at(least, found.labels[index], maxima[index] * _MARGIN / _BOUND)
    return least


class _Factors:
    """The factor of every class, chosen part by part: activations that share classes are one part."""

    def __init__(
        self, graph: Graph, found: Channels, limits: Mapping[int, Limits], ranges: Ranges, *, wide: bool
    ) -> None:
        self._found, self._limits = found, limits
        self._exponents, self._steps = (_WIDE_EXPONENTS, _WIDE_STEPS) if wide else (_EXPONENTS, _STEPS)
        self._maxima = {index: np.maximum(high, -low) for index, (low, high) in limits.items()}
        self._factors = np.ones(found.count)
        self._least = least_factors(found, self._maxima)
        self._is_fixed = self._least > 1
        self._is_fixed[FIXED] = True
        self._readers = [_Reader(graph, item, ranges, found.count) for item in found.scaled if item.times is not None]
        self._power = sum((reader.power for reader in self._readers), np.zeros(found.count))
        self._lessened = _lessened(graph)
        self._by_class: dict[int, Values] = {}
        for operator in graph.operators:
            before = self._by_class.get(int(operator.inputs[0]))
            for index in map(int, operator.outputs):
                if index in self._maxima:
                    self._by_class[index] = _by_class(found.labels[index], self._maxima[index], found.count)
                elif index in found.labels and before is not None:
                    self._by_class[index] = before

    def chosen(self, *, backwards: bool) -> Values:
        parts = self._parts()
        for part in reversed(parts) if backwards else parts:
            self._choose(part)
        return self._factors

    def _parts(self) -> list[list[int]]:
        """Activations, by index, that share classes: in the order of execution."""
        parts: list[tuple[set[int], list[int]]] = []
        for index in self._maxima:
            classes = set(self._found.labels[index].tolist()) - {FIXED}
            joined = [part for part in parts if part[0] & classes]
            first = joined[0] if joined else (set[int](), list[int]())
            for other in joined[1:]:
                first[0].update(other[0])
                first[1].extend(other[1])
            parts = [part for part in parts if all(part is not other for other in joined[1:])]
            first[0].update(classes)
            first[1].append(index)
            if not joined:
                parts.append(first)
        return [members for _, members in parts]

    def _choose(self, part: list[int]) -> None:
        labels, count = self._found.labels, self._found.count
        inside = np.zeros(count, np.bool_)
        inside[np.concatenate([labels[index] for index in part])] = True
        sizes, reaches = _Means(count), _Means(count)
        for index in part:
            sizes.add(_by_class(labels[index], self._maxima[index], count))
        moving = inside & (np.arange(count) != FIXED)
        readers = [reader for reader in self._readers if moving[reader.read].any()]
        for reader in readers:
            if not reader.own_step:
                reaches.add(reader.reach(self._factors))
        # A channel that is never active, or never read, has nothing to balance.
        alive = inside & sizes.known & (reaches.known | (not reaches.any))
        free, fixed = alive & ~self._is_fixed, alive & self._is_fixed
        if not free.any():
            return
        best, least = self._factors, self._noise(part, readers, self._factors)
        for exponent in self._exponents if reaches.any else (1.0,):
            wanted = exponent * sizes.mean - (1 - exponent) * reaches.mean
            # What cannot be scaled is what the others are measured by.
            wanted -= wanted[fixed if fixed.any() else free].mean()
            for share in _SHARES:
                tried = self._factors.copy()
                tried[free] = np.clip(np.exp(share * wanted[free]), self._least[free], LARGEST_FACTOR)
                noise = self._noise(part, readers, tried)
                if noise < least:
                    best, least = tried, noise
        self._factors = best
        self._quieten(moving & ~sizes.known & ~self._is_fixed, alive, readers)

    def _quieten(self, dead: NDArray[np.bool_], alive: NDArray[np.bool_], readers: Sequence[_Reader]) -> None:
        """Make weights that read a channel no larger than the others where it was always zero and they are far larger.

        They share a step size with the others, whose rounding they would decide.
        """
        for reader in readers if dead.any() else ():
            if not reader.own_step:
                sizes = reader.reach(self._factors) * self._factors
                largest = sizes[alive].max(initial=0.0)
                loud = dead & (sizes > _FAR_LARGER * largest)
                if largest > 0:
                    self._factors[loud] = np.maximum(self._factors[loud] * largest / sizes[loud], 1 / LARGEST_FACTOR)

    def _noise(self, part: list[int], readers: Sequence[_Reader], factors: Values) -> float:
        """Of the steps of activations and of the weights that read them, relative to what the layers give."""
        noise = 0.0
        for index in part:
            labels, (low, high) = self._found.labels[index], self._limits[index]
            inside = factors[labels]
            step = (max(float((high / inside).max()), 0.0) - min(float((low / inside).min()), 0.0)) / self._steps
            noise += self._lessened[index] * step**2 * float((inside**2 * self._power[labels]).sum())
        for reader in readers:
            if not reader.own_step and reader.source in self._by_class:
                values = (self._by_class[reader.source] / factors)[self._found.labels[reader.source]]
                noise += reader.noise(values, factors)
        return noise


def _lessened(graph: Graph) -> dict[int, float]:
    """The share of the noise of an activation's steps that averages further on leave."""
    found: dict[int, float] = {}
    for operator in reversed(graph.operators):
        result = int(operator.outputs[0])
        share = found.get(result, 1.0)
        if graph.operator_name(operator) in ("MEAN", "AVERAGE_POOL_2D"):
            share *= math.prod(graph.shape(result)) / math.prod(graph.shape(int(operator.inputs[0])))
        for index in graph.inputs(operator):
            found[index] = max(found.get(index, 0.0), share)
    return found


class _Reader:
    """The weights of a layer.

    Attributes:
        source: the activation that it reads.
        read: the classes of its channels, of a shape that broadcasts to the weights.
        own_step: see :class:`embedlite.convert.graph.channels.Scaled`.
        power: how much of the noise of each class comes out, relative to what the layer gives at most.
    """

    def __init__(self, graph: Graph, item: Scaled, ranges: Ranges, count: int) -> None:
        weights = graph.constant(int(item.operator.inputs[item.place]))
        assert weights is not None and item.times is not None
        self.source, self.read, self.own_step = graph.inputs(item.operator)[0], item.times, item.own_step
        self._over, self._count = item.over, count
        # One axis of the outputs, one of the inputs, and those between: places, of which the largest weight counts.
        places = () if item.own_step or weights.ndim == 2 else (1, 2)
        self._sizes = np.abs(weights).max(axis=places, keepdims=True)
        self._axes = tuple(axis for axis, length in enumerate(item.times.shape) if length == 1)
        self._axes = (0, 1, 2) if item.own_step else self._axes
        size = max(map(abs, ranges.limits.get(graph.tensor_name(int(item.operator.outputs[0])), (0.0, 0.0))))
        self._share = 1 / (weights.shape[-1 if item.own_step else 0] * size**2) if size else 0.0
        power = np.square(weights).sum(axis=self._axes, dtype=np.float64)
        self.power = np.bincount(self.read.ravel(), power.ravel(), count) * self._share
        self._products = weights.size // weights.shape[0] * _POWER

    def reach(self, factors: Values) -> Values:
        """The largest weight that reads each class."""
        over = factors[self._over].astype(np.float32)
        return _by_class(self.read, (self._sizes / over).max(axis=self._axes).astype(np.float64), self._count)

    def noise(self, values: Values, factors: Values) -> float:
        """Of the steps of its weights, one size for each output, on inputs as large as these."""
        scaled = (self._sizes * factors[self.read].astype(np.float32)).reshape(len(self._sizes), -1)
        steps = scaled.max(axis=1).astype(np.float64) / (_STEPS / 2)
        return float(self._share * np.square(steps).sum() * np.square(values).mean() * self._products)


class _Means:
    """Means of logarithms by class, each sample brought to the mean of zero."""

    def __init__(self, count: int) -> None:
        self._sum, self._count = np.zeros(count), np.zeros(count)

    def add(self, values: Values) -> None:
        alive = values > 0
        if alive.any():
            logs = np.log(values[alive])
            self._sum[alive] += logs - logs.mean()
            self._count[alive] += 1

    @property
    def any(self) -> bool:
        return bool(self._count.any())

    @property
    def known(self) -> NDArray[np.bool_]:
        return self._count > 0

    @property
    def mean(self) -> Values:
        mean: Values = self._sum / np.maximum(self._count, 1)
        return mean


def _by_class(labels: Labels, values: Values, count: int) -> Values:
    """The largest value of each class; zero of a class that is not among them."""
    found = np.zeros(count)
    np.maximum.at(found, labels.ravel(), values.ravel())
    return found
