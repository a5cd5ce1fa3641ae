"""What a worker does with a shard. Nothing here knows of Dask.

A model is sent to a worker once, and each of its threads keeps the interpreters that it opened last, so that a shard
costs the reading of its images and their inference.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ...runtime.backends.interpreters import find_runtime
from ...runtime.errors import EngineError
from ...runtime.images.source import Shard
from ...runtime.version import __version__
from .task import Task, Work

_KEPT = 3
"""Opened tasks that a thread keeps: the same images may be run through a model in several ways, one after the other."""

_models: dict[str, tuple[bytes, frozenset[str]]] = {}
_models_lock = threading.Lock()
_opened = threading.local()


@dataclass(frozen=True)
class Done:
    """A shard's result.

    Attributes:
        result: what the task made of its images.
        environment: of the process that did, see :func:`describe_worker`.
        images: how many they were.
        seconds: that it took.
        worker: the worker's name in its cluster.
    """

    result: Any
    environment: dict[str, str]
    images: int
    seconds: float
    worker: str = ""


def keep_model(sha256: str, model: bytes, owner: str) -> None:
    """Keep a model in this process until its last owner drops it."""
    with _models_lock:
        _, owners = _models.get(sha256, (model, frozenset()))
        _models[sha256] = (model, owners | {owner})


def drop_model(sha256: str, owner: str) -> None:
    """Let go of a model, if nobody else needs it."""
    with _models_lock:
        model, owners = _models.pop(sha256, (b"", frozenset()))
        if owners - {owner}:
            _models[sha256] = (model, owners - {owner})


def run_shard(task: Task[Any], sha256: str, shard: Shard) -> Done:
    """Run a task over the images of a shard.

    Raises:
        EmbedliteError: an image failed; the message names it.
    """
    started = time.perf_counter()
    work, source = _work(task, sha256), shard.open()
    try:
        for index in range(len(source)):
            work.add(source, index)
        result = work.finish()
    except BaseException:
        # It has half a shard in it, which must not get into the next one's result.
        _opened.kept.pop((task, sha256))
        raise
    return Done(result, _environment(), len(source), time.perf_counter() - started)


def describe_worker() -> dict[str, str]:
    """What decides the last digits of a result: versions of embedlite, interpreter and Pillow, and the architecture."""
    runtime = find_runtime()
    return {
        "embedlite": __version__,
        "interpreter": f"{runtime.name} {runtime.version}",
        "Pillow": _pillow_version(),
        "machine": platform.machine(),
    }


# Reading versions takes some milliseconds.
_environment = functools.cache(describe_worker)


def _pillow_version() -> str:
    try:
        return importlib.metadata.version("Pillow")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _work(task: Task[Any], sha256: str) -> Work[Any]:
    if not hasattr(_opened, "kept"):
        _opened.kept = OrderedDict()
    kept: OrderedDict[tuple[Task[Any], str], Work[Any]] = _opened.kept
    key = (task, sha256)
    if key not in kept:
        with _models_lock:
            model = _models.get(sha256)
        if model is None:
            raise EngineError(
                f"the worker was never sent the model {sha256[:12]}. Something on the cluster took it away; run the "
                "command again."
            )
        kept[key] = task.open(model[0])
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
