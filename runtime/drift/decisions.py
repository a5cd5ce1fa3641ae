"""What the drift does to decisions: is this pair the same thing, yes or no, at the threshold that was set at home.

The threshold is where the reference accepts at most a share FAR (the false accept rate) of the impostor pairs, midway
to the next of them. TAR, the true accept rate, is the share of genuine pairs that are accepted there. Names and
definitions are those of ISO/IEC 19795-1. A flip is a pair that the candidate decides otherwise at the same threshold.

Pairs of images: the same thing (genuine) or not (impostors), and how similar each model finds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..machine import available_threads
from ..progress import progress
from .intervals import Interval, draw, interval_around, wilson_upper
from .metrics import METRICS, compute
from .moments import GROUPS
from .neighbours import NeighbourOverlap
from .rows import Rows, UnitRows

DEFAULT_FAR = 1e-3
"""One impostor in a thousand."""

LEAST_ACCEPTED = 10
"""A threshold that fewer impostor pairs decide is chance; the default rate is raised until it is so many."""

_SAME = 1e-9
"""Cosines that are nearer than this differ by rounding alone."""

_REPLICATES = 200


@dataclass(frozen=True)
class Comparison:
    """The candidate's decisions in one use: against the reference's gallery (cross), or among themselves (self).

    Attributes:
        far: false accept rate at the reference's threshold.
        tar: true accept rate there.
        threshold_restored: the threshold that restores the reference's false accept rate.
        tar_restored: true accept rate at that one.
        genuine_lost, genuine_gained: genuine pairs that are now rejected, or now accepted.
        impostor_gained, impostor_lost: impostor pairs that are now accepted, or now rejected.
        false_reject_flips, false_accept_flips: share of genuine pairs lost, and of impostor pairs gained.
        false_reject_flips_upper, false_accept_flips_upper: their 95 % upper bounds: the larger of the bootstrap's over
            rows and Wilson's over pairs, which unlike the other is not zero when there were none.
    """

    far: float
    tar: float
    threshold_restored: float
    tar_restored: float
    genuine_lost: int
    genuine_gained: int
    impostor_gained: int
    impostor_lost: int
    false_reject_flips: float
    false_accept_flips: float
    false_reject_flips_upper: float
    false_accept_flips_upper: float


@dataclass(frozen=True)
class Decisions:
    """Decisions before and after.

    Attributes:
        truth: ``labels``, or ``neighbours``: the reference's nearest ones were taken for the same thing.
        far: the false accept rate that was aimed at.
        threshold: the reference's threshold for it, a cosine; a pair is accepted above it.
        far_float, tar_float: the reference's own rates there.
        genuine_pairs, impostor_pairs: how many were looked at.
        cross, own: the candidate's decisions; ``own`` is ``self`` in the JSON.
        intervals: 95 % bootstrap intervals over rows, by metric.
    """

    truth: Truth
    far: float
    threshold: float
    far_float: float
    tar_float: float
    genuine_pairs: int
    impostor_pairs: int
    cross: Comparison
    own: Comparison
    intervals: Mapping[str, Interval]

    @property
    def far_ratio_upper(self) -> float:
        """Upper 95 % limit of the candidate's false accept rate at the reference's threshold, in units of its own.

        Infinite where the reference accepts no impostor and the candidate does, or too few for an interval.
        """
        if not self.cross.impostor_gained:
            return METRICS["far_ratio"].compute(self) or 1.0
        return self.intervals.get("far_ratio", (0.0, math.inf))[1]

    @property
    def tar_loss_upper(self) -> float:
        """Upper 95 % limit of the candidate's false reject rate there, less the reference's."""
        if not self.cross.genuine_lost:
            return self.tar_float - self.cross.tar
        return self.intervals.get("tar_loss", (0.0, math.inf))[1]


def decide(pairs: Pairs, scores: Scores, far: float | None = None) -> Decisions | None:
    """Set the threshold on the reference's pairs and apply it to the candidate's.

    Args:
        pairs: of both kinds.
        scores: their similarities.
        far: the false accept rate, above 0 and below 1; default :data:`DEFAULT_FAR`, or more where there are few pairs.

    Returns:
        None if there are no genuine pairs, or fewer impostor pairs than twice :data:`LEAST_ACCEPTED`.
    """
    genuine, impostor = pairs.genuine, ~pairs.genuine
    count = int(impostor.sum())
    if not genuine.any() or count < 2 * LEAST_ACCEPTED:
        return None
    if far is None:
        far = max(DEFAULT_FAR, LEAST_ACCEPTED / count)
    threshold = threshold_at(scores.reference[impostor], far)
    before = scores.reference > threshold
    drawn = Drawn(pairs)
    cross = _compare(scores.cross, before, pairs, far, threshold, drawn)
    own = _compare(scores.own, before, pairs, far, threshold, drawn)
    after = scores.cross > threshold
    samples = {
        "far_ratio": ratio(drawn.sums(after & impostor), drawn.sums(before & impostor)),
        "tar_loss": drawn.rates(before, genuine) - drawn.rates(after, genuine),
        "false_reject_flips": drawn.rates(before & ~after, genuine),
        "false_accept_flips": drawn.rates(~before & after, impostor),
    }
    found: dict[str, Interval] = {}
    far_float, tar_float = float(before[impostor].mean()), float(before[genuine].mean())
    made = Decisions(pairs.truth, far, threshold, far_float, tar_float, int(genuine.sum()), count, cross, own, found)
    for name, value in compute("decisions", made).items():
        interval = interval_around(samples[name], value) if value is not None and name in samples else None
        if interval is not None:
            found[name] = interval
    return made


def threshold_at(impostors: NDArray[np.float64], far: float) -> float:
    """The threshold that at most this share of the impostors' similarities lies above.

    Midway between the most similar impostor that is rejected and the least similar one that is accepted.

    A threshold at the rejected one's own similarity would make its decision a matter of the last bit; so would one
    between a pair and the same pair the other way round.
    """
    accepted = int(far * len(impostors))
    place = len(impostors) - accepted - 1
    rejected = float(np.partition(impostors, place)[place])
    above = impostors[impostors > rejected + _SAME]
    return rejected + (float(above.min()) - rejected) / 2 if len(above) else rejected


def _compare(
    scores: NDArray[np.float64],
    before: NDArray[np.bool_],
    pairs: Pairs,
    far: float,
    threshold: float,
    drawn: Drawn,
) -> Comparison:
    genuine, impostor = pairs.genuine, ~pairs.genuine
    after = scores > threshold
    lost, gained = before & ~after, ~before & after
    restored = threshold_at(scores[impostor], far)
    rejected, accepted = int((lost & genuine).sum()), int((gained & impostor).sum())
    return Comparison(
        far=float(after[impostor].mean()),
        tar=float(after[genuine].mean()),
        threshold_restored=restored,
        tar_restored=float((scores[genuine] > restored).mean()),
        genuine_lost=rejected,
        genuine_gained=int((gained & genuine).sum()),
        impostor_gained=accepted,
        impostor_lost=int((lost & impostor).sum()),
        false_reject_flips=rejected / int(genuine.sum()),
        false_accept_flips=accepted / int(impostor.sum()),
        false_reject_flips_upper=_upper(lost, genuine, drawn),
        false_accept_flips_upper=_upper(gained, impostor, drawn),
    )


def _upper(flips: NDArray[np.bool_], kind: NDArray[np.bool_], drawn: Drawn) -> float:
    rates = drawn.rates(flips, kind)
    rates = rates[np.isfinite(rates)]
    bound = float(np.percentile(rates, 95)) if len(rates) else 0.0
    return max(bound, wilson_upper(int((flips & kind).sum()), int(kind.sum())))


class Drawn:
    """Replicates of a bootstrap over rows: a pair is drawn as often as its first row times its second.

    Pairs share rows, so they are not independent trials; drawing rows keeps what they have in common.
    """

    def __init__(self, pairs: Pairs) -> None:
        rows = int(max(pairs.first.max(), pairs.second.max())) + 1
        self._groups = min(rows, GROUPS)
        self._weights = draw(self._groups, _REPLICATES)
        self._cells = pairs.first % self._groups * self._groups + pairs.second % self._groups

    def sums(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How many of the chosen pairs every replicate has, (replicates,)."""
        counts = np.bincount(self._cells[chosen], minlength=self._groups**2).reshape(self._groups, -1)
        sums: NDArray[np.float64] = ((self._weights @ counts.astype(np.float64)) * self._weights).sum(axis=1)
        return sums

    def rates(self, hits: NDArray[np.bool_], kind: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The share of hits among the pairs of a kind in every replicate; NaN where none of them was drawn."""
        return ratio(self.sums(hits & kind), self.sums(kind))


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Their quotients, (n,); NaN where there is nothing to divide by."""
    quotients: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return quotients


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
