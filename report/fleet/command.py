"""``drift-fleet``: what the monitors of many devices saw, as one report."""

from __future__ import annotations

from pathlib import Path

import click

from ...runtime.commands.options import Command, check_outputs, common_options, emit_result, in_group, run_command
from ...runtime.drift.text import gate_text
from ...runtime.drift.wording import metric_text
from ...runtime.errors import EXIT_BAD_ANSWER
from ...runtime.monitor.references import PAIRED
from ...runtime.printable import one_line
from .fleet import FleetReport, join_fleet
from .outliers import PSI, Outlier

_COLUMNS = {
    True: ("invalid", "cosine_mean", "cosine_p1", "cosine_min", "sqnr_db"),
    False: ("invalid", "psi_mean", "psi_excess", "psi_max", "score_p99"),
}


_judge = in_group("Judgement")


@click.command(name="drift-fleet", cls=Command, example="drift-fleet monitors/*.json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@in_group("Judgement")(
    "--gate", "gates", multiple=True, metavar="NAME=VALUE", help="A limit; repeatable, replaces the default."
)
@common_options
def drift_fleet(files: tuple[Path, ...], gates: tuple[str, ...], json_path: str | None) -> int:
    """Join the state FILEs of drift monitors, judge the fleet and name the devices that are worse than the others.

    Exit code 1 says that a gate failed or that a device stands out.
    """
    check_outputs(files, json=json_path)
    report = join_fleet(files, gates)
    emit_result(report.to_json(), render_fleet(report), json_path)
    return 0 if report.passed else EXIT_BAD_ANSWER


def render_fleet(report: FleetReport) -> str:
    """The report as text: the verdict first, the devices last."""
    reasons = [gate.name for gate in report.gates if not gate.passed]
    reasons += [f"outlier {one_line(device.name)}" for device in report.outliers]
    verdict = f"FAIL ({', '.join(reasons)})" if reasons else "PASS"
    state = report.state
    lines = [
        f"{verdict}: {len(report.devices)} device(s), {state.counters['inputs']} inputs, {report.metrics['count']} "
        f"compared with {state.reference['kind']} {state.reference['sha256'][:12]}",
        "",
        f"{'metric':<22}{'value':>12}   gate",
    ]
    gates = {gate.name: gate for gate in report.gates}
    for name, value in report.metrics.items():
        if name != "count":
            lines.append(f"{name:<22}{metric_text(value, name):>12}   {gate_text(gates.get(name))}".rstrip())
    for name, quantiles in state.quantiles().items():
        lines += ["", f"quantiles of {name}, each between the edges of its bin"]
        lines += [f"  {100 * one['share']:>5g} %{one['low']:>12.4g} to {one['high']:.4g}" for one in quantiles]
    return "\n".join([*lines, "", *_devices(report)])


def _devices(report: FleetReport) -> list[str]:
    columns = _COLUMNS[report.state.kind == PAIRED]
    counted = ("inputs", "skipped", "failed")
    width = max(len("device"), *(len(one_line(device.name)) for device in report.devices))
    titles = [f"{name:>{max(10, len(name))}}" for name in (*counted, "compared", *columns)]
    lines = [f"{'device':<{width}}  {'  '.join(titles)}"]
    for device in report.devices:
        figures = [str(device.state.counters[name]) for name in counted] + [str(device.metrics["count"])]
        figures += [metric_text(device.metrics[name], name) for name in columns]
        cells = [f"{figure:>{len(title)}}" for figure, title in zip(figures, titles, strict=True)]
        lines.append(f"{one_line(device.name):<{width}}  {'  '.join(cells)}")
        lines += [f"  worse than the others: {_reason(why)}" for why in device.outlier]
    return lines


def _reason(why: Outlier) -> str:
    if why.what == PSI:
        return f"its psi_mean is {why.value:.3g}, theirs {why.others:.3g}"
    what = "are invalid" if why.beyond is None else f"are off by {why.beyond:.3g} or more"
    return f"{100 * why.value:.3g}% of its inputs {what}, {100 * why.others:.3g}% of theirs"


def main() -> None:
    """The ``drift-fleet`` program."""
    run_command(drift_fleet)
