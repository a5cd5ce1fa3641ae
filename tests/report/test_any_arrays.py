"""Any pair of float arrays gives a report, its text, JSON, JUnit XML and page, or one error; no PASS for nothing."""

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embedlite.report.outputs import render_junit
from embedlite.report.page import render_page
from embedlite.report.page.map import project
from embedlite.runtime.drift import measure
from embedlite.runtime.drift.report import DriftReport
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.text import render_text
from embedlite.runtime.errors import DataError

from drift_pairs import report

EXTREMES = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-300, 1e-20, 1e20, 3e38, 1e300, math.inf, -math.inf, math.nan]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Candidate and reference: noise, constants, extremes, or rows that repeat, in any float dtype."""
    count, size = draw(st.sampled_from([(1, 1), (1, 7), (2, 1), (3, 2), (12, 1), (12, 5), (30, 4), (12, 1100)]))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    finite = st.floats(width=16, allow_nan=False, allow_infinity=False)
    made = []
    for extremes in (EXTREMES, [value for value in EXTREMES if math.isfinite(value)]):
        kind = draw(st.sampled_from(["noise", "constant", "elements", "row"]))
        noise = np.random.default_rng(draw(st.integers(0, 3))).normal(size=(count, size))
        if kind == "constant":
            noise[:] = draw(st.sampled_from(extremes))
        elif kind == "row":
            noise[:] = noise[0]
        elif kind == "elements":
            few = draw(arrays.arrays(np.float64, 6, elements=st.one_of(finite, st.sampled_from(extremes))))
            noise.flat[: min(6, noise.size)] = few[: min(6, noise.size)]
        with np.errstate(all="ignore"):
            made.append((noise * draw(st.sampled_from([1.0, 1e-30, 1e30]))).astype(dtype))
    return (made[0], made[1]) if draw(st.booleans()) else (made[1].copy(), made[1])


def shown(candidate: np.ndarray, reference: np.ndarray) -> DriftReport:
    """The report, after everything that shows it was made and looked at."""
    made = report(candidate, reference, k=min(5, len(reference) - 1) or None)
    projection = project(measure(Rows(candidate), Rows(reference), None), [f"image {row}" for row in range(99)])
    page = render_page(made, projection).decode()
    text = render_text(made, 400, details=True)
    saved = json.loads(json.dumps(made.to_json(), allow_nan=False))
    again = DriftReport.from_json(saved)
    ElementTree.fromstring(render_junit(made))
    render_page(again)
    assert again.verdict == made.verdict == saved["verdict"]
    assert again.judge({}).verdict == made.verdict
    for word in ("nan", "None"):
        assert word not in page.replace("nance", "").replace("dominant", "")
        assert word not in text
    return made


@settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.generate])
@given(pairs())
def test_any_pair_of_arrays_is_shown(pair: tuple[np.ndarray, np.ndarray]) -> None:
    candidate, reference = pair
    try:
        made = shown(candidate, reference)
    except DataError:
        assert not np.isfinite(Rows(reference).take(slice(None))).all()
        return
    if made.passed:
        rows = Rows(reference).take(slice(None))
        assert (rows != rows[0]).any()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (np.full((20, 6), np.float32(0)), "an embedding of zeros for all 20 images"),
        (np.tile(np.arange(6, dtype=np.float32), (20, 1)), "the same embedding for all 20 images"),
        (np.ones((20, 6), np.float32) * np.arange(20, dtype=np.float32)[:, None], "zero or constant"),
        (np.arange(6, dtype=np.float32)[None], "a single image"),
        (np.ones((12, 10_000), np.float32), "the same embedding for all 12 images"),
    ],
    ids=["zero", "identical", "constant", "one image", "10,000 dimensions"],
)
def test_a_reference_that_does_not_vary_decides_nothing(reference: np.ndarray, said: str) -> None:
    made = shown(reference.copy(), reference)
    assert (made.verdict, made.advice.action) == ("undecided", "cannot-tell")
    assert said in render_text(made, 400, details=True)
    assert said in render_page(made).decode()
    broken = made.judge({"cosine_min": 2.0})
    assert (broken.verdict, broken.advice.action) == ("fail", "do-not-ship")


def test_a_shift_of_what_does_not_vary_is_shown_as_unbounded() -> None:
    reference = np.tile(np.arange(6, dtype=np.float32), (20, 1))
    made = shown(reference + 1, reference)
    assert made.verdict == "fail"
    assert math.isinf(made.metrics["bias_max_sigma"] or 0)
    assert "the shift of 6 is unbounded" in render_page(made).decode()
