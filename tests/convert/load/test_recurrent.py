"""Recurrent layers: float32 keeps their loops, which are certain to end; for other modes their steps are laid out."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers, ops

from embedlite.convert import ExportOptions, export
from embedlite.convert.errors import ConversionError, ModelLoadError
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.loops import has_loops, steps
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime import Encoder

from encoders import PLAIN, Call
from rounding import decibels
from ways_out import walks

# What a foreign .tflite is tried in is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (8, 6, 2)
IMAGES = np.random.default_rng(0).uniform(0, 1, (12, *SHAPE)).astype(np.float32)

KINDS = {
    "lstm": lambda x: layers.Dense(5)(layers.LSTM(5)(x)),
    "gru and lstm": lambda x: layers.LSTM(5)(layers.GRU(4, return_sequences=True)(x)),
    "bidirectional": lambda x: layers.ReLU()(layers.Bidirectional(layers.GRU(4))(x)),
    "masked": lambda x: layers.SimpleRNN(5)(layers.Masking(0.0)(x)),
    "time distributed": lambda x: layers.LSTM(4)(layers.TimeDistributed(layers.Dense(6, activation="relu"))(x)),
}


def recurrent(kind: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = KINDS[kind](layers.Reshape((8, 12))(image))
    return keras.Model(image, layers.UnitNormalization()(layers.Dense(4)(x)), name="recurrent")


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_is_kept_and_computes_the_same(kind: str) -> None:
    model = recurrent(kind)
    lowered = lower(from_keras(model, "model", LoadOptions()))
    assert has_loops(Graph(lowered.flatbuffer))
    wanted = np.asarray(model(IMAGES[:2]))
    got = np.stack([float_runner(lowered.flatbuffer)(image) for image in IMAGES[:2]])
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    # The same without its loops, and the caller's model is left as it was.
    assert lowered.unroll is not None
    assert steps(Graph(lowered.flatbuffer)) == 8
    laid_out = lowered.unroll()
    assert not has_loops(Graph(laid_out))
    got = np.stack([float_runner(laid_out)(image) for image in IMAGES[:2]])
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert not any(getattr(layer, "unroll", False) for layer in model._flatten_layers())


@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "SavedModel"])
def test_the_steps_are_laid_out_for_int8_and_float32_keeps_the_loop(saved: bool, tmp_path: Path) -> None:
    model = recurrent("lstm")
    if saved:
        # Which does not tell that its result has one row for each input.
        model.export(tmp_path / "model", verbose=False)
    result = export(
        tmp_path / "model" if saved else model,
        tmp_path / "out",
        quantize=["float32", "int8", "dynamic"],
        calibration_data=IMAGES,
        test_data=IMAGES,
        options=ExportOptions(measure=False, **PLAIN),
    )
    assert any("the 8 steps of its loops are laid out" in text for text in result.decisions)
    assert not result.not_made
    wanted = np.asarray(model(IMAGES))
    for file in result.files:
        data = file.path.read_bytes()[: file.contract["flatbuffer_bytes"]]
        assert has_loops(Graph(data)) == (file.mode == "float32")
        with Encoder(file.path) as encoder:
            got = encoder.embed(IMAGES)
        assert decibels(got, wanted) > (120 if file.mode == "float32" else 20)


def test_a_loop_of_more_steps_stays_and_the_mode_says_why(tmp_path: Path) -> None:
    image = keras.Input((65, 4, 1))
    x = layers.LSTM(3)(layers.Reshape((65, 4))(image))
    model = keras.Model(image, layers.Dense(2)(x), name="long")
    images = np.random.default_rng(0).uniform(0, 1, (4, 65, 4, 1)).astype(np.float32)
    result = export(
        model, tmp_path, quantize=["float32", "int8"], calibration_data=images, options=ExportOptions(measure=False)
    )
    assert [file.mode for file in result.files] == ["float32"]
    (refused,) = result.not_made
    assert re.search("a loop .* of 65 steps.*no int8 of it.* Build the model for 64 steps or fewer", refused.reason)


class Doubling(layers.Layer):
    """As often as its input asks for."""

    def call(self, x):
        limit = ops.max(x)
        start = ops.sum(ops.abs(x), axis=-1)[:1] * 0.0 + 1.0
        (last,) = ops.while_loop(lambda value: value[0] < limit, lambda value: (value * 1.5,), (start,))
        return x + last


def test_a_loop_that_its_input_ends_is_refused() -> None:
    image = keras.Input(SHAPE)
    model = keras.Model(image, Doubling()(layers.Flatten()(image)))
    with pytest.raises(ConversionError, match="loop that nothing known beforehand ends"):
        lower(from_keras(model, "model", LoadOptions()))


def test_dropout_that_is_off_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """Keras 3 counts on where its random numbers come from all the same, and no device has a variable."""
    signal = keras.Input((4, 6))
    model = keras.Model(signal, layers.Bidirectional(layers.GRU(4, dropout=0.2, recurrent_dropout=0.1))(signal))
    model.save(tmp_path / "model.keras")
    lowered = lower(load_original(tmp_path / "model.keras"))
    assert lowered.decisions == ()
    window = IMAGES[0].reshape(8, 12)[:4, :6]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(window), np.asarray(model(window[None]))[0], atol=1e-6)
    assert lowered.unroll is not None
    np.testing.assert_allclose(float_runner(lowered.unroll())(window), np.asarray(model(window[None]))[0], atol=1e-6)
    # A model in memory is left as it was.
    lower(from_keras(model, "model", LoadOptions()))
    assert model.layers[-1].forward_layer.cell.dropout == 0.2


class Trained(layers.Wrapper):
    """Calls a layer as in training."""

    def call(self, x):
        return self.layer(x, training=True)


def test_dropout_that_is_off_beside_one_that_is_on() -> None:
    signal = keras.Input((8, 6))
    inner = layers.GRU(4, dropout=0.2)(signal)
    model = keras.Model(signal, Trained(layers.Dropout(0.5))(inner))
    lowered = lower(from_keras(model, "model", LoadOptions()))
    assert "is random at inference" in " ".join(lowered.decisions)
    window = IMAGES[0].reshape(8, 12)[:, :6]
    wanted = np.asarray(keras.Model(signal, inner)(window[None]))[0]
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(window), wanted, atol=1e-6)


@walks(
    "with stateful=False, and load its weights into that",
    "before it. Pass the Keras model or the SavedModel that it was converted from; its",
    "change(s) variables at inference, as in training",
)
def test_state_that_is_kept_is_refused_and_the_way_out_works(tmp_path: Path) -> None:
    def build(*, stateful: bool) -> keras.Model:
        signal = keras.Input((8, 6), batch_size=1)
        return keras.Model(signal, layers.LSTM(4, stateful=stateful)(signal))

    model, window = build(stateful=True), IMAGES[0].reshape(8, 12)[:, :6]
    wanted = np.asarray(model(window[None]))[0]
    model.save(tmp_path / "model.keras")
    with pytest.raises(ConversionError, match=r"keeps state from one input.*stateful=False, and load its weights"):
        load_original(tmp_path / "model.keras")
    other = build(stateful=False)
    other.set_weights(model.get_weights()[: len(other.weights)])
    for made, name in ((model, "stateful"), (other, "stateless")):
        signature = tf.function(lambda x, made=made: {"z": made(x)}, input_signature=[tf.TensorSpec((1, *SIGNAL))])
        tf.saved_model.save(made, str(tmp_path / name), signature)
    with pytest.raises(ConversionError, match="recurrent ones with stateful=True have to be built without it"):
        lower(load_original(tmp_path / "stateful"))
    # What Keras 2 calls an LSTM becomes one operator, which keeps its state whatever the layer says.
    signal = tf_keras.Input(SIGNAL, batch_size=1)
    old = tf_keras.Model(signal, tf_keras.layers.LSTM(4)(signal))
    old.set_weights(other.get_weights())
    old.save(tmp_path / "old.keras")
    tf.saved_model.save(old, str(tmp_path / "old"))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "old"))
    (tmp_path / "old.tflite").write_bytes(converter.convert())
    with pytest.raises(ModelLoadError, match="keeps state from one input to the next"):
        load_original(tmp_path / "old.tflite")
    files = [load_original(tmp_path / name) for name in ("stateless", "old", "old.keras")]
    for original in (from_keras(other, "model", LoadOptions()), *files):
        run = float_runner(lower(original).flatbuffer)
        for _ in range(2):
            np.testing.assert_allclose(run(window), wanted, atol=1e-6)


def mapped(rows: Any) -> Any:
    return tf.map_fn(lambda row: tf.sin(row) * 2.0, rows)


@tf.function
def discounted(rows: Any) -> Any:
    total = tf.zeros_like(rows[:, 0])
    for n in tf.range(8):
        total = total * 0.5 + rows[:, n]
    return total[:, None]


SIGNAL = (8, 6)
LOOPS: dict[str, Callable[[Any], Any]] = {
    "mapped over images": mapped,
    "mapped over rows": lambda x: tf.transpose(mapped(tf.transpose(x, (1, 0, 2))), (1, 0, 2)),
    "scanned": lambda x: tf.transpose(tf.scan(lambda a, b: a * 0.5 + b, tf.transpose(x, (1, 0, 2))), (1, 0, 2)),
    "a Python loop": discounted,
}


@pytest.mark.parametrize("kind", LOOPS)
def test_loops_of_functions_in_a_saved_model(kind: str, tmp_path: Path) -> None:
    signal = keras.Input(SIGNAL)
    model = keras.Model(signal, layers.Flatten()(Call(LOOPS[kind])(signal)))
    model.export(tmp_path / "model", verbose=False)
    lowered = lower(load_original(tmp_path / "model"))
    window = IMAGES[0].reshape(8, 12)[:, :6]
    wanted = np.asarray(model(window[None]))[0]
    # A list whose rows have no known shape is not kept, and so its loop is not.
    assert has_loops(Graph(lowered.flatbuffer)) == (lowered.unroll is not None) == ("mapped" not in kind)
    np.testing.assert_allclose(float_runner(lowered.flatbuffer)(window), wanted, atol=1e-6)
    if lowered.unroll is not None:
        laid_out = lowered.unroll()
        assert not has_loops(Graph(laid_out))
        np.testing.assert_allclose(float_runner(laid_out)(window), wanted, atol=1e-6)


@walks("rows, or over a number of them that is not known beforehand, and")
def test_more_rows_than_are_laid_out_need_the_shape_that_the_error_asks_for() -> None:
    def build(**settings: Any) -> keras.Model:
        signal = keras.Input((70, 3))
        rows = Call(lambda x: tf.map_fn(lambda row: row * 2.0, x[0], **settings)[None])(signal)
        return keras.Model(signal, layers.GlobalMaxPooling1D()(rows))

    with pytest.raises(ConversionError, match=r"maps over more than 64 rows.*fn_output_signature=tf\.TensorSpec\("):
        lower(from_keras(build(), "model", LoadOptions()))
    model = build(fn_output_signature=tf.TensorSpec((3,), tf.float32))
    window = np.random.default_rng(0).random((70, 3), np.float32)
    got = float_runner(lower(from_keras(model, "model", LoadOptions())).flatbuffer)(window)
    np.testing.assert_allclose(got, np.asarray(model(window[None]))[0], atol=1e-6)
