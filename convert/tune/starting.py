"""What training starts from: the file with the end, the channels and the ranges that held-out images gain from.

First the end that is computed in float may be longer than without, at what it costs as measured; then the values of
attentions are centred; then each activation gets the range that costs the embedding least, with the channels as they
are and balanced. Where most images gain by one of these and a few lose too much, half of it is tried, then a quarter.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...calibration import Ranges
from ...calibration.auto import better
from ...runtime.errors import InterpreterFailedError
from ..errors import ConversionError
from ..quantize.plan import Int8Plan
from .balance import SHARES, Balance
from .centre import Centring
from .rerange import Reranging
from .sensitivity import NoGradientError
from .train import Errors

_STARTING = 0.3
"""Share of the time that it may take."""

_STANDARD_ERRORS = 2.0
"""By how much a file must be better, as of other changes that are none in float: some eight are tried."""

_MOST_IMAGES, _LEAST_IMAGES, _MOST_PIXELS = 128, 16, 4 << 20
"""Images that are looked at, and fewer of large ones."""

_PARTS = (1.0, 0.5, 0.25)
"""Of a change, one after the other, as long as most images gain and a few lose too much."""

End = tuple[str, ...]
"""Operators at the end that stay float, by the name of what they write."""

Remake = Callable[[bytes, Ranges, End], bytes]
"""Makes the quantized graph of another float graph with other ranges and another end, corrected as the file is."""


@dataclass(frozen=True)
class Start:
    """A file that training may start from.

    Attributes:
        graph: in integers.
        original: the float graph that it was made from.
        ranges: of its activations.
        end: what stays float.
        floats: whether that is more than in the file that was given, which is a gain by itself.
        centred: whether the values of its attentions were centred, likewise.
        balanced: whether its channels were balanced, likewise.
        reranged: whether it has other ranges, likewise.
        seconds: how long that took.
    """

    graph: bytes
    original: bytes
    ranges: Ranges
    end: End = ()
    floats: bool = False
    centred: bool = False
    balanced: bool = False
    reranged: bool = False
    seconds: float = 0.0

    @property
    def gained(self) -> bool:
        """Whether it is better than the file that was given."""
        return self.floats or self.centred or self.balanced or self.reranged


@dataclass(frozen=True)
class _Judged:
    """A file and what held-out images say of it."""

    start: Start
    errors: Errors

    @property
    def score(self) -> float:
        return float(np.log(np.maximum(self.errors[:, 0], 1e-30)).mean())


class Starting:
    """Looks for a start.

    Attributes:
        problem: why something was not looked for, in words; empty if there was no reason.
    """

    def __init__(
        self, plan: Int8Plan, remake: Remake, ends: Sequence[End], seconds: float, stopped: Callable[[], bool]
    ) -> None:
        """Prepare.

        Args:
            plan: what int8 was made from.
            remake: see :data:`Remake`.
            ends: what may stay float at the end.
            seconds: for the whole training.
            stopped: whether to end now, with what is best by then.
        """
        self.problem = ""
        self._plan, self._remake, self._ends = plan, remake, ends
        self._seconds, self._stopped, self._began = seconds, stopped, time.monotonic()

    def found(self, given: Start, before: Errors, size: int, seed: int) -> Start:
        """The best one, if it is clearly better than the one that was given, else that.

        Args:
            given: the file as it is.
            before: the errors of held-out images with it.
            size: of a batch.
            seed: of what is drawn.
        """
        first = best = self._with_end(_Judged(given, before))
        tried = [first]
        batches = list(self._looked_at(size))

        def judge(changed: Callable[[float], Start]) -> None:
            """The whole change, or a part of it where the whole is nearer in the mean and no more than that."""
            nonlocal best
            for part in _PARTS:
                judged = None if self._over() else self._judged(changed(part))
                if judged is None:
                    return
                tried.append(judged)
                if judged.score >= best.score:
                    return
                if better(judged.errors, first.errors, _STANDARD_ERRORS):
                    best = judged
                    return

        centring = Centring(given.original, given.ranges)
        if centring.scales and self._measured(centring, batches, seed):
            judge(functools.partial(_centred, first.start, centring))
            first = best
        start = first.start

        def rerange(candidate: Start) -> None:
            reranging = Reranging(candidate.graph, candidate.original, candidate.ranges)
            if not self._over() and self._measured(reranging, batches, seed):
                judge(functools.partial(_reranged, candidate, reranging))

        # First, because a large network has no time for all.
        rerange(start)
        before_channels = len(tried)
        balance = Balance(start.graph, start.original, start.ranges)
        if balance.scales and self._measured(balance, batches, seed):
            for share in SHARES:
                judge(functools.partial(_balanced, start, balance, share))
        # Of the best channels, clearly better or not.
        if balanced := tried[before_channels:]:
            rerange(min(balanced, key=lambda judged: judged.score).start)
        return replace(best.start, seconds=time.monotonic() - self._began)

    def _with_end(self, given: _Judged) -> _Judged:
        """The file with the end in float that is clearly better than each shorter one."""
        best = given
        for end in self._ends:
            if end == given.start.end or self._over():
                continue
            judged = self._judged(replace(given.start, end=end, floats=True))
            if judged is not None and better(judged.errors, best.errors, _STANDARD_ERRORS):
                best = judged
        return best

    def _judged(self, candidate: Start) -> _Judged | None:
        """The candidate as a file; None of one that cannot be made."""
        assert self._plan.trial is not None
        try:
            graph = self._remake(candidate.original, candidate.ranges, candidate.end)
            return _Judged(replace(candidate, graph=graph), self._plan.trial.errors_of(graph))
        except (ConversionError, InterpreterFailedError):
            return None

    def _over(self) -> bool:
        return self._stopped() or time.monotonic() - self._began > _STARTING * self._seconds

    def _looked_at(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Batches of the images that are looked at."""
        fitting = self._plan.fitting
        assert fitting is not None
        count = min(len(fitting), max(_LEAST_IMAGES, min(_MOST_IMAGES, _MOST_PIXELS // fitting.ready(0).size)))
        for first in range(0, count, size):
            yield np.stack([fitting.ready(index) for index in range(first, min(first + size, count))])

    def _measured(
        self, what: Balance | Centring | Reranging, batches: Sequence[NDArray[np.float32]], seed: int
    ) -> bool:
        """Whether all batches were looked at in time."""
        for number, images in enumerate(batches):
            try:
                what.measure(images, seed + number)
            except NoGradientError:
                self.problem = (
                    "no channels were balanced, or ranges chosen, by what the embedding hears of them: for some images "
                    "its gradient is not a number."
                )
                return False
            if self._over():
                return False
        return True


def _centred(start: Start, centring: Centring, part: float) -> Start:
    original, ranges = centring.centred(part)
    return replace(start, original=original, ranges=ranges, centred=True)


def _balanced(start: Start, balance: Balance, share: float, part: float) -> Start:
    original, ranges = balance.balanced(share, part)
    return replace(start, original=original, ranges=ranges, balanced=True)


def _reranged(start: Start, reranging: Reranging, part: float) -> Start:
    return replace(start, ranges=reranging.reranged(part), reranged=True)
