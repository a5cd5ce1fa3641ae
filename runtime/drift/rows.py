"""Embeddings as rows that are read in blocks, so that a million of them need not be in memory.

Rows that are broken whatever the averages say: non-finite, or zero, constant or repeated without a reason.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import give_back

_BLOCK_VALUES = 1 << 19
_KEPT_VALUES = 1 << 23
_SCATTERED = 32
"""Rows between two times that pages are given back. Each may map as much as a huge page, 2 MiB."""
_TOGETHER_BYTES = 1 << 25
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class Rows:
    """Paired embeddings' one side: an array or a mapped file, and which of its rows are meant, in which order.

    Args:
        array: (N, D) or (N, ...), any float dtype; further axes are flattened.
        order: (M,) indices into ``array``; default all rows as they stand.
    """

    def __init__(self, array: NDArray[Any], order: NDArray[np.intp] | None = None) -> None:
        self._array = array.reshape(len(array), -1) if array.ndim != 2 else array
        self._order = order
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        self._mapping = base if isinstance(base, mmap.mmap) else None

    def __len__(self) -> int:
        return len(self._array) if self._order is None else len(self._order)

    @property
    def size(self) -> int:
        """Values in one row, D."""
        return int(self._array.shape[1])

    def take(self, rows: NDArray[np.intp] | slice) -> NDArray[np.float64]:
        """Some rows as a new (n, D) float64 array; what float32 cannot hold is infinite or zero, as on a device."""
        if self._order is not None:
            rows = self._order[rows]
        if self._mapping is None or isinstance(rows, slice) or self._together(rows):
            taken = np.array(self._array[rows], np.float64)
        else:
            # The system maps what lies around each row as well, many times as much as is wanted.
            taken = np.empty((len(rows), self.size))
            for start in range(0, len(rows), _SCATTERED):
                taken[start : start + _SCATTERED] = self._array[rows[start : start + _SCATTERED]]
                give_back(self._mapping, 0, len(self._mapping))
        if self._mapping is not None:
            give_back(self._mapping, 0, len(self._mapping))
        if self._array.dtype.itemsize > np.dtype(np.float32).itemsize:
            np.copyto(taken, np.copysign(np.inf, taken), where=np.abs(taken) > _LARGEST)
            np.copyto(taken, 0, where=np.abs(taken) < _SMALLEST)
        return taken

    def _together(self, rows: NDArray[np.intp]) -> bool:
        """Whether rows stand so near to each other that all between them may be mapped at once."""
        return not len(rows) or int(rows.max() - rows.min()) * self._array.strides[0] <= _TOGETHER_BYTES

    def only(self, rows: NDArray[np.intp]) -> Rows:
        """These rows, in this order; nothing is copied."""
        return Rows(self._array, rows if self._order is None else self._order[rows])

    def slices(self) -> Iterator[slice]:
        """Consecutive parts of the rows, each small enough to be worked on in memory."""
        step = max(1, _BLOCK_VALUES // self.size)
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))


class UnitRows:
    """Rows divided by their Euclidean norm; zero rows stay zero. Few of them are kept in memory.

    Args:
        rows: the rows.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._kept = _unit(rows.take(slice(None))) if len(rows) * rows.size <= _KEPT_VALUES else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """Values in one row, D."""
        return self._rows.size

    def take(self, rows: NDArray[np.intp] | slice) -> NDArray[np.float64]:
        """Some rows, (n, D) float64; not to be written to."""
        return _unit(self._rows.take(rows)) if self._kept is None else self._kept[rows]

    def mean(self) -> NDArray[np.float64]:
        """Their mean, (D,)."""
        total = np.zeros(self.size)
        for part in self._rows.slices():
            total += self.take(part).sum(axis=0)
        return total / len(self)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    # Dividing a zero row by one leaves it zero.
    rows /= np.where(norms > 0, norms, 1)[:, None]
    return rows


SAME_PLACE = 0.1
"""Two images whose reference embeddings are nearer than this share of the typical distance may well coincide."""


def broken_rows(candidate: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows cannot be embeddings, (n,): non-finite, or zero or constant where the reference's are not.

    Args:
        candidate: (n, D).
        reference: (n, D), finite.
    """
    finite = np.isfinite(candidate).all(axis=1)
    lost = ~candidate.any(axis=1) & reference.any(axis=1)
    # A constant row is what an encoder answers whose int8 range collapsed. One value cannot vary.
    collapsed = constant_rows(candidate) & ~constant_rows(reference)
    broken: NDArray[np.bool_] = ~finite | lost | collapsed
    return broken


def constant_rows(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows, of (n, D), hold the same value throughout, (n,); a single value cannot vary and is none of them."""
    if rows.shape[1] == 1:
        return np.zeros(len(rows), np.bool_)
    constant: NDArray[np.bool_] = (rows == rows[:, :1]).all(axis=1)
    return constant


class RepeatFinder:
    """Finds rows that repeat an earlier row bit by bit although the reference's two rows lie apart.

    That is what a buffer gives that was not filled again. Images that are nearly the same may give the same integers,
    so the reference's rows have to be further apart than :data:`SAME_PLACE` times the typical distance, the root of
    twice the total variance.
    """

    def __init__(self, size: int) -> None:
        # Odd multipliers, one a dimension: a hash of each row in one matrix product of wrapping 64-bit integers.
        self._multipliers = np.random.default_rng(0).integers(0, 2**63, size, np.uint64) * np.uint64(2) + np.uint64(1)
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, candidate: NDArray[np.float64]) -> None:
        """Remember the next rows, (n, D)."""
        # Adding zero turns a negative zero into the other one.
        bits = (candidate + 0.0).view(np.uint64)
        mixed = bits ^ (bits >> np.uint64(29))
        self._hashes.append((mixed * self._multipliers).sum(axis=1, dtype=np.uint64))

    def repeats(self) -> list[int]:
        """Places of rows that repeat an earlier one, whatever a reference says, ascending."""
        hashes = np.concatenate([*self._hashes, np.empty(0, np.uint64)])
        _, first = np.unique(hashes, return_index=True)
        again = np.ones(len(hashes), np.bool_)
        again[first] = False
        places: list[int] = np.flatnonzero(again).tolist()
        return places

    def find(self, candidate: Rows, reference: Rows, variance: float) -> NDArray[np.intp]:
        """Rows that repeat an earlier one, ascending.

        Args:
            candidate: the rows that were added, in that order.
            reference: row by row the same images.
            variance: sum over dimensions of the reference's variance.
        """
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        earlier, later = order[again], order[again + 1]
        repeated = []
        step = max(1, (1 << 19) // candidate.size)
        for start in range(0, len(again), step):
            first, second = earlier[start : start + step], later[start : start + step]
            same = (candidate.take(first) == candidate.take(second)).all(axis=1)
            apart = reference.take(first) - reference.take(second)
            far = (apart * apart).sum(axis=1) > SAME_PLACE**2 * 2 * variance
            repeated.append(second[same & far])
        return np.sort(np.concatenate(repeated)) if repeated else np.empty(0, np.intp)
