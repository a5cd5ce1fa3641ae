"""Latencies on a busy machine."""

import numpy as np

from embedlite.runtime.check.timing import summarize


def test_what_else_runs_on_the_machine_only_adds_time() -> None:
    rng = np.random.default_rng(0)
    true = 353 * (1 + 0.01 * rng.random(45))
    busy = np.where(rng.random(45) < 0.4, true * rng.uniform(2, 40, 45), true)
    low, latency, high = summarize(list(busy))
    assert 353 <= low <= latency <= high < 360
    assert np.median(busy[:15]) > 353


def test_rounds_that_do_not_agree_are_told_by_the_width() -> None:
    low, latency, high = summarize([100.0, 150.0, 200.0] * 5)
    assert low <= latency <= high
    assert high > 1.3 * low
