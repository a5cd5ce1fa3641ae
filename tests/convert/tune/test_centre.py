"""Centred attention: the same function in float, and less lost where rounded weights no longer sum to one."""

from functools import cache
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.prepare import prepare
from embedlite.convert.quantize.choices import CalibrationOptions
from embedlite.convert.quantize.plan import plan_int8
from embedlite.convert.tune.centre import Centring
from embedlite.convert.tune.starting import Start, Starting
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source

SHAPE = (18, 18, 3)
KEYS = 324
CONTRACT = InputContract(SHAPE)
CHANNELS = 8


def ready(count: int, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)
    source = open_source(pixels, CONTRACT)
    return np.stack([source.ready(index) for index in range(count)])


@cache
def planned(value_bias: float, *, twice: bool = False) -> SimpleNamespace:
    """Keys, nearly alike, so many that weights are 0.8 of a step, in 8 bits adding up to 1.27; values around a bias."""
    keras.utils.set_random_seed(2)
    source = keras.Input(SHAPE)
    tokens = layers.Reshape((KEYS, CHANNELS))(layers.Conv2D(CHANNELS, 3, padding="same")(source))
    query, key = (layers.Dense(CHANNELS)(tokens) for _ in range(2))
    value = layers.Dense(CHANNELS, bias_initializer=keras.initializers.Constant(value_bias))(tokens)
    weights = keras.ops.softmax(keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1))))
    mixed = layers.Dense(CHANNELS)(keras.ops.matmul(weights, value))
    mixed = mixed + value if twice else mixed + tokens
    model = keras.Model(source, layers.Dense(12)(layers.GlobalAveragePooling1D()(mixed)))
    graph = prepare(lower(from_keras(model, "attention", LoadOptions())).flatbuffer)
    pixels = np.random.default_rng(0).integers(0, 256, (48, *SHAPE), np.uint8)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, open_source(pixels, CONTRACT), CONTRACT, options, raw_pixels=False)
    return SimpleNamespace(model=model, plan=plan)


def centred(made: SimpleNamespace, part: float = 1.0) -> tuple[Centring, bytes, bytes]:
    """With the float graph and the int8 file that come of it."""
    centring = Centring(made.plan.flatbuffer, made.plan.ranges)
    centring.measure(ready(16, 1))
    graph, ranges = centring.centred(part)
    return centring, graph, made.plan.trial.quantized(graph, ranges)


def test_the_float_function_stays_and_the_sum_of_the_weights_matters_less() -> None:
    made, unseen = planned(4.0), ready(24, 9)
    centring, graph, int8 = centred(made)
    assert centring.scales
    expected = np.asarray(made.model(unseen))
    # A few hundred float32 operations on values up to 4 and more.
    assert np.abs(float_rows(graph, list(unseen)) - expected).max() < 1000 * 2**-24 * np.abs(expected).max()
    before = made.plan.trial.quantized(made.plan.flatbuffer, made.plan.ranges)
    noise = [
        np.square(float_rows(file, list(unseen)) - expected).sum() for file in (before, centred(made, 0.5)[2], int8)
    ]
    assert noise[2] < noise[1] < noise[0]
    assert noise[2] < 0.1 * noise[0]
    # Numbers only: no operator more.
    kinds = [[made.operator_name(item) for item in made.operators] for made in map(Graph, (before, int8))]
    assert kinds[0] == kinds[1]


def test_a_start_is_centred_where_the_embedding_gains() -> None:
    made = planned(4.0)
    plan = made.plan
    given = Start(plan.trial.quantized(plan.flatbuffer, plan.ranges), plan.flatbuffer, plan.ranges)
    before = plan.trial.errors_of(given.graph)
    found = Starting(plan, plan.trial.quantized, [], 1e6, lambda: False).found(given, before, 12, 0)
    assert found.centred
    assert plan.trial.errors_of(found.graph).sum() < 0.1 * before.sum()


@pytest.mark.parametrize("what", ["read twice", "no softmax"])
def test_what_cannot_be_centred_stays(what: str) -> None:
    """Values that something else reads, too, and a product whose rows do not sum to one."""
    if what == "read twice":
        made = planned(4.0, twice=True)
        assert not Centring(made.plan.flatbuffer, made.plan.ranges).scales
        return
    source = keras.Input(SHAPE)
    tokens = layers.Reshape((KEYS, 3))(source)
    product = keras.ops.matmul(layers.Dense(KEYS, activation="relu")(tokens), layers.Dense(4)(tokens))
    model = keras.Model(source, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Dense(4)(product))))
    graph = lower(from_keras(model, "product", LoadOptions())).flatbuffer
    assert not Centring(graph, planned(0.0).plan.ranges).scales
