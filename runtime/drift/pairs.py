"""Pairs of images: the same thing (genuine) or not (impostors), and how similar each model finds them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..interpreters import available_threads
from ..progress import progress
from .neighbours import NeighbourOverlap
from .rows import Rows, UnitRows

MOST_PAIRS = 200_000
"""Of more pairs than this, of one kind, a random part is looked at."""

_BLOCK_VALUES = 1 << 17

Truth = Literal["labels", "neighbours"]


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs of rows: the first queries, the second is in the gallery.

    Attributes:
        first, second: (P,) rows, never the same one twice in a pair.
        genuine: (P,) whether a pair is of the same thing.
        truth: by what that was told.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    genuine: NDArray[np.bool_]
    truth: Truth


@dataclass(frozen=True)
class Scores:
    """Cosine of every pair, (P,) float64: both from the reference; query from the candidate; both from it."""

    reference: NDArray[np.float64]
    cross: NDArray[np.float64]
    own: NDArray[np.float64]


def labelled_pairs(labels: NDArray[np.intp], seed: int = 0) -> Pairs:
    """Genuine pairs have the same label, impostors another; all pairs, or a random part of each kind.

    Args:
        labels: (N,) one number a class.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    possible = int((sizes.astype(np.int64) * (sizes - 1)).sum())
    if possible <= MOST_PAIRS:
        parts = [_all_pairs(order[start : start + size]) for start, size in zip(starts, sizes, strict=True) if size > 1]
        first, second = (
            np.concatenate([part[side] for part in parts]) if parts else np.empty(0, np.intp) for side in (0, 1)
        )
    else:
        weights = (sizes * (sizes - 1)).astype(np.float64)
        kind = rng.choice(len(sizes), MOST_PAIRS, p=weights / weights.sum())
        left = rng.integers(0, sizes[kind])
        right = (left + rng.integers(1, sizes[kind])) % sizes[kind]
        first, second = order[starts[kind] + left], order[starts[kind] + right]
    others = _other_pairs(len(labels), np.arange(len(labels)), rng)
    different = labels[others[0]] != labels[others[1]]
    return _joined((first, second), (others[0][different], others[1][different]), "labels")


def neighbour_pairs(neighbours: NeighbourOverlap, seed: int = 0) -> Pairs:
    """Genuine pairs are the reference's k nearest neighbours, impostors are pairs that are not.

    Args:
        neighbours: of the same rows.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    queries, found = neighbours.queries, neighbours.reference
    first, second = np.repeat(queries, found.shape[1]), found.ravel()
    if len(first) > MOST_PAIRS:
        chosen = np.sort(rng.choice(len(first), MOST_PAIRS, replace=False))
        first, second = first[chosen], second[chosen]
    others = _other_pairs(neighbours.gallery, queries, rng)
    place = np.searchsorted(queries, others[0])
    near = np.zeros(len(place), np.bool_)
    for column in range(found.shape[1]):
        near |= found[place, column] == others[1]
    return _joined((first, second), (others[0][~near], others[1][~near]), "neighbours")


def score(pairs: Pairs, candidate: Rows, reference: Rows) -> Scores:
    """How similar both models find the pairs."""
    scores = np.empty((3, len(pairs.first)))
    step = max(1, _BLOCK_VALUES // reference.size)
    parts = [slice(start, start + step) for start in range(0, len(pairs.first), step)]
    sides = UnitRows(reference), UnitRows(candidate)

    def fill(part: slice) -> None:
        r, c = ([rows.take(side[part]) for side in (pairs.first, pairs.second)] for rows in sides)
        scores[0, part] = np.einsum("ij,ij->i", r[0], r[1])
        scores[1, part] = np.einsum("ij,ij->i", c[0], r[1])
        scores[2, part] = np.einsum("ij,ij->i", c[0], c[1])

    with ThreadPoolExecutor(available_threads()) as pool:
        for _ in progress(pool.map(fill, parts), len(parts), "pairs"):
            pass
    return Scores(*scores)


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None where one side does not vary.

    Spearman, The Proof and Measurement of Association between Two Things, 1904.
    """
    ranks = np.stack([_ranks(one), _ranks(other)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    return float(ranks[0] @ ranks[1] / (norms[0] * norms[1])) if norms.all() else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return mean_ranks[place]


def _all_pairs(rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Every ordered pair of different rows."""
    first, second = np.repeat(rows, len(rows)), np.tile(rows, len(rows))
    different = first != second
    return first[different], second[different]


def _other_pairs(
    count: int, queries: NDArray[np.intp], rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All ordered pairs of a query and another row if there are few, else a random part of them, each once."""
    possible = len(queries) * (count - 1)
    few = possible <= MOST_PAIRS
    chosen = np.arange(possible) if few else np.unique(rng.integers(0, possible, MOST_PAIRS))
    place, second = np.divmod(chosen, count - 1)
    first = queries[place]
    # The gap that the query itself leaves.
    return first, second + (second >= first)


def _joined(
    genuine: tuple[NDArray[np.intp], NDArray[np.intp]],
    impostors: tuple[NDArray[np.intp], NDArray[np.intp]],
    truth: Truth,
) -> Pairs:
    flags = np.arange(len(genuine[0]) + len(impostors[0])) < len(genuine[0])
    return Pairs(np.concatenate([genuine[0], impostors[0]]), np.concatenate([genuine[1], impostors[1]]), flags, truth)
