"""The exported files by what they cost and how exact they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ...runtime.drift.wording import IDENTICAL, decibels
from .export_files import ExportSummary, FileSummary
from .plot import HEIGHT, LETTER, Plot, Scale, around

_LINE = 12
"""Room for a line of a label, in the picture's units."""


def draw_tradeoff(export: ExportSummary, candidate: str) -> tuple[str, str] | None:
    """The picture and what is to be said of it; None if no file has both a latency and a drift.

    Args:
        export: the files.
        candidate: SHA-256 of the one that the report is about.

    Labels begin with the file's number in the table beside the picture.
    """
    files = [(n, file) for n, file in enumerate(export.files, 1) if file.latency_us is not None and file.compared]
    if not files:
        return None
    x_scale, y_scale = _scales([file for _, file in files], export.tried)
    plot = Plot(
        "Latency and signal-to-noise ratio of the exported files.",
        x_scale,
        y_scale,
        x_title="median latency, µs (logarithmic; ← better)",
        y_title="SQNR in dB (better →)",
        height=_HEIGHT,
    )
    plot.y_axis(y_scale.ticks())
    plot.x_axis(_ticks(x_scale))
    for latency, sqnr in export.tried:
        shown = decibels(sqnr)
        plot.dot(latency, y_scale.high if sqnr is None else sqnr, "tried", f"tried: {latency:.0f} µs, {shown}", 1.5)
    for number, file in files:
        _draw_untuned(plot, number, file, y_scale.high)
    labels = _Labels(plot)
    if export.judged:
        frontier = _frontier([file for _, file in files], x_scale.high, y_scale.high)
        plot.path(frontier, "frontier")
        labels.keep_clear(*frontier)
    places = [(file.latency_us or 0.0, _height(file, y_scale.high)) for _, file in files]
    for (number, file), (x, y) in zip(files, places, strict=True):
        kind = "candidate" if file.sha256 == candidate else "dominated" if file.dominated else "reference"
        low, high = file.intervals.get("sqnr_db", (None, None))
        if low is not None and not file.identical:
            plot.path([(x, low), (x, y_scale.high if high is None else high)], f"line {kind}")
        if file.latency_low_us is not None and file.latency_high_us is not None:
            plot.path([(file.latency_low_us, y), (file.latency_high_us, y)], f"line {kind}")
        shown = decibels(file.sqnr_db)
        plot.dot(x, y, kind, f"{number}: {file.name}, {x:.0f} µs, {shown}", 3.5)
        if kind == "candidate":
            plot.dot(x, y, "ring", f"{number}: {file.name}, the candidate of this report", 6)
        labels.keep_clear((x, y), (x, y))
    for (number, file), (x, y) in zip(files, places, strict=True):
        labels.write(x, y, f"{number} {file.mode}{f', {IDENTICAL}' if file.identical else ''}", str(number))
    said = "Numbers are those of the table. Bars are 95 % intervals of the SQNR, and repetitions of the latency."
    if any(file.untuned is not None for _, file in files):
        said += " A line leads to a file from what it would be without fine-tuning."
    if any(file.identical for _, file in files):
        said += " A file at the top edge is identical with the original."
    if left := len(export.files) - len(files):
        said += f" Not drawn, as latency or drift was not measured: {left}."
    return plot.render(), said


_HEIGHT = HEIGHT + 60


def _draw_untuned(plot: Plot, number: int, file: FileSummary, top: float) -> None:
    """The file as it would be without fine-tuning, and a line from there to what it is."""
    if file.untuned is None:
        return
    latency, sqnr = file.untuned
    place = (latency, top if sqnr is None else sqnr)
    plot.path([place, (file.latency_us or 0.0, _height(file, top))], "line dominated")
    told = f"{number}: {file.name} without fine-tuning (not written), {latency:.0f} µs, {decibels(sqnr)}"
    plot.dot(*place, "tried", told, 2.5)


def _height(file: FileSummary, top: float) -> float:
    return top if file.sqnr_db is None else file.sqnr_db


def _scales(files: Sequence[FileSummary], tried: Sequence[tuple[float, float | None]]) -> tuple[Scale, Scale]:
    """Axes with room for all files, their bars, and what was tried."""
    across = [latency for latency, _ in tried if latency > 0]
    upwards = [sqnr for _, sqnr in tried if sqnr is not None]
    for file in files:
        if file.untuned is not None:
            across.append(file.untuned[0])
            upwards += [db for db in file.untuned[1:] if db is not None]
        across += [us for us in (file.latency_us, file.latency_low_us, file.latency_high_us) if us is not None]
        interval = (file.sqnr_db, *file.intervals.get("sqnr_db", ())) if not file.identical else ()
        upwards += [db for db in interval if db is not None]
    low, high = min(across), max(across)
    room = max((high / low) ** 0.12, 1.1)
    return Scale(low / room, high * room, logarithmic=True), around(upwards or [0.0], 0.12)


def _ticks(scale: Scale) -> list[float]:
    """Round values on a logarithmic axis that may be shorter than a decade."""
    ratio = scale.high / scale.low
    if ratio < 5:
        return Scale(scale.low, scale.high).ticks(4)
    if ratio > 1000:
        return scale.ticks()
    decades = Scale(scale.low / 10, scale.high, logarithmic=True).ticks(9)
    return [tick for ten in decades for tick in (ten, 2 * ten, 5 * ten) if scale.low <= tick <= scale.high]


def _frontier(files: Sequence[FileSummary], right: float, top: float) -> list[tuple[float, float]]:
    """The best SQNR that each latency buys, as steps to the right."""
    corners: list[tuple[float, float]] = []
    for file in sorted(files, key=lambda file: (file.latency_us or 0.0, -_height(file, top))):
        x, y = file.latency_us or 0.0, _height(file, top)
        if file.dominated or (corners and y <= corners[-1][1]):
            continue
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return [*corners, (right, corners[-1][1])] if corners else []


class _Labels:
    """Words beside points, none upon another or upon a point."""

    def __init__(self, plot: Plot) -> None:
        self._plot = plot
        self._taken: list[tuple[float, float, float, float]] = []

    def keep_clear(self, *points: tuple[float, float]) -> None:
        """Let no word cover these points, nor the level and upright lines between them."""
        for one, other in pairwise(points):
            (left, right), (top, bottom) = (
                sorted(place(point[axis]) for point in (one, other))
                for axis, place in enumerate((self._plot.x, self._plot.y))
            )
            self._taken.append((left - 4, top - 4, right + 4, bottom + 4))

    def write(self, x: float, y: float, *wordings: str) -> None:
        """Write the first wording that has room somewhere around the point; none, if none has."""
        across, down = self._plot.x(x), self._plot.y(y)
        for words in wordings:
            width = LETTER * len(words)
            for shift in (0, _LINE, -_LINE, 2 * _LINE, -2 * _LINE):
                for left in (across + 8, across - 8 - width):
                    box = (left, down + shift - _LINE / 2, left + width, down + shift + _LINE / 2)
                    if self._plot.holds(*box) and not any(_meet(box, other) for other in self._taken):
                        self._taken.append(box)
                        start = left if left > across else across - 8
                        self._plot.text(start, down + shift + 3.5, words, "title" if left > across else "title end")
                        return


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
