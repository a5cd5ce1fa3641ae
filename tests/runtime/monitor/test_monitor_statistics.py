"""What a monitor keeps: exact sums, fixed bins, statistics that merge, and metrics against plain numpy."""

import functools
import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.runtime.drift import measure_drift
from embedlite.runtime.drift.gates import DEFAULT_GATES, apply_gates
from embedlite.runtime.errors import DataError, UnreadableDataError
from embedlite.runtime.monitor import ReferenceDistribution
from embedlite.runtime.monitor.distribution import SCORE_BINS, canonical_bytes
from embedlite.runtime.monitor.log_bins import QUANTILES, LogBins, quantiles
from embedlite.runtime.monitor.monitor import BURST_SECONDS, TimeBudget
from embedlite.runtime.monitor.paired import (
    DISTANCE_BINS,
    add_pair,
    paired_layout,
    paired_metrics,
    variances,
)
from embedlite.runtime.monitor.tallies import WORST_ROWS, ExactSums, Statistics
from embedlite.runtime.monitor.unpaired import add_row, unpaired_layout, unpaired_metrics

finite = st.floats(allow_nan=False, allow_infinity=False)
SIZE = 6


# Exact sums


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(finite, finite), max_size=20), data=st.data())
def test_sums_are_exact_in_any_order_and_grouping(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    groups: list[ExactSums] = [ExactSums(2)]
    for row in data.draw(st.permutations(rows)):
        if data.draw(st.booleans()):
            groups.append(ExactSums(2))
        groups[-1].add(np.array(row))
    total = functools.reduce(ExactSums.merge, data.draw(st.permutations(groups)))
    assert total.fractions() == [sum((Fraction(row[column]) for row in rows), Fraction()) for column in range(2)]
    again = ExactSums.from_texts(total.to_texts())
    assert again.fractions() == total.fractions()
    assert again.to_texts() == total.to_texts()


def test_a_sum_is_written_as_the_c_language_writes_it() -> None:
    sums = ExactSums(4)
    sums.add(np.array([0.375, -5e-324, 1e300, 0.0]))
    assert [float.fromhex(text) for text in sums.to_texts()] == [0.375, -5e-324, 1e300, 0.0]
    assert sums.to_texts()[0] == "0x3p-3"


@pytest.mark.parametrize("text", ["", "1.5", "0x1", "0xgp+0", "0x1p+0 ", "0x1p-9999", "0x1p+1089", "--0x1p+0"])
def test_what_is_no_sum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a sum|is out of range"):
        ExactSums.from_texts([text])


# Bins


@given(value=finite)
def test_a_value_lies_in_its_bin(value: float) -> None:
    for bins in (DISTANCE_BINS, SCORE_BINS):
        low, high = bins.bounds(bins.bin_of(value))
        assert low <= max(value, 0) < high


def test_bins_meet_and_are_as_narrow_as_they_say() -> None:
    bins = LogBins(-3, 2, 8)
    edges = [bins.bounds(index) for index in range(bins.count)]
    assert (edges[0][0], edges[-1][1]) == (0, math.inf)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))
    assert all(high - low <= low / 8 for low, high in edges[1:-1])
    assert [bins.bin_of(low) for low, _ in edges] == list(range(bins.count))


@given(values=st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_quantiles_bound_the_nearest_rank(values: list[float]) -> None:
    counts = np.zeros(DISTANCE_BINS.count, np.int64)
    for value in values:
        counts[DISTANCE_BINS.bin_of(value)] += 1
    found = quantiles(DISTANCE_BINS, counts)
    assert [one["share"] for one in found] == [float(share) for share in QUANTILES]
    for one, share in zip(found, QUANTILES, strict=True):
        ranked = sorted(values)[math.ceil(share * len(values)) - 1]
        assert one["low"] <= ranked < one["high"]


# Budget


@settings(max_examples=200, deadline=None)
@given(
    share=st.sampled_from([0.01, 0.05, 0.5, 1.0]),
    steps=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20), st.booleans()), max_size=60),
)
def test_work_never_takes_more_than_its_share(share: float, steps: list[tuple[float, float, bool]]) -> None:
    """In every stretch of time, but for one piece of work and what is charged; a pause is worth a minute at most."""
    now = 0.0
    budget = TimeBudget(share, lambda: now, 1.0)
    spent: list[tuple[float, float]] = []
    for pause, work, charged in steps:
        now += pause
        reserved = None if charged else budget.reserve()
        if charged:
            now += work
            budget.charge(work)
        elif reserved is not None:
            now += work
            budget.settle(reserved, work)
        if charged or reserved is not None:
            spent.append((now, work))
    charges = [work for _, work, charged in steps if charged]
    longest = max([1.0, *(work for _, work in spent)])
    total = sum(work for _, work in spent)
    assert total <= share * now + longest + sum(charges) + 1e-6
    for start, (began, first) in enumerate(spent):
        stretch = now - (began - first)
        burst = max(share * BURST_SECONDS, longest)
        assert sum(work for _, work in spent[start:]) <= share * stretch + burst + longest + sum(charges) + 1e-6


def test_a_budget_is_used_up() -> None:
    now = 0.0
    budget = TimeBudget(0.125, lambda: now, 1.0)
    done = 0
    for _ in range(1000):
        now += 1.0
        if budget.reserve() is not None:
            budget.settle(1.0, 1.0)
            done += 1
    assert done == 125


# Statistics that merge


def vectors(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Candidate and reference rows, (count, SIZE) float32, some of them broken in every way."""
    rng = np.random.default_rng(seed)
    reference = (rng.normal(size=(count, SIZE)) * 10.0 ** rng.integers(-20, 15, (count, 1))).astype(np.float32)
    candidate = (reference * rng.normal(1, 0.05, reference.shape)).astype(np.float32)
    candidate[3::17] = 0
    candidate[5::17] = 2.5
    candidate[7::17, 2] = np.nan
    reference[9::17] = 0
    candidate[11::17] = reference[11::17]
    return candidate, reference


HOME = ReferenceDistribution.from_embeddings(np.random.default_rng(5).normal(1, 2, (200, SIZE)).astype(np.float32))

Add = Callable[[Statistics, int], None]


def paired_case(count: int) -> tuple[Statistics, Add]:
    candidate, reference = vectors(count)
    return Statistics(paired_layout(SIZE)), lambda statistics, row: add_pair(statistics, candidate[row], reference[row])


def unpaired_case(count: int) -> tuple[Statistics, Add]:
    candidate, _ = vectors(count)
    return Statistics(unpaired_layout(SIZE)), lambda statistics, row: add_row(statistics, candidate[row], HOME)


@pytest.mark.parametrize("case", [paired_case, unpaired_case])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(0, 60))
def test_any_partition_in_any_order_gives_the_same_bytes(
    case: Callable[[int], tuple[Statistics, Add]], data: st.DataObject, count: int
) -> None:
    whole, add = case(count)
    for row in range(count):
        add(whole, row)
    owners = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    parts = [Statistics(whole.layout) for _ in range(5)]
    for row in data.draw(st.permutations(range(count))):
        add(parts[owners[row]], row)
    waiting = data.draw(st.permutations(parts))
    while len(waiting) > 1:
        # Any tree of merges; each part goes through its file's form on the way.
        one = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        other = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        stored = Statistics.from_json(whole.layout, json.loads(canonical_bytes(one.to_json())))
        waiting.append(stored.merge(other))
    assert canonical_bytes(waiting[0].to_json()) == canonical_bytes(whole.to_json())


def test_merging_leaves_both_as_they_were() -> None:
    one, add = paired_case(40)
    other = Statistics(one.layout)
    for row in range(40):
        add(one if row % 2 else other, row)
    before = canonical_bytes([one.to_json(), other.to_json()])
    merged = one.merge(other)
    add(merged, 0)
    assert canonical_bytes([one.to_json(), other.to_json()]) == before


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("counts", {"rows": -1, "invalid": 0, "norm_ratios": 0}),
        ("counts", {"rows": 2.0, "invalid": 0, "norm_ratios": 0}),
        ("sums", {"candidate": "0x1p+0"}),
        ("tables", {"cosine_distance": "9999999:1"}),
        ("tables", {"cosine_distance": "1:-1"}),
        ("tables", {"cosine_distance": 7}),
        ("maxima", {"max_abs": "big"}),
        ("maxima", {"max_abs": True}),
        ("worst", [{"cosine_distance": 0.1, "max_abs": 0}, {"cosine_distance": 0.2, "max_abs": 0}]),
        ("worst", None),
    ],
)
def test_statistics_of_another_form_are_refused(part: str, wrong: object) -> None:
    statistics, add = paired_case(40)
    for row in range(40):
        add(statistics, row)
    value = {**statistics.to_json(), part: wrong}
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Statistics.from_json(statistics.layout, value)


# Metrics


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_the_drift_reports(seed: int) -> None:
    """All that need no neighbours, on rows with a bias, gains, a dead dimension and broken rows."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(3, 1, (300, SIZE)).astype(np.float32)
    candidate = (reference * rng.uniform(0.8, 1.2, SIZE) + rng.normal(0.1, 0.05, reference.shape)).astype(np.float32)
    candidate[:, 4] = candidate[0, 4]
    candidate[3::50] = 0
    candidate[5::50, 2] = np.inf
    statistics = Statistics(paired_layout(SIZE))
    for pair in zip(candidate, reference, strict=True):
        add_pair(statistics, *pair)
    found, (drift, cosines) = paired_metrics(statistics), measure_drift(candidate, reference, k=None)
    for name, value in found.items():
        if name != "cosine_p1":
            assert value == pytest.approx(getattr(drift, name), rel=1e-9), name
    assert (found["count"], found["invalid"], found["dead_dimensions"]) == (300, 12, 1)
    known = np.sort(cosines[~np.isnan(cosines)])
    low, high = DISTANCE_BINS.bounds(DISTANCE_BINS.bin_of(1 - known[len(known) - math.ceil(0.99 * len(known))]))
    assert found["cosine_p1"] == max(1 - high, found["cosine_min"])
    assert high - low <= low / 32
    assert [row[0] for row in statistics.worst] == pytest.approx(1 - known[:WORST_ROWS], abs=1e-12)


def test_a_large_mean_cancels_nothing() -> None:
    """Where float64 sums of squares would lose a dimension's variance altogether."""
    reference = np.arange(40, dtype=np.float32).reshape(20, 2) / 16 + np.array([2**20, 0], np.float32)
    statistics = Statistics(paired_layout(2))
    for row in reference:
        add_pair(statistics, row, row)
    sums = statistics.sums()
    found = variances(sums["reference"], sums["reference_squared"], len(reference))
    assert found == pytest.approx((reference.astype(np.float64) - [2**20, 0]).var(axis=0), rel=1e-15)


@pytest.mark.parametrize("count", [1, 5])
def test_inputs_that_are_all_the_same_tell_nothing_of_dimensions(count: int) -> None:
    """A camera that has seen one scene so far: no spread, so no shift in units of it, and no gate that fails."""
    candidate, reference = (np.linspace(1, end, SIZE, dtype=np.float32) for end in (2.01, 2))
    statistics = Statistics(paired_layout(SIZE))
    for _ in range(count):
        add_pair(statistics, candidate, reference)
    found = paired_metrics(statistics)
    assert [found[name] for name in ("bias_max_sigma", "gain_error_max", "dead_dimensions")] == [None] * 3
    assert found["max_abs"] == pytest.approx(0.01)
    assert all(gate.passed for gate in apply_gates(found, DEFAULT_GATES))


def test_without_a_valid_row_there_are_counts_only() -> None:
    for statistics, metrics in (
        (Statistics(paired_layout(2)), paired_metrics),
        (Statistics(unpaired_layout(SIZE)), lambda these: unpaired_metrics(these, HOME)),
    ):
        found = metrics(statistics)
        assert (found.pop("count"), found.pop("invalid")) == (0, 0)
        assert set(found.values()) == {None}


def plain_psi(home: np.ndarray, field: np.ndarray) -> float:
    """The index of two samples over the first one's deciles, by numpy."""
    edges = np.sort(home)[[math.ceil(len(home) * part / 10) - 1 for part in range(1, 10)]]
    p, q = (np.bincount(np.searchsorted(edges, values), minlength=10) for values in (home, field))
    used = (p + q) > 0
    p, q = p[used] + 0.5, q[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def test_unpaired_metrics_are_those_of_the_whole_sample() -> None:
    rng = np.random.default_rng(3)
    home = rng.normal(1, 2, (500, SIZE)).astype(np.float32)
    field = (rng.normal(1.5, 2.5, (400, SIZE)) * np.linspace(1, 2, SIZE)).astype(np.float32)
    reference = ReferenceDistribution.from_embeddings(home, "ab" * 32)
    statistics = Statistics(unpaired_layout(SIZE))
    for row in (*field, np.zeros(SIZE, np.float32), np.full(SIZE, np.nan, np.float32)):
        add_row(statistics, row, reference)
    found = unpaired_metrics(statistics, reference)
    home, field = home.astype(np.float64), field.astype(np.float64)
    psi = [plain_psi(*pair) for pair in zip(home.T, field.T, strict=True)]
    scores = np.sqrt((((field - home.mean(axis=0)) / home.std(axis=0)) ** 2).mean(axis=1))
    norms = [np.linalg.norm(rows, axis=1) for rows in (home, field)]
    spreads = field.std(axis=0) / home.std(axis=0)
    assert (found["count"], found["invalid"]) == (402, 2)
    assert found["psi_max"] == pytest.approx(max(psi))
    assert found["psi_mean"] == pytest.approx(np.mean(psi))
    assert found["psi_excess"] == pytest.approx(np.mean(psi) - 9 * (1 / 400 + 1 / 500))
    assert found["norm_psi"] == pytest.approx(plain_psi(*norms))
    shifts = np.abs(field.mean(axis=0) - home.mean(axis=0)) / home.std(axis=0)
    assert found["mean_shift_max_sigma"] == pytest.approx(shifts.max())
    assert (found["spread_ratio_min"], found["spread_ratio_max"]) == pytest.approx((spreads.min(), spreads.max()))
    ranked = np.sort(scores)[math.ceil(0.99 * len(scores)) - 1]
    assert ranked <= found["score_p99"] <= ranked * (1 + 1 / 32)
    assert statistics.worst[0][0] == pytest.approx(scores.max())


@pytest.mark.parametrize("count", [1, 10, 40, 400])
def test_the_same_population_has_no_excess_however_few_there_are(count: int) -> None:
    rng = np.random.default_rng(count)
    basis = rng.normal(size=(8, SIZE))
    rows = (rng.normal(size=(500 + count, 8)) @ basis).astype(np.float32)
    reference = ReferenceDistribution.from_embeddings(rows[:500])
    statistics = Statistics(unpaired_layout(SIZE))
    for row in rows[500:]:
        add_row(statistics, row, reference)
    excess = unpaired_metrics(statistics, reference)["psi_excess"]
    assert excess is not None
    assert excess < 0.25


def test_a_row_at_the_other_end_of_the_world_has_a_finite_score() -> None:
    flat = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    flat[:, 1] = 1e-30
    reference = ReferenceDistribution.from_embeddings(flat * np.float32(1e-30))
    statistics = Statistics(unpaired_layout(3))
    add_row(statistics, np.array([3e38, -3e38, 3e38], np.float32), reference)
    assert math.isfinite(statistics.worst[0][0])
    canonical_bytes(statistics.to_json())


# A distribution's file


def test_a_distribution_is_the_same_after_its_file(tmp_path: Path) -> None:
    HOME.save(tmp_path / "home.json")
    again = ReferenceDistribution.load(tmp_path / "home.json")
    assert again.fingerprint == HOME.fingerprint
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "home.json").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"embedlite": "drift-monitor"},
        {"rows": 0},
        {"rows": 199},
        {"sigma": [1.0]},
        {"mean": []},
        {"counts": [[1.5] * 10] * SIZE},
        {"norm_edges": None},
    ],
)
def test_a_file_that_is_no_distribution_is_named(change: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text(json.dumps({**HOME.to_json(), **change}))
    with pytest.raises(UnreadableDataError, match=r"cannot read .*home\.json as a reference distribution"):
        ReferenceDistribution.load(tmp_path / "home.json")


def test_a_distribution_needs_finite_rows_and_enough_of_them() -> None:
    with pytest.raises(DataError, match="needs 20 finite embeddings or more; received 19, 0 of them"):
        ReferenceDistribution.from_embeddings(np.zeros((19, 3)))
    with pytest.raises(DataError, match="received 30, 1 of them not finite"):
        ReferenceDistribution.from_embeddings(np.concatenate([np.zeros((29, 3)), np.full((1, 3), np.inf)]))
