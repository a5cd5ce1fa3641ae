"""The table of backends: what reads it, and that a new row is one edit."""

import json
from pathlib import Path

from embedlite.convert.modes import MODES
from embedlite.runtime.backends.registry import BACKENDS

from changed import ROOT, copy_packages, run_with
from conftest import Run

ROW = """
        Backend(
            "phone",
            "phone-runtime",
            "pip install phone-runtime",
            imports="phone_runtime",
            module="phone_runtime",
            modes=("float32", "float16"),
            precisions=("float",),
            verifies="what phones have",
        ),
"""

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from click.testing import CliRunner
from embedlite.convert import ExportOptions, export
from embedlite.convert.command import export_tflite
from embedlite.convert.outcome.recommend import of_a_cpu
from embedlite.convert.search.pareto import _fits
from embedlite.convert.verify.latency import Stopwatch
from embedlite.runtime import Encoder
from encoders import quick_encoder

folder = Path(sys.argv[1])
result = export(quick_encoder(), folder, quantize=["float32", "dynamic"], options=ExportOptions(targets=["phone"]))
float32, dynamic = result.files
with Encoder(float32.path, runtime="phone-runtime") as encoder:
    name, shape = encoder.runtime.name, encoder.embed(np.zeros((2, 32, 32, 3), np.uint8)).shape
try:
    export(quick_encoder(), folder, quantize=["dynamic"], options=ExportOptions(targets=["phone"]))
except Exception as error:
    refused = str(error)
print(json.dumps({
    "help": CliRunner().invoke(export_tflite, ["--help"]).output,
    "encoder": [name, *shape],
    "verdicts": [[v.runtime for v in file.verified if v.ok] for file in result.files],
    "fits": [_fits(float32, ["phone"]), _fits(dynamic, ["phone"])],
    "timed": Stopwatch("phone", 1).time([float32.path.read_bytes()])[0].latency_us,
    "recommended by its time": of_a_cpu({"name": "phone-runtime"}),
    "refused": refused,
}))
"""


def test_a_backend_is_added_as_one_row(tmp_path: Path, run: Run) -> None:
    """A package that pip knows, whose interpreter is LiteRT's own."""
    table = copy_packages(tmp_path) / "runtime/backends/registry.py"
    before, after = table.read_text("utf-8").split('        Backend(\n            "micro",', 1)
    table.write_text(before + ROW.lstrip("\n") + '        Backend(\n            "micro",' + after, "utf-8")
    (tmp_path / "phone_runtime.py").write_text("from ai_edge_litert.interpreter import Interpreter, load_delegate\n")
    metadata = tmp_path / "phone_runtime-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: phone-runtime\nVersion: 1.0\n")
    done = run_with(run, tmp_path, SCRIPT, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # Without blanks: lines may break at the hyphen.
    assert "litert,tflite-runtime,phone,micro,ethos-u;" in "".join(found["help"].split())
    assert found["encoder"] == ["phone-runtime", 2, 32]
    assert "phone-runtime" in found["verdicts"][0]
    assert "phone-runtime" not in found["verdicts"][1]
    assert found["fits"] == [True, False]
    assert found["timed"] > 0
    assert found["recommended by its time"]
    assert found["refused"].startswith("--target phone runs float32, float16 files, but dynamic was asked for.")


def test_the_document_has_the_table() -> None:
    rows = [
        f"| {backend.package} | `{backend.name}` | {'all' if backend.modes == MODES else ', '.join(backend.modes)} "
        f"| {backend.verifies} |"
        for backend in BACKENDS.values()
    ]
    text = (ROOT / "docs/runtimes.md").read_text("utf-8")
    assert "\n".join(["| runtime | `--target` | modes | what it is |", "|---|---|---|---|", *rows]) + "\n\n" in text
