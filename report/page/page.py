"""Puts the page together: the report's figures and pictures into the template."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.drift import wording
from ...runtime.drift.metrics import METRICS
from ...runtime.drift.report import DriftReport
from ...runtime.drift.text import WHAT_NOW
from ...runtime.errors import MissingPackageError
from ...runtime.model.contract import InputContract
from ...runtime.model.origin import describe_input
from ...runtime.printable import printable
from ...runtime.version import __version__
from ..causes.layer_noise import layer_name
from ..gallery.answer import NAMES, GalleryAnswer
from ..several.comparison import Comparison
from ..several.paired import decided_by
from .cosines import draw_histogram
from .dimensions import draw_dimensions
from .export_files import ExportSummary, model_sha256
from .layers import draw_layers
from .map import draw_map
from .overlap import draw_overlap
from .tradeoff import draw_tradeoff

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

SHOWN_LAYERS = 12
SHOWN_SENSITIVITY = 20
SHOWN_PARTS = 20
_FOLDER = Path(__file__).parent
_SVG = b"<svg"

_COMPARED = ("cosine_p1", "sqnr_db", "knn_overlap_cross", "recall_at_1_drop", "map_drop", "eer_rise", "far_ratio")
"""Figures of candidates side by side; ``far_ratio`` and those of retrieval where there are labels."""


_BESIDE = {"histogram": "Row cosines, with their tail", "overlap": "Neighbours kept"}
"""Pictures of several candidates that stand side by side."""


def check_page() -> None:
    """See whether pages can be made here, before there is work that would be lost.

    Raises:
        MissingPackageError: Jinja or Pillow is not installed.
    """
    try:
        import jinja2  # noqa: F401
        from PIL import Image  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "--html needs Jinja and Pillow, and one of them is not installed. Run: pip install 'embedlite[report]', or "
            "write --json here and make the page elsewhere: drift-report --judge report.json --html report.html."
        ) from error


def render_page(
    report: DriftReport,
    projection: Mapping[str, Any] | None = None,
    thumbnails: Mapping[str, bytes] | None = None,
    export: ExportSummary | None = None,
) -> bytes:
    """The report as HTML, UTF-8; the same report gives the same bytes.

    Args:
        report: the report.
        projection: see :func:`embedlite.report.page.map.project`; without it, as in a saved report, there is no
            map.
        thumbnails: PNG files, or SVG elements, by id; where one is missing, the id alone is shown.
        export: the files that were exported with the candidate, which is one of them.

    Raises:
        MissingPackageError: Jinja is not installed.
    """
    environment = _environment()
    body = _body(environment, report, _drawn(report, export), projection, thumbnails or {}, export)
    title = f"{report.verdict.capitalize()}: drift of {report.candidate['path']}"
    return _whole(environment, title=title, comparison=None, bodies=[body])


def render_comparison(
    comparison: Comparison,
    pictures: Sequence[tuple[Mapping[str, Any] | None, Mapping[str, bytes]]],
    export: ExportSummary | None = None,
) -> bytes:
    """Several candidates side by side, and each one's report, as HTML.

    Args:
        comparison: of all.
        pictures: of each candidate, its projection and thumbnails as in :func:`render_page`.
        export: the files that were exported with candidates.

    Raises:
        MissingPackageError: Jinja is not installed.
    """
    environment = _environment()
    bodies, drawn = [], []
    for place, (one, (projection, thumbnails)) in enumerate(zip(comparison.candidates, pictures, strict=True)):
        if one.report is not None:
            mine = export if export is not None and _is_of(export, one.report) else None
            shown = _drawn(one.report, mine)
            prefix = f"c{place + 1}-"
            bodies.append((place, _body(environment, one.report, shown, projection, thumbnails, mine, prefix)))
            drawn.append((place, shown))
    ship = comparison.choice.ship
    reports = comparison.reports
    return _whole(
        environment,
        title="Drift of several candidates",
        comparison=comparison,
        bodies=bodies,
        drawn=drawn,
        beside=[(kind, title) for kind, title in _BESIDE.items() if any(kind in shown for _, shown in drawn)],
        shown=bodies[0][0] if ship is None else ship,
        deciding=decided_by([report.metrics for report in reports]),
        columns=[name for name in _COMPARED if any(report.metrics.get(name) is not None for report in reports)],
        sources=dict.fromkeys(one.latency.source for one in comparison.candidates if one.latency is not None),
        wording=wording,
        metrics=METRICS,
    )


def render_gallery(answer: GalleryAnswer) -> bytes:
    """Whether a gallery must be embedded again, as HTML.

    Raises:
        MissingPackageError: Jinja is not installed.
    """
    environment = _environment()
    body = environment.get_template("gallery.html").render(answer=answer, names=NAMES)
    from markupsafe import Markup

    return _whole(environment, title="Must the gallery be embedded again?", comparison=None, bodies=[Markup(body)])


def _is_of(export: ExportSummary, report: DriftReport) -> bool:
    return model_sha256(report.candidate) in {file.sha256 for file in export.files}


def _environment() -> jinja2.Environment:
    check_page()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        cosine=wording.cosine,
        decibels=wording.decibels,
        figure=wording.figure,
        fixed=wording.fixed,
        contract=lambda value: describe_input(InputContract.from_json(value["input"]), value["origins"]),
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment


def _whole(environment: jinja2.Environment, **values: Any) -> bytes:
    """The page around the bodies."""
    from markupsafe import Markup

    style = Markup((_FOLDER / "style.css").read_text("utf-8"))
    page = environment.get_template("template.html").render(style=style, version=__version__, **values)
    page = printable(page)
    # A file name need not be UTF-8.
    return page.encode(errors="backslashreplace")


def _body(
    environment: jinja2.Environment,
    report: DriftReport,
    pictures: Mapping[str, Mapping[str, str]],
    projection: Mapping[str, Any] | None,
    thumbnails: Mapping[str, bytes],
    export: ExportSummary | None,
    prefix: str = "",
) -> Markup:
    """One report; ids of its parts begin with ``prefix``."""
    from markupsafe import Markup

    text = environment.get_template("body.html").render(
        report=report,
        others=[name for name in METRICS if name not in {gate.name for gate in report.gates}],
        pictures=pictures,
        map=None if projection is None else draw_map(projection, [row.id for row in report.worst]),
        markup=Markup,
        images={name: _data_url(content) for name, content in thumbnails.items() if not content.startswith(_SVG)},
        plots={name: Markup(content.decode()) for name, content in thumbnails.items() if content.startswith(_SVG)},
        export=export,
        candidate_sha256=model_sha256(report.candidate),
        sensitivity=() if export is None else export.sensitivity[:SHOWN_SENSITIVITY],
        layers=_ranked(report.layers or ()),
        layer_name=layer_name,
        shown_parts=SHOWN_PARTS,
        metrics=METRICS,
        wording=wording,
        prefix=prefix,
        noun=report.noun,
        what_now=WHAT_NOW,
    )
    return Markup(text)


def _drawn(report: DriftReport, export: ExportSummary | None) -> dict[str, dict[str, str]]:
    """The pictures that there are, each with what is said of it."""
    from markupsafe import Markup

    limits = {gate.name: gate.limit for gate in report.gates}
    drawn = {
        "histogram": draw_histogram(report.histogram, report.metrics["cosine_p1"], limits.get("cosine_p1")),
        "overlap": None
        if report.neighbours is None
        else draw_overlap(report.neighbours, limits.get("knn_overlap_cross")),
        "dimensions": draw_dimensions(report.dimensions, limits.get("bias_max_sigma")),
        "layers": draw_layers(report.layers) if report.layers else None,
        "tradeoff": None if export is None else draw_tradeoff(export, model_sha256(report.candidate) or ""),
    }
    return {
        name: {"svg": Markup(picture[0]), "caption": picture[1]}
        for name, picture in drawn.items()
        if picture is not None
    }


def _ranked(layers: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """The layers with the largest shares of the noise, each with its place in the graph."""
    return sorted(enumerate(layers, 1), key=lambda pair: -(pair[1]["share"] or 0))[:SHOWN_LAYERS]


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
