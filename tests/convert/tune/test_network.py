"""The graph in TensorFlow computes what the interpreter does: operators, rounding, and the file that is written."""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from embedlite.calibration import collect_ranges
from embedlite.convert.graph.graph import HEAVY, Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.prepare import FloatGraph, prepare
from embedlite.convert.quantize.correct.paired_graph import PairedGraph
from embedlite.convert.quantize.litert import quantize
from embedlite.convert.tune.network import Network, fake_quantized, real_constant
from embedlite.convert.tune.operators import UnsupportedError
from embedlite.convert.tune.parameters import Parameters
from embedlite.runtime import InputContract
from embedlite.runtime.backends.interpreters import find_runtime
from embedlite.runtime.backends.subgraph import cut, runner
from embedlite.runtime.images.open import open_source
from embedlite.runtime.input.preprocess import dequantize
from embedlite.runtime.input.preprocess import quantize as to_integers
from embedlite.runtime.model.flatbuffer import read_flatbuffer

from encoders import Call
from rounding import decibels

SHAPE = (20, 16, 3)


def body() -> keras.Model:
    """The operators of most networks, each with a width of its own."""
    keras.utils.set_random_seed(5)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu6")(x)
    y = layers.Conv2D(16, 3, padding="same", groups=4)(x)
    x = layers.Add()([x, layers.LeakyReLU()(y)])
    x = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(16, 1)(layers.ZeroPadding2D(1)(x)))
    gate = layers.Dense(16, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 16))(gate)])
    x = layers.Conv2D(16, 2, dilation_rate=2, activation="hard_silu")(x)
    x = layers.Conv2DTranspose(8, 2, strides=2, activation="tanh")(x)
    x = layers.Subtract()([x, layers.Softmax()(x)])
    x = layers.Dense(24, name="embedding")(layers.Flatten()(layers.Cropping2D(1)(x)))
    return keras.Model(image, layers.UnitNormalization()(x), name="body")


@cache
def made() -> SimpleNamespace:
    """The float graph, its int8 graphs, that with the last layer in float among them, ranges, and images."""
    graph = prepare(lower(from_keras(body(), "body", LoadOptions())).flatbuffer)
    images = np.random.default_rng(0).uniform(0, 1, (12, *SHAPE)).astype(np.float32)
    source = open_source(images, InputContract(SHAPE, mean=(0.0,), std=(1.0,)))
    ranges = collect_ranges(graph.flatbuffer, source)
    int8 = quantize(graph.flatbuffer, "int8", ranges, graph.keep_float)
    dense = [item for item in Graph(graph.flatbuffer).operators if int(item.outputs[0]) == raw_output(graph)]
    (end,) = (Graph(graph.flatbuffer).tensor_name(int(item.outputs[0])) for item in dense)
    ended = quantize(graph.flatbuffer, "int8", ranges, graph.keep_float, floating=(end,))
    files = {"float32": graph.flatbuffer, "int8": int8, "float end": ended}
    return SimpleNamespace(graph=graph, images=images, files=files, ranges=ranges)


def raw_output(graph: FloatGraph) -> int:
    """The tensor before the normalization."""
    assert graph.raw_name is not None
    return Graph(graph.flatbuffer).index_of(graph.raw_name)


def each_operator(flatbuffer: bytes, images: np.ndarray) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
    """Kind, what is written, the interpreter's answer and the network's for what it is given, in real numbers."""
    info, network, runtime = read_flatbuffer(flatbuffer), Network(flatbuffer), find_runtime()
    stored = {info.wiring.inputs[0]: list(images[:, None])}
    found = []
    for place, operator in enumerate(network.graph.operators):
        written = [int(index) for index in operator.outputs]
        sources = [index for index in network.graph.inputs(operator) if index in stored]
        run = runner(runtime, cut(flatbuffer, range(place, place + 1), sources, written), sources, written, 1)
        answers = [run([stored[index][number] for index in sources]) for number in range(len(images))]
        real = {
            index: tf.constant(np.concatenate([_real(info, index, item) for item in stored[index]]))
            for index in sources
        }
        applied = network.apply(operator, real)
        for result, each in zip(written, zip(*answers, strict=True), strict=True):
            stored[result] = list(each)
            expected = np.concatenate([_real(info, result, item) for item in each])
            found.append((network.graph.operator_name(operator), result, expected, applied[result].numpy()))
    return found


def _real(info, index: int, values: np.ndarray) -> np.ndarray:
    tensor = info.tensors[index]
    return dequantize(values, tensor.scale[0], tensor.zero_point[0]) if values.dtype == np.int8 else values


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_every_operator_answers_as_the_interpreter_does(mode: str) -> None:
    """Given the same integers: at most one step apart, and layers with weights in one value of a thousand."""
    assert check_each(made().files[mode], made().images) > 20


def check_each(flatbuffer: bytes, images: np.ndarray) -> int:
    """How many tensors were compared."""
    info, answers = read_flatbuffer(flatbuffer), each_operator(flatbuffer, images)
    for kind, result, expected, found in answers:
        tensor = info.tensors[result]
        assert found.shape == expected.shape, kind
        if tensor.dtype == "float32":
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5, err_msg=kind)
            continue
        steps = np.abs(found - expected) / tensor.scale[0]
        assert steps.max() < 1.01, (kind, steps.max())
        exact = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "RESHAPE", "MAX_POOL_2D", "PAD"}
        if kind in exact:
            assert (steps > 0.01).mean() <= 1e-3, kind
    return len(answers)


def test_rare_operators_answer_in_8_bits_too() -> None:
    keras.utils.set_random_seed(5)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(image)
    y = Call(lambda x: tf.concat([tf.reverse(part, [1]) for part in tf.split(x, 2, -1)], -1))(x)
    y = Call(lambda x: tf.gather(tf.maximum(x, 0.0), [1, 0, 3, 2, 5, 4, 7, 6], axis=-1))(y)
    x = Call(lambda x: tf.reduce_sum(tf.stack([tf.unstack(x, axis=1)[0], x[:, 1]], 1), 1))(layers.Add()([x, y]))
    x = Call(lambda x: tf.math.log(1.5 + tf.sin(x)) + tf.nn.log_softmax(x))(x)
    model = keras.Model(image, layers.Dense(8)(layers.Flatten()(x)), name="rare")
    graph = prepare(lower(from_keras(model, "rare", LoadOptions())).flatbuffer)
    source = open_source(made().images, InputContract(SHAPE, mean=(0.0,), std=(1.0,)))
    int8 = quantize(graph.flatbuffer, "int8", collect_ranges(graph.flatbuffer, source), graph.keep_float)
    kinds = {Graph(int8).operator_name(item) for item in Graph(int8).operators}
    assert {"SPLIT", "REVERSE_V2", "GATHER", "UNPACK", "PACK", "LOG", "SIN", "LOG_SOFTMAX"} <= kinds
    assert check_each(int8, made().images) > 15


def test_the_float_graph_answers_a_batch_as_the_interpreter_answers_images() -> None:
    """Of int8 a tie that one kernel rounds otherwise is a step in all layers after it, which is compared above."""
    network = Network(made().files["float32"])
    found = network(tf.constant(made().images))[network.output].numpy()
    expected = float_rows(made().files["float32"], made().images)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-5)
    # Weights that are unpacked of 8 bits are no image's.
    ended = Network(made().files["float end"])
    answers = ended(tf.constant(made().images))[ended.output].numpy()
    assert decibels(answers.reshape(expected.shape), expected) >= 15


FORMS = {
    "bilinear": lambda x: tf.image.resize(x, (15, 9)),
    "bilinear, from corner to corner": lambda x: tf.compat.v1.image.resize_bilinear(x, (15, 9), align_corners=True),
    "bilinear, as TensorFlow 1 does": lambda x: tf.compat.v1.image.resize_bilinear(x, (15, 9)),
    "nearest": lambda x: tf.image.resize(x, (30, 24), "nearest"),
    "nearest, as TensorFlow 1 does": lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (15, 9)),
    "depth to space": lambda x: tf.nn.depth_to_space(tf.concat([x, x * 2.0, x, -x], -1), 2),
    "space to depth": lambda x: tf.nn.space_to_depth(x, 4),
    "tiled": lambda x: tf.tile(x, (1, 2, 1, 3)),
}


def windows(x: tf.Tensor) -> tf.Tensor:
    """Products within windows of 5 x 4 pixels, as in a Swin transformer."""
    parts = tf.transpose(tf.reshape(x, (-1, 4, 5, 4, 4, 3)), (0, 1, 3, 2, 4, 5))
    parts = tf.reshape(parts, (-1, 20, 3))
    parts = tf.matmul(tf.nn.softmax(tf.matmul(parts, parts, transpose_b=True)), parts) + POINT
    return tf.reshape(tf.transpose(tf.reshape(parts, (-1, 4, 4, 5, 4, 3)), (0, 1, 3, 2, 4, 5)), (-1, *SHAPE))


def recurrent(x: tf.Tensor) -> tf.Tensor:
    """The last state, and all of them, step by step."""
    state, states = tf.zeros_like(x[:, 0, 0]), []
    for step in tf.unstack(tf.transpose(x[:, :, 0], (1, 0, 2)), num=20, axis=0):
        state = tf.tanh(step + 0.5 * state)
        states.append(state)
    every = tf.transpose(tf.stack(states, 0), (1, 0, 2))
    return tf.concat([every, state[:, None]], 1)


POINT = tf.constant([0.25, 0.5, 0.75])
RARE: dict[str, tuple[Callable[[tf.Tensor], tf.Tensor], set[str]]] = {
    "windows": (windows, {"BATCH_MATMUL"}),
    "recurrent": (recurrent, {"UNPACK", "PACK"}),
    "selu": (keras.activations.selu, {"GREATER", "SELECT"}),
    "soft shrink": (lambda x: keras.activations.soft_shrink(x - POINT, 0.1), {"LESS"}),
    "mish": (keras.activations.mish, {"LOG"}),
    "log of a softmax": (tf.nn.log_softmax, {"LOG_SOFTMAX"}),
    "waves": (lambda x: tf.sin(7 * x) * tf.cos(3 * x), {"SIN", "COS"}),
    "steps": (
        lambda x: x * (tf.sign(x - POINT) + tf.floor(5 * x) + tf.math.ceil(3 * x) + tf.round(7 * x)),
        {"SIGN", "FLOOR", "CEIL", "ROUND"},
    ),
    "conditions": (
        lambda x: tf.where(((x >= 0.1) & (x <= 0.9)) | tf.logical_not(x > POINT), x, x * x),
        {"GREATER_EQUAL", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_OR"},
    ),
    "a mask": (lambda x: x * tf.cast(x > POINT, tf.float32), {"CAST"}),
    "parts": (lambda x: tf.concat([(k + 1.0) * part for k, part in enumerate(tf.split(x, 5, 1))], 1), {"SPLIT"}),
    "unequal parts": (lambda x: tf.split(x, [3, 10, 7], 1)[1] ** 2, {"SPLIT_V"}),
    "stacked": (lambda x: tf.stack([x, x * x], 2) * tf.unstack(x, axis=2)[3][:, :, None, None], {"PACK", "UNPACK"}),
    "chosen": (lambda x: tf.gather(x, [2, 0, 0], axis=-1) * tf.gather(x, [5, 1, 1], axis=1)[:, :1], {"GATHER"}),
    "mirrored": (lambda x: x * tf.reverse(x, [1, 2]), {"REVERSE_V2"}),
    "summed up": (lambda x: tf.cumsum(x, 2, exclusive=True, reverse=True), {"CUMSUM"}),
    "multiplied": (lambda x: tf.reduce_prod(x + 0.5, -1, keepdims=True) * x, {"REDUCE_PROD"}),
    "the largest": (lambda x: tf.math.top_k(tf.reduce_sum(x, -1), 3)[0], {"TOPK_V2"}),
    "spread": (lambda x: tf.concat([x, tf.broadcast_to(x[:, :1], (tf.shape(x)[0], *SHAPE))], 1), {"BROADCAST_TO"}),
    "volumes": (
        lambda x: tf.nn.conv3d(
            x[..., None], tf.reshape(tf.sin(tf.range(36.0)), (3, 3, 2, 1, 2)), (1, 2, 1, 1, 1), "SAME"
        ),
        {"CONV_3D"},
    ),
}


def test_a_recurrent_layer_has_gradients() -> None:
    """Its bias is added to rows without an axis for the batch, and its steps of time are the first axis."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 5)), layers.LSTM(4, unroll=True), layers.Dense(3)], name="recurrent")
    flatbuffer = lower(from_keras(model, "recurrent", LoadOptions())).flatbuffer
    values = np.random.default_rng(0).normal(0, 1, (5, 6, 5)).astype(np.float32)
    network = Network(flatbuffer)
    np.testing.assert_allclose(network(tf.constant(values))[network.output], model(values), atol=1e-5)
    with tf.GradientTape() as tape:
        constants = {index: tf.constant(value) for index, value in network._constants.items() if value.ndim == 2}
        tape.watch(constants)
        total = tf.reduce_sum(tf.square(network(tf.constant(values), constants)[network.output]))
    found = tape.gradient(total, constants, unconnected_gradients="zero")
    assert sum(float(tf.reduce_max(tf.abs(gradient))) > 0 for gradient in found.values()) == 3


@pytest.mark.parametrize("form", RARE)
def test_rare_operators_answer_as_the_interpreter_does_and_pass_gradients(form: str) -> None:
    apply, kinds = RARE[form]
    graph = Graph(check_form(apply))
    assert kinds <= {graph.operator_name(operator) for operator in graph.operators}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_other_sizes_answer_as_the_interpreter_does_and_pass_gradients(form: str) -> None:
    check_form(FORMS[form])


def check_form(apply: Callable[[tf.Tensor], tf.Tensor]) -> bytes:
    """The float graph of a function of images, whose network answers and has gradients as the function does."""
    image = keras.Input(SHAPE)
    model = keras.Model(image, layers.Flatten()(Call(apply)(image)), name="form")
    flatbuffer = lower(from_keras(model, "form", LoadOptions())).flatbuffer
    network, images = Network(flatbuffer), tf.constant(made().images[:4])
    with tf.GradientTape() as tape:
        tape.watch(images)
        found = network(images)[network.output]
    np.testing.assert_allclose(found.numpy(), float_rows(flatbuffer, made().images[:4]), atol=1e-5)
    # What the model itself hears of each pixel.
    with tf.GradientTape() as other:
        other.watch(images)
        wanted = model(images)
    np.testing.assert_allclose(tape.gradient(found, images).numpy(), other.gradient(wanted, images).numpy(), atol=1e-5)
    return flatbuffer


POINTS = {
    "strided": (lambda: layers.Conv2D(16, 1, strides=2, padding="same"), (60, 60, 8)),
    "strided along one axis": (lambda: layers.Conv2D(16, 1, strides=(1, 2)), (60, 60, 8)),
    "transposed": (lambda: layers.Conv2DTranspose(8, 1, strides=2, padding="same"), (30, 30, 16)),
}


@pytest.mark.parametrize("form", POINTS)
def test_kernels_of_one_pixel_with_strides_have_a_gradient(form: str) -> None:
    """TensorFlow's own wrote beyond its memory, and the process ended without a word."""
    keras.utils.set_random_seed(0)
    make, shape = POINTS[form]
    image, layer = keras.Input(shape), make()
    model = keras.Model(image, layers.Flatten()(layer(image)))
    flatbuffer = lower(from_keras(model, "points", LoadOptions())).flatbuffer
    network, rng = Network(flatbuffer), np.random.default_rng(0)
    (operator,) = [item for item in network.graph.operators if network.graph.operator_name(item) in HEAVY]
    images = rng.normal(0, 1, (32, *shape)).astype(np.float32)
    weights = tf.constant(network.graph.constant(int(operator.inputs[1])))
    with tf.GradientTape() as tape:
        tape.watch(weights)
        values = network(tf.constant(images), {int(operator.inputs[1]): weights})
        found = values[int(operator.outputs[0])]
        signs = rng.choice(np.array([-1, 1], np.float32), found.shape)
        total = tf.reduce_sum(found * signs)
    # Pixels that nothing reads, or nothing is written to, take no part.
    tall, wide = layer.strides
    read, written = (images, signs[:, ::tall, ::wide]) if form == "transposed" else (images[:, ::tall, ::wide], signs)
    expected = np.einsum("nyxi,nyxo->oi", read, written)
    # Sums of so many products of either sign, in float32.
    limit = 4 * read[..., 0].size * 2.0**-24
    np.testing.assert_allclose(np.reshape(tape.gradient(total, weights), expected.shape), expected, atol=limit)
    np.testing.assert_allclose(values[network.output][:4], float_rows(flatbuffer, images[:4]), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(1e-6, 1e3),
    st.integers(-128, 127),
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20),
)
def test_rounding_is_that_of_quantize(scale: float, zero_point: int, steps: list[float]) -> None:
    scale = float(np.float32(scale))
    values = (np.array(steps) * scale).astype(np.float32)
    stored = to_integers(values, scale, zero_point, np.dtype(np.int8))
    found = fake_quantized(tf.constant(values), scale, zero_point).numpy()
    ties = np.abs(np.abs(values / scale) % 1 - 0.5) < 1e-3
    np.testing.assert_allclose(found[~ties], dequantize(stored, scale, zero_point)[~ties], rtol=1e-5, atol=1e-5 * scale)


def test_gradients_pass_where_nothing_saturates() -> None:
    values = tf.constant([-200.0, 0.3, 200.0])
    scale = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch((values, scale))
        total = tf.reduce_sum(fake_quantized(values, scale, 0))
    by_value, by_scale = tape.gradient(total, (values, scale))
    assert by_value.numpy().tolist() == [0.0, 1.0, 0.0]
    # -128 and 127 at the bounds, and what rounding adds between them.
    assert float(by_scale) == pytest.approx(-128 + 127 - 0.3, abs=1e-5)


def test_an_infinite_value_saturates_and_its_gradient_is_finite() -> None:
    """As the root of a variance that 8 bits round to zero."""
    values, scale = tf.constant([np.inf, -np.inf, 3e38, 1.0]), tf.constant(0.01)
    with tf.GradientTape() as tape:
        tape.watch((values, scale))
        found = fake_quantized(values, scale, -28)
        total = tf.reduce_sum(found)
    by_value, by_scale = tape.gradient(total, (values, scale))
    np.testing.assert_allclose(found.numpy(), [1.55, -1.0, 1.55, 1.0], rtol=1e-6)
    assert by_value.numpy().tolist() == [0.0, 0.0, 0.0, 1.0]
    assert float(by_scale) == pytest.approx(155 - 100 + 155, abs=1e-3)


def test_the_gradient_of_a_root_is_finite_where_8_bits_have_zero() -> None:
    """A mean of cubes, and the variance of a layer normalization, are rounded to zero often enough."""
    image = keras.Input((4, 4, 8))
    x = layers.LayerNormalization()(image)
    x = keras.ops.mean(keras.ops.relu(x) ** 3, axis=(1, 2)) ** (1 / 3)
    flatbuffer = lower(from_keras(keras.Model(image, keras.ops.sqrt(x)), "roots", LoadOptions())).flatbuffer
    kinds = {Graph(flatbuffer).operator_name(operator) for operator in Graph(flatbuffer).operators}
    assert {"POW", "RSQRT", "SQRT"} <= kinds
    network = Network(flatbuffer)
    for name, kind in {"POW": 1 / 3, "RSQRT": -0.5, "SQRT": 0.5}.items():
        operator = [item for item in network.graph.operators if network.graph.operator_name(item) == name][-1]
        base = np.zeros((1, *network.graph.shape(int(operator.inputs[0]))[1:]), np.float32)
        base.flat[0] = 4.0
        values = tf.constant(base)
        with tf.GradientTape() as tape:
            tape.watch(values)
            (found,) = network.apply(operator, {int(operator.inputs[0]): values}).values()
            total = tf.reduce_sum(tf.minimum(found, 100.0))
        gradient = tape.gradient(total, values).numpy()
        assert np.isfinite(gradient).all(), name
        assert gradient.flat[0] == pytest.approx(kind * 4.0 ** (kind - 1), rel=1e-5), name
        np.testing.assert_allclose(found.numpy().flat[:2], [4.0**kind, np.float32(0) ** kind if kind > 0 else np.inf])


@pytest.mark.parametrize(("mode", "seed"), [("int8", 0), ("int8", 1), ("float end", 2)])
def test_the_file_is_what_was_trained(mode: str, seed: int) -> None:
    """Whatever the parameters are: weights beyond their bounds, other biases and step sizes."""
    rng = np.random.default_rng(seed)
    paired = PairedGraph(made().files[mode], made().graph.flatbuffer, [], None)
    parameters = Parameters(paired, made().graph.flatbuffer, made().ranges.limits)
    # All of them, so the one in float too.
    assert len(parameters) == len(paired.layers) == len(paired.integers) + (mode == "float end") >= 5
    values = [value + rng.normal(0, 2, value.shape).astype(np.float32) for value in parameters.start]
    values[-1] = rng.normal(0, 0.1, values[-1].shape).astype(np.float32)
    constants, scales = parameters.replaced([tf.constant(value) for value in values])
    assert len(constants) == 2 * len(parameters)
    assert len(scales) >= len(parameters)
    file = parameters.file(values)
    written = Graph(file)
    for index, expected in constants.items():
        step = np.max(written.tensor(index).quantization.scale) if written.dtype(index) != "float32" else 0
        found = real_constant(written, index)
        # A tie of a bias in float32 is one of its steps, a ten-thousandth of what the layer writes.
        limit = step * 1.01 if written.dtype(index) == "int32" else 1e-6
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=limit)
    for index, expected in scales.items():
        assert written.tensor(index).quantization.scale[0] == pytest.approx(float(expected), rel=1e-6)
    assert np.isfinite(float_rows(file, made().images)).all()
    # Nothing else moved.
    assert len(file) == len(parameters.file(parameters.start))
    np.testing.assert_array_equal(
        float_rows(parameters.file(parameters.start), made().images), float_rows(made().files[mode], made().images)
    )


def test_an_operator_that_is_not_there_is_named() -> None:
    graph = Graph(made().graph.flatbuffer)
    operator = next(item for item in graph.operators if graph.operator_name(item) == "TANH")
    replaced = graph.make_operator("ZEROS_LIKE", [int(operator.inputs[0])], [int(operator.outputs[0])])
    graph.operators[graph.position(operator)] = replaced
    with pytest.raises(UnsupportedError, match=r"^ZEROS_LIKE$"):
        Network(graph.to_bytes())
