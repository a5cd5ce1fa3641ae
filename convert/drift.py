"""Drift of a file's embeddings, with what the number of images allows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..runtime.drift import DEFAULT_K, Drift, measure
from ..runtime.drift.intervals import Interval, bootstrap_intervals
from ..runtime.drift.rows import Rows


def drift_of(embeddings: NDArray[np.float32], reference: NDArray[np.float32]) -> Drift:
    """Drift with neighbours where there are rows enough."""
    return measure(Rows(embeddings), Rows(reference), _neighbours(reference)).drift


def drift_and_intervals(
    embeddings: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[Drift, dict[str, Interval]]:
    """The same, and the 95 % intervals of the metrics that have one."""
    measurement = measure(Rows(embeddings), Rows(reference), _neighbours(reference))
    return measurement.drift, bootstrap_intervals(measurement)


def _neighbours(reference: NDArray[np.float32]) -> int | None:
    return DEFAULT_K if len(reference) > DEFAULT_K else None
