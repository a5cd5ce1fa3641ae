"""Is it enough: figures against drawing halves and leaving images out by hand, and the verdicts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.calibration import Statistics, assess, merge, parse_method
from embedlite.calibration.assess import expected_growth, images_alone
from embedlite.calibration.bins import bin_keys, count
from embedlite.calibration.statistics import TensorStatistics, highest_of, lowest_of
from embedlite.calibration.tensors import TensorGroup

GROUPS = (TensorGroup("x", 0, ("x",), rectified=False),)


def image(name: str, values: np.ndarray) -> Statistics:
    values = values.astype(np.float32)
    tensor = TensorStatistics(
        ((float(values.min()), name),), ((float(values.max()), name),), count(bin_keys(np.ascontiguousarray(values)))
    )
    return Statistics("m", {}, {"x": tensor}, 1, hash(name) % (1 << 256))


def pool(seed: int, number: int, scale: float = 1.0) -> list[Statistics]:
    rng = np.random.default_rng(seed)
    return [image(f"{seed}-{i}", rng.uniform(-scale, scale, 400)) for i in range(number)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=2, max_size=8))
def test_growth_is_the_average_over_all_halves(pairs: list[tuple[float, float]]) -> None:
    """While every image is kept, the formula is exact: here all halves are drawn."""
    lows, highs = [min(pair) for pair in pairs], [max(pair) for pair in pairs]
    tensor = TensorStatistics(
        lowest_of((low, str(i)) for i, low in enumerate(lows)),
        highest_of((high, str(i)) for i, high in enumerate(highs)),
    )
    halves = list(itertools.combinations(range(len(pairs)), len(pairs) // 2))
    top = np.mean([max(0.0, *(highs[i] for i in half)) for half in halves])
    bottom = np.mean([min(0.0, *(lows[i] for i in half)) for half in halves])
    width = max(0.0, *highs) - min(0.0, *lows)
    wanted = width / (top - bottom) - 1 if top > bottom else 0.0
    # Extremes are kept as a set: an image is one of them once at each end.
    assert expected_growth(tensor, len(pairs)) == pytest.approx(wanted, abs=1e-6, rel=1e-6)


def test_growth_of_many_images_is_close_to_drawn_halves() -> None:
    rng = np.random.default_rng(0)
    highs = rng.exponential(size=300)
    tensor = TensorStatistics(((0.0, ""),), highest_of((float(high), str(i)) for i, high in enumerate(highs)))
    drawn = np.mean([rng.choice(highs, 150, replace=False).max() for _ in range(4000)])
    assert expected_growth(tensor, 300) == pytest.approx(highs.max() / drawn - 1, abs=0.01)


def test_a_few_images_that_set_a_range_alone_are_named() -> None:
    odd = [image(name, np.array([-0.1, 8.0 + i])) for i, name in enumerate(("odd a", "odd b", "odd c"))]
    whole = merge([*pool(0, 40), *odd])
    names, left = images_alone(whole.tensors["x"], whole.samples)
    assert set(names) == {"odd a", "odd b", "odd c"}
    assert left == pytest.approx(2 / 11, abs=0.02)
    found = assess(whole, None, whole, GROUPS, parse_method("minmax"))
    assert found.verdict == "these images look wrong"
    for name in names:
        assert repr(name) in found.reason
    assert found.groups[0].alone == names


def test_a_low_end_counts_too_and_ordinary_images_are_not_blamed() -> None:
    odd = image("odd", np.array([-30.0, 0.5]))
    assert images_alone(merge([*pool(0, 40), odd]).tensors["x"], 41)[0] == ("odd",)
    assert images_alone(merge(pool(0, 40)).tensors["x"], 40) == ((), None)
    # Of five images one is not a small part.
    assert images_alone(merge([*pool(0, 3), odd]).tensors["x"], 4) == ((), None)


def test_enough() -> None:
    fit, held = merge(pool(0, 100)), merge(pool(1, 20))
    found = assess(fit, held, merge([fit, held]), GROUPS, parse_method("minmax"))
    assert found.verdict == "enough"
    assert found.samples == 120
    assert found.groups[0].growth < 0.05
    assert found.groups[0].clipped < 1e-3


def test_held_out_images_of_another_kind_ask_for_more() -> None:
    fit, held = merge(pool(0, 100)), merge(pool(1, 20, scale=1.2))
    found = assess(fit, held, merge([fit, held]), GROUPS, parse_method("minmax"))
    assert found.verdict == "add more"
    # A sixth of the values of each held-out image lies beyond.
    assert found.groups[0].clipped == pytest.approx(1 / 6, abs=0.02)
    assert found.groups[0].missed == found.groups[0].clipped


def test_what_a_method_clips_on_purpose_is_not_missed() -> None:
    fit, held = merge(pool(0, 100)), merge(pool(1, 20))
    found = assess(fit, held, merge([fit, held]), GROUPS, parse_method("percentile:95"))
    assert found.groups[0].clipped == pytest.approx(0.1, abs=0.02)
    assert found.groups[0].missed < 0.02


def test_a_range_that_still_moves_asks_for_more() -> None:
    rng = np.random.default_rng(3)
    growing = [image(str(i), np.array([0, value])) for i, value in enumerate(rng.lognormal(0, 1, 30))]
    fit = merge(growing)
    found = assess(fit, None, fit, GROUPS, parse_method("minmax"))
    assert found.verdict in ("add more", "these images look wrong")
    assert found.groups[0].growth > 0.1


def test_too_few_to_hold_some_out_ask_for_more() -> None:
    few = merge([image(str(i), np.array([-1.0, 1.0 + i / 1000])) for i in range(4)])
    found = assess(few, None, few, GROUPS, parse_method("minmax"))
    assert found.verdict == "add more"
    assert "too few to hold some out" in found.reason
