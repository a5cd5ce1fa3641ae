"""A map from one model's embeddings to another's, fitted on pairs: a rotation, or ridge regression.

Everything is made of sums over the rows (first and second moments), so that a million pairs need one pass and no
memory. Rotation: Schönemann, A Generalized Solution of the Orthogonal Procrustes Problem, 1966, with a scale and a
shift. Ridge: Hoerl and Kennard, Ridge Regression, 1970, around the mean. Which of them, and how much ridge, is decided
by five-fold cross-validation on the pairs that are fitted; nothing else is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.moments import LARGEST_MATRIX
from ...runtime.drift.rows import Rows

FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shares of the mean variance of a dimension that are added to the diagonal."""

ORTHOGONAL = "orthogonal"
RIDGE = "ridge"

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Fitted:
    """A map: ``x @ matrix + offset``.

    Attributes:
        kind: :data:`ORTHOGONAL` or :data:`RIDGE`.
        ridge: the share on the diagonal; 0 for a rotation.
        matrix: (D, E) float64.
        offset: (E,) float64.
        pairs: that it was fitted on.
    """

    kind: str
    ridge: float
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    pairs: int


@dataclass
class _Sums:
    """Sums over rows of x and y: how many, x, y, x x, x y, and y y summed over dimensions."""

    count: float
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    xx: NDArray[np.float64]
    xy: NDArray[np.float64]
    yy: float

    @classmethod
    def nothing(cls, size: int, other: int) -> _Sums:
        return cls(0.0, np.zeros(size), np.zeros(other), np.zeros((size, size)), np.zeros((size, other)), 0.0)

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.count += len(x)
        self.x += x.sum(axis=0)
        self.y += y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += float((y * y).sum())

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def error(self, affine: Affine) -> float:
        """The squared error of a map on these rows, summed."""
        matrix, offset = affine
        predicted = float((matrix * (self.xx @ matrix)).sum()) + self.count * float(offset @ offset)
        predicted += 2 * float((self.x @ matrix) @ offset)
        return self.yy + predicted - 2 * float((matrix * self.xy).sum()) - 2 * float(offset @ self.y)


def fit_map(candidate: Rows, gallery: Rows, pairs: NDArray[np.intp]) -> Fitted | None:
    """The map from the candidate's rows to the gallery's that does best in cross-validation.

    Args:
        candidate, gallery: paired rows.
        pairs: those that may be looked at, in random order.

    Returns:
        None if there are too many dimensions for it, or fewer pairs than folds.
    """
    if max(candidate.size, gallery.size) > LARGEST_MATRIX or len(pairs) < 2 * FOLDS:
        return None
    folds = [_Sums.nothing(candidate.size, gallery.size) for _ in range(FOLDS)]
    shift_x, shift_y = candidate.take(pairs[:1])[0], gallery.take(pairs[:1])[0]
    for fold, sums in enumerate(folds):
        # In the order of the file, which is how a mapped one is read fast.
        mine = np.sort(pairs[fold::FOLDS])
        x_rows, y_rows = candidate.only(mine), gallery.only(mine)
        for part in x_rows.slices():
            x, y = x_rows.take(part), y_rows.take(part)
            # Relative to a row: sums of squares then do not drown the variance.
            sums.add(x - shift_x, y - shift_y)
    whole = sum(folds[1:], folds[0])
    tried = (
        [(ORTHOGONAL, 0.0), *((RIDGE, ridge) for ridge in RIDGES)]
        if candidate.size == gallery.size
        else [(RIDGE, ridge) for ridge in RIDGES]
    )
    kind, ridge = min(tried, key=lambda one: _validated(folds, *one))
    matrix, offset = _fit(whole, kind, ridge)
    return Fitted(kind, ridge, matrix, offset + shift_y - shift_x @ matrix, len(pairs))


def _validated(folds: Sequence[_Sums], kind: str, ridge: float) -> float:
    total = 0.0
    for place, left_out in enumerate(folds):
        others = [fold for number, fold in enumerate(folds) if number != place]
        total += left_out.error(_fit(sum(others[1:], others[0]), kind, ridge))
    return total


def _fit(sums: _Sums, kind: str, ridge: float) -> Affine:
    mean_x, mean_y = sums.x / sums.count, sums.y / sums.count
    xx = sums.xx - sums.count * np.outer(mean_x, mean_x)
    xy = sums.xy - sums.count * np.outer(mean_x, mean_y)
    if kind == ORTHOGONAL:
        left, spread, right = np.linalg.svd(xy)
        trace = float(np.trace(xx))
        matrix = left @ right * (float(spread.sum()) / trace if trace > 0 else 1.0)
    else:
        amount = ridge * float(np.trace(xx)) / len(xx)
        matrix = np.linalg.solve(xx + (amount or 1.0) * np.eye(len(xx)), xy)
    return matrix, mean_y - mean_x @ matrix


class MappedRows(Rows):
    """Rows as a map gives them; a block at a time.

    Args:
        rows: the rows.
        fitted: the map.
    """

    def __init__(self, rows: Rows, fitted: Fitted) -> None:
        self._rows, self._fitted = rows, fitted

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """Values in one row."""
        return int(self._fitted.matrix.shape[1])

    def take(self, rows: NDArray[np.intp] | slice) -> NDArray[np.float64]:
        """Some rows as a new (n, E) float64 array."""
        mapped: NDArray[np.float64] = self._rows.take(rows) @ self._fitted.matrix + self._fitted.offset
        return mapped

    def only(self, rows: NDArray[np.intp]) -> Rows:
        """These rows, in this order; nothing is copied."""
        return MappedRows(self._rows.only(rows), self._fitted)
