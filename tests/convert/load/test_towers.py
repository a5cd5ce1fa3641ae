"""Training models with several inputs: ``--layer`` is looked for before the inputs are counted."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert.errors import ModelShapeError
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions

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
