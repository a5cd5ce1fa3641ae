"""Balanced channels and other ranges: less noise in 8 bits, and what arrives at the end by its arithmetic."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.calibration import Ranges
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.prepare import prepare
from embedlite.convert.quantize.choices import CalibrationOptions
from embedlite.convert.quantize.plan import plan_int8
from embedlite.convert.tune import fine_tune, starting, train
from embedlite.convert.tune.balance import SHARES, Balance
from embedlite.convert.tune.fine_tune import FineTuner
from embedlite.convert.tune.rerange import _SHARES, Reranging
from embedlite.convert.tune.starting import End
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source

SHAPE = (16, 16, 3)
CONTRACT = InputContract(SHAPE)
FIRST = 8


def images(count: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8)


def ready(count: int, seed: int) -> np.ndarray:
    source = open_source(images(count, seed), CONTRACT)
    return np.stack([source.ready(index) for index in range(count)])


@cache
def planned(activation: str = "relu", units: int = 12) -> SimpleNamespace:
    """A network whose first channels reach from 1/30 of the others to as far, and the next layer makes up for it."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(FIRST, 3, strides=2, padding="same", use_bias=False),
            layers.Activation(activation),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(units, use_bias=False),
        ]
    )
    unequal = np.geomspace(1, 1 / 30, FIRST).astype(np.float32)
    first, middle, last = (layer for layer in model.layers if layer.weights)
    first.set_weights([first.get_weights()[0] * unequal])
    last.set_weights([last.get_weights()[0] / unequal[:, None]])
    graph = prepare(lower(from_keras(model, "unequal", LoadOptions())).flatbuffer)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, open_source(images(48, 0), CONTRACT), CONTRACT, options, raw_pixels=False)
    assert plan.trial is not None
    quantized = plan.trial.quantized(plan.flatbuffer, plan.ranges)
    kernels = [layer.get_weights()[0] for layer in (first, middle, last)]
    return SimpleNamespace(model=model, plan=plan, quantized=quantized, kernels=kernels)


def measured(made: SimpleNamespace) -> Balance:
    balance = Balance(made.quantized, made.plan.flatbuffer, made.plan.ranges)
    balance.measure(ready(16, 0), 0)
    return balance


@pytest.mark.parametrize("activation", ["relu", "relu6", "linear"])
def test_the_float_function_stays_and_int8_has_less_noise(activation: str) -> None:
    made = planned(activation)
    unseen = ready(32, 9)
    expected = np.asarray(made.model(unseen))
    largest = np.abs(expected).max()
    noise = [np.square(float_rows(made.quantized, list(unseen)) - expected).sum()]
    for share in SHARES:
        graph, ranges = measured(made).balanced(share)
        # Some hundred products and sums of float32 in another order, each right to 6e-8.
        assert np.abs(float_rows(graph, list(unseen)) - expected).max() < 300 * 2**-24 * largest
        assert ranges.limits.keys() == made.plan.ranges.limits.keys()
        rounded = made.plan.trial.quantized(graph, ranges)
        noise.append(np.square(float_rows(rounded, list(unseen)) - expected).sum())
    assert max(noise[1:]) < 0.25 * noise[0]


def test_what_arrives_is_what_the_layers_above_make_of_it() -> None:
    """Of one output, whose sign does not matter: a mean of 64 places, times one weight for each channel."""
    made = planned("linear", 1)
    balance = measured(made)
    weights = made.kernels[2][:, 0].astype(np.float64)
    graph = Graph(made.plan.flatbuffer)
    pooled = next(int(item.outputs[0]) for item in graph.operators if graph.operator_name(item) == "MEAN")
    before = next(int(item.outputs[0]) for item in graph.operators if "DEPTHWISE" in graph.operator_name(item))
    # 16 images, two draws.
    np.testing.assert_allclose(balance._arrives[pooled], 32 * weights**2, rtol=1e-5)
    np.testing.assert_allclose(balance._arrives[before], 32 * weights**2 / 64, rtol=1e-5)


def test_what_is_cut_off_is_what_a_narrower_range_does_to_the_output() -> None:
    """Of one output and the pooled values, which one layer reads: weights times what is cut off, summed, squared."""
    made = planned("linear", 1)
    graph, batch = Graph(made.plan.flatbuffer), ready(16, 0)
    pooled = next(int(item.outputs[0]) for item in graph.operators if graph.operator_name(item) == "MEAN")
    name = graph.tensor_name(pooled)
    reranging = Reranging(made.quantized, made.plan.flatbuffer, made.plan.ranges)
    reranging.measure(batch, 0)
    means = np.asarray(keras.Sequential(made.model.layers[:-1])(batch), np.float64)
    weights, (low, high) = made.kernels[2][:, 0].astype(np.float64), made.plan.ranges.limits[name]
    for side, (bounded, whole) in enumerate([(np.maximum, low), (np.minimum, high)]):
        for place, share in enumerate(_SHARES):
            # Two draws; sums of eight float32 products.
            expected = 2 * np.square((bounded(means, whole * share) - means) @ weights).sum()
            np.testing.assert_allclose(
                reranging._cut[pooled][side, place], expected, rtol=1e-4, atol=1e-9 * max(abs(low), high) ** 2
            )


def test_a_value_that_the_embedding_does_not_hear_sets_no_range() -> None:
    """One place of one channel is a thousand times the others, in all images, and no weight reads it."""
    keras.utils.set_random_seed(3)
    source = keras.Input((8, 8, 3))
    unheard = layers.Conv2D(4, 1)(source)
    model = keras.Model(source, layers.Dense(6, use_bias=False)(layers.Flatten()(unheard)))
    conv, dense = (layer for layer in model.layers if layer.weights)
    conv.set_weights([conv.get_weights()[0] * np.array([1, 1, 1, 30], np.float32), conv.get_weights()[1]])
    kernel = dense.get_weights()[0].reshape(8, 8, 4, 6)
    kernel[..., 3, :] = 0
    dense.set_weights([kernel.reshape(-1, 6)])
    graph = prepare(lower(from_keras(model, "unheard", LoadOptions())).flatbuffer)
    contract = InputContract((8, 8, 3))
    pool = open_source(images(48, 0)[:, :8, :8], contract)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, pool, contract, options, raw_pixels=False)
    reranging = Reranging(plan.trial.quantized(plan.flatbuffer, plan.ranges), plan.flatbuffer, plan.ranges)
    reranging.measure(np.stack([pool.ready(index) for index in range(16)]), 0)
    ranges = reranging.reranged()
    made = Graph(plan.flatbuffer)
    written = next(
        made.tensor_name(int(item.outputs[0])) for item in made.operators if "CONV" in made.operator_name(item)
    )
    # The least share that is tried: the other channels need a thirtieth.
    assert np.subtract(*ranges.limits[written][::-1]) == pytest.approx(
        _SHARES[-1] * np.subtract(*plan.ranges.limits[written][::-1])
    )


@pytest.mark.parametrize("sides", [(1, 0.4), (0.4, 1)])
def test_a_range_that_cuts_off_what_the_embedding_hears_reaches_farther(sides: tuple[float, float]) -> None:
    """As far as one that had cut off nothing."""
    made = planned("linear")
    plan, graph = made.plan, Graph(made.plan.flatbuffer)
    first = graph.tensor_name(next(int(item.outputs[0]) for item in graph.operators))
    whole = np.array(plan.ranges.limits[first])
    cut = replace(plan.ranges, limits={**plan.ranges.limits, first: tuple(whole * sides)})
    found = []
    for ranges in (plan.ranges, cut):
        reranging = Reranging(made.quantized, plan.flatbuffer, ranges)
        reranging.measure(ready(16, 0), 0)
        found.append(reranging.reranged())
    # One step apart at most.
    np.testing.assert_allclose(*(item.limits[first] / whole for item in found), atol=0.05)
    unseen = ready(32, 9)
    expected = np.asarray(made.model(unseen))
    before, after = (
        np.square(float_rows(plan.trial.quantized(plan.flatbuffer, ranges), list(unseen)) - expected).sum()
        for ranges in (cut, found[1])
    )
    assert after < 0.9 * before


def test_the_same_images_give_the_same_file() -> None:
    first, again = (measured(planned()).balanced(0.3) for _ in range(2))
    assert first == again


class Clock:
    """One second passes whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic(self) -> float:
        self.now += 1
        return float(self.now)


@pytest.mark.parametrize(("seconds", "balanced"), [(100.0, True), (2.0, False)])
def test_fine_tuning_starts_from_balanced_channels_if_there_is_time(
    seconds: float, balanced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = planned(), planned().plan
    for module in (train, starting, fine_tune):
        monkeypatch.setattr(module, "time", Clock())
    # A rate that destroys any network: what is gained is the balance's alone.
    monkeypatch.setattr(train, "RATES", (50.0,))

    def remake(graph: bytes, ranges: Ranges, end: End) -> bytes:
        assert end == ()
        return plan.trial.quantized(graph, ranges)

    tuned = FineTuner(plan, None, None, seconds, 0).tune(made.quantized, "int8", plan.flatbuffer, remake)
    report = tuned.report
    assert (report.kept, report.balanced, report.trained) == (balanced, balanced, False)
    assert report.reranged <= balanced
    if not balanced:
        assert tuned.graph is made.quantized
        return
    said = "balanced channels and other ranges alone: " if report.reranged else "balanced channels alone: "
    assert said in tuned.decisions[0]
    # The same function: each of some hundred operations is right to 6e-8.
    assert report.float_from_original > -20 * np.log10(300 * 2**-24)
    unseen = ready(32, 9)
    expected = np.asarray(made.model(unseen))
    before, after = (
        np.square(float_rows(file, list(unseen)) - expected).sum() for file in (made.quantized, tuned.graph)
    )
    assert after < 0.25 * before
    kinds = [
        [graph.operator_name(item) for item in graph.operators] for graph in map(Graph, (made.quantized, tuned.graph))
    ]
    assert kinds[0] == kinds[1]
    assert report.sqnr_after == plan.trial.sqnr(plan.trial.errors_of(tuned.graph))
    assert report.sqnr_before == plan.trial.sqnr(plan.trial.errors_of(made.quantized))
