"""The monitor itself: it gives what the encoder gives, and looks at some of it in the background.

How much of the time a monitor may take: a bucket that fills with a share of every second and pays for the work.

A token bucket (J. S. Turner, New Directions in Communications, IEEE Communications Magazine 24(10), 1986). It holds a
minute's worth at most, so after a quiet night a device is not busy with itself for an hour: in any stretch of T seconds
the work takes at most share x (T + 60) seconds, and since the start share x T, each but for one piece of work a thread
that took longer than the one before it. What was taken too much is paid back before anything else is done.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoder import Encoder
from ..errors import EmbedliteWarning, EncoderClosedError, RequestError
from ..input.shapes import check_images, check_one
from .distribution import ReferenceDistribution
from .references import open_reference
from .state import MonitorState, StateFile
from .tallies import Statistics

_MOST_WAITING = 8
"""Inputs that may wait for their comparison: they are copies, and memory is scarce."""


class DriftMonitor:
    """An encoder in use, some of whose inputs are compared with a reference.

    >>> with DriftMonitor(encoder, "model.float32.tflite", every=50, state="door.json") as monitor:   # doctest: +SKIP
    ...     vector = monitor.embed_one(image)                                                          # (D,) float32

    Each input is chosen by a coin that falls right once in ``every`` throws, not by counting: a camera that sees the
    same every hundredth time would fool a count. The comparison and all writing is done by a thread of the monitor's
    own, on copies. Once the encoder has its answer, nothing that goes wrong here reaches the caller: it is counted,
    kept in :attr:`last_error` and warned of. May be shared by threads.

    Args:
        encoder: an open encoder; it stays the caller's to close, after the monitor.
        reference: the float ``.tflite`` of the same export, or an :class:`Encoder` of it; or a distribution for devices
            that cannot run it: stored embeddings (``.npz``), or a :class:`ReferenceDistribution` or its ``.json``.
        every: one input in so many is compared, on average; 1 compares all.
        state: file in which the statistics survive; read when the monitor is made. None keeps them in memory.
        budget: share of the time, above 0 and at most 1, that the monitor may take; a chosen input that does not fit in
            is skipped and counted. None compares every chosen input, and a caller who is faster waits. See
            :mod:`embedlite.runtime.monitor.monitor`.
        device: the name in the fleet's report; default the state file's name there.
        seed: makes the choice of inputs repeatable; default a new choice each time.
        save_seconds: seconds after which the state is saved, at the next input.
        clock: monotonic clock in seconds.

    Raises:
        RequestError: an argument out of range, or a reference that does not fit the encoder.
        MonitorStateError: the state is of another model or reference, or in use.
        ModelFileError, DataError, OutputError: the reference cannot be read, or the state not be written.
    """

    def __init__(
        self,
        encoder: Encoder,
        reference: str | Path | Encoder | ReferenceDistribution,
        *,
        every: int = 100,
        state: str | Path | None = None,
        budget: float | None = 0.05,
        device: str | None = None,
        seed: int | None = None,
        save_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every < 1 or not save_seconds > 0 or not (budget is None or 0 < budget <= 1):
            raise RequestError(
                f"every is {every}, save_seconds {save_seconds} and budget {budget}. Pass every from 1 on, "
                "save_seconds above 0, and a budget above 0 and at most 1, or None."
            )
        self._encoder = encoder
        self._clock = clock
        self._every = every
        self._save_seconds = save_seconds
        self._random = random.Random(seed)
        # The first is held for a few additions only, so that no caller waits for a comparison or a disk.
        self._lock, self._statistics_lock = threading.Lock(), threading.Lock()
        self._last_error: Exception | None = None
        self._closed = False
        self._reference = open_reference(encoder, reference)
        self._file: StateFile | None = None
        try:
            self._file = StateFile(state) if state is not None else None
            self._state = self._first_state(device)
            estimate = self._warm_up()
        except BaseException:
            self._release()
            raise
        self._budget = TimeBudget(budget, clock, estimate)
        self._patient = budget is None
        self._places = threading.Semaphore(_MOST_WAITING)
        self._saving, self._saved_at = False, clock()
        # One thread: what is handed over first is done first.
        self._worker = ThreadPoolExecutor(1, "embedlite-monitor")

    @property
    def last_error(self) -> Exception | None:
        """What went wrong last while an input was compared or the state was saved."""
        return self._last_error

    @property
    def counters(self) -> dict[str, int]:
        """``inputs``, ``skipped`` and ``failed``, see :class:`embedlite.runtime.monitor.state.MonitorState`, and
        ``compared``."""
        with self._lock:
            return {**self._state.counters, "compared": self._state.statistics.counts["rows"]}

    def metrics(self) -> dict[str, float | None]:
        """The metrics so far, as ``drift-fleet`` gives them; None without a value, infinite if unbounded."""
        with self._statistics_lock:
            return self._state.metrics()

    def embed_one(self, image: Any) -> NDArray[np.float32]:
        """What :meth:`Encoder.embed_one` returns, (D,) float32."""
        self._check_open()
        embedding = self._encoder.embed_one(image)
        self._observe(image, embedding)
        return embedding

    def embed(self, inputs: Any) -> NDArray[np.float32]:
        """What :meth:`Encoder.embed` returns, (N, D) float32; each input of the batch is chosen or not on its own."""
        self._check_open()
        images = check_images(inputs, self._encoder.contract.input)
        # An iterator can be read only once, and both the encoder and the comparison want its images.
        batch = list(images) if isinstance(images, Iterator) else images
        embeddings = self._encoder.embed(batch)
        for image, embedding in zip(batch, embeddings, strict=True):
            self._observe(image, embedding)
        return embeddings

    def embed_iter(self, images: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
        """What :meth:`Encoder.embed_iter` yields, (D,) float32 for each image."""
        self._check_open()
        ahead: deque[Any] = deque()

        def remembered() -> Iterator[Any]:
            for image in images:
                ahead.append(image)
                yield image

        for embedding in self._encoder.embed_iter(remembered()):
            self._observe(ahead.popleft(), embedding)
            yield embedding

    def save(self) -> None:
        """Wait for the comparisons that were begun, and save the state.

        Raises:
            OutputError: the disk refused.
        """
        self._check_open()
        self._worker.submit(self._write).result()

    def close(self) -> None:
        """Finish the comparisons, save, close what the monitor opened; a state that cannot be saved is a warning."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._worker.shutdown(wait=True)
        self._write_quietly()
        self._release()

    def __enter__(self) -> DriftMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _first_state(self, device: str | None) -> MonitorState:
        runtime = self._encoder.runtime
        empty = MonitorState(
            candidate={"sha256": self._encoder.artifact.sha256, "mode": self._encoder.contract.mode},
            reference=self._reference.identity(),
            embedding_size=self._encoder.embedding_size,
            statistics=Statistics(self._reference.layout),
            device=device,
            runtimes=[f"{runtime.name} {runtime.version}"],
        )
        return empty if self._file is None else self._file.resume(empty)

    def _warm_up(self) -> float:
        """Seconds that the reference takes; also shows that it runs."""
        # The first run allocates and packs weights.
        self._reference.try_out()
        started = self._clock()
        self._reference.try_out()
        return self._clock() - started

    def _observe(self, image: Any, embedding: NDArray[np.float32]) -> None:
        """Count, choose, hand over; whatever goes wrong stays here."""
        try:
            with self._lock:
                self._state.counters["inputs"] += 1
                chosen = self._random.random() * self._every < 1
                due = self._file is not None and not self._saving
                due = due and self._clock() - self._saved_at >= self._save_seconds
                self._saving |= due
            if chosen:
                self._hand_over(image, embedding)
            if due:
                self._worker.submit(self._save)
        except Exception as error:
            self._remember(error)

    def _hand_over(self, image: Any, embedding: NDArray[np.float32]) -> None:
        """Have the input compared, if there is time and room."""
        place = self._places.acquire(blocking=self._patient)
        with self._lock:
            reserved = self._budget.reserve() if place else None
            self._state.counters["skipped"] += reserved is None
        if reserved is None:
            if place:
                self._places.release()
            return
        try:
            # The caller may fill its arrays again before their turn comes.
            copy = check_one(image, self._encoder.contract.input).copy()
            self._worker.submit(self._compare, copy, embedding.copy(), reserved)
        except BaseException:
            self._settle(reserved, 0.0, failed=True)
            raise

    def _compare(self, image: NDArray[Any], embedding: NDArray[np.float32], reserved: float) -> None:
        started, failed = self._clock(), True
        try:
            own = self._reference.embed(image)
            with self._statistics_lock:
                self._reference.add(self._state.statistics, embedding, own)
            failed = False
        except Exception as error:
            self._remember(error)
        finally:
            self._settle(reserved, self._clock() - started, failed=failed)

    def _settle(self, reserved: float, spent: float, *, failed: bool) -> None:
        with self._lock:
            self._state.counters["failed"] += failed
            self._budget.settle(reserved, spent)
        self._places.release()

    def _save(self) -> None:
        """What the thread does when a state is due."""
        started = self._clock()
        self._write_quietly()
        with self._lock:
            # Also after a failure the next try waits its time: a full disk stays full for a while.
            self._saving, self._saved_at = False, self._clock()
            self._budget.charge(self._saved_at - started)

    def _write_quietly(self) -> None:
        try:
            self._write()
        except Exception as error:
            self._remember(error)

    def _write(self) -> None:
        if self._file is None:
            return
        with self._statistics_lock:
            with self._lock:
                counters = dict(self._state.counters)
            data = replace(self._state, counters=counters).to_bytes()
        self._file.write(data)

    def _remember(self, error: Exception) -> None:
        """Keep the error; warn unless the last one said the same."""
        with self._lock:
            repeated = str(error) == str(self._last_error)
            self._last_error = error
        if not repeated:
            # Where warnings are errors, they would end the service that this must not disturb.
            with contextlib.suppress(EmbedliteWarning):
                warnings.warn(f"the drift monitor goes on without this: {error}", EmbedliteWarning, stacklevel=4)

    def _check_open(self) -> None:
        if self._closed:
            raise EncoderClosedError("this monitor was closed. Make another one, or use the encoder itself.")

    def _release(self) -> None:
        self._reference.close()
        if self._file is not None:
            self._file.close()


BURST_SECONDS = 60.0


class TimeBudget:
    """A share of the time; not safe to share between threads.

    Args:
        share: above 0, at most 1; None for no limit.
        clock: seconds that never go back.
        estimate: seconds that one piece of work is expected to take.
    """

    def __init__(self, share: float | None, clock: Callable[[], float], estimate: float) -> None:
        self._share = share
        self._clock = clock
        self._estimate = estimate
        self._credit = 0.0
        self._filled = clock()

    def reserve(self) -> float | None:
        """Pay for the next piece of work what the last one took; None if that is not there yet."""
        if self._share is None:
            return 0.0
        now = self._clock()
        most = max(self._share * BURST_SECONDS, self._estimate)
        self._credit = min(most, self._credit + self._share * (now - self._filled))
        self._filled = now
        if self._credit < self._estimate:
            return None
        self._credit -= self._estimate
        return self._estimate

    def settle(self, reserved: float, spent: float) -> None:
        """A piece of work is done: pay the rest, or get back what it did not take."""
        self._credit += reserved - spent
        self._estimate = spent

    def charge(self, spent: float) -> None:
        """Pay for what had to be done."""
        self._credit -= spent
