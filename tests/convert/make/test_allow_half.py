"""Half precision: which files devices may compute in it, what that is said to cost, what a self-test then allows."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from embedlite.convert import Asked, export_asked
from embedlite.convert.graph.half_precision import in_half, largest_value
from embedlite.convert.outcome.table import render_result
from embedlite.convert.results import ExportResult
from embedlite.runtime import Encoder
from embedlite.runtime.check.golden import Golden, pack_golden, parse_golden
from embedlite.runtime.check.selftest import selftest
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.model.artifact import append_contract, read_artifact
from embedlite.runtime.model.flatbuffer import read_flatbuffer

from encoders import small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGES = np.random.default_rng(5).integers(0, 256, (24, 24, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    return small_encoder([layers.Flatten()])


def exported(model: keras.Model, folder: Path, *modes: str, **options: object) -> ExportResult:
    options = {"measure": False, "test_data": IMAGES, **options}
    return export_asked(model, Asked(output_dir=folder, quantize=modes, **options))


def marked(path: Path) -> bool:
    return read_flatbuffer(read_artifact(path).flatbuffer).metadata.get("reduced_precision_support") == b"fp16accfp16"


def half(values: object) -> np.ndarray:
    return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def computed_in_half(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """TensorFlow's own operators on the weights as the converter folds them, every value rounded in between."""
    first, norm, _, second, last, _ = model.layers
    gain = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    offset = np.asarray(norm.beta) - np.asarray(norm.moving_mean) * gain
    x = half(images / np.float32(255))
    for kernel, bias, stride, padding in (
        (np.asarray(first.kernel) * gain, offset, 2, "SAME"),
        (np.asarray(second.kernel), np.asarray(second.bias), 2, "SAME"),
        (np.asarray(last.kernel), np.asarray(last.bias), 1, "VALID"),
    ):
        x = tf.nn.conv2d(x, half(kernel), stride, padding) + half(bias)
        x = half(x if padding == "VALID" else tf.nn.relu(x))
    return x.reshape(len(images), -1)


def test_the_figure_is_what_tensorflow_gives_with_every_value_rounded(encoder: keras.Model, tmp_path: Path) -> None:
    (file,) = exported(encoder, tmp_path, "float16").files
    told = file.contract["half_precision"]
    assert told["images"] == len(IMAGES)
    original = np.asarray(encoder(IMAGES.astype(np.float32) / 255))
    wanted = measure_drift(computed_in_half(encoder, IMAGES.astype(np.float32)), original)[0].sqnr_db
    # Sums in another order are now and then rounded to the neighbour.
    assert told["sqnr_db"] == pytest.approx(wanted, abs=0.5)
    assert marked(file.path)


def test_float32_only_where_that_is_asked_for(encoder: keras.Model, tmp_path: Path) -> None:
    plain, allowed = (
        {file.mode: file for file in exported(encoder, tmp_path / name, "float32", "float16", **options).files}
        for name, options in (("plain", {}), ("allowed", {"allow_fp16": True}))
    )
    assert [marked(files[mode].path) for files in (plain, allowed) for mode in ("float32", "float16")] == [
        False,
        True,
        True,
        True,
    ]
    # The mark changes nothing where the processor computes in float32 only.
    for mode in ("float32", "float16"):
        with Encoder(plain[mode].path) as one, Encoder(allowed[mode].path) as other:
            np.testing.assert_array_equal(one.embed(IMAGES), other.embed(IMAGES))


def large(encoder: keras.Model) -> keras.Model:
    """Squares that float16 does not hold, in an embedding that does not show it."""
    inner = keras.Sequential([*encoder.layers[:3]])
    x = source = keras.Input((24, 24, 3))
    x = layers.Rescaling(1000.0)(inner(x))
    return keras.Model(source, layers.UnitNormalization()(layers.GlobalAveragePooling2D()(layers.Multiply()([x, x]))))


def coarse(encoder: keras.Model) -> keras.Model:
    """The same embedding, moved to where float16 has steps of 16."""
    inner = keras.Sequential([*encoder.layers[:3]])
    x = source = keras.Input((24, 24, 3))
    x = layers.ReLU()(layers.Rescaling(1.0, 20000.0)(inner(x)))
    return keras.Model(source, layers.Flatten()(layers.Rescaling(1.0, -20000.0)(x)))


def test_what_is_not_a_number_is_too_large() -> None:
    source = keras.Input((4, 4, 1))
    model = keras.Model(source, layers.Flatten()(layers.Subtract()([source, layers.ReLU()(source)])))
    flatbuffer = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    images = [np.full((4, 4, 1), value, np.float32) for value in (1, np.inf, 1)]
    assert np.isnan(largest_value(flatbuffer, images))


@pytest.mark.parametrize(("make", "reason"), [(large, "is too large for it"), (coarse, "fails the drift gates there")])
def test_what_overflows_or_drifts_is_not_marked_and_that_is_said(
    make: object, reason: str, encoder: keras.Model, tmp_path: Path
) -> None:
    result = exported(make(encoder), tmp_path, "float16")
    (file,) = result.files
    assert not marked(file.path)
    assert file.contract["half_precision"] is None
    assert any("compute it in float32 all the same" in line and reason in line for line in result.decisions)


def test_without_images_it_is_not_tried_and_that_is_said(encoder: keras.Model, tmp_path: Path) -> None:
    result = exported(encoder, tmp_path, "float16", test_data=None)
    assert not marked(result.files[0].path)
    assert any("there are no images to try it on" in line for line in result.decisions)


def test_an_export_without_float16_does_not_speak_of_it(encoder: keras.Model, tmp_path: Path) -> None:
    assert not any("half" in line for line in exported(encoder, tmp_path, "float32").decisions)


def test_the_table_has_a_row_of_its_own(encoder: keras.Model, tmp_path: Path) -> None:
    result = exported(encoder, tmp_path, "float16")
    told = result.files[0].contract["half_precision"]["sqnr_db"]
    (row,) = [line for line in render_result(result, 100, details=False).splitlines() if "  in half precision" in line]
    assert row.split()[-1] == f"{told:.1f}"


def test_a_selftest_allows_half_precision_where_the_file_does(encoder: keras.Model, tmp_path: Path) -> None:
    """A processor that computes in half is further from the golden vectors than 1e-4."""
    (file,) = exported(encoder, tmp_path, "float16", measure=True).files
    artifact = read_artifact(file.path)
    golden = parse_golden(artifact.golden, artifact.contract)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, golden.embeddings.shape).astype(np.float32)
    noise *= np.linalg.norm(golden.embeddings) / np.linalg.norm(noise)
    for db, allowed, passed in ((60, True, True), (60, False, False), (30, True, False)):
        moved = golden.embeddings + noise * np.float32(10 ** (-db / 20))
        packed = pack_golden(Golden(golden.pixels, golden.ready, golden.reference, moved, golden.runtime))
        contract = artifact.contract if allowed else replace(artifact.contract, half_precision=None)
        path = tmp_path / f"{db}.{allowed}.tflite"
        path.write_bytes(append_contract(artifact.flatbuffer, contract, packed))
        with Encoder(path) as opened:
            assert selftest(opened).passed is passed


def test_a_recurrent_model_is_not_tried(tmp_path: Path) -> None:
    x = source = keras.Input((16, 16, 3))
    model = keras.Model(source, layers.LSTM(8)(layers.Reshape((16, 48))(x)))
    images = np.zeros((4, 16, 16, 3), np.uint8)
    result = exported(model, tmp_path, "float32", allow_fp16=True, test_data=images)
    assert not marked(result.files[0].path)
    assert any("has a loop" in line and "half-precision" in line for line in result.decisions)


def test_every_value_is_rounded_and_nothing_else_happens() -> None:
    """Each value is rounded once, to the nearest; what is float16 already stays."""
    source = keras.Input((4, 4, 1))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(source, layers.Flatten()(layers.ReLU()(source))))
    interpreter = Interpreter(model_content=in_half(converter.convert()))
    interpreter.allocate_tensors()
    values = np.random.default_rng(0).uniform(0, 1, (1, 4, 4, 1)).astype(np.float32)
    for given in (values, half(values)):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_array_equal(found.ravel(), half(given).ravel())
