"""The range of every tensor: exact minimum and maximum, whatever the order of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CalibrationDataError

_LONG_ROW = 1024


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest value seen of each tensor, by tensor name.

    Merging is a minimum and a maximum, hence exact, commutative and associative: any order of the images and any
    split into parts gives the same ranges. (litert-quantizer's default is a moving average, which does not.)

    Attributes:
        limits: tensor name to (minimum, maximum).
        channels: for the tensors that were asked for, the same by channel: two arrays (channels,) float32.
        samples: images that were observed.
    """

    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    channels: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=dict)
    samples: int = 0

    def merge(self, other: Ranges) -> Ranges:
        """The ranges of both sets of images together.

        Raises:
            CalibrationDataError: they speak of different tensors, so they are of different models.
        """
        if not self.samples or not other.samples:
            return other if other.samples else self
        strange = sorted((self.limits.keys() ^ other.limits.keys()) | (self.channels.keys() ^ other.channels.keys()))
        if strange:
            raise CalibrationDataError(
                f"these ranges are of different models: {len(strange)} tensor(s) are only in one of them, such as "
                f"{strange[0]!r}. Merge ranges of one float model only."
            )
        limits = {
            name: (min(low, other.limits[name][0]), max(high, other.limits[name][1]))
            for name, (low, high) in self.limits.items()
        }
        channels = {
            name: (np.minimum(low, other.channels[name][0]), np.maximum(high, other.channels[name][1]))
            for name, (low, high) in self.channels.items()
        }
        return Ranges(limits, channels, self.samples + other.samples)


def channel_limits(values: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Minimum and maximum of each channel.

    A reduction over rows of a few channels is slow, so as many pixels as make a long row are laid side by side first.
    """
    channels = values.shape[-1]
    pixels = values.size // channels
    side = math.gcd(pixels, 1 << max(0, (_LONG_ROW // channels).bit_length() - 1))
    rows = values.reshape(-1, side * channels)
    return (
        rows.min(axis=0).reshape(side, channels).min(axis=0),
        rows.max(axis=0).reshape(side, channels).max(axis=0),
    )
