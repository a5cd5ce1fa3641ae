"""What becomes of the files: which keep the limits, which required targets do not run, which one is written as C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...runtime.backends.registry import BACKENDS
from ...runtime.check.figures import DeviceFigures
from ..make.names import REJECTED, c_mode
from ..modes import is_mixed
from ..request import Request
from ..results import ExportedFile, MeasuredOn, NotMade
from ..search.pareto import choose_files, mark_dominated, reject_failing
from ..verify.device import measured_here, measured_there
from ..verify.latency import Stopwatch
from .quantizing import Files


@dataclass(frozen=True)
class Chosen:
    """What becomes of the files.

    Attributes:
        files: those to be written, under the names that they deserve.
        shipped: those of them that are not rejected.
        written_as_c: the mode that is written as C, if one is.
        measured_on: what the latencies were measured on.
        kept: which file keeps the limits, in a sentence.
        missed: why none does, one sentence each.
        failed_targets: which required targets do not run which file.
        failed_modes: why modes that were named have no file that runs.
        decisions: what was decided on the user's behalf.
    """

    files: tuple[ExportedFile, ...]
    shipped: tuple[ExportedFile, ...]
    written_as_c: str | None
    measured_on: MeasuredOn
    kept: tuple[str, ...]
    missed: tuple[str, ...]
    failed_targets: tuple[str, ...]
    failed_modes: tuple[str, ...]
    decisions: tuple[str, ...]


def choose(
    request: Request,
    files: tuple[ExportedFile, ...],
    made: Files,
    stopwatch: Stopwatch,
    device: DeviceFigures | None,
) -> Chosen:
    """Decide what becomes of the files.

    Args:
        request: limits, targets, and what is written besides.
        files: as they were measured here.
        made: the modes without a file, and what a search measured.
        stopwatch: what timed the files here.
        device: what a device found of the same files; None without.

    Raises:
        DeviceFiguresError: the device measured other files.
    """
    measured_on, failed_there = measured_here(stopwatch), tuple[str, ...]()
    if device is not None:
        files, measured_on, failed_there = measured_there(files, device, str(request.measured))
    files = mark_dominated(files) if request.pareto else files
    files, missed, kept = choose_files(request, files, made.judged)
    files, failed_targets = reject_failing(request, files)
    shipped = tuple(file for file in files if file.path.suffix != REJECTED)
    written_as_c, no_c = _written_as_c(request, shipped)
    return Chosen(
        files,
        shipped,
        written_as_c,
        measured_on,
        kept,
        missed,
        failed_targets,
        failed_modes(request.named, files, made.not_made),
        (*failed_there, *no_c),
    )


def failed_modes(named: Sequence[str], files: Sequence[ExportedFile], not_made: Sequence[NotMade]) -> tuple[str, ...]:
    """Why modes that were named have no file that runs."""
    failed = [f"there is no {item.mode} file: {item.reason}" for item in not_made if item.mode in named]
    for file in files:
        verdict = file.verified[0] if file.verified else None
        if file.mode in named and verdict is not None and not verdict.ok:
            failed.append(f"the {file.mode} file fails on {verdict.runtime}: {verdict.detail}")
    return tuple(failed)


def _written_as_c(request: Request, shipped: Sequence[ExportedFile]) -> tuple[str | None, tuple[str, ...]]:
    """The mode of the file that is written as C, if that was asked for, or why none is."""
    if not request.c_array or not shipped:
        return None, ()
    if not request.chooses_one:
        return c_mode(request), ()
    (file,) = shipped
    if is_mixed(file.mode) or file.mode in BACKENDS["micro"].modes:
        return file.mode, ()
    return None, (
        f"WARNING: no C source was written: TFLite Micro runs no {file.mode} file, and that one keeps the limits "
        "in the least time. With --target micro the file is chosen among those that TFLite Micro runs.",
    )
