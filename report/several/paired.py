"""How far two candidates differ from each other, on the same images: paired differences and what chance allows.

Every candidate's figures are computed again in the same bootstrap replicates over rows (see
:mod:`embedlite.runtime.drift.intervals`), so that what an image does to all candidates cancels in the differences.
Their intervals are corrected for everything that was compared (Bonferroni), with the standard deviation of the
replicates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.compare import Measurement
from ...runtime.drift.intervals import COVERAGE, Interval, draw, drawn_means, wilson_interval
from ...runtime.drift.moments import GROUPS
from ...runtime.drift.report import DriftReport

UNLABELLED = ("knn_overlap_cross",)
LABELLED = ("recall_at_1_drop", "map_drop", "eer_rise")
"""What two candidates are held against each other by: what is found in the gallery that there is."""

_SHOWN = ("sqnr_db", "cosine_mean")
"""Figures whose differences are told as well, and decide nothing: the smallest of them is more than chance."""


@dataclass(frozen=True)
class Draws:
    """A candidate's figures, and the same in every replicate.

    Attributes:
        values: by metric.
        replicates: by metric, (replicates,) each.
        trials: images, or queries, that a share is of; for a difference that nobody saw.
    """

    values: Mapping[str, float]
    replicates: Mapping[str, NDArray[np.float64]]
    trials: int


@dataclass(frozen=True)
class Difference:
    """Two candidates against each other.

    Attributes:
        first, second: their places.
        figures: by metric: the first's value less the second's, and the corrected interval of that.
        equal: whether no figure that decides tells them apart; None where there is none.
    """

    first: int
    second: int
    figures: Mapping[str, tuple[float, Interval]]
    equal: bool | None

    def to_json(self) -> dict[str, Any]:
        """The object of the JSON."""
        figures = {
            name: {"difference": value, "interval": interval} for name, (value, interval) in self.figures.items()
        }
        return {"first": self.first, "second": self.second, "equal": self.equal, "figures": figures}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Difference:
        """That of a saved comparison."""
        figures = {
            str(name): (float(told["difference"]), (float(told["interval"][0]), float(told["interval"][1])))
            for name, told in value["figures"].items()
        }
        return cls(int(value["first"]), int(value["second"]), figures, value["equal"])


def draw_figures(measurement: Measurement, report: DriftReport) -> Draws:
    """The figures of a candidate in replicates that are the same for all candidates of the same images.

    Args:
        measurement: of the candidate and the reference.
        report: made of it.
    """
    kept = np.flatnonzero(measurement.valid)
    weights = draw(min(len(measurement.valid), GROUPS))
    values: dict[str, float] = {}
    replicates: dict[str, NDArray[np.float64]] = {}

    def add(name: str, drawn: NDArray[np.float64] | None) -> None:
        value = report.metrics.get(name)
        # Replicates that drew none of few rows have no figure.
        if value is not None and drawn is not None and math.isfinite(value) and np.isfinite(drawn).all():
            values[name], replicates[name] = float(value), drawn

    if len(kept):
        add("cosine_mean", drawn_means(measurement.cosines[kept], weights, kept))
        signal = drawn_means(measurement.signal[kept], weights, kept)
        noise = drawn_means(measurement.noise[kept], weights, kept)
        with np.errstate(divide="ignore", invalid="ignore"):
            add("sqnr_db", 10 * np.log10(signal / noise))
    trials = len(kept)
    if measurement.neighbours is not None:
        searched = kept[measurement.neighbours.queries]
        add("knn_overlap_cross", drawn_means(measurement.neighbours.kept_cross[:, -1], weights, searched))
        trials = len(searched)
    if report.retrieval is not None:
        for name, figure in zip(
            LABELLED, (report.retrieval.figures.get(key) for key in ("recall_at_1", "map", "eer")), strict=True
        ):
            add(name, None if figure is None else figure.cross_drawn)
        trials = report.retrieval.drawn
    return Draws(values, replicates, max(1, trials))


def differences(drawn: Sequence[Draws | None]) -> tuple[Difference, ...]:
    """Every two candidates against each other.

    Args:
        drawn: of each candidate; None for one that failed.
    """
    pairs = [
        (first, second)
        for first, second in itertools.combinations(range(len(drawn)), 2)
        if drawn[first] is not None and drawn[second] is not None
    ]
    known = [one for one in drawn if one is not None]
    deciding = decided_by([one.values for one in known])
    allowed = 1 - (1 - COVERAGE) / max(1, len(pairs) * max(1, len(deciding)))
    times = NormalDist().inv_cdf((1 + allowed) / 2)
    found = []
    for first, second in pairs:
        one, other = drawn[first], drawn[second]
        assert one is not None
        assert other is not None
        figures = {
            name: _difference(one, other, name, times)
            for name in (*_SHOWN, *UNLABELLED, *LABELLED)
            if name in one.values and name in other.values
        }
        told = [figures[name] for name in deciding if name in figures]
        equal = all(low <= 0 <= high for _, (low, high) in told) if told else None
        found.append(Difference(first, second, figures, equal))
    return tuple(found)


def decided_by(values: Sequence[Mapping[str, float | None]]) -> tuple[str, ...]:
    """The figures by which candidates are held against each other: with labels those of retrieval.

    Args:
        values: each candidate's figures by metric.
    """
    for names in (LABELLED, UNLABELLED):
        had = tuple(name for name in names if values and all(one.get(name) is not None for one in values))
        if had:
            return had
    return ()


def _difference(one: Draws, other: Draws, name: str, times: float) -> tuple[float, Interval]:
    value = one.values[name] - other.values[name]
    drawn = one.replicates[name] - other.replicates[name]
    if not drawn.any() and value == 0:
        # Nothing differs, and so many images allow no more than this of what is a share.
        limit = 0.0 if name in _SHOWN else wilson_interval(0, one.trials)[1]
        return 0.0, (-limit, limit)
    spread = times * float(drawn.std())
    return value, (value - spread, value + spread)
