"""The table that an export ends with."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ...calibration import Assessment
from ...calibration.assess import MOST_GROWTH, MOST_MISSED
from ...calibration.tensors import short_name
from ...runtime.drift.wording import UNMEASURED, decibels
from ...runtime.model.contract import InputContract
from ...runtime.model.origin import PROOF, describe_input, explain_assumed
from ...runtime.printable import one_line, styled
from ..budget import Budget, missed_text, required_of_shipped
from ..results import ExportedFile, ExportResult, NotMade, SearchReport, Verdict
from .recommend import of_a_cpu

_WIDTH = 260
_MOST_SENSITIVE = 5
_BUSY = 0.05
_LEAST_FIRM = 3
"""Tensor groups that the table shows; export.json has all of them."""


def render_result(result: ExportResult) -> str:
    """An export's result as text: the table, which file to ship where, and what was decided."""
    lines = [_table(result.files, result.not_made).rstrip(), *_failing(result), *_measured_on(result)]
    lines += _busy(result.files)
    coupling = result.batch_coupling
    if coupling is not None and coupling.coupled:
        cosine = "" if coupling.cosine_min is None else f", cosine down to {coupling.cosine_min:.5f}"
        lines.append(
            f"batch coupling: in batches of {coupling.batch_size} the original moves an image by up to "
            f"{coupling.max_abs:.3g}{cosine}; a device has batches of one"
        )
    if result.calibration is not None:
        lines += ["", *_calibration(result.calibration)]
    if result.search is not None:
        lines += ["", *_sensitivity(result.search)]
    lines += _slow(result)
    if result.not_checked and any(file.verified for file in result.files):
        lines.append(f"not checked on {', '.join(result.not_checked)}: pip install 'embedlite[verify]'")
    lines += ["", *result.ship, *_under_contract(result), "", "Decided for you:"]
    lines += [f"  - {decision}" for decision in result.decisions]
    if result.missed:
        lines += ["", *(f"FAILED: {reason}" for reason in result.missed)]
    if failed := (*result.failed_targets, *result.failed_modes):
        lines += ["", *(f"FAILED: {reason}" for reason in failed)]
    return "\n".join(lines)


def _failing(result: ExportResult) -> list[str]:
    """Which files fail the drift gates, and which of them."""
    required = required_of_shipped(None if result.limits is None else Budget(result.limits))
    return [
        f"{file.mode} fails the drift gates: {missed_text(missed)}"
        for file in result.files
        if file.drift is not None and (missed := required.missed(file.drift))
    ]


def _under_contract(result: ExportResult) -> list[str]:
    """The contract of the files, with the origin of each part, and what of it nothing proves."""
    if not result.files:
        return []
    contract, origins = InputContract.from_json(result.files[0].contract["input"]), result.files[0].contract["origins"]
    assumed = explain_assumed(contract, origins)
    drift = "; drift is measured under it" if assumed and result.files[0].drift is not None else ""
    lines = [f"contract: pixels become {describe_input(contract, origins)}{drift}"]
    return [*lines, f"  {assumed}, {PROOF} proves it"] if assumed else lines


def _busy(files: Sequence[ExportedFile]) -> list[str]:
    """How far repeated measurements lie apart, where that is far."""
    apart = [
        (file.latency_high_us - file.latency_low_us) / (file.latency_high_us + file.latency_low_us)
        for file in files
        if file.latency_low_us and file.latency_high_us
    ]
    if not apart or max(apart) <= _BUSY:
        return []
    return [f"busy machine: ±{max(apart):.0%}: files whose latencies are nearer than that are taken for equally fast"]


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


def _measured_on(result: ExportResult) -> list[str]:
    """Where the latencies of a comparison are from."""
    place = result.measured_on
    if place is None or all(file.dominated is None for file in result.files):
        return []
    what = (
        f"{place.runtime['name']} {place.runtime['version']}, {place.threads} thread(s), {place.device.get('cpu', '')}"
    )
    dominated = [file.mode for file in result.files if file.dominated]
    lines = [f"latency: {what}; repetitions and 95 % intervals in brackets"]
    if dominated:
        lines.append(
            f"dominated: {', '.join(dominated)}: another file runs wherever they do and is as good in SQNR, latency "
            "(within 3 %) and size (within 2 %), and better in one"
        )
    return lines


def _sensitivity(search: SearchReport) -> list[str]:
    """The layers that hurt most as int8."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("layers that cost most drift as int8", no_wrap=True)
    for name in ("instead", "SQNR dB", "gained", "µs", "added"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in search.sensitivity[:_MOST_SENSITIVE]:
        table.add_row(
            short_name(row.layer),
            row.precision,
            decibels(row.sqnr_db, unit=""),
            "" if row.gained_db is None else f"{row.gained_db:+.1f}",
            f"{row.latency_us:,.0f}",
            f"{row.added_us:+,.0f}",
        )
    told = f"search: {len(search.tried)} files in {search.seconds:.0f} s on {search.runtime}, {search.ended}"
    return [told, *_text(table)]


def _slow(result: ExportResult) -> list[str]:
    if result.measured_on is None or not of_a_cpu(result.measured_on.runtime):
        return []
    latencies = {file.mode: file.latency_us for file in result.files}
    slow, fast = latencies.get("int16x8"), latencies.get("int8") or latencies.get("float32")
    if not slow or not fast:
        return []
    times = f"{slow / fast:.0f} times slower"
    return [f"int16x8 is for NPUs and microcontrollers: a CPU runs it on reference kernels, here {times}"]


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return UNMEASURED
    if not verdict.ok:
        return "FAILS"
    if verdict.npu_operators is not None:
        return f"{verdict.npu_operators}/{verdict.npu_operators + sum((verdict.cpu_operators or {}).values())} on NPU"
    return "ok" if verdict.arena_bytes is None else f"ok, {-(-verdict.arena_bytes // 1024):,} KiB"


def _table(files: Sequence[ExportedFile], not_made: Sequence[NotMade]) -> str:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("mode", "file"):
        table.add_column(name, no_wrap=True)
    for name in ("bytes", "smaller", "SQNR dB", "cosine p1", "neighbours", "µs"):
        table.add_column(name, justify="right", no_wrap=True)
    compared = any(file.dominated is not None for file in files)
    runtimes = list(dict.fromkeys(verdict.runtime for file in files for verdict in file.verified))
    for runtime in runtimes:
        table.add_column(runtime, no_wrap=True)
    largest = max(file.bytes for file in files if file.mode == files[0].mode)
    for file in files:
        drift = file.drift
        verdicts = {verdict.runtime: verdict for verdict in file.verified}
        table.add_row(
            file.mode,
            one_line(file.path.name),
            f"{file.bytes:,}",
            f"{largest / file.bytes:.1f}x" if files[0].mode == "float32" else "",
            ("" if drift is None else decibels(drift.sqnr_db, unit=""))
            + (_bracket(file.intervals.get("sqnr_db"), ".1f") if compared else ""),
            "" if drift is None or drift.cosine_p1 is None else f"{drift.cosine_p1:.5f}",
            ("" if drift is None or drift.knn_overlap_cross is None else f"{drift.knn_overlap_cross:.3f}")
            + (_bracket(file.intervals.get("knn_overlap_cross"), ".3f") if compared else ""),
            ("" if file.latency_us is None else f"{file.latency_us:,.0f}")
            + (_bracket((file.latency_low_us, file.latency_high_us), ",.0f") if compared else ""),
            *(_cell(verdicts.get(runtime)) for runtime in runtimes),
            style="dim" if file.dominated else None,
        )
        if half := file.contract["half_precision"]:
            table.add_row("", "  computed in half precision", "", "", decibels(half["sqnr_db"], unit=""))
    for item in not_made:
        table.add_row(item.mode, "not made")
    failures = [f"{item.mode} was not made: {item.reason}" for item in not_made]
    failures += [
        f"{file.mode} on {verdict.runtime} {verdict.version}: {verdict.detail}"
        for file in files
        for verdict in file.verified
        if not verdict.ok
    ]
    return "\n".join([*_text(table), *failures])


def _bracket(limits: tuple[float | None, float | None] | None, form: str) -> str:
    low, high = limits or (None, None)
    return "" if low is None or high is None else f" ({low:{form}}-{high:{form}})"


def _text(table: Table) -> list[str]:
    text = io.StringIO()
    # Grey is for people: a file or a pipe gets plain text.
    terminal = sys.stdout.isatty()
    colors: Any = "standard" if terminal else None
    Console(file=text, width=_WIDTH, color_system=colors, force_terminal=terminal).print(table)
    return [styled(line.rstrip()) for line in text.getvalue().strip("\n").split("\n")]
