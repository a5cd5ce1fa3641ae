"""Who pays: figures by plain loops, Student's distribution by scipy, and how often a part is blamed by chance."""

import json

import numpy as np
import pytest
from scipy import stats

from embedlite.runtime.drift import measure
from embedlite.runtime.drift.labelled.parts import LEAST_ROWS, Breakdown, Grouping, _student, break_down
from embedlite.runtime.drift.report import Description, DriftReport, build_report
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.text import render_text

from drift_pairs import CANDIDATE, REFERENCE, pair

ROWS = 60


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 499, 500, 5000])
def test_quantiles_are_students(freedom: int) -> None:
    for share in (0.9, 0.975, 0.999, 1 - 1e-6):
        assert _student(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-5)


def grouped(count: int, parts: int) -> Grouping:
    return Grouping("site", tuple(f"site {part}" for part in range(parts)), np.arange(count) % parts)


def made(candidate: np.ndarray, reference: np.ndarray, grouping: Grouping, labels: np.ndarray | None) -> DriftReport:
    description = Description(
        CANDIDATE, REFERENCE, {}, [str(row) for row in range(len(reference))], {}, labels, None, [grouping]
    )
    return build_report(measure(Rows(candidate), Rows(reference), 5), description, {})


def test_figures_are_those_of_plain_loops() -> None:
    candidate, reference = pair(0.6)
    candidate[7] = np.nan
    kept = np.delete(np.arange(ROWS), 7)
    labels, grouping = np.arange(ROWS) % 7, grouped(ROWS, 4)
    report = made(candidate, reference, grouping, labels)
    (found,) = report.parts
    assert report.decisions is not None
    threshold = report.decisions.threshold
    unit = {
        name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in (("c", candidate), ("r", reference))
    }
    told: dict[str, dict[int, list[float]]] = {}
    for row in kept:
        others = [other for other in kept if other != row]
        before, after = ({other: unit[side][row] @ unit["r"][other] for other in others} for side in "rc")
        near, nearest = (sorted(others, key=lambda other, by=by: -by[other])[:5] for by in (before, after))
        figures = {
            "drift": 1 - float(unit["c"][row] @ unit["r"][row]),
            "neighbours_lost": 1 - len(set(near) & set(nearest)) / 5,
        }
        same = [other for other in others if labels[other] == labels[row]]
        figures["genuine_rejected"] = np.mean([before[other] > threshold >= after[other] for other in same])
        different = [other for other in others if labels[other] != labels[row]]
        figures["impostors_accepted"] = np.mean([after[other] > threshold >= before[other] for other in different])
        for name, value in figures.items():
            told.setdefault(name, {}).setdefault(int(grouping.of[row]), []).append(value)
    assert found.looked_at == 16
    for name, by_part in told.items():
        for place, values in by_part.items():
            part = next(part for part in found.parts if part.name == f"site {place}")
            figure = part.figures[name]
            rest = [value for other, more in by_part.items() if other != place for value in more]
            assert part.count == len(values)
            assert (figure.value, figure.others) == pytest.approx((np.mean(values), np.mean(rest)), abs=1e-6)
            error = np.sqrt(max(np.var(values, ddof=1), np.var(rest, ddof=1)) / len(values))
            reach = stats.t.ppf(1 - 0.025 / 16, len(values) - 1) * error
            assert figure.interval == pytest.approx(
                (max(0, np.mean(values) - reach), np.mean(values) + reach), abs=1e-6
            )


def test_chance_blames_nobody_and_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    grouping = grouped(1000, 100)
    blamed = sum(bool(break_down(grouping, {"drift": rng.gamma(2, size=1000)}).worse) for _ in range(100))
    assert blamed <= 10
    values = rng.gamma(2, size=1000)
    values[grouping.of == 17] += 6
    found = break_down(grouping, {"drift": values})
    assert [part.name for part in found.worse] == [found.parts[0].name] == ["site 17"]


def test_a_few_rows_that_agree_prove_nothing() -> None:
    values = np.zeros(100)
    values[50:] = np.random.default_rng(0).random(50)
    values[:LEAST_ROWS] = 0.9
    grouping = Grouping("site", ("few", "others"), (np.arange(100) >= LEAST_ROWS).astype(np.intp))
    part = next(part for part in break_down(grouping, {"drift": values}).parts if part.name == "few")
    low, high = part.figures["drift"].interval
    assert high - low > 0.5


def test_parts_of_too_few_rows_are_counted_and_not_judged() -> None:
    grouping = Grouping("site", ("a", "b", "tiny"), np.array([0] * 20 + [1] * 20 + [2] * 4))
    found = break_down(grouping, {"drift": np.random.default_rng(0).random(44)})
    assert {part.name: bool(part.figures) for part in found.parts} == {"a": True, "b": True, "tiny": False}
    assert found.looked_at == 2


def test_the_worst_is_named_and_survives_being_saved() -> None:
    candidate, reference = pair(0.05)
    grouping = grouped(ROWS, 3)
    moved = grouping.of == 1
    candidate[moved] += 0.6 * np.random.default_rng(1).normal(size=candidate[moved].shape)
    report = made(candidate, reference, grouping, None)
    text = render_text(report, 400, details=True)
    assert "who pays, by site: 3 looked at" in text
    assert "  site site 1 (20 images): drift (1 - cosine) 0." in text
    again = DriftReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again.parts == report.parts
    assert isinstance(again.parts[0], Breakdown)
    assert render_text(again, 400, details=True) == text
    nothing = made(reference, reference, grouping, None)
    assert "none is worse than the others beyond chance" in render_text(nothing, 400, details=True)
