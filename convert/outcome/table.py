"""What an export ends with: which file to ship, the table of all, and with details what was decided and why."""

from __future__ import annotations

from collections.abc import Sequence

from ...calibration import Assessment
from ...calibration.assess import MOST_GROWTH, MOST_MISSED
from ...calibration.tensors import short_name
from ...runtime.backends.registry import BY_PACKAGE
from ...runtime.drift.wording import UNMEASURED, decibels
from ...runtime.model.contract import InputContract
from ...runtime.model.origin import PROOF, describe_input, explain_assumed
from ...runtime.model.words import word
from ...runtime.printable import one_line, paint
from ...runtime.terminal import Column, fit, join_lines, table, wrap
from ..max_drift import Budget, missed_text, required_of_shipped
from ..results import ExportedFile, ExportResult, NotMade, SearchReport, Untuned, Verdict
from .recommend import of_a_cpu

_MOST_SENSITIVE = 5
_BUSY = 0.05
_LEAST_FIRM = 3
"""Tensor groups that the table shows; export.json has all of them."""

_LOUD = ("WARNING", "mind the ")
"""How decisions begin that everybody should read."""


def render_result(result: ExportResult, width: int, *, details: bool) -> str:
    """An export's result as text, no line longer than ``width``.

    Args:
        result: what was made and measured.
        width: of a line.
        details: whether it says what was decided and why, too.
    """
    failed = (*result.missed, *result.failed_targets, *result.failed_modes)
    ship = [_painted(wrap(one_line(text), width, rest="  "), text) for text in result.ship]
    paragraphs = [
        [line for lines in ship for line in lines]
        + [paint(line, "bad") for reason in failed for line in wrap(f"FAILED: {one_line(reason)}", width, rest="  ")],
        _table(result.files, result.not_made, width),
        _wrapped([*_failing(result), *_about_files(result), *_short(result)], width),
    ]
    if details:
        paragraphs += _details(result, width)
    else:
        paragraphs.append(_wrapped([_left_out(result)], width))
    return word(join_lines(*paragraphs), result.names, is_image=_is_image(result))


def _is_image(result: ExportResult) -> bool:
    return all(InputContract.from_json(file.contract["input"]).is_image for file in result.files[:1])


def _painted(lines: list[str], text: str) -> list[str]:
    """What to ship stands out on a terminal, and so does that there is nothing."""
    style = "bad" if "nothing to ship" in text else "strong" if ": ship " in text else ""
    return [paint(line, style) for line in lines] if style else lines


def _wrapped(texts: Sequence[str], width: int) -> list[str]:
    return fit(map(one_line, texts), width)


def _short(result: ExportResult) -> list[str]:
    """What everybody should know besides the table."""
    lines = []
    coupling = result.batch_coupling
    if coupling is not None and coupling.coupled:
        cosine = "" if coupling.cosine_min is None else f", cosine down to {coupling.cosine_min:.5f}"
        lines.append(
            f"batch coupling: in batches of {coupling.batch_size} the original moves an image by up to "
            f"{coupling.max_abs:.3g}{cosine}; a device has batches of one"
        )
    if result.calibration is not None:
        lines.append(f"calibration: {result.calibration.verdict}: {result.calibration.reason}")
    if result.search is not None:
        lines.append(_searched(result.search))
    if result.not_checked and any(file.verified for file in result.files):
        lines.append(f"not checked on {', '.join(result.not_checked)}: pip install 'embedlite[verify]'")
    lines += _under_contract(result)
    return [*lines, *(text for text in result.decisions if text.startswith(_LOUD))]


def _left_out(result: ExportResult) -> str:
    """What the details would say."""
    more = sum(not text.startswith(_LOUD) for text in result.decisions)
    decided = f"{more} decision{'s were' if more != 1 else ' was'} made for you: " if more else ""
    return f"{decided}-v shows {'them and ' if more else ''}more of each file and range"


def _details(result: ExportResult, width: int) -> list[list[str]]:
    """What there is to know besides, paragraph by paragraph."""
    paragraphs = [_wrapped([*result.why, *_slow(result), *_busy(result.files), *_measured_on(result)], width)]
    if result.calibration is not None:
        paragraphs.append(_firmness(result.calibration, width))
    if result.search is not None:
        paragraphs.append(_sensitivity(result.search, width))
    decided = [
        line
        for text in result.decisions
        if not text.startswith(_LOUD)
        for line in wrap(one_line(text), width, first="  - ")
    ]
    paragraphs.append(["Decided for you:", *decided] if decided else [])
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    return [*paragraphs, fit([f"stages: {times}"], width)]


def _failing(result: ExportResult) -> list[str]:
    """Which files fail the drift gates, and which of them."""
    required = required_of_shipped(None if result.limits is None else Budget(result.limits))
    return [
        f"{file.mode} fails the drift gates: {missed_text(missed)}; what now: docs/int8-is-bad.md"
        for file in result.files
        if file.drift is not None and file.drift.count > 1 and (missed := required.missed(file.drift))
    ]


def _under_contract(result: ExportResult) -> list[str]:
    """The contract of the files, with the origin of each part, and what of it nothing proves."""
    if not result.files:
        return []
    contract, origins = InputContract.from_json(result.files[0].contract["input"]), result.files[0].contract["origins"]
    assumed = explain_assumed(contract, origins)
    drift = "; drift is measured under it" if assumed and result.files[0].drift is not None else ""
    lines = [f"contract: {contract.content} become {describe_input(contract, origins)}{drift}"]
    proved = f", {PROOF} proves it" if contract.is_image else ""
    return [*lines, f"  {assumed}{proved}"] if assumed else lines


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


def _firmness(assessment: Assessment, width: int) -> list[str]:
    """The tensors whose ranges stand least firmly."""
    columns = [
        Column("least firm ranges", left=True),
        Column("low", 2),
        Column("high", 2),
        Column("method", 3, left=True),
        Column("held-out clipped"),
        Column("growth", 1),
    ]
    groups = sorted(assessment.groups, key=lambda group: -max(group.growth / MOST_GROWTH, group.missed / MOST_MISSED))
    rows = [
        [
            one_line(short_name(group.name)),
            f"{group.low:.4g}",
            f"{group.high:.4g}",
            group.method,
            "" if group.clipped is None else f"{group.clipped:.3%}",
            f"{group.growth:.1%}",
        ]
        for group in groups[:_LEAST_FIRM]
    ]
    return table(columns, rows, width)


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


def _searched(search: SearchReport) -> str:
    return f"search: {len(search.tried)} files in {search.seconds:.0f} s on {search.runtime}, {search.ended}"


def _sensitivity(search: SearchReport, width: int) -> list[str]:
    """The layers that hurt most as int8."""
    columns = [
        Column("layers that cost most drift as int8", left=True),
        Column("instead", 1, left=True),
        Column("SQNR dB", 3),
        Column("gained"),
        Column("µs", 4),
        Column("added", 2),
    ]
    rows = [
        [
            one_line(short_name(row.layer)),
            row.precision,
            decibels(row.sqnr_db, unit=""),
            "" if row.gained_db is None else f"{row.gained_db:+.1f}",
            f"{row.latency_us:,.0f}",
            f"{row.added_us:+,.0f}",
        ]
        for row in search.sensitivity[:_MOST_SENSITIVE]
    ]
    return table(columns, rows, width)


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
        return f"{verdict.npu_operators}/{verdict.npu_operators + sum((verdict.cpu_operators or {}).values())}"
    return "ok" if verdict.arena_bytes is None else f"{-(-verdict.arena_bytes // 1024):,} KiB"


def _table(files: Sequence[ExportedFile], not_made: Sequence[NotMade], width: int) -> list[str]:
    """A row a file; a runtime's column says whether it runs there, with how much memory, on how much of the NPU."""
    compared = any(file.dominated is not None for file in files)
    runtimes = list(dict.fromkeys(verdict.runtime for file in files for verdict in file.verified))
    columns = [
        Column("file", left=True),
        Column("mode", 12, left=True),
        Column("bytes", 2),
        Column("smaller", 11),
        Column("SQNR dB"),
        Column("cosine p1", 10),
        Column("neighbours", 3),
        Column("µs"),
        # The first is the one that everybody has; it leaves last.
        *(Column(_place(name), 4 + number, left=True) for number, name in enumerate(runtimes)),
    ]
    largest = max(file.bytes for file in files if file.mode == files[0].mode)
    rows, grey = list[list[str]](), list[bool]()
    for file in files:
        verdicts = {verdict.runtime: verdict for verdict in file.verified}
        rows.append(
            [
                one_line(file.path.name),
                file.mode,
                f"{file.bytes:,}",
                f"{largest / file.bytes:.1f}x" if files[0].mode == "float32" else "",
                *_figures(file, compared=compared),
                *(_cell(verdicts.get(runtime)) for runtime in runtimes),
            ]
        )
        grey.append(bool(file.dominated))
        if half := file.contract["half_precision"]:
            figure = decibels(half["sqnr_db"], unit="")
            rows.append(["  in half precision", *(["", "", ""]), figure, *([""] * (len(columns) - 5))])
            grey.append(bool(file.dominated))
        if file.untuned is not None:
            found = {verdict.runtime: verdict for verdict in file.untuned.verified}
            places = [_cell(found.get(runtime)) for runtime in runtimes]
            figures = _figures(file.untuned, compared=compared)
            rows.append(["  not fine-tuned (not written)", "", f"{file.untuned.bytes:,}", "", *figures, *places])
            grey.append(True)
    rows += [[f"{item.mode} not made", item.mode, *([""] * (len(columns) - 2))] for item in not_made]
    return table(columns, rows, width, dim=[*grey, *([False] * len(not_made))])


def _figures(file: ExportedFile | Untuned, *, compared: bool) -> list[str]:
    """SQNR, cosine, neighbours and latency, with what they may vary by where files are compared."""
    drift, latencies = file.drift, (file.latency_low_us, file.latency_high_us)
    return [
        ("" if drift is None else decibels(drift.sqnr_db, unit=""))
        + (_bracket(file.intervals.get("sqnr_db"), ".1f") if compared else ""),
        "" if drift is None or drift.cosine_p1 is None else f"{drift.cosine_p1:.5f}",
        ("" if drift is None or drift.knn_overlap_cross is None else f"{drift.knn_overlap_cross:.3f}")
        + (_bracket(file.intervals.get("knn_overlap_cross"), ".3f") if compared else ""),
        ("" if file.latency_us is None else f"{file.latency_us:,.0f}")
        + (_bracket(latencies, ",.0f") if compared else ""),
    ]


def _place(runtime: str) -> str:
    """What ``--target`` calls a runtime."""
    return BY_PACKAGE[runtime].name if runtime in BY_PACKAGE else runtime


def _about_files(result: ExportResult) -> list[str]:
    """Why files were not made, and why they do not run where they do not."""
    return [f"{item.mode} was not made: {item.reason}" for item in result.not_made] + [
        f"{file.mode} on {verdict.runtime} {verdict.version}: {verdict.detail}"
        for file in result.files
        for verdict in file.verified
        if not verdict.ok
    ]


def _bracket(limits: tuple[float | None, float | None] | None, form: str) -> str:
    low, high = limits or (None, None)
    return "" if low is None or high is None else f" ({low:{form}}-{high:{form}})"
