"""Decisions at a threshold: pairs, rates, flips and advice, against plain loops over all pairs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from embedlite.runtime.drift import measure
from embedlite.runtime.drift.decisions import (
    MOST_PAIRS,
    decide,
    labelled_pairs,
    neighbour_pairs,
    score,
)
from embedlite.runtime.drift.metrics import rank_correlation
from embedlite.runtime.drift.rows import Rows

from drift_pairs import ROWS, failed, labelled_report, pair, report


def classes(count: int = 90, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of six classes around centres of their own, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 6
    centres = rng.normal(size=(6, size))
    return (centres[labels] + 0.7 * rng.normal(size=(count, size))).astype(np.float32), labels


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_all_pairs_of_few_rows_are_looked_at_once() -> None:
    _, labels = classes(30)
    pairs = labelled_pairs(labels)
    seen = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert seen == {(one, other) for one in range(30) for other in range(30) if one != other}
    assert len(seen) == len(pairs.first)
    np.testing.assert_array_equal(pairs.genuine, labels[pairs.first] == labels[pairs.second])


@pytest.mark.parametrize("sizes", [[2000, 1000], [1500, 1, 1, 1498], [2] * 1500])
def test_of_many_pairs_a_random_part_of_each_kind_is_looked_at(sizes: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    pairs = labelled_pairs(labels)
    assert (pairs.first != pairs.second).all()
    np.testing.assert_array_equal(pairs.genuine, labels[pairs.first] == labels[pairs.second])
    assert pairs.genuine.sum() == min(MOST_PAIRS, sum(size * (size - 1) for size in sizes))
    assert (~pairs.genuine).sum() > 0.3 * MOST_PAIRS
    if pairs.genuine.sum() == MOST_PAIRS:
        # Every genuine pair is as likely as any other: classes appear in proportion to their pairs.
        counts = np.bincount(labels[pairs.first[pairs.genuine]], minlength=len(sizes))
        wanted = np.array([size * (size - 1) for size in sizes], float)
        np.testing.assert_allclose(counts / counts.sum(), wanted / wanted.sum(), atol=0.01)


def test_without_labels_neighbours_are_genuine_and_all_others_impostors() -> None:
    candidate, reference = pair()
    measurement = measure(Rows(candidate), Rows(reference), 4)
    assert measurement.neighbours is not None
    pairs = neighbour_pairs(measurement.neighbours)
    for row in range(ROWS):
        similar = [cosine(reference[row], other) if place != row else -2 for place, other in enumerate(reference)]
        nearest = set(np.argsort(similar)[-4:].tolist())
        of_row = pairs.first == row
        assert set(pairs.second[of_row & pairs.genuine].tolist()) == nearest
        assert set(pairs.second[of_row & ~pairs.genuine].tolist()) == set(range(ROWS)) - nearest - {row}


def test_scores_are_cosines_of_both_models() -> None:
    candidate, reference = pair()
    pairs = labelled_pairs(np.arange(ROWS) % 3)
    scores = score(pairs, Rows(candidate), Rows(reference))
    for place in range(0, len(pairs.first), 97):
        one, other = pairs.first[place], pairs.second[place]
        assert scores.reference[place] == pytest.approx(cosine(reference[one], reference[other]))
        assert scores.cross[place] == pytest.approx(cosine(candidate[one], reference[other]))
        assert scores.own[place] == pytest.approx(cosine(candidate[one], candidate[other]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40))
def test_the_rank_correlation_is_spearmans(values: list[tuple[int, int]]) -> None:
    one, other = np.array(values, float).T
    mine = rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert mine is None
    else:
        assert mine == pytest.approx(spearmanr(one, other).statistic)


@pytest.mark.parametrize("far", [0.02, 0.1, 0.5])
def test_rates_and_flips_are_those_of_a_plain_loop(far: float) -> None:
    reference, labels = classes()
    candidate = reference + 0.2 * np.random.default_rng(1).normal(size=reference.shape)
    pairs = labelled_pairs(labels)
    scores = score(pairs, Rows(candidate), Rows(reference))
    made = decide(pairs, scores, far)
    assert made is not None
    same = labels[pairs.first] == labels[pairs.second]
    assert made.far_float == np.mean(scores.reference[~same] > made.threshold) <= far
    impostors = scores.reference[~same]
    rejected, accepted = impostors[impostors <= made.threshold].max(), impostors[impostors > made.threshold].min()
    assert np.mean(impostors >= rejected) > far, "a lower threshold would accept too many"
    assert made.threshold == pytest.approx((rejected + accepted) / 2)
    assert accepted - rejected > 1e-9, "a pair and the same the other way round are decided alike"
    assert made.tar_float == np.mean(scores.reference[same] > made.threshold)
    before = scores.reference > made.threshold
    for side, values in ((made.cross, scores.cross), (made.own, scores.own)):
        after = values > made.threshold
        assert side.far == np.mean(after[~same])
        assert side.tar == np.mean(after[same])
        assert side.genuine_lost == sum(b and not a for b, a in zip(before[same], after[same], strict=True))
        assert side.genuine_gained == sum(a and not b for b, a in zip(before[same], after[same], strict=True))
        assert side.impostor_gained == sum(a and not b for b, a in zip(before[~same], after[~same], strict=True))
        assert side.impostor_lost == sum(b and not a for b, a in zip(before[~same], after[~same], strict=True))
        assert np.mean(values[~same] > side.threshold_restored) <= far
        assert side.tar_restored == np.mean(values[same] > side.threshold_restored)
        assert side.false_reject_flips <= side.false_reject_flips_upper <= 1
        assert side.false_accept_flips <= side.false_accept_flips_upper <= 1


def test_the_bound_of_flips_is_not_zero_when_none_was_seen() -> None:
    reference, labels = classes()
    made = labelled_report(reference, reference, labels).decisions
    assert made is not None
    assert made.cross.genuine_lost == made.cross.impostor_gained == 0
    assert 0 < made.cross.false_reject_flips_upper < 0.01
    assert 0 < made.cross.false_accept_flips_upper < 0.01


def test_the_bound_grows_when_one_image_has_all_the_flips() -> None:
    """Pairs share rows: flips of one image are one event, not many."""
    reference, labels = classes()
    candidate = reference.copy()
    candidate[5] = -candidate[5]
    made = labelled_report(candidate, reference, labels, far=0.1).decisions
    assert made is not None
    assert made.own.genuine_lost > 5
    assert made.own.false_reject_flips_upper > 1.5 * made.own.false_reject_flips


def test_few_impostors_raise_the_rate_that_was_not_asked_for() -> None:
    reference, labels = classes(30)
    made = labelled_report(reference, reference, labels).decisions
    assert made is not None
    assert made.far == pytest.approx(10 / made.impostor_pairs)
    asked = labelled_report(reference, reference, labels, far=0.25).decisions
    assert asked is not None
    assert asked.far == 0.25


def test_decisions_need_both_kinds_of_pairs() -> None:
    reference, _ = classes(30)
    everyone_else = np.r_[0, 0, np.arange(1, 29)]
    pairs = labelled_pairs(everyone_else)
    scores = score(pairs, Rows(reference), Rows(reference))
    assert decide(pairs, scores) is not None
    nobody = replace(pairs, genuine=np.zeros(len(pairs.first), bool))
    assert decide(nobody, scores) is None
    assert decide(replace(pairs, genuine=~nobody.genuine), scores) is None


def test_a_clean_candidate_ships_as_it_is() -> None:
    reference, labels = classes()
    candidate = reference + np.float32(1e-5) * np.random.default_rng(0).normal(size=reference.shape).astype(np.float32)
    made = labelled_report(candidate, reference, labels)
    assert made.passed
    assert (made.advice.action, made.advice.threshold) == ("ship", None)
    assert made.advice.headline.startswith("ship as is: stored float vectors stay valid (")
    assert "thresholds stay valid (up to " in made.advice.headline


def test_a_threshold_that_rejects_a_tenth_of_the_genuine_pairs_does_not_stay_valid() -> None:
    """Every gate holds, with labels or without, and yet the old threshold turns people away."""
    reference, labels = classes(180)
    rng = np.random.default_rng(0)
    candidate = (reference + 0.1 * rng.normal(size=reference.shape)).astype(np.float32)
    loose = {"tar_loss": 1.0, "far_ratio": 10.0, "knn_overlap_cross": 0.0, "sqnr_db": 0.0, "cosine_p1": 0.0}
    noisier = (reference + 0.25 * rng.normal(size=reference.shape)).astype(np.float32)
    with_labels = labelled_report(noisier, reference, labels, far=0.05).judge(loose)
    for made in (report(candidate, reference, knn_overlap_cross=0.0), with_labels):
        assert made.passed
        decisions = made.decisions
        assert decisions is not None
        assert max(decisions.tar_loss_upper / 0.01, decisions.far_ratio_upper / 1.25) > 1
        assert made.advice.action == "ship-with-threshold"
        assert made.advice.threshold == decisions.cross.threshold_restored
        assert f"the old threshold {decisions.threshold:.6f} " in made.advice.headline


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 1.5), st.integers(0, 30), st.booleans(), st.booleans(), st.sampled_from([12, 40]), st.floats(0, 0.5)
)
def test_every_clause_of_the_headline_follows_from_the_figures(
    noise: float, seed: int, labelled: bool, rotated: bool, size: int, shift: float
) -> None:
    """The words are read again and held against numbers counted pair by pair."""
    reference, labels = classes(60, size, seed)
    rng = np.random.default_rng(seed + 1)
    moved = reference + noise * rng.normal(size=reference.shape) + shift
    if rotated:
        moved = moved @ np.linalg.qr(rng.normal(size=(size, size)))[0]
    candidate = moved.astype(np.float32)
    made = labelled_report(candidate, reference, labels) if labelled else report(candidate, reference)
    action, headline, decisions = made.advice.action, made.advice.headline, made.decisions
    kept = made.metrics["knn_overlap_cross"]
    assert decisions is not None
    assert kept is not None
    lost, gained = decisions.intervals.get("tar_loss"), decisions.intervals.get("far_ratio")
    assert ("stored float vectors stay valid" in headline) == (action in ("ship", "ship-with-threshold"))
    if "stored float vectors stay valid" in headline:
        assert f"({kept:.1%} of their neighbours are found)" in headline
        assert not failed(made) - {"far_ratio", "tar_loss"}
    if "thresholds stay valid" in headline:
        assert (action, made.advice.threshold, made.passed) == ("ship", None, True)
        assert lost is None or lost[1] <= 0.01
        assert gained is None or gained[1] <= 1.25
        assert decisions.tar_float - decisions.cross.tar <= 0.01
        assert decisions.cross.far <= 1.25 * decisions.far_float
    if action == "ship-with-threshold":
        worse = decisions.tar_float - decisions.cross.tar > 0.01 or decisions.cross.far > 1.25 * decisions.far_float
        assert (f"{decisions.threshold:.6f} does not (" in headline) == worse
        assert made.advice.threshold == decisions.cross.threshold_restored
        assert f"{decisions.cross.tar_restored:.1%} of the genuine pairs; by the float model" in made.advice.why[0]
        assert made.advice.why[0].endswith(f" {decisions.tar_float:.1%}.")
        for clause, upper, most in (
            (f"up to {decisions.far_ratio_upper:.2f} times as many false accepts", decisions.far_ratio_upper, 1.25),
            (f"up to {decisions.tar_loss_upper:.1%} more genuine pairs rejected", decisions.tar_loss_upper, 0.01),
        ):
            assert (clause in headline) == (upper > most)
    if action == "re-embed-gallery":
        assert made.advice.threshold == decisions.own.threshold_restored
        assert f"keep {made.metrics['knn_overlap_self']:.1%} of the neighbours" in headline
    if action == "do-not-ship":
        assert headline.startswith("do not ship: ")
        assert all(f"{name} " in headline for name in failed(made))
    assert (action in ("re-embed-gallery", "do-not-ship")) <= (not made.passed)


def test_queries_that_are_less_similar_to_all_need_another_threshold() -> None:
    """A constant is added to a dimension that the classes do not use: every query turns away from the gallery alike."""
    rng = np.random.default_rng(0)
    reference, labels = classes(180, 40)
    reference[:, 0] = 0.5 * rng.normal(size=180)
    candidate = reference.copy()
    candidate[:, 0] += 15
    wide = dict.fromkeys(("cosine_p1", "sqnr_db", "knn_overlap_cross"), -1000000000.0)
    loose = {"bias_max_sigma": 1e9, "gain_error_max": 1e9}
    made = labelled_report(candidate, reference, labels, far=0.05).judge({**wide, **loose, "tar_loss": 0.05})
    assert failed(made) == {"tar_loss"}
    assert made.advice.action == "ship-with-threshold"
    decisions = made.decisions
    assert decisions is not None
    assert made.advice.threshold == decisions.cross.threshold_restored < decisions.threshold
    assert f"{decisions.cross.threshold_restored:.6f}" in made.advice.headline


def test_a_rotated_space_needs_its_gallery_embedded_again() -> None:
    reference, labels = classes()
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(12, 12)))
    made = labelled_report((reference @ rotation).astype(np.float32), reference, labels)
    assert not made.passed
    assert made.advice.action == "re-embed-gallery"
    assert made.decisions is not None
    assert made.advice.threshold == pytest.approx(made.decisions.threshold, abs=1e-5), "angles are what they were"
    without = report((reference @ rotation).astype(np.float32), reference)
    assert without.advice.action == "re-embed-gallery"


def test_broken_rows_and_noise_do_not_ship() -> None:
    reference, labels = classes()
    broken = reference.copy()
    broken[7] = np.nan
    made = labelled_report(broken, reference, labels)
    assert made.advice.action == "do-not-ship"
    assert "invalid is 1, above its limit of 0" in made.advice.why[0]
    noisy = reference + 3 * np.random.default_rng(0).normal(size=reference.shape).astype(np.float32)
    made = labelled_report(noisy, reference, labels)
    assert made.advice.action == "do-not-ship"
    assert len(made.advice.why) == len(failed(made))


def test_a_limit_within_the_interval_is_called_close() -> None:
    candidate, reference = pair(0.05)
    value = report(candidate, reference).metrics["sqnr_db"]
    assert value is not None
    made = report(candidate, reference).judge({"sqnr_db": value - 0.01, "knn_overlap_cross": 0, "cosine_p1": 0})
    assert made.passed
    assert any("sqnr_db is close" in line for line in made.advice.why)


def test_decisions_gate_by_default_only_with_labels() -> None:
    reference, labels = classes()
    names = {gate.name for gate in labelled_report(reference, reference, labels).gates}
    assert names - {gate.name for gate in report(reference, reference).gates} == {"far_ratio", "tar_loss"}
    asked = report(reference, reference).judge({"tar_loss": 0.5})
    assert "tar_loss" in {gate.name for gate in asked.gates}
