"""The table that an export ends with."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..calibration import Assessment
from ..calibration.assess import MOST_GROWTH, MOST_MISSED, short_name
from .results import ExportedFile, ExportResult, Verdict

_WIDTH = 200
_LEAST_FIRM = 3
"""Tensor groups that the table shows; export.json has all of them."""


def render_result(result: ExportResult) -> str:
    """An export's result as text: the table, which file to ship where, and what was decided."""
    lines = [_table(result.files).rstrip()]
    coupling = result.batch_coupling
    if coupling is not None and coupling.coupled:
        cosine = "" if coupling.cosine_min is None else f", cosine down to {coupling.cosine_min:.5f}"
        lines.append(
            f"batch coupling: in batches of {coupling.batch_size} the original moves an image by up to "
            f"{coupling.max_abs:.3g}{cosine}; a device has batches of one"
        )
    if result.calibration is not None:
        lines += ["", *_calibration(result.calibration)]
    lines += _slow(result.files)
    if result.not_checked and any(file.verified for file in result.files):
        lines.append(f"not checked on {', '.join(result.not_checked)}: pip install 'embedlite[verify]'")
    lines += ["", *result.ship, "", "Decided for you:"]
    lines += [f"  - {decision}" for decision in result.decisions]
    if result.failed_targets:
        lines += ["", *(f"FAILED: {reason}" for reason in result.failed_targets)]
    return "\n".join(lines)


def _calibration(assessment: Assessment) -> list[str]:
    """The verdict on the calibration images, and the tensors whose ranges stand least firmly."""
    lines = [f"calibration: {assessment.verdict}: {assessment.reason}"]
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("least firm ranges", no_wrap=True)
    for name in ("low", "high", "method", "held-out clipped", "growth"):
        table.add_column(name, justify="right", no_wrap=True)
    groups = sorted(assessment.groups, key=lambda group: -max(group.growth / MOST_GROWTH, group.missed / MOST_MISSED))
    for group in groups[:_LEAST_FIRM]:
        table.add_row(
            short_name(group.name),
            f"{group.low:.4g}",
            f"{group.high:.4g}",
            group.method,
            "" if group.clipped is None else f"{group.clipped:.3%}",
            f"{group.growth:.1%}",
        )
    return [*lines, *_text(table)]


def _slow(files: Sequence[ExportedFile]) -> list[str]:
    latencies = {file.mode: file.latency_us for file in files}
    slow, fast = latencies.get("int16x8"), latencies.get("int8") or latencies.get("float32")
    if not slow or not fast:
        return []
    times = f"{slow / fast:.0f} times slower"
    return [f"int16x8 is for NPUs and microcontrollers: a CPU runs it on reference kernels, here {times}"]


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    if not verdict.ok:
        return "FAILS"
    if verdict.npu_operators is not None:
        return f"{verdict.npu_operators}/{verdict.npu_operators + sum((verdict.cpu_operators or {}).values())} on NPU"
    return "ok" if verdict.arena_bytes is None else f"ok, {-(-verdict.arena_bytes // 1024):,} KiB"


def _table(files: Sequence[ExportedFile]) -> str:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("mode", "file"):
        table.add_column(name, no_wrap=True)
    for name in ("bytes", "smaller", "SQNR dB", "cosine p1", "neighbours", "µs"):
        table.add_column(name, justify="right", no_wrap=True)
    runtimes = list(dict.fromkeys(verdict.runtime for file in files for verdict in file.verified))
    for runtime in runtimes:
        table.add_column(runtime, no_wrap=True)
    largest = max(file.bytes for file in files if file.mode == files[0].mode)
    for file in files:
        drift = file.drift
        verdicts = {verdict.runtime: verdict for verdict in file.verified}
        table.add_row(
            file.mode,
            file.path.name,
            f"{file.bytes:,}",
            f"{largest / file.bytes:.1f}x" if files[0].mode == "float32" else "",
            "" if drift is None else "identical" if drift.sqnr_db is None else f"{drift.sqnr_db:.1f}",
            "" if drift is None or drift.cosine_p1 is None else f"{drift.cosine_p1:.5f}",
            "" if drift is None or drift.knn_overlap_cross is None else f"{drift.knn_overlap_cross:.3f}",
            "" if file.latency_us is None else f"{file.latency_us:,.0f}",
            *(_cell(verdicts.get(runtime)) for runtime in runtimes),
        )
    failures = [
        f"{file.mode} on {verdict.runtime} {verdict.version}: {verdict.detail}"
        for file in files
        for verdict in file.verified
        if not verdict.ok
    ]
    return "\n".join([*_text(table), *failures])


def _text(table: Table) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None).print(table)
    return [line.rstrip() for line in text.getvalue().strip("\n").splitlines()]
