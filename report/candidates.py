"""``drift-report`` of several candidates: what can be asked of them, their latencies, and the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..calibration.engine import open_engine
from ..runtime.check.figures import DeviceFigures, read_device_figures
from ..runtime.drift.compare import Measurement
from ..runtime.drift.report import DriftReport
from ..runtime.errors import DataError, RequestError
from .outputs import Outputs, Pictured
from .page.export_files import ExportSummary, FileSummary
from .several.choose import Latency
from .several.run import run_several
from .sides import Judging, Request, Sides


def check_asked(**asked: Any) -> None:
    """Refuse what is about one candidate.

    Args:
        asked: values of options, by their names.

    Raises:
        RequestError: one was given.
    """
    for name, value in asked.items():
        if value:
            raise RequestError(
                f"--{name.replace('_', '-')} is about one candidate, and several are named. Leave it out, or name one."
            )


def compare_candidates(
    request: Request,
    paths: Sequence[Path],
    judging: Judging,
    outputs: Outputs,
    *,
    engine: str,
    export: ExportSummary | None,
    measured: Path | None,
) -> bool:
    """Compare several candidates, write what was asked for, and say whether all of them hold their gates.

    Raises:
        EmbedliteError: see :func:`embedlite.report.several.run.run_several`.
    """
    device = None if measured is None else read_device_figures(measured)

    def look(sides: Sides, measurement: Measurement, report: DriftReport) -> Pictured:
        return Pictured.of(sides, measurement, report) if outputs.html is not None else Pictured()

    with open_engine(engine, request.threads) as opened:
        comparison, pictures = run_several(
            replace(request, engine=None if opened.workers == () else opened),
            paths,
            judging,
            _latencies(export, device, measured),
            look,
        )
    if (export or device) and not any(one.latency for one in comparison.candidates):
        raise DataError(
            f"{measured or (export and export.path)} has no latency of any of the candidates. Pass the file that was "
            "written for them, or leave it out."
        )
    outputs.write_several(comparison, [one or Pictured() for one in pictures], export)
    return comparison.passed


def _latencies(
    export: ExportSummary | None, device: DeviceFigures | None, measured: Path | None
) -> Callable[[str | None], Latency | None]:
    """Of a model by its SHA-256: the device's, where there are any, else the export's."""

    def of_device(sha256: str) -> Latency | None:
        assert device is not None
        found = device.of(sha256)
        if found is None or found.latency_us is None or not found.passed:
            return None
        where = f"{measured}: {device.device.get('cpu', 'a device')}, {device.runtime}, {device.threads} thread(s)"
        return Latency(found.latency_us, found.low_us or 0, found.high_us or 0, where)

    def of_export(sha256: str) -> Latency | None:
        assert export is not None
        found: FileSummary | None = next((file for file in export.files if file.sha256 == sha256), None)
        if found is None or found.latency_us is None:
            return None
        low, high = found.latency_low_us or found.latency_us, found.latency_high_us or found.latency_us
        place = export.measured_on
        where = "" if place is None else f": {place['device'].get('cpu', '')}, {place['runtime']['name']}"
        return Latency(found.latency_us, low, high, f"{export.path.name}{where}")

    def latency(sha256: str | None) -> Latency | None:
        if sha256 is None or (device is None and export is None):
            return None
        return of_device(sha256) if device is not None else of_export(sha256)

    return latency
