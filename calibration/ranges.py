"""The range of every tensor: exact minimum and maximum, whatever the order of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CalibrationDataError


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest value seen of each tensor, by tensor name.

    Merging is a minimum and a maximum, hence exact, commutative and associative: any order of the images and any
    split into parts gives the same ranges. (litert-quantizer's default is a moving average, which does not.)

    Attributes:
        limits: tensor name to (minimum, maximum).
        samples: images that were observed.
    """

    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: int = 0

    def merge(self, other: Ranges) -> Ranges:
        """The ranges of both sets of images together.

        Raises:
            CalibrationDataError: they speak of different tensors, so they are of different models.
        """
        if not self.samples or not other.samples:
            return other if other.samples else self
        if self.limits.keys() != other.limits.keys():
            strange = sorted(self.limits.keys() ^ other.limits.keys())
            raise CalibrationDataError(
                f"these ranges are of different models: {len(strange)} tensor(s) are only in one of them, such as "
                f"{strange[0]!r}. Merge ranges of one float model only."
            )
        limits = {
            name: (min(low, other.limits[name][0]), max(high, other.limits[name][1]))
            for name, (low, high) in self.limits.items()
        }
        return Ranges(limits, self.samples + other.samples)


def observe(tensors: Mapping[str, NDArray[Any]]) -> Ranges:
    """The ranges of one inference's tensors.

    Raises:
        CalibrationDataError: a tensor holds NaN or infinity.
    """
    limits = {}
    for name, values in tensors.items():
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise CalibrationDataError(
                f"the float model's tensor {name!r} is not finite for this image. Check the model on it with Keras."
            )
        limits[name] = (low, high)
    return Ranges(limits, 1)
