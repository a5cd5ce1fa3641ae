"""Whether images come with red and blue exchanged, as from OpenCV, which reads BGR.

No single array shows it. Some dozens do: photos of one kind are redder than blue on average, or bluer, and the file
knows which: by what it was calibrated on, or by a mean for each channel, such as ImageNet's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import InputContract

IMAGES = 32
"""So many different images are judged together."""

_MOST_LOOKS = 256
"""A camera that sees one scene all the time is not watched for ever."""

_ALIKE = 1.0
"""Frames of one scene, in which red less blue differs by no more than so many pixel values, count once."""

_LEAST = 8.0
"""Below so many pixel values between red and blue the file knows of no difference."""


class ColorWatch:
    """Compares red less blue of the first images with what the file knows; not safe to share between threads.

    Args:
        contract: gives mean and std of the channels.
        calibration: of the file's contract, see :class:`.contract.Contract`; its ``channel_means`` if it has any.
    """

    def __init__(self, contract: InputContract, calibration: Mapping[str, Any] | None) -> None:
        means = (calibration or {}).get("channel_means")
        # Nothing vouches for this part of a contract, so it may hold anything.
        if not (isinstance(means, list) and len(means) == 3 and all(type(mean) is float for mean in means)):
            means = contract.mean
        self.expected = float(means[0] - means[-1])
        self.watches = contract.shape[2] == 3 and _LEAST <= abs(self.expected) <= 255
        self._mean, self._std = np.broadcast_to(contract.mean, 3), np.broadcast_to(contract.std, 3)
        self._looks = 0
        self._found: list[float] = []

    def look(self, rows: NDArray[Any]) -> bool:
        """Take in one image; true once, if the images so far have red and blue exchanged.

        Args:
            rows: (h, W, 3), an image or some rows of it; integers are pixels, floats are model-ready.
        """
        first, _, last = np.mean(rows, axis=(0, 1), dtype=np.float64)
        if rows.dtype.kind == "f":
            first, last = first * self._std[0] + self._mean[0], last * self._std[2] + self._mean[2]
        difference = float(first - last)
        self._looks += 1
        if all(abs(difference - other) > _ALIKE for other in self._found[-1:]):
            self._found.append(difference)
        self.watches = len(self._found) < IMAGES and self._looks < _MOST_LOOKS
        return len(self._found) == IMAGES and self._exchanged()

    @property
    def found(self) -> float:
        """Red less blue, in pixel values, on average over what was taken in."""
        return float(np.mean(self._found))

    def _exchanged(self) -> bool:
        """The other sign, at least half as large, and by far no accident of these images."""
        opposite = -math.copysign(1, self.expected) * self.found
        error = float(np.std(self._found)) / math.sqrt(len(self._found) - 1)
        return opposite >= abs(self.expected) / 2 and opposite > 4 * error
