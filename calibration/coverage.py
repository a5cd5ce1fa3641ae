"""Choosing the images of a large pool that cover the encoder's embedding space best.

Farthest-first traversal: begin with the image nearest to the mean, then take again and again the one that is farthest
from all that were taken. The largest distance that is left is at most twice the best possible for that many images.

Gonzalez, Clustering to minimize the maximum intercluster distance, Theoretical Computer Science 38, 1985; as a choice
of data for networks: Sener and Savarese, Active learning for convolutional neural networks: a core-set approach, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import RequestError


@dataclass(frozen=True)
class Coverage:
    """A choice of images.

    Attributes:
        indices: rows that were chosen, in the order in which they were.
        radius: largest distance of any row from the nearest chosen one.
    """

    indices: tuple[int, ...]
    radius: float


def select_coverage(embeddings: NDArray[np.float32], count: int) -> Coverage:
    """The ``count`` rows that cover all of them best.

    Equal distances are decided by the place of the row; sort rows by content if their order must not matter.

    Args:
        embeddings: (N, D) float32, finite.
        count: how many to choose, at most N.

    Raises:
        RequestError: ``count`` is not between 1 and N.
    """
    if not 1 <= count <= len(embeddings):
        raise RequestError(f"cannot choose {count} of {len(embeddings)} images. Choose between 1 and all of them.")
    chosen = [int(np.argmin(_distances(embeddings, embeddings.mean(axis=0, dtype=np.float64))))]
    left = _distances(embeddings, embeddings[chosen[0]])
    while len(chosen) < count:
        # A row that was chosen stays so, even where all others are equal to one.
        left[chosen[-1]] = -1
        chosen.append(int(np.argmax(left)))
        left = np.minimum(left, _distances(embeddings, embeddings[chosen[-1]]))
    return Coverage(tuple(chosen), covering_radius(embeddings, chosen))


def covering_radius(embeddings: NDArray[np.float32], chosen: list[int]) -> float:
    """The largest distance of any row from the nearest chosen one."""
    nearest = np.full(len(embeddings), np.inf)
    for index in chosen:
        nearest = np.minimum(nearest, _distances(embeddings, embeddings[index]))
    return float(nearest.max())


def _distances(embeddings: NDArray[np.float32], point: NDArray[Any]) -> NDArray[np.float64]:
    """Euclidean distance of each row from a point; a block of rows at a time, so that memory stays bounded."""
    result = np.empty(len(embeddings))
    for start in range(0, len(embeddings), 65536):
        block = embeddings[start : start + 65536].astype(np.float64) - point
        result[start : start + 65536] = np.sqrt(np.einsum("ij,ij->i", block, block))
    return result
