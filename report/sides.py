"""Both sides of a comparison: stored embeddings are read, models are run, rows are paired."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.engine import Engine, Listing
from ..convert.load.options import LoadOptions, is_keras_model
from ..runtime.drift.labelled.parts import Grouping
from ..runtime.drift.metrics import METRICS
from ..runtime.drift.report import Description
from ..runtime.drift.rows import Rows
from ..runtime.drift.stored import StoredEmbeddings, is_stored, load_embeddings, match_rows
from ..runtime.encoder import Encoder
from ..runtime.errors import DataError, EmbedliteError, EmbedliteWarning, RequestError
from ..runtime.images.open import open_source
from ..runtime.images.source import Source
from ..runtime.machine import describe_environment
from ..runtime.model.artifact import read_artifact
from ..runtime.model.contract import Contract, InputContract, InputOptions
from ..runtime.model.words import wording
from ..runtime.progress import progress, stage
from .embedding import check_same, embed_far
from .labels import codes, read_texts
from .reference import check_keras, embed_with_keras

_IN_MEMORY = 64 << 20


@dataclass(frozen=True)
class Request:
    """What is to be compared.

    Attributes:
        candidate: a ``.tflite`` or stored embeddings.
        reference: that, or whatever TensorFlow can run.
        data: the images; None if both sides are stored.
        feature, num_samples, seed, threads: see the command.
        contract: what is said of the input of a plain ``.tflite`` candidate, or all of it.
        accept_contract: take that although the file contradicts it.
        opening: what the user says of a Keras reference.
        labels: file or folder of labels.
        clusters: the same, of which images belong together.
        groups: the same, of groups that are told apart, such as cameras; named by their files.
        candidate_model, reference_model: files that stored embeddings must have been made by.
        engine: what embeds the images; None for this machine.
    """

    candidate: Path
    reference: Path
    data: Path | str | None = None
    feature: str | None = None
    num_samples: int | None = None
    seed: int = 0
    threads: int | None = None
    contract: InputContract | InputOptions | None = None
    accept_contract: bool = False
    opening: LoadOptions = field(default_factory=LoadOptions)
    labels: Path | None = None
    clusters: Path | None = None
    groups: tuple[Path, ...] = ()
    candidate_model: Path | None = None
    reference_model: Path | None = None
    engine: Engine | None = None

    def open(self, candidate: Path) -> Encoder:
        """Open a candidate, with what is said of the input of a plain ``.tflite``.

        Raises:
            EmbedliteError: what opening it raises.
        """
        return Encoder(candidate, self.threads, input_contract=self.contract, accept_contract=self.accept_contract)


@dataclass(frozen=True)
class Judging:
    """How a candidate is judged, see the command.

    Attributes:
        gates: limits on top of the defaults.
        k, queries, far: see :func:`embedlite.runtime.drift.measure` and
            :func:`embedlite.runtime.drift.report.build_report`.
    """

    gates: Mapping[str, float]
    k: int
    queries: int | None
    far: float | None

    def check_labelled(self, *, labelled: bool) -> None:
        """Refuse gates about labels where there are none.

        Raises:
            RequestError: one was asked for.
        """
        asked = [name for name in self.gates if METRICS[name].source == "retrieval"]
        if asked and not labelled:
            raise RequestError(
                f"--gate {asked[0]} is about retrieval by labels, and there are none. Add --labels when the images are "
                "compared, or leave it out."
            )


@dataclass(frozen=True)
class Sides:
    """Two sets of embeddings of the same images.

    Attributes:
        candidate, reference: the rows, paired.
        description: what they are.
        top: what a model made of the images for the reference; None for a stored one.
        source: the images; None if both sides are stored.
        contract: the candidate's, if it is a model; for a plain ``.tflite`` as it was made up.
    """

    candidate: Rows
    reference: Rows
    description: Description
    top: NDArray[np.float32] | None
    source: Source | None
    contract: Contract | None = None


class ReferencePasses:
    """What the reference made of the images, kept for further candidates that prepare images in the same way.

    Attributes:
        error: why the reference could not be run; None if it could.
    """

    def __init__(self) -> None:
        self.error: EmbedliteError | None = None
        self._made: dict[str, tuple[NDArray[np.float32], dict[str, Any]]] = {}

    def get(
        self, inputs: InputContract, make: Callable[[], tuple[NDArray[np.float32], dict[str, Any]]]
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The embeddings and what is known of the reference; it runs once for every way of preparing images."""
        # What a candidate's tensor holds does not matter to the reference, which gets floats.
        key = repr(replace(inputs, dtype="float32"))
        if key not in self._made:
            try:
                self._made[key] = make()
            except EmbedliteError as error:
                self.error = error
                raise
        return self._made[key]


def open_sides(request: Request, passes: ReferencePasses | None = None) -> Sides:
    """Read or compute both sides' embeddings and pair them.

    Args:
        request: what is to be compared.
        passes: where the reference's embeddings are kept for other candidates of the same request.

    Raises:
        RequestError: options that do not fit what is compared.
        DataError: the two sides do not hold the same images, or were not made by the models that were named.
        EmbedliteError: what opening and running the models raises.
    """
    _check(request)
    if is_stored(request.candidate):
        mine = load_embeddings(request.candidate)
        facts = {"path": str(request.candidate), "kind": "stored", "model_sha256": mine.model_sha256 or None}
        check_made_by(request.candidate, mine, request.candidate_model)
        return _paired(request, mine, facts, None)
    assert request.data is not None
    with (
        request.open(request.candidate) as encoder,
        wording(lambda: encoder.contract.input.is_image, *vars(request).values(), *request.groups),
    ):
        contract = encoder.contract
        inputs = encoder.contract.input
        source = open_source(request.data, inputs, request.feature).sample(request.num_samples, request.seed)
        rows = empty_rows(len(source), encoder.embedding_shape)
        facts = _describe(request.candidate, encoder)
        if is_stored(request.reference):
            mine = StoredEmbeddings(rows, np.asarray(source.ids, str), encoder.artifact.sha256)
            sides = _paired(
                request,
                mine,
                facts,
                source,
                lambda: _fill(rows, encoder, source, request, request.candidate, ready=False),
            )
            return replace(sides, contract=contract)
        # Before the work: they may not fit.
        known = _known_of(request, source.ids)
        _check_size(request, encoder)
        listing = _fill(rows, encoder, source, request, request.candidate, ready=False)
    theirs, other = (passes or ReferencePasses()).get(inputs, lambda: _run_reference(request, inputs, source, listing))
    data = {
        "path": str(request.data),
        "count": len(source),
        "fingerprint": _fingerprint(source, listing),
        "matched_by": "id",
    }
    description = Description(facts, other, data, source.ids, describe_environment(), **known)
    return Sides(Rows(rows), Rows(theirs), description, theirs, source, contract)


def _check_size(request: Request, encoder: Encoder) -> None:
    """See that a ``.tflite`` reference gives embeddings of the candidate's size, as far as its contract tells.

    Raises:
        DataError: of another one.
    """
    if is_keras_model(request.reference):
        return
    contract = read_artifact(request.reference).contract
    size = encoder.embedding_size if contract is None else int(np.prod(contract.output_shape))
    if size != encoder.embedding_size:
        raise DataError(
            f"{request.candidate} gives embeddings of {encoder.embedding_size} values, and {request.reference} of "
            f"{size}. Compare encoders of the same size."
        )


def _run_reference(
    request: Request, inputs: InputContract, source: Source, listing: Listing | None
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The reference's embeddings of the images as the candidate's contract prepares them, and what is known of it."""
    assert request.data is not None
    if is_keras_model(request.reference):
        with stage(f"embedding with {request.reference.name}"):
            theirs = embed_with_keras(
                request.reference, request.data, source.ids, inputs, request.opening, request.feature
            )
        return theirs, {"path": str(request.reference), "kind": "keras", "sha256": sha256_of(request.reference)}
    # The reference sees what the candidate sees: the same contract makes the same floats.
    own = read_artifact(request.reference).contract
    opened = Encoder(
        request.reference,
        request.threads,
        input_contract=None if own else inputs,
        accept_contract=request.accept_contract,
    )
    with opened as encoder:
        theirs = empty_rows(len(source), encoder.embedding_shape)
        again = _fill(theirs, encoder, source, request, request.reference, ready=True)
        if listing is not None and again is not None:
            check_same(listing, again, source)
        if encoder.contract.mode not in ("float32", "unknown"):
            warnings.warn(
                f"the reference {request.reference} is itself quantized ({encoder.contract.mode}): drift from it "
                "is not drift from the original. Compare with the float32 file or the Keras model.",
                EmbedliteWarning,
                stacklevel=2,
            )
        return theirs, _describe(request.reference, encoder)


def _check(request: Request) -> None:
    if request.opening != LoadOptions() and not is_keras_model(request.reference):
        raise RequestError(
            f"--layer, --output, --custom-objects and --replace-lambda are for a Keras reference, and "
            f"{request.reference} is none. Leave them out."
        )
    for name, side, model in (
        ("--candidate-model", request.candidate, request.candidate_model),
        ("--reference-model", request.reference, request.reference_model),
    ):
        if model is not None and not is_stored(side):
            raise RequestError(f"{name} says what made stored embeddings, and {side} is a model itself. Leave it out.")
    if not is_stored(request.candidate):
        if request.engine is not None and request.engine.far and is_keras_model(request.reference):
            raise RequestError(
                f"{request.reference} needs TensorFlow, which a cluster's workers do without. Name the float32 .tflite "
                "of its export as the reference, or use --engine local."
            )
        if request.data is None:
            raise RequestError("--data is missing: name the images that both models should embed.")
        if is_keras_model(request.reference):
            check_keras(request.reference)
        return
    if not is_stored(request.reference):
        raise RequestError(
            f"{request.candidate} holds stored embeddings, so the reference must be stored too. Embed the same images "
            f"with {request.reference} first: embed-tflite."
        )
    if (request.data, request.num_samples, request.feature) != (None, None, None):
        raise RequestError(
            "both sides are stored embeddings, so there is nothing to embed. Leave out --data, --num-samples and "
            "--feature."
        )


def _paired(
    request: Request,
    mine: StoredEmbeddings,
    facts: dict[str, Any],
    source: Source | None,
    fill: Callable[[], Listing | None] = lambda: None,
) -> Sides:
    """The candidate's rows with a stored reference's; they are filled once everything was found to fit."""
    stored = load_embeddings(request.reference)
    check_made_by(request.reference, stored, request.reference_model)
    matched = match_rows(mine, stored)
    if matched.trusted:
        warnings.warn(
            "one side has no ids, so its rows were taken to be in the same order.", EmbedliteWarning, stacklevel=2
        )
    known = _known_of(request, matched.ids, stored.labels)
    if source is not None and mine.embeddings[0].size != stored.embeddings[0].size:
        raise DataError(
            f"{request.candidate} gives embeddings of {mine.embeddings[0].size} values, and those in "
            f"{request.reference} have {stored.embeddings[0].size}. Compare encoders of the same size."
        )
    data = {
        "path": None if request.data is None else str(request.data),
        "count": len(matched.ids),
        "fingerprint": _fingerprint(source, fill()),
        "matched_by": "order" if matched.trusted else "id",
    }
    other = {
        "path": str(request.reference),
        "kind": "stored",
        "sha256": sha256_of(request.reference),
        "model_sha256": stored.model_sha256 or None,
    }
    if facts["kind"] == "stored":
        facts = {**facts, "sha256": sha256_of(request.candidate)}
    description = Description(facts, other, data, matched.ids, describe_environment(), **known)
    return Sides(Rows(mine.embeddings, matched.candidate), Rows(stored.embeddings), description, None, source)


def _known_of(
    request: Request, ids: Sequence[str] | NDArray[np.str_], stored: NDArray[Any] | None = None
) -> dict[str, Any]:
    """Labels, clusters and groups of the images, for their description."""
    labels = stored if request.labels is None else read_texts(request.labels, ids)
    known: dict[str, Any] = {}
    groups: dict[str, NDArray[Any]] = {}
    if labels is not None:
        known["labels"] = codes(labels, len(ids), request.labels or request.reference)
        groups["class"] = labels
    if request.clusters is not None:
        clusters = np.unique(read_texts(request.clusters, ids, "cluster"), return_inverse=True)[1]
        known["clusters"] = clusters.astype(np.intp)
    for path in request.groups:
        groups[path.stem] = read_texts(path, ids, "group")
    numbered = {name: np.unique(texts, return_inverse=True) for name, texts in groups.items()}
    known["groupings"] = tuple(
        Grouping(name, tuple(str(part) for part in parts), of.astype(np.intp)) for name, (parts, of) in numbered.items()
    )
    return known


def check_made_by(path: Path, stored: StoredEmbeddings, model: Path | None) -> None:
    """See that stored embeddings were made by a model, if one is named.

    Raises:
        DataError: they were made by another one.
    """
    if model is None:
        return
    wanted = sha256_of(model)
    if stored.model_sha256 != wanted:
        made_by = f"a model with SHA-256 {stored.model_sha256[:16]}…" if stored.model_sha256 else "an unnamed model"
        raise DataError(
            f"{path} was made by {made_by}, not by {model} (SHA-256 {wanted[:16]}…). Embed the images with that file, "
            "or name the right one."
        )


def empty_rows(count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Room for all embeddings, (N, ...); for many in a temporary file that has no name and goes with the array."""
    whole = (count, *shape)
    if 4 * int(np.prod(whole, dtype=np.int64)) <= _IN_MEMORY:
        return np.empty(whole, np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=whole)


def _fill(
    rows: NDArray[np.float32], encoder: Encoder, source: Source, request: Request, path: Path, *, ready: bool
) -> Listing | None:
    """Embed a source: here, image by image through the open encoder, or on a cluster, which gives hashes as well."""
    label = "reference" if ready else "candidate"
    if request.engine is not None and request.engine.far:
        # A plain file has no contract of its own: that of the encoder here holds on the workers, too.
        contract = encoder.contract.input if encoder.artifact.contract is None else None
        return embed_far(request.engine, path, source, rows, contract=contract, ready=ready, label=label)
    images = (source.ready(index) for index in range(len(source))) if ready else source
    with stage(f"embedding with {path.name}"):
        for index, embedding in enumerate(progress(encoder.embed_iter(images, ready=ready), len(source), label)):
            rows[index] = embedding
    return None


def _fingerprint(source: Source | None, listing: Listing | None) -> str | None:
    if listing is not None and source is not None:
        return listing.fingerprint(source.ids)
    return None if source is None else source.fingerprint()


def _describe(path: Path, encoder: Encoder) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": "tflite",
        "mode": encoder.contract.mode,
        "sha256": encoder.artifact.sha256,
        "runtime": f"{encoder.runtime.name} {encoder.runtime.version}",
        "contract": {"input": encoder.contract.input.to_json(), "origins": dict(encoder.contract.origins)},
    }


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names, in the order of the names."""
    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            total.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode(errors="surrogateescape"))
        return total.hexdigest()
    try:
        with path.open("rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                total.update(chunk)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error
    return total.hexdigest()
