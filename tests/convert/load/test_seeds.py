"""The encoders that users have, from the framework they were made with to vectors on the device.

Each seed is built by tests/support/seeds with the original framework, which also answers the test images, one at a
time. What the exported files answer is held against that. Each seed goes through the command once, with all that it
measures; other placements and spellings of the same encoders are exported by the function that it
calls, without measuring.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.convert.errors import CustomCodeError, ModelLoadError
from embedlite.runtime import Encoder

from conftest import ROOT, Run, error_line
from encoders import PLAIN
from rounding import decibels

MODES = ("float32", "dynamic", "int8")
FLOOR = 24.0
"""dB: the least signal-to-noise ratio of a file with eight-bit weights on these encoders, which are not trained."""
FULL_SIZE_FLOOR = 20.0

SEEDS = (
    *("s1", "s2", "s2-open", "s2-minmax", "unbuilt", "s3", "s3-registered", "s4", "s4-bytecode", "s5", "s6-max"),
    *("s6-average", "l2-ops", "l2-tf", "layernorm", "formats"),
)


@dataclass(frozen=True)
class Seed:
    """One seed's folder."""

    folder: Path
    reference: dict[str, np.ndarray] = field(repr=False)

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.npy"

    @property
    def test(self) -> Path:
        return self.folder / "test.npy"


def open_seed(folder: Path) -> Seed:
    with np.load(folder / "reference.npz") as reference:
        return Seed(folder, dict(reference))


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """All small seeds, made by the frameworks in a process of their own."""
    folder = tmp_path_factory.mktemp("seeds")
    done = run("python", ROOT / "tests" / "support" / "seeds", *SEEDS, folder, world="tensorflow")
    assert done.returncode == 0, done.stderr
    return folder


def check_file(mode: str, path: Path, images: np.ndarray, wanted: np.ndarray, floor: float = FLOOR) -> float:
    """A file's embeddings of uint8 images against the original's; returns the signal-to-noise ratio in dB."""
    with Encoder(path) as encoder:
        got = encoder.embed(images)
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    assert (got.reshape(len(got), -1).std(axis=1) > 0).all(), "a constant vector"
    if mode == "float32":
        assert np.abs(got - wanted).max() <= 1e-5 * max(1.0, float(np.abs(wanted).max()))
    ratio = decibels(got, wanted)
    assert ratio >= floor, f"{mode}: {ratio:.1f} dB"
    return ratio


@dataclass(frozen=True)
class Case:
    """What a user types: seed, the model's name in its folder, further options, and what is to be expected."""

    seed: str
    model: str = "model.keras"
    options: tuple[str, ...] = ()
    kind: str = "none"
    coupled: bool = False


OWN_LAYERS = ("--custom-objects", "user_layers.py")
OWN_FUNCTIONS = ("--custom-objects", "user_functions.py")

COMMANDS = {
    "S1, a TensorFlow 1 graph": Case("s1", "model", (), "minmax", True),
    "S2, built by its first batch": Case("s2"),
    "S3, a layer that holds it all": Case("s3", options=OWN_LAYERS, kind="minmax", coupled=True),
    "S4, a Lambda over the map": Case("s4", options=OWN_FUNCTIONS, kind="minmax", coupled=True),
    "S5, a Lambda, then dense": Case("s5", options=("--replace-lambda", "norm=minmax-channel:input"), coupled=True),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_exports_what_the_user_has(name: str, seeds: Path, run: Run, tmp_path: Path) -> None:
    case = COMMANDS[name]
    seed = open_seed(seeds / case.seed)
    data = ("--calibration-data", seed.calibration, "--test-data", seed.test, "--json", "-")
    modes = [part for mode in MODES for part in ("-q", mode)]
    done = run("export-tflite", case.model, "-o", tmp_path, *modes, *data, *case.options, cwd=seed.folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert [file["mode"] for file in result["files"]] == list(MODES)
    images = np.load(seed.test)
    for file in result["files"]:
        ratio = check_file(file["mode"], tmp_path / file["path"], images, seed.reference["embeddings"])
        spec = file["contract"]["normalization"]
        assert (spec["kind"], spec["placement"]) == (case.kind, "graph")
        # The drift that the command reports is the one that a stranger measures against the original framework.
        if file["mode"] != "float32":
            assert file["drift"]["sqnr_db"] == pytest.approx(ratio, abs=0.1)
        assert file["drift"]["invalid"] == 0
        failed = {verdict["runtime"] for verdict in file["verified"] if not verdict["ok"]}
        # A dense layer with per-channel weights came to TensorFlow Lite after tflite-runtime's last release.
        assert failed <= ({"tflite-runtime"} if (case.seed, file["mode"]) == ("s5", "dynamic") else set())
    assert result["batch_coupling"]["coupled"] is case.coupled
    moved = float(np.abs(seed.reference["batch"] - seed.reference["embeddings"][: len(seed.reference["batch"])]).max())
    assert (moved > 0.01) is case.coupled


def custom(name: str) -> dict[str, Any]:
    return {"custom_objects": name}


def replaced(text: str) -> dict[str, Any]:
    return {"replace_lambda": [text]}


RUNTIME = {"normalization": "runtime"}
INTEGERS = {"input_type": "int8", "output_type": "int8"}
FROZEN = {"normalization": "frozen"}

CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "S1, runtime": ("s1", "model", RUNTIME),
    "S1, frozen": ("s1", "model", FROZEN),
    "S2, any size": ("s2-open", "model.keras", {"input_shape": (64, 64, 3)}),
    "S2, min-max in a layer": ("s2-minmax", "model.keras", custom("user_layers.py")),
    "S2, min-max in a layer, integers": ("s2-minmax", "model.keras", {**custom("user_layers.py"), **INTEGERS}),
    "S3, registered, runtime": ("s3-registered", "model.keras", {**custom("user_layers.py"), **RUNTIME}),
    "S3, registered, frozen": ("s3-registered", "model.keras", {**custom("user_layers.py"), **FROZEN}),
    "S3, exported by Keras": ("s3-registered", "exported", {}),
    "S4, a function without a name": ("s4-bytecode", "model.keras", replaced("norm_original=minmax-batch:input")),
    "S4, integers": ("s4", "model.keras", {**custom("user_functions.py"), **INTEGERS}),
    "S4, frozen": ("s4", "model.keras", {**custom("user_functions.py"), **FROZEN}),
    "S5, the user's function": ("s5", "model.keras", custom("user_functions.py")),
    "S6, maximum": ("s6-max", "model.keras", custom("user_functions.py")),
    "S6, mean": ("s6-average", "model.keras", replaced("norm=minmax-channel:input")),
    "L2, Keras' layer": ("formats", "model.keras", {}),
    "L2, Keras' layer, integers": ("formats", "model.keras", INTEGERS),
    "L2, keras.ops": ("l2-ops", "model.keras", custom("user_functions.py")),
    "L2, spelled out": ("l2-tf", "model.keras", replaced("unit_tf=l2")),
    "L2, spelled out, runtime": ("l2-tf", "model.keras", {**custom("user_functions.py"), **RUNTIME}),
    "LayerNormalization": ("layernorm", "model.keras", {}),
    "L2, legacy .h5": ("formats", "legacy.h5", {}),
    "L2, exported by Keras": ("formats", "exported", {}),
    "L2, a signature of its own": ("formats", "signature", {}),
    "L2, a float .tflite": ("formats", "float.tflite", {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_spellings_and_placements(
    name: str, seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model, options = CALLS[name]
    seed = open_seed(seeds / folder)
    monkeypatch.chdir(seed.folder)
    # With test data, all calibration images set ranges and the constants of a frozen normalization.
    data = {"calibration_data": seed.calibration, "test_data": seed.test}
    result = export_asked(model, Asked(output_dir=tmp_path, quantize=MODES, measure=False, **PLAIN, **data, **options))
    images = np.load(seed.test)
    for file in result.files:
        spec = file.contract["normalization"]
        wanted = seed.reference["embeddings"]
        if spec["placement"] == "frozen":
            low, high = seed.reference["limits"]
            assert (spec["minimum"], spec["maximum"]) == (
                pytest.approx((low,), rel=1e-4),
                pytest.approx((high,), rel=1e-4),
            )
            wanted = (seed.reference["raw"] - low) / (high - low if spec["divisor"] == "shifted" else high)
        check_file(file.mode, Path(file.path), images, wanted)
        asked = options.get("normalization", "graph")
        integers = file.mode == "int8" and "output_type" in options
        assert spec["placement"] == ("runtime" if integers else asked)
        assert file.contract["input"]["dtype"] == ("int8" if integers else "float32")


def test_a_replaced_lambda_is_the_users_function(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4's function reshapes, too; the known layer in its place gives the same rows."""
    seed = open_seed(seeds / "s4")
    monkeypatch.chdir(seed.folder)
    answers = []
    for name, options in (
        ("own", custom("user_functions.py")),
        ("known", replaced("norm_original=minmax-batch:input")),
    ):
        export_asked("model.keras", Asked(output_dir=tmp_path / name, quantize=["float32"], measure=False, **options))
        with Encoder(tmp_path / name / "model.float32.tflite") as encoder:
            assert encoder.embedding_shape == (64, 48)
            answers.append(encoder.embed(np.load(seed.test)))
    np.testing.assert_array_equal(*answers)


def test_a_model_that_was_built_for_eight_images_takes_one(seeds: Path, tmp_path: Path) -> None:
    """A first call on a batch builds for that batch; neither the .keras nor its SavedModel may hold us to it."""
    folder = seeds / "formats"
    answers = []
    for model in ("eight.keras", "eight"):
        export(folder / model, tmp_path / model, quantize=["float32"], options=ExportOptions(measure=False))
        with Encoder(tmp_path / model / "eight.float32.tflite") as encoder:
            answers.append(encoder.embed(np.load(folder / "test.npy")))
    assert answers[0].std() > 0.01
    np.testing.assert_array_equal(*answers)


def test_the_raw_embedding_of_a_session_can_be_asked_for(seeds: Path, tmp_path: Path) -> None:
    """The evaluation graph's convolution; the program built the encoder twice, for training first."""
    seed = open_seed(seeds / "s1")
    export(
        seed.folder / "model", tmp_path, quantize=["float32"], options=ExportOptions(layer="embedding", measure=False)
    )
    check_file("float32", tmp_path / "model.float32.tflite", np.load(seed.test), seed.reference["raw"])


def test_frozen_answers_of_these_seeds_cannot_be_mistaken_for_the_originals(seeds: Path) -> None:
    """Or the placements above could not be told apart."""
    for name in ("s1", "s3-registered", "s4"):
        reference = open_seed(seeds / name).reference
        low, high = reference["limits"]
        frozen = (reference["raw"] - low) / (high if name == "s4" else high - low)
        assert np.abs(frozen - reference["embeddings"]).max() > 0.05


REFUSED: dict[str, tuple[str, str, type[Exception], str]] = {
    "a layer without its code": ("s3", "model.keras", CustomCodeError, "EmbeddingHead"),
    "a function without its code": ("s4", "model.keras", CustomCodeError, "norm_original=KIND"),
    "bytecode": ("s4-bytecode", "model.keras", CustomCodeError, "bytecode"),
    "a folder that holds no model": ("formats", ".", ModelLoadError, "not a SavedModel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_with_the_reason(name: str, seeds: Path, tmp_path: Path) -> None:
    folder, model, error, reason = REFUSED[name]
    with pytest.raises(error, match=reason):
        export(seeds / folder / model, tmp_path / "out", quantize=["float32"], options=ExportOptions(measure=False))
    assert not (tmp_path / "out").exists()


REFERENCES = {
    "a Lambda, with the user's function": ("s5", "model.keras", OWN_FUNCTIONS),
    "a Lambda, replaced": ("s5", "model.keras", ("--replace-lambda", "norm=minmax-channel:input")),
    "a TensorFlow 1 graph": ("s1", "model", ()),
    "a legacy .h5": ("formats", "legacy.h5", ()),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_users_own_model_is_the_reports_reference(name: str, seeds: Path, run: Run, tmp_path: Path) -> None:
    folder, model, options = REFERENCES[name]
    seed = open_seed(seeds / folder)
    stored = tmp_path / "stored.npy"
    np.save(stored, seed.reference["embeddings"])
    replaced = {"replace_lambda": ["norm=minmax-channel:input"]} if options else {}
    export_asked(seed.folder / model, Asked(output_dir=tmp_path, quantize=["float32"], measure=False, **replaced))
    (file,) = tmp_path.glob("*.tflite")
    data = ("--data", seed.test, "--json", "-")
    done = run("drift-report", file, "--reference", model, *data, *options, cwd=seed.folder)
    assert done.returncode == 0, done.stderr
    against_model = json.loads(done.stdout)["metrics"]
    assert against_model["max_abs"] <= 1e-5
    # What the report computed with the model is what the original framework had answered.
    done = run("drift-report", file, "--reference", stored, *data)
    against_original = json.loads(done.stdout)["metrics"]
    assert against_model["max_abs"] == pytest.approx(against_original["max_abs"], abs=3e-6)


def test_options_of_a_keras_file_are_refused_for_another_reference(seeds: Path, run: Run) -> None:
    file = seeds / "formats" / "float.tflite"
    arguments = ("--reference", file, "--data", seeds / "formats" / "test.npy", "--layer", "embedding")
    assert "are for a Keras reference" in error_line(run("drift-report", file, *arguments))


def test_a_model_that_was_never_built_is_one_line_to_the_user(seeds: Path, run: Run, tmp_path: Path) -> None:
    done = run("export-tflite", seeds / "unbuilt" / "model.keras", "-o", tmp_path)
    assert "holds no weights" in error_line(done)


def test_s1_at_full_size(run: Run, tmp_path: Path) -> None:
    """512x512 pixels, six blocks, the embedding convolution 16x16."""
    done = run("python", ROOT / "tests" / "support" / "seeds", "s1-512", tmp_path, world="tensorflow")
    assert done.returncode == 0, done.stderr
    seed = open_seed(tmp_path / "s1-512")
    data = {"calibration_data": seed.calibration, "test_data": seed.test}
    asked = Asked(output_dir=tmp_path, quantize=["float32", "int8"], measure=False, **PLAIN, **data)
    export_asked(seed.folder / "model", asked)
    images = np.load(seed.test)
    assert images.shape[1:] == (512, 512, 3)
    for mode in ("float32", "int8"):
        check_file(mode, tmp_path / f"model.{mode}.tflite", images, seed.reference["embeddings"], FULL_SIZE_FLOOR)
