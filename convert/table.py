"""The table that an export ends with."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from .results import ExportedFile, ExportResult

_WIDTH = 200


def render_result(result: ExportResult) -> str:
    """An export's result as text: the table, which file to ship where, and what was decided."""
    lines = [_table(result.files).rstrip(), "", *result.ship, "", "Decided for you:"]
    lines += [f"  - {decision}" for decision in result.decisions]
    return "\n".join(lines)


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
            *(("ok" if verdicts[r].ok else "FAILS") if r in verdicts else "" for r in runtimes),
        )
    failures = [
        f"{file.mode} on {verdict.runtime} {verdict.version}: {verdict.detail}"
        for file in files
        for verdict in file.verified
        if not verdict.ok
    ]
    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None).print(table)
    return "\n".join([*(line.rstrip() for line in text.getvalue().strip("\n").splitlines()), *failures])
