"""``dynamic`` on depthwise networks: no more drift than TensorFlow's own."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.normalization.prepare import prepare
from embedlite.convert.quantize.litert import quantize

IMAGES = [image.astype(np.float32) for image in np.random.default_rng(0).normal(size=(12, 32, 32, 3))]


def depthwise_encoder() -> keras.Model:
    keras.utils.set_random_seed(3)
    x = source = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    for width in (32, 64, 64):
        x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = layers.Conv2D(width, 1, activation="relu")(x)
    return keras.Model(source, layers.Dense(48)(layers.GlobalAveragePooling2D()(x)))


def test_it_is_no_worse_than_tensorflow_s() -> None:
    model = depthwise_encoder()
    plain = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    graph = prepare(plain).flatbuffer
    ours = quantize(graph, "dynamic", None, ())
    wanted = float_rows(plain, IMAGES, 1)
    mine, theirs = (
        10 * np.log10((wanted**2).sum() / ((float_rows(file, IMAGES, 1) - wanted) ** 2).sum())
        for file in (ours, converter.convert())
    )
    assert mine > theirs - 0.3
    found = Graph(ours)
    kinds = {}
    for operator in found.operators:
        if len(operator.inputs) > 1:
            kinds.setdefault(found.operator_name(operator), set()).add(found.dtype(int(operator.inputs[1])))
    assert kinds["DEPTHWISE_CONV_2D"] == {"float32"}
    assert kinds["FULLY_CONNECTED"] == {"int8"}
    assert "int8" in kinds["CONV_2D"]
    assert len(ours) < 0.8 * len(graph)
