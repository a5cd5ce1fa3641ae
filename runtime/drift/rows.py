"""Embeddings as rows that are read in blocks, so that a million of them need not be in memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pages import give_back

_BLOCK_VALUES = 1 << 19
_KEPT_VALUES = 1 << 23
_LARGEST = float(np.finfo(np.float32).max)


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
        """Some rows as a new (n, D) float64 array; what float32 cannot hold is infinite, as it would be on a device."""
        if self._order is not None:
            rows = self._order[rows]
        taken = np.array(self._array[rows], np.float64)
        if self._mapping is not None:
            give_back(self._mapping, 0, len(self._mapping))
        if self._array.dtype.itemsize > np.dtype(np.float32).itemsize:
            np.copyto(taken, np.inf, where=np.abs(taken) > _LARGEST)
        return taken

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
