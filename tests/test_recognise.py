"""Normalizations are found in the float graph by what they compute, proved, and guarded."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from embedlite.convert.graph import Graph
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.load_keras import from_keras
from embedlite.convert.lower import lower
from embedlite.convert.original import LoadOptions
from embedlite.convert.recognise import find_normalizations, guard_normalization
from embedlite.runtime.interpreters import find_runtime, open_interpreter

from encoders import Call, small_encoder


def tf1_global(x):
    shifted = x - tf.reduce_min(x)
    return shifted / tf.reduce_max(shifted)


def tf1_input_divisor(x):
    return (x - tf.reduce_min(x)) / tf.reduce_max(x)


def per_channel_input_divisor(x):
    return (x - tf.reduce_min(x, axis=(0, 1, 2))) / tf.reduce_max(x, axis=(0, 1, 2))


def with_added_epsilon(x):
    shifted = x - ops.min(x, axis=-1, keepdims=True)
    return shifted / (ops.max(shifted, axis=-1, keepdims=True) + 1e-3)


SPELLINGS = {
    "layer, sample": ([MinMaxNormalization], "minmax", (1, 2, 3), "shifted", "max"),
    "layer, channel, input": (
        [lambda: MinMaxNormalization("channel", "input")],
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
    "per channel without keepdims": (
        [lambda: Call(per_channel_input_divisor)],
        "minmax",
        (0, 1, 2),
        "input",
        "none",
    ),
    "added epsilon": ([layers.Flatten, lambda: Call(with_added_epsilon)], "minmax", (1,), "shifted", "add"),
    "L2 layer": ([layers.Flatten, L2Normalization], "l2", (1,), "shifted", "max"),
    "UnitNormalization": ([layers.Flatten, layers.UnitNormalization], "l2", (1,), "shifted", "max"),
    "keras.ops.normalize": ([layers.Flatten, lambda: Call(ops.normalize)], "l2", (1,), "shifted", "max"),
    "tf.nn.l2_normalize": (
        [layers.Flatten, lambda: Call(lambda x: tf.nn.l2_normalize(x, axis=-1))],
        "l2",
        (1,),
        "shifted",
        "max",
    ),
    "L2 without any epsilon": (
        [layers.Flatten, lambda: Call(lambda x: x / tf.norm(x, axis=-1, keepdims=True))],
        "l2",
        (1,),
        "shifted",
        "none",
    ),
}


def float_graph(ending: list[Callable[[], keras.layers.Layer]]) -> Graph:
    model = small_encoder([*(make() for make in ending), layers.Flatten()])
    return Graph(lower(from_keras(model, "small", LoadOptions())).flatbuffer)


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_found_and_a_zero_divisor_gives_zeros(name: str) -> None:
    ending, kind, axes, divisor, mode = SPELLINGS[name]
    graph = float_graph(ending)
    (found,) = find_normalizations(graph)
    assert (found.spec.kind, found.spec.axes, found.spec.divisor) == (kind, axes, divisor)
    assert found.spec.epsilon_mode == mode
    guarded = guard_normalization(graph, found)
    run = island(graph, guarded.source, guarded.result)
    for value in (0.0, -2.5, 3.0):
        flat = np.full(graph.shape(guarded.source), value, np.float32)
        if kind == "minmax" or value == 0:
            np.testing.assert_array_equal(run(flat), np.zeros_like(flat))


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_guard_does_not_change_ordinary_vectors(name: str) -> None:
    plain = float_graph(SPELLINGS[name][0])
    guarded = Graph(plain.to_bytes())
    (found,) = find_normalizations(guarded)
    guard_normalization(guarded, found)
    (before,) = find_normalizations(plain)
    rng = np.random.default_rng(1)
    first, second = island(plain, before.source, before.result), island(guarded, found.source, found.result)
    for scale in (1e-3, 1.0, 1e3):
        raw = rng.normal(0, scale, plain.shape(before.source)).astype(np.float32)
        np.testing.assert_allclose(second(raw), first(raw), rtol=2e-6, atol=1e-7)


NOT_A_NORMALIZATION = {
    "a plain division": lambda x: (x - 1) / (ops.abs(x) + 2),
    "minimum and maximum over other axes": lambda x: (
        (x - ops.min(x, axis=-1, keepdims=True)) / (ops.max(x, axis=(1, 2, 3), keepdims=True) + 9)
    ),
    "minimum of something else": lambda x: (
        (x - ops.min(x * 2, axis=-1, keepdims=True)) / (ops.max(x, axis=-1, keepdims=True) + 9)
    ),
    "mean instead of minimum": lambda x: (
        (x - ops.mean(x, axis=-1, keepdims=True)) / (ops.max(x, axis=-1, keepdims=True) + 9)
    ),
    "L1 norm": lambda x: x / (ops.sum(ops.abs(x), axis=-1, keepdims=True) + 1e-3),
    "norm of something else": lambda x: x / (ops.sqrt(ops.sum(ops.square(x + 1), axis=-1, keepdims=True)) + 1e-3),
}


@pytest.mark.parametrize("name", NOT_A_NORMALIZATION)
def test_what_only_looks_like_one_is_left_alone(name: str) -> None:
    graph = float_graph([lambda: Call(NOT_A_NORMALIZATION[name])])
    assert find_normalizations(graph) == []


def test_two_normalizations_are_both_found() -> None:
    graph = float_graph([lambda: MinMaxNormalization("channel", "input"), layers.Flatten, L2Normalization])
    assert [found.spec.kind for found in find_normalizations(graph)] == ["minmax", "l2"]


def island(graph: Graph, source: int, result: int) -> Callable[[np.ndarray], np.ndarray]:
    """The part of a graph between two tensors, run by the real interpreter."""
    part = Graph(graph.to_bytes())
    wanted, operators = {result}, []
    for operator in reversed(part.operators):
        if wanted.intersection(int(i) for i in operator.outputs):
            operators.insert(0, operator)
            wanted.update(i for i in part.inputs(operator) if i != source)
    part.subgraph.operators, part.subgraph.inputs, part.subgraph.outputs = operators, [source], [result]
    part.model.signatureDefs = None
    interpreter = open_interpreter(find_runtime(), part.to_bytes(), threads=1)

    def run(raw: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], raw)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run
