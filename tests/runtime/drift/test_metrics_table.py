"""The table of metrics: what reads it, and that a new row is one edit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from embedlite.runtime.drift.metrics import METRICS

ROOT = Path(__file__).parents[3]
PACKAGES = ("runtime", "calibration", "convert", "report")

ROW = """
    loudest: float | None = _row(
        "Loudest shift", "a test metric", "largest of all", lambda rows: 3.25, unit="dB", at_most=True, gate=3.0
    )
"""

SCRIPT = """
import json, sys
import numpy as np
from embedlite.convert.max_drift import parse_budget
from embedlite.report.outputs import render_junit
from embedlite.report.page import render_page
from embedlite.runtime.drift import measure
from embedlite.runtime.drift.gates import parse_gates
from embedlite.runtime.drift.report import Description, DriftReport, build_report
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.text import render_text

rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
facts = {"kind": "tflite", "path": "a.tflite", "sha256": "00"}
described = Description(facts, facts, {"path": None}, [f"{row}" for row in range(30)])
report = build_report(measure(Rows(rows + 0.01), Rows(rows), 5), described, {})
saved = json.loads(json.dumps(report.to_json()))
print(json.dumps({
    "json": saved["metrics"]["loudest"],
    "gate": [gate.passed for gate in report.gates if gate.name == "loudest"],
    "again": DriftReport.from_json(saved).metrics["loudest"],
    "text": render_text(report, 400, details=True),
    "junit": render_junit(report).decode(),
    "page": render_page(report, None, {}, None).decode(),
    "--gate": parse_gates(["loudest=5"])["loudest"],
    "--max-drift": str(parse_budget(["loudest=5"])),
}))
"""


def test_a_metric_is_added_as_one_row(tmp_path: Path) -> None:
    house = tmp_path / "embedlite"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, house / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = house / "runtime/drift/metrics.py"
    before, after = table.read_text("utf-8").split("    cka: float | None = _row(")
    table.write_text(before + ROW.lstrip("\n") + "    cka: float | None = _row(" + after, "utf-8")
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", path + f"sys.path += {sys.path[1:]!r}\n" + SCRIPT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["json"], found["again"], found["gate"]) == (3.25, 3.25, [False])
    (line,) = [line.split() for line in found["text"].splitlines() if line.startswith("loudest")]
    assert line == ["loudest", "3.25", "<=", "3", "FAILED,", "margin", "-0.25"]
    assert "loudest = 3.25, limit &lt;= 3" in found["junit"]
    assert "Loudest shift <code>loudest</code><small>a test metric</small>" in found["page"]
    assert (found["--gate"], found["--max-drift"]) == (5.0, "loudest <= 5")


def metrics_table() -> list[str]:
    """The table of docs/drift.md under Metrics."""
    rows = [f"| `{metric.name}` | {metric.definition} |" for metric in METRICS.values()]
    return ["| metric | definition |", "|---|---|", *rows]


def gates_table() -> list[str]:
    """That under Gates."""
    rows = [
        f"| `{metric.name}` | {'≤' if metric.at_most else '≥'} {metric.gate:g} | {metric.why} |"
        for metric in METRICS.values()
        if metric.gate is not None
    ]
    return ["| gate | default | why |", "|---|---|---|", *rows]


def test_the_documents_tables_are_the_table() -> None:
    text = (ROOT / "docs/drift.md").read_text("utf-8")
    for table in (metrics_table(), gates_table()):
        assert "\n".join(table) + "\n\n" in text
