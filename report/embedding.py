"""Embedding a pool of images on a cluster's workers."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..calibration.engine import Engine, Listing
from ..runtime.encoder import Encoder
from ..runtime.errors import DataError, EmbedliteWarning, EngineError, InputError
from ..runtime.images.source import Source
from ..runtime.model.artifact import SIDECAR_SUFFIX
from ..runtime.model.contract import InputContract

_SHARD_ROWS = 256
"""Embeddings that a thread gathers before it hands them on."""


@dataclass(frozen=True)
class Embedded:
    """What one task gave.

    Attributes:
        rows: (n, ...) float32, one embedding for each image.
        sizes, digests: of the images as they are stored, see :class:`embedlite.calibration.engine.Listing`.
        notes: what the encoder said of the images.
    """

    rows: NDArray[np.float32]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint8]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class EmbedTask:
    """Embed images with a ``.tflite`` file.

    Attributes:
        name: of the file.
        sidecar: the contract that stands beside the file; None if it is in the file, or there is none.
        contract: what the user says of a plain file.
        ready: whether the images are to be prepared for it (by the source's contract), instead of passed as they are.
        images: see :class:`embedlite.calibration.engine.Task`.
    """

    name: str
    sidecar: bytes | None
    contract: InputContract | None
    ready: bool
    images: int = _SHARD_ROWS

    def open(self, model: bytes) -> _EmbedWork:
        """Open the file in an encoder of one thread."""
        return _EmbedWork(self, model)


class _EmbedWork:
    def __init__(self, task: EmbedTask, model: bytes) -> None:
        self._ready = task.ready
        self._rows: list[NDArray[np.float32]] = []
        self._stored: list[tuple[int, bytes]] = []
        self._notes: dict[str, None] = {}
        with tempfile.TemporaryDirectory(prefix="embedlite-") as folder, warnings.catch_warnings():
            # What is assumed of a plain file was said where the command runs.
            warnings.simplefilter("ignore", EmbedliteWarning)
            path = Path(folder, task.name)
            path.write_bytes(model)
            if task.sidecar is not None:
                path.with_name(path.name + SIDECAR_SUFFIX).write_bytes(task.sidecar)
            self._encoder = Encoder(path, 1, input_contract=task.contract, accept_contract=True)

    def add(self, source: Source, index: int) -> None:
        image = source.ready(index) if self._ready else source.load(index)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", EmbedliteWarning)
            try:
                # Looks at every value, as on one machine.
                self._rows.extend(self._encoder.embed_iter([image], ready=self._ready))
            except InputError as error:
                raise type(error)(f"{source.name}, {source.contract.noun} {source.ids[index]!r}: {error}") from error
        self._notes |= {str(item.message): None for item in caught if issubclass(item.category, EmbedliteWarning)}
        self._stored.append(source.stored(index))

    def finish(self) -> Embedded:
        rows, stored, notes = self._rows, self._stored, tuple(self._notes)
        self._rows, self._stored, self._notes = [], [], {}
        digests = np.frombuffer(b"".join(digest for _, digest in stored), np.uint8).reshape(-1, 32)
        return Embedded(np.stack(rows), np.array([size for size, _ in stored], np.int64), digests, notes)


def embed_far(
    engine: Engine,
    path: Path,
    source: Source,
    rows: NDArray[np.float32],
    *,
    contract: InputContract | None,
    ready: bool,
    label: str,
) -> Listing:
    """Embed every image of a source on an engine.

    Args:
        engine: what runs them.
        path: of the ``.tflite``.
        source: the images.
        rows: (N, ...) or (N, D) float32, is filled: row i is image i's embedding.
        contract, ready: see :class:`EmbedTask`.
        label: what to call it while it lasts.

    Returns:
        Sizes and hashes of the images that were embedded.

    Raises:
        EngineError: an image's result came twice or not at all.
        EmbedliteError: see :meth:`embedlite.calibration.engine.Engine.run`.
    """
    beside = path.with_name(path.name + SIDECAR_SUFFIX)
    task = EmbedTask(path.name, beside.read_bytes() if beside.exists() else None, contract, ready)
    listing = Listing(np.zeros(len(source), np.int64), np.zeros((len(source), 32), np.uint8))
    times = np.zeros(len(source), np.int64)
    said: dict[str, None] = {}
    indices = engine.counted(range(len(source)), len(source), label)
    for part in engine.run(task, path.read_bytes(), source, indices):
        places = np.asarray(part.indices, np.intp)
        rows[places] = part.result.rows.reshape(-1, *rows.shape[1:])
        times[places] += 1
        listing.sizes[places], listing.digests[places] = part.result.sizes, part.result.digests
        said |= dict.fromkeys(part.result.notes)
    if (times != 1).any():
        place = int(np.argmax(times != 1))
        raise EngineError(
            f"{source.name}, image {source.ids[place]!r}: the cluster gave {times[place]} results for it. Please "
            "report this."
        )
    for note in said:
        warnings.warn(note, EmbedliteWarning, stacklevel=2)
    return listing


def check_same(before: Listing, after: Listing, source: Source) -> None:
    """Refuse embeddings of images that changed between the two models.

    Raises:
        DataError: an image is another one now.
    """
    changed = np.flatnonzero((before.digests != after.digests).any(axis=1))
    if len(changed):
        raise DataError(
            f"{source.name} changed while it was read: {len(changed)} image(s), such as {source.ids[changed[0]]!r}. "
            "Run again once nothing is written there any more."
        )
