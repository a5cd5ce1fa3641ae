"""What an engine runs, and what an engine is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ...runtime.images.source import Source

_R = TypeVar("_R")
_Made_co = TypeVar("_Made_co", covariant=True)
_T = TypeVar("_T")


class Work(Protocol[_Made_co]):
    """A task at work in one thread, its interpreter open."""

    def add(self, source: Source, index: int) -> None:
        """Do it with one image.

        Raises:
            EmbedliteError: it cannot be done; the message names the image.
        """

    def finish(self) -> _Made_co:
        """What the images gave that were added since the last call."""


class Task(Protocol[_Made_co]):
    """What is done with each image: small, hashable, and pickled for other processes.

    Attributes:
        images: after so many images of a thread their result is handed on, because it grows with them; None hands on
            one at the end.
    """

    @property
    def images(self) -> int | None:
        """See the class."""

    def open(self, model: bytes) -> Work[_Made_co]:
        """Open the model for a thread that begins with the task.

        Args:
            model: whatever bytes the task runs: a float graph, a ``.tflite`` file, or nothing.
        """


@dataclass(frozen=True)
class Part(Generic[_R]):
    """What some images gave.

    Attributes:
        indices: which, in the order in which they were added.
        result: what :meth:`Work.finish` returned.
    """

    indices: Sequence[int]
    result: _R


class Engine(Protocol):
    """What runs tasks."""

    @property
    def far(self) -> bool:
        """Whether results are sent, so that they should be small."""

    @property
    def first_chunk(self) -> int:
        """Images that a run with a cache begins with before it saves."""

    @property
    def save_seconds(self) -> float:
        """Between two saves, about: the engine idles at each, until its last image is done."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What decides the last digits of its results, see
        :func:`embedlite.calibration.engine.worker.describe_worker`."""

    @property
    def workers(self) -> Sequence[str] | None:
        """The addresses of the only workers that it uses; None: all there are, or no cluster at all."""

    @property
    def others(self) -> Sequence[Engine]:
        """Engines of workers with another environment, each of one kind, if they were to be set apart."""

    def run(
        self, task: Task[_R], model: bytes, source: Source, indices: Iterable[int] | None = None
    ) -> Iterator[Part[_R]]:
        """Run a task over images; every image is in exactly one part, and the parts come in no order.

        Args:
            task: what to do.
            model: for :meth:`Task.open`.
            source: the images.
            indices: which; default all.

        Raises:
            EmbedliteError: an image failed; if several did, the error is the first one's.
            EngineError: the cluster is gone, or what it has does not fit.
        """

    def counted(self, items: Iterable[_T], total: int, label: str) -> Iterator[_T]:
        """``items``, to be passed to :meth:`run` as indices; how far along they are is shown on stderr."""
