"""Size and hash of every image of a source, read by the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.images.source import Source
from .task import Engine

_Rows = tuple[NDArray[np.int64], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Listing:
    """What a source holds.

    Attributes:
        sizes: bytes of each image as it is stored, (N,) int64.
        digests: SHA-256 of the same, (N, 32) uint8.
    """

    sizes: NDArray[np.int64]
    digests: NDArray[np.uint8]

    def digest(self, index: int) -> bytes:
        """SHA-256 of one image."""
        digest: bytes = self.digests[index].tobytes()
        return digest

    def fingerprint(self, ids: Sequence[str]) -> str:
        """See :meth:`embedlite.runtime.images.source.Source.fingerprint`."""
        total = hashlib.sha256()
        for index, name in enumerate(ids):
            total.update(f"{name}\0".encode(errors="surrogateescape") + self.digest(index))
        return total.hexdigest()


@dataclass(frozen=True)
class ListingTask:
    """Sizes and hashes of images; needs no model.

    Attributes:
        images: see :class:`embedlite.calibration.engine.task.Task`.
    """

    images: int = 1024

    def open(self, model: bytes) -> _ListingWork:
        """Begin."""
        return _ListingWork()


class _ListingWork:
    def __init__(self) -> None:
        self._found: list[tuple[int, bytes]] = []

    def add(self, source: Source, index: int) -> None:
        self._found.append(source.stored(index))

    def finish(self) -> _Rows:
        found, self._found = self._found, []
        digests = np.frombuffer(b"".join(digest for _, digest in found), np.uint8).reshape(-1, 32)
        return np.array([size for size, _ in found], np.int64), digests


def list_images(source: Source, engine: Engine) -> Listing:
    """Read every image of a source once, and keep its size and hash.

    Raises:
        DataError: an image cannot be read.
    """
    sizes, digests = np.zeros(len(source), np.int64), np.zeros((len(source), 32), np.uint8)
    indices = engine.counted(range(len(source)), len(source), "hashing the images")
    for part in engine.run(ListingTask(), b"", source, indices):
        rows = np.asarray(part.indices, np.intp)
        sizes[rows], digests[rows] = part.result
    return Listing(sizes, digests)
