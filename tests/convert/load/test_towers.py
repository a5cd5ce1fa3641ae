"""Training models with several inputs: ``--layer`` is looked for before the inputs are counted."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.errors import CustomCodeError, ModelLoadError, ModelShapeError
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime.errors import RequestError

SHAPE = (18, 18, 3)
IMAGE = np.random.default_rng(0).uniform(0, 1, SHAPE).astype(np.float32)


def tower() -> keras.Model:
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(image)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    return keras.Model(image, layers.Dense(5, name="embedding")(x), name="tower")


def siamese(one: keras.Model) -> keras.Model:
    a, b = keras.Input(SHAPE, name="a"), keras.Input(SHAPE, name="b")
    return keras.Model([a, b], layers.Dense(1)(layers.Subtract()([one(a), one(b)])))


def with_labels(one: keras.Model) -> keras.Model:
    """As ArcFace is trained: the label is an input of the last layers only."""
    label = keras.Input((4,), name="label")
    logits = layers.Dense(4)(one.output)
    return keras.Model([label, one.input], layers.Multiply()([logits, label]))


def run(path: Path, layer: str) -> np.ndarray:
    result = float_runner(lower(load_original(path, LoadOptions(layer=layer))).flatbuffer)(IMAGE)
    return np.asarray(result)


@pytest.mark.parametrize(("build", "layer"), [(siamese, "tower"), (siamese, "embedding"), (with_labels, "embedding")])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_tower_of_a_training_model(build: object, layer: str, suffix: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    one = tower()
    assert callable(build)
    build(one).save(tmp_path / f"model{suffix}")
    np.testing.assert_allclose(run(tmp_path / f"model{suffix}", layer), one(IMAGE[None])[0], rtol=1e-5, atol=1e-6)


def test_the_error_names_a_layer_that_works(tmp_path: Path) -> None:
    one = tower()
    for name, build in (("siamese", siamese), ("labels", with_labels)):
        path = tmp_path / f"{name}.keras"
        build(one).save(path)
        with pytest.raises(ModelShapeError, match=r"has 2 inputs .*--layer \w+") as caught:
            load_original(path)
        layer = str(caught.value).partition("--layer ")[2].partition(",")[0]
        assert run(path, layer).shape[-1] in (4, 5)


def test_a_layer_that_needs_both_inputs_is_refused(tmp_path: Path) -> None:
    model = siamese(tower())
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelShapeError, match=r"depends on several inputs.*tower"):
        run(tmp_path / "model.keras", model.layers[-1].name)
    with pytest.raises(ModelShapeError, match=r"no layer 'towr'.*tower"):
        run(tmp_path / "model.keras", "towr")


@keras.saving.register_keras_serializable(package="towers")
class Margin(layers.Layer):
    """As ArcFace's: code of the user's own, after the embedding."""

    def call(self, inputs):
        embedding, label = inputs
        return embedding * label


def with_own_head(one: keras.Model) -> keras.Model:
    """A second task whose layers come first in the model's order, and a head that needs code."""
    label = keras.Input((5,), name="label")
    task = layers.Dense(7)(layers.Flatten()(one.input))
    for _ in range(4):
        task = layers.Dense(7)(task)
    margin = Margin()([one.output, label])
    distance = layers.Lambda(lambda pair: pair[0] - pair[1], name="distance")([margin, label])
    return keras.Model([label, one.input], {"task": task, "margin": distance})


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_after_the_layer_is_not_asked_for(suffix: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    one = tower()
    path = tmp_path / f"model{suffix}"
    with_own_head(one).save(path)
    with pytest.raises(CustomCodeError, match="'distance'"):
        load_original(path)
    with pytest.raises(ModelShapeError, match=r"no layer 'embeding' to end at\. Near ones: embedding"):
        load_original(path, LoadOptions(layer="embeding"))
    np.testing.assert_allclose(run(path, "embedding"), one(IMAGE[None])[0], rtol=1e-5, atol=1e-6)
    (said,) = load_original(path, LoadOptions(layer="embedding")).decisions
    assert "margin" in said


def two_tasks() -> tuple[keras.Model, keras.Model]:
    """A model of an image and a label with an output of each, and of both; and the image's part."""
    one, label = tower(), keras.Input((5,), name="label")
    outputs = {"vector": one.output, "other": layers.Dense(2)(label), "both": layers.Add()([one.output, label])}
    return keras.Model([label, one.input], outputs), one


def test_one_input_of_several_is_named(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model, one = two_tasks()
    path = tmp_path / "model.keras"
    model.save(path)
    wanted = np.asarray(one(IMAGE[None])[0])
    for options in (LoadOptions(input="image"), LoadOptions(input="image", output="vector")):
        found = float_runner(lower(load_original(path, options)).flatbuffer)(IMAGE)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelShapeError, match=r"no input 'imag'\. Its inputs are: image"):
        load_original(path, LoadOptions(input="imag"))
    with pytest.raises(ModelShapeError, match=r"no output that needs the input 'image' alone\. .*--layer \w+"):
        load_original(path, LoadOptions(input="image", output="both"))
    with pytest.raises(ModelShapeError, match=r"no output 'vectors'\. Its outputs are: vector"):
        load_original(path, LoadOptions(input="image", output="vectors"))


def test_inputs_outputs_and_signatures_of_a_saved_model(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model, one = two_tasks()
    images, labels = (tf.TensorSpec((None, *tensor.shape[1:]), name=tensor.name) for tensor in reversed(model.inputs))
    trained = tf.function(lambda image, label: model([label, image]), input_signature=(images, labels))
    alone = tf.function(lambda image: {"vector": one(image)}, input_signature=(images,))
    path = tmp_path / "model"
    module = tf.Module()
    module.model = model
    tf.saved_model.save(module, path, {"training": trained, "encoder": alone})
    wanted = np.asarray(one(IMAGE[None])[0])
    for options in (
        LoadOptions(signature="encoder"),
        LoadOptions(signature="training", input="image", output="vector"),
    ):
        found = lower(load_original(path, options)).reference(IMAGE)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    for options, error, text in (
        (LoadOptions(), ModelLoadError, "Choose one: --signature encoder or --signature training"),
        (LoadOptions(signature="encode"), ModelLoadError, r"no signature 'encode'\. Its signatures are: encoder"),
        (LoadOptions(signature="training"), ModelShapeError, "Choose one, .*: --input image or --input label"),
        (LoadOptions(signature="training", input="imag"), ModelShapeError, "no input 'imag'. Its inputs are: image"),
        (LoadOptions(signature="encoder", output="v"), ModelShapeError, "no output 'v'. Its outputs are: vector"),
        (
            LoadOptions(signature="training", input="image", output="both"),
            ModelShapeError,
            "needs other inputs than 'image': label.*--signature",
        ),
    ):
        with pytest.raises(error, match=text):
            load_original(path, options)
    one.save(tmp_path / "model.keras")
    with pytest.raises(RequestError, match="--signature is for SavedModels"):
        load_original(tmp_path / "model.keras", LoadOptions(signature="encoder"))
