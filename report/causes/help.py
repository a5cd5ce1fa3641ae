"""What would help against the noise that layers make, in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...runtime.drift.wording import decibels

_ENOUGH_DB = 60.0
"""Above, nobody's neighbours change, and nothing needs help."""

_CLIPPED = 0.2
"""Part of the noise from which on ranges are what is wrong: they should clip next to nothing."""

_ONE_LAYER = 0.4
"""Part of the noise that makes one layer the place to begin."""

_LEAST_LEFT = 0.01
"""Part of the noise that is taken to stay, whatever is done."""


@dataclass(frozen=True)
class Noise:
    """The noise of a layer, as parts of that of all layers.

    Attributes:
        layer: its name.
        weights, clipping, rounding: see :class:`.layer_noise.LayerDrift`; their sum is the layer's share.
        is_input: whether it is the model's input, which has 8 bits whatever the layers have.
    """

    layer: str
    weights: float
    clipping: float
    rounding: float
    is_input: bool = False

    @property
    def share(self) -> float:
        """Of the noise of all layers."""
        return self.weights + self.clipping + self.rounding


@dataclass(frozen=True)
class Made:
    """How a candidate was made, as far as its contract says.

    Attributes:
        mode: see :data:`embedlite.convert.modes.MODES`; None if it is not known.
        method: by which ranges were taken.
        samples: calibration images.
    """

    mode: str | None = None
    method: str | None = None
    samples: int | None = None


def what_helps(layers: Sequence[Noise], db: float | None, made: Made) -> str | None:
    """A sentence; None where there is too little noise to do anything about.

    Args:
        layers: all of them.
        db: the embedding's signal-to-noise ratio.
        made: how.
    """
    if db is None or db >= _ENOUGH_DB or not any(layer.share for layer in layers):
        return None
    weights, clipping, rounding = (
        sum(getattr(layer, part) for layer in layers) for part in ("weights", "clipping", "rounding")
    )
    if clipping >= _CLIPPED:
        worst = max(layers, key=lambda layer: layer.clipping)
        return f"{_ranges(made)}: {clipping:.0%} of the noise are values that are clipped, most by {worst.layer}"
    worst = max(layers, key=lambda layer: 0 if layer.is_input else layer.share)
    if made.mode in ("float16", "dynamic"):
        return f"weights of more bits: {'float32' if made.mode == 'float16' else 'float16 or float32'} in its place"
    if made.mode == "int16x8":
        return "float16 or float32 in its place: the 8 bits of its weights are what is left"
    if worst.share >= _ONE_LAYER and not worst.is_input:
        left = db - 10 * math.log10(max(1 - worst.share, _LEAST_LEFT))
        return (
            f"float or 16 bits for {worst.layer}, which makes {worst.share:.0%} of the noise: without it "
            f"{decibels(left)}. --max-drift sqnr_db={math.floor(left) - 1} searches for such layers"
        )
    if weights > rounding:
        return f"fine-tuning (--fine-tune): {weights:.0%} of the noise is rounded weights, spread over many layers"
    return (
        "16-bit activations (-q int16x8), some layers in float (--max-drift sqnr_db=N), or fine-tuning (--fine-tune): "
        f"{rounding:.0%} of the noise is rounded activations, spread over many layers"
    )


def _ranges(made: Made) -> str:
    """What makes ranges wide enough."""
    images = "more calibration images like these"
    if made.samples is not None:
        images += f" than the {made.samples} that it had"
    return images if made.method in (None, "minmax") else f"--calibrate-method minmax, or {images}"
