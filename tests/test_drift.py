"""Drift metrics against independent computation, planted faults, gates and the report's two forms."""

import json
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.neighbors import NearestNeighbors

from embedlite.runtime.drift import Drift, measure_drift
from embedlite.runtime.drift.gates import AT_MOST, DEFAULT_GATES, GATEABLE, Gate, apply_gates, parse_gates
from embedlite.runtime.drift.report import DriftReport, build_report, render_report
from embedlite.runtime.errors import DataError, RequestError

ROWS, SIZE = 60, 12
DESCRIPTION = {"candidate": {"path": "a.tflite"}, "reference": {"path": "b.npz"}, "data": {"count": ROWS}}
IDS = [f"image {row}" for row in range(ROWS)]


def pair(noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Candidate and reference embeddings, the first with this much noise."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(ROWS, SIZE)).astype(np.float32)
    return reference + noise * rng.normal(size=reference.shape).astype(np.float32), reference


def measure(candidate: np.ndarray, reference: np.ndarray, k: int | None = 5) -> Drift:
    return measure_drift(candidate, reference, k=k)[0]


def report(candidate: np.ndarray, reference: np.ndarray, **gates: float) -> DriftReport:
    return build_report(candidate, reference, IDS, DESCRIPTION, {**DEFAULT_GATES, **gates}, k=5)


def failed(made: DriftReport) -> set[str]:
    return {gate.name for gate in made.gates if not gate.passed}


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
    assert all(gate.passed for gate in apply_gates(drift, DEFAULT_GATES))


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


WITHOUT_INVALID = set(DEFAULT_GATES) - {"invalid"}
FAULTS: dict[str, tuple[Any, int, set[str]]] = {
    "a row of NaN": (lambda c: c.__setitem__(3, np.nan), 1, {"invalid"}),
    "one NaN": (lambda c: c.__setitem__((3, 5), np.nan), 1, {"invalid"}),
    "one infinity": (lambda c: c.__setitem__((3, 5), -np.inf), 1, {"invalid"}),
    "a row of zeros": (lambda c: c.__setitem__(3, 0), 1, {"invalid"}),
    "a constant row": (lambda c: c.__setitem__(3, 0.7), 1, {"invalid"}),
    "all rows constant": (lambda c: c.__setitem__(slice(None), 1), ROWS, set(DEFAULT_GATES)),
    "rows shuffled": (lambda c: np.random.default_rng(1).shuffle(c), 0, WITHOUT_INVALID),
    "two rows exchanged": (lambda c: c.__setitem__([3, 9], c[[9, 3]]), 0, {"cosine_p1", "sqnr_db"}),
    "one dead dimension": (lambda c: c.__setitem__((slice(None), 4), 0), 0, WITHOUT_INVALID),
    "one row negated": (lambda c: c.__setitem__(3, -c[3]), 0, {"cosine_p1", "sqnr_db"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_default_gates(fault: str) -> None:
    plant, invalid, gates = FAULTS[fault]
    candidate, reference = pair(noise=1e-3)
    assert failed(report(candidate, reference)) == set()
    plant(candidate)
    made = report(candidate, reference)
    assert made.metrics.invalid == invalid
    assert failed(made) == gates
    assert not made.passed


def test_a_rotation_keeps_neighbours_among_themselves_and_loses_every_stored_gallery() -> None:
    _, reference = pair()
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(SIZE, SIZE)))
    made = report((reference @ rotation).astype(np.float32), reference)
    assert made.metrics.knn_overlap_self == pytest.approx(1)
    assert made.metrics.norm_ratio_mean == pytest.approx(1)
    assert made.metrics.knn_overlap_cross is not None
    assert made.metrics.knn_overlap_cross < 0.5
    assert failed(made) == WITHOUT_INVALID


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
    assert asdict(drift) == {**asdict(wanted), "count": ROWS, "invalid": 1}


def test_when_every_row_is_invalid_nothing_has_a_value_and_every_gate_fails() -> None:
    made = report(np.full((ROWS, SIZE), np.nan, np.float32), pair()[1], bias_max_sigma=10)
    values = asdict(made.metrics)
    assert (values.pop("count"), values.pop("invalid")) == (ROWS, ROWS)
    assert set(values.values()) == {None}
    assert failed(made) == {*DEFAULT_GATES, "bias_max_sigma"}


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


def test_gates_are_the_defaults_with_what_was_asked_on_top() -> None:
    assert parse_gates([]) == dict(DEFAULT_GATES)
    given_twice = ["cosine_p1=0.5", "max_abs=1e-3", "cosine_p1=0.75", "sqnr_db=-3"]
    assert parse_gates(given_twice) == {**DEFAULT_GATES, "cosine_p1": 0.75, "max_abs": 1e-3, "sqnr_db": -3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine", "--gate cosine: expected NAME=VALUE with NAME one of invalid, cosine_mean"),
        ("cosine=0.9", "--gate cosine=0.9: expected NAME=VALUE"),
        ("cosine_min", "For example --gate cosine_min=0.95"),
        ("=0.9", "expected NAME=VALUE"),
        ("", "expected NAME=VALUE"),
        ("count=3", "expected NAME=VALUE"),
        ("k=3", "expected NAME=VALUE"),
        ("sqnr_db=high", "'high' is no finite number. For example --gate sqnr_db="),
        ("sqnr_db=", "'' is no finite number"),
        ("sqnr_db=nan", "'nan' is no finite number"),
        ("sqnr_db=inf", "'inf' is no finite number"),
        ("sqnr_db=0,9", "'0,9' is no finite number"),
    ],
)
def test_a_gate_that_cannot_be_read_says_what_could(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_gates([text])


@pytest.mark.parametrize("name", [name for name in GATEABLE if name not in ("invalid", "dead_dimensions")])
def test_every_metric_can_be_gated_and_its_limit_is_inclusive(name: str) -> None:
    drift = measure(*pair())
    value = getattr(drift, name)
    stricter, looser = (value * 0.99, value * 1.01) if name in AT_MOST else (value * 1.01, value * 0.99)
    for limit, passed in ((stricter, False), (value, True), (looser, True)):
        assert apply_gates(drift, {name: limit}) == (Gate(name, value, limit, passed),)


@pytest.mark.parametrize(
    ("name", "limit", "reference", "candidate"),
    [
        ("sqnr_db", 20.0, np.zeros((8, 3)), np.arange(24.0).reshape(8, 3)),
        ("bias_max_sigma", 0.1, np.tile([1.0, 2.0, 3.0], (8, 1)), np.tile([2.0, 3.0, 5.0], (8, 1))),
        ("norm_ratio_mean", 0.9, np.zeros((8, 3)), np.arange(24.0).reshape(8, 3)),
    ],
)
def test_an_unbounded_difference_fails_its_gate(
    name: str, limit: float, reference: np.ndarray, candidate: np.ndarray
) -> None:
    (gate,) = apply_gates(measure(candidate, reference, 2), {name: limit})
    assert not gate.passed


def test_the_worst_rows_come_first_and_invalid_ones_before_all() -> None:
    candidate, reference = pair(noise=1e-3)
    candidate[40] = -candidate[40]
    candidate[11] = np.nan
    candidate[50] = np.nan
    made = report(candidate, reference)
    names = [name for name, _ in made.worst]
    assert len(names) == 5
    assert names[:3] == ["image 11", "image 50", "image 40"]
    assert [cosine for _, cosine in made.worst[:2]] == [None, None]
    cosines = [cosine for _, cosine in made.worst[2:] if cosine is not None]
    assert cosines == sorted(cosines)
    assert cosines[0] == pytest.approx(-1, abs=1e-4)


def broken_in_every_way() -> list[tuple[np.ndarray, np.ndarray]]:
    candidate, reference = pair()
    mixed = candidate.copy()
    mixed[3], mixed[4], mixed[5, 1] = np.nan, 0, np.inf
    zeros, ones = np.zeros_like(reference), np.ones_like(reference)
    nothing = np.full_like(reference, np.nan)
    return [(candidate, reference), (reference, reference), (mixed, reference), (nothing, reference)] + [
        (one, other) for one in (zeros, ones, reference) for other in (zeros, ones)
    ]


@pytest.mark.parametrize("case", range(len(broken_in_every_way())))
def test_the_json_has_its_keys_and_no_number_that_json_lacks(case: int) -> None:
    made = report(*broken_in_every_way()[case], max_abs=1, bias_max_sigma=1)
    value = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert list(value) == ["schema", "verdict", "candidate", "reference", "data", "metrics", "gates", "worst"]
    assert (value["schema"], value["verdict"]) == (1, "pass" if made.passed else "fail")
    assert {name: value[name] for name in DESCRIPTION} == DESCRIPTION
    assert list(value["metrics"]) == [field.name for field in fields(Drift)]
    for gate in value["gates"]:
        assert gate.keys() == {"name", "value", "limit", "passed"}
        assert gate["value"] == value["metrics"][gate["name"]]
    assert [row.keys() for row in value["worst"]] == [{"id", "cosine"}] * 5


def test_the_text_starts_with_the_verdict_and_shows_every_metric_and_gate() -> None:
    candidate, reference = pair()
    candidate[3] = np.nan
    made = report(candidate, reference, max_abs=100)
    lines = render_report(made).splitlines()
    names = [gate.name for gate in made.gates if not gate.passed]
    assert lines[0] == f"FAIL ({', '.join(names)}): a.tflite against b.npz, 60 images"
    assert "invalid" in names
    table = {line.split()[0]: line.split() for line in lines[3 : 3 + len(GATEABLE)]}
    assert list(table) == list(GATEABLE)
    assert table["invalid"] == ["invalid", "1", "<=", "0", "FAILED"]
    assert table["max_abs"] == ["max_abs", f"{made.metrics.max_abs:.6f}", "<=", "100", "ok"]
    assert table["cosine_mean"] == ["cosine_mean", f"{made.metrics.cosine_mean:.6f}"]
    assert lines[-5].split(maxsplit=1) == ["invalid", "image 3"]
    assert lines[-4].split(maxsplit=1) == [f"{made.worst[1][1]:.6f}", made.worst[1][0]]


def test_the_text_of_identical_rows_says_none_for_the_noise() -> None:
    _, reference = pair()
    lines = render_report(report(reference, reference)).splitlines()
    assert lines[0] == "PASS: a.tflite against b.npz, 60 images"
    (noise,) = [line.split() for line in lines if line.startswith("sqnr_db")]
    assert noise == ["sqnr_db", "none", ">=", "20", "ok"]
