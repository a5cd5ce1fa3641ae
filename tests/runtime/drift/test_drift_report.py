"""Gates, the report's forms (JSON, text, JUnit), and judging saved numbers."""

import json
import math
from dataclasses import fields
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from embedlite.report.outputs import render_junit
from embedlite.runtime.drift import Drift
from embedlite.runtime.drift.gates import (
    AT_MOST,
    DECISION_GATES,
    DEFAULT_GATES,
    GATEABLE,
    INFORMATION,
    all_gates,
    apply_gates,
    parse_gates,
)
from embedlite.runtime.drift.labelled.retrieval import LOSSES
from embedlite.runtime.drift.report import DriftReport
from embedlite.runtime.drift.text import render_text
from embedlite.runtime.errors import DataError, RequestError

from drift_pairs import CANDIDATE, IDS, REFERENCE, ROWS, failed, labelled_report, pair, report

KEYS = [
    "schema",
    "verdict",
    "doubt",
    "advice",
    "candidate",
    "reference",
    "data",
    "environment",
    "metrics",
    "intervals",
    "gates",
    "decisions",
    "retrieval",
    "parts",
    "neighbours",
    "histogram",
    "dimensions",
    "worst",
    "ladder",
    "layers",
    "preprocessing",
    "silent",
    "preprocess",
    "other_workers",
]
DECIDED = ["far_ratio", "tar_loss", "false_reject_flips", "false_accept_flips"]


def test_gates_are_the_defaults_with_what_was_asked_on_top() -> None:
    assert parse_gates([]) == {}
    given_twice = parse_gates(["cosine_p1=0.5", "max_abs=1e-3", "cosine_p1=0.75", "sqnr_db=-3"])
    assert given_twice == {"cosine_p1": 0.75, "max_abs": 1e-3, "sqnr_db": -3}
    assert all_gates(given_twice, labelled=False) == {**DEFAULT_GATES, **given_twice}
    assert all_gates({}, labelled=True) == {**DEFAULT_GATES, **DECISION_GATES}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine", "--gate cosine: expected NAME=VALUE with NAME one of invalid, cosine_mean"),
        ("cosine=0.9", "--gate cosine=0.9: expected NAME=VALUE"),
        ("cosine_min", "For example --gate invalid=3"),
        ("=0.9", "expected NAME=VALUE"),
        ("", "expected NAME=VALUE"),
        ("count=3", "count is for information and cannot gate"),
        ("cka=0.9", "cka is for information and cannot gate"),
        ("sqnr_db=high", "'high' is not a finite number. For example --gate sqnr_db="),
        ("sqnr_db=", "'' is not a finite number"),
        ("sqnr_db=nan", "'nan' is not a finite number"),
        ("sqnr_db=inf", "'inf' is not a finite number"),
        ("sqnr_db=0,9", "'0,9' is not a finite number"),
    ],
)
def test_a_gate_that_cannot_be_read_says_what_could(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_gates([text])


def test_every_figure_can_be_gated_or_is_for_information() -> None:
    figures = set(report(*pair()).metrics)
    assert figures == set(GATEABLE) | INFORMATION
    assert set(DEFAULT_GATES) | set(DECISION_GATES) | AT_MOST <= set(GATEABLE)


@pytest.mark.parametrize("name", [name for name in GATEABLE if name not in ("invalid", "dead_dimensions")])
def test_every_metric_can_be_gated_and_its_limit_is_inclusive(name: str) -> None:
    made = labelled_report(*pair(0.3), np.arange(ROWS) % 4) if name in LOSSES else report(*pair(0.3))
    value = made.metrics[name]
    assert value is not None
    step = 0.01 * (abs(value) + 0.1)
    for limit, inside in ((value - step, False), (value, True), (value + step, True)):
        (gate,) = apply_gates(made.metrics, {name: limit if name in AT_MOST else 2 * value - limit}, made.intervals)
        assert gate.passed == inside
        assert gate.margin == pytest.approx(limit - value)
        assert gate.interval == made.intervals.get(name)


@pytest.mark.parametrize(
    ("name", "limit", "reference", "candidate"),
    [
        ("sqnr_db", 20.0, np.zeros((8, 3)), np.arange(24.0).reshape(8, 3)),
        ("bias_max_sigma", 0.1, np.tile([1.0, 2.0, 3.0], (8, 1)), np.tile([2.0, 3.0, 5.0], (8, 1))),
        ("norm_ratio_mean", 0.9, np.zeros((8, 3)), np.arange(24.0).reshape(8, 3)),
    ],
)
def test_an_unbounded_difference_fails_its_gate_now_and_when_it_was_saved(
    name: str, limit: float, reference: np.ndarray, candidate: np.ndarray
) -> None:
    made = report(candidate, reference, k=2, **{name: limit})
    assert name in failed(made)
    value = made.metrics[name]
    assert value is not None
    assert math.isinf(value)
    saved = DriftReport.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))
    assert name in failed(saved.judge({name: limit}))


def test_identical_rows_pass_now_and_when_they_were_saved() -> None:
    _, reference = pair()
    made = report(reference, reference)
    assert made.metrics["sqnr_db"] is None
    assert made.passed
    assert DriftReport.from_json(made.to_json()).judge({"sqnr_db": 100}).passed


def test_the_worst_rows_come_first_and_invalid_ones_before_all() -> None:
    candidate, reference = pair(noise=1e-3)
    candidate[40] = -candidate[40]
    candidate[11] = np.nan
    candidate[50] = np.nan
    made = report(candidate, reference)
    names = [row.id for row in made.worst]
    assert len(names) == 5
    assert names[:3] == ["image 11", "image 50", "image 40"]
    assert [row.cosine for row in made.worst[:2]] == [None, None]
    cosines = [row.cosine for row in made.worst[2:] if row.cosine is not None]
    assert cosines == sorted(cosines)
    assert cosines[0] == pytest.approx(-1, abs=1e-4)


def test_the_worst_rows_name_their_neighbours_before_and_after() -> None:
    candidate, reference = pair(noise=1e-3)
    candidate[11] = np.nan
    candidate[40] = -candidate[40]
    made = report(candidate, reference)
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    similar = unit @ unit[40]
    similar[[11, 40]] = np.nan
    worst = next(row for row in made.worst if row.id == "image 40")
    order = [row for row in np.argsort(similar) if not np.isnan(similar[row])]
    assert list(worst.reference_neighbours) == [IDS[row] for row in order[::-1][:5]]
    assert list(worst.candidate_neighbours) == [IDS[row] for row in order[:5]], "it looks the other way"
    assert made.worst[0].reference_neighbours == made.worst[0].candidate_neighbours == ()


def test_the_histogram_counts_every_valid_row_where_it_belongs() -> None:
    candidate, reference = pair()
    candidate[3] = np.nan
    candidate[4] = -reference[4]
    candidate[5] = reference[5]
    made = report(candidate, reference)
    edges, counts = made.histogram["edges"], made.histogram["counts"]
    assert sum(counts) == ROWS - 1
    assert (edges[0], len(edges)) == (0, len(counts) + 1)
    assert edges == sorted(edges)
    assert edges[-1] >= 2
    assert counts[-1] >= 1
    assert counts[0] >= 1


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
    assert list(value) == KEYS
    assert (value["schema"], value["verdict"]) == (1, made.verdict)
    assert (value["candidate"], value["reference"]) == (CANDIDATE, REFERENCE)
    assert list(value["metrics"]) == [*(field.name for field in fields(Drift)), "rank_correlation", *DECIDED, *LOSSES]
    for gate in value["gates"]:
        assert gate.keys() == {"name", "value", "limit", "at_most", "passed", "margin", "interval"}
        assert gate["value"] == value["metrics"][gate["name"]]
    for row in value["worst"]:
        assert row.keys() == {"id", "cosine", "reference_neighbours", "candidate_neighbours"}
    again = DriftReport.from_json(value)
    assert again.to_json() == value
    assert failed(again.judge({"max_abs": 1, "bias_max_sigma": 1})) == failed(made)
    render_text(again, 400, details=True)
    ElementTree.fromstring(render_junit(again))


def test_a_saved_report_with_decisions_is_judged_like_the_first_time() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 4
    reference = (rng.normal(size=(4, 12))[labels] + 0.5 * rng.normal(size=(ROWS, 12))).astype(np.float32)
    made = labelled_report(-reference, reference, labels)
    assert {"far_ratio", "tar_loss"} & failed(made)
    again = DriftReport.from_json(json.loads(json.dumps(made.to_json()))).judge({})
    assert again.to_json() == made.to_json()
    loose = again.judge(dict.fromkeys(DEFAULT_GATES, -1e9) | dict.fromkeys(AT_MOST, 1e9))
    assert loose.passed
    assert loose.advice.action in ("ship", "ship-with-threshold")


def whole() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(report(*pair()).to_json()))
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "no drift report: there is no schema"),
        ({}, "no drift report: there is no schema"),
        ({**whole(), "schema": 2}, "its schema is 2, and this version reads 1. Make the report again"),
        ({key: value for key, value in whole().items() if key != "metrics"}, "not a whole drift report .*'metrics'"),
        ({**whole(), "metrics": {}}, "not a whole drift report"),
        ({**whole(), "metrics": {**whole()["metrics"], "sqnr_db": "high"}}, "metric sqnr_db is 'high'"),
        ({**whole(), "gates": [{"name": "x"}]}, "not a whole drift report"),
        ({**whole(), "worst": None}, "not a whole drift report"),
    ],
)
def test_what_is_no_report_is_not_judged(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DriftReport.from_json(value)


def test_the_text_starts_with_the_verdict_and_shows_every_metric_and_gate() -> None:
    candidate, reference = pair()
    candidate[3] = np.nan
    made = report(candidate, reference, max_abs=100)
    lines = render_text(made, 400, details=True).splitlines()
    names = [gate.name for gate in made.gates if not gate.passed]
    assert lines[0] == f"FAIL ({', '.join(names)}): a.tflite against b.npz, 60 images"
    assert lines[1].startswith("do not ship: invalid 1 (at most 0)")
    assert "invalid" in names
    start = next(place for place, line in enumerate(lines) if line.startswith("metric "))
    shown = [name for name in made.metrics if name not in ("count", "k", *LOSSES)]
    table = {line.split()[0]: line.split() for line in lines[start + 1 : start + 1 + len(shown)]}
    assert list(table) == shown
    assert table["invalid"][1] == "1"
    assert table["invalid"][-5:] == ["<=", "0", "FAILED,", "margin", "-1"]
    assert table["max_abs"][:5] == ["max_abs", f"{made.metrics['max_abs']:.6f}", "<=", "100", "ok,"]
    low, high = made.intervals["cosine_mean"]
    assert table["cosine_mean"][1:] == [f"{made.metrics['cosine_mean']:.6f}", f"{low:.6f}", "to", f"{high:.6f}"]
    assert lines[-5].split(maxsplit=1) == ["invalid", "image 3"]
    assert lines[-4].split(maxsplit=1) == [f"{made.worst[1].cosine:.6f}", made.worst[1].id]


def test_the_text_of_identical_rows_say_so_for_the_noise() -> None:
    _, reference = pair()
    lines = render_text(report(reference, reference), 400, details=True).splitlines()
    assert lines[0] == "PASS: a.tflite against b.npz, 60 images"
    (noise,) = [line.split() for line in lines if line.startswith("sqnr_db")]
    assert noise == ["sqnr_db", "identical", ">=", "20", "ok"]


def test_junit_has_one_case_a_gate_and_failures_say_why() -> None:
    candidate, reference = pair()
    candidate[3] = np.nan
    made = report(candidate, reference)
    root = ElementTree.fromstring(render_junit(made))
    (suite,) = root.iter("testsuite")
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == [gate.name for gate in made.gates]
    assert {name for name, case in cases.items() if case.find("failure") is not None} == failed(made)
    assert (suite.get("tests"), suite.get("failures")) == (str(len(made.gates)), str(len(failed(made))))
    failure = cases["invalid"].find("failure")
    assert failure is not None
    assert "invalid = 1, limit <= 0" in (failure.get("message") or "")
    assert "do not ship" in (failure.text or "")
    assert {item.get("name"): item.get("value") for item in suite.iter("property")}["candidate.sha256"] == "ab" * 32


def test_junit_of_a_strange_path_is_still_xml() -> None:
    made = report(*pair())
    strange = DriftReport(**{**vars(made), "candidate": {"path": 'a\x00\x1b<">&\ud800.tflite'}})
    case = next(ElementTree.fromstring(render_junit(strange)).iter("testcase"))
    assert (case.get("classname") or "").startswith('drift.a\ufffd\ufffd<">&')


def test_the_same_rows_give_the_same_bytes() -> None:
    first, second = (report(*pair()) for _ in range(2))
    assert json.dumps(first.to_json()) == json.dumps(second.to_json())
    assert (render_text(first, 400, details=True), render_junit(first)) == (
        render_text(second, 400, details=True),
        render_junit(second),
    )
