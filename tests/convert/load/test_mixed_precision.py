"""Models that compute in half precision are exported in float32, and compared with what they compute themselves."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import LoweredModel, lower

from rounding import decibels

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (20, 20, 3)
IMAGES = np.random.default_rng(0).uniform(0, 1, (6, *SHAPE)).astype(np.float32)


def encoder(policy: str, *, half_output: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE, dtype="float32")
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, dtype=policy)(image)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.SeparableConv2D(16, 3, dtype=policy)(x)
    x = layers.GlobalAveragePooling2D(dtype=policy)(x)
    x = layers.Dense(8, dtype=policy)(x)
    x = layers.UnitNormalization(dtype="float32")(x)
    return keras.Model(image, layers.Activation("linear", dtype=policy if half_output else "float32")(x))


def both(lowered: LoweredModel) -> tuple[np.ndarray, np.ndarray]:
    run = float_runner(lowered.flatbuffer)
    return np.stack([lowered.reference(image) for image in IMAGES]), np.stack([run(image) for image in IMAGES])


# A significand of 11 bits leaves 66 dB of an operation, one of 8 bits 48; a handful of operations takes some of it.
@pytest.mark.parametrize(
    ("policy", "name", "least"), [("mixed_float16", "float16", 50), ("mixed_bfloat16", "bfloat16", 30)]
)
@pytest.mark.parametrize("kind", [".keras", ".h5", "folder"])
def test_half_precision_is_exported_in_float32(policy: str, name: str, least: int, kind: str, tmp_path: Path) -> None:
    model = encoder(policy, half_output=kind == ".keras")
    try:
        model(IMAGES)
    except tf.errors.AbortedError:
        pytest.skip(f"TensorFlow has no convolution in {name} on this processor")
    path = tmp_path / ("folder" if kind == "folder" else f"model{kind}")
    if kind == "folder":
        model.export(path, verbose=False)
    else:
        model.save(path)
    lowered = lower(load_original(path))
    reference, got = both(lowered)
    own = np.asarray(model(IMAGES), np.float32)
    assert reference == pytest.approx(own, abs=2.0 ** (-8 if name == "bfloat16" else -10))
    assert decibels(got, reference) >= least
    assert any(f"computes in {name}" in decision for decision in lowered.decisions)
    # The same weights in float32 are what the file computes.
    plain = encoder("float32", half_output=False)
    plain.set_weights([np.asarray(weight, np.float32) for weight in model.get_weights()])
    assert decibels(got, np.asarray(plain(IMAGES))) >= 95


def test_float32_models_are_left_alone(tmp_path: Path) -> None:
    encoder("float32", half_output=False).save(tmp_path / "model.keras")
    assert lower(load_original(tmp_path / "model.keras")).decisions == ()
