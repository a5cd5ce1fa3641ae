"""Statistics of an encoder's embeddings beside the reference model's of the same inputs.

The metrics are the drift report's (docs/drift.md), as far as they follow from sums and histograms; the neighbours do
not, for they need the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .histogram import LogBins, quantile_bin
from .statistics import Layout, Statistics

DISTANCE_BINS = LogBins(-32, 1, 32)
"""Of 1 - cosine, from 2e-10 to 2; each at most 3.2 % of its values wide."""

RATIO_BINS = LogBins(-2, 2, 512)
"""Of candidate norm / reference norm, from 1/4 to 4; each at most 0.2 % of its values wide."""

QUANTILES = (Fraction(1, 2), Fraction(9, 10), Fraction(99, 100), Fraction(999, 1000))


def paired_layout(size: int) -> Layout:
    """The layout for embeddings of ``size`` values."""
    sums = dict.fromkeys(("noise", "noise_squared", "reference", "reference_squared"), size)
    return Layout(
        counts=("rows", "invalid", "norm_ratios"),
        sums={**sums, "cosine_distance": 1, "norm_ratio": 1},
        tables={"cosine_distance": DISTANCE_BINS.count, "norm_ratio": RATIO_BINS.count},
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
    if _is_invalid(c, r):
        statistics.counts["invalid"] += 1
        return
    noise = c - r
    c_power, r_power, product = (math.fsum(values.tolist()) for values in (c * c, r * r, c * r))
    distance, largest = _cosine_distance(product, c_power, r_power), float(np.abs(noise).max())
    ratio = math.sqrt(c_power / r_power) if r_power > 0 else 0.0
    rows = {"noise": noise, "noise_squared": noise * noise, "reference": r, "reference_squared": r * r}
    statistics.add_to_sums(rows | {"cosine_distance": np.array([distance]), "norm_ratio": np.array([ratio])})
    statistics.tables["cosine_distance"][DISTANCE_BINS.bin_of(distance)] += 1
    if r_power > 0:
        statistics.counts["norm_ratios"] += 1
        statistics.tables["norm_ratio"][RATIO_BINS.bin_of(ratio)] += 1
    statistics.maxima["max_abs"] = max(statistics.maxima["max_abs"], largest)
    statistics.add_worst((distance, largest))


def paired_metrics(statistics: Statistics) -> dict[str, float | None]:
    """The metrics, named as in :class:`embedlite.runtime.drift.Drift`; None without a value, infinite if unbounded.

    ``cosine_p1`` is the lower edge of the histogram's bin that holds the first percentile (nearest rank).
    """
    rows, invalid = statistics.counts["rows"], statistics.counts["invalid"]
    valid = rows - invalid
    names = ("cosine_mean", "cosine_p1", "cosine_min", "sqnr_db", "max_abs", "bias_max_sigma", "norm_ratio_mean")
    metrics: dict[str, float | None] = {"count": rows, "invalid": invalid, **dict.fromkeys(names)}
    if not valid:
        return metrics
    sums = statistics.sums()
    ratios = statistics.counts["norm_ratios"]
    return metrics | {
        "cosine_mean": float(1 - sums["cosine_distance"][0] / valid),
        "cosine_p1": 1 - distance_bounds(statistics, Fraction(99, 100))[1],
        "cosine_min": 1 - statistics.worst[0][0],
        "sqnr_db": _sqnr_db(sum(sums["reference_squared"], Fraction()), sum(sums["noise_squared"], Fraction())),
        "max_abs": statistics.maxima["max_abs"],
        "bias_max_sigma": _bias_max_sigma(sums, valid),
        "norm_ratio_mean": float(sums["norm_ratio"][0] / ratios) if ratios else None,
    }


def paired_quantiles(statistics: Statistics) -> dict[str, list[dict[str, float]]]:
    """Quantiles of 1 - cosine and of the norm ratio (nearest rank), each as the edges of the bin it lies in."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, bins, highest in (("cosine_distance", DISTANCE_BINS, 2.0), ("norm_ratio", RATIO_BINS, math.inf)):
        table = statistics.tables[name]
        found[name] = []
        for share in QUANTILES if table.any() else ():
            low, high = bins.bounds(quantile_bin(table, share))
            found[name].append({"share": float(share), "low": low, "high": min(high, highest)})
    return found


def distance_bounds(statistics: Statistics, share: Fraction) -> tuple[float, float]:
    """Edges of the bin that holds a quantile of 1 - cosine, which is never above 2."""
    low, high = DISTANCE_BINS.bounds(quantile_bin(statistics.tables["cosine_distance"], share))
    return low, min(high, 2.0)


def is_flat(row: NDArray[Any]) -> bool:
    """Whether a row is constant; one value cannot vary, so it is flat only as zero."""
    return bool(np.ptp(row) == 0) if row.size > 1 else not row.any()


def _is_invalid(c: NDArray[np.float64], r: NDArray[np.float64]) -> bool:
    """Non-finite, or zero or constant where the reference is not."""
    if not np.isfinite(c).all():
        return True
    return (is_flat(c) and not is_flat(r)) or (not c.any() and bool(r.any()))


def _cosine_distance(product: float, c_power: float, r_power: float) -> float:
    """1 - cosine within [0, 2]; 0 for two zero rows, 1 if one of them is zero."""
    if c_power == 0 or r_power == 0:
        return 0.0 if c_power == r_power else 1.0
    return min(max(1 - product / math.sqrt(c_power * r_power), 0.0), 2.0)


def _sqnr_db(signal: Fraction, noise: Fraction) -> float | None:
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _bias_max_sigma(sums: dict[str, list[Fraction]], valid: int) -> float:
    biases = [abs(float(total / valid)) for total in sums["noise"]]
    sigmas = standard_deviations(sums["reference"], sums["reference_squared"], valid)
    # A dimension that is dead in the reference has no spread of its own; the typical one stands in.
    typical = math.sqrt(math.fsum(sigma * sigma for sigma in sigmas) / len(sigmas))
    if typical == 0:
        return math.inf if any(biases) else 0.0
    return max(bias / (sigma or typical) for bias, sigma in zip(biases, sigmas, strict=True))


def standard_deviations(totals: Sequence[Fraction], squares: Sequence[Fraction], count: int) -> list[float]:
    """From exact sums of values and of their squares: nothing cancels, whatever the mean."""
    return [math.sqrt(square / count - (total / count) ** 2) for total, square in zip(totals, squares, strict=True)]
