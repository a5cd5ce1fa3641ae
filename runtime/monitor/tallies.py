"""What a monitor keeps of its rows: a few numbers, never an input, an embedding, an id or a time.

Counts, exact sums, histograms with fixed bins, maxima and the few worst rows: each merges by an addition of whole
numbers or by a set operation. So any split of the rows over devices, any order and any tree of merges gives the same
statistics, byte for byte. What is rounded is rounded once, in the row it comes from, before it is added.

Sums of float64 values are exact, so that no order and no grouping of the additions can show: every finite float64 is a
whole multiple of 2^-1074, so a sum of them is one too, and Python's whole numbers of any length add exactly
(U. Kulisch, Computer Arithmetic and Validity, 2008).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

WORST_ROWS = 10

_MOST_COUNT = 1 << 48
"""A table's counts are 64-bit integers, also of a fleet of thousands."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Layout:
    """The names and sizes of what is kept.

    Attributes:
        counts: names of plain counters.
        sums: number of exact sums by name.
        tables: number of counters in each histogram, or table of histograms, by name.
        maxima: names of largest values, never negative.
        worst: names of a row's figures, the one first that says how bad it is: larger is worse.
    """

    counts: tuple[str, ...]
    sums: Mapping[str, int]
    tables: Mapping[str, int]
    maxima: tuple[str, ...]
    worst: tuple[str, ...]


class Statistics:
    """Statistics of one layout; empty when made. Not safe to share between threads."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.counts = dict.fromkeys(layout.counts, 0)
        self._sums = ExactSums(sum(layout.sums.values()))
        self.tables: dict[str, NDArray[np.int64]] = {
            name: np.zeros(size, np.int64) for name, size in layout.tables.items()
        }
        self.maxima = dict.fromkeys(layout.maxima, 0.0)
        self.worst: list[tuple[float, ...]] = []

    def add_to_sums(self, rows: Mapping[str, NDArray[np.float64]]) -> None:
        """Add one row's values to the exact sums; finite float64 arrays for all names of the layout."""
        self._sums.add(np.concatenate([rows[name] for name in self.layout.sums]))

    def sums(self) -> dict[str, list[Fraction]]:
        """The exact sums by name."""
        return self._by_name(self._sums.fractions())

    def add_worst(self, row: tuple[float, ...]) -> None:
        """Keep a row's figures if it is among the worst."""
        self.worst = _worst([*self.worst, row])

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of all rows of both, which stay as they are; both of one layout."""
        merged = Statistics(self.layout)
        merged.counts = {name: count + other.counts[name] for name, count in self.counts.items()}
        merged._sums = self._sums.merge(other._sums)
        merged.tables = {name: table + other.tables[name] for name, table in self.tables.items()}
        merged.maxima = {name: max(value, other.maxima[name]) for name, value in self.maxima.items()}
        merged.worst = _worst([*self.worst, *other.worst])
        return merged

    def to_json(self) -> dict[str, Any]:
        """The statistics as a JSON object; equal statistics give equal objects."""
        return {
            "counts": dict(self.counts),
            "sums": {name: " ".join(texts) for name, texts in self._by_name(self._sums.to_texts()).items()},
            "tables": {name: _table_text(table) for name, table in self.tables.items()},
            "maxima": dict(self.maxima),
            "worst": [dict(zip(self.layout.worst, row, strict=True)) for row in self.worst],
        }

    @classmethod
    def from_json(cls, layout: Layout, value: Any) -> Statistics:
        """The statistics from their JSON object.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is none, or one of another layout.
        """
        statistics = cls(layout)
        statistics.counts = {name: whole(value["counts"][name]) for name in layout.counts}
        texts = {name: value["sums"][name].split(" ") for name in layout.sums}
        if {name: len(parts) for name, parts in texts.items()} != dict(layout.sums):
            raise ValueError("sums are missing")
        statistics._sums = ExactSums.from_texts([text for parts in texts.values() for text in parts])
        statistics.tables = {name: _parse_table(value["tables"][name], size) for name, size in layout.tables.items()}
        statistics.maxima = {name: _finite(value["maxima"][name]) for name in layout.maxima}
        rows = [tuple(_finite(row[name]) for name in layout.worst) for row in value["worst"]]
        statistics.worst = _worst(rows)
        if rows != statistics.worst:
            raise ValueError("the worst rows are not in order, or too many")
        return statistics

    def _by_name(self, items: Sequence[_T]) -> dict[str, list[_T]]:
        found, start = {}, 0
        for name, size in self.layout.sums.items():
            found[name] = list(items[start : start + size])
            start += size
        return found


def whole(value: Any) -> int:
    """A count as it is read from JSON.

    Raises:
        ValueError: anything else.
    """
    if type(value) is not int or not 0 <= value < _MOST_COUNT:
        raise ValueError(f"{value!r} is not a count")
    return value


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _worst(rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    return sorted(rows, reverse=True)[:WORST_ROWS]


def _table_text(table: NDArray[np.int64]) -> str:
    """``place:count`` of every counter that is not zero, in ascending order."""
    return " ".join(f"{place}:{table[place]}" for place in np.flatnonzero(table))


def _parse_table(text: str, size: int) -> NDArray[np.int64]:
    table = np.zeros(size, np.int64)
    for item in text.split():
        place, _, count = item.partition(":")
        if not (place.isdecimal() and count.isdecimal() and len(place) < 20 and len(count) < 20 and int(place) < size):
            raise ValueError(f"{item[:40]!r} is not a counter of {size}")
        table[int(place)] = whole(int(count))
    if text != _table_text(table):
        raise ValueError("counters that are out of order, there twice or zero")
    return table


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
            ValueError: one is not such a text.
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
        raise ValueError(f"{text[:40]!r} is not a sum")
    mantissa, exponent = int(match[2], 16), int(match[3])
    if exponent < _UNIT_EXPONENT or mantissa.bit_length() + exponent > _MOST_EXPONENT:
        raise ValueError(f"{text[:40]!r} is out of range")
    total = mantissa << (exponent - _UNIT_EXPONENT)
    total = -total if match[1] else total
    if text != _number_text(total):
        raise ValueError(f"{text[:40]!r} is not how a sum is written")
    return total
