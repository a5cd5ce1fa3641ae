"""The map: both embeddings in one plane, each row's two points joined; by class where the classes are known."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.compare import Measurement
from ...runtime.drift.report import WORST_ROWS
from .plot import Plot, Scale, round_step

POINTS = 500
"""Rows that are drawn; of more, every n-th, and the worst."""

_HEIGHT = 340
_LARGEST = 1e12
_VISIBLE = 0.03
"""Share of the picture that the longer drift lines should measure."""

COLOURS = 10
"""Classes that have a colour of their own in the style sheet, ``k0`` and so on; the rest share one, ``rest``."""

_PICTURE = 96


@dataclass(frozen=True)
class Filter:
    """What of the map can be shown alone.

    Attributes:
        kind: the class that its rows have in the picture; ``all`` for everything.
        label: what it is called.
        count: how many rows it has.
    """

    kind: str
    label: str
    count: int


@dataclass(frozen=True)
class Map:
    """The picture.

    Attributes:
        svg: itself.
        caption: what is to be said of it.
        filters: what can be shown alone, everything first.
        by_class: whether colours are classes.
    """

    svg: str
    caption: str
    filters: tuple[Filter, ...]
    by_class: bool


def project(
    measurement: Measurement, ids: Sequence[str] | NDArray[np.str_], classes: NDArray[np.str_] | None = None
) -> dict[str, Any] | None:
    """Reference and candidate in the plane in which the reference varies most; None with fewer than three valid rows.

    Principal components (Pearson, On Lines and Planes of Closest Fit, 1901) of the drawn rows of the reference; the
    candidate's rows are laid into the same plane: a line between two points is the part of the drift that lies in it.

    Args:
        measurement: of paired rows.
        ids: of all rows, (N,).
        classes: what each row shows, (N,); None where nobody knows.

    Returns:
        ``ids``, ``reference`` and ``candidate`` (n pairs of coordinates), ``explained`` (each axis' share of variance),
        ``classes`` (n texts, or None).
    """
    count = len(measurement.reference)
    if count < 3 or measurement.reference.size < 2:
        return None
    kept = np.flatnonzero(measurement.valid)
    worst = np.argsort(measurement.cosines[kept], kind="stable")[:WORST_ROWS]
    drawn = np.union1d(np.linspace(0, count - 1, min(count, POINTS)).astype(np.intp), worst)
    rows = measurement.reference.take(drawn)
    centre = rows.mean(axis=0)
    _, spread, axes = np.linalg.svd(rows - centre, full_matrices=False)
    plane = axes[:2]
    # A singular vector's sign is arbitrary; this one does not depend on the library.
    strongest = np.take_along_axis(plane, np.abs(plane).argmax(axis=1)[:, None], axis=1)
    plane = plane * np.where(strongest < 0, -1, 1)
    total = float((spread * spread).sum())
    return {
        "ids": [str(ids[row]) for row in kept[drawn]],
        "reference": ((rows - centre) @ plane.T).tolist(),
        "candidate": ((measurement.candidate.take(drawn) - centre) @ plane.T).tolist(),
        "classes": None if classes is None else [str(classes[row]) for row in kept[drawn]],
        "explained": [float(value * value) / total if total > 0 else 0.0 for value in spread[:2]],
    }


def draw_map(projection: Mapping[str, Any], marked: Sequence[str]) -> Map:
    """The map of a projection.

    Args:
        projection: see :func:`project`; ``images`` has JPEG files of its
            rows, or None.
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
    ids, classes = projection["ids"], projection.get("classes")
    kinds, filters = _kinds(ids, classes, set(marked))
    images = projection.get("images") or [None] * len(ids)
    shown = [""] * len(ids) if classes is None else [f", {name}" for name in classes]
    for name, kind, said, (x, y), (u, v), image in zip(ids, kinds, shown, reference, ends, images, strict=True):
        with plot.group(f"row {kind}"):
            plot.path([(x, y), (u, v)], "drift-line")
            plot.dot(x, y, "reference", f"{name}{said}, reference", 2)
            plot.dot(u, v, "candidate", f"{name}{said}, candidate", 1.6)
            if name in marked:
                plot.dot(u, v, "ring", f"{name}{said}, one of the worst", 5)
            if image is not None:
                address = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
                plot.picture(u, v, _PICTURE, address, "hovered")
    drawn = "to scale" if factor == 1 else f"{factor:g} times as long as they are"
    hint = " Its image appears where the pointer rests on a row." if any(images) else ""
    return Map(
        plot.render(),
        f"{len(reference)} rows in the plane in which the reference varies most. A line joins a row's two places; "
        f"lines are drawn {drawn}. Rings are around the worst rows by cosine.{hint}",
        filters,
        classes is not None,
    )


def _kinds(ids: Sequence[str], classes: Sequence[str] | None, marked: set[str]) -> tuple[list[str], tuple[Filter, ...]]:
    """The classes that each row has in the picture, and what can be shown alone."""
    worst = [" worst" if name in marked else "" for name in ids]
    filters = [Filter("all", "all", len(ids))]
    kinds = [""] * len(ids)
    if classes is not None:
        # The most frequent ones, each time in the same order.
        counts = sorted(Counter(classes).items(), key=lambda pair: (-pair[1], pair[0]))
        named = {name: f"k{place}" for place, (name, _) in enumerate(sorted(counts[:COLOURS]))}
        kinds = [named.get(name, "rest") for name in classes]
        filters += [Filter(kind, name, dict(counts)[name]) for name, kind in named.items()]
        if rest := kinds.count("rest"):
            filters.append(Filter("rest", f"{len(counts) - COLOURS} other classes", rest))
    filters.append(Filter("worst", "worst", sum(map(bool, worst))))
    return [kind + ring for kind, ring in zip(kinds, worst, strict=True)], tuple(filters)


def _square(points: Sequence[Sequence[float]]) -> tuple[Scale, Scale]:
    """Scales of the same unit, so that a distance looks the same in every direction."""
    lows, highs = ([pick(row[axis] for row in points) for axis in (0, 1)] for pick in (min, max))
    half = 0.53 * max(high - low for low, high in zip(lows, highs, strict=True)) or 0.5
    centres = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
    return Scale(centres[0] - half, centres[0] + half), Scale(centres[1] - half, centres[1] + half)
