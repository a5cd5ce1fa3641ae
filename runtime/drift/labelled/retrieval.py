"""Retrieval as people measure it, where labels say what the same thing is: before, and with the candidate.

Every query searches all other rows three times: the reference's in the reference's gallery, the candidate's in that
(cross), and the candidate's among its own (self). Both sides see the same queries, so their differences are paired,
and much surer than the figures themselves. Formulas: docs/drift.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decisions import Pairs, Scores
from ..intervals import Interval, draw, drawn_means, interval_around, wilson_interval
from ..metrics import METRICS
from ..moments import GROUPS
from ..neighbours import NeighbourOverlap
from ..rows import Rows, UnitRows
from .precision import average_precisions

RECALL_AT = (1, 5, 10)
VOTES = 10
"""Neighbours that vote for a query's class."""

RANKED_PAIRS = 100_000_000
LEAST_RANKED = 100
"""The average precision ranks a whole gallery for a query. Of more pairs than the one it is told of a part of the
queries, but of no fewer than the other."""

_BINS = 2048

Three = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Figure:
    """One figure three times: the reference, the candidate in the reference's gallery, the candidate in its own.

    Attributes:
        reference, cross, own: the figure; ``own`` is ``self`` in the JSON.
        cross_loss, own_loss: how much worse it is than the reference's; negative where it is better.
        cross_interval, own_interval: 95 % intervals of the losses; None where there are too few queries.
        cross_drawn: the first loss in every replicate, the same queries for every candidate; not in the JSON.
    """

    reference: float
    cross: float
    own: float
    cross_loss: float
    own_loss: float
    cross_interval: Interval | None
    own_interval: Interval | None
    cross_drawn: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Retrieval:
    """What retrieval loses.

    Attributes:
        queries: that searched and have something to find.
        ranked: of them those whose whole ranking was looked at, for the average precision.
        drawn: what the intervals draw: so many queries, or clusters of images that belong together.
        figures: by name: ``recall_at_1`` …, ``map``, ``knn_accuracy``, ``eer``; those that have a value.
    """

    queries: int
    ranked: int
    drawn: int
    figures: Mapping[str, Figure]

    @property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % intervals of the losses in the reference's gallery, by metric."""
        found = {name: self.figures[figure].cross_interval for name, figure in LOSSES.items() if figure in self.figures}
        return {name: interval for name, interval in found.items() if interval is not None}

    def with_figure(self, name: str, figure: Figure | None) -> Retrieval:
        """With another figure, if there is one."""
        return self if figure is None else replace(self, figures={**self.figures, name: figure})

    def to_json(self) -> dict[str, Any]:
        """The object ``retrieval`` of the report."""
        figures = {
            name: {
                "reference": figure.reference,
                "cross": figure.cross,
                "self": figure.own,
                "cross_loss": figure.cross_loss,
                "self_loss": figure.own_loss,
                "cross_interval": figure.cross_interval,
                "self_interval": figure.own_interval,
            }
            for name, figure in self.figures.items()
        }
        return {"queries": self.queries, "ranked": self.ranked, "drawn": self.drawn, "figures": figures}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Retrieval:
        """That of a saved report."""
        figures = {}
        for name, saved in value["figures"].items():
            pairs = [saved[key] for key in ("cross_interval", "self_interval")]
            cross, own = (None if pair is None else (float(pair[0]), float(pair[1])) for pair in pairs)
            figures[name] = Figure(
                float(saved["reference"]),
                float(saved["cross"]),
                float(saved["self"]),
                float(saved["cross_loss"]),
                float(saved["self_loss"]),
                cross,
                own,
            )
        return cls(value["queries"], value["ranked"], value["drawn"], figures)


LOSSES = {name: metric.figure for name, metric in METRICS.items() if metric.source == "retrieval"}
"""Which figure each gate is about."""


def measure_retrieval(
    candidate: Rows,
    reference: Rows,
    labels: NDArray[np.intp],
    neighbours: NeighbourOverlap,
    clusters: NDArray[np.intp] | None = None,
) -> Retrieval | None:
    """Recall, mean average precision and k-NN accuracy of the rows that searched for neighbours.

    Args:
        candidate, reference: paired rows.
        labels: (N,) one number a class.
        neighbours: of the same rows.
        clusters: (N,) images that belong together, such as crops of one photo, have the same number and are drawn
            together for the intervals; default every image for itself. The gallery stays as it is.

    Returns:
        None where no query has another row of its class.
    """
    return measure_retrievals(candidate, reference, labels, [(candidate, neighbours)], clusters)[0]


def measure_retrievals(
    candidate: Rows,
    reference: Rows,
    labels: NDArray[np.intp],
    searching: Sequence[tuple[Rows, NeighbourOverlap]],
    clusters: NDArray[np.intp] | None = None,
) -> list[Retrieval | None]:
    """:func:`measure_retrieval` of several kinds of queries, such as mapped ones, in one pass over the galleries.

    Args:
        candidate, reference, labels, clusters: see there; the candidate's own gallery is searched by its own rows.
        searching: what searches the reference's gallery, and what was found there; by the same queries.
    """
    neighbours = searching[0][1]
    useful = np.bincount(labels)[labels[neighbours.queries]] > 1
    queries = neighbours.queries[useful]
    if not len(queries):
        return [None for _ in searching]
    wanted = min(len(queries), max(LEAST_RANKED, RANKED_PAIRS // len(labels)))
    chosen = queries[np.linspace(0, len(queries) - 1, wanted).astype(np.intp)]
    rows = [UnitRows(side.only(chosen)).take(slice(None)) for side in (reference, candidate)]
    rows += [rows[1] if kind is candidate else UnitRows(kind.only(chosen)).take(slice(None)) for kind, _ in searching]
    before, *cross = average_precisions([rows[0], *rows[2:]], UnitRows(reference), labels, chosen)
    (own,) = average_precisions([rows[1]], UnitRows(candidate), labels, chosen)
    drawn = _Clusters(queries if clusters is None else clusters[queries])
    ranked = _Clusters(chosen if clusters is None else clusters[chosen])
    made: list[Retrieval | None] = []
    for (_, overlap), precisions in zip(searching, cross, strict=True):
        figures = _nearest_figures([labels[nearest[useful]] for nearest in overlap.nearest], labels[queries], drawn)
        figures["map"] = ranked.figure((before, precisions, own))
        made.append(Retrieval(len(queries), len(chosen), drawn.count, figures))
    return made


def _nearest_figures(found: list[NDArray[np.intp]], wanted: NDArray[np.intp], drawn: _Clusters) -> dict[str, Figure]:
    """Recall and k-NN accuracy from the classes of what was found, (n, k) three times, and the queries' own, (n,)."""
    figures = {}
    for count in RECALL_AT:
        if found[0].shape[1] >= count:
            hits = [(rows[:, :count] == wanted[:, None]).any(axis=1).astype(np.float64) for rows in found]
            figures[f"recall_at_{count}"] = drawn.figure((hits[0], hits[1], hits[2]))
    votes = [(_vote(rows[:, :VOTES]) == wanted).astype(np.float64) for rows in found]
    figures["knn_accuracy"] = drawn.figure((votes[0], votes[1], votes[2]))
    return figures


def equal_error_rates(pairs: Pairs, scores: Scores, clusters: NDArray[np.intp] | None = None) -> Figure | None:
    """Where as large a share of impostor pairs is accepted as of genuine pairs rejected (ISO/IEC 19795-1).

    Between two thresholds the line between their points is followed.

    Args:
        pairs: of both kinds.
        scores: their similarities.
        clusters: (N,) of the rows, see :func:`measure_retrieval`; a pair is drawn with its query.

    Returns:
        None without pairs of both kinds.
    """
    if pairs.genuine.all() or not pairs.genuine.any():
        return None
    drawn = _Clusters(pairs.first if clusters is None else clusters[pairs.first])
    values, replicates = [], []
    for side in (scores.reference, scores.cross, scores.own):
        _, place = np.unique(side, return_inverse=True)
        counts = [np.bincount(place[kind], minlength=place.max() + 1) for kind in (pairs.genuine, ~pairs.genuine)]
        values.append(float(_crossing(*(count[None].astype(np.float64) for count in counts))[0]))
        # The replicates look at so many thresholds, each with about as many pairs, instead of at all.
        place = place // max(1, (int(place.max()) + 1) // _BINS + 1)
        sums = [drawn.sums(place, kind) for kind in (pairs.genuine, ~pairs.genuine)]
        replicates.append(_crossing(*sums))
    before, cross, own = values
    around = [
        interval_around(side - replicates[0], value - before)
        for side, value in zip(replicates[1:], values[1:], strict=True)
    ]
    drawn_losses = replicates[1] - replicates[0]
    return Figure(before, cross, own, cross - before, own - before, around[0], around[1], drawn_losses)


def _crossing(genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> NDArray[np.float64]:
    """The equal error rate of each row of counts by ascending similarity, (n, T) each, (n,)."""
    with np.errstate(invalid="ignore"):
        rejected, passed = (
            np.pad(np.cumsum(side, axis=1), ((0, 0), (1, 0))) / side.sum(axis=1, keepdims=True)
            for side in (genuine, impostor)
        )
    accepted = 1 - passed
    rows = np.arange(len(genuine))
    apart = rejected - accepted
    after = np.argmax(apart >= 0, axis=1)
    before = np.maximum(after - 1, 0)
    step = apart[rows, after] - apart[rows, before]
    share = np.divide(-apart[rows, before], step, out=np.zeros(len(rows)), where=step > 0)
    rates: NDArray[np.float64] = accepted[rows, before] + share * (accepted[rows, after] - accepted[rows, before])
    return rates


class _Clusters:
    """Draws clusters of rows with replacement; of more than 1,024 the groups that they were dealt to.

    Args:
        of: (n,) the cluster of each row.
    """

    def __init__(self, of: NDArray[np.intp]) -> None:
        known, places = np.unique(of, return_inverse=True)
        self.count = len(known)
        self._groups = min(self.count, GROUPS)
        self._group = places % self._groups
        self._weights = draw(self._groups)

    def figure(self, three: Three) -> Figure:
        """Means of the rows' values, and the intervals of their differences."""
        reference, cross, own = (float(values.mean()) for values in three)
        losses = [three[0] - values for values in three[1:]]
        intervals = [self._interval(values) for values in losses]
        return Figure(
            *(reference, cross, own, reference - cross, reference - own, intervals[0], intervals[1]),
            cross_drawn=self._means(losses[0]),
        )

    def sums(self, places: NDArray[np.intp], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How many of the chosen rows are at each place in every replicate, (replicates, places)."""
        width = int(places.max()) + 1
        cells = self._group[chosen] * width + places[chosen]
        counts = np.bincount(cells, minlength=self._groups * width).reshape(self._groups, width)
        sums: NDArray[np.float64] = self._weights @ counts.astype(np.float64)
        return sums

    def _interval(self, losses: NDArray[np.float64]) -> Interval | None:
        if self.count < 2:
            return None
        if not losses.any():
            # Nothing was lost, and so many chances to lose something allow no more than this.
            limit = wilson_interval(0, self.count)[1]
            return -limit, limit
        return interval_around(self._means(losses), float(losses.mean()))

    def _means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of the rows' values in every replicate."""
        return drawn_means(values, self._weights, self._group)


def _vote(found: NDArray[np.intp]) -> NDArray[np.intp]:
    """The class that most of each row's neighbours have, (n,); of equally many that of the nearest among them."""
    votes = (found[:, :, None] == found[:, None, :]).sum(axis=2)
    winners: NDArray[np.intp] = np.take_along_axis(found, votes.argmax(axis=1)[:, None], axis=1)[:, 0]
    return winners
