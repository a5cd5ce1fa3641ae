"""Ranges are exact and do not depend on order or on how the images are split."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.calibration import CalibrationDataError, Ranges, collect_ranges
from embedlite.calibration.ranges import observe
from embedlite.calibration.split import hold_out
from embedlite.runtime import InputContract
from embedlite.runtime.artifact import read_artifact
from embedlite.runtime.sources import open_source

from conftest import Digits

IMAGES = [
    {"a": np.random.default_rng(seed).normal(size=(1, 4, 3)), "b": np.float32([[seed - 3.0]])} for seed in range(8)
]


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(len(IMAGES))), cuts=st.sets(st.integers(1, len(IMAGES) - 1)))
def test_any_order_any_split_and_any_merge_give_the_same_ranges(order: list[int], cuts: set[int]) -> None:
    whole = Ranges()
    for image in IMAGES:
        whole = whole.merge(observe(image, {"a"}))
    edges = [0, *sorted(cuts), len(IMAGES)]
    merged = Ranges()
    for start, stop in itertools.pairwise(edges):
        part = Ranges()
        for index in order[start:stop]:
            part = observe(IMAGES[index], {"a"}).merge(part)
        merged = part.merge(merged)
    assert merged.limits == whole.limits
    assert merged.samples == whole.samples == len(IMAGES)
    for mine, other in zip(merged.channels["a"], whole.channels["a"], strict=True):
        np.testing.assert_array_equal(mine, other)


def test_ranges_of_different_models_do_not_merge() -> None:
    with pytest.raises(CalibrationDataError, match="different models"):
        observe({"a": np.ones((1, 2))}).merge(observe({"b": np.ones((1, 2))}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("by_channel", [(), ("a",)])
def test_a_tensor_that_is_not_finite_is_named(bad: float, by_channel: tuple[str, ...]) -> None:
    values = np.ones((1, 5, 4), np.float32)
    values[0, 2, 1] = bad
    with pytest.raises(CalibrationDataError, match="'a' is not finite"):
        observe({"a": values}, by_channel)


def test_collected_ranges_are_those_of_every_tensor_without_any_delegate(digits: Digits) -> None:
    """XNNPACK keeps every intermediate tensor right; the reference kernels are the judge."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    flatbuffer = read_artifact(digits.float32).flatbuffer
    source = open_source(digits.calibration, InputContract((32, 32, 1))).sample(12, 0)
    ranges = collect_ranges(flatbuffer, source)
    reference = Interpreter(
        model_content=flatbuffer,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    reference.allocate_tensors()
    wanted: dict[str, tuple[float, float]] = {}
    for index in range(len(source)):
        reference.set_tensor(reference.get_input_details()[0]["index"], source.ready(index)[None])
        reference.invoke()
        for detail in reference.get_tensor_details():
            if detail["name"] in ranges.limits:
                values = reference.get_tensor(detail["index"])
                low, high = wanted.get(detail["name"], (np.inf, -np.inf))
                wanted[detail["name"]] = (min(low, values.min()), max(high, values.max()))
    assert len(wanted) == len(ranges.limits) > 20
    for name, limits in wanted.items():
        assert ranges.limits[name] == pytest.approx(limits, rel=1e-4, abs=1e-5), name


def test_no_images_give_no_ranges(digits: Digits) -> None:
    source = open_source(digits.calibration, InputContract((32, 32, 1))).subset([])
    with pytest.raises(CalibrationDataError, match="at least one"):
        collect_ranges(read_artifact(digits.float32).flatbuffer, source)


@given(count=st.integers(0, 1000), seed=st.integers(0, 5))
def test_held_out_images_are_a_seeded_fifth_and_set_no_ranges(count: int, seed: int) -> None:
    kept, held = hold_out(count, seed)
    assert len(held) == min(count // 5, 64)
    assert sorted(kept + held) == list(range(count))
    assert hold_out(count, seed) == (kept, held)
