"""Corrections of a quantized graph that cost no time on the device: which are tried, and which are kept.

All of them change stored numbers only (weights, biases, step sizes of one layer): operators, size and speed stay. They
are fitted on the calibration images that are not held out, and each is kept only if the *embeddings* of the held-out
ones come closer to the float graph's, by more than 2.2 standard errors of the mean gain: a layer that answers better
by itself is no proof. They are tried in the order of :data:`CORRECTIONS`, each on top of those that were kept, because
bias correction takes out what rounding leaves, and the last layer is fitted to whatever the others make of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..calibration.auto import better
from ..runtime.errors import RequestError
from ..runtime.sources import Source
from .bias_correction import correct_biases
from .linear_layers import PairedGraph, Values
from .refit import refit_last_layer
from .rounding import round_weights
from .trial import Trial

CORRECTIONS = {
    "rounding": "weights rounded with error feedback",
    "bias": "mean errors taken out of the biases",
    "refit": "the last layer fitted anew",
}
"""Names of the corrections, in the order in which they are tried, and what each does."""

AUTO, NONE = "auto", "none"

_STANDARD_ERRORS = 2.2
"""Three are tried, not thirty as of ranges: chance alone passes here as seldom as three standard errors there, 4 %."""

_MOST_IMAGES = 256
_MOST_BYTES = 256 << 20
"""Images that corrections are fitted on stay in memory; so many, and so many bytes, at most."""


def choose_corrections(asked: Sequence[str], modes: Sequence[str]) -> tuple[str, ...]:
    """The corrections to try, in order, from the names that were given; none given means all.

    Raises:
        RequestError: a name is unknown, ``none`` stands beside another, or there is no int8 file to correct.
    """
    for name in asked:
        if name not in (*CORRECTIONS, AUTO, NONE):
            raise RequestError(f"unknown correction {name!r}. Use {', '.join(CORRECTIONS)}, auto or none.")
    if asked and "int8" not in modes:
        raise RequestError(f"--correct {asked[0]} is for the int8 file, which was not asked for. Add -q int8.")
    if NONE in asked:
        if set(asked) != {NONE}:
            others = ", ".join(name for name in asked if name != NONE)
            raise RequestError(f"corrections were given as none and as {others}. Leave one of them out.")
        return ()
    return tuple(name for name in CORRECTIONS if not asked or AUTO in asked or name in asked)


class Corrector:
    """Corrects the quantized graphs of one export.

    Attributes:
        decisions: what was kept and what was not, in words.
    """

    def __init__(
        self, original: bytes, images: Source, trial: Trial, names: Sequence[str], threads: int | None
    ) -> None:
        """Prepare, without running anything.

        Args:
            original: the float graph that is quantized, equalized if int8 is.
            images: the calibration images that corrections are fitted on; none of them is in ``trial``.
            trial: judges by the held-out ones.
            names: the corrections to try, of :data:`CORRECTIONS`.
            threads: processors; default all.
        """
        self.decisions: list[str] = []
        self._original, self._source, self._trial = original, images, trial
        self._names, self._threads = names, threads
        self._images: list[Values] = []

    def correct(self, quantized: bytes) -> bytes:
        """The int8 graph with those corrections that bring its embeddings closer to the float graph's.

        Args:
            quantized: float-in, float-out, of mode int8.
        """
        if not self._names or self._paired(quantized) is None:
            return quantized
        errors, in_vain = self._trial.errors_of(quantized), []
        for name in self._names:
            graph = self._paired(quantized)
            assert graph is not None
            _APPLY[name](graph)
            corrected = graph.to_bytes()
            after = self._trial.errors_of(corrected)
            if not better(after, errors, _STANDARD_ERRORS):
                in_vain.append(name)
                continue
            self.decisions.append(
                f"int8 corrected ({name}: {CORRECTIONS[name]}): {self._trial.sqnr(errors):.1f} -> "
                f"{self._trial.sqnr(after):.1f} dB on {len(self._trial)} held-out calibration images."
            )
            quantized, errors = corrected, after
        if in_vain:
            self.decisions.append(
                f"tried and left out, because held-out calibration images did not clearly gain: {', '.join(in_vain)}."
            )
        return quantized

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
            count = min(len(self._source), _MOST_IMAGES, max(1, _MOST_BYTES // size))
            self._images = [self._source.ready(index) for index in range(count)]
        return self._images


_APPLY: dict[str, Callable[[PairedGraph], None]] = {
    "rounding": round_weights,
    "bias": correct_biases,
    "refit": refit_last_layer,
}
