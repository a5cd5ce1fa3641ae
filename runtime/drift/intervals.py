"""How sure the figures are: 95 % bootstrap intervals over rows.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, percentile intervals (chapter 13): rows are drawn with
replacement as often as there are rows, and each figure is computed again. Of more than 1,024 rows not the rows are
drawn but the groups that they were dealt to, which have the same mean and, per row, the same variance. Everything is
drawn from a fixed seed: the same rows give the same intervals.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import DEFAULT_K, Drift, measure
from .compare import Measurement
from .metrics import sqnr_db
from .moments import GROUPS, PairedMoments
from .rows import Rows

Interval = tuple[float, float]

REPLICATES = 1000
COVERAGE = 0.95
_Z = 1.959963984540054
_Z_ONE_SIDED = 1.6448536269514722
_CHUNK_VALUES = 1 << 15


def bootstrap_intervals(measurement: Measurement) -> dict[str, Interval]:
    """Intervals of the metrics that have one, by name; extremes (the minimum, the largest difference) have none.

    Args:
        measurement: the metrics and the rows' figures.
    """
    count, drift = measurement.drift.count, measurement.drift
    found: dict[str, Interval] = {}
    low, high = wilson_interval(drift.invalid, count)
    found["invalid"] = (low * count, high * count)
    if measurement.moments is None:
        return found
    rows = np.flatnonzero(measurement.valid)
    weights = draw(min(len(rows), GROUPS))
    found["cosine_p1"] = _quantile_interval(measurement.cosines[rows], 0.01, drift.cosine_p1)
    _add(found, "cosine_mean", drawn_means(measurement.cosines[rows], weights), drift.cosine_mean)
    if np.isfinite(measurement.norm_ratios[rows]).all():
        _add(found, "norm_ratio_mean", drawn_means(measurement.norm_ratios[rows], weights), drift.norm_ratio_mean)
    signal, noise = drawn_means(measurement.signal[rows], weights), drawn_means(measurement.noise[rows], weights)
    if (signal > 0).all() and (noise > 0).all():
        ratios = np.array([sqnr_db(s, n) for s, n in zip(signal, noise, strict=True)])
        _add(found, "sqnr_db", ratios, drift.sqnr_db)
    bias, gain = _dimensions(measurement.moments)
    _add(found, "bias_max_sigma", bias, drift.bias_max_sigma)
    _add(found, "gain_error_max", gain, drift.gain_error_max)
    if measurement.neighbours is not None:
        kept = measurement.neighbours
        weights = draw(min(len(kept.queries), weights.shape[1]))
        _add(found, "knn_overlap_self", drawn_means(kept.kept_self[:, -1], weights), drift.knn_overlap_self)
        _add(found, "knn_overlap_cross", drawn_means(kept.kept_cross[:, -1], weights), drift.knn_overlap_cross)
    return found


def draw(groups: int, replicates: int = REPLICATES) -> NDArray[np.float64]:
    """How often each group was drawn, (replicates, groups) float64; every row sums to ``groups``."""
    shares = np.full(groups, 1 / groups)
    return np.random.default_rng(0).multinomial(groups, shares, replicates).astype(np.float64)


def drawn_means(
    values: NDArray[np.float64], weights: NDArray[np.float64], places: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """The mean of some rows' values in every replicate, (replicates,); NaN where none of them was drawn.

    Args:
        values: (n,) of the rows.
        weights: (replicates, groups), of :func:`draw`.
        places: (n,) the rows' places, which are dealt to the groups in turn; default 0 to n - 1.
    """
    groups = weights.shape[1]
    dealt = (np.arange(len(values)) if places is None else places) % groups
    sums = np.stack([np.bincount(dealt, part, groups) for part in (values, np.ones(len(values)))])
    total, count = sums @ weights.T
    with np.errstate(invalid="ignore", divide="ignore"):
        means: NDArray[np.float64] = total / count
    return means


def interval_around(replicates: NDArray[np.float64], value: float) -> Interval | None:
    """The middle 95 % of the replicates, widened to hold the value itself; None where one in ten is undefined."""
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < 0.9 * len(replicates) or not math.isfinite(value):
        return None
    low, high = np.percentile(defined, [50 * (1 - COVERAGE), 50 * (1 + COVERAGE)])
    # The largest of many dimensions is drawn larger than it is.
    return min(float(low), value), max(float(high), value)


def wilson_interval(hits: int, trials: int) -> Interval:
    """95 % interval of a share: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927."""
    return _wilson(hits, trials, _Z, -1), _wilson(hits, trials, _Z, 1)


def wilson_upper(hits: int, trials: int) -> float:
    """One-sided 95 % upper bound of a share, by the same formula."""
    return _wilson(hits, trials, _Z_ONE_SIDED, 1)


def _wilson(hits: int, trials: int, z: float, side: int) -> float:
    share, square = hits / trials, z * z / trials
    if hits == (0 if side < 0 else trials):
        return share
    spread = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return min(1.0, max(0.0, (share + square / 2 + side * spread) / (1 + square)))


def _add(found: dict[str, Interval], name: str, replicates: NDArray[np.float64], value: float | None) -> None:
    interval = None if value is None else interval_around(replicates, value)
    if interval is not None:
        found[name] = interval


def _quantile_interval(values: NDArray[np.float64], share: float, value: float | None) -> Interval:
    """The bootstrap's distribution of an order statistic, drawn without drawing rows.

    The m-th smallest of n draws with replacement is the value whose rank is ceil(n U), U being the m-th smallest of n
    uniform numbers, which is Beta(m, n - m + 1).
    """
    ordered, count = np.sort(values), len(values)
    place = max(1, math.ceil(share * count))
    uniform = np.random.default_rng(0).beta(place, count - place + 1, REPLICATES)
    ranks = np.clip(np.ceil(uniform * count).astype(np.intp) - 1, 0, count - 1)
    assert value is not None
    interval = interval_around(ordered[ranks], value)
    assert interval is not None
    return interval


def _dimensions(moments: PairedMoments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest bias and the largest gain error in every replicate."""
    bias, gain = [], []
    weights = draw(len(moments.counts))
    step = max(1, _CHUNK_VALUES // moments.sums.shape[2])
    for start in range(0, len(weights), step):
        told, slopes, _, _ = moments.dimensions(weights[start : start + step])
        bias.append(np.abs(told).max(axis=1))
        # A dimension without a gain has no error either.
        errors = np.abs(np.where(np.isnan(slopes), 1, slopes) - 1).max(axis=1)
        gain.append(np.where(np.isnan(slopes).all(axis=1), np.nan, errors))
    return np.concatenate(bias), np.concatenate(gain)


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
