"""The average precision of queries in a gallery that does not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...machine import available_threads
from ...progress import progress
from ..rows import UnitRows

_QUERIES, _GALLERY_BLOCK, _MOST_WANTED = 128, 1 << 13, 1 << 24


def average_precisions(
    kinds: Sequence[NDArray[np.float64]], gallery: UnitRows, labels: NDArray[np.intp], queries: NDArray[np.intp]
) -> list[NDArray[np.float64]]:
    """Each query's average precision, (n,) for every kind: the mean, over what is to be found, of the precision among
    all that is at least as similar.

    No ranking is made: what is to be found is compared with everything else, of which a block at a time is in memory.

    Args:
        kinds: (n, D) unit vectors that search, each kind of the same queries.
        gallery: what they search.
        labels: (N,) one number a class.
        queries: (n,) their rows, which they do not find.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(int(labels.max()) + 2))
    centre = gallery.mean()
    asked = [_Ranked(kind[place], int(row)) for kind in kinds for place, row in enumerate(queries)]
    classes = np.tile(labels[queries], len(kinds))
    # How much is remembered of each is what there is to find.
    room = np.cumsum(np.diff(starts)[classes]) // _MOST_WANTED
    with ThreadPoolExecutor(available_threads()) as pool:
        for turn in np.unique(room):
            mine = np.flatnonzero(room == turn)
            _search_classes(asked, mine, classes, gallery, centre, (order, starts))
            parts = [mine[start : start + _QUERIES] for start in range(0, len(mine), _QUERIES)]
            blocks = range(0, len(gallery), _GALLERY_BLOCK)
            for start in progress(blocks, len(blocks), "rankings"):
                stop = min(start + _GALLERY_BLOCK, len(gallery))
                block, known = (gallery.take(slice(start, stop)) - centre).T, labels[start:stop]

                def count(
                    part: NDArray[np.intp], block: NDArray[np.float64] = block, known: NDArray[np.intp] = known
                ) -> None:
                    similar = _similar(np.stack([asked[place].vector for place in part]), block)
                    for place, told in zip(part, similar, strict=True):
                        asked[place].count(told, known != classes[place])

                list(pool.map(count, parts))
            for place in mine:
                asked[place].finish()
    precisions = np.array([query.precision for query in asked])
    return list(precisions.reshape(len(kinds), len(queries)))


@dataclass
class _Ranked:
    """One query: how similar what it should find is, and how much else is at least as similar.

    Attributes:
        vector: (D,).
        row: its own.
        wanted: (m,) float32 similarities of what is to be found, ascending.
        wrong: (m + 1,) of the others, by how many of ``wanted`` they are at least as similar as.
        precision: the average precision, when all others were counted.
    """

    vector: NDArray[np.float64]
    row: int
    wanted: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    wrong: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    precision: float = 0.0

    def begin(self, wanted: NDArray[np.float32]) -> None:
        self.wanted = np.sort(wanted)
        self.wrong = np.zeros(len(wanted) + 1, np.int32)

    def count(self, similar: NDArray[np.float32], other: NDArray[np.bool_]) -> None:
        near = similar[other & (similar >= self.wanted[0])]
        if len(near) < len(self.wanted):
            # In order they are found, and counted, where the last one was.
            near.sort()
            places, counts = np.unique(np.searchsorted(self.wanted, near, "right"), return_counts=True)
            self.wrong[places] += counts.astype(np.int32)
        else:
            passed = np.searchsorted(self.wanted, near, "right")
            self.wrong += np.bincount(passed, minlength=len(self.wrong)).astype(np.int32)

    def finish(self) -> None:
        right = len(self.wanted) - np.searchsorted(self.wanted, self.wanted, "left")
        wrong = np.cumsum(self.wrong[::-1])[::-1][1:]
        self.precision = float((right / (right + wrong)).mean())
        self.begin(self.wanted[:0])


def _search_classes(
    asked: Sequence[_Ranked],
    mine: NDArray[np.intp],
    classes: NDArray[np.intp],
    gallery: UnitRows,
    centre: NDArray[np.float64],
    ordered: tuple[NDArray[np.intp], NDArray[np.intp]],
) -> None:
    """How similar these queries find the rows of their class, class by class.

    Args:
        asked, mine: all queries, and which of them.
        classes: of all.
        gallery, centre: what they search.
        ordered: the rows by their class, and where each class begins.
    """
    order, starts = ordered
    for number in np.unique(classes[mine]):
        rows = order[starts[number] : starts[number + 1]]
        places = mine[classes[mine] == number]
        vectors = np.stack([asked[place].vector for place in places])
        similar = np.empty((len(places), len(rows)), np.float32)
        for at in range(0, len(rows), _GALLERY_BLOCK):
            similar[:, at : at + _GALLERY_BLOCK] = _similar(
                vectors, (gallery.take(rows[at : at + _GALLERY_BLOCK]) - centre).T
            )
        for place, found in zip(places, similar, strict=True):
            asked[place].begin(found[rows != asked[place].row])


def _similar(queries: NDArray[np.float64], block: NDArray[np.float64]) -> NDArray[np.float32]:
    """Of queries (n, D) with a part of the gallery (D, m); equal ones are equal, the last bits being rounded off."""
    return (queries @ block).astype(np.float32)
