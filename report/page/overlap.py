"""The share of nearest neighbours that stay, by how many are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plot import Plot, Scale


def draw_overlap(neighbours: Mapping[str, Any], limit: float | None) -> tuple[str, str]:
    """The picture and what is to be said of it.

    Args:
        neighbours: of the report.
        limit: of the gate on ``knn_overlap_cross``, if there is one.
    """
    numbers, sides = neighbours["k"], {"self": neighbours["self"], "cross": neighbours["cross"]}
    lowest = min([*sides["self"], *sides["cross"], *([] if limit is None else [limit])])
    x_scale = Scale(0.5, numbers[-1] + 0.5)
    y_scale = Scale(max(0.0, lowest - 0.3 * (1 - lowest) - 0.01), 1.0)
    plot = Plot(
        "Share of nearest neighbours kept, by their number.",
        x_scale,
        y_scale,
        x_title="nearest neighbours, k",
        y_title="kept",
    )
    ticks = y_scale.ticks()
    digits = 0 if ticks[-1] - ticks[-2] > 0.0099 else 1
    plot.y_axis(ticks, [f"{value:.{digits}%}" for value in ticks])
    plot.x_axis([float(number) for number in numbers])
    for name, values in sides.items():
        kind = "candidate" if name == "cross" else "own"
        plot.path(list(zip(numbers, values, strict=True)), f"line {kind}")
        for number, value in zip(numbers, values, strict=True):
            plot.dot(number, value, kind, f"{name}, k = {number}: {value:.2%} kept")
    if limit is not None:
        plot.limit_y(limit, f"limit for cross {limit:.4g}")
    return plot.render(), (
        f"{neighbours['queries']} rows search {neighbours['gallery']}. Cross: the candidate's vectors search the "
        "stored float gallery; self: they search a gallery that was embedded again."
    )
