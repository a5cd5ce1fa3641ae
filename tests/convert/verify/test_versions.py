"""Operator versions, held against what TensorFlow's own converter writes into its files."""

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.repair import repair
from embedlite.runtime.model.operators import minimum_runtime

from encoders import small_encoder

pytestmark = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")


def many_operators() -> keras.Model:
    image = keras.Input((24, 24, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu6")(image)
    x = layers.DepthwiseConv2D(3, padding="valid")(layers.ZeroPadding2D(1)(x))
    x = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])
    x = layers.Add()([x, layers.Conv2D(16, 1)(x)])
    x = layers.Multiply()([x, layers.Activation("sigmoid")(x)])
    x = layers.UpSampling2D(interpolation="bilinear")(layers.Conv2DTranspose(4, 2, strides=2)(x))
    x = layers.LeakyReLU()(layers.Permute((2, 1, 3))(x))
    return keras.Model(image, layers.Dense(8, activation="tanh")(layers.GlobalAveragePooling2D()(x)))


@cache
def converted(mode: str) -> bytes:
    model = many_operators()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int8":
        images = np.random.default_rng(0).random((4, 1, 24, 24, 3), np.float32)
        converter.representative_dataset = lambda: ([image] for image in images)
    return converter.convert()


@pytest.mark.parametrize("mode", ["float32", "float16", "dynamic", "int8"])
def test_versions_are_those_of_the_converter(mode: str) -> None:
    """The converter gives all operators of a kind the highest version that any of them needs."""
    original = Graph(converted(mode))
    wanted = {
        original.operator_name(op): original.model.operatorCodes[op.opcodeIndex].version for op in original.operators
    }
    for code in original.model.operatorCodes:
        code.version = 1
    repair(original)
    mine: dict[str, int] = {}
    for operator in original.operators:
        name, version = original.operator_name(operator), original.model.operatorCodes[operator.opcodeIndex].version
        mine[name] = max(version, mine.get(name, 0))
    assert mine == wanted


def test_minimum_runtime_is_compared_by_number_not_by_text() -> None:
    assert minimum_runtime([("CONV_2D", 5), ("SELECT_V2", 2), ("RESHAPE", 1)]) == "2.12.0"
    assert minimum_runtime([("CONV_2D", 1), ("DEQUANTIZE", 2)]) == "1.14.0"
    assert minimum_runtime([("NO_SUCH_OPERATOR", 1)]) == ""


def test_repair_drops_what_nothing_uses_and_says_the_runtime() -> None:
    graph = Graph(converted("int8"))
    graph.add_tensor("unused", (3,))
    graph.add_constant("unused too", np.zeros(9, np.float32))
    tensors, buffers = len(graph.subgraph.tensors), len(graph.model.buffers)
    repair(graph)
    assert len(graph.subgraph.tensors) <= tensors - 2
    assert len(graph.model.buffers) < buffers
    (entry,) = graph.model.metadata
    assert entry.name == "min_runtime_version"
    assert bytes(graph.model.buffers[entry.buffer].data).rstrip(b"\0").count(b".") == 2


def test_constants_are_aligned_to_sixteen_bytes() -> None:
    model = small_encoder([layers.Flatten()])
    data = Graph(tf.lite.TFLiteConverter.from_keras_model(model).convert()).to_bytes()
    for buffer in Graph(data).model.buffers:
        if buffer.data is not None and len(buffer.data) > 64:
            assert data.find(bytes(buffer.data)) % 16 == 0
