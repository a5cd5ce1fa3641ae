"""What Dask's workers are given: a model to keep, and the function that runs a shard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from ...runtime.images.source import Shard
from .task import Task
from .worker import Done, drop_model, keep_model, run_shard


class ModelPlugin(WorkerPlugin):  # type: ignore[misc]  # distributed's classes have no types
    """Keeps a model in every worker. The scheduler hands a plugin to workers that join later as well.

    Args:
        sha256: of the model.
        model: its bytes.
        owner: the run that needs it.
    """

    def __init__(self, sha256: str, model: bytes, owner: str) -> None:
        self.name = self.name_of(sha256, owner)
        self._sha256, self._model, self._owner = sha256, model, owner

    @staticmethod
    def name_of(sha256: str, owner: str) -> str:
        """What the scheduler knows the plugin by."""
        return f"embedlite-{sha256}-{owner}"

    def setup(self, worker: Worker) -> None:
        """Called by the worker when it gets the plugin."""
        keep_model(self._sha256, self._model, self._owner)

    def teardown(self, worker: Worker) -> None:
        """Called by the worker when the plugin is taken away."""
        drop_model(self._sha256, self._owner)


def run_on_worker(task: Task[Any], sha256: str, shard: Shard) -> Done:
    """See :func:`embedlite.calibration.engine.worker.run_shard`; says which worker it was."""
    return replace(run_shard(task, sha256, shard), worker=str(get_worker().name))
