"""``--target``: a runtime's verdict decides the exit code, and a file that it does not run is not left looking good."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.make.synthetic_inputs import edge_frames
from embedlite.convert.modes import check_targets, missing_runtimes
from embedlite.convert.verify.verdicts import Frames, judge
from embedlite.runtime.backends.registry import BACKENDS
from embedlite.runtime.check.probe import probe
from embedlite.runtime.errors import MissingPackageError, RequestError
from embedlite.runtime.model.artifact import append_contract, read_artifact
from embedlite.runtime.model.contract import InputContract

from conftest import TRIES_NOTHING, Run, error_line
from encoders import PLAIN, small_encoder
from ways_out import brought, walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (24, 24, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved encoders and images: an ordinary one, one with what tflite-runtime lacks, one that it gets wrong."""
    folder = tmp_path_factory.mktemp("targets")
    small_encoder([layers.Flatten(), MinMaxNormalization()]).save(folder / "small.keras")
    x = source = keras.Input(SHAPE)
    x = layers.Conv2DTranspose(16, 3, activation="relu")(layers.Conv2D(16, 3, strides=3, activation="relu")(x))
    x = layers.GroupNormalization(4)(x)
    x = keras.ops.sum(x * layers.Softmax([1, 2])(layers.Conv2D(1, 1)(x)), (1, 2))
    keras.Model(source, layers.Dense(64)(x)).save(folder / "older.keras")
    keras.utils.set_random_seed(0)
    wide = [
        keras.Input(SHAPE),
        layers.Conv2D(8, 3, strides=4, padding="same", activation="relu"),
        layers.Conv2D(8, 3),
        layers.Flatten(),
    ]
    keras.Sequential(wide).save(folder / "wide.keras")
    np.save(folder / "images.npy", IMAGES)
    return folder


def test_a_file_that_a_required_target_does_not_run_is_rejected(folder: Path, tmp_path: Path, run: Run) -> None:
    """tflite-runtime's XNNPACK answers zeros for a 3x3 convolution of stride 4 in float, and is right in int8."""
    arguments = ("wide.keras", "-o", tmp_path, "-q", "float32", "-q", "int8", "--calibration-data", "images.npy")
    done = run("export-tflite", *arguments, *TRIES_NOTHING, "--target", "tflite-runtime", cwd=folder)
    assert done.returncode == 1, done.stderr
    assert "FAILED: tflite-runtime does not run the float32 file" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "wide.export.json",
        "wide.float32.tflite.rejected",
        "wide.int8.tflite",
    ]
    result = json.loads((tmp_path / "wide.export.json").read_text())
    assert len(result["failed_targets"]) == 1
    assert [file["path"] for file in result["files"]] == ["wide.float32.tflite.rejected", "wide.int8.tflite"]
    assert not any("wide.float32" in sentence for sentence in result["ship"])
    # Without the target the same verdict is only told, and what was rejected before is replaced, if that is wanted.
    again = ("export-tflite", "wide.keras", "-o", tmp_path, "-q", "float32")
    assert "--force" in error_line(run(*again, cwd=folder))
    done = run(*again, "--force", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "float32 on tflite-runtime 2.14.0:" in done.stdout
    assert (tmp_path / "wide.float32.tflite").exists()
    assert not (tmp_path / "wide.float32.tflite.rejected").exists()
    # And the other way round: a file that looks good must not stay beside the verdict that it is not.
    done = run(*again, "--force", "--target", "tflite-runtime", cwd=folder)
    assert done.returncode == 1
    assert not (tmp_path / "wide.float32.tflite").exists()


def test_tflite_runtime_as_a_target_gets_what_it_can_compute(folder: Path, tmp_path: Path) -> None:
    options = {"quantize": ["dynamic", "int16x8"], "calibration_data": IMAGES, **PLAIN}
    plain = export_asked(folder / "older.keras", Asked(output_dir=tmp_path / "plain", **options))
    chosen = export_asked(
        folder / "older.keras", Asked(output_dir=tmp_path / "chosen", targets=["tflite-runtime"], **options)
    )
    assert chosen.failed_targets == ()
    for before, after in zip(plain.files, chosen.files, strict=True):
        refused, taken = ({v.runtime: v for v in file.verified}["tflite-runtime"] for file in (before, after))
        assert not refused.ok
        assert refused.detail.endswith("--target tflite-runtime makes the file without what it lacks.")
        assert taken.ok, taken.detail
        assert before.drift is not None
        assert after.drift is not None
        # One scale for all weights of a dense layer costs a decibel or two.
        assert after.drift.sqnr_db > before.drift.sqnr_db - 3
        float_ones, kinds = _in_float(after.path)
        assert float_ones.issuperset(kinds & MISSING_IN_OLDER_OF[after.mode])
        assert MISSING_IN_OLDER_OF[after.mode] & kinds
    for words in (
        "share one scale",
        "RSQRT, SUM stay float in the int16x8",
        "TRANSPOSE_CONV stay float in the dynamic",
    ):
        assert any(words in decision for decision in chosen.decisions), words


MISSING_IN_OLDER_OF = {"dynamic": {"TRANSPOSE_CONV"}, "int16x8": {"RSQRT", "SUM"}}


def _in_float(path: Path) -> tuple[set[str], set[str]]:
    """Operators that compute with floats alone, and all."""
    graph = Graph(read_artifact(path).flatbuffer)
    kinds = {graph.operator_name(operator) for operator in graph.operators}
    mixed = {
        graph.operator_name(operator)
        for operator in graph.operators
        if {"int8", "int16"}
        & {graph.dtype(int(index)) for index in (*operator.inputs, *operator.outputs) if index >= 0}
    }
    return kinds - mixed, kinds


def test_ethos_u_gets_integers_throughout_and_the_compiled_file(folder: Path, tmp_path: Path) -> None:
    options = {"quantize": ["int8"], "calibration_data": IMAGES, "targets": ["ethos-u"], **PLAIN}
    # What is tried out might be float elsewhere.
    tried = {**options, "equalize": True}
    result = export_asked(folder / "small.keras", Asked(output_dir=tmp_path, **tried))
    (file,) = result.files
    assert (file.contract["input"]["dtype"], file.contract["output_dtype"]) == ("int8", "int8")
    assert file.contract["normalization"]["placement"] == "runtime"
    assert file.float_operators == ()
    verdict = {v.runtime: v for v in file.verified}["ethos-u-vela"]
    assert verdict.ok
    assert verdict.cpu_operators == {}
    compiled = read_artifact(tmp_path / "small.int8.vela.tflite")
    assert {operator.name for operator in compiled.info.operators} == {"CUSTOM:ethos-u"}
    assert compiled.contract is not None
    assert compiled.contract.normalization == read_artifact(file.path).contract.normalization
    kept = export_asked(
        folder / "small.keras",
        Asked(output_dir=tmp_path / "float", input_type="float32", output_type="float32", **options),
    )
    assert kept.files[0].contract["input"]["dtype"] == "float32"
    assert {v.runtime: v for v in kept.files[0].verified}["ethos-u-vela"].cpu_operators


def test_micro_reports_its_arena_and_c_source_compiles(folder: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("small.keras", "-o", tmp_path, "-q", "int8", "--calibration-data", "images.npy", "--c-array")
    integers = ("--input-type", "int8", "--output-type", "int8", "--target", "micro")
    done = run("export-tflite", *arguments, *integers, *TRIES_NOTHING, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "; an arena of " in done.stdout
    header, source = tmp_path / "small.int8.h", tmp_path / "small.int8.c"
    result = json.loads((tmp_path / "small.export.json").read_text())
    arena = {v["runtime"]: v for v in result["files"][0]["verified"]}["tflite-micro"]["arena_bytes"]
    assert str(arena) in header.read_text()
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    flags = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-c", "-o", tmp_path / "small.o")
    assert subprocess.run(["gcc", *flags, source], check=False).returncode == 0


def test_int16x8_is_nearer_than_int8_and_runs_everywhere(folder: Path, tmp_path: Path) -> None:
    result = export(
        folder / "small.keras",
        tmp_path,
        quantize=["int8", "int16x8"],
        calibration_data=IMAGES[:30],
        test_data=IMAGES[30:],
        options=ExportOptions(**PLAIN),
    )
    narrow, wide = (file.drift for file in result.files)
    assert wide.sqnr_db > narrow.sqnr_db
    for file in result.files:
        assert {v.runtime for v in file.verified} == {target.package for target in BACKENDS.values()}
        assert all(v.ok for v in file.verified), file.verified


WRONG = {
    "an unknown target": (["--target", "gpu"], "unknown --target 'gpu'"),
    "no mode that it runs": (["--target", "ethos-u", "-q", "float32"], "Add -q int8"),
    "no mode for C": (["--c-array", "-q", "float16"], "Add -q float32, or -q int8, which needs"),
    "an unknown placement": (["--normalization", "cloud"], "unknown --normalization 'cloud'"),
    "frozen without images": (["--normalization", "frozen"], "Pass --calibration-data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_requests_that_make_no_sense(name: str, folder: Path, tmp_path: Path, run: Run) -> None:
    arguments, message = WRONG[name]
    assert message in error_line(run("export-tflite", "small.keras", "-o", tmp_path / "out", *arguments, cwd=folder))
    assert not list(tmp_path.glob("out/*"))


def test_targets_need_the_files_to_be_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="measure is False"):
        export(folder / "small.keras", tmp_path, options=ExportOptions(targets=["litert"], measure=False))


@walks("to check the files, and it is not installed. Run: pip install")
def test_a_runtime_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed packages are looked up by their metadata; here one of them has none."""
    from embedlite.convert import modes as targets

    present = targets.installed
    monkeypatch.setattr(targets, "installed", lambda name: name != "tflite-micro" and present(name))
    assert missing_runtimes() == ("tflite-micro",)
    with pytest.raises(MissingPackageError) as caught:
        check_targets(["micro"], ["int8"])
    assert {target.package for name, target in BACKENDS.items() if name != "litert"} <= brought(str(caught.value))
    monkeypatch.undo()
    assert check_targets(["micro"], ["int8"]) == ("micro",)


@pytest.fixture(scope="module")
def float_file(folder: Path) -> Path:
    export(folder / "small.keras", folder / "float", quantize=["float32"], options=ExportOptions(measure=False))
    return folder / "float" / "small.float32.tflite"


def change(path: Path, target: Path, edit) -> Path:
    """A copy of a file with another graph and a contract that vouches for it."""
    artifact = read_artifact(path)
    assert artifact.contract is not None
    graph = Graph(artifact.flatbuffer)
    edit(graph)
    target.write_bytes(append_contract(graph.to_bytes(), replace(artifact.contract)))
    return target


@pytest.fixture(scope="module")
def frames(folder: Path, float_file: Path) -> Frames:
    ready = np.stack([*(IMAGES[:4] / np.float32(255)), *edge_frames(InputContract(SHAPE))])
    np.save(folder / "frames.npy", ready)
    rows = range(len(ready))
    result = probe(float_file, "ai-edge-litert", folder / "frames.npy", rows, threads=1, seconds=60)
    assert result.embeddings is not None
    edge = np.arange(len(ready)) >= 4
    return Frames(folder / "frames.npy", result.embeddings, edge, np.ones(len(ready), bool))


def nan_weights(graph: Graph) -> None:
    convolution = next(op for op in graph.operators if graph.operator_name(op) == "CONV_2D")
    weights = graph.constant(int(convolution.inputs[1])).copy()
    weights.flat[0] = np.nan
    graph.make_constant(int(convolution.inputs[1]), weights)


def no_weights(graph: Graph) -> None:
    convolution = next(op for op in graph.operators if graph.operator_name(op) == "CONV_2D")
    graph.make_constant(int(convolution.inputs[1]), np.zeros_like(graph.constant(int(convolution.inputs[1]))))


def other_weights(graph: Graph) -> None:
    convolution = next(op for op in graph.operators if graph.operator_name(op) == "CONV_2D")
    weights = graph.constant(int(convolution.inputs[1])).copy()
    weights[0] += np.float32(0.05)  # one filter of many; a common factor would vanish in the min-max
    graph.make_constant(int(convolution.inputs[1]), weights)


def no_stride(graph: Graph) -> None:
    convolution = next(op for op in graph.operators if graph.operator_name(op) == "CONV_2D")
    convolution.builtinOptions.strideW = 0


FAULTS = {
    "NaN or infinity": nan_weights,
    "the same embedding for every image": no_weights,
    "disagrees with the original": other_weights,
}


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime", "tflite-micro"])
@pytest.mark.parametrize("detail", FAULTS)
def test_a_wrong_file_fails_on_every_runtime(
    detail: str, runtime: str, float_file: Path, frames: Frames, tmp_path: Path
) -> None:
    path = change(float_file, tmp_path / "wrong.tflite", FAULTS[detail])
    result = probe(path, runtime, frames.ready, range(len(frames.edge)), threads=1, seconds=60)
    verdict = judge(result, "float32", frames, None)
    assert not verdict.ok
    assert detail in verdict.detail


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime", "tflite-micro"])
def test_a_file_that_kills_or_stops_an_interpreter_is_a_verdict(
    runtime: str, float_file: Path, frames: Frames, tmp_path: Path
) -> None:
    path = change(float_file, tmp_path / "deadly.tflite", no_stride)
    result = probe(path, runtime, frames.ready, range(len(frames.edge)), threads=1, seconds=60)
    verdict = judge(result, "float32", frames, None)
    assert not verdict.ok
    assert verdict.detail
    print(runtime, verdict.detail)
