"""Small plots of inputs that are not images, as SVG for the page: lines over the first axis, or a map of two axes."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

_SIDE = 96
_POINTS = 48
"""Places along a line; of more values the means of neighbours are drawn."""

_LINES = 12
"""Series up to so many are lines, more are a map."""

_CELLS = 32
"""Cells of a map along each axis, at most."""

_SHADES = 6


def draw_input(values: NDArray[Any], name: str) -> str:
    """One input as an SVG element; always the same for the same values.

    Args:
        values: of one to four axes, finite. Of three and four the middle ones are averaged, unless the last is short:
            then that one is.
        name: what the input is called.
    """
    plane = _plane(values.astype(np.float64))
    box = f"0 0 {_SIDE} {_SIDE}"
    svg = ElementTree.Element("svg", {"viewBox": box, "role": "img", "aria-label": name, "class": "input"})
    low, high = float(plane.min()), float(plane.max())
    shares = (plane - low) / (high - low) if high > low else np.full(plane.shape, 0.5)
    if plane.shape[1] <= _LINES:
        _draw_lines(svg, shares)
    else:
        _draw_map(svg, shares)
    return ElementTree.tostring(svg, encoding="unicode")


def _plane(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(length, series)."""
    if values.ndim == 1:
        return values[:, None]
    while values.ndim > 2:
        # A last axis this short holds channels, before which the picture itself stands.
        values = values.mean(axis=-1 if values.shape[-1] <= _LINES and values.shape[-2] > 1 else 1)
    return values


def _draw_lines(svg: ElementTree.Element, shares: NDArray[np.float64]) -> None:
    few = _means(shares, _POINTS)
    step = (_SIDE - 4) / max(len(few) - 1, 1)
    for place, series in enumerate(few.T):
        points = " ".join(f"{2 + index * step:.1f},{_SIDE - 2 - y * (_SIDE - 4):.1f}" for index, y in enumerate(series))
        opacity = f"{1 - 0.7 * place / len(few.T):.2f}"
        attributes = {"points": points, "fill": "none", "class": "line", "opacity": opacity}
        ElementTree.SubElement(svg, "polyline", attributes)


def _draw_map(svg: ElementTree.Element, shares: NDArray[np.float64]) -> None:
    """Cells of one shade are one path; time goes right, the second axis upwards, as spectrograms are drawn."""
    cells = _means(_means(shares, _CELLS).T, _CELLS)[::-1]
    height, width = _SIDE / len(cells), _SIDE / cells.shape[1]
    levels = np.minimum((cells * _SHADES).astype(int), _SHADES - 1)
    for level in range(1, _SHADES):
        squares = "".join(
            f"M{column * width:.1f} {row * height:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"
            for row, column in np.argwhere(levels == level)
        )
        if squares:
            attributes = {"d": squares, "class": "cell", "opacity": f"{level / (_SHADES - 1):.2f}"}
            ElementTree.SubElement(svg, "path", attributes)


def _means(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """At most so many rows, each the mean of its neighbours."""
    if len(values) <= most:
        return values
    edges = np.arange(most) * len(values) // most
    counts = np.diff(np.append(edges, len(values)))
    means: NDArray[np.float64] = np.add.reduceat(values, edges, axis=0) / counts[:, None]
    return means
