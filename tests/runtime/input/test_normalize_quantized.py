"""Normalization on the integers, against rational arithmetic rounded once."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedlite.runtime.input.normalize import normalize, normalize_quantized, round_to_float32
from embedlite.runtime.model.contract import NormalizationSpec

quantized = st.sampled_from([np.int8, np.uint8]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 6)))
)
scales = st.floats(2**-20, 8, width=32).map(lambda value: float(np.float32(value)))
AXES = [(1, 2), (0, 1), (0, 1, 2)]


def is_nearest(result: np.float32, exact: Fraction) -> bool:
    """No other float32 is nearer, and of two as near it is the even one."""
    distance = abs(Fraction(float(result)) - exact)
    for direction in (-np.inf, np.inf):
        other = np.nextafter(result, np.float32(direction))
        further = abs(Fraction(float(other)) - exact)
        if further < distance or (further == distance and int(result.view(np.int32)) & 1):
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(
    q=quantized,
    scale=scales,
    zero_point=st.integers(-128, 255),
    axes=st.sampled_from(AXES),
    divisor=st.sampled_from(["shifted", "input"]),
    epsilon=st.sampled_from([("none", 0.0), ("max", 1e-12), ("max", 0.5), ("max", 40.0), ("add", 1e-3), ("add", 3.0)]),
)
def test_min_max_is_the_rational_result_rounded_once(
    q: np.ndarray, scale: float, zero_point: int, axes: tuple[int, ...], divisor: str, epsilon: tuple[str, float]
) -> None:
    mode, value = epsilon
    spec = NormalizationSpec("minmax", axes, divisor, value, mode, "runtime")
    result = normalize_quantized(q, scale, zero_point, spec)
    assert result.dtype == np.float32
    for index in np.ndindex(q.shape):
        group = q[tuple(slice(None) if axis in axes else index[axis] for axis in range(q.ndim))].ravel()
        real = [(int(item) - zero_point) * Fraction(scale) for item in group]
        bottom = max(real) - min(real) if divisor == "shifted" else max(real)
        bottom = {"none": bottom, "max": max(bottom, Fraction(value)), "add": bottom + Fraction(value)}[mode]
        top = (int(q[index]) - zero_point) * Fraction(scale) - min(real)
        if bottom == 0 or top == 0:
            assert result[index] == 0
        else:
            assert is_nearest(result[index], top / bottom)


@settings(max_examples=100, deadline=None)
@given(q=quantized, scale=scales, zero_point=st.integers(-128, 127))
def test_l2_is_the_normalization_of_the_dequantized_values(q: np.ndarray, scale: float, zero_point: int) -> None:
    spec = NormalizationSpec("l2", (2,), "shifted", 1e-6, "max", "runtime")
    real = (q.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    np.testing.assert_allclose(normalize_quantized(q, scale, zero_point, spec), normalize(real, spec), rtol=2e-6)


@pytest.mark.parametrize("kind", ["minmax", "l2"])
@pytest.mark.parametrize("mode", ["none", "max", "add"])
def test_flat_integers_give_zeros(kind: str, mode: str) -> None:
    spec = NormalizationSpec(kind, (1,), "shifted", 0.0 if mode == "none" else 1e-6, mode, "runtime")
    np.testing.assert_array_equal(normalize_quantized(np.full((1, 9), 17, np.int8), 0.1, 17, spec), np.zeros((1, 9)))


@given(st.fractions(min_value=-(10**6), max_value=10**6))
def test_rounding_is_to_the_nearest_float32(value: Fraction) -> None:
    assert is_nearest(round_to_float32(value), value)


def test_rounding_twice_would_be_wrong() -> None:
    # Just above the middle between 1 and the next float32; as a double it is the middle, which rounds to even, down.
    value = Fraction(2**24 + 1, 2**24) + Fraction(1, 2**80)
    assert np.float32(float(value)) == np.float32(1)
    assert round_to_float32(value) == np.nextafter(np.float32(1), np.float32(2))


@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_beyond_float32_gives_infinity_and_the_last_finite_value_does_not(sign: int) -> None:
    largest = Fraction(2**128 - 2**104)
    assert round_to_float32(sign * largest) == sign * np.finfo(np.float32).max
    assert round_to_float32(sign * (largest + 2**103 - 1)) == sign * np.finfo(np.float32).max
    assert round_to_float32(sign * (largest + 2**103)) == sign * np.inf  # a tie goes to the even one, which is infinity
    assert round_to_float32(sign * Fraction(2**2000)) == sign * np.inf


def test_a_divisor_that_is_all_epsilon_may_overflow_but_not_fail() -> None:
    spec = NormalizationSpec("minmax", (1,), "input", 1e-44, "max", "runtime")
    result = normalize_quantized(np.array([[-5, 0]], np.int8), 1.0, 0, spec)
    np.testing.assert_array_equal(result, [[0, np.inf]])


def test_l2_without_an_epsilon_mode_ignores_epsilon() -> None:
    spec = NormalizationSpec("l2", (1,), "shifted", 100.0, "none", "runtime")
    result = normalize_quantized(np.array([[3, 4]], np.int8), 1.0, 0, spec)
    np.testing.assert_allclose(result, [[0.6, 0.8]])
    np.testing.assert_array_equal(normalize(np.array([[3.0, 4.0]]), spec), result)


@settings(max_examples=50, deadline=None)
@given(
    parts=hnp.arrays(np.int8, st.tuples(st.just(1), st.integers(1, 3), st.sampled_from([2, 4]), st.integers(1, 6))),
    scale=scales,
    zero_point=st.integers(-512, 508),
    kind=st.sampled_from(["minmax", "l2"]),
)
def test_copies_along_the_last_axis_are_added_up(parts: np.ndarray, scale: float, zero_point: int, kind: str) -> None:
    one = NormalizationSpec(kind, (2,), epsilon_mode="max", epsilon=1e-6, placement="runtime")
    wide = replace(one, copies=parts.shape[2], zero_point=zero_point)
    sums = np.array([[[sum(map(int, column)) for column in row.T] for row in parts[0]]])
    found = normalize_quantized(parts.reshape(1, parts.shape[1], -1), scale, 0, wide)
    np.testing.assert_array_equal(found, normalize_quantized(sums, scale, zero_point, one))
