"""Opens a gallery and a candidate's vectors, checks that they belong together, and finds the answer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift import measure
from ...runtime.drift.neighbours import sample_queries
from ...runtime.drift.rows import Rows
from ...runtime.drift.stored import StoredEmbeddings, is_stored, load_embeddings
from ...runtime.embedding_map import GalleryMap
from ...runtime.errors import DataError, RequestError, UnreadableDataError
from ...runtime.model.artifact import read_artifact
from ...runtime.progress import stage
from ..labels import codes, read_texts
from ..sides import check_made_by, sha256_of
from .answer import GalleryAnswer, differing
from .fit import Fitted, MappedRows, fit_map
from .options import judge_options, split_pairs

LEAST_PAIRS = 40
"""Of fewer, a half tells nothing."""


@dataclass(frozen=True)
class GalleryRequest:
    """What is asked, see the command.

    Attributes:
        gallery, vectors: stored embeddings, of the old model and of the new one.
        gallery_model, model: the files that must have made them; None where nobody says.
        labels, clusters: of the images.
        k, queries, far, seed: as in a report.
        wants_map: whether the map is to be written.
    """

    gallery: Path
    vectors: Path
    gallery_model: Path | None
    model: Path | None
    labels: Path | None
    clusters: Path | None
    k: int
    queries: int | None
    far: float | None
    seed: int
    wants_map: bool


def answer_gallery(request: GalleryRequest) -> tuple[GalleryAnswer, bytes | None]:
    """Find out whether the gallery must be embedded again.

    Returns:
        The answer, and the map's file if one was asked for.

    Raises:
        RequestError: a file that is not stored embeddings.
        DataError: the files do not belong together: other models than were named, other sizes, other images, too few.
    """
    for name, path in (("--gallery", request.gallery), ("--candidate-vectors", request.vectors)):
        if not is_stored(path):
            raise RequestError(f"{name} {path} is not stored embeddings (.npz or .npy). Make them with embed-tflite.")
    old, new = load_embeddings(request.gallery), load_embeddings(request.vectors)
    notes = _check(request, old, new)
    places, ids = _paired(request, old, new)
    # Before the work: they may not fit.
    labels = None
    if request.labels is not None:
        labels = codes(read_texts(request.labels, ids), len(ids), request.labels)
    elif old.labels is not None:
        labels = codes(old.labels[places], len(ids), request.gallery)
    clusters = None
    if request.clusters is not None:
        clusters = np.unique(read_texts(request.clusters, ids, "cluster"), return_inverse=True)[1]
    measurement = measure(Rows(new.embeddings), Rows(old.embeddings, places), None)
    kept = np.flatnonzero(measurement.valid)
    if len(kept) < max(LEAST_PAIRS, 2 * request.k):
        raise DataError(
            f"{len(kept)} images of {request.gallery} have a valid vector in {request.vectors}, and it takes "
            f"{max(LEAST_PAIRS, 2 * request.k)}. Embed more of them with the new model."
        )
    if len(kept) < len(ids):
        notes.append(
            f"{len(ids) - len(kept)} vectors of {request.vectors} are invalid and were left out; see a report."
        )
    candidate, gallery = measurement.candidate, measurement.reference
    queries = sample_queries(len(kept), request.queries, request.seed)
    split = split_pairs(len(kept), queries, None if clusters is None else clusters[kept], request.seed)
    if not 0 < len(split.judging) < len(queries):
        raise DataError(f"{request.clusters} puts too many images into one cluster: they cannot be halved.")
    with stage("fitting a map"):
        # In random order, for folds that are alike.
        pairs = np.random.default_rng(request.seed).permutation(np.flatnonzero(split.fitted))
        fitted = fit_map(candidate, gallery, pairs)
    before, options = judge_options(
        candidate,
        gallery,
        None if fitted is None else MappedRows(candidate, fitted),
        split,
        k=request.k,
        labels=None if labels is None else labels[kept],
        far=request.far,
    )
    if labels is None:
        notes.append("nearest neighbours are taken for the same thing; --labels FILE says what is.")
    images = {
        "gallery": len(old.embeddings),
        "paired": len(ids),
        "fitted": int(split.fitted.sum()),
        "judging": int((~split.fitted).sum()),
        "queries": len(split.judging),
    }
    sides = _facts(request.gallery, old), _facts(request.vectors, new)
    found = GalleryAnswer(*sides, images, before, options, fitted, tuple(notes))
    return found, _packed(request, fitted, old, new) if request.wants_map else None


def _check(request: GalleryRequest, old: StoredEmbeddings, new: StoredEmbeddings) -> list[str]:
    """See that the files are of the models that were named, and what their contracts say of each other."""
    for path, stored, model in (
        (request.gallery, old, request.gallery_model),
        (request.vectors, new, request.model),
    ):
        check_made_by(path, stored, model)
        if model is not None:
            _check_contract(path, stored, model)
    if request.wants_map:
        for path, stored in ((request.gallery, old), (request.vectors, new)):
            if not stored.model_sha256:
                raise DataError(
                    f"{path} does not say which model made it, and a map is between two models. Embed the images with "
                    "embed-tflite, which stores that."
                )
    if old.model_sha256 and old.model_sha256 == new.model_sha256:
        raise DataError(
            f"{request.gallery} and {request.vectors} were made by the same model ({old.model_sha256[:16]}…): the "
            "gallery is this model's already. Pass vectors of the new model."
        )
    if old.embeddings[0].size != new.embeddings[0].size:
        raise DataError(
            f"the gallery {request.gallery} has embeddings of {old.embeddings[0].size} values, and those in "
            f"{request.vectors} have {new.embeddings[0].size}. A gallery of another size must be embedded again."
        )
    notes = [
        f"{path} does not say which model made it; name it with {option}."
        for path, stored, option in (
            (request.gallery, old, "--reference-model"),
            (request.vectors, new, "--candidate-model"),
        )
        if not stored.model_sha256
    ]
    if old.contract and new.contract:
        other = differing(_contract(request.gallery, old), _contract(request.vectors, new))
        if other:
            notes.append(
                f"the images were prepared otherwise, which is part of every figure here: {'; '.join(other)}, of the "
                "gallery and of the candidate."
            )
    if old.version and new.version and old.version != new.version:
        notes.append(f"made by embedlite {old.version} (gallery) and {new.version} (candidate).")
    return notes


def _check_contract(path: Path, stored: StoredEmbeddings, model: Path) -> None:
    """See that vectors were made by a model with the contract that it has now.

    Raises:
        DataError: with another one.
    """
    if not stored.contract or model.suffix != ".tflite":
        return
    contract = read_artifact(model).contract
    if contract is None:
        return
    other = differing(_contract(path, stored), json.loads(json.dumps(asdict(contract.input))))
    if other:
        raise DataError(
            f"{path} was made by {model} with another input contract: {'; '.join(other)}. Embed the images again."
        )


def _contract(path: Path, stored: StoredEmbeddings) -> dict[str, Any]:
    """How the images were prepared; empty if the file does not say."""
    if not stored.contract:
        return {}
    try:
        value = json.loads(stored.contract)
    except ValueError as error:
        raise UnreadableDataError(
            f"{path} has a contract that is not JSON: {error}. Make it with embed-tflite."
        ) from error
    return value if isinstance(value, dict) else {}


def _paired(
    request: GalleryRequest, old: StoredEmbeddings, new: StoredEmbeddings
) -> tuple[NDArray[np.intp], NDArray[np.str_]]:
    """Which rows of the gallery the candidate's are, and their ids; the candidate may hold a part of the gallery.

    Raises:
        DataError: the candidate has others, or ids are missing.
    """
    if old.ids is None or new.ids is None:
        raise DataError(
            f"{request.gallery if old.ids is None else request.vectors} has no ids, and a gallery is matched by them. "
            "Make both with embed-tflite, which stores ids."
        )
    order = np.argsort(old.ids)
    places = np.searchsorted(old.ids, new.ids, sorter=order)
    found = order[np.minimum(places, len(order) - 1)]
    strange = np.flatnonzero(old.ids[found] != new.ids)
    if len(strange):
        named = ", ".join(str(name) for name in np.sort(new.ids[strange])[:3])
        raise DataError(
            f"{len(strange)} of {len(new.ids)} images in {request.vectors} are not in the gallery {request.gallery} "
            f"({named}). Embed images of the gallery with the new model, all or some hundreds of them."
        )
    return found.astype(np.intp), new.ids


def _facts(path: Path, stored: StoredEmbeddings) -> dict[str, Any]:
    return {
        "path": str(path),
        "sha256": sha256_of(path),
        "model_sha256": stored.model_sha256 or None,
        "contract": _contract(path, stored) or None,
        "embedlite": stored.version or None,
        "count": len(stored.embeddings),
        "embedding_size": int(stored.embeddings[0].size),
    }


def _packed(request: GalleryRequest, fitted: Fitted | None, old: StoredEmbeddings, new: StoredEmbeddings) -> bytes:
    if fitted is None:
        raise DataError(
            f"no map can be made of embeddings of {old.embeddings[0].size} values in {request.gallery}: there are too "
            "many. Leave out --map."
        )
    matrix, offset = fitted.matrix.astype(np.float32), fitted.offset.astype(np.float32)
    made = GalleryMap(matrix, offset, fitted.kind, new.model_sha256, old.model_sha256, fitted.pairs)
    return made.pack()
