"""The embeddings that a device should give, as a distribution made at home: for devices that cannot run the reference.

Rows are not paired here: the device's inputs are compared as a crowd with the ones at home. So other inputs (a new
season, another camera) look like drift of the model, and vectors that were exchanged among the inputs, or moved
within the crowd, are not seen at all.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..drift.stored import load_embeddings
from ..errors import DataError, UnreadableDataError
from ..files import sha256, write_file
from .log_bins import LogBins

SCHEMA = 1
BINS = 10
"""Bins of a dimension and of the norm: deciles at home."""

SCORE_BINS = LogBins(-8, 16, 32)
"""Of a row's root mean square z-score; each at most 3.2 % of its values wide."""

_LEAST_ROWS = 2 * BINS
_MOST_SIGMAS = 2.0**SCORE_BINS.highest


_LARGEST = 1e60
"""Above every float32, and every norm of them; its square is still a number."""


@dataclass(frozen=True, eq=False)
class ReferenceDistribution:
    """Where a reference model's embeddings of some held-out inputs lie.

    Attributes:
        model_sha256: of the file that made them; empty if unknown.
        rows: how many there were.
        mean: (D,) float64, of each dimension.
        sigma: (D,) float64, standard deviation of each dimension.
        edges: (D, 9) float64, deciles of each dimension.
        counts: (D, 10) int64, rows between them.
        norm_edges: (1, 9) float64, deciles of the norm.
        norm_counts: (1, 10) int64, rows between them.
        score_counts: rows by :meth:`score`, in :data:`SCORE_BINS`.
    """

    model_sha256: str
    rows: int
    mean: NDArray[np.float64]
    sigma: NDArray[np.float64]
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    norm_edges: NDArray[np.float64]
    norm_counts: NDArray[np.int64]
    score_counts: NDArray[np.int64]

    @classmethod
    def from_embeddings(cls, embeddings: NDArray[Any], model_sha256: str = "") -> ReferenceDistribution:
        """Describe embeddings of inputs like the ones that the device will see.

        Args:
            embeddings: (N, D) or (N, ...) floats, at least 20 rows.
            model_sha256: of the file that made them.

        Raises:
            DataError: too few rows, or values that are not finite.
        """
        rows = embeddings.reshape(len(embeddings), -1).astype(np.float64)
        if len(rows) < _LEAST_ROWS or not np.isfinite(rows).all():
            raise DataError(
                f"a reference distribution needs {_LEAST_ROWS} finite embeddings or more; received {len(rows)}, "
                f"{int((~np.isfinite(rows).all(axis=1)).sum())} of them not finite. Embed more held-out images."
            )
        norms = np.array([[norm(row)] for row in rows])
        edges, norm_edges = _deciles(rows), _deciles(norms)
        described = cls(
            model_sha256=model_sha256,
            rows=len(rows),
            mean=rows.mean(axis=0),
            sigma=rows.std(axis=0),
            edges=edges,
            counts=_counts(rows, edges),
            norm_edges=norm_edges,
            norm_counts=_counts(norms, norm_edges),
            score_counts=np.zeros(SCORE_BINS.count, np.int64),
        )
        for row in rows:
            described.score_counts[SCORE_BINS.bin_of(described.score(row))] += 1
        return described

    @classmethod
    def load(cls, path: str | Path) -> ReferenceDistribution:
        """Read what :meth:`save` wrote, or describe stored embeddings (``.npz``, ``.npy``).

        Raises:
            UnreadableDataError: it is not there, or neither of the two.
            DataError: see :meth:`from_embeddings`.
        """
        path = Path(path)
        if path.suffix != ".json":
            stored = load_embeddings(path)
            return cls.from_embeddings(stored.embeddings, stored.model_sha256)
        try:
            return cls.from_json(json.loads(path.read_bytes()))
        except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            raise UnreadableDataError(
                f"cannot read {path} as a reference distribution ({type(error).__name__}: {error}). Write it again "
                "with ReferenceDistribution.save, or name stored embeddings (.npz)."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the distribution to a ``.json``, whole or not at all; the same embeddings give the same bytes.

        Raises:
            OutputError: the disk refused.
        """
        write_file(Path(path), canonical_bytes(self.to_json()))

    @property
    def size(self) -> int:
        """Values in one embedding."""
        return len(self.mean)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the distribution's JSON."""
        return sha256(canonical_bytes(self.to_json()))

    def score(self, row: NDArray[np.float64]) -> float:
        """Root mean square, over the dimensions, of (value - mean) / sigma: near 1 for a row like those at home.

        A dimension counts at most :data:`_MOST_SIGMAS`, so that every score is a finite number.
        """
        typical = math.sqrt(math.fsum(self.sigma * self.sigma) / self.size) or 1.0
        z = np.clip((row - self.mean) / np.where(self.sigma > 0, self.sigma, typical), -_MOST_SIGMAS, _MOST_SIGMAS)
        return math.sqrt(math.fsum((z * z).tolist()) / self.size)

    def bins_of(self, row: NDArray[np.float64]) -> NDArray[np.intp]:
        """(D,) the bin of each value, 0 to 9."""
        return _bins(row, self.edges)

    def norm_bin_of(self, row: NDArray[np.float64]) -> int:
        """The bin of the row's norm, 0 to 9."""
        return int(_bins(np.array([norm(row)]), self.norm_edges)[0])

    def to_json(self) -> dict[str, Any]:
        """The distribution as a JSON object."""
        arrays = {name: value.tolist() for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        kind = {"embedlite": "reference-distribution", "schema": SCHEMA}
        return {**kind, "model_sha256": self.model_sha256, "rows": self.rows, **arrays}

    @classmethod
    def from_json(cls, value: Any) -> ReferenceDistribution:
        """The distribution from its JSON object.

        Raises:
            KeyError, TypeError, ValueError: it is none, or of a newer version.
        """
        if (value["embedlite"], value["schema"]) != ("reference-distribution", SCHEMA):
            raise ValueError(f"{value['embedlite']} of schema {value['schema']}")
        size = len(value["mean"])
        shapes = {"mean": (size,), "sigma": (size,), "edges": (size, BINS - 1), "norm_edges": (1, BINS - 1)}
        floats = {name: np.array(value[name], np.float64) for name in shapes}
        shapes |= {"counts": (size, BINS), "norm_counts": (1, BINS), "score_counts": (SCORE_BINS.count,)}
        counts = {name: np.array(value[name]) for name in ("counts", "norm_counts", "score_counts")}
        if any(array.dtype.kind != "i" or array.min(initial=0) < 0 for array in counts.values()):
            raise ValueError("counts that are none")
        arrays = floats | {name: array.astype(np.int64) for name, array in counts.items()}
        wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
        if wrong or size == 0 or not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError(f"arrays of the wrong shape or value ({', '.join(wrong) or 'not finite'})")
        if (floats["sigma"] < 0).any() or any((np.abs(array) > _LARGEST).any() for array in floats.values()):
            raise ValueError("values that no embeddings have")
        if any((np.diff(floats[name], axis=1) < 0).any() for name in ("edges", "norm_edges")):
            raise ValueError("edges that are out of order")
        rows = value["rows"]
        if type(rows) is not int or rows < 1 or any((counts[name].sum(axis=-1) != rows).any() for name in counts):
            raise ValueError("counts that do not add up to the rows")
        described: dict[str, Any] = {**arrays, "model_sha256": str(value["model_sha256"]), "rows": rows}
        return cls(**described)


def canonical_bytes(value: Any) -> bytes:
    """A JSON value as UTF-8 with sorted keys and without spaces: equal values, equal bytes."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()


def norm(row: NDArray[np.float64]) -> float:
    """Euclidean norm, rounded once before the root."""
    return math.sqrt(math.fsum((row * row).tolist()))


def _deciles(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D, 9) nearest-rank deciles of each column."""
    ranks = [math.ceil(len(rows) * part / BINS) - 1 for part in range(1, BINS)]
    deciles: NDArray[np.float64] = np.sort(rows, axis=0)[ranks].T.copy()
    return deciles


def _bins(row: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    bins: NDArray[np.intp] = (row[:, None] > edges).sum(axis=1)
    return bins


def _counts(rows: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    counts = np.zeros((len(edges), BINS), np.int64)
    columns = np.arange(len(edges))
    for row in rows:
        counts[columns, _bins(row, edges)] += 1
    return counts
