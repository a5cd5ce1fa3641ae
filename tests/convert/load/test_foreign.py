"""What TensorFlow and Keras raise becomes one line: the cause, the kind of model, the versions; nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.errors import ConversionError, ModelLoadError, ModelShapeError
from embedlite.convert.load import load_original
from embedlite.convert.load.foreign import reason, told
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions

SHAPE = (8, 8, 3)


def said(call: Callable[[], Any]) -> str:
    with pytest.raises((ConversionError, ModelLoadError, ModelShapeError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 800
    for noise in ("loc(", "callsite", "fused[", "<unknown>", "MLIR", "config=", "module'", "__inference", "\x1b"):
        assert noise not in text
    return text


class Determinant(layers.Layer):
    def call(self, x):
        return tf.linalg.det(tf.matmul(x, x, transpose_a=True))


class Inverse(layers.Layer):
    def call(self, x):
        return tf.math.erfinv(x)


class Broken(layers.Layer):
    def call(self, x):
        if x.shape[0] == 1:
            raise ZeroDivisionError("divided by the number of nobody")
        return x


def model(*middle: layers.Layer) -> keras.Model:
    image = keras.Input(SHAPE)
    x: Any = image
    for layer in (*middle, layers.Flatten(), layers.Dense(3)):
        x = layer(x)
    return keras.Model(image, x, name="encoder")


@pytest.mark.parametrize(
    ("layer", "operator", "place"),
    [
        (Inverse(name="smaller"), "Erfinv", "smaller_1/erfinv"),
        (Determinant(name="volume"), "MatrixDeterminant", "volume_1"),
    ],
)
def test_an_operator_that_tflite_lacks_is_named_with_its_layer(layer: layers.Layer, operator: str, place: str) -> None:
    text = said(lambda: lower(from_keras(model(layer), "encoder", LoadOptions())))
    assert f"no operator for {operator} (in '{place}')" in text
    assert f"(Functional, Keras {keras.__version__}, TensorFlow {tf.__version__})" in text


def test_a_layer_that_fails_is_told_with_its_reason() -> None:
    text = said(lambda: lower(from_keras(model(Broken()), "encoder", LoadOptions())))
    assert "encoder cannot be called on float images of shape (1, 8, 8, 3) (Functional, Keras" in text
    assert "divided by the number of nobody" in text


def test_a_model_that_fails_on_an_image_is_told() -> None:
    lowered = lower(from_keras(model(), "encoder", LoadOptions()))
    text = said(lambda: lowered.reference(keras.ops.zeros((9, 8, 3)).numpy()))
    assert text.startswith("encoder cannot be run (Functional, Keras")


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    import zipfile

    first, second = model(layers.Conv2D(4, 3)), model(layers.Conv2D(5, 3, use_bias=False), layers.Dense(4))
    for name, one in (("first", first), ("second", second)):
        one.save(tmp_path / f"{name}.keras")
    with (
        zipfile.ZipFile(tmp_path / "first.keras") as source,
        zipfile.ZipFile(tmp_path / "second.keras") as other,
        zipfile.ZipFile(tmp_path / "mixed.keras", "w") as mixed,
    ):
        for entry in source.namelist():
            mixed.writestr(entry, (other if entry == "model.weights.h5" else source).read(entry))
    text = said(lambda: load_original(tmp_path / "mixed.keras"))
    assert f"cannot be loaded by Keras {keras.__version__}: " in text
    assert "Expected" in text or "expected" in text


def test_only_what_a_library_raised_is_told_as_its_own() -> None:
    way_out = "Do otherwise."
    with (
        pytest.raises(ConversionError, match=r"^it cannot be done \(Keras\): .+\. Do otherwise\.$"),
        told(ConversionError, "it", "Keras", "cannot be done", way_out),
    ):
        keras.ops.reshape(keras.ops.zeros((3, 4)), (5, 5))
    for mistake in (ZeroDivisionError("ours"), MemoryError(), ModelShapeError("said already")):
        with pytest.raises(type(mistake)), told(ConversionError, "it", "Keras", "cannot be done", way_out):
            raise mistake


def test_a_reason_is_short_whatever_the_text() -> None:
    assert reason(ValueError("")) == "ValueError"
    assert reason(KeyError("units")) == "KeyError: 'units'"
    assert reason(ValueError("no units using config={'units': 3}.\n\nException encountered: no such thing.")) == (
        "no such thing"
    )
    assert reason(TypeError("no class. Full object config: {'a': 1}")) == "no class"
    assert len(reason(ValueError("word " * 1000))) < 320
