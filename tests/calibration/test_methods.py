"""Ranges from statistics: what each method promises, against independent arithmetic on the values themselves."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from embedlite.calibration import parse_method
from embedlite.calibration.bins import count, filled_bins
from embedlite.calibration.methods import METHODS, choose_range, squared_error
from embedlite.calibration.statistics import TensorStatistics
from embedlite.runtime.errors import RequestError

from ways_out import walks

RNG = np.random.default_rng(0)
SAMPLES = {
    "normal": RNG.normal(size=200_000),
    "rectified": np.maximum(RNG.normal(size=200_000), 0),
    "laplace": RNG.laplace(size=200_000),
    "outlier": np.append(np.maximum(RNG.normal(size=200_000), 0), 40.0),
    "negative": -np.abs(RNG.normal(size=50_000)) - 0.1,
    "shifted": RNG.normal(5, 1, size=100_000),
}


def statistics(values: np.ndarray) -> TensorStatistics:
    values = values.astype(np.float32)
    return TensorStatistics(
        ((float(values.min()), "x"),), ((float(values.max()), "x"),), count(values.view(np.uint16)[1::2])
    )


def error_in_8_bits(values: np.ndarray, low: float, high: float) -> float:
    """By TFLite's quantization specification, value by value."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    steps = np.clip(np.round(values / scale) + zero, 0, 255)
    return float((((steps - zero) * scale - values) ** 2).sum())


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("method", METHODS)
def test_a_range_never_exceeds_what_was_seen(name: str, method: str) -> None:
    values = SAMPLES[name].astype(np.float32)
    low, high = choose_range(statistics(values), parse_method(method))
    assert values.min() <= low < high <= values.max()
    if method == "minmax":
        assert (low, high) == (values.min(), values.max())


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_a_percentile_leaves_out_its_share_at_each_end(name: str, percentile: float) -> None:
    values = SAMPLES[name].astype(np.float32)
    low, high = choose_range(statistics(values), parse_method(f"percentile:{percentile}"))
    left = 1 - percentile / 100
    assert (values > high).mean() <= left
    assert (values < low).mean() <= left
    wanted = np.quantile(values.astype(np.float64), [left, 1 - left])
    # To a bin's width.
    np.testing.assert_allclose([low, high], wanted, rtol=0.012, atol=1e-3)


def test_the_hundredth_percentile_is_the_maximum() -> None:
    values = SAMPLES["laplace"].astype(np.float32)
    assert choose_range(statistics(values), parse_method("percentile:100")) == (values.min(), values.max())


@pytest.mark.parametrize("name", SAMPLES)
def test_the_error_from_bins_is_that_of_the_values(name: str) -> None:
    values = SAMPLES[name].astype(np.float32).astype(np.float64)
    bins = filled_bins(statistics(values).counts)
    for share in (1.0, 0.7, 0.4):
        low, high = values.min() * share, values.max() * share
        got = squared_error(bins, np.array([low]), np.array([high]))[0]
        assert got == pytest.approx(error_in_8_bits(values, low, high), rel=0.03)


@pytest.mark.parametrize("name", SAMPLES)
def test_mse_is_no_worse_than_any_range_of_a_fine_grid(name: str) -> None:
    # The last ones, so that the outlier is among them.
    values = SAMPLES[name][-50_000:].astype(np.float32).astype(np.float64)
    low, high = choose_range(statistics(values), parse_method("mse"))
    chosen = error_in_8_bits(values, low, high)
    grid = np.linspace(0.05, 1, 40)
    best = min(error_in_8_bits(values, values.min() * a, values.max() * b) for a in grid for b in grid)
    assert chosen <= 1.05 * best


def test_entropy_has_the_least_divergence_of_its_thresholds() -> None:
    """Against a plain spelling of the published procedure with scipy's divergence."""
    values = SAMPLES["outlier"].astype(np.float32).astype(np.float64)
    _, high = choose_range(statistics(values), parse_method("entropy"))
    width = values.max() / 2048
    histogram, _ = np.histogram(values, 2048, (0, values.max()))
    histogram = histogram.astype(np.float64)
    histogram[0] = histogram[1]

    def divergence(end: int) -> float:
        clipped = histogram[:end].copy()
        quantized = np.zeros(end)
        for level in np.array_split(np.arange(end), 256):
            filled = histogram[level] > 0
            if filled.any():
                quantized[level[filled]] = histogram[level].sum() / filled.sum()
        clipped[-1] += histogram[end:].sum()
        quantized[(quantized == 0) & (clipped > 0)] = 1e-9 * quantized.sum()
        return float(entropy(clipped, quantized))

    best = min(divergence(end) for end in range(256, 2049, 8))
    assert divergence(min(2048, round(high / width / 8) * 8)) <= best + 0.01
    assert high < 10


@pytest.mark.parametrize("name", ["outlier", "laplace"])
def test_a_tail_is_clipped_by_every_method_but_minmax(name: str) -> None:
    values = SAMPLES[name].astype(np.float32)
    for method in METHODS[1:]:
        assert choose_range(statistics(values), parse_method(method))[1] < 0.96 * values.max(), method


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("minmax", "minmax"),
        ("percentile", "percentile:99.99"),
        ("percentile:99.9", "percentile:99.9"),
        ("mse", "mse"),
        ("entropy", "entropy"),
    ],
)
def test_a_method_is_spelled_as_it_is_read(text: str, spelled: str) -> None:
    assert str(parse_method(text)) == spelled


@pytest.mark.parametrize(
    "text", ["", "max", "minmax:3", "percentile:", "percentile:x", "percentile:50", "percentile:nan", "percentile:101"]
)
def test_what_is_no_method_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"unknown calibration method|the percentile is"):
        parse_method(text)


@walks("unknown calibration method {}. Use one of", "the percentile is {}. Use a number above 50")
def test_the_methods_that_an_error_names_are_taken() -> None:
    with pytest.raises(RequestError) as caught:
        parse_method("max")
    named = re.search(r"Use one of: (.*) \((percentile:[\d.]+) names", str(caught.value))
    assert named is not None
    with pytest.raises(RequestError) as caught:
        parse_method("percentile:50")
    number = re.search(r"such as ([\d.]+\d)", str(caught.value))
    assert number is not None
    for text in (*named[1].split(", "), named[2], f"percentile:{number[1]}"):
        choose_range(statistics(SAMPLES["outlier"]), parse_method(text))


def test_a_histogram_is_asked_for_where_there_is_none() -> None:
    bare = TensorStatistics(((0.0, "x"),), ((1.0, "x"),))
    assert choose_range(bare, parse_method("minmax")) == (0.0, 1.0)
    with pytest.raises(RequestError, match="needs histograms"):
        choose_range(bare, parse_method("mse"))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=40),
    method=st.sampled_from(METHODS),
)
def test_any_values_give_a_finite_range_within_them(values: list[float], method: str) -> None:
    array = np.array(values, np.float32)
    low, high = choose_range(statistics(array), parse_method(method))
    assert np.isfinite([low, high]).all()
    assert array.min() <= low <= high <= array.max()
