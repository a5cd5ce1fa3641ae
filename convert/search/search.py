"""The search for layers that should not be int8: at the least measured latency, the least drift of the embedding.

First every layer is tried alone in every precision that the target runs: how much drift leaves with it, and what it
costs. Then layers are changed one after another. Of those that are left, some are picked that lower the noise most, by
itself or for the time that they add alone; these steps are made, run and timed. The step is taken that lowers the noise
most for the time that it adds. Boundaries between integers and float cost time, which is in the measurement: an island
that costs more than it brings is never taken.

With limits on the drift the search goes on until they hold, and then looks for time to save while they hold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from ...calibration.auto import better
from ...runtime.progress import progress
from ..modes import DYNAMIC, Precision
from ..quantize.precision import Layer
from .trials import FINISHED, SearchEndedError, Trials, Tried

MOST_RELATIVE = 1.5
"""A file that takes this much longer than int8 is no longer searched from; dynamic or float files are there then."""

_PROMISING, _ROUNDS = 4, 3
"""Steps that are made and measured at a time, of all that the figures of single layers suggest, and how many times if
none of them is a gain."""

_RESOLUTION = 0.01
"""Latencies closer than this share of int8's are taken for equal: measured again, they could be the other way round."""

_TINY = 1e-30

_LESS = 0.9
"""A share of the noise that is clearly less, even if only a few images have it."""

_LEAST_SAVED = 0.02
"""Share of int8's latency that is worth another file."""


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        best: with limits, the fastest file that meets them, or None; the end of the way without.
        reached: with limits that no file met, the one with the least noise that was come to.
        ended: ``finished``, ``time budget`` or ``interrupted``.
        seconds: how long it took.
    """

    best: Tried | None
    reached: Tried
    ended: str
    seconds: float


class PrecisionSearch:
    """One search; holds what its steps share."""

    def __init__(
        self,
        layers: Sequence[Layer],
        options: Sequence[str],
        trials: Trials,
        meets: Callable[[Tried], bool] | None,
        keeps: Callable[[Tried], bool] | None,
        ceiling: float,
    ) -> None:
        """Prepare, without trying anything.

        Args:
            layers: those that may be changed, in the order of execution.
            options: what each may be.
            trials: makes and measures.
            meets: whether a file keeps the limits, corrected if that is needed, which takes long; None without limits.
            keeps: whether it does as it was tried.
            ceiling: relative latency from which on a file is of no use, because another one is as fast and good.
        """
        self._layers, self._options, self._trials = layers, options, trials
        self._meets, self._keeps = meets, keeps
        self._ceiling = min(ceiling, MOST_RELATIVE)
        self._single: dict[tuple[str, str], Tried] = {}
        self._state = trials.base
        self._best: Tried | None = None

    def run(self) -> Search:
        """Search until nothing is gained any more, the limits hold at the least latency, or the time is up."""
        start, ended = time.monotonic(), FINISHED
        try:
            with self._trials.limited():
                self._try_singles()
                self._lower_noise()
                self._save_time()
        except SearchEndedError as reason:
            ended = str(reason)
            # Of a single layer that was tried alone the way may not have heard yet.
            self._state = min(self._within_ceiling(), key=lambda tried: tried.noise, default=self._state)
        return Search(self._fastest_kept(), self._state, ended, time.monotonic() - start)

    def sensitivity(self) -> Mapping[tuple[str, str], Tried]:
        """Each layer changed alone, by its name and precision."""
        return self._single

    def _within_ceiling(self) -> list[Tried]:
        return [tried for tried in self._trials.all if _relative(tried) <= self._ceiling]

    def _fastest_kept(self) -> Tried | None:
        """The end of the way, or a file beside it that keeps the limits and is faster."""
        keeping = [] if self._keeps is None else [tried for tried in self._within_ceiling() if self._keeps(tried)]
        if self._best is not None:
            keeping.append(self._best)
        return min(keeping, key=lambda tried: (_relative(tried), _name(tried)), default=None)

    def _try_singles(self) -> None:
        singles = [{layer.name: option} for option in self._options for layer in self._layers if _fits(layer, option)]
        try:
            self._trials.try_all(singles, "trying each layer")
        finally:
            for tried in self._trials.all:
                if len(tried.precision) == 1:
                    self._single[next(iter(tried.precision.items()))] = tried

    def _lower_noise(self) -> None:
        while not self._done():
            step = self._step()
            if step is None or _relative(step) > self._ceiling:
                return
            self._state = step

    def _step(self) -> Tried | None:
        """The best of the most promising steps; None if they bring no clear gain."""
        promising = self._promising()
        for start in range(0, _ROUNDS * _PROMISING, _PROMISING):
            made = self._trials.try_all(promising[start : start + _PROMISING], "lowering drift")
            steps = [tried for tried in made if self._gains(tried)]
            if steps:
                return max(steps, key=lambda tried: (self._worth(tried), _name(tried)))
        # Where all layers add alike no single one is a clear gain, but many of them together may be.
        made = self._trials.try_all(self._several(promising), "lowering drift")
        steps = [tried for tried in made if self._gains(tried)]
        return max(steps, key=lambda tried: (self._worth(tried), _name(tried)), default=None)

    def _gains(self, tried: Tried) -> bool:
        """Whether a file is clearly better than what the search has come to: for most images, or for the worst."""
        less = tried.noise < self._state.noise
        return less and (better(tried.errors, self._state.errors) or tried.noise < _LESS * self._state.noise)

    def _several(self, promising: Sequence[Precision]) -> list[Precision]:
        """Two, four, eight, ... of the promising steps at once, and all of them."""
        counts = [2**power for power in range(1, len(promising).bit_length()) if 2**power < len(promising)]
        return [
            reduce(lambda one, other: {**other, **one}, promising[:count])
            for count in (*counts, len(promising))
            if count > 1
        ]

    def _done(self) -> bool:
        if self._meets is None or not self._meets(self._state):
            return False
        self._best = self._state
        return True

    def _save_time(self) -> None:
        """From a file that meets the limits, by steps that keep them."""
        while self._best is not None and self._meets is not None:
            best = self._best
            made = self._trials.try_all(self._faster(best), "saving time")
            steps = [tried for tried in made if _relative(tried) <= _relative(best) - _LEAST_SAVED]
            steps.sort(key=lambda tried: (_relative(tried), _name(tried)))
            self._best = next((tried for tried in steps if self._meets(tried)), best)
            if self._best is best:
                return

    def _promising(self) -> list[Precision]:
        """Steps to try, alternately those that lower the noise most, and most for the time that they should add.

        What a layer does to the noise depends on what is left of it: after a layer that is float now, the small errors
        of others come to light. So it is measured again for each layer, in the first of its precisions.
        """
        open_ = [layer for layer in self._layers if layer.name not in self._state.precision]
        first = self._options[0]
        left = {
            layer.name: self._trials.noise({**self._state.precision, layer.name: first})
            for layer in progress(open_, len(open_), "lowering drift")
        }
        found = []
        for (name, option), single in self._single.items():
            if left.get(name, math.inf) < self._state.noise:
                lowered = math.log(self._state.noise / max(left[name], _TINY))
                found.append((lowered / max(_relative(single) - 1, _RESOLUTION), lowered, name, option))
        by_worth = sorted(found, reverse=True)
        by_gain = sorted(found, key=lambda item: item[1:], reverse=True)
        mixed = dict.fromkeys(item[2:] for both in zip(by_worth, by_gain, strict=True) for item in both)
        return [{**self._state.precision, name: option} for name, option in mixed]

    def _faster(self, best: Tried) -> list[Precision]:
        """The steps that should save most time: a layer that is int8 again, or one that is faster otherwise."""
        found: list[tuple[float, str, Precision]] = []
        for (name, option), single in self._single.items():
            saved = 1 - _relative(single)
            if best.precision.get(name) == option:
                found.append((-saved, name, {key: value for key, value in best.precision.items() if key != name}))
            elif saved > 0:
                found.append((saved, name, {**best.precision, name: option}))
        found.sort(key=lambda item: (-item[0], item[1]))
        return [precision for *_, precision in found[:_PROMISING]]

    def _worth(self, tried: Tried) -> float:
        """Decades of noise that a step takes away, for the share of int8's latency that it adds."""
        added = max(_relative(tried) - _relative(self._state), _RESOLUTION)
        return math.log10(max(self._state.noise, _TINY) / max(tried.noise, _TINY)) / added


def _fits(layer: Layer, option: str) -> bool:
    return layer.weighted or option != DYNAMIC


def _relative(tried: Tried) -> float:
    """Latency by int8's, as exactly as it is known."""
    assert tried.relative is not None
    return round(tried.relative / _RESOLUTION) * _RESOLUTION


def _name(tried: Tried) -> str:
    """For ties: no clock in it."""
    return repr(sorted(tried.precision.items()))
