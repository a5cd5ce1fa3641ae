"""What training starts from: an end in float where it is small, and a part of what a few images lose by."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
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
from embedlite.convert.quantize.floating.end import MEASURED, possible_ends
from embedlite.convert.quantize.plan import plan_int8
from embedlite.convert.quantize.trial import ReadyImages, Trial
from embedlite.convert.tune import train
from embedlite.convert.tune.balance import Balance
from embedlite.convert.tune.fine_tune import FineTuner
from embedlite.convert.tune.rerange import Reranging
from embedlite.convert.tune.starting import End, Start, Starting
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source

SHAPE = (16, 16, 3)
CONTRACT = InputContract(SHAPE)


def images(count: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8)


def prepared(*before: Callable[[], layers.Layer]) -> SimpleNamespace:
    """A network whose last layer and average are one part in forty of its products, with layers before the average."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            *(make() for make in before),
            layers.GlobalAveragePooling2D(),
            layers.Dense(24),
        ]
    )
    graph = prepare(lower(from_keras(model, "small", LoadOptions())).flatbuffer)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, open_source(images(48, 0), CONTRACT), CONTRACT, options, raw_pixels=False)
    assert plan.trial is not None
    return SimpleNamespace(graph=graph, plan=plan, model=model)


@pytest.fixture(scope="module")
def made() -> SimpleNamespace:
    """One without more than a layer."""
    return prepared(lambda: layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"))


def starting(made: SimpleNamespace, ends: list[End]) -> tuple[Start, Start]:
    """The file as it is, and what is found."""
    plan = made.plan

    def remake(graph: bytes, ranges: Ranges, end: End) -> bytes:
        return plan.trial.quantized(graph, ranges, end)

    given = Start(remake(plan.flatbuffer, plan.ranges, ()), plan.flatbuffer, plan.ranges)
    before = plan.trial.errors_of(given.graph)
    return given, Starting(plan, remake, ends, 1e6, lambda: False).found(given, before, 12, 0)


def test_the_end_is_float_where_it_is_measured_to_be_small_and_the_embedding_gains(made: SimpleNamespace) -> None:
    ends = possible_ends(made.graph, MEASURED)
    # By the wide margin of an export the average costs too much, which is the longer end.
    assert len(ends) == 2
    assert len(possible_ends(made.graph)) < 2
    given, found = starting(made, ends)
    assert (found.floats, found.end) == (True, ends[-1])
    unseen = [open_source(images(32, 9), CONTRACT).ready(index) for index in range(32)]
    expected = np.asarray(made.model(np.stack(unseen)))
    before, after = (np.square(float_rows(file, unseen) - expected).sum() for file in (given.graph, found.graph))
    assert after < before / 2
    kinds = [Graph(found.graph).operator_name(operator) for operator in Graph(found.graph).operators]
    # The average reads numbers in float, and the layer after it keeps its weights in 8 bits.
    assert kinds.index("DEQUANTIZE") < kinds.index("MEAN")
    assert kinds[-1] == "FULLY_CONNECTED"


BEFORE: dict[str, tuple[Callable[[], layers.Layer], str]] = {
    "a PReLU": (lambda: layers.PReLU(keras.initializers.Constant(0.1), shared_axes=[1, 2]), "PRELU"),
    "a swish": (lambda: layers.Activation("swish"), "MUL"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_the_end_in_float_may_begin_before_the_average(name: str) -> None:
    """With what computes value by value; the sigmoid of a swish is not among that, and what it reads stays integers."""
    make, kind = BEFORE[name]
    network = prepared(lambda: layers.Conv2D(24, 3, strides=2, padding="same"), make)
    ends = possible_ends(network.graph, MEASURED)
    graph = Graph(network.graph.flatbuffer)
    first = [graph.operator_name(graph.producer(graph.index_of(end[0]))) for end in ends]
    assert first == ["FULLY_CONNECTED", "MEAN", kind]
    assert len(possible_ends(network.graph)) < 2
    _, found = starting(network, ends)
    assert (found.floats, found.end) == (True, ends[-1])
    unseen = [open_source(images(32, 9), CONTRACT).ready(index) for index in range(32)]
    expected = np.asarray(network.model(np.stack(unseen)))
    plan = network.plan
    shorter = plan.trial.quantized(plan.flatbuffer, plan.ranges, ends[-2])
    before, after = (np.square(float_rows(file, unseen) - expected).sum() for file in (shorter, found.graph))
    assert after < before


@pytest.mark.parametrize(("bright_share", "part"), [(0.69, 0.5), (0.8, 0.25)])
def test_a_part_of_a_change_is_taken_where_one_image_loses_by_the_whole(bright_share: float, part: float) -> None:
    """Ranges that reach 1.45 times as far as the one bright image, and farther beyond all others: the whole change cuts
    it off, half of it does not. Of 1.25 times half does, too, and a quarter does not."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, use_bias=False),
            layers.Flatten(),
        ]
    )
    graph = prepare(lower(from_keras(model, "bright", LoadOptions())).flatbuffer)
    dim = images(40, 0) // 3
    bright = (images(40, 0)[-1:] // 3) * 2
    source = open_source(np.concatenate([dim, bright]), CONTRACT)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, source, CONTRACT, options, raw_pixels=False)
    reach = {
        name: (low / bright_share, high / bright_share)
        for name, (low, high) in plan.ranges.limits.items()
        if name != graph.input_name
    }
    trial = Trial(graph, ReadyImages(source, [*range(28, 41)]), 1)
    plan = replace(
        plan,
        ranges=replace(plan.ranges, limits={**plan.ranges.limits, **reach}),
        fitting=source.subset(range(28)),
        trial=trial,
    )
    given, found = starting(SimpleNamespace(plan=plan), [])
    assert (found.floats, found.balanced, found.reranged) == (False, False, True)
    reranging, ready = Reranging(given.graph, plan.flatbuffer, plan.ranges), list(map(plan.fitting.ready, range(28)))
    for number in range(3):
        reranging.measure(np.stack(ready[12 * number : 12 * number + 12]), number)
    assert found.ranges == reranging.reranged(part)
    before, some, whole = (
        trial.errors_of(trial.quantized(plan.flatbuffer, ranges))[:, 0]
        for ranges in (plan.ranges, found.ranges, reranging.reranged())
    )
    assert np.median(whole) < np.median(some) < np.median(before)
    assert whole[-1] > before.max() > some.max()


@pytest.mark.parametrize("when", ["ends", "balance", "channels", "ranges"])
def test_ctrl_c_before_the_training_keeps_what_is_best_by_then(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """It comes while the end, the channels' noise, their factors or the ranges are looked for."""
    plan, raw = made.plan, made.graph.raw_name
    owner, name = {
        "ends": (Starting, "_with_end"),
        "balance": (Balance, "measure"),
        "channels": (Balance, "balanced"),
        "ranges": (Reranging, "measure"),
    }[when]
    passed = getattr(owner, name)

    def interrupted(*arguments: object) -> object:
        monkeypatch.setattr(owner, name, passed)
        os.kill(os.getpid(), signal.SIGINT)
        return passed(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    given = plan.trial.quantized(plan.flatbuffer, plan.ranges)
    tuner = FineTuner(plan, raw, None, 1e6, 0, ends=possible_ends(made.graph, MEASURED))
    tuned = tuner.tune(given, "int8", plan.flatbuffer, plan.trial.quantized)
    assert (tuned.report.ended, tuned.report.steps) == ("interrupted", 0)
    assert tuned.report.kept == tuned.report.float_end == (when != "ends")
    if when == "ends":
        assert tuned.graph is given
        return
    assert plan.trial.errors_of(tuned.graph).sum() < plan.trial.errors_of(given).sum()
    assert "an end in float alone: no more came of 0 steps" in tuned.decisions[0]
    # What is computed in float changed no weight.
    assert tuned.decisions[0].startswith("int8 was changed by fine-tuning: ")
    assert tuned.decisions[0].endswith(", interrupted). Drift is measured against the original.")


def test_gradients_that_are_no_numbers_change_nothing_and_are_told(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at, plan = Starting._looked_at, made.plan
    monkeypatch.setattr(Starting, "_looked_at", lambda *of: (np.nan * images for images in looked_at(*of)))
    monkeypatch.setattr(train, "RATES", (50.0,))
    given = plan.trial.quantized(plan.flatbuffer, plan.ranges)
    tuned = FineTuner(plan, None, None, 2.0, 0).tune(given, "int8", plan.flatbuffer, plan.trial.quantized)
    assert tuned.graph is given
    _, said = tuned.decisions
    assert said.startswith("no channels were balanced, or ranges chosen, ")
