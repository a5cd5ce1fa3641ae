"""A picture with two axes as SVG: what all pictures of the page have in common.

Colours are classes of the page's style sheet, so that they follow the reader's light or dark mode. A picture is as
wide as a phone's screen, 360 units, so that its letters are never drawn smaller than they are here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

WIDTH, HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 10, 40

_FARTHEST = 1e300
_LEAST_WIDTH = 1e-10

LETTER = 6.9
"""Room for a digit or a usual letter, in the picture's units: wider than any usual font's (DejaVu Sans: 6.7)."""


class Plot:
    """A plotting area with a horizontal and a vertical axis.

    Args:
        label: what the picture shows, for whoever does not see it.
        x, y: the axes.
        x_title, y_title: what is on them.
        height: of the whole picture.
    """

    def __init__(
        self, label: str, x: Scale, y: Scale, *, x_title: str = "", y_title: str = "", height: int = HEIGHT
    ) -> None:
        self._x, self._y = x, y
        self._left, self._right, self._top, self._bottom = _LEFT, WIDTH - _RIGHT, _TOP, height - _BOTTOM
        box = f"0 0 {WIDTH} {height}"
        self._svg = ElementTree.Element("svg", {"viewBox": box, "role": "img", "aria-label": label})
        self._into = self._svg
        if x_title:
            self.text((self._left + self._right) / 2, height - 6, x_title, "title middle")
        if y_title:
            turned = f"translate(12 {_fixed((self._top + self._bottom) / 2)}) rotate(-90)"
            self._add("text", {"transform": turned, "class": "title middle"}).text = y_title

    def x(self, value: float) -> float:
        """Where a value of the horizontal axis is drawn."""
        return self._left + self._x.share(value) * (self._right - self._left)

    def y(self, value: float) -> float:
        """Where a value of the vertical axis is drawn."""
        return self._bottom - self._y.share(value) * (self._bottom - self._top)

    def x_axis(self, ticks: Sequence[float], labels: Iterable[str] | None = None) -> None:
        """Write values, which grow, below the area; those without room beside the one before only as a mark."""
        free = 0.0
        for value, label in zip(ticks, labels or map(short, ticks), strict=True):
            place, half = self.x(value), LETTER * len(label) / 2
            self._line(place, self._bottom, place, self._bottom + 4, "axis")
            middle = min(place, WIDTH - half)
            if middle - half >= free:
                self.text(middle, self._bottom + 15, label, "middle")
                free = middle + half
        self._line(self._left, self._bottom, self._right, self._bottom, "axis")

    def y_axis(self, ticks: Sequence[float], labels: Iterable[str] | None = None) -> None:
        """Write values left of the area, with lines across it."""
        for value, label in zip(ticks, labels or map(short, ticks), strict=True):
            place = self.y(value)
            self._line(self._left, place, self._right, place, "grid")
            self.text(self._left - 5, place + 3.5, label, "end")

    def bar(self, low: float, high: float, start: float, end: float, kind: str, hint: str) -> None:
        """A rectangle from ``low`` to ``high`` across and from ``start`` to ``end`` upwards."""
        left, right, top, bottom = self.x(low), self.x(high), self.y(max(start, end)), self.y(min(start, end))
        place = {"x": left, "y": top, "width": max(right - left, 0.3), "height": max(bottom - top, 0.0)}
        self._hint(self._add("rect", {**_fixed_all(place), "class": kind}), hint)

    def dot(self, x: float, y: float, kind: str, hint: str, radius: float = 2.5) -> None:
        """A point."""
        place = _fixed_all({"cx": self.x(x), "cy": self.y(y), "r": radius})
        self._hint(self._add("circle", {**place, "class": kind}), hint)

    @contextlib.contextmanager
    def group(self, kind: str) -> Iterator[None]:
        """What is drawn inside belongs together."""
        before, self._into = self._into, self._add("g", {"class": kind})
        try:
            yield
        finally:
            self._into = before

    def picture(self, x: float, y: float, side: float, address: str, kind: str) -> None:
        """A small image beside a point, on the side where there is room; ``address`` is a ``data:`` URL."""
        left, top = self.x(x), self.y(y)
        left += -side - 6 if left > (self._left + self._right) / 2 else 6
        top = min(max(top - side / 2, 0), self._bottom - side)
        place = _fixed_all({"x": left, "y": top, "width": side, "height": side})
        self._add("image", {**place, "href": address, "class": kind})

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        drawn = " ".join(f"{_fixed(self.x(x))},{_fixed(self.y(y))}" for x, y in points)
        self._add("polyline", {"points": drawn, "class": kind})

    def limit_x(self, value: float, label: str, kind: str = "limit") -> None:
        """A vertical line across the area with a word beside it, on the side where there is more room."""
        place = self.x(value)
        self._line(place, self._top, place, self._bottom, kind)
        right = place > (self._left + self._right) / 2
        self.text(place + (-4 if right else 4), self._top + 9, label, f"{kind} end" if right else kind)

    def limit_y(self, value: float, label: str = "") -> None:
        """A horizontal line across the area with a word on its left end."""
        place = self.y(value)
        self._line(self._left, place, self._right, place, "limit")
        if label:
            self.text(self._left + 4, place + (11 if place < self._top + 12 else -4), label, "limit")

    def text(self, x: float, y: float, content: str, kind: str = "") -> None:
        """Words at a place of the picture, in its own units."""
        place = _fixed_all({"x": x, "y": y})
        self._add("text", {**place, **({"class": kind} if kind else {})}).text = content

    def holds(self, left: float, top: float, right: float, bottom: float) -> bool:
        """Whether a box in the picture's own units lies within the area between the axes."""
        return self._left <= left and right <= self._right and top >= 0 and bottom <= self._bottom

    def render(self) -> str:
        """The picture as an element of HTML; deterministic."""
        return ElementTree.tostring(self._svg, encoding="unicode", method="html")

    def _line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._add("line", {**_fixed_all({"x1": x1, "y1": y1, "x2": x2, "y2": y2}), "class": kind})

    def _hint(self, element: ElementTree.Element, hint: str) -> None:
        ElementTree.SubElement(element, "title").text = hint

    def _add(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        return ElementTree.SubElement(self._into, tag, attributes)


def _fixed(value: float) -> str:
    """Two digits are finer than any screen, and the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _fixed_all(values: dict[str, float]) -> dict[str, str]:
    return {name: _fixed(value) for name, value in values.items()}


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on an axis, linear or by their logarithm.

    Attributes:
        low, high: what stands at the axis' two ends; ``low < high``, both above zero on a logarithmic one. Ends of a
            linear one that are nearer than can be told apart are moved apart, infinite ones drawn in.
        logarithmic: whether equal distances are equal ratios.
    """

    low: float
    high: float
    logarithmic: bool = False

    def __post_init__(self) -> None:
        if self.logarithmic:
            return
        low, high = (min(_FARTHEST, max(-_FARTHEST, end)) for end in (self.low, self.high))
        least = _LEAST_WIDTH * max(abs(low), abs(high)) or 1.0
        if high - low < least:
            low, high = low - least / 2, high + least / 2
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def share(self, value: float) -> float:
        """How far along the axis a value stands: 0 at ``low``, 1 at ``high``, never outside."""
        low, high = self._at(self.low), self._at(self.high)
        place = low if self.logarithmic and value <= 0 else self._at(value)
        return min(1.0, max(0.0, (place - low) / (high - low)))

    def _at(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def ticks(self, wanted: int = 5) -> list[float]:
        """About ``wanted`` round values within the axis: 1, 2 or 5 times a power of ten, or powers of ten alone."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / wanted)))]
        step = round_step((self.high - self.low) / wanted)
        lowest, highest = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, max(12, 12 - math.floor(math.log10(step)))) for index in range(lowest, highest + 1)]


def round_step(smallest: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is not below ``smallest`` (above zero)."""
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest * (1 - 1e-9))


def around(values: list[float], margin: float = 0.05) -> Scale:
    """A linear scale on which all values have room; around a single value, one of width 1."""
    low, high = min(values), max(values)
    if not high > low:
        return Scale(low - 0.5, high + 0.5)
    room = margin * (high - low)
    return Scale(low - room, high + room)


def short(value: float) -> str:
    """A tick's label: up to four significant digits, without an exponent where that is shorter."""
    if not math.isfinite(value):
        return "−∞" if value < 0 else "∞"
    if value and not 1e-6 <= abs(value) < 1e9:
        return f"{value:.3g}"
    return np.format_float_positional(value, precision=4, trim="-", fractional=False) if value else "0"
