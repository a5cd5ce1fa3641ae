"""What can be done about a stored gallery when another model searches it, each with its figures and whether they hold.

Half of the pairs may be looked at: the map and the thresholds are fitted on them. The other half judges: its images
search among all paired ones, and its pairs are decided. So no option is judged by what made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.advice import MOST_FALSE_ACCEPTS, MOST_FALSE_REJECTS
from ...runtime.drift.decisions import (
    DEFAULT_FAR,
    LEAST_ACCEPTED,
    Drawn,
    Pairs,
    Scores,
    labelled_pairs,
    neighbour_pairs,
    ratio,
    score,
    threshold_at,
)
from ...runtime.drift.gates import DECISION_GATES, DEFAULT_GATES
from ...runtime.drift.intervals import Interval, draw, drawn_means, interval_around, wilson_interval
from ...runtime.drift.labelled.retrieval import measure_retrievals
from ...runtime.drift.moments import GROUPS
from ...runtime.drift.neighbours import LEAST_FOUND, TIE, NeighbourOverlap, kept_shares, nearest_rows, similarities
from ...runtime.drift.rows import Rows, UnitRows
from ...runtime.machine import available_threads

KEEP, MOVE, MAP, AGAIN = "keep", "move-threshold", "map", "embed-again"

LEAST_KEPT = DEFAULT_GATES["knn_overlap_cross"]
MOST_LOST = 0.01
"""A gallery serves while that share of neighbours is found or, with labels, recall@1 and mAP lose at most one point."""

_BLOCK = 256


@dataclass(frozen=True)
class Option:
    """One thing to do.

    Attributes:
        name: :data:`KEEP`, :data:`MOVE`, :data:`MAP` or :data:`AGAIN`.
        neighbours: share of the gallery's own nearest neighbours that are found; and its interval.
        recall, average_precision: with labels, recall@1 and mAP; and how much less that is than before, with its
            interval.
        threshold: the cosine above which pairs are accepted; None where there were too few pairs.
        far, tar: false and true accept rates there.
        far_ratio: the first in units of what the gallery's own model has; None where that accepts none.
        far_upper: upper 95 % limit of that.
        tar_loss: how much lower the true accept rate is than before.
        tar_upper: upper 95 % limit of that.
        holds: whether the gallery serves with it.
        why: what does not hold; empty if all does.
    """

    name: str
    neighbours: float
    neighbours_interval: Interval
    recall: float | None = None
    recall_loss: float | None = None
    recall_interval: Interval | None = None
    average_precision: float | None = None
    precision_loss: float | None = None
    precision_interval: Interval | None = None
    threshold: float | None = None
    far: float | None = None
    tar: float | None = None
    far_ratio: float | None = None
    far_upper: float | None = None
    tar_loss: float | None = None
    tar_upper: float | None = None
    holds: bool = False
    why: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object of the JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Before:
    """The gallery searched by its own model.

    Attributes:
        recall, average_precision: with labels.
        threshold, far, tar: see :class:`Option`.
    """

    recall: float | None = None
    average_precision: float | None = None
    threshold: float | None = None
    far: float | None = None
    tar: float | None = None


@dataclass(frozen=True)
class Split:
    """The pairs' halves, and what searches.

    Attributes:
        fitted: (N,) which may be looked at.
        queries: rows that search, of both halves, ascending.
    """

    fitted: NDArray[np.bool_]
    queries: NDArray[np.intp]

    @property
    def judging(self) -> NDArray[np.intp]:
        """The queries of the other half."""
        return self.queries[~self.fitted[self.queries]]


def split_pairs(
    count: int, queries: NDArray[np.intp], clusters: NDArray[np.intp] | None = None, seed: int = 0
) -> Split:
    """A random half of the rows, images that belong together on one side.

    Args:
        count: rows.
        queries: that search.
        clusters: (N,) of the rows; default each for itself.
        seed: of the choice.
    """
    groups = np.arange(count) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    many = int(groups.max()) + 1
    chosen = np.zeros(many, np.bool_)
    chosen[np.random.default_rng(seed).permutation(many)[: many // 2]] = True
    return Split(chosen[groups], queries)


def judge_options(
    candidate: Rows,
    gallery: Rows,
    mapped: Rows | None,
    split: Split,
    *,
    k: int,
    labels: NDArray[np.intp] | None = None,
    far: float | None = None,
) -> tuple[Before, tuple[Option, ...]]:
    """Figures of every option.

    Args:
        candidate, gallery: paired rows.
        mapped: the candidate's, mapped into the gallery's space; None without a map.
        split: the halves.
        k: neighbours that are compared.
        labels: (N,) one number a class.
        far: the false accept rate that thresholds are set for; default as in a report.
    """
    # With labels the pairs are theirs, and only the half that judges need search.
    queries = split.queries if labels is None else split.judging
    searched = _search(candidate, gallery, mapped, queries, k)
    pairs = neighbour_pairs(searched.plain) if labels is None else labelled_pairs(labels)
    scores = score(pairs, candidate, gallery)
    told = {KEEP: searched.plain.kept_cross, AGAIN: searched.plain.kept_self}
    likeness = {KEEP: scores.cross, MOVE: scores.cross, AGAIN: scores.own}
    if mapped is not None:
        assert searched.mapped is not None
        told[MAP] = searched.mapped.kept_cross
        likeness[MAP] = score(pairs, mapped, gallery).cross
    told[MOVE] = told[KEEP]
    judging = ~split.fitted[queries]
    options = {name: Option(name, *_mean(told[name][judging, -1])) for name in (KEEP, MOVE, MAP, AGAIN) if name in told}
    before = Before()
    if labels is not None:
        before, options = _with_retrieval(before, options, candidate, gallery, mapped, searched, labels, judging)
    before, options = _with_thresholds(before, options, pairs, scores, likeness, split, far)
    return before, tuple(_judged(option, labelled=labels is not None) for option in options.values())


@dataclass(frozen=True)
class _Searched:
    plain: NeighbourOverlap
    mapped: NeighbourOverlap | None


def _search(candidate: Rows, gallery: Rows, mapped: Rows | None, queries: NDArray[np.intp], k: int) -> _Searched:
    """What every kind of query finds: one pass over the gallery for all kinds, and one over the candidate's rows."""
    old, new = UnitRows(gallery), UnitRows(candidate)
    kinds = [old.take(queries), new.take(queries)]
    if mapped is not None:
        kinds.append(UnitRows(mapped.only(queries)).take(slice(None)))
    count = len(queries)
    wanted = max(k, min(LEAST_FOUND, len(gallery) - 1))
    everything = nearest_rows(np.concatenate(kinds), np.tile(queries, len(kinds)), old, wanted, "neighbours (gallery)")
    found = [everything[place * count : (place + 1) * count] for place in range(len(kinds))]
    found.append(nearest_rows(kinds[1], queries, new, wanted, "neighbours (embedded again)"))
    parts = [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]

    def judge(part: slice) -> list[NDArray[np.float64]]:
        limits = similarities(kinds[0][part], found[0][part, k - 1 : k], old) - TIE
        return [kept_shares(similarities(kinds[0][part], rows[part, :k], old), limits, (k,)) for rows in found[1:]]

    with ThreadPoolExecutor(available_threads()) as pool:
        shares = [np.concatenate(side) for side in zip(*pool.map(judge, parts), strict=True)]
    truth, cross, own = found[0], found[1], found[-1]

    def overlap(kept: NDArray[np.float64], rows: NDArray[np.intp]) -> NeighbourOverlap:
        return NeighbourOverlap(
            (k,), queries, len(gallery), shares[-1], kept, truth[:, :k], rows[:, :k], (truth, rows, own)
        )

    return _Searched(overlap(shares[0], cross), None if mapped is None else overlap(shares[1], found[2]))


def _mean(values: NDArray[np.float64]) -> tuple[float, Interval]:
    mean = float(values.mean())
    if (values == values[0]).all():
        low, high = wilson_interval(round(mean * len(values)), len(values))
        return mean, (min(low, mean), max(high, mean))
    drawn = drawn_means(values, draw(min(len(values), GROUPS)))
    return mean, interval_around(drawn, mean) or (mean, mean)


def _with_retrieval(
    before: Before,
    options: Mapping[str, Option],
    candidate: Rows,
    gallery: Rows,
    mapped: Rows | None,
    searched: _Searched,
    labels: NDArray[np.intp],
    judging: NDArray[np.bool_],
) -> tuple[Before, dict[str, Option]]:
    """With recall@1 and mAP of the half that judges."""

    def of_judges(overlap: NeighbourOverlap) -> NeighbourOverlap:
        nearest = tuple(side[judging] for side in overlap.nearest)
        return replace(overlap, queries=overlap.queries[judging], nearest=(nearest[0], nearest[1], nearest[2]))

    searching = [(candidate, of_judges(searched.plain))]
    if mapped is not None and searched.mapped is not None:
        searching.append((mapped, of_judges(searched.mapped)))
    found = measure_retrievals(candidate, gallery, labels, searching)
    if found[0] is None:
        return before, dict(options)
    plain, with_map = ({} if one is None else one.figures for one in (found[0], found[-1]))
    recall, precision = plain["recall_at_1"], plain["map"]
    changed = {}
    for name, option in options.items():
        figures = with_map if name == MAP else plain
        one, other = figures["recall_at_1"], figures["map"]
        own = name == AGAIN
        changed[name] = replace(
            option,
            recall=one.own if own else one.cross,
            recall_loss=one.own_loss if own else one.cross_loss,
            recall_interval=one.own_interval if own else one.cross_interval,
            average_precision=other.own if own else other.cross,
            precision_loss=other.own_loss if own else other.cross_loss,
            precision_interval=other.own_interval if own else other.cross_interval,
        )
    return replace(before, recall=recall.reference, average_precision=precision.reference), changed


def _with_thresholds(
    before: Before,
    options: Mapping[str, Option],
    pairs: Pairs,
    scores: Scores,
    likeness: Mapping[str, NDArray[np.float64]],
    split: Split,
    far: float | None,
) -> tuple[Before, dict[str, Option]]:
    """With thresholds set on one half's pairs, and rates on the other's; a pair is its query's."""
    fitted = split.fitted[pairs.first]
    impostors, genuine = fitted & ~pairs.genuine, ~fitted & pairs.genuine
    count = int(impostors.sum())
    others = ~fitted & ~pairs.genuine
    if count < 2 * LEAST_ACCEPTED or int(others.sum()) < 2 * LEAST_ACCEPTED or not genuine.any():
        return before, dict(options)
    wanted = max(DEFAULT_FAR, LEAST_ACCEPTED / count) if far is None else far
    old = threshold_at(scores.reference[impostors], wanted)
    accepted = scores.reference > old
    drawn = Drawn(pairs)
    # The gallery's own model at its own threshold, drawn as the options are.
    base = drawn.sums(accepted & others), drawn.rates(accepted, genuine)
    far_before, tar_before = float(accepted[others].mean()), float(accepted[genuine].mean())
    changed = {}
    for name, option in options.items():
        threshold = old if name == KEEP else threshold_at(likeness[name][impostors], wanted)
        now = likeness[name] > threshold
        far_now, tar_now = float(now[others].mean()), float(now[genuine].mean())
        times = far_now / far_before if far_before > 0 else None
        around = None if times is None else interval_around(ratio(drawn.sums(now & others), base[0]), times)
        loss = tar_before - tar_now
        lost = interval_around(base[1] - drawn.rates(now, genuine), loss)
        changed[name] = replace(
            option,
            threshold=threshold,
            far=far_now,
            tar=tar_now,
            far_ratio=times,
            far_upper=None if around is None else around[1],
            tar_loss=loss,
            tar_upper=None if lost is None else lost[1],
        )
    return replace(before, threshold=old, far=far_before, tar=tar_before), changed


def _judged(option: Option, *, labelled: bool) -> Option:
    """With whether the gallery serves."""
    why = []
    if labelled and option.recall_loss is not None and option.precision_loss is not None:
        for name, loss in (("recall@1", option.recall_loss), ("mAP", option.precision_loss)):
            if loss > MOST_LOST:
                why.append(f"{name} loses {100 * loss:.2f} points")
    elif option.neighbours < LEAST_KEPT:
        why.append(f"{option.neighbours:.1%} of the neighbours are found")
    if option.name == KEEP and option.threshold is not None:
        # A threshold that stays where it is must be right as far as the images can tell.
        if option.far_upper is None or option.far_upper > MOST_FALSE_ACCEPTS:
            why.append(f"up to {_times(option.far_upper)} as many false accepts at the old threshold")
        if option.tar_upper is None or option.tar_upper > MOST_FALSE_REJECTS:
            why.append(f"up to {_points(option.tar_upper)} more genuine pairs rejected at the old threshold")
    elif option.threshold is not None and labelled:
        # One that is set anew is judged by what it gives.
        if option.tar_loss is not None and option.tar_loss > DECISION_GATES["tar_loss"]:
            why.append(f"{_points(option.tar_loss)} more genuine pairs rejected")
        if option.far_ratio is not None and option.far_ratio > DECISION_GATES["far_ratio"]:
            why.append(f"{_times(option.far_ratio)} as many false accepts")
    return replace(option, holds=not why, why=tuple(why))


def _times(value: float | None) -> str:
    return "unknown times" if value is None else f"{value:.2f} times"


def _points(value: float | None) -> str:
    return "an unknown share" if value is None else f"{max(value, 0):.1%}"


def answer(options: Sequence[Option]) -> Option:
    """The cheapest that holds; if none does, embedding again."""
    for option in options:
        if option.holds:
            return option
    return options[-1]
