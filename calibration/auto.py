"""``auto``: the method of each tensor group that moves the embedding least, found by trying.

A method is judged by what it does to the *embedding* of calibration images that set no ranges, not to the tensor: what
a clipped value costs depends on what reads it. The images are divided into folds, and each is judged with ranges of the
other folds, so that all of them judge. First every method is tried on all groups at once; then, from the best of these,
each group by itself, those first whose ranges differ most. A change is kept only if the errors fall by more than chance
would explain, in sum and among the worst images, so that what is chosen is not an accident of these few images.

Tensors of few values an image (pooled ones, squeeze-and-excite) keep minimum and maximum: there the largest values are
no outliers but the images that differ from the others, and clipping them costs those images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ..runtime.drift.metrics import sqnr_db
from .methods import MINMAX, Method, choose_range
from .ranges import Ranges
from .statistics import Statistics
from .tensors import TensorGroup

CANDIDATES = (MINMAX, Method("percentile", 99.99), Method("percentile", 99.9), Method("mse"), Method("entropy"))

MOST_TRIALS = 20
_MOST_IN_VAIN = 6
"""Single tensors tried in a row without a gain, after which the rest, whose ranges differ less, is not tried."""

_ALIKE = 0.05
"""Ranges that differ by a smaller share of their width are not worth a trial."""

LEAST_VALUES = 1024
"""A tensor with fewer values an image keeps minimum and maximum."""

_TAIL = 0.05
_MOST_WORSE = 1.1
"""The mean of the worst twentieth may grow by no more."""

_CHANCE = (MOST_TRIALS - 1) * NormalDist().cdf(-3)
"""How likely chance alone may pass any of the trials, as three standard errors in as many as there may be (Bonferroni):
of a large network fewer are tried, and each has to prove less."""
_TINY = 1e-30

_LEAST_SEEN, _SHORT = 8, 2
"""From so many images on a trial may end early: where the gain is so many standard errors short of what it should be
by then."""

Errors = NDArray[np.float64]
Trial = Callable[[Iterable[Ranges]], Iterable[Errors]]


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

    def told(self, images: int) -> str:
        """The decision in words; ``images`` judged it."""
        if self.method == MINMAX and not self.only:
            return (
                f"ranges are minimum and maximum: of {self.trials} sets of ranges that were tried none was clearly "
                f"better on {images} calibration images, each judged with ranges of others."
            )
        others = f", and {len(self.only)} tensor(s) otherwise" if self.only else ""
        less = sqnr_db(self.before, self.after)
        gain = "no noise at all" if less is None else f"{less:+.1f} dB"
        return (
            f"ranges by {self.method}{others}: {gain} over minimum and maximum on {images} calibration "
            f"images, each judged with ranges of others, the best of {self.trials} tried. --calibrate-method minmax "
            "takes minimum and maximum."
        )


def choose_methods(
    statistics: Sequence[Statistics],
    groups: Sequence[TensorGroup],
    trial: Trial,
    shown: Callable[[Iterable[int]], Iterable[int]] = lambda numbers: numbers,
    most: int = MOST_TRIALS,
) -> AutoChoice:
    """Find the method of each group that gives the least error of the embedding.

    Args:
        statistics: for each fold, of the images of the others, with counts.
        groups: of the same graph.
        trial: from ranges, one for each fold, to the errors of each fold's images, see :func:`better`; infinite where
            an embedding is not usable.
        shown: wraps the numbers of the trials, to report progress.
        most: trials, at least one.
    """
    search = _Search(statistics, tuple(groups), trial, -NormalDist().inv_cdf(_CHANCE / max(most - 1, 1)))
    numbers = iter(shown(range(most)))
    next(numbers)
    search.errors = before = np.concatenate(list(search.run(MINMAX, {})))
    for method in CANDIDATES[1:]:
        if next(numbers, None) is None:
            break
        search.consider(method, {})
    in_vain = 0
    # Which groups would differ takes a while to find out, and is not asked where no trial is left.
    for group, method in search.by_group() if search.trials < most else ():
        if in_vain == _MOST_IN_VAIN or next(numbers, None) is None:
            break
        gained = search.consider(search.method, {**search.only, group.name: method})
        in_vain = 0 if gained else in_vain + 1
    chosen = {} if search.method == MINMAX else search.fixed
    return AutoChoice(
        search.method,
        {**chosen, **search.only},
        float(_columns(before)[:, 0].sum()),
        float(_columns(search.errors)[:, 0].sum()),
        search.trials,
    )


class _Search:
    """The best so far, and what it is compared with."""

    def __init__(
        self, statistics: Sequence[Statistics], groups: tuple[TensorGroup, ...], trial: Trial, standard_errors: float
    ) -> None:
        self.method, self.only, self.trials = MINMAX, dict[str, Method](), 0
        self._standard_errors = standard_errors
        self.errors: Errors = np.empty(0)
        self._statistics, self._groups, self._trial = statistics, groups, trial
        self._known: dict[tuple[int, str, Method], tuple[float, float]] = {}
        self.fixed = {
            group.name: MINMAX
            for group in groups
            if _values(statistics[0], group.name) < LEAST_VALUES * statistics[0].samples
        }

    def run(self, method: Method, only: Mapping[str, Method]) -> Iterable[Errors]:
        self.trials += 1
        return self._trial(self._ranges(method, {**self.fixed, **only}))

    def _ranges(self, method: Method, only: Mapping[str, Method]) -> Iterator[Ranges]:
        for fold, statistics in enumerate(self._statistics):
            limits: dict[str, tuple[float, float]] = {}
            for group in self._groups:
                found = self._range(fold, group.name, only.get(group.name, method))
                limits |= dict.fromkeys(group.members, found)
            yield Ranges(limits, {}, statistics.samples)

    def _range(self, fold: int, name: str, method: Method) -> tuple[float, float]:
        """One tensor's range in one fold; the searching methods take a while, so it is kept."""
        key = (fold, name, method)
        if key not in self._known:
            self._known[key] = choose_range(self._statistics[fold].tensors[name], method)
        return self._known[key]

    def consider(self, method: Method, only: dict[str, Method]) -> bool:
        errors = all_if_better(self.run(method, only), self.errors, self._standard_errors)
        if errors is None:
            return False
        self.method, self.only, self.errors = method, only, errors
        return True

    def by_group(self) -> list[tuple[TensorGroup, Method]]:
        """Every other method of every group whose range would differ, the largest difference first."""
        found = []
        for place, group in enumerate(self._groups):
            if group.name in self.fixed:
                continue
            current = self._range(0, group.name, self.method)
            tried = [current]
            for method in CANDIDATES:
                limits = self._range(0, group.name, method)
                apart = min(_apart(limits, other) for other in tried)
                if apart > _ALIKE:
                    found.append((-_apart(limits, current), place, group, method))
                    tried.append(limits)
        return [(group, method) for *_, group, method in sorted(found, key=lambda item: item[:2])]


def better(errors: Errors, than: Errors, standard_errors: float = 1) -> bool:
    """Whether paired errors are smaller than others, image by image, in sum, and among the worst.

    The mean of their logarithms must fall by more than so many standard errors: a sum alone is decided by the two or
    three images with the largest errors, which the next images do not share. Neither the sum may rise nor, by more than
    a tenth, the mean of the worst twentieth, so that nothing is gained for most at the cost of a few.

    Args:
        errors: (images,), or (images, measures): the first one's logarithms count, sum and tail of each.
        than: likewise.
        standard_errors: see above.
    """
    mine, others = _columns(errors), _columns(than)
    if not np.isfinite(mine).all():
        return False
    if not np.isfinite(others).all():
        return True
    gains = _gains(mine, others)
    if len(gains) < 2 or (mine.sum(axis=0) > others.sum(axis=0)).any():
        return False
    if (_tails(mine) > _tails(others) * _MOST_WORSE).any():
        return False
    return bool(gains.mean() > standard_errors * gains.std(ddof=1) / np.sqrt(len(gains)))


def all_if_better(parts: Iterable[Errors], than: Errors, standard_errors: float = 1) -> Errors | None:
    """Errors that are made part by part, if they are better than others; None if not, often before the last part.

    No part is asked for after one by which a gain that just passes would be as far as it is in one of forty cases.

    Args:
        parts: of the errors, in the order of the others; at least one.
        than: see :func:`better`.
        standard_errors: likewise.
    """
    errors = than[:0]
    for part in parts:
        errors = np.concatenate([errors, part])
        if _is_short(errors, than, standard_errors):
            return None
    return errors if better(errors, than, standard_errors) else None


def _is_short(errors: Errors, than: Errors, standard_errors: float) -> bool:
    count = len(errors)
    mine, others = _columns(errors), _columns(than)[:count]
    if not _LEAST_SEEN <= count < len(than) or not np.isfinite(than).all():
        return False
    if not np.isfinite(mine).all():
        return True
    gains = _gains(mine, others)
    wanted = standard_errors * math.sqrt(count / len(than)) - _SHORT
    return bool(gains.mean() <= wanted * gains.std(ddof=1) / math.sqrt(count))


def _gains(mine: Errors, others: Errors) -> Errors:
    gains: Errors = np.log(np.maximum(others[:, 0], _TINY)) - np.log(np.maximum(mine[:, 0], _TINY))
    return gains


def _columns(errors: Errors) -> Errors:
    return errors.reshape(len(errors), -1)


def _tails(errors: Errors) -> Errors:
    """The mean of the largest twentieth of each column."""
    count = max(1, math.ceil(_TAIL * len(errors)))
    tails: Errors = np.sort(errors, axis=0)[-count:].mean(axis=0)
    return tails


def _values(statistics: Statistics, name: str) -> float:
    """How many values of a tensor were counted."""
    counts = statistics.tensors[name].counts
    return math.inf if counts is None else float(counts.sum())


def _apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    width = max(one[1], other[1], 0.0) - min(one[0], other[0], 0.0)
    return (abs(one[0] - other[0]) + abs(one[1] - other[1])) / width if width else 0.0
