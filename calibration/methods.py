"""From statistics to ranges: minimum and maximum, percentile, least squared error, least divergence.

A wide range clips nothing and gives every value coarse steps; a narrow one clips the tail and gives the rest fine
steps. Which is better depends on the tensor; :mod:`embedlite.calibration.auto` tries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import RequestError
from .bins import Bins, filled_bins
from .ranges import Ranges
from .statistics import Statistics, TensorStatistics
from .tensors import TensorGroup

METHODS = ("minmax", "percentile", "mse", "entropy")

DEFAULT_PERCENTILE = 99.99

_LEVELS = 256
"""Steps of an 8-bit tensor."""

_SHRINKING = np.linspace(1, 0.1, 91)
"""Shares of a range's end that the search for the least squared error tries."""

_ENTROPY_BINS = 2048

Limits = tuple[float, float]


@dataclass(frozen=True)
class Method:
    """How a range is taken from statistics.

    Attributes:
        kind: one of :data:`METHODS`.
        percentile: for ``percentile``: the maximum is this percentile of the values, and the minimum 100 minus it.
    """

    kind: str
    percentile: float = DEFAULT_PERCENTILE

    def __str__(self) -> str:
        return f"percentile:{self.percentile:g}" if self.kind == "percentile" else self.kind


MINMAX = Method("minmax")


def parse_method(text: str) -> Method:
    """A method from its spelling: ``minmax``, ``percentile`` or ``percentile:99.9``, ``mse``, ``entropy``.

    Raises:
        RequestError: there is no such method, or the percentile is not above 50 and at most 100.
    """
    kind, colon, value = text.partition(":")
    if kind not in METHODS or (colon and kind != "percentile"):
        raise RequestError(
            f"unknown calibration method {text!r}. Use one of: {', '.join(METHODS)} (percentile:99.9 names another "
            f"percentile than {DEFAULT_PERCENTILE}), auto."
        )
    if not colon:
        return Method(kind)
    try:
        percentile = float(value)
    except ValueError:
        percentile = math.nan
    if not 50 < percentile <= 100:
        raise RequestError(f"the percentile is {value!r}. Use a number above 50 and at most 100, such as 99.99.")
    return Method(kind, percentile)


def choose_ranges(
    statistics: Statistics, groups: tuple[TensorGroup, ...], method: Method, only: Mapping[str, Method] | None = None
) -> Ranges:
    """The range of every activation.

    Args:
        statistics: of the groups; with counts unless the method is ``minmax``.
        groups: of the same graph, see :func:`embedlite.calibration.tensors.tensor_groups`.
        method: for every group.
        only: another method for some groups, by name.
    """
    limits: dict[str, Limits] = {}
    for group in groups:
        chosen = choose_range(statistics.tensors[group.name], (only or {}).get(group.name, method))
        limits |= dict.fromkeys(group.members, chosen)
    return Ranges(limits, {}, statistics.samples)


def choose_range(tensor: TensorStatistics, method: Method) -> Limits:
    """One tensor's range; it never exceeds what was seen.

    Raises:
        RequestError: the method needs counts and there are none.
    """
    if method.kind == "minmax" or tensor.low == tensor.high:
        return tensor.low, tensor.high
    if tensor.counts is None:
        raise RequestError(
            f"the method {method} needs histograms, and these statistics have minimum and maximum only. Collect them "
            "with histograms."
        )
    bins = filled_bins(tensor.counts)
    low, high = _CHOOSERS[method.kind](bins, (tensor.low, tensor.high), method)
    # Bins are a little wider than what is in them, and a threshold may lie below all there is.
    return min(max(low, tensor.low), tensor.high), max(min(high, tensor.high), tensor.low)


def squared_error(bins: Bins, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over all values of their squared error in 8 bits, for each of several ranges (n,).

    As TFLite quantizes: the range is widened to hold zero, and zero is moved onto a step.
    """
    bottom, top = np.minimum(low, 0), np.maximum(high, 0)
    scale = np.maximum(top - bottom, 1e-30) / (_LEVELS - 1)
    zero = np.round(-bottom / scale)
    centres = bins.centres
    steps = np.clip(np.round(centres / scale[:, None] + zero[:, None]), 0, _LEVELS - 1)
    errors = (steps - zero[:, None]) * scale[:, None] - centres
    total: NDArray[np.float64] = (errors**2 * bins.counts).sum(axis=1)
    return total


def _percentile(bins: Bins, _: Limits, method: Method) -> Limits:
    # Counted from both ends, so that the share left out is at most 100 - p at each.
    share = bins.total * (1 - method.percentile / 100)
    low = int(np.searchsorted(np.cumsum(bins.counts), share, side="right"))
    high = int(np.searchsorted(np.cumsum(bins.counts[::-1]), share, side="right"))
    return float(bins.low[min(low, len(bins.low) - 1)]), float(bins.high[::-1][min(high, len(bins.high) - 1)])


def _least_squares(bins: Bins, limits: Limits, _: Method) -> Limits:
    """The range with the least squared error: one end is searched while the other stands, twice in turn.

    The search over clipping thresholds is that of Banner et al., Post training 4-bit quantization of convolutional
    networks for rapid-deployment, NeurIPS 2019, on the counted values instead of a fitted distribution.
    """
    low, high = limits
    for _turn in range(2):
        if high > 0:
            tried = max(high, 0.0) * _SHRINKING
            high = float(tried[np.argmin(squared_error(bins, np.full_like(tried, low), tried))])
        if low < 0:
            tried = min(low, 0.0) * _SHRINKING
            low = float(tried[np.argmin(squared_error(bins, tried, np.full_like(tried, high)))])
        if low >= 0 or high <= 0:
            break
    return low, high


def _least_divergence(bins: Bins, limits: Limits, _: Method) -> Limits:
    """The clipping threshold with the least Kullback-Leibler divergence of the quantized from the clipped values.

    The method of Migacz, 8-bit inference with TensorRT, GPU Technology Conference 2017: magnitudes in 2048 equal bins,
    every threshold of at least 128 of them, the clipped tail counted in the last.
    """
    reach = max(-limits[0], limits[1])
    magnitudes = _equal_bins(bins, reach)
    levels = _LEVELS // 2 if limits[0] < 0 < limits[1] else _LEVELS
    # The bin at zero holds what a rectifier cut off; it is exact at any threshold and would outweigh the rest.
    magnitudes[0] = magnitudes[1]
    ends = np.arange(levels, _ENTROPY_BINS + 1, 8)
    divergences = _divergences(magnitudes, ends, levels)
    best = int(np.argmin(divergences))
    threshold = reach * int(ends[best]) / _ENTROPY_BINS if np.isfinite(divergences[best]) else reach
    return max(limits[0], -threshold), min(limits[1], threshold)


def _equal_bins(bins: Bins, reach: float) -> NDArray[np.float64]:
    """Values by magnitude in equal bins over [0, reach]; each of the unequal ones is spread over its width."""
    edges = np.linspace(0, reach, _ENTROPY_BINS + 1)
    result = np.zeros(_ENTROPY_BINS)
    for near, far, counts in (
        (bins.low, bins.high, np.where(bins.high > 0, bins.counts, 0)),
        (-bins.high[::-1], -bins.low[::-1], np.where(bins.high <= 0, bins.counts, 0)[::-1]),
    ):
        kept = counts > 0
        if not kept.any():
            continue
        # Between the bins that hold values nothing is added: each contributes its two edges to the running total.
        places = np.stack([near[kept], far[kept]], axis=1).ravel()
        below = np.cumsum(counts[kept])
        totals = np.stack([below - counts[kept], below], axis=1).ravel()
        result += np.diff(np.interp(edges, places, totals))
        result[-1] += below[-1] - np.interp(reach, places, totals)
    return result


def _divergences(magnitudes: NDArray[np.float64], ends: NDArray[np.int_], levels: int) -> NDArray[np.float64]:
    """The divergence for each threshold, in bins: of bins that share a level, each gets their mean in exchange."""
    total = magnitudes.sum()
    # The bins of every level of every threshold, end to end; the last one of each threshold is what it clips.
    starts = -(-np.arange(levels) * ends[:, None] // levels)
    edges = np.concatenate([starts, ends[:, None]], axis=1).ravel()
    padded = np.append(magnitudes, 0.0)
    sums = np.add.reduceat(padded, edges).reshape(len(ends), -1)[:, :-1]
    filled = np.add.reduceat((padded > 0).astype(np.int64), edges).reshape(len(ends), -1)[:, :-1]
    # Every bin's p log p with the clipped tail in the last, if that holds anything itself.
    own = np.cumsum(_times_log(magnitudes))
    last, tail = magnitudes[ends - 1], total - np.cumsum(magnitudes)[ends - 1]
    joined = np.where(last > 0, last + tail, 0)
    entropies = own[ends - 1] - _times_log(last) + _times_log(joined)
    masses = sums.copy()
    masses[:, -1] += joined - last
    quantized = sums.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.log(np.where(filled > 0, sums / np.maximum(filled, 1), 1))
        counted = masses.sum(axis=1)
        spread = entropies - (masses * means).sum(axis=1) - counted * np.log(total / quantized)
        # A tail that is clipped into an empty last bin has no counterpart; a small one stands in for it.
        missing = np.where(last > 0, 0, tail / total)
        alone = np.where(missing > 0, missing * np.log(missing / 1e-9), 0)
        return np.where(filled.any(axis=1), spread / total + alone, np.inf)


def _times_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithms: NDArray[np.float64] = values * np.log(np.where(values > 0, values, 1))
    return logarithms


_CHOOSERS: Mapping[str, Callable[[Bins, Limits, Method], Limits]] = {
    "percentile": _percentile,
    "mse": _least_squares,
    "entropy": _least_divergence,
}
