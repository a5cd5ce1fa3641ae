"""How far one set of embeddings moved from another, row by row.

Rows are paired: row i of the candidate and row i of the reference are the same image. Unpaired statistics
(MMD) miss shuffled rows, and invariant ones (CKA) miss a rotation that ruins every stored gallery. The formulas are in
the table, :mod:`embedlite.runtime.drift.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RequestError
from ..progress import progress
from .metrics import OF_ROWS, Drift, PairedRows, compute
from .moments import GROUPS, PairedMoments
from .neighbours import NeighbourOverlap, neighbour_overlap, sample_queries
from .rows import RepeatFinder, Rows, broken_rows

DEFAULT_K = 10
"""Neighbours that are compared."""

_GROUP_VALUES = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """The metrics, and what they were made of.

    Attributes:
        drift: the metrics.
        candidate, reference: the rows, paired, invalid ones left out.
        valid: (N,) which rows those are.
        cosines: (N,) each row's cosine, NaN for invalid rows.
        signal, noise: (N,) squared norms of r and of c - r, NaN for invalid rows.
        norm_ratios: (N,) norm of c by norm of r, NaN where there is none.
        moments: per-dimension sums over the valid rows; None if there are none.
        neighbours: over the valid rows; None where k or the rows were too few.
    """

    drift: Drift
    candidate: Rows
    reference: Rows
    valid: NDArray[np.bool_]
    cosines: NDArray[np.float64]
    signal: NDArray[np.float64]
    noise: NDArray[np.float64]
    norm_ratios: NDArray[np.float64]
    moments: PairedMoments | None
    neighbours: NeighbourOverlap | None


def measure_drift(
    candidate: NDArray[Any], reference: NDArray[Any], *, k: int | None = DEFAULT_K
) -> tuple[Drift, NDArray[np.float64]]:
    """Compare paired embeddings that are in memory.

    Args:
        candidate: (N, D) or (N, ...), any float dtype; further axes are flattened.
        reference: the same shape.
        k: neighbours to compare; None leaves the neighbour metrics out.

    Returns:
        The metrics, and each row's cosine, (N,) float64, NaN for invalid rows.

    Raises:
        DataError: other shapes, no rows, or a reference that is not finite.
        RequestError: k is not between 1 and N - 1.
    """
    if candidate.shape != reference.shape:
        raise DataError(
            f"the candidate's embeddings have shape {candidate.shape}, the reference's {reference.shape}. "
            "Compare embeddings of the same images, made by encoders of the same size."
        )
    if len(reference) == 0:
        raise DataError("there are no embeddings to compare.")
    measurement = measure(Rows(candidate), Rows(reference), k)
    return measurement.drift, measurement.cosines


def measure(
    candidate: Rows, reference: Rows, k: int | None, *, queries: int | None = None, seed: int = 0
) -> Measurement:
    """Compare paired rows, of which a block at a time is in memory.

    Args:
        candidate, reference: as many rows of the same size.
        k: neighbours to compare; None leaves the neighbour metrics out.
        queries: how many rows search for neighbours; default see
            :func:`embedlite.runtime.drift.neighbours.sample_queries`.
        seed: of the choice of queries.

    Raises:
        DataError: another number or size of rows, or a reference that is not finite.
        RequestError: k is not between 1 and N - 1.
    """
    count = len(reference)
    if len(candidate) != count or candidate.size != reference.size:
        raise DataError(
            f"the candidate has {len(candidate)} embeddings of {candidate.size} values, the reference {count} of "
            f"{reference.size}. Compare embeddings of the same images, made by encoders of the same size."
        )
    if k is not None and not 1 <= k < count:
        raise RequestError(
            f"k is {k}, but {count} row(s) have at most {count - 1} neighbours each. "
            "Pass a smaller --k, or more images."
        )
    moments = PairedMoments(reference.size, max(1, min(count, GROUPS, _GROUP_VALUES // reference.size)))
    repeats = RepeatFinder(reference.size)
    valid = np.zeros(count, np.bool_)
    cosines, signal, noise, ratios = (np.full(count, np.nan) for _ in range(4))
    max_abs = 0.0
    parts = list(reference.slices())
    for part in progress(parts, len(parts), "rows"):
        r, c = reference.take(part), candidate.take(part)
        if not np.isfinite(r).all():
            row = part.start + int(np.argmin(np.isfinite(r).all(axis=1)))
            raise DataError(f"the reference's own row {row} is not finite; nothing can be compared with it.")
        valid[part] = whole = ~broken_rows(c, r)
        if not whole.any():
            continue
        r, c = r[whole], c[whole]
        rows = part.start + np.flatnonzero(whole)
        difference = c - r
        squares = (c * c).sum(axis=1)
        signal[rows], noise[rows] = (r * r).sum(axis=1), (difference * difference).sum(axis=1)
        cosines[rows] = _cosines(np.einsum("ij,ij->i", c, r), squares, signal[rows])
        ratios[rows] = _ratios(squares, signal[rows])
        max_abs = max(max_abs, float(np.abs(difference).max()))
        moments.add(c, r)
        repeats.add(c)
    kept = np.flatnonzero(valid)
    repeated = kept[repeats.find(candidate.only(kept), reference.only(kept), moments.variance)] if len(kept) else kept
    if len(repeated):
        # Rare, so a second pass over all rows is no loss: the sums have to do without the repeated ones.
        valid[repeated] = False
        kept = np.flatnonzero(valid)
        again = measure(candidate.only(kept), reference.only(kept), None)
        moments, max_abs = again.moments or moments, again.drift.max_abs or 0.0
        for values in (cosines, signal, noise, ratios):
            values[repeated] = np.nan
    c_rows, r_rows = (candidate, reference) if len(kept) == count else (candidate.only(kept), reference.only(kept))
    neighbours = None
    if k is not None and len(kept) > k:
        neighbours = neighbour_overlap(c_rows, r_rows, k, sample_queries(len(kept), queries, seed))
    if not len(kept):
        nothing: dict[str, Any] = dict.fromkeys(OF_ROWS)
        drift = Drift(**{**nothing, "count": count, "invalid": count})
        return Measurement(drift, c_rows, r_rows, valid, cosines, signal, noise, ratios, None, None)
    (bias,), (gain,), _, _ = moments.dimensions()
    cka, procrustes = moments.similarity()
    paired = PairedRows(
        count=count,
        invalid=count - len(kept),
        cosines=cosines[kept],
        norm_ratios=ratios[kept],
        signal=float(signal[kept].sum()),
        noise=float(noise[kept].sum()),
        max_abs=max_abs,
        bias=bias,
        gain=gain,
        dead=len(moments.dead()),
        cka=cka,
        procrustes=procrustes,
        neighbours=neighbours,
        k=None if neighbours is None else k,
    )
    drift = Drift(**compute("rows", paired))
    return Measurement(drift, c_rows, r_rows, valid, cosines, signal, noise, ratios, moments, neighbours)


def _cosines(
    products: NDArray[np.float64], candidate: NDArray[np.float64], reference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """From inner products and squared norms, (n,); two zero rows have cosine 1, a zero and a non-zero row 0."""
    norms = np.sqrt(candidate) * np.sqrt(reference)
    both_zero = (candidate == 0) & (reference == 0)
    cosines = np.divide(products, norms, out=both_zero.astype(np.float64), where=norms > 0)
    clipped: NDArray[np.float64] = np.clip(cosines, -1.0, 1.0)
    return clipped


def _ratios(candidate: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of the norms from their squares, (n,); NaN for two zero rows, infinite for a zero reference."""
    nothing = np.where(candidate == 0, np.nan, np.inf)
    ratios: NDArray[np.float64] = np.divide(candidate, reference, out=nothing, where=reference > 0)
    return np.sqrt(ratios)
