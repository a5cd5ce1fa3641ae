"""Spelled-out activation functions become one operator, the same to the last bit; others are left alone."""

from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers, ops

from embedlite.convert import ExportOptions, export
from embedlite.convert.graph.activations import fuse_activations, join_activations
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.runtime import Encoder
from embedlite.runtime.model.artifact import read_artifact

SHAPE = (12, 12, 3)
SLOPES = np.array([0.25, 0.1, -0.3, 1.4, 0.01, 0.6], np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)


class Slopes(layers.Layer):
    """A user's own PReLU."""

    def __init__(self, function, slopes=SLOPES) -> None:
        super().__init__()
        self.function, self.slopes = function, slopes

    def build(self, shape) -> None:
        self.weight = self.add_weight(shape=self.slopes.shape)
        self.weight.assign(self.slopes)

    def call(self, x):
        return self.function(x, self.weight)


def network(function, slopes: np.ndarray = SLOPES) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, padding="same")(image)
    x = layers.Conv2D(8, 3)(Slopes(function, slopes)(x))
    return keras.Model(image, layers.GlobalAveragePooling2D()(x), name="small")


def fused(model: keras.Model) -> tuple[bytes, Graph, int]:
    flatbuffer = lower(Original("small", SHAPE, model)).flatbuffer
    graph = Graph(flatbuffer)
    return flatbuffer, graph, fuse_activations(graph)


SPELLINGS = {
    "max and min": lambda x, a: ops.maximum(x, 0) + a * ops.minimum(x, 0),
    "abs": lambda x, a: (x + ops.abs(x)) / 2 + a * (x - ops.abs(x)) / 2,
    "relu and abs": lambda x, a: ops.relu(x) + a * (x - ops.abs(x)) * 0.5,
    "negative slopes": lambda x, a: ops.relu(x) - a * ops.relu(-x),
    "where": lambda x, a: ops.where(x > 0, x, a * x),
    "half of both": lambda x, a: 0.5 * (1 + a) * x + 0.5 * (1 - a) * ops.abs(x),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_prelu_in_its_spellings(spelling: str) -> None:
    flatbuffer, graph, count = fused(network(SPELLINGS[spelling]))
    assert count == 1
    assert [graph.operator_name(op) for op in graph.operators[:3]] == ["CONV_2D", "PRELU", "CONV_2D"]
    images = list((np.random.default_rng(1).normal(0, 3, (8, *SHAPE))).astype(np.float32))
    np.testing.assert_allclose(float_rows(graph.to_bytes(), images), float_rows(flatbuffer, images), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("function", "slopes", "kind"),
    [
        (lambda x, a: ops.maximum(x, a * x), np.float32(0.1), "LEAKY_RELU"),
        (lambda x, a: ops.maximum(x, 0) + a * ops.minimum(x, 0), np.full(6, 0.2, np.float32), "LEAKY_RELU"),
        # A slope for every place, as Keras' PReLU has it by default.
        (
            lambda x, a: ops.relu(x) - a * ops.relu(-x),
            np.random.default_rng(0).random((12, 12, 6)).astype(np.float32),
            "PRELU",
        ),
    ],
    ids=["leaky", "equal slopes", "places"],
)
def test_relatives(function, slopes: np.ndarray, kind: str) -> None:
    flatbuffer, graph, count = fused(network(function, slopes))
    assert count == 1
    assert [graph.operator_name(op) for op in graph.operators[:3]] == ["CONV_2D", kind, "CONV_2D"]
    images = list(IMAGES[:4].astype(np.float32) / 100 - 1)
    np.testing.assert_allclose(float_rows(graph.to_bytes(), images), float_rows(flatbuffer, images), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a: ops.relu(x + 0.001) + a * ops.minimum(x, 0),
        lambda x, a: ops.relu(x) * 1.001 + a * ops.minimum(x, 0),
        lambda x, a: x * ops.abs(x) + a,
        lambda x, a: ops.maximum(x, -5.0) + a * ops.minimum(x, 0),
        lambda x, a: ops.minimum(ops.maximum(x, 0), 900.0) + a * ops.minimum(x, 0),
    ],
    ids=["offset", "slope above", "square", "another knee", "a bound far away"],
)
def test_what_only_looks_alike_is_left_alone(function) -> None:
    _, graph, count = fused(network(function))
    assert count == 0
    assert not {"PRELU", "LEAKY_RELU"} & {graph.operator_name(op) for op in graph.operators}


def test_what_others_read_of_it_stays() -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, padding="same")(image)
    y = Slopes(lambda x, a: ops.concatenate([ops.relu(x) - a * ops.relu(-x), ops.relu(-x)]))(x)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(y)))
    flatbuffer, graph, count = fused(model)
    assert count == 1
    images = list(IMAGES[:4].astype(np.float32) / 100 - 1)
    np.testing.assert_allclose(float_rows(graph.to_bytes(), images), float_rows(flatbuffer, images), rtol=0, atol=1e-6)


def test_hard_swish_and_relu6_of_a_float_tflite() -> None:
    """TensorFlow's converter has them fused already, so the spelled-out graphs are made here."""
    flatbuffer, graph, _ = fused(network(SPELLINGS["max and min"]))
    graph = Graph(flatbuffer)
    start = next(op for op in graph.operators if graph.operator_name(op) == "RELU")
    first, last = graph.position(start), next(op for op in graph.operators if graph.operator_name(op) == "ADD")
    source, result = int(start.inputs[0]), int(last.outputs[0])
    shape = graph.shape(source)
    parts = [graph.add_tensor(name, shape) for name in ("shifted", "floor", "clipped", "times")]
    three, zero, six, sixth = (graph.add_constant(f"c{value}", np.float32(value)) for value in (3.0, 0.0, 6.0, 1 / 6))
    graph.operators[first : graph.position(last) + 1] = [
        graph.make_operator("ADD", [source, three], [parts[0]], schema.AddOptionsT()),
        graph.make_operator("MAXIMUM", [parts[0], zero], [parts[1]], schema.MaximumMinimumOptionsT()),
        graph.make_operator("MINIMUM", [parts[1], six], [parts[2]], schema.MaximumMinimumOptionsT()),
        graph.make_operator("MUL", [parts[2], source], [parts[3]], schema.MulOptionsT()),
        graph.make_operator("MUL", [parts[3], sixth], [result], schema.MulOptionsT()),
    ]
    spelled = graph.to_bytes()
    assert fuse_activations(graph) == 1
    assert [graph.operator_name(op) for op in graph.operators[:3]] == ["CONV_2D", "HARD_SWISH", "CONV_2D"]
    images = list(IMAGES[:4].astype(np.float32) / 20 - 5)
    np.testing.assert_allclose(float_rows(graph.to_bytes(), images), float_rows(spelled, images), rtol=1e-5, atol=1e-5)


def test_activations_that_stand_alone_are_joined_with_what_they_read() -> None:
    """TensorFlow's converter joins them, other converters do not; one that others read, too, stays."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(image)
    x = layers.ReLU()(layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)]))
    y = layers.Conv2D(6, 3, padding="same", name="read_twice")(layers.ReLU(6.0)(layers.Conv2D(6, 1)(x)))
    x = layers.Add()([layers.ReLU()(y), y])
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x), name="small")
    joined, graph, _ = fused(model)
    kinds = schema.ActivationFunctionType
    alone = {kinds.RELU: "RELU", kinds.RELU6: "RELU6"}
    for operator in list(graph.operators):
        kind = getattr(operator.builtinOptions, "fusedActivationFunction", kinds.NONE)
        if kind in alone:
            result = int(operator.outputs[0])
            between = graph.add_tensor(f"{graph.tensor_name(result)}/before", graph.shape(result))
            operator.builtinOptions.fusedActivationFunction, operator.outputs = kinds.NONE, [between]
            added = graph.make_operator(alone[kind], [between], [result])
            graph.operators.insert(graph.position(operator) + 1, added)
    apart, images = graph.to_bytes(), list(IMAGES[:4].astype(np.float32) / 20 - 5)
    assert join_activations(graph) == 3
    names = [[item.operator_name(op) for op in item.operators] for item in (graph, Graph(joined))]
    assert names[0] == names[1]
    assert names[0].count("RELU") == 1
    np.testing.assert_array_equal(float_rows(graph.to_bytes(), images), float_rows(apart, images))


def test_every_mode_of_a_spelled_out_prelu(tmp_path: Path) -> None:
    model = network(SPELLINGS["abs"])
    result = export(
        model,
        tmp_path,
        quantize=["float32", "int8", "int16x8"],
        calibration_data=IMAGES,
        options=ExportOptions(measure=False),
    )
    assert any("1 activation function(s) spelled out" in text for text in result.decisions)
    wanted = model.predict(IMAGES / np.float32(255), verbose=0)
    for file, least in zip(result.files, (110, 30, 45), strict=True):
        graph = Graph(read_artifact(file.path).flatbuffer)
        kinds = [graph.operator_name(op) for op in graph.operators]
        assert kinds.count("DEQUANTIZE") == (file.mode != "float32")
        assert ("PRELU" in kinds) == (file.mode != "int16x8")
        noise = ((Encoder(file.path).embed(IMAGES) - wanted) ** 2).sum()
        assert 10 * np.log10((wanted**2).sum() / noise) > least
