"""Trying precisions: what a file with them does to images, and how long it takes."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift import Drift
from ...runtime.progress import progress
from ..errors import ConversionError
from ..modes import Precision
from ..quantize.trial import Trial
from ..verify.latency import Stopwatch
from .trial_cache import SearchCache

_BATCH = 6
"""Files that are timed in turns beside the int8 file."""


@dataclass(frozen=True)
class Tried:
    """One file that was tried.

    Attributes:
        precision: of the layers that are not int8.
        errors: squared error of each image's embedding, (images,); infinite where it is not usable.
        drift: of the embeddings, against the float graph's.
        bytes: size of the file.
        relative: its latency by the int8 file's, measured in turns; None if it does not run on the target.
    """

    precision: Precision
    errors: NDArray[np.float64]
    drift: Drift
    bytes: int
    relative: float | None

    @property
    def noise(self) -> float:
        """Sum of the squared errors."""
        return float(self.errors.sum())


FINISHED, OUT_OF_TIME, INTERRUPTED = "finished", "time budget", "interrupted"
"""How a search ended."""


class UntimedError(ConversionError):
    """The int8 file itself has no latency on the target, so that nothing can be compared with it."""


class SearchEndedError(Exception):
    """No further file is tried, for the reason that it names; never leaves the search."""


class Trials:
    """Makes files, tries each once, and remembers.

    Attributes:
        base: the file without any precision but int8.
        base_us: its latency in microseconds.
    """

    def __init__(
        self,
        make: Callable[[Precision], tuple[bytes, bytes]],
        trial: Trial,
        stopwatch: Stopwatch,
        cache: SearchCache,
        seconds: float | None,
    ) -> None:
        """Try the int8 file itself.

        Args:
            make: the quantized float-in, float-out graph with given precisions, and the file that is shipped.
            trial: the images.
            stopwatch: of the target.
            cache: what earlier searches tried.
            seconds: after which, within :meth:`limited`, no further file is tried; None for as many as it takes.

        Raises:
            UntimedError: the int8 file does not run on the target.
        """
        self._make, self._trial, self._stopwatch, self._cache = make, trial, stopwatch, cache
        self._interrupted = False
        self._seconds, self._end = seconds, math.inf
        quantized, self._base_file = make({})
        self.base = replace(self._judged({}, quantized, self._base_file), relative=1.0)
        known = cache.base_us
        if known is None:
            timing = stopwatch.time([self._base_file])[0]
            if timing.latency_us is None:
                raise UntimedError(f"the int8 file has no latency on {stopwatch.package}: {timing.error}")
            known = timing.latency_us
            cache.remember_base(known)
        self.base_us = known
        self._noises: dict[tuple[tuple[str, str], ...], float] = {}
        self._found: dict[tuple[tuple[str, str], ...], Tried] = {(): self.base}

    @property
    def all(self) -> tuple[Tried, ...]:
        """Everything that was tried and runs, the int8 file first."""
        return tuple(tried for tried in self._found.values() if tried.relative is not None)

    def sqnr(self, tried: Tried) -> float | None:
        """Signal-to-noise ratio in dB on the images."""
        return self._trial.sqnr(tried.errors)

    def try_all(self, precisions: Sequence[Precision], label: str) -> list[Tried]:
        """Try files, and leave out those that cannot be made or do not run.

        Raises:
            SearchEndedError: the time is up; those that were done by then are in :attr:`all`.
        """
        waiting = [precision for precision in precisions if _key(precision) not in self._found]
        for batch in progress(_batches(waiting), -(-len(waiting) // _BATCH), label):
            self._check_time()
            self._try(batch)
        return [tried for p in precisions if (tried := self._found.get(_key(p))) is not None and tried.relative]

    def noise(self, precision: Precision) -> float:
        """Noise of a file that is not timed; infinite if it cannot be made.

        Raises:
            SearchEndedError: the time is up.
        """
        if (key := _key(precision)) not in self._noises:
            self._check_time()
            try:
                self._noises[key] = _squared(self._trial.errors_of(self._make(precision)[0])).sum()
            except ConversionError:
                self._noises[key] = math.inf
        return self._noises[key]

    def judge(self, precision: Precision, quantized: bytes) -> Tried:
        """A graph with these precisions that was changed since, by corrections for instance; its speed is the same."""
        known = self._found[_key(precision)]
        return replace(self._judged(precision, quantized, b""), bytes=known.bytes, relative=known.relative)

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """Within it the time runs, and the first Ctrl-C only ends the search, between two files; another is as usual.

        An exception in the middle of a file could surface in C++ and be told as something else.
        """
        if self._seconds is not None:
            self._end = time.monotonic() + self._seconds
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

        def note(*_: object) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _check_time(self) -> None:
        if self._interrupted:
            raise SearchEndedError(INTERRUPTED)
        if time.monotonic() > self._end:
            raise SearchEndedError(OUT_OF_TIME)

    def _try(self, batch: Sequence[Precision]) -> None:
        files: list[bytes] = []
        judged: list[Tried] = []
        for precision in batch:
            known = self._cache.find(precision)
            if known is not None:
                self._found[_key(precision)] = Tried(precision, *known)
                continue
            try:
                quantized, file = self._make(precision)
            except ConversionError:
                # A layer may have no kernel for it: then it is not a choice.
                continue
            judged.append(self._judged(precision, quantized, file))
            files.append(file)
        if not judged:
            return
        timings = self._stopwatch.time([self._base_file, *files])[1:]
        for tried, timing in zip(judged, timings, strict=True):
            if self._interrupted and timing.relative is None:
                # A terminal sends Ctrl-C to what runs the file, too: that it did not run says nothing about it.
                continue
            done = replace(tried, relative=timing.relative)
            self._found[_key(done.precision)] = done
            self._cache.remember(done.precision, done.errors, done.drift, done.bytes, done.relative)
        self._cache.save()

    def _judged(self, precision: Precision, quantized: bytes, file: bytes) -> Tried:
        errors, drift = self._trial.measure(quantized)
        return Tried(precision, _squared(errors), drift, len(file), None)


def _squared(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    return errors.reshape(len(errors), -1)[:, 0]


def _key(precision: Precision) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(precision.items()))


def _batches(waiting: Sequence[Precision]) -> Iterator[Sequence[Precision]]:
    for start in range(0, len(waiting), _BATCH):
        yield waiting[start : start + _BATCH]
