"""Comparing the files of an export: which are dominated, and which is the fastest that keeps the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...runtime.backends.registry import BACKENDS
from ...runtime.drift import Drift
from ...runtime.drift.gates import Gate
from ...runtime.drift.metrics import ranked_db
from ..make.names import REJECTED, rejected_path
from ..max_drift import Budget, limit_text, missed_text, required_of_shipped
from ..request import Request
from ..results import ExportedFile

LATENCY_TOLERANCE, SIZE_TOLERANCE = 0.03, 0.02
"""Shares within which two latencies and two sizes are taken for the same."""


def mark_dominated(files: Sequence[ExportedFile]) -> tuple[ExportedFile, ...]:
    """The files, each with whether another one makes it superfluous.

    A file is dominated if another one runs on every runtime that it runs on, is as good in SQNR, latency and size, and
    better in at least one of them. What was not measured dominates nothing and is not dominated.
    """
    return tuple(
        replace(file, dominated=any(_dominates(other, file) for other in files if other is not file)) for file in files
    )


def _dominates(one: ExportedFile, other: ExportedFile) -> bool:
    if one.latency_us is None or one.drift is None or other.drift is None or not _runs(other) <= _runs(one):
        return False
    latency = math.inf if other.latency_us is None else other.latency_us
    as_good = (
        one.latency_us <= latency * (1 + LATENCY_TOLERANCE)
        and one.bytes <= other.bytes * (1 + SIZE_TOLERANCE)
        and sqnr(one) >= sqnr(other)
    )
    better = (
        one.latency_us < latency * (1 - LATENCY_TOLERANCE)
        or one.bytes < other.bytes * (1 - SIZE_TOLERANCE)
        or sqnr(one) > sqnr(other)
    )
    return as_good and better


def _runs(file: ExportedFile) -> set[str]:
    return {verdict.runtime for verdict in file.verified if verdict.ok}


def sqnr(file: ExportedFile) -> float:
    """A file's SQNR in dB, to compare by; minus infinite where it was not measured."""
    return -math.inf if file.drift is None else ranked_db(file.drift.sqnr_db)


def choose_files(
    request: Request, files: tuple[ExportedFile, ...], judged: Mapping[str, Drift]
) -> tuple[tuple[ExportedFile, ...], tuple[str, ...], tuple[str, ...]]:
    """The files to write: with limits the fastest one that keeps them, unless all were asked for.

    If none keeps them, the best one is written under a name that no tool takes for a model's.

    Args:
        request: limits, targets, and whether all files are to be written.
        files: as measured.
        judged: drift of each on the calibration images, by mode.

    Returns:
        The files; why none keeps the limits, one sentence each; and which one does, in a sentence.
    """
    budget = request.budget
    if budget is None:
        return files, (), ()
    winner, obstacles = fastest_within(budget, files, judged, request.targets)
    if winner is not None:
        others = len(files) - 1
        failing = () if winner.drift is None else required_of_shipped(budget).missed(winner.drift)
        text = (
            f"{budget}: {'' if failing else 'ship '}{winner.path.name} ({winner.latency_us:,.0f} µs on "
            f"{BACKENDS[request.timed_on].package}, {winner.sqnr_text} on test images), the fastest of {others + 1} "
            "files that were measured"
        )
        # Limits on one metric say nothing of the others, and a file that fails those is not to be shipped unseen.
        if failing:
            text += (
                f", keeps these limits and fails others: {missed_text(failing)}. Nothing is recommended; --max-drift "
                f"{failing[0].name}={failing[0].limit:g} looks for a file that keeps that as well"
            )
        text += "."
        return (files if request.pareto else (winner,)), (), (text,)
    best = best_of(files, request.targets)
    missed = (f"no file keeps {budget}; the best found is the {best.mode} file", *obstacles)
    rejected = replace(best, path=rejected_path(best.path))
    return (files if request.pareto else (rejected,)), missed, ()


def reject_failing(
    request: Request, files: tuple[ExportedFile, ...]
) -> tuple[tuple[ExportedFile, ...], tuple[str, ...]]:
    """Files that a required target does not run get a name that no tool takes for a model's."""
    kept, failed = [], []
    for file in files:
        reasons = [
            f"{name} does not run the {file.mode} file: {verdict.detail}"
            for name in request.targets
            for verdict in file.verified
            if verdict.runtime == BACKENDS[name].package and not verdict.ok
        ]
        failed += reasons
        bad = reasons and file.path.suffix != REJECTED
        kept.append(replace(file, path=rejected_path(file.path)) if bad else file)
    return tuple(kept), tuple(failed)


def fastest_within(
    budget: Budget, files: Sequence[ExportedFile], judged: Mapping[str, Drift], targets: Sequence[str]
) -> tuple[ExportedFile | None, tuple[str, ...]]:
    """The fastest file that keeps the limits both on the calibration images and on the test images.

    Args:
        budget: the limits.
        files: as measured.
        judged: drift of each on the calibration images, by mode.
        targets: runtimes that must run it.

    Returns:
        The file; or None, and what stands in the way of each file that was considered, the best one first.
    """
    usable = [file for file in files if file.latency_us is not None and _fits(file, targets)]
    others = [file for file in files if file not in usable]
    keeping = [
        file
        for file in usable
        if file.drift is not None and all(map(budget.kept, (file.drift, *_judged(file, judged))))
    ]
    if keeping:
        return min(keeping, key=lambda file: (file.latency_us or math.inf, -sqnr(file))), ()
    return None, (
        *(_obstacle(budget, file, judged) for file in sorted(usable, key=sqnr, reverse=True)),
        *(f"{file.mode}: {'not timed' if _fits(file, targets) else 'does not run where it has to'}" for file in others),
    )


def best_of(files: Sequence[ExportedFile], targets: Sequence[str]) -> ExportedFile:
    """Of files none of which keeps the limits, the one with the least noise that the targets run; the first if none."""
    return max([file for file in files if _fits(file, targets)] or files[:1], key=sqnr)


def _fits(file: ExportedFile, targets: Sequence[str]) -> bool:
    wanted = {BACKENDS[name].package for name in targets}
    ran = {verdict.runtime: verdict.ok for verdict in file.verified}
    return all(ran.get(package, False) for package in wanted) and file.runs


def _judged(file: ExportedFile, judged: Mapping[str, Drift]) -> tuple[Drift, ...]:
    """A file's drift on the calibration images, where a search measured it."""
    return (judged[file.mode],) if file.mode in judged else ()


def _obstacle(budget: Budget, file: ExportedFile, judged: Mapping[str, Drift]) -> str:
    if file.drift is None:
        return f"{file.mode}: its drift was not measured"
    places = (("test images", file.drift), *(("calibration images", drift) for drift in _judged(file, judged)))
    texts = [f"{_figures(gates)} on {where}" for where, drift in places if (gates := budget.missed(drift))]
    return f"{file.mode}: {' and '.join(texts)}"


def _figures(gates: Sequence[Gate]) -> str:
    return ", ".join(
        f"{gate.name} {'has no value' if gate.value is None else f'{gate.value:.4g}'} where "
        f"{limit_text(gate.name, gate.limit)} is asked"
        for gate in gates
    )
