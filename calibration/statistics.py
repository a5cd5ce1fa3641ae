"""What was seen of every activation, in a form that merges exactly.

Minima, maxima, the few most extreme images and counts in fixed bins: each is a set operation or an addition of whole
numbers, so any order of the images, any split of them over machines and any order of merging gives the same statistics.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.contract import InputContract
from .errors import CalibrationDataError, StatisticsMismatchError

EXTREMES = 8
"""Images that are kept at each end of a tensor's range."""

MODULUS = 1 << 256

Extreme = tuple[float, str]


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """One tensor group over some images.

    Attributes:
        lowest: the images with the smallest minima as (minimum, image id), ascending, at most :data:`EXTREMES`; a
            rectified tensor has (0, "") alone.
        highest: likewise the largest maxima, descending.
        counts: values by bin, see :mod:`.histogram`; None if they were not counted.
    """

    lowest: tuple[Extreme, ...]
    highest: tuple[Extreme, ...]
    counts: NDArray[np.int64] | None = None

    @property
    def low(self) -> float:
        """Smallest value seen."""
        return self.lowest[0][0]

    @property
    def high(self) -> float:
        """Largest value seen."""
        return self.highest[0][0]

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Both together; counts only if both have them."""
        both = self.counts is not None and other.counts is not None
        return TensorStatistics(
            lowest_of([*self.lowest, *other.lowest]),
            highest_of([*self.highest, *other.highest]),
            self.counts + other.counts if both else None,  # type: ignore[operator]  # mypy does not follow `both`
        )


def lowest_of(extremes: Iterable[Extreme]) -> tuple[Extreme, ...]:
    """The smallest few, ascending; equal values in the order of the ids."""
    return tuple(sorted(set(extremes))[:EXTREMES])


def highest_of(extremes: Iterable[Extreme]) -> tuple[Extreme, ...]:
    """The largest few, descending; equal values in the order of the ids."""
    return tuple(sorted(set(extremes), key=lambda item: (-item[0], item[1]))[:EXTREMES])


@dataclass(frozen=True, eq=False)
class Statistics:
    """All tensor groups of one float graph over some images.

    Attributes:
        model: fingerprint of the graph, see :func:`embedlite.calibration.activations.model_fingerprint`.
        input: the input contract that the images went through, as a JSON object.
        tensors: by name of the group.
        samples: number of images.
        images: sum, modulo 2^256, of each image's SHA-256 over its id and content: which images, in any order.
    """

    model: str
    input: Mapping[str, Any]
    tensors: Mapping[str, TensorStatistics]
    samples: int
    images: int

    def _with(self, other: Statistics) -> Statistics:
        if self.model != other.model or self.tensors.keys() != other.tensors.keys():
            raise StatisticsMismatchError(
                f"these statistics are of different models: {self.model[:12]} and {other.model[:12]}. Merge statistics "
                "of one float graph only."
            )
        different = sorted(key for key in {*self.input, *other.input} if self.input.get(key) != other.input.get(key))
        if different:
            raise StatisticsMismatchError(
                f"these statistics are of different preprocessing: {different[0]} is {self.input.get(different[0])} "
                f"and {other.input.get(different[0])}. Collect them with the same settings."
            )
        tensors = {name: mine.merge(other.tensors[name]) for name, mine in self.tensors.items()}
        images = (self.images + other.images) % MODULUS
        return Statistics(self.model, self.input, tensors, self.samples + other.samples, images)


def plain_contract(contract: InputContract) -> dict[str, Any]:
    """An input contract as it comes back from JSON, where tuples are lists."""
    value: dict[str, Any] = json.loads(json.dumps(asdict(contract)))
    return value


def merge(parts: Iterable[Statistics]) -> Statistics:
    """Statistics of all parts together; neither their order nor how the images were divided changes the result.

    Raises:
        StatisticsMismatchError: they are of different models or preprocessing.
        CalibrationDataError: there are none, or one of them is there twice, so that its images would count twice.
    """
    found = list(parts)
    if not found:
        raise CalibrationDataError("there are no statistics to merge. Pass at least one part.")
    for place, part in enumerate(found):
        if any((part.samples, part.images) == (other.samples, other.images) for other in found[:place]):
            raise CalibrationDataError(
                f"statistics of the same {part.samples} image(s) are there twice, and would count twice. Merge each "
                "part once."
            )
    return functools.reduce(Statistics._with, found)
