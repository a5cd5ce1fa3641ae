"""The layers of a quantized encoder, judged: as data, as JSON and as text. How: :mod:`.layer_drift`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .files import finite_json

SHOWN_LAYERS = 10
"""Rows of the table; the other layers are counted."""


@dataclass(frozen=True)
class LayerDrift:
    """One operator on quantized values; decibels are None where there is no noise at all.

    Attributes:
        name: of its output in the float graph.
        operator: ``CONV_2D`` and so on.
        shape: of its output, batch axis included.
        sqnr_db: of its output in the running file.
        drop_db: by how much that is less than of its worst input; None also where the inputs are exact.
        rescaled: whether the file holds the tensor in another scale in each channel (equalization), which was removed.
        alone_db: of the embedding if this operator alone is quantized.
        share: of the noise in the embedding that all operators make, each alone; None if none makes any.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    sqnr_db: float | None
    drop_db: float | None
    rescaled: bool
    alone_db: float | None
    share: float | None


@dataclass(frozen=True)
class LayerReport:
    """The layers in the order of the graph.

    Attributes:
        layers: see :class:`LayerDrift`.
        images: how many were run.
        together_db: signal-to-noise ratio of the embedding with all operators quantized.
        sum_db: what it would be if the noise of all operators, each alone, added up.
        lost: operators on quantized values that have no counterpart in the float graph and are not judged.
    """

    layers: tuple[LayerDrift, ...]
    images: int
    together_db: float | None
    sum_db: float | None
    lost: int

    def ranked(self) -> list[LayerDrift]:
        """The layers by their share of the noise, the largest first."""
        return sorted(self.layers, key=lambda layer: -(layer.share or 0))

    def to_json(self) -> list[dict[str, Any]]:
        """The layers as JSON objects, in the order of the graph."""
        layers: list[dict[str, Any]] = finite_json([asdict(layer) for layer in self.layers])
        return layers


def render_layers(report: LayerReport) -> str:
    """The layers that hurt most as a table, the worst first."""
    ranked = report.ranked()
    shown = ranked[:SHOWN_LAYERS]
    names = [layer_name(layer.name) + (" *" if layer.rescaled else "") for layer in shown]
    width = max(len("layer"), *map(len, names))
    lines = [
        f"layers by their share of the noise in the embedding, {report.images} images",
        f"  {'layer':<{width}}  {'operator':<18}{'share':>7}{'alone dB':>10}{'SQNR dB':>9}{'drop dB':>9}",
    ]
    for name, layer in zip(names, shown, strict=True):
        share = "-" if layer.share is None else f"{layer.share:.1%}"
        figures = f"{share:>7}{_db(layer.alone_db):>10}{_db(layer.sqnr_db):>9}{_db(layer.drop_db):>9}"
        lines.append(f"  {name:<{width}}  {layer.operator:<18}{figures}")
    if others := ranked[SHOWN_LAYERS:]:
        lines.append(f"  {len(others)} others: {sum(layer.share or 0 for layer in others):.1%}")
    lines.append(
        f"all together {_db(report.together_db)} dB; if their noise added up it would be {_db(report.sum_db)} dB"
    )
    if any(layer.rescaled for layer in shown):
        lines.append("* equalized: compared after its channels were brought back to the scale of the float model")
    if report.lost:
        lines.append(f"{report.lost} operator(s) have no counterpart in the reference and are not judged")
    return "\n".join(lines)


def layer_name(name: str) -> str:
    """The converter joins the names of fused layers with semicolons; the first says which it is."""
    return name.split(";", maxsplit=1)[0]


def _db(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise); None without noise, minus infinity without a signal."""
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf
