"""``--replace-lambda`` in every kind of Keras model: a layer of ours computes what the user's function computes."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.contract_decision import decide_contract
from embedlite.convert.errors import CustomCodeError, ModelLoadError
from embedlite.convert.graph.run import float_runner
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime.model.contract import InputOptions

from seeds.user_functions import norm

SHAPE = (14, 14, 3)
IMAGES = np.random.default_rng(0).uniform(0.1, 1, (3, *SHAPE)).astype(np.float32)


def _ending(x: keras.KerasTensor) -> keras.KerasTensor:
    # Positive, so that the maximum of the input is far from zero.
    x = layers.Conv2D(6, 3, activation="softplus", name="embedding")(x)
    return layers.GlobalMaxPooling2D()(layers.Lambda(norm, name="norm")(x))


def functional() -> keras.Model:
    image = keras.Input(SHAPE)
    return keras.Model(image, _ending(image))


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(6, 3, activation="softplus"),
            layers.Lambda(norm, name="norm"),
            layers.GlobalMaxPooling2D(),
        ]
    )


def nested() -> keras.Model:
    image = keras.Input(SHAPE)
    return keras.Model(image, layers.Dense(4)(functional()(image)))


def called_with_a_mask_and_training() -> keras.Model:
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, activation="softplus")(image)
    return keras.Model(
        image, layers.GlobalMaxPooling2D()(layers.Lambda(norm, name="norm")(x, mask=None, training=False))
    )


def shared() -> keras.Model:
    image = keras.Input(SHAPE)
    normalize = layers.Lambda(norm, name="norm")
    one, other = (normalize(layers.Conv2D(4, 3, activation="softplus")(image)) for _ in range(2))
    return keras.Model(image, layers.GlobalMaxPooling2D()(layers.Concatenate()([one, other])))


KINDS = (functional, sequential, nested, called_with_a_mask_and_training, shared)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("build", KINDS)
def test_a_replaced_lambda_computes_what_the_function_did(build: object, suffix: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    assert callable(build)
    model = build()
    path = tmp_path / f"model{suffix}"
    model.save(path)
    options = LoadOptions(replace_lambda=("norm=minmax-channel:input",))
    run = float_runner(lower(load_original(path, options)).flatbuffer)
    for image in IMAGES:
        np.testing.assert_allclose(run(image), np.asarray(model(image[None]))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch"])
def test_preprocess_input_is_offered_as_what_it_is(mode: str, tmp_path: Path) -> None:
    application = {"caffe": keras.applications.resnet50, "tf": keras.applications.mobilenet_v2}
    preprocess = application.get(mode, keras.applications.densenet).preprocess_input
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3)(layers.Lambda(preprocess, name="pp")(image))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    model.save(tmp_path / "model.keras")
    with pytest.raises(CustomCodeError) as caught:
        load_original(tmp_path / "model.keras")
    assert str(caught.value).endswith("KIND one of preprocess-caffe, preprocess-tf, preprocess-torch.")
    options = LoadOptions(replace_lambda=(f"pp=preprocess-{mode}",))
    original = load_original(tmp_path / "model.keras", options)
    lowered = lower(original)
    run = float_runner(lowered.flatbuffer)
    # It scales for itself, so pixels come as they are.
    decided = decide_contract("model", SHAPE, InputOptions(), original.inputs, lowered.scaling)
    contract, said = decided.contract, decided.decisions
    assert (contract.mean, contract.std) == ((0.0,), (1.0,))
    assert "mean 0, std 1" in said[0]
    pixels = IMAGES * 255
    wanted = np.asarray(model(tf.constant(pixels)))
    np.testing.assert_allclose(np.stack([run(image) for image in pixels]), wanted, rtol=1e-4, atol=1e-4)


def test_our_layers_keep_their_axes_in_hdf5(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, activation="softplus")(image)
    x = MinMaxNormalization("channel", "input")(x)
    model = keras.Model(image, layers.GlobalMaxPooling2D()(L2Normalization((1, 2))(x)))
    model.save(tmp_path / "model.h5")
    run = float_runner(lower(load_original(tmp_path / "model.h5", LoadOptions())).flatbuffer)
    np.testing.assert_allclose(run(IMAGES[0]), np.asarray(model(IMAGES[:1]))[0], rtol=1e-5, atol=1e-5)


def test_axes_that_keras_would_drop_are_refused(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    x = layers.UnitNormalization((1, 2), name="unit")(layers.Conv2D(4, 3)(image))
    model = keras.Model(image, layers.GlobalMaxPooling2D()(x))
    model.save(tmp_path / "model.h5")
    with pytest.raises(ModelLoadError, match=r"the layer 'unit' works over the axes \[1, 2\].*model\.save"):
        load_original(tmp_path / "model.h5", LoadOptions())
    model.save(tmp_path / "model.keras")
    run = float_runner(lower(load_original(tmp_path / "model.keras", LoadOptions())).flatbuffer)
    np.testing.assert_allclose(run(IMAGES[0]), np.asarray(model(IMAGES[:1]))[0], rtol=1e-5, atol=1e-5)
