"""A Dask cluster of processes on this machine, for tests."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import dask
from distributed import Client, LocalCluster

from embedlite.runtime.images.source import Source


@contextlib.contextmanager
def two_workers(**options: object) -> Iterator[tuple[LocalCluster, Client]]:
    """Two workers of one thread each; a dead one is started again.

    Each is forked from a process that has imported Dask, which takes most of the time that a worker takes to start.
    That process was started for an earlier cluster, perhaps, and does not know the variables of today.
    """
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            env=dict(os.environ),
            **options,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@dataclass(frozen=True)
class Deadly:
    """A task that kills its process at an image called so; workers import it from here."""

    images: None = None

    def open(self, model: bytes) -> "Deadly":
        return self

    def add(self, source: Source, index: int) -> None:
        if source.ids[index].startswith("dead"):
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(self) -> int:
        return 1


@dataclass(frozen=True)
class Slow:
    """A task that takes a twentieth of a second an image."""

    images: None = None

    def open(self, model: bytes) -> "Slow":
        return self

    def add(self, source: Source, index: int) -> None:
        time.sleep(0.05)

    def finish(self) -> int:
        return 1
