"""Vectors that say nothing are counted, each by its own name, against plain loops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedlite.convert.outcome.explain import explain_silent
from embedlite.convert.outcome.recommend import recommend
from embedlite.convert.results import ExportedFile
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.silent import Silent, count_silent


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def test_vectors_that_differ_say_something(vectors: np.ndarray) -> None:
    found = count_silent(vectors)
    assert found == Silent(40, 0, 0, 0, collapsed=False)
    assert not found.any
    assert str(found) == "none"


def test_each_kind_is_counted_once_by_its_own_name(vectors: np.ndarray) -> None:
    vectors[[3, 5]] = 0
    vectors[[7, 8, 9]] = 0.25
    vectors[[20, 21]] = vectors[10]
    vectors[30] = np.nan
    found = count_silent(vectors)
    assert found == Silent(40, 2, 3, 2, collapsed=False, first=3)
    assert str(found) == "2 zero, 3 constant, 2 repeated of 40 vectors"
    assert count_silent(Rows(vectors, np.arange(40)[::-1])) == replace(found, first=39 - 20)


def test_negative_zeros_are_zeros_and_one_value_cannot_vary() -> None:
    assert count_silent(np.array([[-0.0, 0.0], [1.0, 2.0]])).zero == 1
    assert not count_silent(np.array([[1.0], [2.0], [3.0], [4.0]])).any


def test_collapse_is_one_direction_for_different_vectors(vectors: np.ndarray) -> None:
    base = np.ones(8) + np.arange(8)
    assert count_silent(base + 1e-4 * vectors).collapsed
    assert not count_silent(base + 0.1 * vectors).collapsed
    same = count_silent(np.tile(base, (40, 1)))
    assert (same.repeated, same.collapsed) == (39, False)


def exported(vectors: np.ndarray) -> ExportedFile:
    drift, _ = measure_drift(vectors, vectors, k=None)
    figures = (drift, {}, 10.0, 10.0, 10.0, None, ())
    return ExportedFile("float32", Path("m.float32.tflite"), 1, "", {}, (), *figures, silent=count_silent(vectors))


def test_a_file_that_says_nothing_is_named_and_not_recommended(vectors: np.ndarray) -> None:
    vectors[:20] = 0
    timed_on = {"name": "ai-edge-litert"}
    (said,) = recommend([exported(vectors)], timed_on).ship
    assert said.startswith("nothing to ship: the embeddings say nothing of the images (float32: 20 zero of 40 vectors)")
    (told,) = explain_silent([exported(vectors)])
    assert told.endswith("some say nothing: 20 zero of 40 vectors. It is not recommended.")
    vectors[:20] = np.random.default_rng(1).normal(size=(20, 8))
    assert explain_silent([exported(vectors)]) == []
    assert "nothing to ship" not in recommend([exported(vectors)], timed_on).ship[0]
