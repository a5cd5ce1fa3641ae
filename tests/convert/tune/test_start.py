"""What training starts from: an end in float where it is small, and half of what a few images lose by."""

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
from embedlite.convert.quantize.float_end import MEASURED, possible_ends
from embedlite.convert.quantize.plan import CalibrationOptions, plan_int8
from embedlite.convert.quantize.trial import ReadyImages, Trial
from embedlite.convert.tune.narrow import Narrowing
from embedlite.convert.tune.start import End, Start, Starting
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source

SHAPE = (16, 16, 3)
CONTRACT = InputContract(SHAPE)


def images(count: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def made() -> SimpleNamespace:
    """A network whose last layer and average are one part in forty of its products."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(24),
        ]
    )
    graph = prepare(lower(from_keras(model, "small", LoadOptions())).flatbuffer)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, open_source(images(48, 0), CONTRACT), CONTRACT, options, raw_pixels=False)
    assert plan.trial is not None
    return SimpleNamespace(graph=graph, plan=plan, model=model)


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


def test_half_of_a_change_is_taken_where_one_image_loses_by_the_whole() -> None:
    """Ranges that reach 1.45 times as far as the one bright image, and farther beyond all others: the whole change cuts
    it off, half of it does not."""
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
        name: (low / 0.69, high / 0.69) for name, (low, high) in plan.ranges.limits.items() if name != graph.input_name
    }
    trial = Trial(graph, ReadyImages(source, [*range(28, 41)]), 1)
    plan = replace(
        plan,
        ranges=replace(plan.ranges, limits={**plan.ranges.limits, **reach}),
        fitting=source.subset(range(28)),
        trial=trial,
    )
    given, found = starting(SimpleNamespace(plan=plan), [])
    assert (found.floats, found.balanced, found.narrowed) == (False, False, True)
    narrowing, ready = Narrowing(given.graph, plan.flatbuffer, plan.ranges), list(map(plan.fitting.ready, range(28)))
    for number in range(3):
        narrowing.measure(np.stack(ready[12 * number : 12 * number + 12]), number)
    assert found.ranges == narrowing.narrowed(0.5)
    before, half, whole = (
        trial.errors_of(trial.quantized(plan.flatbuffer, ranges))[:, 0]
        for ranges in (plan.ranges, found.ranges, narrowing.narrowed())
    )
    assert np.median(whole) < np.median(half) < np.median(before)
    assert whole[-1] > before.max() > half.max()
