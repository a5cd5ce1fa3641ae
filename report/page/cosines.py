"""The rows by their cosine, the rare bad ones as visible as the many good ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .plot import Plot, Scale, short


def draw_histogram(histogram: Mapping[str, Any], p1: float | None, limit: float | None) -> tuple[str, str] | None:
    """The picture and what is to be said of it; None without a valid row.

    Args:
        histogram: counts by 1 - cosine, see :mod:`embedlite.runtime.drift.report`.
        p1: the first percentile of the cosine.
        limit: of its gate, if there is one.

    Both axes are logarithmic: across, each step is a tenth of the distance to 1; upwards, a single row can be seen
    beside ten thousand.
    """
    edges, counts = histogram["edges"], histogram["counts"]
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return None
    # The first bin begins at an exact cosine of 1, which no logarithm can show: it is drawn as wide as its neighbour.
    lows = [edges[1] * edges[1] / edges[2], *edges[1:-1]]
    highs = edges[1:]
    shown = [value for value in (p1, limit) if value is not None and value < 1]
    low = min([lows[filled[0]], *(1 - value for value in shown)])
    high = max([highs[filled[-1]], *(1 - value for value in shown)])
    # Whole decades, so that every axis has ticks.
    x_scale = Scale(10 ** math.floor(math.log10(low)), min(2.0, 10 ** math.ceil(math.log10(high))), logarithmic=True)
    y_scale = Scale(0.5, 1.3 * max(*counts, 2), logarithmic=True)
    plot = Plot("Histogram of the row cosines.", x_scale, y_scale, x_title="cosine of a row (worse →)", y_title="rows")
    plot.y_axis(y_scale.ticks())
    ticks = x_scale.ticks(6)
    plot.x_axis(ticks, [_cosine(value) for value in ticks])
    for index in filled:
        hint = f"{counts[index]} rows with 1 - cosine from {edges[index]:.2g} to {edges[index + 1]:.2g}"
        plot.bar(lows[index], highs[index], 0.5, counts[index], "candidate", hint)
    if limit is not None and limit < 1:
        plot.limit_x(1 - limit, f"limit {short(limit)}")
    if p1 is not None and p1 < 1:
        plot.limit_x(1 - p1, f"p1 {p1:.5f}", "mark")
    return plot.render(), (
        f"All {sum(counts)} valid rows. One row in a hundred is right of p1. Both axes are logarithmic, so that single "
        "bad rows can be seen."
    )


def _cosine(distance: float) -> str:
    """A tick of 1 - cosine, written as the cosine."""
    return f"{1 - distance:.{max(0, round(-math.log10(distance)))}f}"
