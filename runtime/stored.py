"""Stored embeddings: ``.npz`` with ids and the model's hash, or a bare ``.npy``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, EmptyDataError, UnreadableDataError
from .numpy_files import load_npy, load_npz, texts


@dataclass(frozen=True)
class StoredEmbeddings:
    """Embeddings as they were read.

    Attributes:
        embeddings: (N, D) or (N, ...) float32.
        ids: one text for each row; None for a ``.npy``.
        model_sha256: SHA-256 of the file that made them; empty if unknown.
    """

    embeddings: NDArray[np.float32]
    ids: tuple[str, ...] | None
    model_sha256: str


def is_stored(path: Path) -> bool:
    """Whether a path names stored embeddings rather than a model."""
    return path.suffix in (".npy", ".npz")


def pack_embeddings(embeddings: NDArray[np.float32], ids: Sequence[str], model_sha256: str) -> bytes:
    """The bytes of a ``.npz`` with ``embeddings``, ``ids`` and ``model_sha256``; always the same for the same input."""
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=embeddings, ids=np.asarray(ids, dtype=str), model_sha256=np.asarray(model_sha256))
    return buffer.getvalue()


def load_embeddings(path: Path) -> StoredEmbeddings:
    """Read stored embeddings.

    Raises:
        UnreadableDataError: no such file, or not what its name says.
        EmptyDataError: no rows.
        DataError: ids that repeat or do not match the rows, or an array that is no list of vectors.
    """
    ids, model = None, ""
    if path.suffix == ".npy":
        embeddings = load_npy(path)
    else:
        arrays = load_npz(path)
        if "embeddings" not in arrays:
            raise UnreadableDataError(
                f"{path} has no array 'embeddings', only {', '.join(arrays) or 'nothing'}. Make it with embed-tflite."
            )
        embeddings = arrays["embeddings"]
        if "ids" in arrays:
            ids = tuple(texts(arrays["ids"], path))
        if "model_sha256" in arrays:
            model = str(arrays["model_sha256"])
    if embeddings.ndim < 2 or embeddings.dtype.kind != "f":
        raise DataError(
            f"{path} holds {embeddings.dtype} of shape {embeddings.shape}; embeddings are floats of shape (N, D)."
        )
    if embeddings.size == 0:
        raise EmptyDataError(f"{path} holds no embeddings: its shape is {embeddings.shape}.")
    if ids is not None and (len(ids) != len(embeddings) or len(set(ids)) != len(ids)):
        repeated = sorted({name for name in ids if ids.count(name) > 1})[:3] if len(ids) < 10_000 else []
        raise DataError(
            f"{path} has {len(embeddings)} rows and {len(ids)} ids, {len(set(ids))} of them different"
            + (f" (repeated: {', '.join(repeated)})" if repeated else "")
            + ". Every row needs an id of its own."
        )
    with np.errstate(over="ignore"):
        # A double beyond float32 becomes infinite here, and an invalid row in the report.
        return StoredEmbeddings(np.asarray(embeddings, np.float32), ids, model)


def match_rows(
    candidate: StoredEmbeddings, reference: StoredEmbeddings
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[str, ...], bool]:
    """Pair the rows of two sets: by id in the reference's order, or by position where a side has no ids.

    Returns:
        Candidate rows, reference rows, their ids, and whether the order had to be trusted.

    Raises:
        DataError: an id is missing on one side, or the counts differ.
    """
    if candidate.ids is None or reference.ids is None:
        if len(candidate.embeddings) != len(reference.embeddings):
            raise DataError(
                f"the candidate has {len(candidate.embeddings)} rows, the reference {len(reference.embeddings)}, and "
                "without ids on both sides they cannot be matched. Make both with embed-tflite, which stores ids."
            )
        ids = candidate.ids or reference.ids or tuple(str(i) for i in range(len(candidate.embeddings)))
        return candidate.embeddings, reference.embeddings, ids, True
    rows = {name: index for index, name in enumerate(candidate.ids)}
    missing = [name for name in reference.ids if name not in rows]
    extra = set(candidate.ids).difference(reference.ids)
    if missing or extra:
        raise DataError(
            f"the two sets do not hold the same images: {len(missing)} only in the reference "
            f"({', '.join(missing[:3])}), {len(extra)} only in the candidate ({', '.join(sorted(extra)[:3])}). "
            "Embed the same images with both models."
        )
    order = [rows[name] for name in reference.ids]
    return candidate.embeddings[order], reference.embeddings, reference.ids, False
