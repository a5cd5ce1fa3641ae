"""Must the gallery be embedded again: the answer with a figure for every option, as an object, JSON and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...runtime.drift.report import SCHEMA
from ...runtime.files import finite_json
from ...runtime.printable import one_line
from ...runtime.terminal import Column, join_lines, table, wrap
from .fit import Fitted
from .options import AGAIN, KEEP, MAP, MOVE, Before, Option, answer

NAMES = {
    KEEP: "keep it as it is",
    MOVE: "move the threshold",
    MAP: "map the new vectors",
    AGAIN: "embed it again",
}
"""What the options are called."""


@dataclass(frozen=True)
class GalleryAnswer:
    """What was found about a gallery.

    Attributes:
        gallery, candidate: both files: path, SHA-256, model, version, contract.
        images: that both hold, of how many in the gallery; how many may be looked at, judge and search.
        before: the gallery searched by its own model.
        options: the cheapest first.
        fitted: the map; None without one.
        notes: what is assumed.
    """

    gallery: Mapping[str, Any]
    candidate: Mapping[str, Any]
    images: Mapping[str, int]
    before: Before
    options: tuple[Option, ...]
    fitted: Fitted | None
    notes: tuple[str, ...]

    @property
    def noun(self) -> str:
        """What one input is called: an image, as long as neither file says otherwise."""
        kinds = [(side.get("contract") or {}).get("kind", "image") for side in (self.gallery, self.candidate)]
        return "image" if all(kind == "image" for kind in kinds) else "input"

    @property
    def best(self) -> Option:
        """The cheapest option that holds; embedding again if none does."""
        return answer(self.options)

    @property
    def kept(self) -> bool:
        """Whether the gallery need not be embedded again."""
        return self.best.name != AGAIN

    @property
    def headline(self) -> str:
        """The answer in one line, with the figures that it rests on."""
        best = self.best
        figures = [f"{best.neighbours:.1%} of the neighbours are found"]
        if best.recall is not None and self.before.recall is not None:
            figures = [f"recall@1 {best.recall:.1%}, before {self.before.recall:.1%}"]
        if best.tar is not None and self.before.tar is not None:
            figures.append(f"{best.tar:.1%} of the genuine pairs are accepted, before {self.before.tar:.1%}")
        said = {
            KEEP: "no, the gallery and its threshold can stay",
            MOVE: f"no, the gallery can stay with threshold {_threshold(best)}",
            MAP: f"no, the gallery can stay if new vectors are mapped, with threshold {_threshold(best)}",
            AGAIN: "yes, embed the gallery again"
            + ("" if best.holds else ", and even that does not find what was found"),
        }[best.name]
        if best.threshold is None:
            said = said.partition(" with threshold")[0].rstrip(",")
        return f"{said} ({'; '.join(figures)})"

    def to_json(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        fitted = None if self.fitted is None else {key: getattr(self.fitted, key) for key in ("kind", "ridge", "pairs")}
        value = {
            "schema": SCHEMA,
            "answer": self.best.name,
            "headline": self.headline,
            "gallery": dict(self.gallery),
            "candidate": dict(self.candidate),
            "images": dict(self.images),
            "before": asdict(self.before),
            "options": [option.to_json() for option in self.options],
            "map": fitted,
            "notes": list(self.notes),
        }
        finite: dict[str, Any] = finite_json(value)
        return finite

    def render(self, width: int) -> str:
        """The answer as text, no line longer than ``width``."""
        images = self.images
        about = (
            f"{images['paired']} of {images['gallery']} {self.noun}s of {self.gallery['path']} are in "
            f"{self.candidate['path']}: "
            f"{images['fitted']} for maps and thresholds, {images['judging']} that judge by {images['queries']} queries"
        )
        lines = [
            *wrap(f"Must the gallery be embedded again? {self.headline[:1].upper()}{self.headline[1:]}", width),
            *wrap(one_line(about), width),
        ]
        why = [
            line
            for option in self.options
            if option.why
            for line in wrap(f"{NAMES[option.name]}: {', '.join(option.why)}", width, first="  - ")
        ]
        notes = [line for note in self.notes for line in wrap(one_line(note), width, first="note: ")]
        return join_lines(lines, self._table(width), [*(["does not hold"] if why else []), *why], notes)

    def _table(self, width: int) -> list[str]:
        columns = [
            Column("option", left=True),
            Column("holds", left=True),
            Column("neighbours", 1),
            Column("95 % interval", 5),
            Column("recall@1", 0),
            Column("mAP", 3),
            Column("threshold", 2),
            Column("FAR", 4),
            Column("TAR", 1),
        ]
        before = self.before
        rows = [
            [
                *("before", "", "100.0%", "", _share(before.recall), _share(before.average_precision)),
                *(_six(before.threshold), _rate(before.far), _share(before.tar)),
            ]
        ]
        for option in self.options:
            low, high = option.neighbours_interval
            rows.append(
                [
                    NAMES[option.name],
                    "yes" if option.holds else "no",
                    _share(option.neighbours),
                    f"{low:.1%} to {high:.1%}",
                    *(_share(option.recall), _share(option.average_precision)),
                    *(_six(option.threshold), _rate(option.far), _share(option.tar)),
                ]
            )
        return table(columns, rows, width)


def _threshold(option: Option) -> str:
    return _six(option.threshold)


def _six(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def differing(one: Mapping[str, Any], other: Mapping[str, Any], leave_out: Sequence[str] = ("dtype",)) -> list[str]:
    """The parts of two contracts that are not the same, each with both values."""
    return [
        f"{name} {_told(one[name])} and {_told(other[name])}"
        for name in one
        if name in other and name not in leave_out and one[name] != other[name]
    ]


def _told(value: Any) -> str:
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)
