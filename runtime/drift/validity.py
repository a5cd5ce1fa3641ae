"""Rows that are broken whatever the averages say: non-finite, or zero, constant or repeated without a reason."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .rows import Rows

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
    collapsed = _constant(candidate) & ~_constant(reference)
    broken: NDArray[np.bool_] = ~finite | lost | collapsed
    return broken


def _constant(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    if rows.shape[1] == 1:
        return np.zeros(len(rows), np.bool_)
    constant: NDArray[np.bool_] = (rows == rows[:, :1]).all(axis=1)
    return constant


class RepeatFinder:
    """Finds rows that repeat an earlier row bit by bit although the reference's two rows lie apart.

    That is what a buffer gives that was not filled anew. Images that are nearly the same may give the same integers,
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
