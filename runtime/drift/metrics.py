"""The table of metrics: one row each, read by everything that computes, judges, writes or explains them.

A metric is added here and nowhere else: a field of :class:`Drift` if it follows from the paired rows, an entry of
``_OF_PAIRS`` if it follows from pairs of images. The terminal, the JSON, the page, JUnit, ``--gate``, ``--max-drift``
and the tables of docs/drift.md follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .neighbours import NeighbourOverlap

Unit = Literal["count", "share", "dB", ""]

Source = Literal["rows", "similarities", "decisions", "retrieval"]
"""What a metric is computed from: :class:`PairedRows`; the similarities of impostor pairs, reference and candidate;
:class:`embedlite.runtime.drift.decisions.Decisions`; :class:`embedlite.runtime.drift.labelled.retrieval.Retrieval`."""


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        title: what the page calls it.
        meaning: half a line for people who do not know it.
        definition: the formula, for docs/drift.md, with r the reference and c the candidate.
        compute: from what ``source`` names; None where it has no value.
        unit: how it is written, see :mod:`embedlite.runtime.drift.wording`.
        at_most: whether it must not exceed its limit; else it must not fall below it.
        gate: the default limit; None without one.
        why: the reason for that limit, for docs/drift.md.
        labelled: whether the default limit applies only where labels say what the same thing is.
        information: whether it is told and gates nothing.
        monitored: whether a monitor in the field can tell it from sums, without keeping vectors.
        unbounded: what null stands for in a saved report whose rows are not all identical; None for no value.
        source: what computes it.
        figure: the figure of retrieval whose loss it is; empty for others.
        name: in JSON, ``--gate`` and Python; set by the table.
    """

    title: str
    meaning: str
    definition: str
    compute: Callable[[Any], float | None]
    unit: Unit = ""
    at_most: bool = False
    gate: float | None = None
    why: str = ""
    labelled: bool = False
    information: bool = False
    monitored: bool = False
    unbounded: float | None = None
    source: Source = "rows"
    figure: str = ""
    name: str = ""


@dataclass(frozen=True)
class PairedRows:
    """What metrics are computed from; of the valid rows but for the counts.

    Attributes:
        count, invalid: of all rows.
        cosines, norm_ratios: (N,) of each row; a ratio is NaN or infinite where the reference is zero.
        signal, noise: sums of r² and of (c − r)².
        max_abs: largest absolute difference.
        bias, gain: (D,) shift of each dimension in standard deviations, and its slope, NaN where it has none.
        dead: dimensions that the candidate no longer uses.
        cka, procrustes: see :meth:`embedlite.runtime.drift.moments.PairedMoments.similarity`.
        neighbours: None where k or the rows were too few.
        k: how many neighbours were compared; None likewise.
    """

    count: int
    invalid: int
    cosines: NDArray[np.float64]
    norm_ratios: NDArray[np.float64]
    signal: float
    noise: float
    max_abs: float
    bias: NDArray[np.float64]
    gain: NDArray[np.float64]
    dead: int
    cka: float | None
    procrustes: float | None
    neighbours: NeighbourOverlap | None
    k: int | None


def sqnr_db(signal: float, noise: float) -> float | None:
    """The signal-to-quantization-noise ratio, 10 log10(signal / noise) of two sums of squares, in decibels.

    None without noise: the two are identical. Minus infinity without a signal, or if the noise is not finite.
    """
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf


def ranked_db(sqnr: float | None) -> float:
    """An SQNR to compare by: identical is better than any figure."""
    return math.inf if sqnr is None else sqnr


def gain_error_max(gain: NDArray[np.float64]) -> float | None:
    """Largest distance of a gain from 1; None if no dimension has one."""
    known = gain[~np.isnan(gain)]
    return float(np.abs(known - 1).max()) if len(known) else None


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None where one side does not vary.

    Spearman, The Proof and Measurement of Association between Two Things, 1904.
    """
    ranks = np.stack([_ranks(one), _ranks(other)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    return float(ranks[0] @ ranks[1] / (norms[0] * norms[1])) if norms.all() else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return mean_ranks[place]


def _mean_ratio(rows: PairedRows) -> float | None:
    """Over rows whose reference has a length; infinite if only the candidate's ever have one."""
    known = rows.norm_ratios[np.isfinite(rows.norm_ratios)]
    if len(known):
        return float(known.mean())
    return math.inf if np.isinf(rows.norm_ratios).any() else None


def _kept(side: str) -> Callable[[PairedRows], float | None]:
    """The mean share of neighbours kept, of all k."""
    return lambda rows: (
        None if rows.neighbours is None else float(getattr(rows.neighbours, f"kept_{side}")[:, -1].mean())
    )


def _row(title: str, meaning: str, definition: str, compute: Callable[[PairedRows], float | None], **more: Any) -> Any:
    return field(metadata={"metric": Metric(title, meaning, definition, compute, **more)})


@dataclass(frozen=True)
class Drift:
    """The metrics of paired rows, each field a row of :data:`METRICS`, which says what it means.

    None where a metric has no value for these rows (``sqnr_db`` where they are identical), infinite where it is
    unbounded. All but ``count`` and ``invalid`` are over the valid rows.
    """

    count: int = _row(
        "Rows", "compared", "rows compared", lambda rows: rows.count, unit="count", information=True, monitored=True
    )
    invalid: int = _row(
        "Invalid rows",
        "non-finite, or zero, constant or repeated where the reference's are not",
        "candidate rows that are not finite, or zero, constant or repeated where the reference's are not",
        lambda rows: rows.invalid,
        unit="count",
        at_most=True,
        gate=0,
        why="one broken row is a broken file, whatever the averages say",
        monitored=True,
    )
    cosine_mean: float | None = _row(
        "Mean cosine",
        "hides what happens to single rows",
        "mean of ⟨rᵢ, cᵢ⟩ / (‖rᵢ‖ ‖cᵢ‖)",
        lambda rows: float(rows.cosines.mean()),
        monitored=True,
    )
    cosine_p1: float | None = _row(
        "1st percentile of the cosine",
        "one row in a hundred is worse",
        "first percentile of the same",
        lambda rows: float(np.percentile(rows.cosines, 1)),
        gate=0.98,
        why="one row in a hundred may be off by at most 11°; verification thresholds lie far beyond that",
        monitored=True,
    )
    cosine_min: float | None = _row(
        "Smallest cosine",
        "the worst row",
        "minimum of the same",
        lambda rows: float(rows.cosines.min()),
        monitored=True,
    )
    sqnr_db: float | None = _row(
        "Signal to noise",
        "power of the embeddings to power of the drift, dB",
        "10 log₁₀(Σ r² / Σ (c − r)²), the signal-to-quantization-noise ratio; null if the rows are identical",
        lambda rows: sqnr_db(rows.signal, rows.noise),
        unit="dB",
        gate=20.0,
        why="noise of a tenth of the signal: what 8-bit inference is usually held to",
        monitored=True,
        unbounded=-math.inf,
    )
    max_abs: float | None = _row(
        "Largest difference", "of any value", "max \\|c − r\\|", lambda rows: rows.max_abs, at_most=True, monitored=True
    )
    bias_max_sigma: float | None = _row(
        "Largest shift",
        "of a dimension, in its standard deviations",
        "largest \\|mean(c − r)\\| of a dimension, in standard deviations of r in that dimension",
        lambda rows: float(np.abs(rows.bias).max()),
        at_most=True,
        gate=0.25,
        why="a quarter of a standard deviation: a shift that int8 rounding does not make (here 0.01)",
        monitored=True,
        unbounded=math.inf,
    )
    gain_error_max: float | None = _row(
        "Largest gain error",
        "of a dimension",
        "largest \\|g − 1\\| of a dimension, g being the least-squares slope cov(r, c) / var(r)",
        lambda rows: gain_error_max(rows.gain),
        at_most=True,
        gate=0.25,
        why="dimensions that are clipped, swapped or mixed have another slope (int8 here: 0.006)",
        monitored=True,
    )
    dead_dimensions: int | None = _row(
        "Dead dimensions",
        "that the candidate no longer uses",
        "dimensions in which c keeps less than 1 % of r's standard deviation",
        lambda rows: rows.dead,
        unit="count",
        at_most=True,
        gate=0,
        why="a dimension that is stuck is a fault, however little it moves the cosine",
        monitored=True,
    )
    norm_ratio_mean: float | None = _row(
        "Mean ratio of norms",
        "candidate to reference",
        "mean of ‖cᵢ‖ / ‖rᵢ‖",
        _mean_ratio,
        monitored=True,
        unbounded=math.inf,
    )
    knn_overlap_self: float | None = _row(
        "Neighbours kept, self",
        "the gallery is embedded again",
        "share of the k nearest neighbours (cosine) kept when query and gallery are both the candidate's",
        _kept("self"),
        unit="share",
    )
    knn_overlap_cross: float | None = _row(
        "Neighbours kept, cross",
        "the gallery keeps its float vectors",
        "share kept when candidate queries search the reference's gallery: a stored float gallery",
        _kept("cross"),
        unit="share",
        gate=0.9,
        why="nine of ten neighbours in a float gallery stay",
    )
    cka: float | None = _row(
        "CKA",
        "for information: a rotation leaves it alone",
        "linear centred kernel alignment (Kornblith et al. 2019), for information",
        lambda rows: rows.cka,
        information=True,
    )
    procrustes: float | None = _row(
        "Procrustes residual",
        "for information: left after the best rotation",
        "what remains after the best rotation and scale (Gower 1975), 0 to 1, for information",
        lambda rows: rows.procrustes,
        information=True,
    )
    k: int | None = _row(
        "k", "neighbours compared", "neighbours compared", lambda rows: rows.k, unit="count", information=True
    )


_SEE_DECISIONS = "see [Decisions](#decisions)"
_SEE_RETRIEVAL = "see [Labels and retrieval](#labels-and-retrieval)"


def _loss(title: str, meaning: str, definition: str, figure: str) -> Metric:
    """What one figure of retrieval loses in the reference's gallery; None where it has no value."""
    return Metric(
        title,
        meaning,
        definition,
        lambda found: found.figures[figure].cross_loss if figure in found.figures else None,
        unit="share",
        at_most=True,
        source="retrieval",
        figure=figure,
    )


_OF_PAIRS = {
    "rank_correlation": Metric(
        "Rank correlation",
        "of distances between different things",
        "Spearman's, of the similarities of pairs that are not the same thing, before and after",
        lambda similarities: rank_correlation(*similarities),
        source="similarities",
    ),
    "far_ratio": Metric(
        "Ratio of false accept rates",
        "at the float threshold, candidate to reference",
        _SEE_DECISIONS,
        lambda decided: decided.cross.far / decided.far_float if decided.far_float > 0 else None,
        at_most=True,
        gate=1.5,
        why="with labels: at the threshold of home at most half as many impostors again",
        labelled=True,
        source="decisions",
    ),
    "tar_loss": Metric(
        "Loss of true accept rate",
        "at the float threshold",
        _SEE_DECISIONS,
        lambda decided: decided.tar_float - decided.cross.tar,
        unit="share",
        at_most=True,
        gate=0.01,
        why="with labels: at most one genuine pair in a hundred less",
        labelled=True,
        source="decisions",
    ),
    "false_reject_flips": Metric(
        "Genuine pairs lost",
        "at the float threshold, upper bound of the share",
        _SEE_DECISIONS,
        lambda decided: decided.cross.false_reject_flips,
        unit="share",
        at_most=True,
        source="decisions",
    ),
    "false_accept_flips": Metric(
        "Impostor pairs gained",
        "at the float threshold, upper bound of the share",
        _SEE_DECISIONS,
        lambda decided: decided.cross.false_accept_flips,
        unit="share",
        at_most=True,
        source="decisions",
    ),
    "recall_at_1_drop": _loss(
        "Loss of recall at 1",
        "queries whose nearest neighbour in the float gallery shows the same thing",
        _SEE_RETRIEVAL,
        "recall_at_1",
    ),
    "recall_at_5_drop": _loss("Loss of recall at 5", "the same among the five nearest", _SEE_RETRIEVAL, "recall_at_5"),
    "recall_at_10_drop": _loss(
        "Loss of recall at 10", "the same among the ten nearest", _SEE_RETRIEVAL, "recall_at_10"
    ),
    "map_drop": _loss(
        "Loss of mean average precision", "over the whole ranking of the float gallery", _SEE_RETRIEVAL, "map"
    ),
    "knn_accuracy_drop": _loss(
        "Loss of k-NN accuracy", "the ten nearest in the float gallery vote", _SEE_RETRIEVAL, "knn_accuracy"
    ),
    "eer_rise": _loss(
        "Rise of the equal error rate", "of verification against the float gallery", _SEE_RETRIEVAL, "eer"
    ),
}

METRICS: Mapping[str, Metric] = {
    name: replace(metric, name=name)
    for name, metric in ({row.name: row.metadata["metric"] for row in fields(Drift)} | _OF_PAIRS).items()
}
"""The table, by name, in the order in which everything shows it."""

OF_ROWS = tuple(name for name, metric in METRICS.items() if metric.source == "rows")
"""The metrics of every file that is measured: the fields of :class:`Drift`."""


def compute(source: Source, found: Any) -> dict[str, Any]:
    """The metrics that follow from one source, by name."""
    return {name: metric.compute(found) for name, metric in METRICS.items() if metric.source == source}
