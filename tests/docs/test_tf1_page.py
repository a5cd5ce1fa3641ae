"""docs/tf1.md against the script that it quotes."""

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, Digits, Run
from documents import copy_first

PAGE = (ROOT / "docs" / "tf1.md").read_text()
SCRIPT = ROOT / "examples" / "tf1_to_keras.py"
WAY_OUT = "min-max, no axis -> each image"


@dataclass(frozen=True)
class Row:
    layer: str
    one: float
    eight: float
    tf1_moves: float
    keras_moves: float


def rows_of(table: str) -> dict[str, Row]:
    """The table's rows by the words of TensorFlow 1; columns are two spaces or more apart."""
    rows = {}
    for line in table.strip().splitlines()[1:]:
        name, layer, *figures = re.split(r" {2,}", line.strip())
        rows[name] = Row(layer, *(float(figure) for figure in figures))
    return rows


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tf1") / "saved_model_dir"


@pytest.fixture(scope="module")
def measured(run: Run, saved: Path) -> dict[str, Row]:
    done = run("python", SCRIPT, saved, world="tensorflow")
    assert done.returncode == 0, done.stderr
    return rows_of(done.stdout)


@pytest.fixture(scope="module")
def quoted() -> dict[str, Row]:
    (table,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    return rows_of(table)


def test_the_page_quotes_the_script(measured: dict[str, Row], quoted: dict[str, Row]) -> None:
    assert [(name, row.layer) for name, row in quoted.items()] == [(name, row.layer) for name, row in measured.items()]
    for name, row in quoted.items():
        # Three digits are printed; the fourth depends on the machine.
        assert (row.tf1_moves, row.keras_moves) == pytest.approx(
            (measured[name].tf1_moves, measured[name].keras_moves), abs=0.002
        )


def test_every_layer_of_the_page_computes_what_its_line_does(measured: dict[str, Row]) -> None:
    (claim,) = re.findall(r"stay\s+below ([0-9.e-]+): float32 rounding", PAGE)
    layers = set(re.findall(r"`((?:MinMax|L2)Normalization\([^`]*\))` \|$", PAGE, re.MULTILINE))
    assert layers == {row.layer for name, row in measured.items() if name != WAY_OUT}
    for name, row in measured.items():
        assert row.one < float(claim)
        assert name == WAY_OUT or row.eight < float(claim)


def test_the_batch_moves_what_reduces_over_it_and_nothing_else(measured: dict[str, Row]) -> None:
    for name, row in measured.items():
        if name.startswith("min-max"):
            assert row.tf1_moves > 0.1
        else:
            assert row.tf1_moves < 1e-6
        assert row.keras_moves == (0.0 if name == WAY_OUT else pytest.approx(row.tf1_moves, abs=0.002))


def test_the_saved_model_is_exported_as_the_page_says(
    measured: dict[str, Row], saved: Path, digits: Digits, run: Run, tmp_path: Path
) -> None:
    assert measured, "the script saves the folder"
    (line,) = re.findall(r"^export-tflite .*$", PAGE, re.MULTILINE)
    shutil.copytree(saved, tmp_path / "saved_model_dir")
    copy_first(digits.calibration, 60, tmp_path / "photos")
    command, *arguments = shlex.split(line)
    done = run(command, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    from embedlite.runtime import Encoder

    with Encoder(tmp_path / "out" / "saved_model_dir.float32.tflite") as encoder:
        embedding = encoder.embed_one(np.arange(64 * 64 * 3, dtype=np.float32).reshape(64, 64, 3) / (64 * 64 * 3))
        assert encoder.contract.normalization.kind == "minmax"
    # Minimum and maximum of one image's embedding, so both are reached.
    assert (embedding.shape, embedding.min(), embedding.max()) == ((128,), 0.0, 1.0)
