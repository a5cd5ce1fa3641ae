"""The systematic shift of each dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .plot import Plot, Scale, short

_FAR = 4
"""A limit this many times farther out than every bar is told and not drawn: the bars would vanish."""


def draw_dimensions(dimensions: Mapping[str, Any], limit: float | None) -> tuple[str, str] | None:
    """The picture and what is to be said of it; None without dimensions.

    Args:
        dimensions: of the report.
        limit: of the gate on ``bias_max_sigma``, if there is one.
    """
    # JSON has no infinity: a shift where nothing of the reference varies.
    shifts = [math.inf if value is None else value for value in dimensions["bias_sigma"]]
    if not shifts:
        return None
    dead = set(dimensions["dead"])
    unbounded = sum(math.isinf(value) for value in shifts)
    largest = max((abs(value) for value in shifts if math.isfinite(value)), default=0.0)
    drawn_limit = limit is not None and limit > 0 and limit <= _FAR * largest
    reach = 1.1 * max(largest, limit if drawn_limit and limit is not None else 0.0) or 1.0
    x_scale, y_scale = Scale(-0.5, len(shifts) - 0.5), Scale(-reach, reach)
    plot = Plot(
        "Systematic shift of each dimension.",
        x_scale,
        y_scale,
        x_title="dimension",
        y_title="shift / standard deviation",
    )
    plot.y_axis(y_scale.ticks())
    plot.x_axis([tick for tick in x_scale.ticks(6) if tick == int(tick)])
    for index, value in enumerate(shifts):
        kind = "bad" if limit is not None and abs(value) > limit else "candidate"
        plot.bar(index - 0.4, index + 0.4, 0.0, value, kind, f"dimension {index}: {value:+.4f} standard deviations")
    for index in sorted(dead):
        plot.dot(index, 0.0, "bad", f"dimension {index} is dead: the candidate no longer uses it", 3)
    if limit is not None and drawn_limit:
        plot.limit_y(limit, f"limit {short(limit)}")
        plot.limit_y(-limit)
    said = f"{len(shifts)} dimensions; the largest shift is {short(largest)} standard deviations."
    if unbounded:
        said = (
            f"{len(shifts)} dimensions; the shift of {unbounded} is unbounded, for the reference does not vary. "
            "Bars of those end at the edge of the picture."
        )
    if limit is not None and not drawn_limit:
        said += f" The limit, {short(limit)}, lies far outside of the picture."
    if dead:
        said += f" Dead: {', '.join(map(str, sorted(dead)))}."
    return plot.render(), said
