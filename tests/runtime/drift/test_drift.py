"""Drift metrics against independent computation, and planted faults."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import procrustes
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.neighbors import NearestNeighbors

from embedlite.runtime.drift import Drift, measure_drift
from embedlite.runtime.drift.gates import DEFAULT_GATES, apply_gates
from embedlite.runtime.errors import DataError, RequestError

from drift_pairs import ROWS, SIZE, failed, pair, report


def measure(candidate: np.ndarray, reference: np.ndarray, k: int | None = 5) -> Drift:
    return measure_drift(candidate, reference, k=k)[0]


def neighbours(queries: np.ndarray, gallery: np.ndarray, k: int) -> list[set[int]]:
    """The k nearest rows by scikit-learn, each row without itself."""
    found = NearestNeighbors(n_neighbors=k + 1, metric="cosine", algorithm="brute").fit(gallery)
    rows = found.kneighbors(queries, return_distance=False)
    return [set(row[row != own][:k].tolist()) for own, row in enumerate(rows)]


@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("k", [1, 5, ROWS - 1])
def test_neighbours_are_those_of_scikit_learn(noise: float, k: int) -> None:
    candidate, reference = pair(noise)
    drift, truth = measure(candidate, reference, k), neighbours(reference, reference, k)
    for mine, gallery in ((drift.knn_overlap_self, candidate), (drift.knn_overlap_cross, reference)):
        kept = [len(wanted & found) / k for wanted, found in zip(truth, neighbours(candidate, gallery, k), strict=True)]
        assert mine == pytest.approx(np.mean(kept), abs=1e-12)


@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0])
def test_the_other_metrics_are_their_formulas(noise: float) -> None:
    candidate, reference = pair(noise)
    drift, cosines = measure_drift(candidate, reference, k=5)
    c, r = candidate.astype(np.float64), reference.astype(np.float64)
    wanted = 1 - paired_cosine_distances(c, r)
    np.testing.assert_allclose(cosines, wanted, atol=1e-12)
    assert (drift.count, drift.invalid, drift.k) == (ROWS, 0, 5)
    assert drift.cosine_mean == pytest.approx(wanted.mean())
    assert drift.cosine_p1 == pytest.approx(np.quantile(wanted, 0.01))
    assert drift.cosine_min == pytest.approx(wanted.min())
    assert drift.sqnr_db == pytest.approx(10 * np.log10(np.mean(r**2) / np.mean((c - r) ** 2)))
    assert drift.max_abs == pytest.approx(np.max(np.abs(c - r)))
    assert drift.bias_max_sigma == pytest.approx(np.max(np.abs((c - r).mean(0)) / r.std(0)))
    assert drift.norm_ratio_mean == pytest.approx(np.mean(np.sqrt((c**2).sum(1) / (r**2).sum(1))))
    slopes = [np.polyfit(r[:, column], c[:, column], 1)[0] for column in range(SIZE)]
    assert drift.gain_error_max == pytest.approx(np.max(np.abs(np.array(slopes) - 1)))
    assert drift.procrustes == pytest.approx(procrustes(r, c)[2])
    centred = [side - side.mean(0) for side in (c, r)]
    gram = [side @ side.T for side in centred]
    assert drift.cka == pytest.approx((gram[0] * gram[1]).sum() / np.linalg.norm(gram[0]) / np.linalg.norm(gram[1]))


def test_further_axes_are_flattened_and_every_float_type_is_taken() -> None:
    candidate, reference = pair()
    flat = measure(candidate, reference)
    assert measure(candidate.reshape(ROWS, 3, 4), reference.reshape(ROWS, 3, 4)) == flat
    assert measure(candidate.astype(np.float64), reference.astype(np.float64)) == flat


def test_neighbours_of_many_rows_are_counted_in_blocks() -> None:
    # More rows than fit into one block of similarities.
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(3000, 6))
    candidate = reference + 0.1 * rng.normal(size=reference.shape)
    truth, found = neighbours(reference, reference, 3), neighbours(candidate, reference, 3)
    kept = [len(one & other) / 3 for one, other in zip(truth, found, strict=True)]
    assert measure(candidate, reference, 3).knn_overlap_cross == pytest.approx(np.mean(kept), abs=1e-12)


rows = hnp.arrays(np.float32, st.tuples(st.integers(3, 12), st.integers(2, 6)), elements=st.floats(-100, 100, width=16))


@settings(max_examples=80, deadline=None)
@given(reference=rows)
def test_identical_rows_have_no_drift(reference: np.ndarray) -> None:
    drift, cosines = measure_drift(reference.copy(), reference, k=2)
    assert (drift.invalid, drift.sqnr_db, drift.max_abs, drift.bias_max_sigma) == (0, None, 0, 0)
    assert (drift.knn_overlap_self, drift.knn_overlap_cross) == (1, 1)
    assert drift.cosine_min == pytest.approx(1)
    assert cosines.max() <= 1
    assert drift.norm_ratio_mean in (None, 1)
    assert all(gate.passed for gate in apply_gates(asdict(drift), DEFAULT_GATES))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), reference=rows)
def test_metrics_stay_in_their_ranges(data: st.DataObject, reference: np.ndarray) -> None:
    elements = st.floats(-100, 100, width=16) | st.sampled_from([np.nan, np.inf])
    candidate = data.draw(hnp.arrays(np.float32, reference.shape, elements=elements))
    drift, cosines = measure_drift(candidate, reference, k=2)
    assert drift.count == len(reference) == len(cosines)
    assert drift.invalid == np.isnan(cosines).sum()
    assert not any(value is not None and np.isnan(value) for value in asdict(drift).values())
    measured = cosines[~np.isnan(cosines)]
    assert ((measured >= -1) & (measured <= 1)).all()
    for share in (drift.knn_overlap_self, drift.knn_overlap_cross):
        assert share is None or 0 <= share <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), power=st.integers(-8, 8))
def test_the_unit_of_the_embedding_does_not_matter(seed: int, power: int) -> None:
    candidate, reference = pair(seed=seed)
    unit = np.float32(2.0**power)
    drift, scaled = measure(candidate, reference), measure(candidate * unit, reference * unit)
    for field in fields(Drift):
        factor = unit if field.name == "max_abs" else 1
        assert getattr(scaled, field.name) == pytest.approx(getattr(drift, field.name) * factor, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_images_does_not_matter(seed: int) -> None:
    candidate, reference = pair(seed=seed)
    order = np.random.default_rng(seed).permutation(ROWS)
    drift, shuffled = measure(candidate, reference), measure(candidate[order], reference[order])
    assert asdict(shuffled) == pytest.approx(asdict(drift), rel=1e-9)


FAULTS: dict[str, tuple[Any, int, set[str]]] = {
    "a row of NaN": (lambda c: c.__setitem__(3, np.nan), 1, {"invalid"}),
    "one NaN": (lambda c: c.__setitem__((3, 5), np.nan), 1, {"invalid"}),
    "one infinity": (lambda c: c.__setitem__((3, 5), -np.inf), 1, {"invalid"}),
    "a row of zeros": (lambda c: c.__setitem__(3, 0), 1, {"invalid"}),
    "a constant row": (lambda c: c.__setitem__(3, 0.7), 1, {"invalid"}),
    "a row that repeats another": (lambda c: c.__setitem__(9, c[3]), 1, {"invalid"}),
    "one row for all": (
        lambda c: c.__setitem__(slice(None), c[3].copy()),
        ROWS - 1,
        {"invalid", "cosine_p1", "sqnr_db", "bias_max_sigma"},
    ),
    "all rows constant": (lambda c: c.__setitem__(slice(None), 1), ROWS, set(DEFAULT_GATES)),
    "rows shuffled": (
        lambda c: np.random.default_rng(1).shuffle(c),
        0,
        {"cosine_p1", "sqnr_db", "gain_error_max", "knn_overlap_cross"},
    ),
    "two rows exchanged": (lambda c: c.__setitem__([3, 9], c[[9, 3]]), 0, {"cosine_p1", "sqnr_db"}),
    "one dead dimension": (
        lambda c: c.__setitem__((slice(None), 4), 0),
        0,
        {"dead_dimensions", "gain_error_max", "cosine_p1", "sqnr_db", "knn_overlap_cross"},
    ),
    "two dimensions exchanged": (
        lambda c: c.__setitem__((slice(None), [2, 7]), c[:, [7, 2]]),
        0,
        {"cosine_p1", "sqnr_db", "knn_overlap_cross", "gain_error_max", "bias_max_sigma"},
    ),
    "a constant bias": (
        lambda c: c.__iadd__(np.float32(0.3)),
        0,
        {"bias_max_sigma", "cosine_p1", "sqnr_db", "knn_overlap_cross"},
    ),
    "one row negated": (lambda c: c.__setitem__(3, -c[3]), 0, {"cosine_p1", "sqnr_db"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_default_gates(fault: str) -> None:
    plant, invalid, gates = FAULTS[fault]
    candidate, reference = pair(noise=1e-3)
    assert failed(report(candidate, reference)) == set()
    plant(candidate)
    made = report(candidate, reference)
    assert made.metrics["invalid"] == invalid
    assert failed(made) == gates
    assert not made.passed


def test_a_rotation_keeps_neighbours_among_themselves_and_loses_every_stored_gallery() -> None:
    _, reference = pair()
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(SIZE, SIZE)))
    made = report((reference @ rotation).astype(np.float32), reference)
    assert made.metrics["knn_overlap_self"] == pytest.approx(1)
    assert made.metrics["norm_ratio_mean"] == pytest.approx(1)
    assert made.metrics["knn_overlap_cross"] is not None
    assert made.metrics["knn_overlap_cross"] < 0.5
    assert failed(made) >= {"cosine_p1", "sqnr_db", "gain_error_max", "knn_overlap_cross"}


def test_a_bias_is_measured_in_standard_deviations_of_its_dimension() -> None:
    _, reference = pair()
    candidate = reference.astype(np.float64)
    candidate[:, 7] += 0.25 * candidate[:, 7].std()
    drift = measure(candidate, reference.astype(np.float64))
    assert drift.bias_max_sigma == pytest.approx(0.25)


def test_a_bias_in_a_dimension_that_the_reference_never_uses_is_measured_by_the_typical_one() -> None:
    reference = pair()[1].astype(np.float64)
    reference[:, 7] = 0
    candidate = reference.copy()
    candidate[:, 7] = 0.5
    assert measure(candidate, reference).bias_max_sigma == pytest.approx(0.5 / np.sqrt(np.mean(reference.var(axis=0))))


def test_a_gain_shows_in_the_norms_only() -> None:
    _, reference = pair()
    drift = measure(reference * np.float32(2), reference)
    assert drift.norm_ratio_mean == pytest.approx(2)
    assert drift.cosine_min == pytest.approx(1)
    assert (drift.knn_overlap_self, drift.knn_overlap_cross) == (1, 1)
    assert drift.sqnr_db == pytest.approx(0, abs=1e-9)


def test_rows_that_are_flat_in_the_reference_too_are_valid() -> None:
    _, reference = pair()
    reference[2], reference[3] = 0, 0.5
    drift, cosines = measure_drift(reference.copy(), reference, k=5)
    assert drift.invalid == 0
    assert cosines[[2, 3]] == pytest.approx(1)
    candidate = reference.copy()
    candidate[2], candidate[3] = 0.5, 0
    drift, cosines = measure_drift(candidate, reference, k=5)
    assert drift.invalid == 1, "a constant row became zero"
    assert cosines[2] == 0
    assert np.isnan(cosines[3])


def test_an_embedding_of_one_number_is_not_called_constant() -> None:
    reference = np.array([[1.0], [2.0], [0.0]])
    assert measure(reference, reference, None).invalid == 0
    assert measure(np.array([[1.0], [0.0], [0.0]]), reference, None).invalid == 1


@pytest.mark.parametrize("size", [12, 65])
@pytest.mark.parametrize("copies", [2, 3, 20])
def test_duplicates_among_the_images_are_no_drift(size: int, copies: int) -> None:
    # On some processors the similarity of equal rows depends on their place in the block, in the last bits.
    for seed in range(3):
        once = np.random.default_rng(seed).normal(size=(7, size)).astype(np.float32)
        reference = np.concatenate([once] * copies)
        drift = measure(reference * np.float32(3), reference, k=3)
        assert (drift.knn_overlap_self, drift.knn_overlap_cross) == (1, 1)


def test_invalid_rows_do_not_touch_the_other_metrics() -> None:
    candidate, reference = pair()
    wanted = measure(np.delete(candidate, 3, axis=0), np.delete(reference, 3, axis=0))
    candidate[3] = np.nan
    drift = measure(candidate, reference)
    # Another order of summation, so not bit by bit.
    assert asdict(drift) == pytest.approx({**asdict(wanted), "count": ROWS, "invalid": 1}, rel=1e-9)


def test_when_every_row_is_invalid_nothing_has_a_value_and_every_gate_fails() -> None:
    made = report(np.full((ROWS, SIZE), np.nan, np.float32), pair()[1], cosine_min=0)
    values = dict(made.metrics)
    assert (values.pop("count"), values.pop("invalid")) == (ROWS, ROWS)
    assert set(values.values()) == {None}
    assert failed(made) == {*DEFAULT_GATES, "cosine_min"}


def test_too_few_valid_rows_leave_the_neighbours_out() -> None:
    candidate, reference = pair()
    candidate[5:] = np.nan
    drift = measure(candidate, reference)
    assert (drift.k, drift.knn_overlap_self, drift.knn_overlap_cross) == (None, None, None)
    assert drift.invalid == ROWS - 5
    assert measure(*pair(), None).k is None


@pytest.mark.parametrize("k", [0, -1, ROWS, 1000])
def test_k_must_leave_each_row_enough_neighbours(k: int) -> None:
    with pytest.raises(RequestError, match=rf"k is {k}, but {ROWS} row.* at most {ROWS - 1} neighbours.*smaller --k"):
        measure(*pair(), k)


def test_embeddings_that_cannot_be_compared_are_refused() -> None:
    candidate, reference = pair()
    with pytest.raises(DataError, match=r"shape \(60, 11\), the reference's \(60, 12\).*same size"):
        measure(candidate[:, 1:], reference)
    with pytest.raises(DataError, match="no embeddings to compare"):
        measure(candidate[:0], reference[:0], None)
    for value in (np.nan, np.inf):
        reference[17, 3] = value
        with pytest.raises(DataError, match="reference's own row 17 is not finite"):
            measure(candidate, reference)
