"""Statistics of an encoder's embeddings beside a reference distribution; see
:mod:`embedlite.runtime.monitor.distribution` for what they miss.

With p the share of a bin at home and q in the field, over the deciles at home of one dimension::

    psi   sum (q - p) ln(q / p), the population stability index: below 0.1 little, above 0.25 much has changed
          (N. Siddiqi, Credit Risk Scorecards, 2006)

Half a row is added to every bin that anything fell into, so that an empty one has a logarithm. Rows of the same
distribution already give about (bins - 1) (1/n + 1/m) for n rows in the field and m at home (B. Yurdakul, Statistical
Properties of Population Stability Index, 2018). What is beyond that is the excess.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..drift.rows import broken_rows
from .distribution import BINS, SCORE_BINS, ReferenceDistribution, norm
from .log_bins import quantile_bin
from .paired import variances
from .tallies import Layout, Statistics

METRICS = (
    *("psi_mean", "psi_excess", "psi_max", "norm_psi", "mean_shift_max_sigma"),
    *("spread_ratio_min", "spread_ratio_max", "score_p99", "score_p99_reference"),
)
"""Beside ``count`` and ``invalid``."""

GATES = {"psi_excess": 0.25}
"""Limits on them: an index above 0.25 is a changed population."""


def unpaired_layout(size: int) -> Layout:
    """The layout for embeddings of ``size`` values."""
    return Layout(
        counts=("rows", "invalid"),
        sums={"embedding": size, "embedding_squared": size},
        tables={"dimensions": size * BINS, "norm": BINS, "score": SCORE_BINS.count},
        maxima=(),
        worst=("score", "norm"),
    )


def add_row(statistics: Statistics, embedding: NDArray[np.float32], reference: ReferenceDistribution) -> None:
    """Add one input's embedding, (D,) or (...,) float32; one that is not finite, zero or constant counts as invalid."""
    row = embedding.reshape(-1).astype(np.float64)
    statistics.counts["rows"] += 1
    if broken_rows(row[None], reference.mean[None])[0]:
        statistics.counts["invalid"] += 1
        return
    statistics.add_to_sums({"embedding": row, "embedding_squared": row * row})
    statistics.tables["dimensions"][np.arange(row.size) * BINS + reference.bins_of(row)] += 1
    statistics.tables["norm"][reference.norm_bin_of(row)] += 1
    score = reference.score(row)
    statistics.tables["score"][SCORE_BINS.bin_of(score)] += 1
    statistics.add_worst((score, norm(row)))


def unpaired_metrics(statistics: Statistics, reference: ReferenceDistribution) -> dict[str, float | None]:
    """``count``, ``invalid`` and :data:`METRICS`: how far the crowd moved; None without a valid row.

    ``psi_max`` and ``psi_mean`` are over dimensions, ``psi_excess`` is the mean less what chance gives so many rows,
    negative where they are few; ``norm_psi`` is the norm's; ``mean_shift_max_sigma`` is the
    largest shift of a dimension's mean, ``spread_ratio_min`` and ``_max`` are of its standard deviation, both against
    the ones at home; ``score_p99`` is the upper edge of the bin that holds the 99th percentile (nearest rank) of the
    rows' z-scores.
    """
    rows, invalid = statistics.counts["rows"], statistics.counts["invalid"]
    valid = rows - invalid
    metrics: dict[str, float | None] = {"count": rows, "invalid": invalid, **dict.fromkeys(METRICS)}
    if not valid:
        return metrics
    psi = dimension_psi(statistics.tables["dimensions"], reference)
    mean = math.fsum(psi) / len(psi)
    sums = statistics.sums()
    totals, squares = sums["embedding"], sums["embedding_squared"]
    means, sigmas = [float(total / valid) for total in totals], np.sqrt(variances(totals, squares, valid))
    live = reference.sigma > 0
    shifts = np.abs(np.array(means) - reference.mean)[live] / reference.sigma[live]
    spreads = sigmas[live] / reference.sigma[live]
    return metrics | {
        "psi_mean": mean,
        "psi_excess": mean - psi_moments(valid, reference)[0],
        "psi_max": max(psi),
        "norm_psi": _psi(reference.norm_counts[0], statistics.tables["norm"]),
        "mean_shift_max_sigma": float(shifts.max()) if live.any() else None,
        "spread_ratio_min": float(spreads.min()) if live.any() else None,
        "spread_ratio_max": float(spreads.max()) if live.any() else None,
        "score_p99": SCORE_BINS.bounds(quantile_bin(statistics.tables["score"], Fraction(99, 100)))[1],
        "score_p99_reference": SCORE_BINS.bounds(quantile_bin(reference.score_counts, Fraction(99, 100)))[1],
    }


def dimension_psi(table: NDArray[np.int64], reference: ReferenceDistribution) -> list[float]:
    """The stability index of each dimension, from the table ``dimensions``."""
    return [_psi(home, there) for home, there in zip(reference.counts, table.reshape(-1, BINS), strict=True)]


def psi_moments(rows: int, reference: ReferenceDistribution) -> tuple[float, float]:
    """Mean and standard deviation of an index without any change: a chi-squared variable times 1/n + 1/m."""
    unit = 1 / rows + 1 / reference.rows
    return (BINS - 1) * unit, math.sqrt(2 * (BINS - 1)) * unit


def _psi(home: NDArray[np.int64], field: NDArray[np.int64]) -> float:
    used = (home + field) > 0
    p, q = home[used] + 0.5, field[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return math.fsum((q - p) * np.log(q / p))
