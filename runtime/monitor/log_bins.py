"""Fixed bins for positive values, equally fine at every size, the same on every machine.

Each octave is divided into equal steps (the log-linear bins of G. Tene's HdrHistogram), so the bin of a value follows
from its exponent and mantissa alone: no logarithm, whose last bit differs between C libraries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

QUANTILES = (Fraction(1, 2), Fraction(9, 10), Fraction(99, 100), Fraction(999, 1000))


@dataclass(frozen=True)
class LogBins:
    """Bins from 2^lowest to 2^highest, with one below for everything smaller and one above for everything larger.

    Attributes:
        lowest: exponent of the first edge.
        highest: exponent of the last edge.
        steps: bins in an octave; a bin is at most 1/steps of its values wide.
    """

    lowest: int
    highest: int
    steps: int

    @property
    def count(self) -> int:
        """Number of bins."""
        return (self.highest - self.lowest) * self.steps + 2

    def bin_of(self, value: float) -> int:
        """The bin that holds a value; all below the first edge, zero and negative ones too, are in bin 0."""
        if value < math.ldexp(1, self.lowest):
            return 0
        if value >= math.ldexp(1, self.highest):
            return self.count - 1
        mantissa, exponent = math.frexp(value)
        return 1 + (exponent - 1 - self.lowest) * self.steps + int((2 * mantissa - 1) * self.steps)

    def bounds(self, index: int) -> tuple[float, float]:
        """(lower, upper) edge of a bin; the lower one belongs to it."""
        edges = []
        for place in (index - 1, index):
            octave, step = divmod(place, self.steps)
            edges.append(math.ldexp(1 + step / self.steps, self.lowest + octave))
        return (0.0 if index == 0 else edges[0]), (math.inf if index == self.count - 1 else edges[1])


def quantiles(bins: LogBins, counts: NDArray[np.int64]) -> list[dict[str, float]]:
    """The median and the upper quantiles, each as the edges of the bin it lies in; none of no values."""
    found = []
    for share in QUANTILES if counts.any() else ():
        low, high = bins.bounds(quantile_bin(counts, share))
        found.append({"share": float(share), "low": low, "high": high})
    return found


def quantile_bin(counts: NDArray[np.int64], share: Fraction) -> int:
    """The bin of the nearest-rank quantile: of n values in ascending order the ceil(share n)-th.

    Args:
        counts: (bins,) values by bin, at least one.
        share: above 0, at most 1.
    """
    rank = math.ceil(share * int(counts.sum()))
    return int(np.searchsorted(np.cumsum(counts), rank))
