"""Stored embeddings: ``.npz`` with ids and the model's hash, or a bare ``.npy``."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import load_npy, map_npz, text_array
from ..errors import DataError, EmptyDataError, UnreadableDataError
from ..model.contract import InputContract
from ..version import __version__


@dataclass(frozen=True)
class StoredEmbeddings:
    """Embeddings as they were read.

    Attributes:
        embeddings: (N, D) or (N, ...) floats; mapped from the file if they are many.
        ids: (N,) one text for each row; None for a ``.npy``.
        model_sha256: SHA-256 of the file that made them; empty if unknown.
        labels: (N,) what each image shows, of any type; None if that was not stored.
        contract: how the images were prepared, an input contract as JSON; empty if unknown.
        version: of the embedlite that made them; empty if unknown.
    """

    embeddings: NDArray[Any]
    ids: NDArray[np.str_] | None
    model_sha256: str
    labels: NDArray[Any] | None = None
    contract: str = ""
    version: str = ""


def is_stored(path: Path) -> bool:
    """Whether a path names stored embeddings rather than a model."""
    return path.suffix in (".npy", ".npz")


def pack_embeddings(
    embeddings: NDArray[np.float32], ids: Sequence[str], model_sha256: str, contract: InputContract | None = None
) -> bytes:
    """The bytes of a ``.npz`` with ``embeddings``, ``ids``, ``model_sha256``, ``contract`` and ``embedlite``.

    The contract is how the images were prepared, as JSON, and the last one the version; the same input gives the same
    bytes.
    """
    buffer = io.BytesIO()
    prepared = "" if contract is None else json.dumps(contract.to_json(), sort_keys=True)
    np.savez(
        buffer,
        embeddings=embeddings,
        ids=np.asarray(ids, dtype=str),
        model_sha256=np.asarray(model_sha256),
        contract=np.asarray(prepared),
        embedlite=np.asarray(__version__),
    )
    return buffer.getvalue()


def load_embeddings(path: Path) -> StoredEmbeddings:
    """Read stored embeddings.

    Raises:
        UnreadableDataError: no such file, or not what its name says.
        EmptyDataError: no rows.
        DataError: ids that repeat or do not match the rows, or an array that is not a list of vectors.
    """
    ids, labels = None, None
    said = dict.fromkeys(("model_sha256", "contract", "embedlite"), "")
    if path.suffix == ".npy":
        embeddings = load_npy(path)
    else:
        arrays = map_npz(path)
        if "embeddings" not in arrays:
            raise UnreadableDataError(
                f"{path} has no array 'embeddings', only {', '.join(arrays) or 'nothing'}. Make it with embed-tflite."
            )
        embeddings, labels = arrays["embeddings"], arrays.get("labels")
        if "ids" in arrays:
            ids = text_array(arrays["ids"], path)
        said = {name: str(arrays[name]) if name in arrays else "" for name in said}
    if embeddings.ndim < 2 or embeddings.dtype.kind != "f":
        raise DataError(
            f"{path} holds {embeddings.dtype} of shape {embeddings.shape}; embeddings are floats of shape (N, D)."
        )
    if embeddings.size == 0:
        raise EmptyDataError(f"{path} holds no embeddings: its shape is {embeddings.shape}.")
    if ids is not None:
        _check_ids(ids, len(embeddings), path)
    if labels is not None and labels.shape != (len(embeddings),):
        raise DataError(f"{path} has labels of shape {labels.shape} for {len(embeddings)} rows; expected one for each.")
    return StoredEmbeddings(embeddings, ids, said["model_sha256"], labels, said["contract"], said["embedlite"])


def _check_ids(ids: NDArray[np.str_], count: int, path: Path) -> None:
    ordered = np.sort(ids)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(ids) == count and not len(again):
        return
    repeated = f" (repeated: {', '.join(np.unique(again)[:3].tolist())})" if len(again) else ""
    raise DataError(
        f"{path} has {count} rows and {len(ids)} ids, {len(ids) - len(again)} of them different{repeated}. "
        "Every row needs an id of its own."
    )


@dataclass(frozen=True)
class Matched:
    """Two sets whose rows were paired.

    Attributes:
        candidate: (N,) which of the candidate's rows, in the reference's order; None if they stand in it.
        ids: (N,) of the pairs.
        trusted: whether the order was taken on trust, because a side has no ids.
    """

    candidate: NDArray[np.intp] | None
    ids: NDArray[np.str_]
    trusted: bool


def match_rows(candidate: StoredEmbeddings, reference: StoredEmbeddings) -> Matched:
    """Pair the rows of two sets: by id in the reference's order, or by position where a side has no ids.

    Raises:
        DataError: an id is missing on one side, or the counts differ.
    """
    if candidate.ids is None or reference.ids is None:
        if len(candidate.embeddings) != len(reference.embeddings):
            raise DataError(
                f"the candidate has {len(candidate.embeddings)} rows, the reference {len(reference.embeddings)}, and "
                "without ids on both sides they cannot be matched. Make both with embed-tflite, which stores ids."
            )
        ids = candidate.ids if candidate.ids is not None else reference.ids
        return Matched(None, np.arange(len(reference.embeddings)).astype(str) if ids is None else ids, True)
    if np.array_equal(candidate.ids, reference.ids):
        return Matched(None, reference.ids, False)
    missing = np.setdiff1d(reference.ids, candidate.ids, assume_unique=True)
    extra = np.setdiff1d(candidate.ids, reference.ids, assume_unique=True)
    if len(missing) or len(extra):
        raise DataError(
            f"the two sets do not hold the same images: {len(missing)} only in the reference "
            f"({', '.join(np.sort(missing)[:3])}), {len(extra)} only in the candidate "
            f"({', '.join(np.sort(extra)[:3])}). Embed the same images with both models."
        )
    order = np.empty(len(reference.ids), np.intp)
    order[np.argsort(reference.ids)] = np.argsort(candidate.ids)
    return Matched(order, reference.ids, False)
