"""Vectors that say nothing: zero, constant or repeated ones, and embeddings that have collapsed onto one direction.

No comparison with a reference shows them where the reference is as silent, and a gallery of them finds anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rows import RepeatFinder, Rows, constant_rows

_COLLAPSED = 0.99999
"""Mean cosine of different vectors. Photos that a network sees at a wrong scale reach it, right ones do not."""

_LEAST = 3
_MOST_SHARE = 0.1
"""A file of whose vectors more say nothing is not worth shipping."""


@dataclass(frozen=True)
class Silent:
    """How many of some vectors say nothing; each is counted once.

    Attributes:
        count: all vectors.
        zero: zero throughout.
        constant: another value throughout.
        repeated: bit by bit an earlier one, and neither of these.
        collapsed: whether the others all have the same direction but for rounding.
        first: the place of the first that is zero, constant or repeated; None if none is.
    """

    count: int
    zero: int
    constant: int
    repeated: int
    collapsed: bool
    first: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything to say."""
        return self.collapsed or self.zero + self.constant + self.repeated > 0

    @property
    def mostly(self) -> bool:
        """Whether so many say nothing that the file is of no use on such inputs."""
        return self.collapsed or self.zero + self.constant + self.repeated > _MOST_SHARE * self.count

    def __str__(self) -> str:
        kinds = {"zero": self.zero, "constant": self.constant, "repeated": self.repeated}
        counted = [f"{number} {kind}" for kind, number in kinds.items() if number]
        counted = [f"{', '.join(counted)} of {self.count} vectors"] if counted else []
        collapsed = [f"collapsed: {self.count} vectors of one direction"] if self.collapsed else []
        return ", ".join([*counted, *collapsed]) or "none"


def count_silent(vectors: NDArray[Any] | Rows) -> Silent:
    """Count them; rows that hold NaN or infinity are left out, as others count those.

    Args:
        vectors: (N, D) or (N, ...), in blocks if they are :class:`Rows`.
    """
    rows = vectors if isinstance(vectors, Rows) else Rows(np.asarray(vectors))
    finder, zeros, constants, kept = RepeatFinder(rows.size), list[int](), list[int](), list[int]()
    total, place = np.zeros(rows.size), 0
    for part in rows.slices():
        block = rows.take(part)
        finite = np.isfinite(block).all(axis=1)
        zero = ~block.any(axis=1)
        constant = constant_rows(block) & ~zero & finite
        alive = block[finite & ~zero & ~constant]
        zeros += (place + np.flatnonzero(zero)).tolist()
        constants += (place + np.flatnonzero(constant)).tolist()
        kept += (place + np.flatnonzero(finite & ~zero & ~constant)).tolist()
        finder.add(alive)
        total += (alive / np.linalg.norm(alive, axis=1, keepdims=True)).sum(axis=0)
        place += len(block)
    repeats = [kept[index] for index in finder.repeats()]
    count = len(kept)
    collapsed = count - len(repeats) >= _LEAST and _one_direction(total, count)
    first = min((*zeros, *constants, *repeats), default=None)
    return Silent(len(rows), len(zeros), len(constants), len(repeats), collapsed, first)


def have_collapsed(rows: Rows) -> bool:
    """Whether vectors all have one direction but for rounding; those without a direction are left out."""
    total, count = np.zeros(rows.size), 0
    for part in rows.slices():
        block = rows.take(part)
        norms = np.linalg.norm(block, axis=1)
        alive = np.isfinite(norms) & (norms > 0)
        total += (block[alive] / norms[alive, None]).sum(axis=0)
        count += int(alive.sum())
    return _one_direction(total, count)


def _one_direction(total: NDArray[np.float64], count: int) -> bool:
    """Whether ``count`` unit vectors of this sum have one direction but for rounding."""
    return len(total) > 1 and count >= _LEAST and (float(total @ total) / count - 1) / (count - 1) > _COLLAPSED
