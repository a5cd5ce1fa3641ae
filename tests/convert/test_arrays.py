"""Encoders whose input is not an image: windows of sensors, spectrograms, waveforms, features, volumes."""

import io
import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert import ExportOptions, export
from embedlite.convert.outcome.table import render_result
from embedlite.convert.results import ExportResult
from embedlite.runtime import Encoder
from embedlite.runtime.check.selftest import selftest
from embedlite.runtime.errors import EmbedliteError
from embedlite.runtime.images.tfrecord import stored_tensor
from embedlite.runtime.input.preprocess import quantize, scaled
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.monitor import DriftMonitor

from rounding import decibels
from ways_out import walks

CALIBRATION = 24


def imu() -> keras.Model:
    window = keras.Input((32, 6))
    x = layers.Conv1D(8, 5, strides=2, activation="relu")(window)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(window, layers.UnitNormalization()(layers.Dense(12)(x)))


def features() -> keras.Model:
    return keras.Sequential([keras.Input((24,)), layers.Dense(16, activation="relu"), layers.Dense(12)])


def waveform() -> keras.Model:
    wave = keras.Input((800,))
    x = layers.Conv1D(8, 16, strides=4, activation="relu")(layers.Reshape((800, 1))(wave))
    return keras.Model(wave, layers.Dense(12)(layers.GlobalMaxPooling1D()(x)))


def spectrogram() -> keras.Model:
    frames = keras.Input((20, 16))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(layers.Reshape((20, 16, 1))(frames))
    return keras.Model(frames, layers.Dense(12)(layers.GlobalAveragePooling2D()(x)))


def volume() -> keras.Model:
    cube = keras.Input((5, 6, 6, 2))
    x = layers.Conv3D(6, 3, activation="relu")(cube)
    return keras.Model(cube, layers.Dense(12)(layers.GlobalAveragePooling3D()(x)))


def map_of_channels() -> keras.Model:
    planes = keras.Input((8, 8, 5))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, activation="relu")(layers.Rescaling(0.5, offset=-1)(planes)))
    return keras.Model(planes, layers.Dense(12)(layers.GlobalAveragePooling2D()(x)))


ENCODERS = {made.__name__: made for made in (imu, features, waveform, spectrogram, volume, map_of_channels)}


def signals(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    """Waves with noise, another one in each series, (count, *shape) float32."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 6, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    rate, phase, size = (rng.uniform(low, high, (count, 1, *shape[1:])) for low, high in ((1, 4), (0, 6), (0.5, 3)))
    return (size * np.sin(rate * time + phase) + rng.normal(0, 0.1, (count, *shape))).astype(np.float32)


@dataclass(frozen=True)
class Exported:
    result: ExportResult
    data: np.ndarray
    wanted: np.ndarray

    def file(self, mode: str) -> Path:
        return next(file.path for file in self.result.files if file.mode == mode)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Float32 and int8 of each kind, with unseen data and what Keras itself makes of them."""

    @cache
    def make(kind: str) -> Exported:
        keras.utils.set_random_seed(3)
        model = ENCODERS[kind]()
        data = signals(model.input_shape[1:], CALIBRATION + 16)
        options = ExportOptions(measure=False, correct=("none",), calibrate_method="minmax")
        folder = tmp_path_factory.mktemp(kind)
        result = export(
            model, folder, quantize=["float32", "int8"], calibration_data=data[:CALIBRATION], options=options
        )
        unseen = data[CALIBRATION:]
        return Exported(result, unseen, np.asarray(model(unseen, training=False)))

    return make


@pytest.mark.parametrize("kind", ENCODERS)
def test_files_equal_keras_and_say_what_they_take(kind: str, exported: Any) -> None:
    made = exported(kind)
    shape = made.data.shape[1:]
    for mode, least in (("float32", 95), ("int8", 20)):
        with Encoder(made.file(mode)) as encoder:
            vectors = encoder.embed(made.data)
            np.testing.assert_array_equal(np.stack(list(encoder.embed_iter(made.data))), vectors)
            np.testing.assert_allclose(encoder.embed_one(made.data[0].astype(np.float64)), vectors[0], atol=1e-5)
            contract = encoder.contract
        assert decibels(vectors, made.wanted) >= least
        said = contract.to_json()["input"]
        assert said == {"kind": "array", "shape": shape, "dtype": "float32", "mean": (0.0,), "std": (1.0,)}
        assert contract.origins == {"kind": "inferred", "mean": "assumed", "std": "assumed"}
        assert read_artifact(made.file(mode)).info.inputs[0].name == "input"
    said = render_result(made.result, 200, details=True)
    assert "values become (value - 0) / 1 (assumed)" in said and "mean 0, std 1 are assumed" in said


def test_mean_and_std_apply_to_every_dtype(tmp_path: Path) -> None:
    model = imu()
    mean, std = (1.0, -2.0, 0.5, 0.0, 3.0, 10.0), (2.0, 4.0, 1.0, 8.0, 2.0, 2.0)
    counts = np.rint(signals((32, 6), 20) * std * 4 + mean).astype(np.int16)
    options = ExportOptions(mean=mean, std=std, measure=False, correct=("none",), calibrate_method="minmax")
    result = export(model, tmp_path, quantize=["float32", "int8"], calibration_data=counts[:12], options=options)
    wanted = np.asarray(model((counts[12:] - np.float32(mean)) / np.float32(std), training=False))
    for file, least in zip(result.files, (95, 20), strict=True):
        with Encoder(file.path) as encoder:
            vectors = encoder.embed(counts[12:])
            np.testing.assert_array_equal(encoder.embed(counts[12:].astype(np.float32)), vectors)
            np.testing.assert_array_equal(encoder.embed(list(counts[12:].astype(np.float64))), vectors)
            ready = scaled(counts[12], encoder.contract.input)
            np.testing.assert_allclose(encoder.embed_ready(ready), vectors[0], atol=1e-5)
            assert encoder.contract.origins["mean"] == "given"
        assert decibels(vectors, wanted) >= least


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, served: None) -> ExportResult:
    """A whole export of windows with a mean and a std, verified on every runtime, as C, with a card."""
    keras.utils.set_random_seed(4)
    options = ExportOptions(mean=(0.5,), std=(2.0,), c_array=True, c_header=True, card=True, normalization="runtime")
    folder = tmp_path_factory.mktemp("measured")
    data = signals((32, 6), CALIBRATION)
    return export(imu(), folder, quantize=["float32", "int8"], calibration_data=data, options=options)


def test_every_runtime_agrees_and_nothing_speaks_of_images(measured: ExportResult) -> None:
    assert not measured.not_made and not measured.failed_modes
    for file in measured.files:
        assert file.verified and all(verdict.ok for verdict in file.verified), file.verified
        with Encoder(file.path) as encoder:
            assert selftest(encoder).passed
    folder = measured.files[0].path.parent
    said = [render_result(measured, 200, details=True), *measured.decisions, *measured.ship]
    said += [path.read_text() for path in folder.iterdir() if path.suffix in (".md", ".h", ".c")]
    stored = json.loads(next(folder.glob("*.export.json")).read_text())
    said += [json.dumps({key: stored[key] for key in ("decisions", "ship", "calibration", "not_made")})]
    for text in said:
        for word in ("image", "photo", "pixel", "colour"):
            assert word not in text.lower(), text


def test_c_source_computes_what_python_does(measured: ExportResult, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    path = next(file.path for file in measured.files if file.mode == "int8")
    artifact = read_artifact(path)
    assert artifact.contract is not None
    source = artifact.info.inputs[0]
    header = next(path.parent.glob("*.int8.contract.h"))
    name = header.name.removesuffix(".contract.h").replace(".", "_")
    program = f"""
#include <stdio.h>
#include "{header}"
int main(void)
{{
    static float values[{name.upper()}_INPUT_SIZE];
    static {name}_input input[{name.upper()}_INPUT_SIZE];
    {name}_golden_frame(values);
    {name}_preprocess(values, input);
    fwrite(values, sizeof values, 1, stdout);
    fwrite(input, sizeof input, 1, stdout);
    return 0;
}}
"""
    (tmp_path / "main.c").write_text(program)
    compiled = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "main.c", "-o", "main", "-lm"]
    subprocess.run(compiled, cwd=tmp_path, check=True)
    written = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout
    values = np.frombuffer(written[: 4 * 192], np.float32).reshape(32, 6)
    golden = np.load(io.BytesIO(artifact.golden or b""))["pixels"]
    np.testing.assert_array_equal(values, golden[0])
    ready = scaled(values, artifact.contract.input)
    wanted = ready.ravel()
    if source.dtype != "float32":
        wanted = quantize(ready.copy(), source.scale[0], source.zero_point[0], np.dtype(source.dtype)).ravel()
    np.testing.assert_array_equal(np.frombuffer(written[4 * 192 :], wanted.dtype), wanted)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("imu", {"mean": (1.0, 2.0)}, r"mean has the values \[1.0, 2.0\], but the last axis has 6 element"),
        ("imu", {"color_order": "rgb"}, r"--color-order rgb is for images, and the model takes arrays of shape \(32"),
        ("imu", {"kind": "image"}, r"shape \(32, 6\) is not an image"),
        ("imu", {"input_type": "uint8", "quantize": ["int8"]}, "--input-type uint8 is for pixels"),
        ("imu", {"preprocess": "f.py:f"}, "--preprocess is for images"),
        ("imu", {"calibration": np.full((9, 32, 6), np.nan, np.float32)}, "input '.' has 192 value.s. that are NaN"),
        (
            "imu",
            {"calibration": np.zeros((9, 32, 6), np.float32), "quantize": ["int8"]},
            "all 8 calibration inputs of the array are the",
        ),
        ("imu", {"calibration": np.zeros((9, 32, 32, 3), np.uint8)}, r"expected inputs of shape \(32, 6\), received"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = options.pop("calibration", signals((32, 6), 9))
    modes = options.pop("quantize", ["float32", "int8"])
    with pytest.raises(EmbedliteError, match=message) as caught:
        asked = ExportOptions(**{"measure": False, **options})
        export(ENCODERS[kind](), tmp_path, quantize=modes, calibration_data=data, options=asked)
    assert "calibration image" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@walks("--preprocess is for images, and the model takes arrays of shape {}. Say")
def test_what_scales_arrays_is_said_by_mean_and_std(tmp_path: Path) -> None:
    made, rows = imu(), signals((32, 6), 9) * np.arange(1, 7, dtype=np.float32)
    mean, std = rows.mean((0, 1)), rows.std((0, 1))
    with pytest.raises(EmbedliteError):
        export(made, tmp_path, options=ExportOptions(preprocess=lambda path: (rows[0] - mean) / std, measure=False))
    contract = {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    result = export(made, tmp_path, quantize=["float32"], options=ExportOptions(**contract, measure=False))
    with Encoder(result.files[0].path) as encoder:
        assert decibels(encoder.embed(rows), np.asarray(made((rows - mean) / std))) >= 95


def test_words_and_categories_are_not_values(tmp_path: Path) -> None:
    tokens = keras.Input((8,), dtype="int32")
    model = keras.Model(tokens, layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(tokens)))
    with pytest.raises(EmbedliteError, match=r"takes int32 .*words or categories"):
        export(model, tmp_path)


def test_a_picture_of_one_channel_is_an_array_where_that_is_said(tmp_path: Path) -> None:
    frames = keras.Input((12, 10, 1))
    model = keras.Model(frames, layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(frames)))
    data = signals((12, 10, 1), 12) * 30 - 40
    result = export(model, tmp_path, calibration_data=data, options=ExportOptions(kind="array", measure=False))
    assert result.files[0].contract["input"]["kind"] == "array"
    assert result.files[0].contract["origins"]["kind"] == "given"
    assert not any("pixel" in decision or "scaled" in decision for decision in result.decisions)
    with Encoder(result.files[0].path) as encoder:
        assert decibels(encoder.embed(data), np.asarray(model(data, training=False))) >= 95


def test_a_tensor_that_tensorflow_serialized_is_read() -> None:
    for dtype in (np.float32, np.float64, np.int16, np.uint8, np.float16):
        values = (signals((3, 200), 1)[0] * 9).astype(dtype)
        found = stored_tensor(tf.io.serialize_tensor(values).numpy())
        assert found is not None and found.dtype == dtype
        np.testing.assert_array_equal(found, values)
    assert stored_tensor(b"\x08\x01 something else") is None


def test_the_monitor_takes_arrays(exported: Any, tmp_path: Path) -> None:
    made = exported("imu")
    with Encoder(made.file("int8")) as encoder, DriftMonitor(encoder, made.file("float32"), every=1) as monitor:
        vectors = monitor.embed(made.data)
        monitor.embed_one(made.data[0])
    np.testing.assert_array_equal(vectors.shape, made.wanted.shape)
    assert monitor.counters["failed"] == 0
