"""Models that answer differently each time are found by calling them, and exported where that can be taken out."""

import warnings
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_shear_is_read_although_keras_does_not_read_what_it_writes(suffix: str, tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    augment = keras.Sequential([keras.Input(SHAPE), layers.RandomShear(0.3, (0.1, 0.2)), layers.RandomShear(0.2)])
    model = keras.Model(image, layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(augment(image))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / f"model{suffix}")
    with pytest.raises((TypeError, ValueError), match="RandomShear"):
        keras.saving.load_model(tmp_path / f"model{suffix}")
    lowered = lower(load_original(tmp_path / f"model{suffix}"))
    wanted = np.asarray(model(IMAGE[None], training=False))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)


AUGMENTING = [name for name in dir(layers) if name.startswith("Random") and name != "RandomShear"]
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "RandomCrop": (8, 8),
    "RandomPosterization": (4,),
    "RandomTranslation": (0.1, 0.1),
    **dict.fromkeys(("RandomColorJitter", "RandomElasticTransform", "RandomErasing", "RandomFlip"), ()),
    **dict.fromkeys(("RandomGaussianBlur", "RandomGrayscale", "RandomInvert", "RandomPerspective"), ()),
}


def test_every_layer_of_augmentation_is_at_inference_what_keras_makes_of_it() -> None:
    """All in one model, by one conversion: what any of them did would be seen at the end."""
    image = keras.Input(SHAPE)
    x = image
    for name in AUGMENTING:
        x = getattr(layers, name)(*ARGUMENTS.get(name, (0.2,)))(x)
    model = keras.Model(image, layers.Dense(6)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))))
    lowered = lower(from_keras(model, "augmented", LoadOptions()))
    assert lowered.decisions == ()
    wanted = np.asarray(model(IMAGE[None], training=False))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)


def test_random_numbers_that_change_nothing_are_not_drawn(tmp_path: Path) -> None:
    """Keras counts on where they come from at inference, too, and no device has a variable."""
    image = keras.Input(SHAPE)
    x = layers.RandomErasing()(layers.RandomGrayscale(0.5)(image))
    model = keras.Model(image, layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(x)))
    model.save(tmp_path / "model.keras")
    lowered = lower(load_original(tmp_path / "model.keras"))
    assert lowered.decisions == ()
    wanted = np.asarray(model(IMAGE[None], training=False))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(IMAGE), wanted, atol=1e-5)
