"""The normalizations against the same formulas in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedlite.runtime import NormalizationSpec
from embedlite.runtime.input.normalize import normalize

AXES = [(0,), (3,), (0, 1, 2), (1, 2, 3), (0, 1, 2, 3)]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
# Values whose squares neither vanish nor overflow in float32.
ORDINARY = st.just(0.0) | st.floats(2.0**-30, 2.0**20, width=32) | st.floats(-(2.0**20), -(2.0**-30), width=32)
EPSILONS = st.sampled_from([float(np.float32(epsilon)) for epsilon in (1e-12, 1e-6, 0.1, 8.0)])


@st.composite
def specs(draw: st.DrawFn) -> NormalizationSpec:
    mode = draw(st.sampled_from(["none", "add", "max"]))
    return NormalizationSpec(
        draw(st.sampled_from(["minmax", "l2"])),
        draw(st.sampled_from(AXES)),
        draw(st.sampled_from(["shifted", "input"])),
        0.0 if mode == "none" else draw(EPSILONS),
        mode,
    )


def in_float64(values: np.ndarray, spec: NormalizationSpec) -> np.ndarray:
    x = values.astype(np.float64)
    if spec.kind == "l2":
        above, below = x, np.sqrt(np.sum(x**2, axis=spec.axes, keepdims=True))
    else:
        above = x - np.min(x, axis=spec.axes, keepdims=True)
        below = np.max(above if spec.divisor == "shifted" else x, axis=spec.axes, keepdims=True)
    if spec.epsilon_mode == "add":
        below = below + spec.epsilon
    if spec.epsilon_mode == "max":
        below = np.maximum(below, spec.epsilon)
    return np.where(below == 0, 0.0, above / np.where(below == 0, 1.0, below))


@settings(max_examples=150, deadline=None)
@given(values=hnp.arrays(np.float32, SHAPES, elements=ORDINARY), spec=specs())
def test_it_is_the_formula(values: np.ndarray, spec: NormalizationSpec) -> None:
    before = values.copy()
    normalized = normalize(values, spec)
    assert (normalized.dtype, normalized.shape) == (np.float32, values.shape)
    np.testing.assert_allclose(normalized, in_float64(values, spec), rtol=1e-5)
    np.testing.assert_array_equal(values, before)


def test_the_seeds_own_normalization_by_hand() -> None:
    batch = np.array([[2.0, 4.0], [6.0, 10.0]], np.float32)
    whole_batch = NormalizationSpec("minmax", (0, 1), "shifted")
    np.testing.assert_array_equal(normalize(batch, whole_batch), np.float32([[0, 0.25], [0.5, 1]]))
    each_row = NormalizationSpec("minmax", (1,), "input")
    np.testing.assert_array_equal(normalize(batch, each_row), np.float32([[0, 0.5], [0, 0.4]]))
    add, at_least = (NormalizationSpec("minmax", (1,), "shifted", 6.0, mode) for mode in ("add", "max"))
    np.testing.assert_array_equal(normalize(batch, add), np.float32([[0, 0.25], [0, 0.4]]))
    np.testing.assert_array_equal(normalize(batch, at_least), np.float32([[0, 2 / 6], [0, 4 / 6]]))
    unit = normalize(np.array([[3.0, 4.0]], np.float32), NormalizationSpec("l2", (1,)))
    np.testing.assert_array_equal(unit, np.float32([[0.6, 0.8]]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_none_only_changes_the_type(dtype: type[np.floating]) -> None:
    values = np.array([[1.5, -2.0]], dtype)
    normalized = normalize(values, NormalizationSpec())
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(normalized, values)


@pytest.mark.parametrize("value", [0.0, -0.0, 3.5, -7.25, 1e30, -1e-40])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("divisor", ["shifted", "input"])
@pytest.mark.parametrize(("epsilon", "mode"), [(0.0, "none"), (1e-12, "add"), (1e-12, "max")])
def test_a_flat_embedding_gives_zeros_under_min_max(
    value: float, axes: tuple[int, ...], divisor: str, epsilon: float, mode: str
) -> None:
    flat = np.full((2, 3, 2, 4), value, np.float32)
    spec = NormalizationSpec("minmax", axes, divisor, epsilon, mode)
    np.testing.assert_array_equal(normalize(flat, spec), np.zeros_like(flat))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(("epsilon", "mode"), [(0.0, "none"), (1e-12, "add"), (1e-12, "max")])
def test_a_zero_vector_gives_zeros_under_l2(axes: tuple[int, ...], epsilon: float, mode: str) -> None:
    zeros, spec = np.zeros((2, 3, 2, 4), np.float32), NormalizationSpec("l2", axes, "shifted", epsilon, mode)
    np.testing.assert_array_equal(normalize(zeros, spec), zeros)


def test_a_maximum_of_zero_gives_zeros_although_the_values_differ() -> None:
    values = np.array([[-3.0, -1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(normalize(values, NormalizationSpec("minmax", (1,), "input")), np.zeros((1, 3)))


@settings(max_examples=100, deadline=None)
@given(
    values=hnp.arrays(np.float32, (2, 2, 2, 4), elements=st.floats(-(2.0**60), 2.0**60, width=32)),
    axes=st.sampled_from(AXES),
)
def test_shifted_min_max_fills_the_range_from_zero_to_one(values: np.ndarray, axes: tuple[int, ...]) -> None:
    normalized = normalize(values, NormalizationSpec("minmax", axes, "shifted"))
    assert not np.isnan(normalized).any()
    varies = np.ptp(values, axis=axes) > 0
    np.testing.assert_array_equal(normalized.min(axis=axes), np.zeros(varies.shape))
    np.testing.assert_array_equal(normalized.max(axis=axes), varies.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(values=hnp.arrays(np.float32, (3, 8), elements=ORDINARY))
def test_l2_gives_unit_vectors(values: np.ndarray) -> None:
    norms = np.linalg.norm(normalize(values, NormalizationSpec("l2", (1,))).astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, values.any(axis=1), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(values=hnp.arrays(np.float32, (2, 2, 2, 3), elements=ORDINARY), power=st.integers(-5, 5), spec=specs())
def test_the_scale_of_the_embedding_does_not_matter(values: np.ndarray, power: int, spec: NormalizationSpec) -> None:
    bare = NormalizationSpec(spec.kind, spec.axes, spec.divisor)
    np.testing.assert_array_equal(normalize(values * np.float32(2.0**power), bare), normalize(values, bare))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "values"),
    [("minmax", [3e38, -3e38, 0.0]), ("l2", [1e25, 2e25, 0.0]), ("l2", [1e-30, 2e-30, 0.0])],
)
def test_no_finite_embedding_is_too_large_or_too_small(kind: str, values: list[float]) -> None:
    extreme, spec = np.array([values], np.float32), NormalizationSpec(kind, (1,))
    np.testing.assert_allclose(normalize(extreme, spec), in_float64(extreme, spec), rtol=1e-5)
