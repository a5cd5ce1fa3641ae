"""Bootstrap intervals: they cover what they should, and agree with other ways to the same figure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from embedlite.runtime.drift import measure
from embedlite.runtime.drift.intervals import (
    bootstrap_intervals,
    draw,
    interval_around,
    wilson_interval,
    wilson_upper,
)
from embedlite.runtime.drift.rows import Rows

from drift_pairs import pair


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trials=st.integers(1, 5000))
def test_shares_have_the_interval_of_wilson(data: st.DataObject, trials: int) -> None:
    hits = data.draw(st.integers(0, trials))
    wanted = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    upper = binomtest(hits, trials, alternative="less").proportion_ci(0.95, method="wilson").high
    assert wilson_upper(hits, trials) == pytest.approx(upper, abs=1e-12)


def test_every_replicate_draws_as_many_groups_as_there_are() -> None:
    weights = draw(37)
    assert weights.shape == (1000, 37)
    assert (weights.sum(axis=1) == 37).all()
    np.testing.assert_array_equal(weights, draw(37))


def test_the_intervals_are_those_of_scipys_bootstrap() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(size=(400, 8))
    # Rows of very different noise, so that the intervals are wide.
    candidate = reference + rng.normal(size=(400, 8)) * rng.exponential(0.1, (400, 1))
    measurement = measure(Rows(candidate), Rows(reference), 5)
    mine = bootstrap_intervals(measurement)
    per_row = np.stack([measurement.signal, measurement.noise])
    figures = {
        "cosine_mean": ((measurement.cosines,), np.mean),
        "norm_ratio_mean": ((measurement.norm_ratios,), np.mean),
        "cosine_p1": ((measurement.cosines,), lambda rows, axis: np.quantile(rows, 0.01, axis, method="inverted_cdf")),
        "sqnr_db": (tuple(per_row), lambda s, n, axis: 10 * np.log10(s.sum(axis) / n.sum(axis))),
    }
    for name, (rows, figure) in figures.items():
        theirs = bootstrap(
            rows, figure, paired=True, n_resamples=4000, method="percentile", random_state=0, vectorized=True
        ).confidence_interval
        width = theirs.high - theirs.low
        assert mine[name] == pytest.approx((theirs.low, theirs.high), abs=0.15 * width), name


def test_groups_of_many_rows_give_the_interval_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(8000, 4)).astype(np.float32)
    candidate = reference + 0.1 * rng.normal(size=reference.shape).astype(np.float32)
    measurement = measure(Rows(candidate), Rows(reference), None)
    low, high = bootstrap_intervals(measurement)["cosine_mean"]
    error = measurement.cosines.std() / np.sqrt(len(reference))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_nineteen_of_twenty_intervals_cover_the_truth() -> None:
    """The truth is known: the noise has a tenth of the signal's standard deviation, so the ratio is 20 dB."""
    covered = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        reference = rng.normal(size=(150, 6))
        candidate = reference + 0.1 * rng.normal(size=reference.shape)
        low, high = bootstrap_intervals(measure(Rows(candidate), Rows(reference), None))["sqnr_db"]
        covered += low <= 20 <= high
    # Binomial(80, 0.95) lies above this with probability 0.9999.
    assert covered >= 67


@pytest.mark.parametrize("invalid", [0, 1, 7])
def test_intervals_hold_their_values_and_only_gateable_figures_have_one(invalid: int) -> None:
    candidate, reference = pair()
    candidate[:invalid] = np.nan
    measurement = measure(Rows(candidate), Rows(reference), 5)
    found = bootstrap_intervals(measurement)
    for name, (low, high) in found.items():
        assert low <= getattr(measurement.drift, name) <= high, name
    missing = {"cosine_min", "max_abs", "dead_dimensions", "count", "k", "cka", "procrustes"}
    assert missing.isdisjoint(found)
    assert found.keys() | missing == set(measurement.drift.__dataclass_fields__)
    low, high = found["invalid"]
    assert low == pytest.approx(wilson_interval(invalid, 60)[0] * 60)
    assert high > invalid


def test_when_nothing_is_valid_only_that_has_an_interval() -> None:
    candidate, reference = pair()
    assert set(bootstrap_intervals(measure(Rows(candidate * np.nan), Rows(reference), 5))) == {"invalid"}


def test_an_interval_with_many_undefined_replicates_is_none() -> None:
    replicates = np.linspace(0, 1, 100)
    assert interval_around(replicates, 0.5) == pytest.approx((0.025, 0.975), abs=0.001)
    replicates[:20] = np.nan
    assert interval_around(replicates, 0.5) is None
    assert interval_around(np.linspace(0, 1, 100), np.inf) is None
