"""Where ``drift-report`` puts what it found: the terminal, JSON, JUnit, and a page.

The drift report as JUnit XML, one test case a gate, for build servers that show such files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..runtime.commands.options import check_outputs, emit_result
from ..runtime.drift.gates import Gate
from ..runtime.drift.report import DriftReport
from ..runtime.drift.text import render_text
from ..runtime.drift.wording import metric_text
from ..runtime.files import check_writable, json_bytes, write_files
from .page.export_files import ExportSummary


@dataclass(frozen=True)
class Found:
    """What there is to show.

    Attributes:
        report: the report.
        more: text that comes after it on the terminal.
        projection, thumbnails: pictures for the page, see :mod:`embedlite.report.page.pictures`.
        export: the files that were exported with the candidate, for the page.
    """

    report: DriftReport
    more: str = ""
    projection: Mapping[str, Any] | None = None
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    export: ExportSummary | None = None

    def with_more(self, text: str, **parts: Any) -> Found:
        """With further parts of the report, and as text."""
        return replace(self, report=replace(self.report, **parts), more=f"{self.more}\n\n{text}")


@dataclass(frozen=True)
class Outputs:
    """The files that were asked for; ``json`` may be ``-`` for stdout."""

    json: str | None
    junit: Path | None
    html: Path | None

    def check(self, *inputs: Path | str | None) -> None:
        """Refuse before the work what could not be written after it.

        Raises:
            RequestError: a file is named twice, or is one of the inputs.
            OutputError: a file cannot be written.
            MissingPackageError: the page needs what is not installed.
        """
        check_outputs(inputs, json=self.json, junit=self.junit, html=self.html)
        for output in (self.junit, self.html):
            if output is not None:
                check_writable([output], force=True)
        if self.html is not None:
            from .page import check_page

            check_page()

    def write(self, found: Found) -> None:
        """Write all files, or none, and show the rest."""
        report = found.report
        files = {}
        if self.junit is not None:
            files[self.junit] = render_junit(report)
        if self.html is not None:
            from .page import render_page

            files[self.html] = render_page(report, found.projection, found.thumbnails, found.export)
        if self.json is not None and self.json != "-":
            files[Path(self.json)] = json_bytes(report.to_json())
        write_files(files)
        emit_result(report.to_json(), render_text(report) + found.more, "-" if self.json == "-" else None)


def render_junit(report: DriftReport) -> bytes:
    """The XML as UTF-8 bytes: a suite ``drift-report`` with one case a gate; failures carry the advice."""
    failed = sum(not gate.passed for gate in report.gates)
    undecided = report.verdict == "undecided"
    tests, failures = len(report.gates) + undecided, failed + undecided
    counts = {"tests": str(tests), "failures": str(failures), "errors": "0", "skipped": "0"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "drift-report", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for side, facts in (("candidate", report.candidate), ("reference", report.reference), ("data", report.data)):
        for name in ("path", "sha256", "fingerprint"):
            if facts.get(name):
                ElementTree.SubElement(
                    properties, "property", {"name": f"{side}.{name}", "value": _printable(str(facts[name]))}
                )
    for gate in report.gates:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _printable(f"drift.{report.candidate['path']}"), "name": gate.name}
        )
        text = _line(gate, report.identical)
        if not gate.passed:
            failure = ElementTree.SubElement(case, "failure", {"message": text, "type": "DriftGate"})
            failure.text = "\n".join([report.advice.headline, *report.advice.why])
        ElementTree.SubElement(case, "system-out").text = text
    if undecided:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _printable(f"drift.{report.candidate['path']}"), "name": "reference"}
        )
        failure = ElementTree.SubElement(case, "failure", {"message": report.advice.headline, "type": "DriftGate"})
        failure.text = "\n".join(report.advice.why)
    ElementTree.indent(suites)
    content: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _line(gate: Gate, identical: bool) -> str:
    value = metric_text(None, gate.name, identical) if gate.value is None else f"{gate.value:.6g}"
    text = f"{gate.name} = {value}, limit {'<=' if gate.at_most else '>='} {gate.limit:g}"
    if gate.interval is not None:
        text += f", 95 % interval {gate.interval[0]:.6g} to {gate.interval[1]:.6g}"
    return text


def _printable(text: str) -> str:
    """XML has no way to spell control characters and lone surrogates."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
