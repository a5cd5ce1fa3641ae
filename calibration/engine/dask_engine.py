"""The engine of a Dask cluster: shards of a source are sent out, results come back and are counted once each.

A worker gets the name of a task, the hash of a model and where the images of a shard are, and opens all of that itself.
No more shards are under way than keep the workers busy, so that the scheduler never holds a plan of millions. A worker
that dies has its shards run by another one: what it had done of them was in it alone, and what came from it before was
taken whole. Every wait has an end.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import queue
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import dask
from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.client import ClosedClientError

from ...runtime.errors import EngineError
from ...runtime.images.source import Source
from ...runtime.machine import available_threads
from ...runtime.progress import Line
from .check_workers import ask_workers, check_environment, others_by_kind
from .dask_plugin import ModelPlugin, run_on_worker
from .task import Part, Task
from .worker import Done, describe_worker

_R = TypeVar("_R")
_T = TypeVar("_T")

CONNECT_SECONDS = 10.0
WORKER_SECONDS = 60.0
"""How long to wait for a first worker, or for another one after the last is gone."""

_SHARD_IMAGES = 256
_LARGEST_SHARD = 1024
_MANY_SHARDS = 4096
_AHEAD = 3
"""Shards under way for each thread of the cluster: one at work, the others so that it never waits for the next."""

_LOOK_SECONDS = 1.0

_RUNS = "running"


class DaskEngine:
    """Runs tasks on the workers of a client.

    Args:
        client: connected; it is not closed.
        patience: seconds that the cluster may be without a worker.
        shard_images: images that a worker gets at once; default by :func:`shard_size`.
        apart: set workers apart whose results would not be this machine's, instead of refusing them.

    Attributes:
        environment: what its workers are, see :func:`embedlite.calibration.engine.worker.describe_worker`.
        others: an engine for each kind of workers that are set apart; later ones are left out.
        workers: the addresses of the only workers that it uses; None: all.

    Raises:
        EngineError: there is no worker in that time.
        WorkerMismatchError: a worker lacks embedlite, or its results would not be this machine's.
    """

    far = True
    save_seconds = 10.0

    def __init__(
        self,
        client: Client,
        patience: float = WORKER_SECONDS,
        shard_images: int | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self._client, self._patience, self._shard_images = client, patience, shard_images
        self._owner = secrets.token_hex(8)
        self._sent: set[str] = set()
        self._line: Line | None = None
        self._counted = 0
        self.summary = Summary()
        self.environment = describe_worker()
        self.workers: tuple[str, ...] | None = None
        self.others: list[DaskEngine] = []
        self._wait_for_worker()
        answers = ask_workers(client)
        if apart:
            self._set_apart(answers)
        else:
            for worker, there in answers.items():
                check_environment(there, self.environment, worker)

    @staticmethod
    def is_client(value: Any) -> bool:
        """Whether a value is what the constructor takes."""
        return isinstance(value, Client)

    @classmethod
    @contextlib.contextmanager
    def on_this_machine(cls, threads: int | None) -> Iterator[DaskEngine]:
        """An engine on a cluster of this machine: as many processes as threads, of one thread each.

        Raises:
            EngineError: its processes do not start.
        """
        with _quiet(), contextlib.ExitStack() as stack:
            # Looking at the frames of every thread a hundred times a second has its price.
            stack.enter_context(dask.config.set({"distributed.worker.profile.enabled": False}))
            try:
                cluster = LocalCluster(
                    n_workers=threads or available_threads(),
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            except (RuntimeError, OSError, TimeoutError) as error:
                raise EngineError(
                    f"the cluster's processes on this machine do not start: {error}. In a program of your own, call it "
                    "under if __name__ == '__main__', because every worker imports that program."
                ) from error
            stack.enter_context(cluster)
            yield stack.enter_context(cls(stack.enter_context(Client(cluster, set_as_default=False))))

    @classmethod
    @contextlib.contextmanager
    def at(cls, address: str, *, apart: bool = False) -> Iterator[DaskEngine]:
        """An engine on the cluster of a scheduler; ``apart`` as in the class.

        Raises:
            EngineError: it does not answer.
        """
        with _quiet():
            try:
                client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
            except (OSError, ValueError) as error:
                raise EngineError(
                    f"no Dask scheduler answers at {address} within {CONNECT_SECONDS:g} s ({error}). Start one there "
                    "(dask scheduler), or check the address and what may block it."
                ) from error
            with client, cls(client, apart=apart) as engine:
                yield engine

    def __enter__(self) -> DaskEngine:
        if sys.stderr.isatty():
            sys.stderr.write(f"dashboard: {self._client.dashboard_link}\n")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for engine in (self, *self.others):
            if engine._line is not None:
                engine._line.close()
        # Models that nobody needs any more; a cluster that is gone has none.
        with contextlib.suppress(EngineError), self._answering():
            for sha256 in self._sent:
                self._client.unregister_worker_plugin(ModelPlugin.name_of(sha256, self._owner))
        self._sent.clear()
        if kind is None and self.summary.images:
            sys.stderr.write(self.summary.render())

    @property
    def first_chunk(self) -> int:
        """See :class:`embedlite.calibration.engine.task.Engine`."""
        return self._threads() * _AHEAD * _SHARD_IMAGES

    def counted(self, items: Iterable[_T], total: int, label: str) -> Iterator[_T]:
        """See :meth:`embedlite.calibration.engine.task.Engine.counted`; what counts is that an image's result is
        here."""
        if self._line is not None:
            self._line.close()
        self._line, self._counted = Line(total, label), 0
        return iter(items)

    def run(
        self, task: Task[_R], model: bytes, source: Source, indices: Iterable[int] | None = None
    ) -> Iterator[Part[_R]]:
        """See :meth:`embedlite.calibration.engine.task.Engine.run`."""
        sha256 = self._send(model)
        waiting = iter(range(len(source)) if indices is None else indices)
        threads = self._look()
        size = self._shard_images or shard_size(len(source), threads)
        ready: queue.Queue[int] = queue.Queue()
        running: dict[int, tuple[Future, list[int]]] = {}
        failures: dict[int, BaseException] = {}
        number, checked = 0, time.monotonic()

        def watch(place: int, future: Future, chunk: list[int]) -> None:
            running[place] = (future, chunk)
            future.add_done_callback(lambda _: ready.put(place))

        try:
            while True:
                while not failures and len(running) < _AHEAD * threads and (chunk := list(islice(waiting, size))):
                    shard = source.shard(chunk)
                    with self._answering():
                        future = self._client.submit(
                            run_on_worker,
                            *(task, sha256, shard),
                            key=f"embedlite-{self._owner}-{secrets.token_hex(4)}-{number}",
                            pure=False,
                            # Strictly: otherwise idle workers of another kind steal shards.
                            workers=self.workers,
                        )
                    watch(number, future, chunk)
                    number += 1
                if not running or (failures and min(failures) < min(running)):
                    break
                if time.monotonic() - checked > _LOOK_SECONDS:
                    threads, checked = self._look(), time.monotonic()
                # What is taken from `running` is not there any more: nothing can be counted twice.
                taken = {place: running.pop(place) for place in _taken(ready)}
                settled = self._gather({place: future for place, (future, _) in taken.items()})
                for place in taken.keys() - settled.keys():
                    watch(place, *taken[place])
                for place, found in settled.items():
                    chunk = taken[place][1]
                    if isinstance(found, BaseException):
                        failures[place] = _explained(found, source, chunk)
                        continue
                    check_environment(found.environment, self.environment, found.worker)
                    self._note(found)
                    yield Part(chunk, found.result)
            if failures:
                raise failures[min(failures)]
        finally:
            with contextlib.suppress(EngineError), self._answering():
                for future, _ in running.values():
                    future.cancel()

    def _set_apart(self, answers: Mapping[str, Mapping[str, str]]) -> None:
        kinds = others_by_kind(answers, self.environment)
        for environment, workers in kinds:
            engine = copy.copy(self)
            engine.environment, engine.workers = environment, workers
            self.others.append(engine)
        if kinds:
            self.workers = tuple(worker for worker, there in answers.items() if dict(there) == self.environment)

    def _send(self, model: bytes) -> str:
        """Have every worker, those that join later too, keep a model; it goes to each of them once."""
        sha256 = hashlib.sha256(model).hexdigest()
        if sha256 not in self._sent:
            with self._answering():
                self._client.register_plugin(ModelPlugin(sha256, model, self._owner))
            self._sent.add(sha256)
        return sha256

    def _gather(self, futures: dict[int, Future]) -> dict[int, Done | BaseException]:
        """The results of futures that are done, fetched together, or their errors.

        What is lost again with its worker, before it could be fetched, is neither: Dask has it computed once more.
        """
        sound = {place: future for place, future in futures.items() if future.status == "finished"}
        with self._answering():
            # Without skipping, the error of a result that is lost meanwhile would be everybody's.
            fetched = self._client.gather(sound, errors="skip")
            found = {place: done for place, done in fetched.items() if done is not None}
            for place in futures.keys() - found.keys():
                if futures[place].status in ("error", "cancelled"):
                    found[place] = futures[place].exception(timeout=self._patience)
        return found

    def _note(self, done: Done) -> None:
        self.summary.add(done)
        self._counted += done.images
        if self._line is not None:
            self._line.show(self._counted, f", {self.summary.rate():.0f} images/s on {self.summary.workers} worker(s)")
            if self._counted == self._line.total:
                self._line.close()

    def _threads(self) -> int:
        # One that is paused, or on its way out, is still listed and may never do anything again.
        return sum(
            item["nthreads"]
            for address, item in self._identity().items()
            if item.get("status", _RUNS) == _RUNS and (self.workers is None or address in self.workers)
        )

    def _identity(self) -> dict[str, Any]:
        with self._answering():
            identity = self._client.sync(self._client.scheduler.identity, callback_timeout=CONNECT_SECONDS)
        workers: dict[str, Any] = identity["workers"]
        return workers

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what Dask raises when the scheduler is gone, and its client has closed itself, into one error."""
        try:
            yield
        except (OSError, RuntimeError, TimeoutError, CancelledError, AttributeError, ClosedClientError) as error:
            raise EngineError(
                f"the Dask scheduler at {_address(self._client)} no longer answers ({error or type(error).__name__}). "
                "Start it again and run the command again; with --calibration-cache it goes on where it was."
            ) from error

    def _look(self) -> int:
        """The cluster's threads; waits for some if there are none."""
        return self._threads() or self._wait_for_worker()

    def _wait_for_worker(self) -> int:
        end = time.monotonic() + self._patience
        while not (threads := self._threads()):
            if time.monotonic() > end:
                kind = "" if self.workers is None else f" that is like {', '.join(self.environment.values())}"
                raise EngineError(
                    f"the Dask scheduler at {_address(self._client)} has had no worker for {self._patience:g} s{kind}. "
                    f"Start some, and the command again: dask worker {_address(self._client)}."
                )
            time.sleep(0.2)
        return threads


def shard_size(images: int, threads: int) -> int:
    """Images in a shard: few of a small pool, so that every thread has some; more of a large one.

    A result has a size of its own, and merging has a cost for each, so a pool of millions is cut into larger ones.
    """
    largest = max(_SHARD_IMAGES, min(images // _MANY_SHARDS, _LARGEST_SHARD))
    return max(1, min(-(-images // (8 * threads)), largest))


def _taken(ready: queue.Queue[int]) -> Iterator[int]:
    """What is ready now, after a short wait if nothing is."""
    with contextlib.suppress(queue.Empty):
        yield ready.get(timeout=_LOOK_SECONDS)
        while True:
            yield ready.get_nowait()


def _explained(error: BaseException, source: Source, chunk: list[int]) -> BaseException:
    if not isinstance(error, KilledWorker):
        return error
    return EngineError(
        f"workers died again and again while they worked on {len(chunk)} images of {source.name}, "
        f"{source.ids[chunk[0]]!r} to {source.ids[chunk[-1]]!r}. Look for one among them that the interpreter or "
        "Pillow cannot survive, or give the workers more memory."
    )


def _address(client: Client) -> str:
    return str(getattr(client.scheduler, "address", "?"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask logs every lost connection; what matters of that becomes an error here."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado.application", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass
class _Share:
    shards: int = 0
    images: int = 0
    seconds: float = 0.0


class Summary:
    """Images and time of each worker, while they come in."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}
        self._started: float | None = None
        self._last = 0.0

    @property
    def images(self) -> int:
        """Images of which the result is here; one that is run through several models counts for each."""
        return sum(share.images for share in self._shares.values())

    @property
    def workers(self) -> int:
        """Workers that gave a result."""
        return len(self._shares)

    def add(self, done: Done) -> None:
        """Count a shard that is done."""
        self._last = time.monotonic()
        if self._started is None:
            self._started = self._last - done.seconds
        share = self._shares.setdefault(done.worker, _Share())
        share.shards += 1
        share.images += done.images
        share.seconds += done.seconds

    def rate(self) -> float:
        """Images a second of all workers together, from the first shard on."""
        passed = 0.0 if self._started is None else self._last - self._started
        return self.images / passed if passed > 0 else 0.0

    def render(self) -> str:
        """A table for people, ending in a newline."""
        lines = [f"{self.images} images on {self.workers} worker(s), {self.rate():.0f} images/s:"]
        for name, share in sorted(self._shares.items()):
            busy = share.images / share.seconds if share.seconds else 0.0
            lines.append(
                f"  {name:>24}  {share.images:>9} images  {share.shards:>6} shards  {busy:>8.0f} images/s at work"
            )
        return "\n".join(lines) + "\n"
