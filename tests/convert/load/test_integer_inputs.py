"""Models that take pixels as integers: the contract hands them over as they are."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert import ExportOptions, export
from embedlite.convert.errors import ConversionError
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime import Encoder
from embedlite.runtime.errors import RequestError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """It does nothing to its pixels that would tell their range."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 5, 3), dtype="uint8")
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(keras.ops.cast(image, "float32"))))


@pytest.mark.parametrize("form", ["memory", "model.keras", "folder"])
def test_pixels_come_as_they_are(form: str, model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / form
    if form == "model.keras":
        model.save(path)
    elif form == "folder":
        model.export(path, verbose=False)
    source = model if form == "memory" else path
    result = export(source, tmp_path / "out", quantize=["float32"], options=ExportOptions(measure=False))
    (made,) = result.files
    assert (made.contract["input"]["mean"], made.contract["input"]["std"]) == ((0.0,), (1.0,))
    assert made.contract["origins"]["std"] == "inferred"
    with Encoder(made.path) as encoder:
        np.testing.assert_allclose(encoder.embed_one(PIXELS), np.asarray(model(PIXELS[None]))[0], rtol=1e-5)


def test_fractions_are_refused(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="its input of uint8"):
        export(model, tmp_path, quantize=["float32"], options=ExportOptions(measure=False, mean=(0.0,), std=(255.0,)))


def test_that_it_is_random_shows_with_pixels(tmp_path: Path) -> None:
    """Values up to 1 would all be zero, and so would whatever is drawn for them."""
    spec = tf.TensorSpec((None, 6, 5, 3), tf.uint8, name="image")
    module = tf.Module()
    module.embed = tf.function(
        lambda image: tf.nn.dropout(tf.reduce_mean(tf.cast(image, tf.float32), (1, 2)), 0.5), input_signature=[spec]
    )
    tf.saved_model.save(module, str(tmp_path), module.embed)
    with pytest.raises(ConversionError, match="another embedding each time"):
        lower(load_original(tmp_path, LoadOptions()))
