"""Normalizations are found in the float graph by what they compute, proved, and guarded."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from embedlite.convert import Asked, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.guard import guard_normalization
from embedlite.convert.normalization.recognise import (
    Normalization,
    final_normalization,
    find_normalizations,
)
from embedlite.runtime import Encoder
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter

from encoders import PLAIN, Call
from rounding import decibels
from seeds.user_functions import norm, norm_original, unit_tf
from seeds.user_layers import BatchMinMax, EmbeddingHead

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

Ending = list[Callable[[], keras.layers.Layer]]


def tf1_global(x):
    shifted = x - tf.reduce_min(x)
    return shifted / tf.reduce_max(shifted)


def tf1_input_divisor(x):
    return (x - tf.reduce_min(x)) / tf.reduce_max(x)


def subtracted_then_reshaped(x):
    """S4 with the two first steps the other way round."""
    return tf.reshape(x - tf.reduce_min(x), (-1, x.shape[-1])) / tf.reduce_max(x)


def shifted_then_reshaped(x):
    e = x - tf.reduce_min(x)
    return tf.reshape(e, (-1, x.shape[-1])) / tf.reduce_max(e)


def sample_flattened_in_between(x):
    e = tf.reshape(x - tf.reduce_min(x, axis=(1, 2, 3), keepdims=True), (-1, 256))
    return e / tf.reduce_max(e, axis=1, keepdims=True)


def per_channel_keeping_axes(x):
    lowest, highest = (reduce(x, axis=(0, 1, 2), keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    return (x - lowest) / highest


def new_axes(x):
    e = x - tf.reduce_min(x, axis=1)[:, None]
    return e / tf.expand_dims(tf.reduce_max(e, axis=1), 1)


def reshaped_extremes(x):
    e = x - tf.reshape(tf.reduce_min(x, axis=(1, 2, 3)), (-1, 1, 1, 1))
    return e / tf.maximum(tf.reduce_max(e, axis=(1, 2, 3)), 1e-6)[:, None, None, None]


def over_the_range(x):
    return (x - tf.reduce_min(x)) / (tf.reduce_max(x) - tf.reduce_min(x))


def over_the_range_with_epsilon(x):
    low, high = (reduce(x, axis=-1, keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    return (x - low) / (high - low + 1e-3)


def no_nan(x):
    e = x - tf.reduce_min(x)
    return tf.math.divide_no_nan(e, tf.reduce_max(e))


def no_nan_input_divisor(x):
    low, high = (reduce(x, axis=(0, 1, 2)) for reduce in (tf.reduce_min, tf.reduce_max))
    return tf.math.divide_no_nan(x - low, high)


def with_added_epsilon(x):
    shifted = x - ops.min(x, axis=-1, keepdims=True)
    return shifted / (ops.max(shifted, axis=-1, keepdims=True) + 1e-3)


POSITIVE = (lambda: layers.Conv2D(16, 1, activation="relu", bias_initializer=keras.initializers.Constant(4.0)),)
"""A map whose channels have a maximum well above zero, as the users have it who divide by the maximum of the input."""

SPELLINGS = {
    "layer, sample": ([MinMaxNormalization], "minmax", (1, 2, 3), "shifted", "max"),
    "layer, channel, input": (
        [*POSITIVE, lambda: MinMaxNormalization("channel", "input")],
        "minmax",
        (0, 1, 2),
        "input",
        "none",
    ),
    "layer, batch, input, epsilon": (
        [lambda: MinMaxNormalization("batch", "input", 1e-3)],
        "minmax",
        (0, 1, 2, 3),
        "input",
        "add",
    ),
    "TF1, no axis": ([layers.Flatten, lambda: Call(tf1_global)], "minmax", (0, 1), "shifted", "none"),
    "TF1, input divisor": ([layers.Flatten, lambda: Call(tf1_input_divisor)], "minmax", (0, 1), "input", "none"),
    "S2, a layer": ([layers.Flatten, BatchMinMax], "minmax", (0, 1), "shifted", "none"),
    "S3, a layer that holds it all": ([lambda: EmbeddingHead(32)], "minmax", (0, 1), "shifted", "none"),
    "S4, extremes of the input": ([lambda: Call(norm_original)], "minmax", (0, 1), "input", "none"),
    "S4, reshaped after subtracting": (
        [lambda: Call(subtracted_then_reshaped)],
        "minmax",
        (0, 1, 2, 3),
        "input",
        "none",
    ),
    "reshaped after shifting": ([lambda: Call(shifted_then_reshaped)], "minmax", (0, 1, 2, 3), "shifted", "none"),
    "flattened in between": ([lambda: Call(sample_flattened_in_between)], "minmax", (1, 2, 3), "shifted", "none"),
    "S5, in the middle": (
        [*POSITIVE, lambda: Call(norm), layers.Flatten, lambda: layers.Dense(8)],
        "minmax",
        (0, 1, 2),
        "input",
        "none",
    ),
    "S6, before pooling": (
        [*POSITIVE, lambda: Call(norm), layers.GlobalMaxPool2D],
        "minmax",
        (0, 1, 2),
        "input",
        "none",
    ),
    "S6, before averaging": (
        [*POSITIVE, lambda: Call(norm), layers.GlobalAveragePooling2D],
        "minmax",
        (0, 1, 2),
        "input",
        "none",
    ),
    "per channel with keepdims": (
        [*POSITIVE, lambda: Call(per_channel_keeping_axes)],
        "minmax",
        (0, 1, 2),
        "input",
        "none",
    ),
    "axes put back": ([layers.Flatten, lambda: Call(new_axes)], "minmax", (1,), "shifted", "none"),
    "extremes reshaped": ([lambda: Call(reshaped_extremes)], "minmax", (1, 2, 3), "shifted", "max"),
    "over the range": ([layers.Flatten, lambda: Call(over_the_range)], "minmax", (0, 1), "shifted", "none"),
    "over the range, epsilon": ([lambda: Call(over_the_range_with_epsilon)], "minmax", (3,), "shifted", "add"),
    "divide_no_nan": ([lambda: Call(no_nan)], "minmax", (0, 1, 2, 3), "shifted", "none"),
    "divide_no_nan, input divisor": (
        [*POSITIVE, lambda: Call(no_nan_input_divisor)],
        "minmax",
        (0, 1, 2),
        "input",
        "none",
    ),
    "added epsilon": ([layers.Flatten, lambda: Call(with_added_epsilon)], "minmax", (1,), "shifted", "add"),
    "L2 layer": ([layers.Flatten, L2Normalization], "l2", (1,), "shifted", "max"),
    "UnitNormalization": ([layers.Flatten, layers.UnitNormalization], "l2", (1,), "shifted", "max"),
    "keras.ops.normalize": ([layers.Flatten, lambda: Call(ops.normalize)], "l2", (1,), "shifted", "max"),
    "keras.ops.normalize of each channel": (
        [lambda: layers.Reshape((16, -1)), lambda: Call(lambda x: ops.normalize(x, axis=1))],
        "l2",
        (1,),
        "shifted",
        "max",
    ),
    "tf.nn.l2_normalize": (
        [layers.Flatten, lambda: Call(lambda x: tf.nn.l2_normalize(x, axis=-1))],
        "l2",
        (1,),
        "shifted",
        "max",
    ),
    "tf.linalg.l2_normalize of each place": (
        [lambda: Call(lambda x: tf.linalg.l2_normalize(x, axis=-1))],
        "l2",
        (3,),
        "shifted",
        "max",
    ),
    "tf.linalg.l2_normalize of the map": (
        [lambda: Call(lambda x: tf.linalg.l2_normalize(x, axis=(1, 2, 3)))],
        "l2",
        (1, 2, 3),
        "shifted",
        "max",
    ),
    "tf.linalg.normalize": (
        [layers.Flatten, lambda: Call(lambda x: tf.linalg.normalize(x, axis=-1)[0])],
        "l2",
        (1,),
        "shifted",
        "none",
    ),
    "L2 without any epsilon": ([layers.Flatten, lambda: Call(unit_tf)], "l2", (1,), "shifted", "none"),
    "L2 of the map without any epsilon": (
        [lambda: Call(lambda x: x / tf.sqrt(tf.reduce_sum(x * x)))],
        "l2",
        (0, 1, 2, 3),
        "shifted",
        "none",
    ),
    "L2 by divide_no_nan": (
        [layers.Flatten, lambda: Call(lambda x: tf.math.divide_no_nan(x, tf.norm(x, axis=-1, keepdims=True)))],
        "l2",
        (1,),
        "shifted",
        "none",
    ),
}

IN_THE_MIDDLE = ("S5, in the middle", "S6, before pooling", "S6, before averaging")
"""Spellings that do not end the encoder, so that nothing can be left to the runtime."""


def encoder(ending: Sequence[keras.layers.Layer]) -> keras.Sequential:
    """One convolution with a 4x4 map of 16 channels, for it is the ending that is looked at a hundred times."""
    keras.utils.set_random_seed(7)
    embedding = layers.Conv2D(16, 6, strides=6, name="embedding")
    return keras.Sequential([keras.Input((24, 24, 3)), embedding, *ending], name="small")


def encoder_of(ending: Ending) -> keras.Sequential:
    # A layer of the ending has weights of its own, and it is made before the encoder seeds the others.
    keras.utils.set_random_seed(8)
    return encoder([*(make() for make in ending), layers.Flatten()])


def converted(model: keras.Model) -> bytes:
    """The float flatbuffer that an export begins with; it can be exported itself, so that each is made only once."""
    return lower(from_keras(model, "small", LoadOptions())).flatbuffer


def float_graph(ending: Ending) -> Graph:
    return Graph(converted(encoder_of(ending)))


@cache
def model_of(name: str) -> keras.Sequential:
    return encoder_of(SPELLINGS[name][0])


@cache
def spelled(name: str) -> bytes:
    return converted(model_of(name))


def images(count: int = 8) -> np.ndarray:
    """Noise that a model takes as it is, (count, 24, 24, 3) float32."""
    return np.random.default_rng(5).random((count, 24, 24, 3), np.float32)


def exported(flatbuffer: bytes, folder: Path, **options: object) -> tuple[np.ndarray, dict[str, object]]:
    """What the float32 file (or another mode's) answers to ``images()``, and its contract's normalization."""
    (folder / "small.tflite").write_bytes(flatbuffer)
    options = {"quantize": ["float32"], "measure": False, "force": True, **options}
    (file,) = export_asked(folder / "small.tflite", Asked(**options)).files
    with Encoder(file.path) as encoder:
        return encoder.embed(images()), file.contract["normalization"]


def raw_of(model: keras.Model) -> np.ndarray:
    """The raw embeddings of ``images()``."""
    return np.asarray(model.get_layer("embedding")(images()))


def answers(model: keras.Model) -> np.ndarray:
    """What Keras answers to ``images()``, one at a time behind the convolution, which cannot mix them."""
    _, *ending = model.layers
    rows = []
    for row in raw_of(model):
        x = row[None]
        for layer in ending:
            x = layer(x)
        rows.append(np.asarray(x))
    return np.stack([row[0] if len(row) == 1 else row for row in rows])


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_found_and_a_zero_divisor_gives_zeros(name: str) -> None:
    _, kind, axes, divisor, mode = SPELLINGS[name]
    graph = Graph(spelled(name))
    (found,) = find_normalizations(graph, images(2))
    assert (found.spec.kind, found.spec.axes, found.spec.divisor) == (kind, axes, divisor)
    assert found.spec.epsilon_mode == mode
    assert (final_normalization(graph, [found]) is None) == (name in IN_THE_MIDDLE)
    guarded = guard_normalization(graph, found)
    run = island(graph, guarded)
    for value in (0.0, -2.5, 3.0):
        flat = np.full(graph.shape(guarded.source), value, np.float32)
        if kind == "minmax" or value == 0:
            np.testing.assert_array_equal(run(flat), np.zeros(graph.shape(guarded.result)))


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_guard_does_not_change_ordinary_vectors(name: str) -> None:
    plain, guarded = Graph(spelled(name)), Graph(spelled(name))
    (before,), (found,) = find_normalizations(plain), find_normalizations(guarded)
    first, second = island(plain, before), island(guarded, guard_normalization(guarded, found))
    rng = np.random.default_rng(1)
    for scale in (1e-3, 1.0, 1e3):
        raw = rng.normal(0, scale, plain.shape(before.source)).astype(np.float32)
        np.testing.assert_allclose(second(raw), first(raw), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_float32_file_of_every_spelling_is_keras_to_five_digits(name: str, tmp_path: Path) -> None:
    wanted = answers(model_of(name))
    # A divisor of almost zero, and with it quotients of any size, would tell of rounding and not of the spelling. Two
    # orders of summing the 108 products of a convolution are some sqrt(108) roundings of 6e-8 apart, a millionth of
    # what it answers; with quotients up to three, dividend, minimum and divisor make that five times as much at most.
    assert np.abs(wanted).max() < 3
    tolerance = 1e-5
    got, _ = exported(spelled(name), tmp_path)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)
    if name not in IN_THE_MIDDLE:
        got, normalization = exported(spelled(name), tmp_path, normalization="runtime")
        assert (normalization["kind"], normalization["placement"]) == (SPELLINGS[name][1], "runtime")
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


RESHAPED = ("S4, reshaped after subtracting", "reshaped after shifting", "flattened in between", "divide_no_nan")


@pytest.mark.parametrize("name", RESHAPED)
def test_a_frozen_one_keeps_the_shape_that_the_graph_gave_it(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    data = {"calibration_data": images(), "test_data": images()}
    got, normalization = exported(spelled(name), tmp_path, normalization="frozen", **data)
    raw = raw_of(model)
    low, high = raw.min(), raw.max()
    assert normalization["minimum"] == pytest.approx((low,), rel=1e-5)
    wanted = (raw - low) / (high if SPELLINGS[name][3] == "input" else high - low)
    np.testing.assert_allclose(got, wanted.reshape(got.shape), rtol=0, atol=1e-5 * float(np.abs(wanted).max()))
    assert got.shape == answers(model).shape


def test_a_channel_without_any_signal_does_not_stop_int8(tmp_path: Path) -> None:
    """Where the divisor is zero, operators inside the normalization give NaN or infinity; none of it comes out."""
    model = encoder([layers.ReLU(), Call(no_nan_input_divisor), layers.Flatten()])
    kernel, bias = model.get_layer("embedding").get_weights()
    bias[3] = -1e3
    model.get_layer("embedding").set_weights([kernel, bias])
    wanted = answers(model)
    assert (wanted.reshape(-1, 16, 16)[:, :, 3] == 0).all()
    got, _ = exported(converted(model), tmp_path, quantize=["int8"], calibration_data=images(24), **PLAIN)
    assert np.isfinite(got).all()
    assert decibels(got, wanted) > 20


# Each divides, subtracts an extreme, or has a root of squares; none is a normalization that is known here.
NOT_A_NORMALIZATION = {
    "a plain division": lambda x: (x - 1) / (ops.abs(x) + 2),
    "minimum and maximum over other axes": lambda x: (
        (x - ops.min(x, axis=-1, keepdims=True)) / (ops.max(x, axis=(1, 2, 3), keepdims=True) + 9)
    ),
    "minimum over part of the axes": lambda x: (
        (x - ops.min(x, axis=(1, 2), keepdims=True)) / (ops.max(x, axis=(1, 2, 3), keepdims=True) + 9)
    ),
    "maximum over part of the axes": lambda x: (x - ops.min(x)) / (ops.max(x, axis=(0, 1)) + 9),
    "minimum of something else": lambda x: (
        (x - ops.min(x * 2, axis=-1, keepdims=True)) / (ops.max(x, axis=-1, keepdims=True) + 9)
    ),
    "maximum of something else": lambda x: (x - ops.min(x)) / (ops.max(ops.tanh(x)) + 9),
    "maximum of something reshaped": lambda x: (x - ops.min(x)) / (ops.max(ops.reshape(x * x, (1, -1))) + 9),
    # Sixteen places and sixteen channels: the minimum of each place is taken off each channel.
    "extremes of a reshape that mixes": lambda x: (
        (x - ops.min(ops.reshape(x, (-1, 16, 16)), axis=2)) / (ops.max(ops.reshape(x, (-1, 16, 16)), axis=2) + 9)
    ),
    "extremes of a transpose": lambda x: (
        (x - ops.min(ops.transpose(x, (0, 3, 1, 2)), axis=(2, 3), keepdims=True)[:, 0, 0])
        / (ops.max(ops.transpose(x, (0, 3, 1, 2)), axis=(2, 3), keepdims=True)[:, 0, 0] + 9)
    ),
    "mean instead of minimum": lambda x: (
        (x - ops.mean(x, axis=-1, keepdims=True)) / (ops.max(x, axis=-1, keepdims=True) + 9)
    ),
    "maximum taken off": lambda x: (x - ops.max(x)) / (ops.max(x) - ops.min(x)),
    "the range without a shift": lambda x: x / (ops.max(x) - ops.min(x)),
    "the range of something else": lambda x: (x - ops.min(x)) / (ops.max(x * x) - ops.min(x) + 9),
    "the range over part of the axes": lambda x: (x - ops.min(x)) / (ops.max(x) - ops.min(x, axis=(1, 2)) + 9),
    "the maximum alone": lambda x: x / (ops.max(ops.abs(x)) + 1e-3),
    "twice the maximum": lambda x: (x - ops.min(x)) / (2 * ops.max(x - ops.min(x)) + 1e-3),
    "softmax": lambda x: ops.softmax(x, axis=-1),
    "standardization": lambda x: (
        (x - ops.mean(x, axis=-1, keepdims=True)) / (ops.std(x, axis=-1, keepdims=True) + 1e-3)
    ),
    "L1 norm": lambda x: x / (ops.sum(ops.abs(x), axis=-1, keepdims=True) + 1e-3),
    "norm of something else": lambda x: x / (ops.sqrt(ops.sum(ops.square(x + 1), axis=-1, keepdims=True)) + 1e-3),
    "root of the mean square": lambda x: x / (ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True)) + 1e-3),
    "something else over the norm": lambda x: (x + 1) / ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True)),
}


@pytest.mark.parametrize("name", NOT_A_NORMALIZATION)
def test_what_only_looks_like_one_is_left_alone_and_stays_right(name: str, tmp_path: Path) -> None:
    model = encoder_of([lambda: Call(NOT_A_NORMALIZATION[name])])
    flatbuffer = converted(model)
    assert find_normalizations(Graph(flatbuffer)) == []
    got, normalization = exported(flatbuffer, tmp_path)
    assert normalization["kind"] == "none"
    wanted = answers(model)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize("size", [1e21, 1e-25])
def test_a_look_alike_that_only_the_encoders_own_embeddings_give_away(size: float, tmp_path: Path) -> None:
    """Embeddings of a size at which float32 cannot hold their squares: the graph is not an L2 normalization of them.

    That is a clamp far out. No other can hide, for none of the operators that a match may pass clamps, but one that
    clamps at zero. The sum of squares is infinite and Keras answers zeros, or it is zero and Keras answers infinity;
    vectors of an ordinary size, which are all that chance offers, agree with the definition.
    """
    model = encoder([layers.Flatten(), Call(unit_tf)])
    embedding = model.get_layer("embedding")
    embedding.set_weights([weights * np.float32(size) for weights in embedding.get_weights()])
    flatbuffer = converted(model)
    assert len(find_normalizations(Graph(flatbuffer))) == 1
    assert find_normalizations(Graph(flatbuffer), images(1)) == []
    if size > 1:
        np.testing.assert_array_equal(answers(model), 0)
        got, normalization = exported(flatbuffer, tmp_path, calibration_data=images())
        assert normalization["kind"] == "none"
        np.testing.assert_array_equal(got, 0)


def read_twice(x):
    z = tf1_global(x)
    return z + 0.5 * tf.tanh(z)


def shifted_read_twice(x):
    e = x - tf.reduce_min(x)
    return e / tf.reduce_max(e) + 0.1 * e


def extremes_read_twice(x):
    low, high = tf.reduce_min(x), tf.reduce_max(x)
    return (x - low) / high * (high - low)


def quotient_read_beside_its_zeros(x):
    e = x - tf.reduce_min(x)
    zero = tf.equal(tf.reduce_max(e), 0)
    quotient = e / tf.where(zero, tf.ones_like(tf.reduce_max(e)), tf.reduce_max(e))
    return tf.where(zero, tf.zeros_like(e), quotient) + 0.1 * quotient


def ones_chosen(x):
    e = x - tf.reduce_min(x)
    return tf.where(tf.reduce_max(e) == 0, tf.ones_like(e), e / tf.reduce_max(e))


def zeros_chosen_by_another(x):
    e = x - tf.reduce_min(x)
    return tf.where(tf.reduce_max(x) == 0, tf.zeros_like(e), e / tf.reduce_max(e))


def unit_and_length(x):
    length = tf.norm(x, axis=-1, keepdims=True)
    return tf.concat([x / length, length], axis=-1)


READ_ELSEWHERE = {
    "the result": read_twice,
    "the shifted values": shifted_read_twice,
    "the extremes": extremes_read_twice,
    "the quotient in front of the chosen zeros": quotient_read_beside_its_zeros,
    "the norm": unit_and_length,
    "the result, where ones are chosen": ones_chosen,
    "the result, where zeros are chosen by another": zeros_chosen_by_another,
}


@pytest.mark.parametrize("name", READ_ELSEWHERE)
def test_what_other_arithmetic_reads_of_a_normalization_stays_right(name: str, tmp_path: Path) -> None:
    model = encoder([layers.Flatten(), Call(READ_ELSEWHERE[name])])
    flatbuffer, wanted = converted(model), answers(model)
    got, normalization = exported(flatbuffer, tmp_path)
    assert normalization["kind"] == "none"
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))
    got, _ = exported(flatbuffer, tmp_path, quantize=["int8"], calibration_data=images(24), **PLAIN)
    assert decibels(got, wanted) > 25


@pytest.mark.parametrize("function", [ones_chosen, zeros_chosen_by_another])
def test_only_the_choice_that_divide_no_nan_makes_belongs_to_it(function: Callable[[tf.Tensor], tf.Tensor]) -> None:
    graph = float_graph([layers.Flatten, lambda: Call(function)])
    (found,) = find_normalizations(graph, images(2))
    assert graph.operator_name(graph.producer(found.result)) == "DIV"


def test_a_frozen_one_that_other_arithmetic_reads_stays_right(tmp_path: Path) -> None:
    model = encoder([layers.Flatten(), Call(read_twice)])
    raw = raw_of(model).reshape(len(images()), -1)
    z = (raw - raw.min()) / (raw.max() - raw.min())
    data = {"calibration_data": images(), "test_data": images()}
    got, _ = exported(converted(model), tmp_path, normalization="frozen", **data)
    np.testing.assert_allclose(got, z + 0.5 * np.tanh(z), rtol=0, atol=1e-5)


def test_two_normalizations_are_both_found() -> None:
    graph = float_graph([lambda: MinMaxNormalization("channel", "input"), layers.Flatten, L2Normalization])
    assert [found.spec.kind for found in find_normalizations(graph)] == ["minmax", "l2"]


def island(graph: Graph, normalization: Normalization) -> Callable[[np.ndarray], np.ndarray]:
    """The part of a graph between a normalization's ends, run by the real interpreter.

    It begins in front of the reshapes that lead to the raw tensor, because the extremes may be taken there.
    """
    part = Graph(graph.to_bytes())
    source = normalization.source
    while (producer := part.producer(source)) is not None and part.operator_name(producer) == "RESHAPE":
        source = int(producer.inputs[0])
    wanted, operators = {normalization.result}, []
    for operator in reversed(part.operators):
        if source not in (outputs := [int(i) for i in operator.outputs]) and wanted.intersection(outputs):
            operators.insert(0, operator)
            wanted.update(part.inputs(operator))
    part.subgraph.operators, part.subgraph.inputs, part.subgraph.outputs = operators, [source], [normalization.result]
    part.model.signatureDefs = None
    interpreter = open_interpreter(find_runtime(), part.to_bytes(), threads=1)

    def run(raw: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], raw.reshape(part.shape(source)))
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run
