"""Retrieval against scikit-learn, scipy and plain loops; its intervals against resampling by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import average_precision_score, roc_curve

from embedlite.runtime.drift import measure
from embedlite.runtime.drift.compare import Measurement
from embedlite.runtime.drift.decisions import labelled_pairs, score
from embedlite.runtime.drift.gates import parse_gates
from embedlite.runtime.drift.labelled import precision, retrieval
from embedlite.runtime.drift.labelled.retrieval import LOSSES, equal_error_rates, measure_retrieval
from embedlite.runtime.drift.report import Description, DriftReport, build_report
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.text import render_text

from drift_pairs import CANDIDATE, REFERENCE

COUNT, SIZE, CLASSES = 90, 8, 6


def labelled(noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidate, reference and labels: classes that overlap, one of a single image, and exact duplicates."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, COUNT)
    labels[-1] = CLASSES
    reference = rng.normal(size=(CLASSES + 1, SIZE))[labels] + rng.normal(size=(COUNT, SIZE))
    reference[1], labels[1] = reference[0], labels[0]
    candidate = reference + noise * rng.normal(size=reference.shape)
    return candidate.astype(np.float32), reference.astype(np.float32), labels


def measured(candidate: np.ndarray, reference: np.ndarray, k: int = 10) -> Measurement:
    return measure(Rows(candidate), Rows(reference), k)


def cosines(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Of all with all, without the query itself."""
    sides = [rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
    similar = sides[0] @ sides[1].T
    np.fill_diagonal(similar, -2)
    return similar


def by_hand(similar: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Each figure of every query that has something to find, by plain loops."""
    told: dict[str, list[float]] = {
        name: [] for name in ("recall_at_1", "recall_at_5", "recall_at_10", "knn_accuracy", "map")
    }
    for row in range(len(labels)):
        others = [other for other in range(len(labels)) if other != row]
        if not any(labels[other] == labels[row] for other in others):
            continue
        others.sort(key=lambda other, row=row: (-round(similar[row, other], 12), other))
        near = [labels[other] for other in others]
        for count in (1, 5, 10):
            told[f"recall_at_{count}"].append(float(labels[row] in near[:count]))
        votes = near[:10]
        winner = max(votes, key=lambda label, votes=votes: (votes.count(label), -votes.index(label)))
        told["knn_accuracy"].append(float(winner == labels[row]))
        shown = similar[row, others]
        told["map"].append(average_precision_score(labels[others] == labels[row], shown.round(9)))
    return told


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_plain_loops_and_scikit_learn(seed: int) -> None:
    candidate, reference, labels = labelled(seed=seed)
    neighbours = measured(candidate, reference).neighbours
    assert neighbours is not None
    found = measure_retrieval(Rows(candidate), Rows(reference), labels, neighbours)
    assert found is not None
    before, cross, own = (
        by_hand(cosines(*sides), labels) for sides in ((reference, reference), (candidate, reference), (candidate,) * 2)
    )
    assert found.queries == found.ranked == len(before["map"]) == COUNT - 1
    for name, figure in found.figures.items():
        means = [float(np.mean(side[name])) for side in (before, cross, own)]
        assert [figure.reference, figure.cross, figure.own] == pytest.approx(means, abs=1e-12)
        assert [figure.cross_loss, figure.own_loss] == pytest.approx([means[0] - means[1], means[0] - means[2]])


def test_intervals_are_those_of_queries_drawn_by_hand() -> None:
    candidate, reference, labels = labelled()
    neighbours = measured(candidate, reference).neighbours
    assert neighbours is not None
    found = measure_retrieval(Rows(candidate), Rows(reference), labels, neighbours)
    before, cross = (by_hand(cosines(queries, reference), labels) for queries in (reference, candidate))
    rng = np.random.default_rng(5)
    for name in ("recall_at_1", "map"):
        losses = np.array(before[name]) - np.array(cross[name])
        drawn = losses[rng.integers(0, len(losses), (4000, len(losses)))].mean(axis=1)
        interval = found.figures[name].cross_interval
        assert interval == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.015)


def test_clusters_are_drawn_as_one() -> None:
    candidate, reference, labels = labelled()
    # Each image four times: without clusters the intervals would be half as wide as they should be.
    candidate, reference, labels = (np.repeat(rows, 4, axis=0) for rows in (candidate, reference, labels))
    candidate, reference = (
        rows + np.float32(1e-4) * np.arange(len(rows), dtype=np.float32)[:, None] % 7 for rows in (candidate, reference)
    )
    neighbours = measured(candidate, reference).neighbours
    clusters = np.repeat(np.arange(COUNT), 4)
    alone, together = (
        measure_retrieval(Rows(candidate), Rows(reference), labels, neighbours, given) for given in (None, clusters)
    )
    assert (alone.drawn, together.drawn) == (COUNT * 4, COUNT)
    low, high = alone.figures["map"].cross_interval
    wide_low, wide_high = together.figures["map"].cross_interval
    assert 1.6 < (wide_high - wide_low) / (high - low) < 2.4


def crossing(accepted: np.ndarray, passed: np.ndarray) -> float:
    """Where the ROC meets the line of equal errors."""
    line = interp1d(accepted, passed)
    return brentq(lambda rate: 1 - rate - line(rate), 0, 1)


def test_the_equal_error_rate_is_that_of_the_roc() -> None:
    candidate, reference, labels = labelled()
    pairs = labelled_pairs(labels)
    scores = score(pairs, Rows(candidate), Rows(reference))
    found = equal_error_rates(pairs, scores)
    for side, told in ((scores.reference, found.reference), (scores.cross, found.cross), (scores.own, found.own)):
        accepted, passed, _ = roc_curve(pairs.genuine, side, drop_intermediate=False)
        assert told == pytest.approx(crossing(accepted, passed), abs=1e-9)
    assert found.cross_loss == pytest.approx(found.cross - found.reference)
    low, high = found.cross_interval
    assert low < found.cross_loss < high


def test_its_interval_is_that_of_queries_drawn_by_hand() -> None:
    candidate, reference, labels = labelled()
    pairs = labelled_pairs(labels)
    scores = score(pairs, Rows(candidate), Rows(reference))
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(200):
        times = np.bincount(rng.integers(0, COUNT, COUNT), minlength=COUNT)[pairs.first]
        rates = []
        for side in (scores.reference, scores.cross):
            accepted, passed, _ = roc_curve(pairs.genuine, side, sample_weight=times, drop_intermediate=False)
            rates.append(crossing(accepted, passed))
        drawn.append(rates[1] - rates[0])
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert equal_error_rates(pairs, scores).cross_interval == pytest.approx((low, high), abs=0.2 * (high - low))


def test_of_a_large_gallery_a_part_of_the_queries_is_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, reference, labels = labelled()
    neighbours = measured(candidate, reference).neighbours
    whole = measure_retrieval(Rows(candidate), Rows(reference), labels, neighbours)
    monkeypatch.setattr(precision, "_QUERIES", 7)
    monkeypatch.setattr(precision, "_GALLERY_BLOCK", 13)
    monkeypatch.setattr(precision, "_MOST_WANTED", 300)
    assert measure_retrieval(Rows(candidate), Rows(reference), labels, neighbours) == whole
    monkeypatch.setattr(retrieval, "RANKED_PAIRS", 30 * COUNT)
    monkeypatch.setattr(retrieval, "LEAST_RANKED", 20)
    part = measure_retrieval(Rows(candidate), Rows(reference), labels, neighbours)
    assert (part.queries, part.ranked) == (COUNT - 1, 30)
    assert part.figures["recall_at_1"] == whole.figures["recall_at_1"]


def made(candidate: np.ndarray, reference: np.ndarray, labels: np.ndarray, k: int = 10, **gates: float) -> DriftReport:
    description = Description(
        CANDIDATE, REFERENCE, {"path": None}, [f"{row}.png" for row in range(len(labels))], {}, labels
    )
    return build_report(measured(candidate, reference, k), description, gates)


def test_losses_can_be_gated_and_survive_being_saved() -> None:
    assert set(parse_gates([f"{name}=0.01" for name in LOSSES])) == set(LOSSES)
    candidate, reference, labels = labelled()
    report = made(candidate, reference, labels, recall_at_1_drop=0.01, eer_rise=0.5)
    gates = {gate.name: gate for gate in report.gates}
    loss = report.retrieval.figures["recall_at_1"]
    assert (gates["recall_at_1_drop"].value, gates["recall_at_1_drop"].interval) == (
        loss.cross_loss,
        loss.cross_interval,
    )
    assert gates["recall_at_1_drop"].passed == (loss.cross_loss <= 0.01)
    assert gates["eer_rise"].passed
    again = DriftReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again.retrieval == report.retrieval
    assert "recall@10" in render_text(again, 400, details=True)


def test_without_labels_there_is_none_of_it() -> None:
    candidate, reference, _ = labelled()
    report = build_report(measured(candidate, reference), Description(CANDIDATE, REFERENCE, {}, [""] * COUNT), {})
    assert report.retrieval is None
    assert {report.metrics[name] for name in LOSSES} == {None}
    assert "recall" not in render_text(report, 400, details=True)


def test_fewer_neighbours_than_ten_are_compared_and_ten_are_found_all_the_same() -> None:
    candidate, reference, labels = labelled()
    few, many = (made(candidate, reference, labels, k).retrieval for k in (3, 10))
    assert few == many


def test_where_nothing_is_lost_the_interval_tells_how_many_looked() -> None:
    _, reference, labels = labelled()
    figure = made(reference, reference, labels).retrieval.figures["recall_at_1"]
    assert figure.cross_loss == 0
    low, high = figure.cross_interval
    assert -low == high == pytest.approx(1.96**2 / (COUNT - 1 + 1.96**2), rel=1e-3)


def test_rows_that_are_broken_do_not_search(tmp_path: Path) -> None:
    candidate, reference, labels = labelled()
    candidate[[3, 8]] = np.nan
    report = made(candidate, reference, labels)
    kept = np.delete(np.arange(COUNT), [3, 8])
    assert report.retrieval == made(candidate[kept], reference[kept], labels[kept]).retrieval
