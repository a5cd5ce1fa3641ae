"""``drift-fleet``: what the monitors of many devices saw, as one report."""

from __future__ import annotations

from pathlib import Path

import click

from ...runtime.commands.options import (
    Command,
    check_outputs,
    common_options,
    emit_result,
    in_group,
    is_verbose,
    run_command,
)
from ...runtime.drift.text import gate_text, metric_table
from ...runtime.drift.wording import metric_text
from ...runtime.errors import EXIT_BAD_ANSWER
from ...runtime.monitor.references import PAIRED
from ...runtime.printable import one_line, paint
from ...runtime.terminal import Column, join_lines, line_width, table, wrap
from .fleet import FleetReport, join_fleet
from .outliers import PSI, Outlier

_COLUMNS = {
    True: ("invalid", "cosine_mean", "cosine_p1", "cosine_min", "sqnr_db"),
    False: ("invalid", "psi_mean", "psi_excess", "psi_max", "score_p99"),
}


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
    emit_result(report.to_json(), render_fleet(report, line_width(), details=is_verbose()), json_path)
    return 0 if report.passed else EXIT_BAD_ANSWER


def render_fleet(report: FleetReport, width: int, *, details: bool) -> str:
    """The report as text, no line longer than ``width``: the verdict first, the devices last.

    Args:
        report: the report.
        width: of a line.
        details: whether metrics without a gate and quantiles are shown, too.
    """
    reasons = [gate.name for gate in report.gates if not gate.passed]
    reasons += [f"outlier {one_line(device.name)}" for device in report.outliers]
    verdict = f"FAIL ({', '.join(reasons)})" if reasons else "PASS"
    state = report.state
    head = wrap(
        f"{verdict}: {len(report.devices)} device(s), {state.counters['inputs']} inputs, {report.metrics['count']} "
        f"compared with {state.reference['kind']} {state.reference['sha256'][:12]}",
        width,
        rest="  ",
    )
    head[0] = paint(head[0][:4], "bad" if reasons else "good") + head[0][4:]
    gates = {gate.name: gate for gate in report.gates}
    rows = [
        [name, metric_text(value, name), "", gate_text(gates.get(name))]
        for name, value in report.metrics.items()
        if name != "count" and (details or not gates or name in gates)
    ]
    paragraphs = [head, metric_table(rows, width)]
    for name, quantiles in state.quantiles().items() if details else ():
        lines = [f"  {100 * one['share']:>5g} %{one['low']:>12.4g} to {one['high']:.4g}" for one in quantiles]
        paragraphs.append([f"quantiles of {name}, each between the edges of its bin", *lines])
    more = [] if details else ["-v shows every metric and quantiles"]
    return join_lines(*paragraphs, _devices(report, width), more)


def _devices(report: FleetReport, width: int) -> list[str]:
    names = _COLUMNS[report.state.kind == PAIRED]
    columns = [
        Column("device", left=True),
        Column("inputs", 1),
        Column("skipped", 6),
        Column("failed", 2),
        Column("compared", 5),
        # The first of them say most.
        *(Column(name, 3 if place > 2 else 0) for place, name in enumerate(names)),
    ]
    rows = [
        [
            one_line(device.name),
            *(str(device.state.counters[name]) for name in ("inputs", "skipped", "failed")),
            str(device.metrics["count"]),
            *(metric_text(device.metrics[name], name) for name in names),
        ]
        for device in report.devices
    ]
    why = [
        line
        for device in report.outliers
        for reason in device.outlier
        for line in wrap(f"{one_line(device.name)} is worse than the others: {_reason(reason)}", width, rest="  ")
    ]
    return [*table(columns, rows, width), *why]


def _reason(why: Outlier) -> str:
    if why.what == PSI:
        return f"its psi_mean is {why.value:.3g}, theirs {why.others:.3g}"
    what = "are invalid" if why.beyond is None else f"are off by {why.beyond:.3g} or more"
    return f"{100 * why.value:.3g}% of its inputs {what}, {100 * why.others:.3g}% of theirs"


def main() -> None:
    """The ``drift-fleet`` program."""
    run_command(drift_fleet)
