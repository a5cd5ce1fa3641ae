"""What was seen of every activation, in a form that merges exactly.

Minima, maxima, the few most extreme images and counts in fixed bins: each is a set operation or an addition of whole
numbers, so any order of the images, any split of them over machines and any order of merging gives the same statistics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.model.contract import InputContract
from .bins import BINS, Filled, filled, with_filled
from .errors import CalibrationDataError, StatisticsMismatchError

EXTREMES = 8
"""Images that are kept at each end of a tensor's range."""

MODULUS = 1 << 256

_SORT_AT = 32 * EXTREMES

Extreme = tuple[float, str]


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """One tensor group over some images.

    Attributes:
        lowest: the images with the smallest minima as (minimum, image id), ascending, at most :data:`EXTREMES`; a
            rectified tensor has (0, "") alone.
        highest: likewise the largest maxima, descending.
        counts: values by bin, see :mod:`embedlite.calibration.bins`; None if they were not counted.
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
        model: fingerprint of the graph, see :func:`embedlite.calibration.tensors.model_fingerprint`.
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


@dataclass(frozen=True, eq=False)
class SparseStatistics:
    """Statistics while they are collected, and as they travel: of the histograms, the bins that hold something.

    Attributes:
        plain: the statistics without their counts.
        bins: by name of the group, for those that were counted.
    """

    plain: Statistics
    bins: Mapping[str, Filled]


def sparse(statistics: Statistics) -> SparseStatistics:
    """The same in less room."""
    bins, bare = {}, {}
    for name, tensor in statistics.tensors.items():
        if tensor.counts is not None:
            bins[name] = filled(tensor.counts)
        bare[name] = replace(tensor, counts=None)
    return SparseStatistics(replace(statistics, tensors=bare), bins)


def image_number(name: str, digest: bytes) -> int:
    """What an image adds to :attr:`Statistics.images`: the SHA-256 over its id and that of its content."""
    whole = hashlib.sha256(name.encode(errors="surrogateescape") + b"\0" + digest).digest()
    return int.from_bytes(whole, "little")


def plain_contract(contract: InputContract) -> dict[str, Any]:
    """An input contract as it comes back from JSON, where tuples are lists."""
    value: dict[str, Any] = json.loads(json.dumps(contract.to_json()))
    return value


def merge(parts: Iterable[Statistics | SparseStatistics], nothing: str = "") -> Statistics:
    """Statistics of all parts together; neither their order nor how the images were divided changes the result.

    Args:
        parts: taken one at a time, so that a generator of many needs no room for all.
        nothing: what to say if there are none.

    Raises:
        StatisticsMismatchError: they are of different models or preprocessing.
        CalibrationDataError: there are none, or one of them is there twice, so that its images would count twice.
    """
    merged: _Merged | None = None
    for part in parts:
        plain = part.plain if isinstance(part, SparseStatistics) else part
        merged = merged or _Merged(plain)
        merged.add(plain, part.bins if isinstance(part, SparseStatistics) else None)
    if merged is None:
        raise CalibrationDataError(nothing or "there are no statistics to merge. Pass at least one part.")
    return merged.statistics()


def merge_on_demand(parts: Sequence[SparseStatistics]) -> Statistics:
    """:func:`merge`, but each tensor is merged whenever it is asked for."""
    whole = merge([part.plain for part in parts])
    return replace(whole, tensors=_OnDemand(parts))


class _OnDemand(Mapping[str, TensorStatistics]):
    def __init__(self, parts: Sequence[SparseStatistics]) -> None:
        self._parts = tuple(parts)

    def __getitem__(self, name: str) -> TensorStatistics:
        merged = _MergedTensor()
        for part in self._parts:
            merged.add(part.plain.tensors[name], part.bins.get(name))
        return merged.statistics()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0].plain.tensors)

    def __len__(self) -> int:
        return len(self._parts[0].plain.tensors)


class _Merged:
    """The sum of statistics while it grows."""

    def __init__(self, first: Statistics) -> None:
        self._first = first
        self._tensors = {name: _MergedTensor() for name in first.tensors}
        self._seen: set[tuple[int, int]] = set()
        self._samples = self._images = 0

    def add(self, part: Statistics, bins: Mapping[str, Filled] | None) -> None:
        """Add a part, whose counts may come as bins that hold something."""
        self._check(part)
        for name, tensor in self._tensors.items():
            tensor.add(part.tensors[name], None if bins is None else bins.get(name))
        self._seen.add((part.samples, part.images))
        self._samples += part.samples
        self._images = (self._images + part.images) % MODULUS

    def statistics(self) -> Statistics:
        """All parts together; a histogram is made whenever it is asked for."""
        found = {name: tensor.bare() for name, tensor in self._tensors.items()}
        bins = {name: tensor.filled for name, tensor in self._tensors.items() if tensor.filled is not None}
        plain = Statistics(self._first.model, self._first.input, found, self._samples, self._images)
        return replace(plain, tensors=_OnDemand((SparseStatistics(plain, bins),)))

    def _check(self, part: Statistics) -> None:
        first = self._first
        if part.model != first.model or part.tensors.keys() != first.tensors.keys():
            raise StatisticsMismatchError(
                f"these statistics are of different models: {first.model[:12]} and {part.model[:12]}. Merge statistics "
                "of one float graph only."
            )
        different = sorted(key for key in {*first.input, *part.input} if first.input.get(key) != part.input.get(key))
        if different:
            raise StatisticsMismatchError(
                f"these statistics are of different preprocessing: {different[0]} is {first.input.get(different[0])} "
                f"and {part.input.get(different[0])}. Collect them with the same settings."
            )
        if (part.samples, part.images) in self._seen:
            raise CalibrationDataError(
                f"statistics of the same {part.samples} image(s) are there twice, and would count twice. Merge each "
                "part once."
            )


class _MergedTensor:
    """One tensor's sum.

    Attributes:
        filled: its counts; None unless every part has them.
    """

    def __init__(self) -> None:
        self._lowest: list[Extreme] = []
        self._highest: list[Extreme] = []
        self.filled: Filled | None = filled(np.zeros(0, np.int64))

    def add(self, part: TensorStatistics, bins: Filled | None) -> None:
        self._lowest += part.lowest
        self._highest += part.highest
        # Sorting now and then is quicker than at every part.
        if len(self._lowest) + len(self._highest) > _SORT_AT:
            self._lowest, self._highest = list(lowest_of(self._lowest)), list(highest_of(self._highest))
        if bins is None and part.counts is not None:
            bins = filled(part.counts)
        if self.filled is None or bins is None:
            self.filled = None
        elif not len(self.filled[0]):
            self.filled = bins
        else:
            self.filled = filled(with_filled(_histogram(self.filled), bins))

    def bare(self) -> TensorStatistics:
        """Without the counts."""
        return TensorStatistics(lowest_of(self._lowest), highest_of(self._highest))

    def statistics(self) -> TensorStatistics:
        """With the counts."""
        return replace(self.bare(), counts=None if self.filled is None else _histogram(self.filled))


def _histogram(bins: Filled) -> NDArray[np.int64]:
    return with_filled(np.zeros(BINS, np.int64), bins)
