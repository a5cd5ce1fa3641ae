"""Coverage: the traversal's guarantee against all choices there are, and the option from end to end."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embedlite.calibration import select_coverage
from embedlite.calibration.coverage import covering_radius
from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.runtime.errors import RequestError

from conftest import Digits
from encoders import PLAIN

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")


@settings(max_examples=60, deadline=None)
@given(
    rows=arrays.arrays(np.float32, st.tuples(st.integers(2, 9), st.just(2)), elements=st.floats(-9, 9, width=32)),
    count=st.integers(1, 4),
)
def test_the_radius_is_at_most_twice_the_best(rows: np.ndarray, count: int) -> None:
    count = min(count, len(rows))
    found = select_coverage(rows, count)
    assert len(set(found.indices)) == count
    assert found.radius == pytest.approx(covering_radius(rows, list(found.indices)))
    best = min(covering_radius(rows, list(choice)) for choice in itertools.combinations(range(len(rows)), count))
    # From the second point on it is Gonzalez' algorithm; a single point near the mean has the same guarantee.
    assert found.radius <= 2 * best + 1e-5


def test_equal_rows_are_chosen_once_each() -> None:
    assert sorted(select_coverage(np.ones((5, 3), np.float32), 5).indices) == [0, 1, 2, 3, 4]


def test_every_cluster_is_covered() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 100, (12, 16))
    # One cluster has a thousand rows, the others three each.
    sizes = [1000, *[3] * 11]
    rows = np.concatenate([centre + rng.normal(0, 1, (size, 16)) for centre, size in zip(centres, sizes, strict=True)])
    owners = np.repeat(np.arange(12), sizes)
    assert set(owners[list(select_coverage(rows.astype(np.float32), 12).indices)]) == set(range(12))


@pytest.mark.parametrize("count", [0, 6])
def test_more_than_there_are_cannot_be_chosen(count: int) -> None:
    with pytest.raises(RequestError, match="cannot choose"):
        select_coverage(np.zeros((5, 2), np.float32), count)


def test_the_export_says_what_coverage_gained(digits: Digits, tmp_path: Path) -> None:
    result = export(
        digits.model,
        tmp_path,
        quantize=["int8"],
        calibration_data=digits.calibration,
        test_data=digits.test_images,
        options=ExportOptions(num_samples=40, select="coverage", measure=False, **PLAIN),
    )
    text = next(decision for decision in result.decisions if "cover the embedding space" in decision)
    assert text.startswith("40 of 200 calibration images were chosen")
    assert "on 40 other images" in text
    found = re.search(r"farther than ([\d.]+) from a chosen one \(at random: ([\d.]+)\)", text)
    assert found is not None
    assert float(found[1]) < float(found[2])
    assert result.calibration is not None
    contract = json.loads((tmp_path / "model.export.json").read_text())["files"][0]["contract"]
    assert contract["calibration"]["samples"] == 40


def test_the_choice_does_not_depend_on_the_order_of_the_images(digits: Digits, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 1), np.uint8)
    made = [
        export(
            digits.float32,
            tmp_path / name,
            quantize=["int8"],
            calibration_data=data,
            test_data=images[:2],
            options=ExportOptions(num_samples=20, select="coverage", measure=False, **PLAIN),
        )
        for name, data in (("one", images), ("two", images[rng.permutation(60)]))
    ]
    first, second = (next(text for text in result.decisions if "cover the" in text) for result in made)
    assert first == second


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"select": "coverage"}, "Say how many"),
        ({"select": "best"}, "unknown --select"),
        ({"calibrate_method": "average"}, "unknown calibration method"),
    ],
)
def test_what_cannot_be_done_is_said_first(options: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=says):
        export_asked(
            "missing.keras", Asked(output_dir=tmp_path, calibration_data=np.zeros((4, 8, 8, 3), np.uint8), **options)
        )


@pytest.mark.parametrize("options", [{"select": "coverage", "num_samples": 3}, {"calibration_cache": "c.npz"}])
def test_options_of_calibration_need_calibration_data(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Pass --calibration-data"):
        export_asked("missing.keras", Asked(output_dir=tmp_path, **options))
