"""Files whose embeddings say nothing: the self-test fails of them, and each command counts and names what they make."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

from embedlite.convert import Asked, export_asked
from embedlite.report.command import drift_report
from embedlite.runtime.commands.embed import embed

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (24, 24, 3)
KINDS = {
    # Gain of the last layer, its bias, what is said of three golden vectors, and of sixty photos.
    "zero": (0.0, np.zeros(6), "3 zero of 3 vectors", "60 zero of 60 vectors"),
    "constant": (0.0, np.full(6, 0.5), "3 constant of 3 vectors", "60 constant of 60 vectors"),
    "repeated": (0.0, np.arange(6) - 2.5, "2 repeated of 3 vectors", "59 repeated of 60 vectors"),
    "collapsed": (
        *(1e-4, np.arange(6) - 2.5),
        *("collapsed: 3 vectors of one direction", "collapsed: 60 vectors of one direction"),
    ),
}


def exported(folder: Path, gain: float, bias: np.ndarray, photos: Path | None) -> Any:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3, strides=2), layers.GlobalAveragePooling2D(), layers.Dense(6)]
    )
    last = model.layers[-1]
    last.set_weights([gain * last.get_weights()[0], bias])
    return export_asked(model, Asked(output_dir=folder, quantize=["float32"], test_data=photos))


@pytest.mark.parametrize("kind", KINDS)
def test_the_selftest_fails_of_golden_vectors_that_say_nothing(kind: str, photos: Path, tmp_path: Path) -> None:
    gain, bias, golden, said = KINDS[kind]
    # The export names them, too, once.
    result = exported(tmp_path, gain, bias, photos if kind == "collapsed" else None)
    assert sum("say nothing" in decision for decision in result.decisions) == (kind == "collapsed")
    path = str(result.files[0].path)
    done = CliRunner().invoke(embed, [path, "--selftest"], standalone_mode=False)
    assert done.return_value == 1, done.output
    # A path longer than a line is broken.
    assert "".join(done.output.split()).startswith(f"FAIL:{path}replays3goldenvectors")
    assert f"  golden vectors that say nothing: {golden}  FAILED" in done.output.splitlines()
    vectors, figures = tmp_path / "vectors.npz", tmp_path / "embed.json"
    more = ["-o", str(vectors), "--json", str(figures)]
    done = CliRunner().invoke(embed, [path, str(photos), *more], standalone_mode=False)
    assert done.return_value == 0, done.output
    assert f"vectors that say nothing: {said}" in done.output
    assert (", the first for " in done.output) == (kind != "collapsed")
    silent = json.loads(figures.read_text())["silent"]
    assert silent["collapsed"] if kind == "collapsed" else silent[kind] >= 59
    compared = [path, "--reference", str(vectors), "--data", str(photos)]
    done = CliRunner().invoke(drift_report, compared, standalone_mode=False)
    assert f"candidate: vectors that say nothing: {said}" in done.output
    assert f"reference: vectors that say nothing: {said}" in done.output
    assert "UNDECIDED: " in " ".join(done.output.split()), done.output


def test_the_selftest_passes_where_vectors_differ(photos: Path, tmp_path: Path) -> None:
    path = exported(tmp_path, 1.0, np.zeros(6), None).files[0].path
    done = CliRunner().invoke(embed, [str(path), "--selftest"], standalone_mode=False)
    assert done.return_value == 0, done.output
    assert "say nothing" not in done.output
