"""The drift report for a terminal: verdict and advice first, one table, decisions, the worst inputs last."""

from __future__ import annotations

from .decisions import Decisions
from .gates import Gate
from .report import DriftReport


def render_text(report: DriftReport) -> str:
    """The report as text, without a line break at its end."""
    failed = [gate.name for gate in report.gates if not gate.passed]
    verdict = "PASS" if not failed else "FAIL (" + ", ".join(failed) + ")"
    count = report.metrics["count"]
    lines = [
        f"{verdict}: {report.candidate['path']} against {report.reference['path']}, {count} images",
        f"{report.advice.headline}",
        *(f"  - {reason}" for reason in report.advice.why),
        "",
        f"{'metric':<20}{'value':>12}   {'95 % interval':<23}   gate",
    ]
    gates = {gate.name: gate for gate in report.gates}
    for name, value in report.metrics.items():
        if name in ("count", "k"):
            continue
        interval = report.intervals.get(name)
        shown = "" if interval is None else f"{number_text(interval[0], name)} to {number_text(interval[1], name)}"
        lines.append(f"{name:<20}{number_text(value, name):>12}   {shown:<23}   {gate_text(gates.get(name))}".rstrip())
    if report.decisions is not None:
        lines += ["", *_decisions(report.decisions)]
    lines += ["", "worst inputs by cosine"]
    lines += [f"  {'invalid' if row.cosine is None else f'{row.cosine:.6f}':>9}  {row.id}" for row in report.worst]
    return "\n".join(lines)


def _decisions(decisions: Decisions) -> list[str]:
    truth = "labels" if decisions.truth == "labels" else "the reference's nearest neighbours taken for the same thing"
    lines = [
        f"decisions at the float threshold {decisions.threshold:.6f} (false accept rate {decisions.far:.2g}; "
        f"{decisions.genuine_pairs} genuine and {decisions.impostor_pairs} impostor pairs by {truth})",
        f"  {'':<26}{'FAR':>10}{'TAR':>9}   {'rejected anew':<20}{'accepted anew':<20}{'threshold for that FAR, TAR'}",
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


def number_text(value: float | None, name: str) -> str:
    """A metric's value, or ``none``."""
    if value is None:
        return "none"
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if name in ("sqnr_db", "invalid") else f"{value:.6f}"


def gate_text(gate: Gate | None) -> str:
    """A metric's limit and whether it holds; empty without a gate."""
    if gate is None:
        return ""
    margin = "" if gate.margin is None else f", margin {gate.margin:.3g}"
    return f"{'<=' if gate.at_most else '>='} {gate.limit:g}  {'ok' if gate.passed else 'FAILED'}{margin}"


def fixed(value: float | None, digits: int) -> str:
    """A figure with that many decimals, or that there is none."""
    return "none" if value is None else f"{value:.{digits}f}"
