"""Maps of one model's embeddings into another's, so that a stored gallery stays when the model changes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .arrays import map_npz
from .errors import DataError, UnreadableDataError


@dataclass(frozen=True)
class GalleryMap:
    """``row @ matrix + offset``, and between which models.

    Attributes:
        matrix: (D, E) float32.
        offset: (E,) float32.
        kind: how it was fitted: ``orthogonal`` or ``ridge``.
        model_sha256: SHA-256 of the file whose embeddings it takes.
        gallery_sha256: SHA-256 of the file that made the gallery.
        pairs: images that it was fitted on.
    """

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]
    kind: str
    model_sha256: str
    gallery_sha256: str
    pairs: int

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings in the gallery's space.

        Args:
            rows: (D,) or (N, D) float32.

        Returns:
            (E,) or (N, E) float32.
        """
        # float64, so that a row alone and among others comes out the same.
        mapped: NDArray[np.float32] = (
            np.einsum("...i,ij->...j", rows.astype(np.float64), self.matrix.astype(np.float64)) + self.offset
        ).astype(np.float32)
        return mapped

    def pack(self) -> bytes:
        """The bytes of a ``.npz``; always the same for the same map."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            matrix=self.matrix,
            offset=self.offset,
            kind=np.asarray(self.kind),
            model_sha256=np.asarray(self.model_sha256),
            gallery_sha256=np.asarray(self.gallery_sha256),
            pairs=np.asarray(self.pairs),
        )
        return buffer.getvalue()

    def check_model(self, sha256: str, path: str | Path, name: str | Path) -> None:
        """See that the map takes a model's embeddings.

        Args:
            sha256: of the model.
            path: where the map was read.
            name: of the model.

        Raises:
            DataError: it takes another model's.
        """
        if sha256 != self.model_sha256:
            raise DataError(
                f"{path} maps the embeddings of a model with SHA-256 {self.model_sha256[:12]}…, and {name} is "
                f"{sha256[:12]}…. Make a map for this model with drift-report --gallery, or open that one."
            )


def read_map(path: str | Path) -> GalleryMap:
    """A map that ``drift-report --gallery`` wrote.

    Raises:
        UnreadableDataError: no such file, or not a map.
    """
    arrays = map_npz(Path(path))
    try:
        found = GalleryMap(
            np.array(arrays["matrix"]),
            np.array(arrays["offset"]),
            str(arrays["kind"]),
            str(arrays["model_sha256"]),
            str(arrays["gallery_sha256"]),
            int(arrays["pairs"]),
        )
        sound = found.matrix.ndim == 2 and found.offset.shape == found.matrix.shape[1:]
        numbers = sound and {found.matrix.dtype, found.offset.dtype} == {np.dtype(np.float32)}
        if not (numbers and np.isfinite(found.matrix).all() and np.isfinite(found.offset).all()):
            raise ValueError("its matrix and offset are not finite float32 arrays of sizes that fit")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"there is no array {error}" if isinstance(error, KeyError) else str(error)
        raise UnreadableDataError(
            f"{path} is not a map of embeddings: {reason}. Make one with drift-report --gallery OLD.npz --map FILE.npz."
        ) from error
    return found
