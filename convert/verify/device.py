"""Latencies and verdicts of the device that was measured, in place of this machine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ...runtime.backends.interpreters import package_version
from ...runtime.check.figures import DeviceFigures, another_model
from ...runtime.machine import describe_environment
from ..results import DEVICE, ExportedFile, MeasuredOn, Untuned, Verdict
from .latency import Stopwatch


def measured_here(stopwatch: Stopwatch) -> MeasuredOn:
    """What this machine's latencies were measured on."""
    runtime = {"name": stopwatch.package, "version": package_version(stopwatch.package), "delegate": None}
    return MeasuredOn(describe_environment(), runtime, stopwatch.threads)


def measured_there(
    files: Sequence[ExportedFile], figures: DeviceFigures, path: str | Path
) -> tuple[tuple[ExportedFile, ...], MeasuredOn, tuple[str, ...]]:
    """The files with a device's latencies and verdicts, what they were measured on, and why some are not shipped there.

    Args:
        files: as they were measured here.
        figures: of the device.
        path: where these were read, for messages.

    Raises:
        DeviceFiguresError: the device measured other files.
    """
    timed, failed = list[ExportedFile](), list[str]()
    for file in files:
        found = figures.of(file.sha256)
        if found is None:
            raise another_model(path, figures, file.path.name, file.sha256)
        reason = found.error or ("" if found.passed else "its golden vectors are computed differently there")
        if reason:
            failed.append(f"WARNING: {file.path.name} failed on the device, so it is not shipped there: {reason}.")
        latencies = (found.latency_us, found.low_us, found.high_us) if found.passed else (None, None, None)
        timed.append(
            replace(
                file,
                latency_us=latencies[0],
                latency_low_us=latencies[1],
                latency_high_us=latencies[2],
                verified=(*file.verified, Verdict(DEVICE, str(figures.runtime), found.passed, reason)),
                untuned=_never_there(file.untuned),
            )
        )
    return tuple(timed), MeasuredOn(figures.device, asdict(figures.runtime), figures.threads), tuple(failed)


def _never_there(untuned: Untuned | None) -> Untuned | None:
    """A file that is not written without this machine's latencies beside those of a device."""
    if untuned is None:
        return None
    return replace(untuned, latency_us=None, latency_low_us=None, latency_high_us=None)
