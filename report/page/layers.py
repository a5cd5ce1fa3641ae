"""The signal-to-noise ratio along the layers of a quantized file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.drift.wording import decibels
from ..causes.layer_noise import layer_name
from .plot import Plot, Scale, around

_EXACT_DB = 100
"""Above, only the last bits of float32 differ: a layer that computes nothing. It would press all others into a line."""


def draw_layers(layers: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The picture and what is to be said of it; None if no layer has any noise.

    Args:
        layers: of the report, in the order of the graph.
    """
    known = [
        (index, layer)
        for index, layer in enumerate(layers, 1)
        if layer["sqnr_db"] is not None and -math.inf < layer["sqnr_db"] < _EXACT_DB
    ]
    values = [layer["sqnr_db"] for _, layer in known]
    if not values:
        return None
    x_scale, y_scale = Scale(0.5, len(layers) + 0.5), around(values)
    plot = Plot(
        "Signal-to-noise ratio of every layer's output.",
        x_scale,
        y_scale,
        x_title="layer, in the order of the graph",
        y_title="SQNR in dB",
    )
    plot.y_axis(y_scale.ticks())
    plot.x_axis([tick for tick in x_scale.ticks(8) if tick >= 1 and tick == int(tick)])
    plot.path([(index, layer["sqnr_db"]) for index, layer in known], "line candidate")
    largest = max((layer["share"] or 0 for layer in layers), default=0)
    for index, layer in known:
        share = layer["share"] or 0
        # The area of a dot is the layer's share of the noise.
        radius = 2 + 6 * (share / largest) ** 0.5 if largest else 2.5
        what = f"{index}: {layer_name(layer['name'])}, {layer['operator']}"
        plot.dot(
            index,
            layer["sqnr_db"],
            "candidate",
            f"{what}: {decibels(layer['sqnr_db'])}, {share:.1%} of the noise",
            radius,
        )
    said = (
        "Each point is a layer's output against the float model's. The larger the point, the larger that layer's own "
        "share of the noise in the embedding."
    )
    if left := len(layers) - len(known):
        said += f" {left} without drift are left out."
    return plot.render(), said
