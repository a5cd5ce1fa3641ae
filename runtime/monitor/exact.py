"""Sums of float64 values without any rounding, so that no order and no grouping of the additions can show.

Every finite float64 is a whole multiple of 2^-1074, so a sum of them is one too, and Python's whole numbers of any
length add exactly (U. Kulisch, Computer Arithmetic and Validity, 2008).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_MANTISSA_BITS = 53
_UNIT_EXPONENT = -1074 - (_MANTISSA_BITS - 1)
"""Totals count units of 2 to this: the last bit of the smallest subnormal, written with a mantissa of 53 bits."""

_UNITS = 1 << -_UNIT_EXPONENT

_NUMBER = re.compile(r"(-?)0x([0-9a-f]+)p([+-][0-9]{1,4})")
_MOST_EXPONENT = 1024 + 64
"""No sum of fewer than 2^64 values reaches two to this."""


class ExactSums:
    """Several sums, one for each value of a row; not safe to share between threads.

    Args:
        size: number of sums.
    """

    def __init__(self, size: int) -> None:
        self._totals = [0] * size

    def add(self, row: NDArray[np.float64]) -> None:
        """Add one finite value to each sum, (size,) float64."""
        mantissas, exponents = np.frexp(row)
        whole = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64).tolist()
        shifts = (exponents - (_MANTISSA_BITS + _UNIT_EXPONENT)).tolist()
        self._totals = [
            total + (number << shift) for total, number, shift in zip(self._totals, whole, shifts, strict=True)
        ]

    def merge(self, other: ExactSums) -> ExactSums:
        """The sums of both, which stay as they are."""
        merged = ExactSums(0)
        merged._totals = [mine + theirs for mine, theirs in zip(self._totals, other._totals, strict=True)]
        return merged

    def fractions(self) -> list[Fraction]:
        """The sums, exactly."""
        return [Fraction(total, _UNITS) for total in self._totals]

    def to_texts(self) -> list[str]:
        """Each sum in C's hexadecimal floating-point notation, with an odd mantissa: the one way to write it."""
        return [_number_text(total) for total in self._totals]

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> ExactSums:
        """The sums from their texts.

        Raises:
            ValueError: one is no such text.
        """
        sums = cls(0)
        sums._totals = [_parse_number(text) for text in texts]
        return sums


def _number_text(total: int) -> str:
    if total == 0:
        return "0x0p+0"
    zeros = (total & -total).bit_length() - 1
    return f"{'-' if total < 0 else ''}0x{abs(total) >> zeros:x}p{zeros + _UNIT_EXPONENT:+d}"


def _parse_number(text: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no sum")
    mantissa, exponent = int(match[2], 16), int(match[3])
    if exponent < _UNIT_EXPONENT or mantissa.bit_length() + exponent > _MOST_EXPONENT:
        raise ValueError(f"{text[:40]!r} is out of range")
    total = mantissa << (exponent - _UNIT_EXPONENT)
    return -total if match[1] else total
