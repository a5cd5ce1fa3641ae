"""Which of several candidates to ship, from gates, paired differences and latencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...runtime.drift.metrics import METRICS, ranked_db
from ...runtime.drift.report import DriftReport
from ...runtime.drift.wording import figure
from .paired import Difference, decided_by

NEARLY_AS_FAST = 1.25
"""A file this much slower than the fastest is still worth it if it finds more."""

SAME_SPEED = 1.03

SAID = {
    "knn_overlap_cross": "neighbours kept",
    "recall_at_1_drop": "recall@1 loss",
    "map_drop": "mAP loss",
    "eer_rise": "EER rise",
    "cosine_p1": "cosine_p1",
}
"""What the figures that decide are called in a line."""


@dataclass(frozen=True)
class Latency:
    """Microseconds of one inference, and what repetitions gave at least and at most; where they are from."""

    median: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Candidate:
    """One of several.

    Attributes:
        path: as it was named.
        name: a short name that no other candidate has.
        report: None if it failed.
        error: why it failed; None if it did not.
        bytes: of the file; None for stored embeddings.
        latency: None if nobody measured it.
    """

    path: str
    name: str
    report: DriftReport | None
    error: str | None = None
    bytes: int | None = None
    latency: Latency | None = None


@dataclass(frozen=True)
class Choice:
    """What to do.

    Attributes:
        ship: place of the candidate to ship; None if none holds its gates.
        headline: that in one line, with the figures that it rests on.
        lines: one of every other candidate, by its place: why it is not that one.
    """

    ship: int | None
    headline: str
    lines: tuple[tuple[int, str], ...]


def choose(candidates: Sequence[Candidate], differences: Sequence[Difference]) -> Choice:
    """The fastest that finds as much as the best, of those that hold their gates and are nearly as fast as the fastest.

    Without latencies it is the smallest of those that find as much as the best.

    Args:
        candidates: all.
        differences: of every two that did not fail.
    """
    passing = [place for place, one in enumerate(candidates) if one.report is not None and one.report.passed]
    timed = [place for place in passing if candidates[place].latency is not None]
    if not passing:
        return _none(candidates)
    able = timed or passing
    if timed:
        fastest = min(timed, key=lambda place: _latency(candidates[place]).median)
        limit = NEARLY_AS_FAST * _latency(candidates[fastest]).high
        able = [place for place in timed if _latency(candidates[place]).low <= limit]
    rank = [_rank(one.report) for one in candidates]
    best = min(able, key=lambda place: rank[place])
    equals = [place for place in able if place == best or equal(differences, place, best)]
    as_good = equals
    if timed:
        quickest = min(_latency(candidates[place]).median for place in equals)
        as_good = [place for place in equals if _latency(candidates[place]).median <= SAME_SPEED * quickest]
    sizes = [candidates[place].bytes for place in as_good]
    smallest = min((size for size in sizes if size is not None), default=None)
    chosen = min(as_good, key=lambda place: (candidates[place].bytes != smallest, rank[place]))
    lines = tuple(
        (place, _other(one, place, chosen, candidates, differences))
        for place, one in enumerate(candidates)
        if place != chosen
    )
    if len(passing) == 1:
        why = "the only one that holds its gates"
    elif len(equals) > 1:
        why = f"the {'fastest' if timed else 'smallest'} that finds as much as the best"
    else:
        why = "finds most" + (" of those that are nearly as fast as the fastest" if timed else "")
    return Choice(chosen, _headline(candidates[chosen], why), lines)


def equal(differences: Sequence[Difference], one: int, other: int) -> bool:
    """Whether no figure that decides tells two candidates apart."""
    found = between(differences, one, other)
    return found is not None and bool(found.equal)


def between(differences: Sequence[Difference], one: int, other: int) -> Difference | None:
    """The difference of two candidates, whichever is named first."""
    return next((found for found in differences if {found.first, found.second} == {one, other}), None)


def _rank(report: DriftReport | None) -> tuple[float, ...]:
    """The smaller the better: what decides, then the noise."""
    if report is None:
        return (float("inf"),)
    signs = [1 if METRICS[name].at_most else -1 for name in decided_by([report.metrics])]
    values = [report.metrics[name] or 0.0 for name in decided_by([report.metrics])]
    return (
        *(sign * value for sign, value in zip(signs, values, strict=True)),
        -ranked_db(report.metrics["sqnr_db"]),
    )


def _latency(one: Candidate) -> Latency:
    assert one.latency is not None
    return one.latency


def _none(candidates: Sequence[Candidate]) -> Choice:
    lines = tuple((place, _refused(one)) for place, one in enumerate(candidates))
    return Choice(None, "ship none of these: no candidate holds its gates", lines)


def _refused(one: Candidate) -> str:
    """Why a candidate is none to ship, or under which condition."""
    if one.report is None:
        return f"failed: {one.error}"
    failed = [gate.name for gate in one.report.gates if not gate.passed]
    action = {
        "ship-with-threshold": "can ship with another threshold",
        "re-embed-gallery": "can ship with its own gallery",
    }.get(one.report.advice.action)
    if not failed:
        return one.report.advice.headline
    names = ", ".join(f"{name} {figure(one.report.metrics[name], name)}" for name in failed)
    return f"fails {names}" + (f"; {action}" if action else "")


def _headline(one: Candidate, why: str) -> str:
    report = one.report
    assert report is not None
    threshold = report.advice.threshold
    told = f"ship {one.name}" + ("" if threshold is None else f" with threshold {threshold:.6f}")
    figures = ", ".join(f"{SAID[name]} {figure(report.metrics[name], name)}" for name in told_of(report))
    speed = "" if one.latency is None else f"{one.latency.median:,.0f} µs, "
    return f"{told}: {why} ({speed}{figures})"


def told_of(report: DriftReport) -> tuple[str, ...]:
    """The figures that a line names."""
    return decided_by([report.metrics])[:1] or ("cosine_p1",)


def _other(
    one: Candidate, place: int, chosen: int, candidates: Sequence[Candidate], differences: Sequence[Difference]
) -> str:
    if one.report is None or not one.report.passed:
        return _refused(one)
    best = candidates[chosen]
    said = []
    found = between(differences, place, chosen)
    if found is not None and found.equal is not None:
        said.append(f"equal to {best.name}" if found.equal else _apart(found, place))
    if one.latency is not None and best.latency is not None:
        said.append(f"{one.latency.median:,.0f} µs")
    elif best.latency is not None:
        said.append("no latency")
    elif one.bytes is not None and best.bytes is not None:
        said.append(f"{one.bytes / 1000:,.1f} kB")
    return ", ".join(said) or "holds its gates"


def _apart(found: Difference, place: int) -> str:
    """The first figure that tells them apart, as this candidate has it."""
    for name in decided_by([{key: value for key, (value, _) in found.figures.items()}]):
        value, (low, high) = found.figures[name]
        if low <= 0 <= high:
            continue
        sign = 1 if found.first == place else -1
        value, low, high = sign * value, *sorted((sign * low, sign * high))
        worse = (value > 0) == (METRICS[name].at_most)
        return (
            f"{SAID[name]} {100 * abs(value):.2f} points {'worse' if worse else 'better'} "
            f"({100 * min(abs(low), abs(high)):.2f} to {100 * max(abs(low), abs(high)):.2f})"
        )
    return "apart"
