"""Statistics of an encoder's embeddings beside the reference model's of the same inputs.

The metrics are the drift report's (docs/drift.md), as far as they follow from sums and a histogram. Neighbours,
decisions and repeated rows do not, for they need the vectors.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..drift.metrics import METRICS as ALL_METRICS
from ..drift.metrics import gain_error_max, sqnr_db
from ..drift.moments import HARDLY, dead_dimensions, shift_and_gain
from ..drift.rows import broken_rows
from .log_bins import LogBins, quantile_bin
from .tallies import Layout, Statistics

DISTANCE_BINS = LogBins(-32, 1, 32)
"""Of 1 - cosine, from 2e-10 to 2; each at most 3.2 % of its values wide."""

METRICS = tuple(name for name, metric in ALL_METRICS.items() if metric.monitored and name not in ("count", "invalid"))
"""Beside ``count`` and ``invalid``; named as in :class:`embedlite.runtime.drift.Drift`."""


def paired_layout(size: int) -> Layout:
    """The layout for embeddings of ``size`` values."""
    names = ("candidate", "candidate_squared", "reference", "reference_squared", "product")
    return Layout(
        counts=("rows", "invalid", "norm_ratios"),
        sums={**dict.fromkeys(names, size), "cosine_distance": 1, "norm_ratio": 1},
        tables={"cosine_distance": DISTANCE_BINS.count},
        maxima=("max_abs",),
        worst=("cosine_distance", "max_abs"),
    )


def add_pair(statistics: Statistics, candidate: NDArray[np.float32], reference: NDArray[np.float32]) -> None:
    """Add one input's two embeddings.

    Sums over an embedding's values are rounded once (``math.fsum`` of products that float64 holds exactly), so that
    every machine finds the same figures for the same vectors.

    Args:
        statistics: of :func:`paired_layout`.
        candidate: (D,) or (...,) float32; may be anything.
        reference: the same shape; finite.
    """
    c, r = (row.reshape(-1).astype(np.float64) for row in (candidate, reference))
    statistics.counts["rows"] += 1
    if broken_rows(c[None], r[None])[0]:
        statistics.counts["invalid"] += 1
        return
    cc, rr, cr = c * c, r * r, c * r
    c_power, r_power, product = (math.fsum(values.tolist()) for values in (cc, rr, cr))
    distance, largest = _cosine_distance(product, c_power, r_power), float(np.abs(c - r).max())
    ratio = math.sqrt(c_power / r_power) if r_power > 0 else 0.0
    rows = {"candidate": c, "candidate_squared": cc, "reference": r, "reference_squared": rr, "product": cr}
    statistics.add_to_sums(rows | {"cosine_distance": np.array([distance]), "norm_ratio": np.array([ratio])})
    statistics.counts["norm_ratios"] += r_power > 0
    statistics.tables["cosine_distance"][DISTANCE_BINS.bin_of(distance)] += 1
    statistics.maxima["max_abs"] = max(statistics.maxima["max_abs"], largest)
    statistics.add_worst((distance, largest))


def paired_metrics(statistics: Statistics) -> dict[str, float | None]:
    """``count``, ``invalid`` and :data:`METRICS`; None without a value, infinite if unbounded.

    ``cosine_p1`` is the lower edge of the histogram's bin that holds the first percentile (nearest rank), or the worst
    row's if that is nearer; all others are rounded only after the last addition.
    """
    rows, invalid = statistics.counts["rows"], statistics.counts["invalid"]
    valid = rows - invalid
    metrics: dict[str, float | None] = {"count": rows, "invalid": invalid, **dict.fromkeys(METRICS)}
    if not valid:
        return metrics
    sums = statistics.sums()
    signal = sum(sums["reference_squared"], Fraction())
    noise = signal + sum(sums["candidate_squared"], Fraction()) - 2 * sum(sums["product"], Fraction())
    ratios = statistics.counts["norm_ratios"]
    farthest = DISTANCE_BINS.bounds(quantile_bin(statistics.tables["cosine_distance"], Fraction(99, 100)))[1]
    return metrics | {
        "cosine_mean": float(1 - sums["cosine_distance"][0] / valid),
        "cosine_p1": 1 - min(farthest, statistics.worst[0][0]),
        "cosine_min": 1 - statistics.worst[0][0],
        "sqnr_db": sqnr_db(float(signal), float(noise)),
        "max_abs": statistics.maxima["max_abs"],
        "norm_ratio_mean": float(sums["norm_ratio"][0] / ratios) if ratios else None,
        **_dimensions(sums, valid, float(signal / valid)),
    }


def _dimensions(sums: dict[str, list[Fraction]], count: int, power: float) -> dict[str, float | None]:
    """What is told in units of the reference's spread; nothing while the inputs hardly varied.

    After one input, or before one scene, there is no crowd that could have shifted, and the rounding of int8, always
    the same, is many of the tiny deviations that there are. ``power`` is the mean of the reference's squared norms.
    """
    c, r = sums["candidate"], sums["reference"]
    var_r = variances(r, sums["reference_squared"], count)
    if var_r.sum() <= HARDLY**2 * power:
        return {}
    var_c = variances(c, sums["candidate_squared"], count)
    bias = np.array([float((mine - theirs) / count) for mine, theirs in zip(c, r, strict=True)])
    products = zip(sums["product"], c, r, strict=True)
    covariance = np.array([float(product / count - mine * theirs / count**2) for product, mine, theirs in products])
    told, (gain,), (sigma_r,), (sigma_c,) = shift_and_gain(bias[None], var_r[None], var_c[None], covariance[None])
    return {
        "bias_max_sigma": float(np.abs(told).max()),
        "gain_error_max": gain_error_max(gain),
        "dead_dimensions": len(dead_dimensions(gain, sigma_r, sigma_c)),
    }


def variances(totals: list[Fraction], squares: list[Fraction], count: int) -> NDArray[np.float64]:
    """(D,) from exact sums of values and of their squares: nothing cancels, whatever the mean."""
    return np.array([float(s / count - (t / count) ** 2) for t, s in zip(totals, squares, strict=True)])


def _cosine_distance(product: float, c_power: float, r_power: float) -> float:
    """1 - cosine within [0, 2]; 0 for two zero rows, 1 if one of them is zero."""
    if c_power == 0 or r_power == 0:
        return 0.0 if c_power == r_power else 1.0
    return min(max(1 - product / math.sqrt(c_power * r_power), 0.0), 2.0)
