"""Both embeddings in one plane, each row's two points joined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .plot import Plot, Scale, round_step

_HEIGHT = 340
_LARGEST = 1e12
_VISIBLE = 0.03
"""Share of the picture that the longer drift lines should measure."""


def draw_map(projection: Mapping[str, Any], marked: Sequence[str]) -> tuple[str, str]:
    """The picture and what is to be said of it.

    Args:
        projection: see :func:`embedlite.report.page.pictures.project`.
        marked: ids of rows that are drawn with a ring.

    A good file's drift is smaller than a point. Lines are then drawn longer, by a round factor that the text names.
    """
    reference, candidate = projection["reference"], projection["candidate"]
    flat = [value for row in reference for value in row]
    width = max(flat) - min(flat) or 1.0
    lengths = sorted(math.dist(a, b) for a, b in zip(reference, candidate, strict=True))
    long = lengths[int(0.95 * (len(lengths) - 1))]
    # Drift that no factor below the largest shows is not worth a line.
    factor = 1.0 if long * _LARGEST < width else max(1.0, round_step(_VISIBLE * width / long))
    ends = [(x + factor * (u - x), y + factor * (v - y)) for (x, y), (u, v) in zip(reference, candidate, strict=True)]
    x_scale, y_scale = _square([*reference, *ends])
    names = [f"component {axis + 1} ({share:.0%})" for axis, share in enumerate(projection["explained"])]
    plot = Plot(
        "Map of the reference's and the candidate's embeddings.",
        x_scale,
        y_scale,
        x_title=names[0],
        y_title=names[1],
        height=_HEIGHT,
    )
    plot.y_axis(y_scale.ticks())
    plot.x_axis(x_scale.ticks())
    for start, end in zip(reference, ends, strict=True):
        plot.path([tuple(start), end], "drift-line")
    for name, (x, y) in zip(projection["ids"], reference, strict=True):
        plot.dot(x, y, "reference", f"{name}, reference", 2)
    for name, (x, y) in zip(projection["ids"], ends, strict=True):
        plot.dot(x, y, "candidate", f"{name}, candidate", 1.6)
        if name in marked:
            plot.dot(x, y, "ring", f"{name}, one of the worst", 5)
    drawn = "to scale" if factor == 1 else f"{factor:g} times as long as they are"
    return plot.render(), (
        f"{len(reference)} rows in the plane in which the reference varies most. A line joins a row's two places; "
        f"lines are drawn {drawn}. Rings are around the worst rows by cosine."
    )


def _square(points: Sequence[Sequence[float]]) -> tuple[Scale, Scale]:
    """Scales of the same unit, so that a distance looks the same in every direction."""
    lows, highs = ([pick(row[axis] for row in points) for axis in (0, 1)] for pick in (min, max))
    half = 0.53 * max(high - low for low, high in zip(lows, highs, strict=True)) or 0.5
    centres = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
    return Scale(centres[0] - half, centres[0] + half), Scale(centres[1] - half, centres[1] + half)
