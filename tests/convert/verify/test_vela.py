"""Files compiled for an Ethos-U NPU by Vela, and the contract beside them."""

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, export
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.verify import vela
from embedlite.convert.verify.vela import compile_for_npu
from embedlite.runtime import Encoder
from embedlite.runtime.errors import (
    DamagedModelError,
    InterpreterFailedError,
    MissingPackageError,
    NewerContractError,
    OutputError,
    UnreadableDataError,
)
from embedlite.runtime.model.artifact import SIDECAR_SUFFIX, read_artifact, sidecar

from conftest import Run, error_line
from encoders import PLAIN, small_encoder
from ways_out import brought, walks

for name in ("ethosu", "tflite_micro"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (embedlite[verify])", allow_module_level=True)

# Vela, and what exports start, is a fork.
pytestmark = pytest.mark.usefixtures("served")

ISLAND = {"DEQUANTIZE": 1, "REDUCE_MIN": 1, "SUB": 1, "REDUCE_MAX": 1, "MAXIMUM": 1, "DIV": 1, "RESHAPE": 1}
"""The float operators that a min-max normalization over the sample leaves in an int8 file."""


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Twenty random images, (20, 24, 24, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (20, 24, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A min-max normalized encoder: ``float32``, ``int8`` with the normalization in it, ``integer`` without."""
    model = small_encoder([MinMaxNormalization(), layers.Flatten()])
    folder = tmp_path_factory.mktemp("exported")
    files = export(
        model,
        folder / "float",
        quantize=["float32", "int8"],
        calibration_data=images,
        options=ExportOptions(measure=False, **PLAIN),
    ).files
    (integer,) = export(
        model,
        folder / "integer",
        quantize=["int8"],
        calibration_data=images,
        options=ExportOptions(input_type="int8", output_type="int8", measure=False, **PLAIN),
    ).files
    return {"float32": files[0].path, "int8": files[1].path, "integer": integer.path}


@pytest.fixture
def beside(tmp_path: Path) -> Callable[[Path], Path]:
    """Compile a file and write the result with its sidecar, as a target's export does."""

    def compile_and_write(model: Path) -> Path:
        flatbuffer, contract = compile_for_npu(model, tmp_path).flatbuffer, read_artifact(model).contract
        assert flatbuffer is not None
        assert contract is not None
        path = tmp_path / "compiled.tflite"
        path.write_bytes(flatbuffer)
        sidecar_of(path).write_bytes(sidecar(flatbuffer, contract))
        return path

    return compile_and_write


def sidecar_of(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR_SUFFIX)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Compiling.


@walks("compiling for an Ethos-U NPU needs Vela, which is not installed. pip")
def test_with_integer_input_and_output_every_operator_is_on_the_npu(exported: dict[str, Path], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        present = importlib.metadata.version
        missing = importlib.metadata.PackageNotFoundError
        patch.setattr(
            importlib.metadata, "version", lambda name: present("no-vela" if name == "ethos-u-vela" else name)
        )
        with pytest.raises(MissingPackageError) as caught:
            compile_for_npu(exported["integer"], tmp_path)
    assert isinstance(caught.value.__cause__, missing)
    assert brought(str(caught.value)) == {"ethos-u-vela"}
    result = compile_for_npu(exported["integer"], tmp_path)
    assert (result.npu, result.cpu, result.error) == ({"CONV_2D": 3}, {}, "")
    assert result.version.split(".")[0].isdigit()
    assert result.latency_us is not None
    assert result.latency_us > 0
    # The largest two neighbouring activations: the image's 24x24x3 and the first layer's 12x12x8, one byte each.
    assert result.sram_bytes is not None
    assert 24 * 24 * 3 + 12 * 12 * 8 <= result.sram_bytes < 64 * 1024
    assert list(tmp_path.iterdir()) == []


def test_the_accelerator_is_the_one_asked_for(exported: dict[str, Path], tmp_path: Path) -> None:
    small, large = (compile_for_npu(exported["integer"], tmp_path, f"ethos-u55-{macs}") for macs in (32, 256))
    assert small.flatbuffer != large.flatbuffer
    assert small.latency_us is not None
    assert large.latency_us is not None
    assert small.latency_us > large.latency_us


def test_operators_left_on_the_cpu_are_named(exported: dict[str, Path], tmp_path: Path) -> None:
    result = compile_for_npu(exported["int8"], tmp_path)
    assert (result.npu, result.cpu, result.error) == ({"CONV_2D": 3}, {"QUANTIZE": 1, **ISLAND}, "")


def test_nothing_of_a_float_file_is_on_the_npu(exported: dict[str, Path], tmp_path: Path) -> None:
    result = compile_for_npu(exported["float32"], tmp_path)
    island = {name: count for name, count in ISLAND.items() if name != "DEQUANTIZE"}
    assert (result.npu, result.cpu, result.error) == ({}, {"CONV_2D": 3, **island}, "")
    assert (result.latency_us, result.sram_bytes) == (None, None)


def test_what_is_no_model_is_a_result(tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("no model at all")
    result = compile_for_npu(tmp_path / "text.tflite", tmp_path)
    assert result.flatbuffer is None
    assert "not a TFLite file" in result.error


def test_a_refusal_is_a_result_in_velas_words(exported: dict[str, Path], tmp_path: Path) -> None:
    result = compile_for_npu(exported["integer"], tmp_path, "ethos-u1")
    assert (result.flatbuffer, result.npu, result.cpu) == (None, {}, {})
    assert "invalid choice: 'ethos-u1'" in result.error


def test_of_an_operator_that_it_refuses_the_kind_and_the_rule_are_told(tmp_path: Path) -> None:
    """Vela's last line says that it failed to read the file, which it did not."""
    model = small_encoder([layers.Activation("hard_silu"), layers.Flatten()])
    (file,) = export(model, tmp_path, quantize=["float32"], options=ExportOptions(measure=False)).files
    result = compile_for_npu(file.path, tmp_path)
    assert result.error == "HARD_SWISH: IFM has to be 8bit; IFM type=FLOAT32"


def test_a_crash_is_a_result(exported: dict[str, Path], tmp_path: Path) -> None:
    """What Vela does with half a flatbuffer, which the check of the file keeps from it otherwise."""
    data = read_artifact(exported["integer"]).flatbuffer
    (tmp_path / "network.tflite").write_bytes(data[: len(data) // 2])
    # Release 5.2.0 dies of a segmentation fault.
    assert vela._run_vela(tmp_path, "ethos-u55-128").startswith(("crashed with signal", "RuntimeError"))


def test_a_timeout_is_a_result(exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vela, "VELA_SECONDS", 0.001)
    result = compile_for_npu(exported["integer"], tmp_path)
    assert (result.flatbuffer, result.error) == (None, "no answer within 0.001 s")


def test_a_missing_file_or_folder_is_the_callers_mistake(exported: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnreadableDataError):
        compile_for_npu(tmp_path / "none.tflite", tmp_path)
    with pytest.raises(OutputError, match="Name a folder"):
        compile_for_npu(exported["integer"], tmp_path / "none")


# The contract beside the file.


def test_a_compiled_file_keeps_its_contract_in_the_sidecar(
    exported: dict[str, Path], beside: Callable[[Path], Path]
) -> None:
    original, compiled = read_artifact(exported["integer"]).contract, read_artifact(beside(exported["integer"]))
    assert original is not None
    assert compiled.contract is not None
    assert compiled.contract.flatbuffer_sha256 == compiled.sha256 != original.flatbuffer_sha256
    checksums = ("flatbuffer_bytes", "flatbuffer_sha256")
    said, was = compiled.contract.to_json(), original.to_json()
    assert {key: said[key] for key in said if key not in checksums} == {
        key: was[key] for key in was if key not in checksums
    }


def test_a_file_with_a_sidecar_is_run_like_one_with_a_zip(
    exported: dict[str, Path], beside: Callable[[Path], Path], images: np.ndarray
) -> None:
    """Vela leaves a float file to the CPU, so it still runs here; pixels go through the sidecar's mean and std."""
    with Encoder(exported["float32"]) as before, Encoder(beside(exported["float32"])) as after:
        np.testing.assert_allclose(after.embed(images), before.embed(images), atol=1e-6)


def test_without_its_sidecar_a_compiled_file_is_refused(
    exported: dict[str, Path], beside: Callable[[Path], Path]
) -> None:
    path = beside(exported["integer"])
    sidecar_of(path).unlink()
    with pytest.raises(DamagedModelError, match=r"contract is missing.*\.embedlite\.json"):
        read_artifact(path)


def test_a_flipped_bit_of_either_is_refused(exported: dict[str, Path], beside: Callable[[Path], Path]) -> None:
    path = beside(exported["integer"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedModelError, match="not of one export"):
        read_artifact(path)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert read_artifact(path).contract is not None
    edit(sidecar_of(path), flatbuffer_sha256="0" * 64)
    with pytest.raises(DamagedModelError, match="not of one export"):
        read_artifact(path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"text"', "[" * 100_000, '{"schema": 1e999}', '{"schema": ' + "9" * 5000 + "}"),
        '{"schema": 1}',
        b"\xff\xfe\xff".decode("latin-1"),
    ],
    ids=lambda text: text[:14],
)
def test_a_damaged_sidecar_is_refused(text: str, exported: dict[str, Path], beside: Callable[[Path], Path]) -> None:
    path = beside(exported["integer"])
    sidecar_of(path).write_text(text, "latin-1")
    with pytest.raises(DamagedModelError):
        read_artifact(path)


@pytest.mark.parametrize("value", [None, 5, ["0"] * 64])
def test_a_checksum_that_is_none_is_refused(
    value: Any, exported: dict[str, Path], beside: Callable[[Path], Path]
) -> None:
    path = beside(exported["integer"])
    edit(sidecar_of(path), flatbuffer_sha256=value)
    with pytest.raises(DamagedModelError):
        read_artifact(path)


def test_a_newer_sidecar_is_refused_with_the_version_to_install(
    exported: dict[str, Path], beside: Callable[[Path], Path]
) -> None:
    path = beside(exported["integer"])
    edit(sidecar_of(path), schema=99, tools={"embedlite": "9.1"})
    with pytest.raises(NewerContractError, match=r"embedlite>=9\.1"):
        read_artifact(path)


def test_a_sidecar_that_cannot_be_read_is_not_taken_for_none(
    exported: dict[str, Path], beside: Callable[[Path], Path]
) -> None:
    path = beside(exported["integer"])
    sidecar_of(path).unlink()
    sidecar_of(path).mkdir()
    with pytest.raises(UnreadableDataError, match="cannot read the contract"):
        read_artifact(path)


def test_a_contract_in_the_file_wins_over_one_beside_it(exported: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    shutil.copy(exported["int8"], path)
    for text in (exported["integer"].read_bytes(), b"{"):
        sidecar_of(path).write_bytes(text)
        assert read_artifact(path).contract == read_artifact(exported["int8"]).contract


# What the commands make of a compiled file.


def test_inspect_names_the_npus_operator(exported: dict[str, Path], beside: Callable[[Path], Path], run: Run) -> None:
    done = run("inspect-tflite", beside(exported["int8"]))
    assert done.returncode == 0, done.stderr
    assert "1 x CUSTOM:ethos-u version 1 (compiled for an Arm Ethos-U NPU)" in done.stdout
    assert "1 x DIV version" in done.stdout
    assert "contract schema 1, mode int8" in done.stdout


@walks("The file was compiled for an Arm Ethos-U NPU: run it there, or use")
@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime", "tflite-micro"])
def test_no_interpreter_here_runs_it_and_the_error_says_why(
    runtime: str,
    exported: dict[str, Path],
    beside: Callable[[Path], Path],
    images: np.ndarray,
    run: Run,
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "images.npy", images)
    path = beside(exported["integer"])
    done = run("embed-tflite", path, tmp_path / "images.npy", "-o", tmp_path / "v.npz", runtime=runtime)
    assert f"{runtime} " in error_line(done)
    assert "compiled for an Arm Ethos-U NPU" in done.stderr
    assert not (tmp_path / "v.npz").exists()
    if runtime == "ai-edge-litert":
        with pytest.raises(InterpreterFailedError, match="Ethos-U"):
            Encoder(path)
    with Encoder(exported["integer"]) as encoder:
        assert np.isfinite(encoder.embed(images)).all()
