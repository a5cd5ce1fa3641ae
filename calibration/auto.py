"""``auto``: the method of each tensor group that moves the embedding least, found by trying.

A method is judged by what it does to the *embedding* of held-out calibration images, not to the tensor: what a
clipped value costs depends on what reads it. First every method is tried on all groups at once; then, from the best of
these, each group by itself, those first whose ranges differ most. A change is kept only if the errors of the held-out
images fall by more than chance would explain, so that what is chosen is not an accident of these few images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .methods import MINMAX, Method, choose_range, choose_ranges
from .ranges import Ranges
from .statistics import Statistics
from .tensors import TensorGroup

CANDIDATES = (MINMAX, Method("percentile", 99.99), Method("percentile", 99.9), Method("mse"), Method("entropy"))

MOST_TRIALS = 32
_MOST_IN_VAIN = 10
"""Single tensors tried in a row without a gain, after which the rest, whose ranges differ less, is not tried."""

_ALIKE = 0.05
"""Ranges that differ by a smaller share of their width are not worth a trial."""

_MOST_WORSE = 1.1
_STANDARD_ERRORS = 3
"""With some thirty trials chance alone passes two standard errors about once, and three hardly ever (Bonferroni)."""
_TINY = 1e-30

Trial = Callable[[Ranges], NDArray[np.float64]]


@dataclass(frozen=True)
class AutoChoice:
    """What was found.

    Attributes:
        method: for every group but those in ``only``.
        only: another method for some groups, by name.
        before: summed squared error of the held-out embeddings with minimum and maximum.
        after: the same with what was chosen.
        trials: how many sets of ranges were tried.
    """

    method: Method
    only: Mapping[str, Method]
    before: float
    after: float
    trials: int


def choose_methods(
    statistics: Statistics,
    groups: Sequence[TensorGroup],
    trial: Trial,
    shown: Callable[[Iterable[int]], Iterable[int]] = lambda numbers: numbers,
) -> AutoChoice:
    """Find the method of each group that gives the least error of the embedding.

    Args:
        statistics: of the images that are not held out, with counts.
        groups: of the same graph.
        trial: from ranges to the squared error of each held-out image's embedding, (images,) float64; infinite where an
            embedding is not usable.
        shown: wraps the numbers of the trials, to report progress.
    """
    search = _Search(statistics, tuple(groups), trial)
    numbers = iter(shown(range(MOST_TRIALS)))
    next(numbers)
    search.errors = before = search.run(MINMAX, {})
    for method in CANDIDATES[1:]:
        next(numbers)
        search.consider(method, {})
    in_vain = 0
    for group, method in search.by_group():
        if in_vain == _MOST_IN_VAIN or next(numbers, None) is None:
            break
        gained = search.consider(search.method, {**search.only, group.name: method})
        in_vain = 0 if gained else in_vain + 1
    return AutoChoice(search.method, dict(search.only), float(before.sum()), float(search.errors.sum()), search.trials)


class _Search:
    """The best so far, and what it is compared with."""

    def __init__(self, statistics: Statistics, groups: tuple[TensorGroup, ...], trial: Trial) -> None:
        self.method, self.only, self.trials = MINMAX, dict[str, Method](), 0
        self.errors: NDArray[np.float64] = np.empty(0)
        self._statistics, self._groups, self._trial = statistics, groups, trial

    def run(self, method: Method, only: Mapping[str, Method]) -> NDArray[np.float64]:
        self.trials += 1
        return self._trial(choose_ranges(self._statistics, self._groups, method, only))

    def consider(self, method: Method, only: dict[str, Method]) -> bool:
        errors = self.run(method, only)
        gained = better(errors, self.errors, _STANDARD_ERRORS)
        if gained:
            self.method, self.only, self.errors = method, only, errors
        return gained

    def by_group(self) -> list[tuple[TensorGroup, Method]]:
        """Every other method of every group whose range would differ, the largest difference first."""
        found = []
        for place, group in enumerate(self._groups):
            tensor = self._statistics.tensors[group.name]
            current = choose_range(tensor, self.method)
            tried = [current]
            for method in CANDIDATES:
                limits = choose_range(tensor, method)
                apart = min(_apart(limits, other) for other in tried)
                if apart > _ALIKE:
                    found.append((-_apart(limits, current), place, group, method))
                    tried.append(limits)
        return [(group, method) for *_, group, method in sorted(found, key=lambda item: item[:2])]


def better(errors: NDArray[np.float64], than: NDArray[np.float64], standard_errors: float = 1) -> bool:
    """Whether paired errors are smaller than others, image by image and in sum.

    The mean of their logarithms must fall by more than so many standard errors: a sum alone is decided by the two or
    three images with the largest errors, which the next images do not share. It must not rise by a tenth either, so
    that nothing is gained for most at the cost of a few.
    """
    if not np.isfinite(errors).all():
        return False
    if not np.isfinite(than).all():
        return True
    gains = np.log(np.maximum(than, _TINY)) - np.log(np.maximum(errors, _TINY))
    if len(gains) < 2 or errors.sum() > than.sum() * _MOST_WORSE:
        return False
    return bool(gains.mean() > standard_errors * gains.std(ddof=1) / np.sqrt(len(gains)))


def _apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    width = max(one[1], other[1], 0.0) - min(one[0], other[0], 0.0)
    return (abs(one[0] - other[0]) + abs(one[1] - other[1])) / width if width else 0.0
