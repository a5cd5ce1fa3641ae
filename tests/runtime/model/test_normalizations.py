"""The table of normalizations: what reads it, and that a new row is one edit."""

import json
from pathlib import Path

import pytest

from embedlite.runtime.model.normalizations import KINDS, Kind

from changed import ROOT, copy_packages, run_with
from conftest import Run

ROW = """
            Kind(
                "max",
                "MaxNormalization",
                shifts=False,
                measure="max",
                divisors={"shifted": Division("x / max x", 0.0)},
                axis="sample",
                reaches=tuple(REACHES),
            ),
"""

SCRIPT = """
import json, sys
from pathlib import Path
import keras, numpy as np
from embedlite.convert import ExportOptions, export, layers
from embedlite.convert.load.custom_code import REPLACEMENTS
from embedlite.runtime import Encoder, NormalizationSpec
from embedlite.runtime.input.normalize import normalize, normalize_quantized

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (8, 12, 12, 3)).astype(np.uint8)

def model(ending):
    keras.utils.set_random_seed(0)
    body = [keras.layers.Conv2D(4, 3, strides=2), keras.layers.Flatten(), keras.layers.Dense(6)]
    return keras.Sequential([keras.Input((12, 12, 3)), *body, ending])

def largest(x):
    return x / keras.ops.max(x, axis=(1,), keepdims=True)

# The layer of the row, as its name is saved; then a function that computes the same, found in the graph.
home = folder / "home"
home.mkdir(parents=True)
model(layers.MaxNormalization()).save(home / "layer.keras")
model(keras.layers.Lambda(largest, name="norm")).save(home / "lambda.keras")
keras_model = keras.saving.load_model(home / "layer.keras")
wanted = np.concatenate([keras_model.predict_on_batch(image[None] / np.float32(255)) for image in images])

def vectors(path):
    with Encoder(path) as encoder:
        return encoder.embed(images), encoder.contract.normalization

float32 = export(home / "layer.keras", folder / "a", quantize=["float32"], options=ExportOptions(measure=False))
inside, spec = vectors(float32.files[0].path)
replaced = export(
    home / "lambda.keras", folder / "b", quantize=["int8"], calibration_data=images,
    options=ExportOptions(
        replace_lambda=("norm=max-sample",), input_type="int8", output_type="int8", c_array=True,
        measure=False, correct=["none"], equalize=False, calibrate_method="minmax",
    ),
)
left, outside = vectors(replaced.files[0].path)
q = rng.integers(-128, 128, (1, 6)).astype(np.int8)
print(json.dumps({
    "names": [name for name in REPLACEMENTS if name.startswith("max")],
    "found": [spec.kind, spec.placement, list(spec.axes)],
    "apart": float(np.abs(inside - wanted).max()),
    "left": [outside.kind, outside.placement],
    "int8 cosine": float(min((a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(left, wanted))),
    "exact": bool((normalize_quantized(q, 0.5, 3, outside) == ((q - 3.0) / (q.max() - 3.0)).astype(np.float32)).all()),
    "zeros": normalize(np.zeros((1, 6)), outside).tolist(),
    "c": (folder / "b/lambda.int8.c").read_text(),
    "said": [text for text in float32.decisions if "normalization" in text],
}))
"""


def test_a_normalization_is_added_as_one_row(tmp_path: Path, run: Run) -> None:
    """``x / max x``, which no row of ours computes."""
    table = copy_packages(tmp_path) / "runtime/model/normalizations.py"
    before, after = table.read_text("utf-8").split('            Kind(\n                "l2",', 1)
    table.write_text(before + ROW.lstrip("\n") + '            Kind(\n                "l2",' + after, "utf-8")
    done = run_with(run, tmp_path, SCRIPT, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["names"] == ["max-batch", "max-channel", "max-sample"]
    assert found["found"] == ["max", "graph", [1]]
    assert found["said"][0].startswith("the normalization (max, axes [1]) stays in the file")
    assert found["apart"] < 1e-5
    assert found["left"] == ["max", "runtime"]
    assert found["int8 cosine"] > 0.98
    assert found["exact"]
    assert found["zeros"] == [[0] * 6]
    assert "lambda_int8_normalize(const int8_t *raw, float *embedding)" in found["c"]
    assert "lowest" not in found["c"]


def test_a_norm_of_shifted_values_is_refused() -> None:
    with pytest.raises(ValueError, match="a norm is taken of the values as they are"):
        Kind("x", "X", shifts=True, measure="norm", divisors={}, axis=-1)


def test_the_documents_have_the_table() -> None:
    text = (ROOT / "docs/normalization.md").read_text("utf-8")
    rows = []
    for kind in KINDS.values():
        for name, divisor in kind.divisors.items():
            axis = "axis" if kind.reaches else f"axis={kind.axis}"
            which = f', divisor="{name}"' if len(kind.divisors) > 1 else ""
            epsilon = f"{divisor.epsilon:g}".replace("e-0", "e-")
            rows.append(f"| `{kind.layer}({axis}{which}, epsilon={epsilon})` | {divisor.formula} |")
    assert "\n".join(["| layer | formula |", "|---|---|", *rows]) + "\n\n" in text
    text = (ROOT / "docs/formats.md").read_text("utf-8")
    for kind in KINDS.values():
        for reach in kind.reaches:
            assert f'| `{kind.name}-{reach}` | `{kind.layer}("{reach}")`' in text
        if not kind.reaches:
            assert f"| `{kind.name}` | `{kind.layer}()` |" in text
