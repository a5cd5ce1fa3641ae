"""Histograms that merge exactly: one bin for each value of a float32's upper sixteen bits.

The bins are the same for every tensor, image and machine, so nobody needs to know a range before counting, and merging
is an addition of whole numbers: no order and no split changes it. A bin is at most 1/128 of its values wide, which is
two steps of int8 at the edge of a range and far less near zero. Bins whose width grows with the value are those of
DDSketch (Masson et al., DDSketch: a fast and fully-mergeable quantile sketch, VLDB 2019); taking them from the bits of
a float makes counting a shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 1 << 16
MOST_VALUES = 1 << 17
"""Values counted of one tensor in one image; of a larger tensor every s-th is."""

_NEGATIVE = BINS // 2

Filled = tuple[NDArray[np.uint16], NDArray[np.int64]]
"""The bins that hold something, ascending by number, and how many values each holds. All bins of a large graph's
tensors take a hundred megabytes, and few are filled."""


def bin_keys(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The bin of each value, of at most :data:`MOST_VALUES` of them.

    Of a larger tensor every s-th value is taken, s having no factor in common with the number of channels, so that
    every channel has its share.

    Args:
        values: contiguous float32, finite.
    """
    step = max(1, -(-values.size // MOST_VALUES))
    channels = values.shape[-1] if values.ndim else 1
    while math.gcd(step, channels) > 1:
        step += 1
    # Little-endian, as every machine with a TFLite interpreter: the upper half of each value comes second.
    return values.reshape(-1).view(np.uint16)[1::2][::step]


def count(keys: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many keys fall into each bin: (65536,) int64."""
    return np.bincount(keys, minlength=BINS).astype(np.int64, copy=False)


def filled(counts: NDArray[np.int64]) -> Filled:
    """Which bins of a histogram hold something, and how much."""
    keys = np.flatnonzero(counts != 0)  # quicker than of numbers
    return keys.astype(np.uint16), counts[keys]


def with_filled(counts: NDArray[np.int64], more: Filled) -> NDArray[np.int64]:
    """A histogram with more values in it; it is changed."""
    keys, numbers = more
    counts[keys] += numbers
    return counts


@dataclass(frozen=True)
class Bins:
    """The bins that hold values, ascending.

    Attributes:
        low: lower edges (n,), float64.
        high: upper edges (n,), float64.
        counts: (n,), int64.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin; zero is a value of its own, because rectified activations are full of it."""
        tiny = np.abs(self.low + self.high) < 1e-37
        return np.where(tiny, 0.0, (self.low + self.high) / 2)

    def share_outside(self, low: float, high: float) -> float:
        """Share of the values in bins that lie wholly outside [low, high]."""
        outside = (self.high < low) | (self.low > high)
        return float(self.counts[outside].sum() / max(1, self.total))


def filled_bins(counts: NDArray[np.int64]) -> Bins:
    """The filled bins of a histogram, in the order of their values."""
    keys, _ = filled(counts)
    negative, positive = keys[keys >= _NEGATIVE][::-1], keys[keys < _NEGATIVE]
    ordered = np.concatenate([negative, positive])
    bits = ordered.astype(np.uint32) << 16
    near = (bits.view(np.float32)).astype(np.float64)
    far = (bits | 0xFFFF).view(np.float32).astype(np.float64)
    return Bins(np.minimum(near, far), np.maximum(near, far), counts[ordered])
