"""Where the points of the map lie: both embeddings in one plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.compare import Measurement
from ...runtime.drift.report import WORST_ROWS

POINTS = 500
"""Rows that are drawn; of more, every n-th, and the worst."""


def project(
    measurement: Measurement, ids: Sequence[str] | NDArray[np.str_], classes: NDArray[np.str_] | None = None
) -> dict[str, Any] | None:
    """Reference and candidate in the plane in which the reference varies most; None with fewer than three valid rows.

    Principal components (Pearson, On Lines and Planes of Closest Fit, 1901) of the drawn rows of the reference; the
    candidate's rows are laid into the same plane: a line between two points is the part of the drift that lies in it.

    Args:
        measurement: of paired rows.
        ids: of all rows, (N,).
        classes: what each row shows, (N,); None where nobody knows.

    Returns:
        ``ids``, ``reference`` and ``candidate`` (n pairs of coordinates), ``explained`` (each axis' share of variance),
        ``classes`` (n texts, or None).
    """
    count = len(measurement.reference)
    if count < 3 or measurement.reference.size < 2:
        return None
    kept = np.flatnonzero(measurement.valid)
    worst = np.argsort(measurement.cosines[kept], kind="stable")[:WORST_ROWS]
    drawn = np.union1d(np.linspace(0, count - 1, min(count, POINTS)).astype(np.intp), worst)
    rows = measurement.reference.take(drawn)
    centre = rows.mean(axis=0)
    _, spread, axes = np.linalg.svd(rows - centre, full_matrices=False)
    plane = axes[:2]
    # A singular vector's sign is arbitrary; this one does not depend on the library.
    strongest = np.take_along_axis(plane, np.abs(plane).argmax(axis=1)[:, None], axis=1)
    plane = plane * np.where(strongest < 0, -1, 1)
    total = float((spread * spread).sum())
    return {
        "ids": [str(ids[row]) for row in kept[drawn]],
        "reference": ((rows - centre) @ plane.T).tolist(),
        "candidate": ((measurement.candidate.take(drawn) - centre) @ plane.T).tolist(),
        "classes": None if classes is None else [str(classes[row]) for row in kept[drawn]],
        "explained": [float(value * value) / total if total > 0 else 0.0 for value in spread[:2]],
    }
