"""Sums over paired rows, taken block by block: per-dimension shift and gain, and how alike the two spaces are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUPS = 1024
"""Groups that rows are dealt to at most; a bootstrap draws groups where there are more rows than that."""

LARGEST_MATRIX = 1024
"""Dimensions up to which all pairs of dimensions are summed, for CKA and Procrustes."""

HARDLY = 0.1
"""A dimension whose standard deviation is below this share of the typical one hardly varies."""

DEAD = 0.01
"""A dimension is dead if the candidate keeps less than this share of the reference's standard deviation."""


def shift_and_gain(
    bias: NDArray[np.float64], var_r: NDArray[np.float64], var_c: NDArray[np.float64], covariance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Per-dimension shift and gain from moments, all (B, D); see :meth:`PairedMoments.dimensions` for what it returns.

    Args:
        bias: mean(c - r).
        var_r, var_c: variances of reference and candidate, never negative.
        covariance: of the two.
    """
    sigma_r, sigma_c = np.sqrt(var_r), np.sqrt(var_c)
    typical = np.sqrt(var_r.mean(axis=1, keepdims=True))
    varies = sigma_r >= np.maximum(HARDLY * typical, np.finfo(np.float64).tiny)
    unit = np.where(varies, sigma_r, typical)
    unbounded = np.where(bias == 0, 0.0, np.copysign(np.inf, bias))
    told = np.divide(bias, unit, out=unbounded, where=unit > 0)
    gain = np.divide(covariance, var_r, out=np.full(var_r.shape, np.nan), where=varies)
    return told, gain, sigma_r, sigma_c


def dead_dimensions(
    gain: NDArray[np.float64], sigma_r: NDArray[np.float64], sigma_c: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Dimensions in which the reference varies and the candidate does not; all (D,), of :func:`shift_and_gain`."""
    return np.flatnonzero(~np.isnan(gain) & (sigma_c < DEAD * sigma_r))


class PairedMoments:
    """First and second moments of reference and candidate, dimension by dimension, in up to ``groups`` groups of rows.

    Row i belongs to group i mod ``groups``; a bootstrap draws groups instead of rows and needs no second pass.

    Args:
        size: values in a row, D.
        groups: into how many groups the rows are dealt.
    """

    def __init__(self, size: int, groups: int) -> None:
        self.counts = np.zeros(groups)
        # By group and dimension: r, r r, c, c c, r c, all relative to the first row of r, and c - r.
        self.sums = np.zeros((6, groups, size))
        self._shift: NDArray[np.float64] | None = None
        self._matrices = np.zeros((3, size, size)) if size <= LARGEST_MATRIX else None
        self._seen = 0

    def add(self, candidate: NDArray[np.float64], reference: NDArray[np.float64]) -> None:
        """Add paired rows, both (n, D)."""
        if self._shift is None:
            # A row rather than a mean: what never varies then has no variance at all, not one of rounding.
            self._shift = reference[0].copy()
        r, c = reference - self._shift, candidate - self._shift
        groups = len(self.counts)
        # Empty rows before and after, so that row g of every stack is one of group g's.
        front = self._seen % groups
        padding = (front, -(front + len(r)) % groups)
        for index, values in enumerate((r, r * r, c, c * c, r * c, candidate - reference)):
            stacks = np.pad(values, (padding, (0, 0))).reshape(-1, groups, values.shape[1])
            self.sums[index] += stacks.sum(axis=0)
        self.counts += np.pad(np.ones(len(r)), padding).reshape(-1, groups).sum(axis=0)
        if self._matrices is not None:
            self._matrices += np.stack([r.T @ r, c.T @ c, c.T @ r])
        self._seen += len(r)

    def dimensions(self, weights: NDArray[np.float64] | None = None) -> tuple[NDArray[np.float64], ...]:
        """Per-dimension shift and gain, and the spreads they are told by.

        Args:
            weights: (B, groups) how often each group counts in each of B replicates; default one, each group once.

        Returns:
            bias: (B, D) mean(c - r) in standard deviations of r, where r hardly varies in typical ones; infinite if no
            dimension of r varies. gain: (B, D) least-squares slope of c on r, NaN where r hardly varies. sigma_r,
            sigma_c: (B, D) standard deviations.
        """
        if weights is None:
            weights = np.ones((1, len(self.counts)))
        sums = np.matmul(weights, self.sums)
        counts = weights @ self.counts
        # A replicate may have drawn empty groups alone: it has no figures, and says so.
        counts[counts == 0] = np.nan
        mean_r, square_r, mean_c, square_c, product, bias = sums / counts[:, None]
        var_r = np.maximum(square_r - mean_r * mean_r, 0)
        var_c = np.maximum(square_c - mean_c * mean_c, 0)
        return shift_and_gain(bias, var_r, var_c, product - mean_r * mean_c)

    def dead(self) -> NDArray[np.intp]:
        """Dimensions in which the reference varies and the candidate does not."""
        _, (gain,), (sigma_r,), (sigma_c,) = self.dimensions()
        return dead_dimensions(gain, sigma_r, sigma_c)

    @property
    def variance(self) -> float:
        """The reference's variance, summed over the dimensions."""
        sigma_r = self.dimensions()[2][0]
        return float((sigma_r * sigma_r).sum())

    def similarity(self) -> tuple[float | None, float | None]:
        """Linear CKA, and the Procrustes disparity; None where one side does not vary or has too many dimensions.

        Both ignore rotations, so they tell whether the space is the same one in another position and can gate nothing.

        CKA: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019, eq. 5 in its feature form,
        with centred columns: |C'R|_F^2 / (|C'C|_F |R'R|_F); 1 for the same space. Procrustes: Gower, Generalized
        Procrustes Analysis, 1975: 1 - (sum of the singular values of C'R)^2 / (|C|^2 |R|^2), centred; 0 for the same.
        """
        if self._matrices is None:
            return None, None
        mean_r, mean_c = self.sums[0].sum(axis=0), self.sums[2].sum(axis=0)
        rr, cc, cr = self._matrices
        rr = rr - np.outer(mean_r, mean_r) / self._seen
        cc = cc - np.outer(mean_c, mean_c) / self._seen
        cr = cr - np.outer(mean_c, mean_r) / self._seen
        trace = float(np.trace(rr) * np.trace(cc))
        norms = float(np.linalg.norm(rr) * np.linalg.norm(cc))
        if not trace > 0 or not norms > 0 or not np.isfinite(trace * norms):
            return None, None
        nuclear = float(np.linalg.svd(cr, compute_uv=False).sum())
        return float((cr * cr).sum()) / norms, max(0.0, 1 - nuclear * nuclear / trace)
