"""Where a value stands on an axis, and which values are written beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on an axis, linear or by their logarithm.

    Attributes:
        low, high: what stands at the axis' two ends; ``low < high``, both above zero on a logarithmic one.
        logarithmic: whether equal distances are equal ratios.
    """

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value stands: 0 at ``low``, 1 at ``high``, never outside."""
        low, high = self._at(self.low), self._at(self.high)
        place = low if self.logarithmic and value <= 0 else self._at(value)
        return min(1.0, max(0.0, (place - low) / (high - low)))

    def _at(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def ticks(self, wanted: int = 5) -> list[float]:
        """About ``wanted`` round values within the axis: 1, 2 or 5 times a power of ten, or powers of ten alone."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / wanted)))]
        step = round_step((self.high - self.low) / wanted)
        lowest, highest = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(lowest, highest + 1)]


def round_step(smallest: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is not below ``smallest`` (above zero)."""
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest * (1 - 1e-9))


def around(values: list[float], margin: float = 0.05) -> Scale:
    """A linear scale on which all values have room; around a single value, one of width 1."""
    low, high = min(values), max(values)
    if not high > low:
        return Scale(low - 0.5, high + 0.5)
    room = margin * (high - low)
    return Scale(low - room, high + room)


def short(value: float) -> str:
    """A tick's label: up to four significant digits, without an exponent where that is shorter."""
    return np.format_float_positional(value, precision=4, trim="-", fractional=False) if value else "0"
