"""Who pays for the drift: each class, or each group such as a camera or a site, beside all other rows.

Whoever looks at many classes finds a worst one by chance alone. The intervals are therefore corrected for all parts and
figures looked at (Bonferroni): with 95 % all of them hold, and a part is called worse only where the interval of its
difference from the other rows is above zero (Welch 1947, Student's distribution).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compare import Measurement
from ..decisions import Decisions, Pairs, Scores
from ..intervals import Interval

LEAST_ROWS = 5
"""Fewer rows say nothing of their part."""

FIGURES = ("drift", "neighbours_lost", "genuine_rejected", "impostors_accepted")
"""Of each row: 1 - cosine; the share of its nearest neighbours that it no longer finds in the reference's gallery; the
shares of its genuine pairs that are now rejected and of its impostor pairs that are now accepted, at the reference's
threshold."""

_NORMAL_FROM = 500


@dataclass(frozen=True)
class Grouping:
    """Which part each row belongs to.

    Attributes:
        by: what the parts are: ``class``, or the name of the file that says it.
        names: of the parts.
        of: (N,) the part of each row, an index into ``names``.
    """

    by: str
    names: tuple[str, ...]
    of: NDArray[np.intp]

    def only(self, rows: NDArray[np.intp]) -> Grouping:
        """Of these rows."""
        return Grouping(self.by, self.names, self.of[rows])


@dataclass(frozen=True)
class PartFigure:
    """A figure of one part.

    Attributes:
        value: its mean over the part's rows.
        interval: corrected for all that was looked at.
        others: the mean over all other rows.
        worse: whether the part is worse than the others, beyond chance.
    """

    value: float
    interval: Interval
    others: float
    worse: bool


@dataclass(frozen=True)
class Part:
    """One class or group.

    Attributes:
        name: of the part.
        count: valid rows that belong to it.
        figures: by name, see :data:`FIGURES`; empty where there are too few rows.
    """

    name: str
    count: int
    figures: Mapping[str, PartFigure]

    @property
    def worse(self) -> tuple[str, ...]:
        """The figures in which it is worse than the others."""
        return tuple(name for name, figure in self.figures.items() if figure.worse)


@dataclass(frozen=True)
class Breakdown:
    """The drift by class or by group.

    Attributes:
        by: see :class:`Grouping`.
        looked_at: parts times figures; what the intervals are corrected for.
        parts: those that are worse than the others first, then by the drift.
    """

    by: str
    looked_at: int
    parts: tuple[Part, ...]

    @property
    def worse(self) -> tuple[Part, ...]:
        """The parts that are worse than the others in something."""
        return tuple(part for part in self.parts if part.worse)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Breakdown:
        """That of a saved report."""
        parts = [
            Part(
                part["name"],
                part["count"],
                {
                    name: PartFigure(figure["value"], tuple(figure["interval"]), figure["others"], figure["worse"])
                    for name, figure in part["figures"].items()
                },
            )
            for part in value["parts"]
        ]
        return cls(value["by"], value["looked_at"], tuple(parts))

    def to_json(self) -> dict[str, Any]:
        """An object of the report's ``parts``."""
        return asdict(self)


def row_figures(
    measurement: Measurement, decided: tuple[Pairs, Scores, Decisions] | None
) -> dict[str, NDArray[np.float64]]:
    """What happened to each valid row, by name; (N,) each, NaN where that was not looked at.

    Args:
        measurement: of the rows.
        decided: pairs of the valid rows, their similarities, and what was decided; None where nothing was.
    """
    found = {"drift": 1 - measurement.cosines[measurement.valid]}
    count = len(found["drift"])
    if measurement.neighbours is not None:
        found["neighbours_lost"] = np.full(count, np.nan)
        found["neighbours_lost"][measurement.neighbours.queries] = 1 - measurement.neighbours.kept_cross[:, -1]
    if decided is not None:
        pairs, scores, decisions = decided
        before, after = scores.reference > decisions.threshold, scores.cross > decisions.threshold
        for name, kind, flips in (
            ("genuine_rejected", pairs.genuine, before & ~after),
            ("impostors_accepted", ~pairs.genuine, ~before & after),
        ):
            flipped, looked_at = (np.bincount(pairs.first[chosen], minlength=count) for chosen in (flips & kind, kind))
            found[name] = np.divide(flipped, looked_at, out=np.full(count, np.nan), where=looked_at > 0)
    return found


def break_down(grouping: Grouping, figures: Mapping[str, NDArray[np.float64]]) -> Breakdown:
    """Each part beside all other rows.

    Args:
        grouping: of the valid rows.
        figures: see :func:`row_figures`; larger is worse.
    """
    parts = len(grouping.names)
    sums = {name: _sums(grouping.of, values, parts) for name, values in figures.items()}
    whole = {name: totals.sum(axis=1) for name, totals in sums.items()}
    judged = {
        name: (totals[0] >= LEAST_ROWS) & (whole[name][0] - totals[0] >= LEAST_ROWS) for name, totals in sums.items()
    }
    looked_at = int(sum(chosen.sum() for chosen in judged.values()))
    counts = np.bincount(grouping.of, minlength=parts)
    made = []
    for place in np.flatnonzero(counts):
        told = {
            name: _beside(totals[:, place], whole[name] - totals[:, place], looked_at)
            for name, totals in sums.items()
            if judged[name][place]
        }
        made.append(Part(grouping.names[place], int(counts[place]), told))
    made.sort(key=lambda part: (-len(part.worse), -(part.figures["drift"].value if part.figures else -1.0), part.name))
    return Breakdown(grouping.by, looked_at, tuple(made))


def _sums(of: NDArray[np.intp], values: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    """How many values each part has, their sum and that of their squares, (3, parts)."""
    known = np.isfinite(values)
    of, values = of[known], values[known]
    return np.stack([np.bincount(of, weights, parts) for weights in (np.ones(len(of)), values, values * values)])


def _beside(part: NDArray[np.float64], others: NDArray[np.float64], looked_at: int) -> PartFigure:
    (count, mean, variance), (rest, other, spread) = (_moments(sums) for sums in (part, others))
    # Few rows that happen to agree prove nothing: a part varies at least as much as the others.
    own, beside = max(variance, spread) / count, spread / rest
    reach = _student(1 - 0.025 / looked_at, count - 1) * math.sqrt(own)
    apart = own + beside
    worse = False
    if apart > 0:
        freedom = apart**2 / (own**2 / (count - 1) + beside**2 / (rest - 1))
        worse = mean - other > _student(1 - 0.025 / looked_at, max(1, int(freedom))) * math.sqrt(apart)
    return PartFigure(mean, (max(0.0, mean - reach), mean + reach), other, worse)


def _moments(sums: NDArray[np.float64]) -> tuple[int, float, float]:
    """Count, mean and variance."""
    count = int(sums[0])
    mean = float(sums[1]) / count
    return count, mean, max(0.0, float(sums[2]) - count * mean * mean) / (count - 1)


@lru_cache(maxsize=1024)
def _student(share: float, freedom: int) -> float:
    """The quantile of Student's distribution for a share above a half, by bisection.

    The distribution is the finite series of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and
    26.7.4; with many degrees of freedom it is the normal one, with its first corrections (26.7.5).
    """
    normal = NormalDist().inv_cdf(share)
    if freedom >= _NORMAL_FROM:
        first, second = normal**3 + normal, 5 * normal**5 + 16 * normal**3 + 3 * normal
        return normal + first / (4 * freedom) + second / (96 * freedom**2)
    low, high = 0.0, 1.0
    while _within(high, freedom) < 2 * share - 1:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * share - 1 else (low, middle)
    return high


def _within(value: float, freedom: int) -> float:
    """The probability of lying within plus or minus ``value``."""
    angle = math.atan(value / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= square * (step - 1) / step
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
