"""How far one set of embeddings moved from another, row by row.

Rows are paired: row i of the candidate and row i of the reference are the same image. Unpaired statistics
(MMD) miss shuffled rows, and invariant ones (CKA) miss a rotation that ruins every stored gallery.

With r the reference and c the candidate, both (N, D), over the rows where both are valid::

    cosine_i         <r_i, c_i> / (|r_i| |c_i|); two zero rows have cosine 1, one zero row has 0
    sqnr_db          10 log10( sum r^2 / sum (c - r)^2 ), the signal-to-quantization-noise ratio
    max_abs          max |c - r|
    bias_max_sigma   max over dimensions of |mean(c - r)| / standard deviation of r in that dimension
    norm_ratio_mean  mean of |c_i| / |r_i| over rows with |r_i| > 0
    knn_overlap      mean share of the k most cosine-similar rows in r that the candidate finds too:
                     self searches c in c, cross searches c in r (a float gallery, device queries)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, RequestError

DEFAULT_K = 10
"""Neighbours that are compared."""

_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Drift:
    """The metrics of the report; None where a metric has no value for these rows, infinite where it is unbounded.

    Attributes:
        count: rows compared.
        invalid: candidate rows that are non-finite, or zero or constant where the reference's are not.
        cosine_mean: mean row cosine.
        cosine_p1: its first percentile: one row in a hundred is worse.
        cosine_min: the worst row's.
        sqnr_db: signal-to-quantization-noise ratio in decibels; None if the rows are identical.
        max_abs: largest absolute difference.
        bias_max_sigma: largest systematic shift of a dimension, in standard deviations of that dimension.
        norm_ratio_mean: mean ratio of the norms, candidate to reference.
        knn_overlap_self: share of neighbours kept when query and gallery both come from the candidate.
        knn_overlap_cross: share kept when candidate queries search the reference's gallery.
        k: how many neighbours were compared; None where there were too few rows.
    """

    count: int
    invalid: int
    cosine_mean: float | None
    cosine_p1: float | None
    cosine_min: float | None
    sqnr_db: float | None
    max_abs: float | None
    bias_max_sigma: float | None
    norm_ratio_mean: float | None
    knn_overlap_self: float | None
    knn_overlap_cross: float | None
    k: int | None


def measure_drift(
    candidate: NDArray[Any], reference: NDArray[Any], *, k: int | None = DEFAULT_K
) -> tuple[Drift, NDArray[np.float64]]:
    """Compare paired embeddings.

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
    if k is not None and not 1 <= k < len(reference):
        raise RequestError(
            f"k is {k}, but {len(reference)} row(s) have at most {len(reference) - 1} neighbours each. "
            "Pass a smaller --k, or more images."
        )
    r = reference.reshape(len(reference), -1).astype(np.float64)
    c = candidate.reshape(len(candidate), -1).astype(np.float64)
    if not np.isfinite(r).all():
        row = int(np.argmin(np.isfinite(r).all(axis=1)))
        raise DataError(f"the reference's own row {row} is not finite; nothing can be compared with it.")
    invalid = _invalid_rows(c, r)
    cosines = np.full(len(r), np.nan)
    valid = ~invalid
    r, c = r[valid], c[valid]
    if len(r) == 0:
        nothing = dict.fromkeys(list(Drift.__dataclass_fields__)[2:])
        return Drift(len(reference), int(invalid.sum()), **nothing), cosines
    cosines[valid] = row_cosines(c, r)
    measured = cosines[valid]
    noise = c - r
    signal_power, noise_power = float((r * r).sum()), float((noise * noise).sum())
    if k is not None and len(r) <= k:
        k = None
    overlaps = (None, None) if k is None else knn_overlaps(c, r, k)
    drift = Drift(
        count=len(reference),
        invalid=int(invalid.sum()),
        cosine_mean=float(measured.mean()),
        cosine_p1=float(np.percentile(measured, 1)),
        cosine_min=float(measured.min()),
        sqnr_db=_sqnr_db(signal_power, noise_power),
        max_abs=float(np.abs(noise).max()),
        bias_max_sigma=_bias_max_sigma(noise, r),
        norm_ratio_mean=_norm_ratio_mean(c, r),
        knn_overlap_self=overlaps[0],
        knn_overlap_cross=overlaps[1],
        k=k,
    )
    return drift, cosines


def row_cosines(candidate: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each pair of rows, (N,); two zero rows have cosine 1, a zero and a non-zero row 0."""
    norms = np.linalg.norm(candidate, axis=1) * np.linalg.norm(reference, axis=1)
    products = np.einsum("ij,ij->i", candidate, reference)
    both_zero = ~candidate.any(axis=1) & ~reference.any(axis=1)
    cosines = np.divide(products, norms, out=both_zero.astype(np.float64), where=norms > 0)
    clipped: NDArray[np.float64] = np.clip(cosines, -1.0, 1.0)
    return clipped


def knn_overlaps(candidate: NDArray[np.float64], reference: NDArray[np.float64], k: int) -> tuple[float, float]:
    """Overlap of the k nearest neighbours by cosine, (self, cross); a row is never its own neighbour.

    A neighbour found counts as right when the reference finds it at least as similar as its own k-th
    neighbour, so that exact duplicates among the images do not look like drift.
    """
    r, c = _unit_rows(reference), _unit_rows(candidate)
    count = len(r)
    kept_self = kept_cross = 0
    rows = max(1, _BLOCK_BYTES // (8 * count))
    for start in range(0, count, rows):
        block = slice(start, min(start + rows, count))
        own = (np.arange(block.stop - start), np.arange(start, block.stop))
        truth = r[block] @ r.T
        truth[own] = -np.inf
        # Products of equal rows may differ in the last bits with their place in the block.
        threshold = np.partition(truth, count - k, axis=1)[:, count - k, None] - 1e-12
        for gallery in (c, r):
            found = c[block] @ gallery.T
            found[own] = -np.inf
            nearest = np.argpartition(found, count - k, axis=1)[:, count - k :]
            kept = int((np.take_along_axis(truth, nearest, axis=1) >= threshold).sum())
            if gallery is c:
                kept_self += kept
            else:
                kept_cross += kept
    return kept_self / (count * k), kept_cross / (count * k)


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def _invalid_rows(c: NDArray[np.float64], r: NDArray[np.float64]) -> NDArray[np.bool_]:
    finite = np.isfinite(c).all(axis=1)
    # A constant row is what an encoder answers whose int8 range collapsed; a zero row is a special case of it.
    # One value cannot vary, so for D = 1 only the loss of a non-zero value counts.
    with np.errstate(invalid="ignore"):
        flat = np.ptp(c, axis=1) == 0 if c.shape[1] > 1 else ~c.any(axis=1)
    reference_flat = np.ptp(r, axis=1) == 0 if r.shape[1] > 1 else ~r.any(axis=1)
    lost = ~c.any(axis=1) & r.any(axis=1)
    invalid: NDArray[np.bool_] = ~finite | (flat & ~reference_flat) | lost
    return invalid


def _sqnr_db(signal_power: float, noise_power: float) -> float | None:
    if noise_power == 0:
        return None
    return 10 * float(np.log10(signal_power / noise_power)) if signal_power > 0 else -math.inf


def _bias_max_sigma(noise: NDArray[np.float64], r: NDArray[np.float64]) -> float | None:
    bias, sigma = np.abs(noise.mean(axis=0)), r.std(axis=0)
    # A dimension that is dead in the reference has no spread of its own; the typical one stands in.
    typical = float(np.sqrt((sigma * sigma).mean()))
    if typical == 0:
        return math.inf if bias.any() else 0.0
    return float((bias / np.where(sigma > 0, sigma, typical)).max())


def _norm_ratio_mean(c: NDArray[np.float64], r: NDArray[np.float64]) -> float | None:
    norms = np.linalg.norm(r, axis=1)
    positive = norms > 0
    if not positive.any():
        return math.inf if c.any() else None
    return float((np.linalg.norm(c[positive], axis=1) / norms[positive]).mean())
