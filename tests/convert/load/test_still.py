"""Models that answer differently each time are found by calling them, and exported where that can be taken out."""

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

from embedlite.convert.errors import ConversionError
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions

from ways_out import walks

SHAPE = (18, 18, 3)
IMAGE = np.random.default_rng(0).random(SHAPE, np.float32)


def encoder(*, training: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = layers.RandomRotation(0.2, name="turn")(image, training=training)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, strides=2, activation="relu")(x))
    x = layers.Dropout(0.5, name="drop")(x, training=training)
    return keras.Model(image, layers.Dense(5)(x))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_random_layers_that_were_left_on_are_taken_out_and_named(suffix: str, tmp_path: Path) -> None:
    old = tf_keras.layers
    image = old.Input(SHAPE)
    x = old.Dropout(0.5, name="drop")(old.RandomRotation(0.2, name="turn")(image, training=True), training=True)
    model = tf_keras.Model(image, old.Dense(5)(old.GlobalMaxPooling2D()(x)))
    plain = tf_keras.Model(image, model.layers[-1](model.layers[-2](image)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / f"model{suffix}")
    lowered = lower(load_original(tmp_path / f"model{suffix}"))
    assert "random at inference; its layers turn, drop do nothing" in lowered.decisions[0]
    wanted = np.asarray(plain(IMAGE[None]))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)


def test_a_model_of_the_users_own_class(tmp_path: Path) -> None:
    class Encoder(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.drop, self.dense = layers.GlobalMaxPooling2D(), layers.Dropout(0.5), layers.Dense(5)

        def call(self, image):
            return self.dense(self.drop(self.pool(image), training=True))

    model = Encoder()
    model(IMAGE[None])
    lowered = lower(from_keras(model, "encoder", LoadOptions(input_shape=SHAPE)))
    assert "its layers dropout" in lowered.decisions[0]
    wanted = np.asarray(model.dense(model.pool(IMAGE[None])))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)


@walks("Save the Keras model itself, model.save('model.keras'), and pass that file: such")
def test_a_saved_model_that_is_random_names_the_layers_and_the_file_that_is_not(tmp_path: Path) -> None:
    model = encoder(training=True)
    model.export(tmp_path / "folder", verbose=False)
    with pytest.raises(ConversionError, match=r"another embedding each time.*turn.*model\.save\('model\.keras'\)"):
        lower(load_original(tmp_path / "folder"))
    model.save(tmp_path / "model.keras")
    lowered = lower(load_original(tmp_path / "model.keras"))
    wanted = np.asarray(encoder(training=False)(IMAGE[None]))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)


class Module(tf.Module):
    """A model without layers: its operations stand in no scope."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.weights, self.noise = tf.Variable(np.random.default_rng(1).random((3, 5), np.float32)), noise

    @tf.function(input_signature=[tf.TensorSpec((1, *SHAPE), tf.float32)])
    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        embedding = tf.matmul(tf.reduce_mean(image, (1, 2)), self.weights)
        return embedding + tf.random.normal((1, 5)) * self.noise if self.noise else embedding


def test_a_module_without_layers_names_the_operation(tmp_path: Path) -> None:
    for name, noise in (("random", 1.0), ("still", 0.0)):
        module = Module(noise)
        tf.saved_model.save(module, tmp_path / name, signatures=module.__call__)
    with pytest.raises(ConversionError, match=r"RandomStandardNormal draw.* saved without such operations"):
        lower(load_original(tmp_path / "random"))
    wanted = np.asarray(Module(0.0)(tf.constant(IMAGE[None])))[0]
    lowered = lower(load_original(tmp_path / "still"))
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)


def test_a_model_with_random_layers_that_are_off_is_left_alone(tmp_path: Path) -> None:
    encoder(training=False).save(tmp_path / "model.keras")
    assert lower(load_original(tmp_path / "model.keras")).decisions == ()


def test_random_numbers_that_change_nothing_are_not_drawn(tmp_path: Path) -> None:
    """Keras counts on where they come from at inference, too, and no device has a variable."""
    image = keras.Input(SHAPE)
    x = layers.RandomErasing()(layers.RandomGrayscale(0.5)(image))
    model = keras.Model(image, layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(x)))
    model.save(tmp_path / "model.keras")
    lowered = lower(load_original(tmp_path / "model.keras"))
    assert lowered.decisions == ()
    wanted = np.asarray(model(IMAGE[None]))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)
