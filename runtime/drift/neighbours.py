"""The k nearest neighbours by cosine, exactly, in bounded memory, and how many of them a candidate keeps.

Similarities of all queries with a block of the gallery are one matrix product in float32; what may be among the nearest
is kept, and its similarity computed again in float64. Centring the gallery leaves each query's order as it is and
takes the common part, which float32 would spend its digits on, out of embeddings that all point the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..machine import available_threads
from ..progress import progress
from .rows import Rows, UnitRows

EXACT_ROWS = 20_000
"""Up to so many rows every row searches."""

SAMPLED_QUERIES = 2_000
"""Of more rows a random part searches, all of them still being the gallery."""

LEAST_FOUND = 10
"""So many neighbours are found, however few are compared."""

TIE = 1e-12
"""Similarities of equal rows may differ in the last bits with their place in a block."""

_MARGIN = 10
_QUERY_BLOCK, _GALLERY_BLOCK, _GROUP = 256, 1 << 14, 64


@dataclass(frozen=True)
class NeighbourOverlap:
    """How many of the reference's nearest neighbours the candidate finds.

    Attributes:
        k: numbers of neighbours that were counted, ascending; the last is the one that was asked for.
        queries: (Q,) rows that searched.
        gallery: how many rows were searched.
        kept_self: (Q, len(k)) share kept when query and gallery are both the candidate's.
        kept_cross: (Q, len(k)) share kept when the candidate's query searches the reference's gallery.
        reference: (Q, k) rows that the reference finds, the nearest first.
        candidate: (Q, k) rows that the candidate's query finds in the reference's gallery.
        nearest: at least :data:`LEAST_FOUND` each, where there are so many: what the reference's query finds in the
            reference's gallery, the candidate's there, and the candidate's among its own.
    """

    k: tuple[int, ...]
    queries: NDArray[np.intp]
    gallery: int
    kept_self: NDArray[np.float64]
    kept_cross: NDArray[np.float64]
    reference: NDArray[np.intp]
    candidate: NDArray[np.intp]
    nearest: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]


def sample_queries(count: int, wanted: int | None, seed: int) -> NDArray[np.intp]:
    """Which of ``count`` rows search: all of them up to :data:`EXACT_ROWS`, else a random part; ascending.

    Args:
        count: rows.
        wanted: how many, if the caller says so.
        seed: of the choice.
    """
    if wanted is None:
        wanted = count if count <= EXACT_ROWS else SAMPLED_QUERIES
    if wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))


def neighbour_overlap(candidate: Rows, reference: Rows, k: int, queries: NDArray[np.intp]) -> NeighbourOverlap:
    """Count the neighbours that stay; a row is never its own neighbour.

    A neighbour found counts as kept when the reference finds it at least as similar as its own k-th neighbour, so
    that exact duplicates among the images do not look like drift.

    Args:
        candidate, reference: paired rows.
        k: neighbours, 1 to N - 1.
        queries: rows that search.
    """
    counted = tuple(sorted({count for count in (1, 2, 5, 10, 20, 50, 100) if count < k} | {k}))
    r_rows, c_rows = UnitRows(reference), UnitRows(candidate)
    r, c = r_rows.take(queries), c_rows.take(queries)
    found = max(k, min(LEAST_FOUND, len(reference) - 1))
    both = nearest_rows(
        np.concatenate([r, c]), np.concatenate([queries, queries]), r_rows, found, "neighbours (reference)"
    )
    nearest = (
        both[: len(queries)],
        both[len(queries) :],
        nearest_rows(c, queries, c_rows, found, "neighbours (candidate)"),
    )
    truth, cross, own = (rows[:, :k] for rows in nearest)
    parts = [slice(start, start + _QUERY_BLOCK) for start in range(0, len(queries), _QUERY_BLOCK)]

    def judge(part: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        limits = similarities(r[part], truth[part], r_rows)[:, [count - 1 for count in counted]] - TIE
        return (
            kept_shares(similarities(r[part], own[part], r_rows), limits, counted),
            kept_shares(similarities(r[part], cross[part], r_rows), limits, counted),
        )

    with ThreadPoolExecutor(available_threads()) as pool:
        judged = list(pool.map(judge, parts))
    kept_self, kept_cross = (np.concatenate([item[side] for item in judged]) for side in (0, 1))
    return NeighbourOverlap(counted, queries, len(reference), kept_self, kept_cross, truth, cross, nearest)


def similarities(queries: NDArray[np.float64], found: NDArray[np.intp], gallery: UnitRows) -> NDArray[np.float64]:
    """Cosines of unit queries (n, D) with the gallery's rows ``found`` (n, m), (n, m)."""
    rows = gallery.take(found.ravel()).reshape(*found.shape, -1)
    cosines: NDArray[np.float64] = np.matmul(rows, queries[:, :, None])[:, :, 0]
    return cosines


def kept_shares(found: NDArray[np.float64], limits: NDArray[np.float64], counted: Sequence[int]) -> NDArray[np.float64]:
    """The share of neighbours that the reference finds as similar as its own, (n, len(counted)).

    Args:
        found: (n, m) similarities, by the reference, of what was found, the nearest first.
        limits: (n, len(counted)) of the reference's own k-th.
        counted: the numbers of neighbours, k.
    """
    shares = [(found[:, :count] >= limits[:, [place]]).mean(axis=1) for place, count in enumerate(counted)]
    return np.stack(shares, axis=1)


def nearest_rows(
    queries: NDArray[np.float64], own: NDArray[np.intp], gallery: UnitRows, k: int, label: str
) -> NDArray[np.intp]:
    """The k rows of the gallery most similar to each unit query, (n, k), the most similar first; never its own row."""
    # Some more than k, because float32 may change places around the k-th.
    kept = min(k + _MARGIN, len(gallery) - 1)
    centre = gallery.mean()
    narrow = queries.astype(np.float32)
    best = np.full((len(queries), kept), -np.inf, np.float32)
    found = np.zeros((len(queries), kept), np.intp)
    parts = [slice(start, start + _QUERY_BLOCK) for start in range(0, len(queries), _QUERY_BLOCK)]
    starts = range(0, len(gallery), _GALLERY_BLOCK)
    with ThreadPoolExecutor(available_threads()) as pool:
        for start in progress(starts, len(starts), label):
            stop = min(start + _GALLERY_BLOCK, len(gallery))
            block = np.concatenate(
                [
                    (gallery.take(slice(at, min(at + 2048, stop))) - centre).astype(np.float32)
                    for at in range(start, stop, 2048)
                ]
            )

            def search(part: slice, block: NDArray[np.float32] = block, start: int = start) -> None:
                _search(narrow[part], own[part], block, start, best[part], found[part])

            list(pool.map(search, parts))

        def order(part: slice) -> NDArray[np.intp]:
            exact = similarities(queries[part], found[part], gallery)
            # Equal similarities in the order of the rows, so that the answer does not depend on the blocks.
            places = np.lexsort((found[part], -exact), axis=1)[:, :k]
            return np.take_along_axis(found[part], places, axis=1)

        return np.concatenate(list(pool.map(order, parts)))


def _search(
    queries: NDArray[np.float32],
    own: NDArray[np.intp],
    block: NDArray[np.float32],
    start: int,
    best: NDArray[np.float32],
    found: NDArray[np.intp],
) -> None:
    """Merge the nearest of one block into ``best`` and ``found``, (n, m), in place."""
    count, kept = best.shape
    products = queries @ block.T
    inside = np.flatnonzero((own >= start) & (own < start + len(block)))
    products[inside, own[inside] - start] = -np.inf
    # A value below the m-th best so far, or below m group maxima of this block, is not among the m best.
    limit = best.min(axis=1)
    groups = len(block) // _GROUP
    if groups > kept:
        maxima = products[:, : groups * _GROUP].reshape(count, _GROUP, groups).max(axis=1)
        limit = np.maximum(limit, np.partition(maxima, groups - kept, axis=1)[:, groups - kept])
    # In one dimension this is several times faster than in two.
    query, column = np.divmod(np.flatnonzero((products >= limit[:, None]).ravel()), len(block))
    survivors = np.bincount(query, minlength=count)
    place = np.arange(len(query)) - np.repeat(np.cumsum(survivors) - survivors, survivors)
    values = np.full((count, kept + int(survivors.max())), -np.inf, np.float32)
    rows = np.zeros(values.shape, np.intp)
    values[:, :kept], rows[:, :kept] = best, found
    values[query, kept + place] = products[query, column]
    rows[query, kept + place] = column + start
    nearest = np.argpartition(values, values.shape[1] - kept, axis=1)[:, -kept:]
    best[...] = np.take_along_axis(values, nearest, axis=1)
    found[...] = np.take_along_axis(rows, nearest, axis=1)
