"""Where ``drift-report`` puts what it found: the terminal, JSON, JUnit, and a page.

The drift report as JUnit XML, one test case a gate, for build servers that show such files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..runtime.commands.options import check_outputs, emit_result, is_verbose
from ..runtime.drift.compare import Measurement
from ..runtime.drift.gates import Gate
from ..runtime.drift.report import SCHEMA, DriftReport
from ..runtime.drift.text import MORE, render_text
from ..runtime.drift.wording import metric_text
from ..runtime.errors import DataError, EmbedliteError
from ..runtime.files import check_writable, json_bytes, write_files
from ..runtime.terminal import line_width
from .gallery.answer import GalleryAnswer
from .page.export_files import ExportSummary, model_sha256
from .several.comparison import Comparison
from .sides import Sides


@dataclass(frozen=True)
class Pictured:
    """Pictures for the page, see :mod:`embedlite.report.page.pictures`."""

    projection: Mapping[str, Any] | None = None
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, sides: Sides, measurement: Measurement, report: DriftReport) -> Pictured:
        """Those of a comparison."""
        from .page.map import project
        from .page.pictures import small_images, thumbnails

        classes = next((group for group in sides.description.groupings if group.by == "class"), None)
        texts = None if classes is None else np.asarray(classes.names)[classes.of]
        drawn = project(measurement, sides.description.ids, texts)
        if drawn is not None and sides.source is not None:
            drawn["images"] = small_images(sides.source, drawn["ids"])
        return cls(drawn, {} if sides.source is None else thumbnails(sides.source, report))


@dataclass(frozen=True)
class Found:
    """What there is to show.

    Attributes:
        report: the report.
        more: text that comes after it on the terminal.
        pictured: pictures for the page.
        export: the files that were exported with the candidate, for the page.
    """

    report: DriftReport
    more: str = ""
    pictured: Pictured = field(default_factory=Pictured)
    export: ExportSummary | None = None

    def with_more(self, text: str, **parts: Any) -> Found:
        """With further parts of the report, and as text."""
        return replace(self, report=replace(self.report, **parts), more=f"{self.more}\n\n{text}")

    def with_export(self, export: ExportSummary | None) -> Found:
        """With the files of an export, of which the candidate must be one.

        Raises:
            DataError: it is none of them.
        """
        if export is None:
            return self
        export.check_candidate(model_sha256(self.report.candidate), str(self.report.candidate["path"]))
        return replace(self, export=export)


@dataclass(frozen=True)
class Outputs:
    """The files that were asked for; ``json`` may be ``-`` for stdout."""

    json: str | None
    junit: Path | None
    html: Path | None

    def check(self, *inputs: Path | str | None, map_file: Path | None = None) -> None:
        """Refuse before the work what could not be written after it.

        Args:
            inputs: what is read.
            map_file: another output, see :meth:`write_answer`.

        Raises:
            RequestError: a file is named twice, or is one of the inputs.
            OutputError: a file cannot be written.
            MissingPackageError: the page needs what is not installed.
        """
        check_outputs(inputs, json=self.json, junit=self.junit, html=self.html, map=map_file)
        for output in (self.junit, self.html, map_file):
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

            pictured = found.pictured
            files[self.html] = render_page(report, pictured.projection, pictured.thumbnails, found.export)
        details = is_verbose()
        text = render_text(report, line_width(), details=details) + found.more
        self._write(files, report.to_json(), text if details else f"{text}\n\n{MORE}")

    def write_several(
        self, comparison: Comparison, pictured: Sequence[Pictured], export: ExportSummary | None = None
    ) -> None:
        """The same for several candidates; pictures are in their order."""
        files = {}
        if self.junit is not None:
            failed = {one.path: one.error for one in comparison.candidates if one.error is not None}
            files[self.junit] = render_junit(*comparison.reports, failed=failed)
        if self.html is not None:
            from .page import render_comparison

            pictures = [(one.projection, one.thumbnails) for one in pictured]
            files[self.html] = render_comparison(comparison, pictures, export)
        self._write(files, comparison.to_json(), comparison.render(line_width(), details=is_verbose()))

    def write_answer(self, answer: GalleryAnswer, files: Mapping[Path, bytes]) -> None:
        """The same for the answer about a gallery, and its map's file."""
        written = dict(files)
        if self.html is not None:
            from .page import render_gallery

            written[self.html] = render_gallery(answer)
        self._write(written, answer.to_json(), answer.render(line_width()))

    def _write(self, files: dict[Path, bytes], result: dict[str, Any], text: str) -> None:
        if self.json is not None and self.json != "-":
            files[Path(self.json)] = json_bytes(result)
        write_files(files)
        emit_result(result, text, "-" if self.json == "-" else None)


def render_junit(*reports: DriftReport, failed: Mapping[str, str] | None = None) -> bytes:
    """The XML as UTF-8 bytes: a suite ``drift-report`` a candidate with one case a gate; failures carry the advice.

    Args:
        reports: of the candidates.
        failed: candidates that could not be compared, by path, and why.
    """
    suites = ElementTree.Element("testsuites", {"tests": "0", "failures": "0", "errors": "0", "skipped": "0"})
    for report in reports:
        _add_suite(suites, report)
    for path, error in (failed or {}).items():
        counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0"}
        suite = ElementTree.SubElement(suites, "testsuite", {"name": "drift-report", **counts})
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _printable(f"drift.{path}"), "name": "candidate"}
        )
        ElementTree.SubElement(case, "error", {"message": _printable(error), "type": "DriftGate"})
    for name in ("tests", "failures", "errors"):
        suites.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    ElementTree.indent(suites)
    content: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _add_suite(suites: ElementTree.Element, report: DriftReport) -> None:
    failed = sum(not gate.passed for gate in report.gates)
    undecided = report.verdict == "undecided"
    tests, failures = len(report.gates) + undecided, failed + undecided
    counts = {"tests": str(tests), "failures": str(failures), "errors": "0", "skipped": "0"}
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


def _line(gate: Gate, identical: bool) -> str:
    value = metric_text(None, gate.name, identical) if gate.value is None else f"{gate.value:.6g}"
    text = f"{gate.name} = {value}, limit {'<=' if gate.at_most else '>='} {gate.limit:g}"
    if gate.interval is not None:
        text += f", 95 % interval {gate.interval[0]:.6g} to {gate.interval[1]:.6g}"
    return text


def _printable(text: str) -> str:
    """XML has no way to spell control characters and lone surrogates."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


@contextmanager
def told_of_saved(path: Path) -> Iterator[None]:
    """Have what a saved report lacks, or has of another kind, told in one line, wherever it is noticed.

    Raises:
        DataError: it does.
    """
    try:
        yield
    except (EmbedliteError, OSError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"cannot judge {path}: it is not a whole drift report ({type(error).__name__}: {str(error)[:200]}). Make "
            "it again with drift-report --json."
        ) from error


def read_saved(path: Path) -> DriftReport | Comparison:
    """A saved report, of one candidate or of several.

    Raises:
        DataError: it is none.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"cannot read {path} as a saved report: {reason}. Make it with drift-report --json.") from error
    try:
        several = isinstance(value, dict) and value.get("schema") == SCHEMA and "candidates" in value
        return Comparison.from_json(value) if several else DriftReport.from_json(value)
    except DataError as error:
        raise DataError(f"cannot judge {path}: {error}") from error
