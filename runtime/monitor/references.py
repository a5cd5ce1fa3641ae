"""What a monitor compares with: a model that embeds the same input again, or a distribution made at home."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..encoder import Encoder
from ..errors import EmbedliteWarning, InterpreterFailedError, RequestError
from ..input.preprocess import model_ready
from ..model.artifact import read_artifact
from ..model.normalizations import KINDS
from .distribution import ReferenceDistribution
from .paired import add_pair, paired_layout
from .tallies import Layout, Statistics
from .unpaired import add_row, unpaired_layout

PAIRED, UNPAIRED = "model", "distribution"


class Reference(Protocol):
    """One of the two."""

    layout: Layout

    def identity(self) -> dict[str, Any]:
        """What the state file says of it; statistics of different ones are never merged."""

    def try_out(self) -> None:
        """Do once what :meth:`embed` does, on a black frame."""

    def embed(self, image: NDArray[Any]) -> NDArray[np.float32] | None:
        """The reference's own embedding of a checked image, if it makes one; the part that takes time."""

    def add(self, statistics: Statistics, embedding: NDArray[np.float32], own: NDArray[np.float32] | None) -> None:
        """Add one compared input to the statistics."""

    def close(self) -> None:
        """Free what was opened for it."""


class ModelReference:
    """A float file that embeds what the encoder embedded, fed by the encoder's own input contract."""

    def __init__(self, encoder: Encoder, reference: Encoder, *, owned: bool) -> None:
        self._input = encoder.contract.input
        self._encoder = reference
        self._owned = owned
        self.layout = paired_layout(encoder.embedding_size)

    def identity(self) -> dict[str, Any]:
        """Kind, hash and mode."""
        return {"kind": PAIRED, "sha256": self._encoder.artifact.sha256, "mode": self._encoder.contract.mode}

    def try_out(self) -> None:
        """Embed a black frame, whatever comes of it.

        Raises:
            InterpreterFailedError: the file does not run.
        """
        self._encoder.embed_one(model_ready(np.zeros(self._input.shape, np.uint8), self._input))

    def embed(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """The reference's embedding.

        Raises:
            InterpreterFailedError: it is not finite, so nothing can be compared with it.
        """
        own = self._encoder.embed_one(model_ready(image, self._input))
        if not np.isfinite(own).all():
            raise InterpreterFailedError(
                "the reference's own embedding is not finite, so the input was not compared. Compare the reference "
                "with drift-report on images like those of the device."
            )
        return own

    def add(self, statistics: Statistics, embedding: NDArray[np.float32], own: NDArray[np.float32] | None) -> None:
        """Add both embeddings of one input."""
        if own is not None:
            add_pair(statistics, embedding, own)

    def close(self) -> None:
        """Close the reference, unless the caller opened it."""
        if self._owned:
            self._encoder.close()


class DistributionReference:
    """A distribution: nothing is run twice."""

    def __init__(self, distribution: ReferenceDistribution) -> None:
        self._distribution = distribution
        self.layout = unpaired_layout(distribution.size)

    def identity(self) -> dict[str, Any]:
        """Kind and hash, and the distribution itself: whoever reads the statistics needs it."""
        distribution = self._distribution
        return {"kind": UNPAIRED, "sha256": distribution.fingerprint, "distribution": distribution.to_json()}

    def try_out(self) -> None:
        """Nothing is run."""

    def embed(self, image: NDArray[Any]) -> None:
        """Nothing is run."""

    def add(self, statistics: Statistics, embedding: NDArray[np.float32], own: NDArray[np.float32] | None) -> None:
        """Add one embedding."""
        add_row(statistics, embedding, self._distribution)

    def close(self) -> None:
        """Nothing was opened."""


def open_reference(encoder: Encoder, given: str | Path | Encoder | ReferenceDistribution) -> Reference:
    """The reference that a caller named, checked against the encoder.

    Raises:
        RequestError: it takes other inputs, gives embeddings of another size or normalizes them differently.
        ModelFileError, DataError: the file cannot be used.
    """
    if isinstance(given, (str, Path)) and Path(given).suffix in (".json", ".npz", ".npy"):
        given = ReferenceDistribution.load(given)
    if isinstance(given, ReferenceDistribution):
        if given.size != encoder.embedding_size:
            raise RequestError(
                f"the reference holds embeddings of {given.size} values, the encoder gives {encoder.embedding_size}. "
                "Make the reference with the float file of the same export."
            )
        return DistributionReference(given)
    if isinstance(given, Encoder):
        _check_alike(encoder, given)
        return ModelReference(encoder, given, owned=False)
    bare = read_artifact(given).contract is None
    # One thread: the service keeps the other processors while the reference runs.
    reference = Encoder(given, threads=1, input_contract=encoder.contract.input if bare else None)
    try:
        _check_alike(encoder, reference)
    except RequestError:
        reference.close()
        raise
    return ModelReference(encoder, reference, owned=True)


def _check_alike(encoder: Encoder, reference: Encoder) -> None:
    mine, theirs = encoder.contract, reference.contract
    sides: list[tuple[str, Any, Any]] = [("takes inputs of shape", mine.input.shape, theirs.input.shape)]
    sides.append(("gives embeddings of shape", mine.output_shape, theirs.output_shape))
    if "unknown" not in (mine.mode, theirs.mode):
        # A reference exported by other rules embeds another function; that would be no drift of this file.
        sides.append(("normalizes by", _normalization(encoder), _normalization(reference)))
    for what, found, wanted in sides:
        if found != wanted:
            raise RequestError(
                f"the reference {what} {wanted}, the encoder {found}. Use the float32 file of the same export."
            )
    if theirs.mode not in ("float32", "unknown"):
        warnings.warn(
            f"the reference is itself quantized ({theirs.mode}); the drift that is found is between the two.",
            EmbedliteWarning,
            stacklevel=4,
        )


def _normalization(encoder: Encoder) -> tuple[Any, ...]:
    """What makes two normalizations one function; where it is placed does not, but frozen constants do."""
    spec = encoder.contract.normalization
    kind = KINDS.get(spec.kind)
    rules = (spec.axes, spec.divisor) if kind is not None and kind.measure == "max" else ()
    frozen = ("frozen", spec.minimum, spec.maximum) if spec.placement == "frozen" else ()
    return (spec.kind, *rules, *frozen)
