"""Golden vectors in the file, and their replay on another interpreter, another contract, other weights."""

import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers
from PIL import Image

from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.make.package import package, seal
from embedlite.convert.make.synthetic_inputs import synthetic_frames
from embedlite.runtime import Contract, Encoder, InputContract
from embedlite.runtime.check.golden import Golden, golden_frames, pack_golden, parse_golden, pixel_table
from embedlite.runtime.check.selftest import LEAST_DB, MOST_DB, quantized_limit, selftest
from embedlite.runtime.errors import DamagedModelError, RequestError
from embedlite.runtime.input.preprocess import model_ready
from embedlite.runtime.model.artifact import GOLDEN_NAME, append_contract, read_artifact

from conftest import Digits, Run, error_line
from encoders import PLAIN, small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

MODES = ("float32", "float16", "dynamic", "int8", "int16x8")
SHAPE = (24, 24, 3)


@dataclass(frozen=True)
class Files:
    """One RGB encoder with a mean of its own, in every mode and with other ends."""

    paths: dict[str, Path]
    pixels: np.ndarray
    photos: Path


@pytest.fixture(scope="module")
def files(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("golden")
    model = small_encoder([layers.Flatten(), MinMaxNormalization()])
    given = {"calibration_data": photos, **PLAIN}
    given |= {"mean": (127.0,), "std": (128.0,)}
    made = export_asked(model, Asked(output_dir=folder / "modes", quantize=["all"], **given))
    paths = {file.mode: file.path for file in made.files}
    integers = {"input_type": "uint8", "output_type": "int8"}
    # An iterator can be read only once.
    once = (np.asarray(Image.open(path)) for path in sorted(photos.iterdir()))
    (file,) = export_asked(
        model, Asked(output_dir=folder / "integers", quantize=["int8"], golden_from=once, **integers, **given)
    ).files
    paths["integers"] = file.path
    per_channel = {"mean": (123.0, 117.0, 104.0), "std": (58.0, 57.0, 57.5), "color_order": "bgr"}
    (file,) = export_asked(
        model, Asked(output_dir=folder / "bgr", quantize=["float32"], golden_from=photos, **per_channel)
    ).files
    paths["bgr"] = file.path
    return Files(paths, np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8), photos)


def golden_of(path: Path) -> tuple[Golden, Contract]:
    artifact = read_artifact(path)
    assert artifact.golden is not None and artifact.contract is not None
    return parse_golden(artifact.golden, artifact.contract), artifact.contract


@pytest.mark.parametrize("name", [*MODES, "integers", "bgr"])
def test_a_file_holds_its_own_vectors_and_the_float_encoders(name: str, files: Files) -> None:
    golden, contract = golden_of(files.paths[name])
    frames = golden_frames(golden.pixels, contract.input)
    assert frames.shape == (len(golden.pixels), *SHAPE)
    with Encoder(files.paths[name], 1) as encoder:
        np.testing.assert_array_equal(encoder.embed(frames), golden.embeddings)
    assert golden.runtime.startswith("ai-edge-litert ")
    twin = files.paths["bgr" if name == "bgr" else "float32"]
    ready = np.stack([model_ready(frame, contract.input) for frame in frames])
    with Encoder(twin, 1) as encoder:
        np.testing.assert_allclose(golden.reference, encoder.embed(ready), atol=1e-6)
    # Frames that tell nothing apart would test nothing.
    assert np.abs(golden.reference[0] - golden.reference[1]).max() > 0.1


@pytest.mark.parametrize("name", [*MODES, "integers", "bgr"])
def test_every_interpreter_passes(name: str, files: Files, run: Run) -> None:
    for runtime in ("ai-edge-litert", "tflite-runtime"):
        done = run("embed-tflite", files.paths[name], "--selftest", "--json", "-", runtime=runtime)
        assert done.returncode == 0, done.stdout + done.stderr
        value = json.loads(done.stdout)
        assert value["verdict"] == "pass"
        assert value["runtime"]["name"] == runtime
        assert value["count"] == (4 if name in ("integers", "bgr") else 3)
        if runtime == "ai-edge-litert":
            assert value["own"]["max_abs"] == 0
        elif name in ("int8", "integers"):
            # The kernels do differ, so that passing is not a matter of course.
            assert 0 < value["own"]["max_abs"] < 0.1


def test_the_result_as_text(digits: Digits, run: Run) -> None:
    done = run("embed-tflite", "model.int8.tflite", "--selftest", cwd=digits.folder)
    first, *lines = done.stdout.splitlines()
    assert first.startswith("PASS: model.int8.tflite replays 3 golden vectors on ai-edge-litert ")
    assert [line.split()[0] for line in lines] == ["golden", "preprocessing", "embeddings", "worst", "from"]


def resealed(path: Path, **changes: object) -> tuple[bytes, Contract]:
    """The file with another input contract, marker and all checksums right: as if it had been exported with it."""
    artifact = read_artifact(path)
    contract = artifact.contract
    other = replace(contract, input=replace(contract.input, **changes))
    data, sealed = package(artifact.flatbuffer, other)
    return seal(data[: sealed.flatbuffer_bytes], other, artifact.golden)


def largest_buffer(graph: Graph) -> Any:
    return max((buffer for buffer in graph.model.buffers if buffer.data is not None), key=lambda item: len(item.data))


SKEWED = {
    "mean by half a gray level": {"mean": (127.5,)},
    "std by one gray level": {"std": (127.0,)},
    "the usual default": {"mean": (0.0,), "std": (255.0,)},
    "one channel": {"mean": (127.0, 127.0, 126.0)},
    "color order": {"color_order": "bgr"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", SKEWED)
def test_skewed_preprocessing_fails(fault: str, mode: str, files: Files, tmp_path: Path) -> None:
    path = tmp_path / "skewed.tflite"
    path.write_bytes(resealed(files.paths[mode], **SKEWED[fault])[0])
    with Encoder(path, 1) as encoder:
        result = selftest(encoder)
    assert not result.passed
    failed = {check.name for check in result.checks if not check.passed}
    assert ("pixels_relative" in failed) == (fault != "color order")
    assert fault != "color order" or failed


def test_the_same_contract_sealed_again_passes(files: Files, tmp_path: Path) -> None:
    """So what fails above fails because of the skew, not of the sealing."""
    for mode in MODES:
        path = tmp_path / f"{mode}.tflite"
        path.write_bytes(resealed(files.paths[mode])[0])
        with Encoder(path, 1) as encoder:
            assert selftest(encoder).passed


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_another_model_fail(mode: str, files: Files, run: Run, tmp_path: Path) -> None:
    """What a stale weight cache or a wrong delegate does: the same operators with other numbers."""
    artifact = read_artifact(files.paths[mode])
    graph = Graph(artifact.flatbuffer)
    weights = max(
        (buffer for buffer in graph.model.buffers if buffer.data is not None), key=lambda item: len(item.data)
    )
    weights.data = np.ascontiguousarray(weights.data[::-1])
    path = tmp_path / "other.tflite"
    path.write_bytes(append_contract(graph.to_bytes(), artifact.contract, artifact.golden))
    done = run("embed-tflite", path, "--selftest")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("FAIL")
    assert "embeddings" in next(line for line in done.stdout.splitlines() if "FAILED" in line)
    assert "Try without the delegate" in " ".join(done.stdout.split())


def test_one_weight_of_a_float_file_fails(files: Files, tmp_path: Path) -> None:
    artifact = read_artifact(files.paths["float32"])
    graph = Graph(artifact.flatbuffer)
    weights = max(
        (buffer for buffer in graph.model.buffers if buffer.data is not None), key=lambda item: len(item.data)
    )
    values = np.frombuffer(bytes(weights.data), np.float32).copy()
    values[len(values) // 2] += 0.1
    weights.data = np.frombuffer(values.tobytes(), np.uint8)
    path = tmp_path / "other.tflite"
    path.write_bytes(append_contract(graph.to_bytes(), artifact.contract, artifact.golden))
    with Encoder(path, 1) as encoder:
        assert not selftest(encoder).passed


def test_a_damaged_file_is_an_error_not_an_answer(files: Files, run: Run, tmp_path: Path) -> None:
    data = bytearray(files.paths["int8"].read_bytes())
    data[len(data) // 3] ^= 4
    path = tmp_path / "rotten.tflite"
    path.write_bytes(data)
    assert "damaged" in error_line(run("embed-tflite", path, "--selftest"))


def test_a_file_without_golden_vectors_says_so(files: Files, run: Run, tmp_path: Path) -> None:
    artifact = read_artifact(files.paths["int8"])
    path = tmp_path / "none.tflite"
    path.write_bytes(append_contract(artifact.flatbuffer, artifact.contract))
    assert "carries no golden vectors" in error_line(run("embed-tflite", path, "--selftest"))
    assert "golden   none" in run("inspect-tflite", path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--selftest", "photos"), "leave out DATA"),
        (("--selftest", "-o", "x.npz"), "leave out DATA"),
        (("--selftest", "--mean", "0"), "leave out DATA"),
        (("photos",), "DATA and -o FILE.npz are needed"),
        (("-o", "x.npz"), "DATA and -o FILE.npz are needed"),
        (("--selftest", "--delegate", "libnone.so"), "delegate libnone.so could not be loaded"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[str, ...], message: str, digits: Digits, run: Run
) -> None:
    assert message in error_line(run("embed-tflite", digits.int8, *arguments))


def test_inspect_shows_them(files: Files, run: Run) -> None:
    value = json.loads(run("inspect-tflite", files.paths["int8"], "--json", "-").stdout)
    golden, contract = golden_of(files.paths["int8"])
    assert value["golden"]["count"] == len(golden.pixels) == 3
    assert value["golden"]["made_by"] == golden.runtime
    assert value["contract"]["golden_sha256"] == contract.golden_sha256 != ""
    assert 20 < value["golden"]["sqnr_db"] < 60
    text = " ".join(run("inspect-tflite", files.paths["int8"]).stdout.split())
    assert "golden 3 inputs of 24x24x3 pixels by ai-edge-litert" in text


def test_the_same_export_gives_the_same_bytes_whatever_the_threads(files: Files, tmp_path: Path) -> None:
    model = small_encoder([layers.Flatten()])
    made = [
        export(model, tmp_path / name, quantize=["float32"], options=ExportOptions(threads=threads)).files[0]
        for name, threads in (("one", 1), ("two", 2), ("again", 2))
    ]
    first, *others = (file.path.read_bytes() for file in made)
    assert others == [first, first]
    assert zipfile.ZipFile(made[0].path).getinfo(GOLDEN_NAME).compress_type == zipfile.ZIP_STORED


def test_photos_go_into_the_file_only_when_they_are_named(files: Files) -> None:
    synthetic = synthetic_frames(SHAPE)
    for mode in MODES:
        np.testing.assert_array_equal(golden_of(files.paths[mode])[0].pixels, synthetic)
    from embedlite.runtime.images.decode import load_image

    photos = {load_image(path, InputContract(SHAPE)).tobytes() for path in files.photos.iterdir()}
    for name in ("integers", "bgr"):
        # As an image file holds them, in RGB, whatever the model's order.
        pixels = golden_of(files.paths[name])[0].pixels
        assert len(pixels) == 4
        assert {image.tobytes() for image in pixels} <= photos


def test_golden_from_wants_pixels_and_a_run(files: Files, run: Run, tmp_path: Path, digits: Digits) -> None:
    np.save(tmp_path / "floats.npy", np.zeros((2, 32, 32, 1), np.float32))
    done = run("export-tflite", digits.float32, "-o", tmp_path / "x", "--golden-from", tmp_path / "floats.npy")
    assert "replayed from pixels" in error_line(done)
    with pytest.raises(RequestError, match="measure is False"):
        export(digits.float32, tmp_path / "x", options=ExportOptions(golden_from=digits.test_images, measure=False))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 40, 3), (512, 512, 3), (33, 31, 12)])
def test_synthetic_frames_are_small_and_have_structure(shape: tuple[int, int, int]) -> None:
    frames = synthetic_frames(shape)
    assert frames.shape == (3, min(shape[0], 32), min(shape[1], 32), shape[2])
    full = golden_frames(frames, InputContract(shape))
    assert full.shape == (3, *shape)
    if shape[0] > 1:
        assert (frames.reshape(3, -1).std(axis=1) > 20).all()
    if shape == (512, 512, 3):
        np.testing.assert_array_equal(full, frames.repeat(16, axis=1).repeat(16, axis=2))
        channels = frames.reshape(-1, 3)
        assert (channels[:, 0] != channels[:, 2]).mean() > 0.9


def test_bgr_turns_the_channels_round() -> None:
    pixels = np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3)
    turned = golden_frames(pixels, InputContract((3, 3, 3), color_order="bgr"))
    np.testing.assert_array_equal(turned, pixels[..., ::-1])


def test_the_table_is_the_arithmetic_of_the_contract() -> None:
    table = pixel_table(InputContract((8, 8, 3), mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0)))
    assert table.shape == (256, 3)
    np.testing.assert_array_equal(table[100], np.float32([49.5, 24.5, 12.125]))


@pytest.mark.parametrize(
    ("exported", "limit"), [(None, MOST_DB), (100.0, MOST_DB), (3.0, LEAST_DB), (30.0, 30 - 20 * np.log10(2))]
)
def test_the_limit_is_twice_the_distance(exported: float | None, limit: float) -> None:
    assert quantized_limit(exported) == pytest.approx(limit)


def test_twice_the_distance_is_six_decibels() -> None:
    rng = np.random.default_rng(0)
    stored, noise = rng.normal(size=64), rng.normal(size=64) / 30

    def decibels(distance: np.ndarray) -> float:
        return float(10 * np.log10((stored**2).sum() / (distance**2).sum()))

    assert decibels(2 * noise) == pytest.approx(quantized_limit(decibels(noise)))


BROKEN = {
    "no npz": lambda g: b"no npz",
    "empty": lambda g: b"",
    "pickled": lambda g: pickled(),
    "no embeddings": lambda g: without(g, "embeddings"),
    "other rows": lambda g: pack_golden(replace(g, embeddings=g.embeddings[:-1])),
    "other size": lambda g: pack_golden(replace(g, reference=g.reference[:, :-1])),
    "too large": lambda g: pack_golden(replace(g, pixels=g.pixels.repeat(2, axis=1))),
    "no pixels": lambda g: pack_golden(
        replace(g, pixels=g.pixels[:0], embeddings=g.embeddings[:0], reference=g.reference[:0])
    ),
    "nan": lambda g: pack_golden(replace(g, embeddings=g.embeddings * np.float32(np.nan))),
    "float pixels": lambda g: pack_golden(replace(g, pixels=g.pixels.astype(np.float32))),
    "double": lambda g: pack_golden(replace(g, reference=g.reference.astype(np.float64))),
    "gray": lambda g: pack_golden(replace(g, pixels=g.pixels[..., :1])),
    "flat": lambda g: pack_golden(replace(g, pixels=g.pixels.reshape(len(g.pixels), -1))),
    "scalar": lambda g: pack_golden(replace(g, pixels=np.uint8(3))),
}


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, pixels=np.array([{}], dtype=object))
    return buffer.getvalue()


def without(golden: Golden, name: str) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value for key, value in vars(golden).items() if key != name})
    return buffer.getvalue()


@pytest.mark.parametrize("kind", BROKEN)
def test_golden_vectors_that_do_not_fit_are_damage(kind: str, files: Files) -> None:
    golden, contract = golden_of(files.paths["int8"])
    with pytest.raises(DamagedModelError, match="golden vectors in the model cannot be read"):
        parse_golden(BROKEN[kind](golden), contract)
