"""The drift report for a terminal: verdict and advice first, the gates, who pays; with details every figure."""

from __future__ import annotations

from collections.abc import Sequence

from ..printable import one_line, paint
from ..terminal import Column, join_lines, table, wrap
from .decisions import Decisions
from .gates import Gate
from .intervals import Interval
from .labelled.parts import Breakdown
from .labelled.retrieval import Retrieval
from .metrics import METRICS
from .report import DriftReport, Worst
from .silent import Silent
from .wording import PARTS, RETRIEVAL, cosine, metric_text, part_figure

SHOWN_PARTS = 5

MORE = "-v shows every metric, the decisions and more of the worst inputs"
"""Said where details are left out."""

WHAT_NOW = "what to do about it, step by step: docs/int8-is-bad.md."
"""Said of what should not be shipped."""


def render_text(report: DriftReport, width: int, *, details: bool) -> str:
    """The report as text, without a line break at its end and no line longer than ``width``.

    Args:
        report: the report.
        width: of a line.
        details: whether metrics without a gate, decisions and the worst inputs are shown, too.
    """
    paragraphs = [_verdict(report, width), _metrics(report, width, details=details)]
    if report.decisions is not None and details:
        paragraphs.append(_decisions(report.decisions, width))
    if report.retrieval is not None:
        paragraphs.append(_retrieval(report.retrieval, width))
    paragraphs += [_parts(breakdown, report.noun, width) for breakdown in report.parts]
    for side, counts in (report.silent or {}).items():
        if (silent := Silent(**counts)).any:
            paragraphs.append(wrap(f"{side}: vectors that say nothing: {silent}", width, rest="  "))
    if details:
        paragraphs.append(_worst(report.worst))
    elif report.worst:
        worst = report.worst[0]
        paragraphs.append(wrap(f"worst input: {one_line(worst.id)}, cosine {cosine(worst.cosine)}", width, rest="  "))
    return join_lines(*paragraphs)


def _verdict(report: DriftReport, width: int) -> list[str]:
    failed = [gate.name for gate in report.gates if not gate.passed]
    verdict = report.verdict.upper() + (" (" + ", ".join(failed) + ")" if failed else "")
    head = wrap(
        f"{verdict}: {one_line(str(report.candidate['path']))} against {one_line(str(report.reference['path']))}, "
        f"{report.metrics['count']} {report.noun}s",
        width,
        rest="  ",
    )
    word = report.verdict.upper()
    head[0] = paint(word, "good" if report.verdict == "pass" else "bad") + head[0].removeprefix(word)
    lines = head + [paint(line, "strong") for line in wrap(one_line(report.advice.headline), width)]
    why = [*report.advice.why, *([WHAT_NOW] if report.advice.action == "do-not-ship" else [])]
    return lines + [line for reason in why for line in wrap(one_line(reason), width, first="  - ")]


def _metrics(report: DriftReport, width: int, *, details: bool) -> list[str]:
    """Those with a gate, or all; without any gate all as well."""
    gates = {gate.name: gate for gate in report.gates}
    rows = []
    for name, value in report.metrics.items():
        if name in ("count", "k") or (METRICS[name].source == "retrieval" and report.retrieval is None):
            continue
        if gates and name not in gates and not details:
            continue
        interval = report.intervals.get(name)
        shown = "" if interval is None else f"{metric_text(interval[0], name)} to {metric_text(interval[1], name)}"
        rows.append([name, metric_text(value, name, report.identical), shown, gate_text(gates.get(name))])
    return metric_table(rows, width)


def metric_table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Metrics as a table: name, value, 95 % interval, gate."""
    columns = [
        Column("metric", left=True),
        Column("value"),
        Column("95 % interval", 1, left=True),
        Column("gate", left=True),
    ]
    return table(columns, rows, width)


def _worst(worst: Sequence[Worst]) -> list[str]:
    return ["worst inputs by cosine", *(f"  {cosine(row.cosine):>9}  {one_line(row.id)}" for row in worst)]


def _decisions(decisions: Decisions, width: int) -> list[str]:
    truth = "labels" if decisions.truth == "labels" else "the reference's nearest neighbours taken for the same thing"
    head = wrap(
        f"decisions at the float threshold {decisions.threshold:.6f} (false accept rate {decisions.far:.2g}; "
        f"{decisions.genuine_pairs} genuine and {decisions.impostor_pairs} impostor pairs by {truth})",
        width,
        rest="  ",
    )
    columns = [
        Column("", left=True),
        Column("FAR", 2),
        Column("TAR", 1),
        Column("newly rejected", left=True),
        Column("newly accepted", 3, left=True),
        Column("threshold for that FAR, TAR", left=True),
    ]
    rows = [["float", f"{decisions.far_float:.2e}", f"{decisions.tar_float:.4f}", "", "", ""]]
    for name, side in (("candidate, float gallery", decisions.cross), ("candidate, own gallery", decisions.own)):
        rows.append(
            [
                name,
                f"{side.far:.2e}",
                f"{side.tar:.4f}",
                f"{side.genuine_lost} (<= {side.false_reject_flips_upper:.2%})",
                f"{side.impostor_gained} (<= {side.false_accept_flips_upper:.3%})",
                f"{side.threshold_restored:.6f}, {side.tar_restored:.4f}",
            ]
        )
    return [*head, *table(columns, rows, width, "  ")]


def _retrieval(found: Retrieval, width: int) -> list[str]:
    drawn = "" if found.drawn == found.queries else f" of {found.drawn} clusters"
    ranked = "" if found.ranked == found.queries else f", mAP by {found.ranked} of them"
    head = wrap(
        f"retrieval by labels, {found.queries} queries{drawn}{ranked}; losses in points with 95 % intervals",
        width,
        rest="  ",
    )
    columns = [
        Column("", left=True),
        Column("float"),
        Column("in the float gallery", 2),
        Column("loss", left=True),
        Column("own gallery", 3),
        Column("loss there", 1, left=True),
    ]
    rows = [
        [
            RETRIEVAL[name],
            f"{figure.reference:.2%}",
            f"{figure.cross:.2%}",
            _points(figure.cross_loss, figure.cross_interval),
            f"{figure.own:.2%}",
            _points(figure.own_loss, figure.own_interval),
        ]
        for name, figure in found.figures.items()
    ]
    return [*head, *table(columns, rows, width, "  ")]


def _parts(found: Breakdown, noun: str, width: int) -> list[str]:
    judged = [part for part in found.parts if part.figures]
    left_out = len(found.parts) - len(judged)
    head = f"who pays, by {found.by}: {len(judged)} looked at, intervals corrected for {found.looked_at} figures"
    if left_out:
        head += f"; {left_out} with too few {noun}s"
    lines = wrap(one_line(head), width, rest="  ")
    for part in found.worse[:SHOWN_PARTS]:
        for name in part.worse:
            figure = part.figures[name]
            low, high = (part_figure(name, value) for value in figure.interval)
            said = (
                f"{found.by} {part.name} ({part.count} {noun}s): {PARTS[name]} {part_figure(name, figure.value)} "
                f"({low} to {high}), others {part_figure(name, figure.others)}"
            )
            lines += wrap(one_line(said), width, first="  ", rest="    ")
    more = len(found.worse) - SHOWN_PARTS
    if more > 0:
        lines.append(f"  and {more} more, see --html or --json")
    return lines if found.worse else [*lines, "  none is worse than the others beyond chance"]


def _points(loss: float, interval: Interval | None) -> str:
    around = "" if interval is None else f" ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"
    return f"{100 * loss:.2f}{around}"


def gate_text(gate: Gate | None) -> str:
    """A metric's limit and whether it holds; empty without a gate."""
    if gate is None:
        return ""
    margin = "" if gate.margin is None else f", margin {gate.margin:.3g}"
    return f"{'<=' if gate.at_most else '>='} {gate.limit:g}  {'ok' if gate.passed else 'FAILED'}{margin}"
