"""Corrections of a quantized graph that cost no time on the device: which are tried, and which are kept.

All of them change stored numbers only (weights, biases, step sizes of one layer): operators, size and speed stay. They
are fitted on the calibration images that are not held out, and kept only if the *embeddings* of the held-out ones come
closer to the float graph's, by more than chance would explain: a layer that answers better by itself is not a proof.

First all are tried together, in the order of ``CORRECTIONS``: bias correction takes out what rounding leaves, and
the last layer is fitted to whatever the others make of its inputs. If that is not a clear gain, they are tried one by
one, each on top of those that were kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....calibration.auto import better
from ....runtime.drift.wording import gained
from ....runtime.errors import RequestError
from ....runtime.images.source import Source
from ...graph.run import give_back
from ...modes import CORRECTIONS, MIXED, is_mixed
from ..folds import LARGE, most_trials
from ..trial import Trial
from .bias import correct_biases
from .paired_graph import PairedGraph, Values
from .refit import refit_last_layer
from .rounding import round_weights

OF_MODE = {"int8": CORRECTIONS, "int16x8": CORRECTIONS, MIXED: CORRECTIONS}
"""What is tried in which mode."""

AUTO, NONE = "auto", "none"

Steps = tuple[tuple[str, ...], ...]
"""Corrections one after the other; those of one step are made together."""

Errors = NDArray[np.float64]

_STANDARD_ERRORS = 2.3
"""Four trials at most, not thirty as of ranges: with that many, chance alone passes as seldom as three standard errors
there, in 4 % of the exports (Bonferroni)."""

_MOST_IMAGES = 256
_MOST_BYTES = 16 << 20
"""Corrections are fitted on so many images at most, and on fewer of large ones, each of which takes longer: 27 of
224x224x3, whose places are some 1,700 rows to fit weights to."""

_LEAST_IMAGES = 16


def choose_corrections(asked: Sequence[str], modes: Sequence[str]) -> tuple[str, ...]:
    """The corrections to try, in order, from the names that were given; none given means all.

    Raises:
        RequestError: a name is unknown, ``none`` stands beside another, or there is no file to correct.
    """
    for name in asked:
        if name not in (*CORRECTIONS, AUTO, NONE):
            raise RequestError(f"unknown correction {name!r}. Use {', '.join(CORRECTIONS)}, auto or none.")
    for name in asked:
        able = [mode for mode, names in OF_MODE.items() if name in (*names, AUTO, NONE)]
        if not set(able).intersection(modes):
            raise RequestError(
                f"--correct {name} is for {_listed(able)}, which this export does not make. Add -q {able[0]}, which "
                "needs --calibration-data."
            )
    if NONE in asked:
        if set(asked) != {NONE}:
            others = ", ".join(name for name in asked if name != NONE)
            raise RequestError(f"corrections were given as none and as {others}. Leave one of them out.")
        return ()
    return tuple(name for name in CORRECTIONS if not asked or AUTO in asked or name in asked)


@dataclass(frozen=True)
class Corrected:
    """A quantized graph with those corrections that were kept.

    Attributes:
        graph: float-in, float-out.
        steps: the corrections.
        decisions: what was kept and what was not, in words.
    """

    graph: bytes
    steps: Steps
    decisions: tuple[str, ...]


class Corrector:
    """Corrects the quantized graphs of one export."""

    def __init__(
        self, original: bytes, images: Source, trial: Trial, names: Sequence[str], threads: int | None
    ) -> None:
        """Prepare, without running anything.

        Args:
            original: the float graph that is quantized, equalized if int8 is.
            images: the calibration images that corrections are fitted on; none of them is in ``trial``.
            trial: judges by the held-out ones.
            names: the corrections to try, of :data:`embedlite.convert.modes.CORRECTIONS`.
            threads: processors; default all.
        """
        self._original, self._source, self._trial = original, images, trial
        self._names, self._threads = names, threads
        self._images: list[Values] = []

    def correct(self, quantized: bytes, mode: str) -> Corrected:
        """The graph with those corrections that bring its embeddings closer to the float graph's, and which these are.

        Args:
            quantized: float-in, float-out.
            mode: one of :data:`OF_MODE`; of several mixed files, the one's name.
        """
        names = tuple(name for name in self._names if name in OF_MODE[MIXED if is_mixed(mode) else mode])
        graph = self._paired(quantized) if names else None
        if graph is None:
            return Corrected(quantized, (), ())
        errors = self._trial.errors_of(quantized)
        # Tried one by one, the first would be applied to the same graph again.
        first = _corrected(graph, names[:1])
        together = _corrected(graph, names[1:])
        after = self._gained(together, errors)
        if after is not None:
            return Corrected(together, (names,), (self._explain(mode, names, errors, after),))
        kept, decisions = list[tuple[str, ...]](), list[str]()
        large = most_trials(self._original, len(self._trial), 1) <= LARGE
        for name in names if len(names) > 1 and not large else ():
            graph = None if name == names[0] else self._paired(quantized)
            alone = first if graph is None else _corrected(graph, (name,))
            after = self._gained(alone, errors)
            if after is not None:
                kept.append((name,))
                decisions.append(self._explain(mode, (name,), errors, after))
                quantized, errors = alone, after
        if not kept:
            decisions.append(
                f"{mode} was not corrected: {', '.join(names)} brought no clear gain on {len(self._trial)} held-out "
                "calibration images."
            )
        return Corrected(quantized, tuple(kept), tuple(decisions))

    def apply(self, quantized: bytes, steps: Steps) -> bytes:
        """The graph with given corrections, whatever they bring: those that were kept for the same graph before."""
        for names in steps:
            graph = self._paired(quantized)
            assert graph is not None
            quantized = _corrected(graph, names)
        return quantized

    def _gained(self, corrected: bytes, before: Errors) -> Errors | None:
        """The errors of held-out images, if these clearly gain by the corrections; else None."""
        after = self._trial.errors_of(corrected)
        return after if better(after, before, _STANDARD_ERRORS) else None

    def _explain(self, mode: str, names: Sequence[str], before: Errors, after: Errors) -> str:
        gain = gained(self._trial.sqnr(before), self._trial.sqnr(after))
        return (
            f"{mode} was corrected ({', '.join(names)}): {gain} on {len(self._trial)} calibration images held out "
            "for that. --correct none leaves it as it is."
        )

    def _paired(self, quantized: bytes) -> PairedGraph | None:
        """The graph beside the float one; None where there is no layer to correct."""
        try:
            graph = PairedGraph(quantized, self._original, self._fitting(), self._threads)
        except RequestError:
            # Nothing in it was quantized, so nothing has a counterpart.
            return None
        return graph if graph.layers else None

    def _fitting(self) -> list[Values]:
        if not self._images:
            size = 4 * self._source.ready(0).size
            count = min(len(self._source), _MOST_IMAGES, max(_LEAST_IMAGES, _MOST_BYTES // size))
            self._images = [self._source.ready(index) for index in range(count)]
        return self._images


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _corrected(graph: PairedGraph, names: Sequence[str]) -> bytes:
    """The graph, which is changed, with these corrections."""
    for name in names:
        _APPLY[name](graph)
        # What each thread computed with does not fit the layers of the next correction.
        give_back()
    return graph.to_bytes()


_APPLY: dict[str, Callable[[PairedGraph], None]] = {
    "rounding": round_weights,
    "bias": correct_biases,
    "refit": refit_last_layer,
}
