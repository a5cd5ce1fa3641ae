"""Where ``drift-report`` puts what it found: the terminal, JSON, JUnit, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .drift.junit import render_junit
from .drift.report import DriftReport
from .drift.text import render_text
from .export_summary import ExportSummary
from .files import check_writable, json_bytes, write_files
from .terminal import check_distinct, check_json_path, emit_result


@dataclass(frozen=True)
class Found:
    """What there is to show.

    Attributes:
        report: the report.
        more: text that comes after it on the terminal.
        projection, thumbnails: pictures for the page, see :mod:`.drift.pictures`.
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
        check_json_path(self.json, *inputs, self.junit, self.html)
        for output, others in ((self.junit, (*inputs, self.html)), (self.html, inputs)):
            if output is not None:
                check_distinct(output, *others)
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
