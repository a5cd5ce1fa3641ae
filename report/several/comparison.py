"""Several candidates and what was found of them, as an object, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from ...runtime.drift.report import SCHEMA, DriftReport
from ...runtime.drift.text import render_text
from ...runtime.drift.wording import figure, unit_of
from ...runtime.errors import DataError
from ...runtime.files import finite_json
from ...runtime.printable import one_line
from ...runtime.terminal import Column, join_lines, table, wrap
from .choose import SAID, Candidate, Choice, Latency, choose
from .paired import Difference, decided_by

_COLUMNS = (
    ("cosine_p1", "cosine p1", 2),
    ("sqnr_db", "SQNR dB", 3),
    ("knn_overlap_cross", "neighbours", 0),
    ("recall_at_1_drop", "recall@1 loss", 1),
    ("map_drop", "mAP loss", 1),
    ("far_ratio", "far ratio", 6),
    ("tar_loss", "tar loss", 5),
)
"""Metric, title and importance, see :class:`embedlite.runtime.terminal.Column`."""


@dataclass(frozen=True)
class Comparison:
    """Several candidates, judged by the same gates against the same reference.

    Attributes:
        candidates: in the order in which they were named.
        differences: of every two that did not fail.
        choice: which to ship.
    """

    candidates: tuple[Candidate, ...]
    differences: tuple[Difference, ...]
    choice: Choice

    @classmethod
    def of(cls, candidates: Sequence[Candidate], differences: Sequence[Difference]) -> Comparison:
        """With the choice that follows."""
        return cls(tuple(candidates), tuple(differences), choose(candidates, differences))

    @property
    def passed(self) -> bool:
        """Whether all candidates hold their gates."""
        return all(one.report is not None and one.report.passed for one in self.candidates)

    @property
    def reports(self) -> list[DriftReport]:
        """Of the candidates that did not fail."""
        return [one.report for one in self.candidates if one.report is not None]

    def judge(self, gates: Mapping[str, float]) -> Comparison:
        """The same figures under the default gates with others on top."""
        judged = [
            one if one.report is None else replace(one, report=one.report.judge(gates)) for one in self.candidates
        ]
        return Comparison.of(judged, self.differences)

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        candidates = [
            {**asdict(replace(one, report=None)), "report": None if one.report is None else one.report.to_json()}
            for one in self.candidates
        ]
        ship = None if self.choice.ship is None else self.candidates[self.choice.ship].path
        value = {
            "schema": SCHEMA,
            "verdict": "pass" if self.passed else "fail",
            "ship": ship,
            "headline": self.choice.headline,
            "others": {self.candidates[place].name: text for place, text in self.choice.lines},
            "candidates": candidates,
            "differences": [one.to_json() for one in self.differences],
        }
        finite: dict[str, Any] = finite_json(value)
        return finite

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Comparison:
        """A saved comparison.

        Raises:
            DataError: it is not a whole one.
        """
        try:
            candidates = [
                Candidate(
                    path=str(one["path"]),
                    name=str(one["name"]),
                    report=None if one["report"] is None else DriftReport.from_json(one["report"]),
                    error=one["error"],
                    bytes=one["bytes"],
                    latency=None if one["latency"] is None else Latency(**one["latency"]),
                )
                for one in value["candidates"]
            ]
            return cls.of(candidates, [Difference.from_json(one) for one in value["differences"]])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(
                f"it is not a whole comparison ({type(error).__name__}: {error}). Make it again with --json."
            ) from error

    def render(self, width: int, *, details: bool) -> str:
        """The comparison as text, no line longer than ``width``; with details each candidate's report after it."""
        parts = [self._result(width), self._table(width), self._pairs(width)]
        if details:
            parts += [[render_text(report, width, details=True)] for report in self.reports]
        return join_lines(*parts)

    def _result(self, width: int) -> list[str]:
        lines = wrap(one_line(self.choice.headline), width)
        for place, text in self.choice.lines:
            name = one_line(self.candidates[place].name)
            lines += wrap(one_line(f"{name}: {text}"), width, first="  - ")
        return lines

    def _table(self, width: int) -> list[str]:
        columns = [
            Column("candidate", left=True),
            Column("verdict", left=True),
            Column("µs", 1),
            Column("kB", 4),
            *(Column(title, importance) for _, title, importance in _COLUMNS),
        ]
        rows = []
        for place, one in enumerate(self.candidates):
            report = one.report
            rows.append(
                [
                    one_line(one.name) + (" *" if place == self.choice.ship else ""),
                    "failed" if report is None else report.verdict,
                    "" if one.latency is None else f"{one.latency.median:,.0f}",
                    "" if one.bytes is None else f"{one.bytes / 1000:,.1f}",
                    *("" if report is None else _cell(report, name) for name, _, _ in _COLUMNS),
                ]
            )
        reports = self.reports
        head = []
        if reports:
            against = one_line(str(reports[0].reference["path"]))
            head = wrap(
                f"{len(self.candidates)} candidates against {against}, "
                f"{reports[0].metrics['count']} {reports[0].noun}s",
                width,
            )
        sources = dict.fromkeys(one.latency.source for one in self.candidates if one.latency is not None)
        notes = [line for source in sources for line in wrap(f"latency: {one_line(source)}", width)]
        return [*head, *table(columns, rows, width), *notes]

    def _pairs(self, width: int) -> list[str]:
        deciding = decided_by([{key: value for key, (value, _) in one.figures.items()} for one in self.differences])
        if not deciding:
            return []
        columns = [
            Column("first less second, in points", left=True),
            *(Column(SAID[name], 1 if place else 0) for place, name in enumerate(deciding)),
            Column("", left=True),
        ]
        rows = []
        for one in self.differences:
            names = " - ".join(one_line(self.candidates[place].name) for place in (one.first, one.second))
            cells = []
            for name in deciding:
                value, (low, high) = one.figures[name]
                cells.append(f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})")
            rows.append([names, *cells, "equal" if one.equal else "apart"])
        note = (
            "95 % intervals of the paired differences, corrected for all of them; equal is what they do not tell apart."
        )
        return [*table(columns, rows, width), *wrap(note, width)]


def _cell(report: DriftReport, name: str) -> str:
    """A metric as it stands in the table; empty without a value."""
    value = report.metrics.get(name)
    if value is None and not (report.identical and unit_of(name) == "dB"):
        return ""
    return figure(value, name, report.identical)


def short_names(paths: Sequence[str]) -> list[str]:
    """The ends of the paths that tell them apart: file names, or with as many folders as it takes."""
    parts = [PurePath(path).parts for path in paths]
    for count in range(1, max(len(part) for part in parts) + 1):
        names = [str(PurePath(*part[-count:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
