"""The engine of one machine: images are spread over its processors, one thread and one interpreter each.

That is as fast as spreading each inference, leaves room for looking at tensors, and what one image gives does not
depend on the number of threads.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from ...runtime.images.source import Source
from ...runtime.machine import available_threads
from ...runtime.progress import progress
from .task import Part, Task
from .worker import describe_worker

_R = TypeVar("_R")
_T = TypeVar("_T")


class LocalEngine:
    """Runs tasks in threads of this process.

    Args:
        threads: how many; default all processors.
    """

    far = False
    first_chunk = 16
    workers = None
    others = ()
    save_seconds = 1.0
    """An interpreter is opened again after each save, and the file written whole."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_threads()

    @property
    def environment(self) -> dict[str, str]:
        """See :class:`embedlite.calibration.engine.task.Engine`."""
        return describe_worker()

    def counted(self, items: Iterable[_T], total: int, label: str) -> Iterator[_T]:
        """See :meth:`embedlite.calibration.engine.task.Engine.counted`."""
        return progress(items, total, label)

    def run(
        self, task: Task[_R], model: bytes, source: Source, indices: Iterable[int] | None = None
    ) -> Iterator[Part[_R]]:
        """See :meth:`embedlite.calibration.engine.task.Engine.run`."""
        numbered = iter(enumerate(range(len(source)) if indices is None else indices))
        run = _Run(task, model, source, numbered, self.threads)
        workers = [threading.Thread(target=run.work, daemon=True) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            yield from run.parts()
        finally:
            run.stop.set()
            for worker in workers:
                worker.join()


class _Run:
    """What the threads of one run share."""

    def __init__(
        self, task: Task[Any], model: bytes, source: Source, numbered: Iterator[tuple[int, int]], threads: int
    ) -> None:
        self.stop = threading.Event()
        self._task, self._model, self._source, self._numbered = task, model, source, numbered
        self._lock, self._running = threading.Lock(), threads
        self._failures: list[tuple[int, BaseException]] = []
        # Whoever takes the parts may be slower than the threads, and parts may be large. None: a thread has ended.
        self._made: queue.Queue[Part[Any] | None] = queue.Queue(2 * threads)

    def parts(self) -> Iterator[Part[Any]]:
        """Parts as they are made; then the error of the first image that failed."""
        while self._running:
            part = self._made.get()
            if part is None:
                self._running -= 1
            elif not self._failures:
                yield part
        if self._failures:
            raise min(self._failures, key=lambda item: item[0])[1]

    def work(self) -> None:
        """What each thread does."""
        number, taken = -1, list[int]()
        try:
            work = self._task.open(self._model)
            while not self.stop.is_set():
                with self._lock:
                    number, index = next(self._numbered, (-1, -1))
                if number < 0:
                    break
                work.add(self._source, index)
                taken.append(index)
                if len(taken) == self._task.images:
                    self._hand_on(Part(taken, work.finish()))
                    taken = []
            if taken:
                self._hand_on(Part(taken, work.finish()))
        except BaseException as error:  # every kind is handed on to the caller's thread
            self._failures.append((number, error))
            self.stop.set()
        finally:
            self._hand_on(None)

    def _hand_on(self, part: Part[Any] | None) -> None:
        while True:
            try:
                return self._made.put(part, timeout=0.1)
            except queue.Full:
                # Nobody takes parts any more once the caller has left.
                if self.stop.is_set() and not self._failures:
                    return None
