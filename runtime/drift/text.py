"""The drift report for a terminal: verdict and advice first, one table, decisions, the worst inputs last."""

from __future__ import annotations

from ..printable import one_line
from .decisions import Decisions
from .gates import Gate
from .intervals import Interval
from .labelled.parts import Breakdown
from .labelled.retrieval import Retrieval
from .metrics import METRICS
from .report import DriftReport
from .silent import Silent
from .wording import PARTS, RETRIEVAL, cosine, metric_text, part_figure

SHOWN_PARTS = 5


def render_text(report: DriftReport) -> str:
    """The report as text, without a line break at its end."""
    failed = [gate.name for gate in report.gates if not gate.passed]
    verdict = report.verdict.upper() + (" (" + ", ".join(failed) + ")" if failed else "")
    count = report.metrics["count"]
    lines = [
        f"{verdict}: {one_line(str(report.candidate['path']))} against {one_line(str(report.reference['path']))}, "
        f"{count} images",
        f"{report.advice.headline}",
        *(f"  - {reason}" for reason in report.advice.why),
        "",
        f"{'metric':<20}{'value':>12}   {'95 % interval':<23}   gate",
    ]
    gates = {gate.name: gate for gate in report.gates}
    for name, value in report.metrics.items():
        if name in ("count", "k") or (METRICS[name].source == "retrieval" and report.retrieval is None):
            continue
        interval = report.intervals.get(name)
        shown = "" if interval is None else f"{metric_text(interval[0], name)} to {metric_text(interval[1], name)}"
        told = metric_text(value, name, report.identical)
        lines.append(f"{name:<20}{told:>12}   {shown:<23}   {gate_text(gates.get(name))}".rstrip())
    if report.decisions is not None:
        lines += ["", *_decisions(report.decisions)]
    if report.retrieval is not None:
        lines += ["", *_retrieval(report.retrieval)]
    for breakdown in report.parts:
        lines += ["", *_parts(breakdown)]
    for side, counts in (report.silent or {}).items():
        if (silent := Silent(**counts)).any:
            lines += ["", f"{side}: vectors that say nothing: {silent}"]
    lines += ["", "worst inputs by cosine"]
    lines += [f"  {cosine(row.cosine):>9}  {one_line(row.id)}" for row in report.worst]
    return "\n".join(lines)


def _decisions(decisions: Decisions) -> list[str]:
    truth = "labels" if decisions.truth == "labels" else "the reference's nearest neighbours taken for the same thing"
    lines = [
        f"decisions at the float threshold {decisions.threshold:.6f} (false accept rate {decisions.far:.2g}; "
        f"{decisions.genuine_pairs} genuine and {decisions.impostor_pairs} impostor pairs by {truth})",
        f"  {'':<26}{'FAR':>10}{'TAR':>9}   {'newly rejected':<20}{'newly accepted':<20}threshold for that FAR, TAR",
        f"  {'float':<26}{decisions.far_float:>10.2e}{decisions.tar_float:>9.4f}",
    ]
    for name, side in (("candidate, float gallery", decisions.cross), ("candidate, own gallery", decisions.own)):
        rejected = f"{side.genuine_lost} (<= {side.false_reject_flips_upper:.2%})"
        accepted = f"{side.impostor_gained} (<= {side.false_accept_flips_upper:.3%})"
        lines.append(
            f"  {name:<26}{side.far:>10.2e}{side.tar:>9.4f}   {rejected:<20}{accepted:<20}"
            f"{side.threshold_restored:.6f}, {side.tar_restored:.4f}"
        )
    return lines


def _retrieval(found: Retrieval) -> list[str]:
    drawn = "" if found.drawn == found.queries else f" of {found.drawn} clusters"
    ranked = "" if found.ranked == found.queries else f", mAP by {found.ranked} of them"
    lines = [
        f"retrieval by labels, {found.queries} queries{drawn}{ranked}; losses in points with 95 % intervals",
        f"  {'':<14}{'float':>8}{'in the float gallery':>22}  {'loss':<24}{'own gallery':>11}  loss",
    ]
    for name, figure in found.figures.items():
        lines.append(
            f"  {RETRIEVAL[name]:<14}{figure.reference:>8.2%}{figure.cross:>22.2%}  "
            f"{_points(figure.cross_loss, figure.cross_interval):<24}{figure.own:>11.2%}  "
            f"{_points(figure.own_loss, figure.own_interval)}"
        )
    return lines


def _parts(found: Breakdown) -> list[str]:
    judged = [part for part in found.parts if part.figures]
    left_out = len(found.parts) - len(judged)
    lines = [f"who pays, by {found.by}: {len(judged)} looked at, intervals corrected for {found.looked_at} figures"]
    if left_out:
        lines[0] += f"; {left_out} with too few images"
    for part in found.worse[:SHOWN_PARTS]:
        for name in part.worse:
            figure = part.figures[name]
            low, high = (part_figure(name, value) for value in figure.interval)
            lines.append(
                f"  {found.by} {part.name} ({part.count} images): {PARTS[name]} {part_figure(name, figure.value)} "
                f"({low} to {high}), others {part_figure(name, figure.others)}"
            )
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
