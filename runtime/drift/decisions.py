"""What the drift does to decisions: is this pair the same thing, yes or no, at the threshold that was set at home.

The threshold is the lowest at which the reference accepts at most a share FAR (the false accept rate) of the impostor
pairs. TAR, the true accept rate, is the share of genuine pairs that are accepted there. Names and definitions are those
of ISO/IEC 19795-1. A flip is a pair that the candidate decides otherwise at the same threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import Interval, draw, interval_around, wilson_upper
from .pairs import Pairs, Scores, Truth

DEFAULT_FAR = 1e-3
"""One impostor in a thousand."""

LEAST_ACCEPTED = 10
"""A threshold that fewer impostor pairs decide is chance; the default rate is raised until it is so many."""

_REPLICATES = 200
_GROUPS = 1024


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
    def metrics(self) -> dict[str, float | None]:
        """What can be gated, of the use with the reference's gallery."""
        return {
            "far_ratio": self.cross.far / self.far_float if self.far_float > 0 else None,
            "tar_loss": self.tar_float - self.cross.tar,
            "false_reject_flips": self.cross.false_reject_flips,
            "false_accept_flips": self.cross.false_accept_flips,
        }


NO_DECISIONS: Mapping[str, None] = dict.fromkeys(
    ("far_ratio", "tar_loss", "false_reject_flips", "false_accept_flips"), None
)
"""The same metrics where there were too few pairs to decide anything."""


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
    threshold = _threshold(scores.reference[impostor], far)
    before = scores.reference > threshold
    drawn = _Drawn(pairs)
    cross = _compare(scores.cross, before, pairs, far, threshold, drawn)
    own = _compare(scores.own, before, pairs, far, threshold, drawn)
    after = scores.cross > threshold
    samples = {
        "far_ratio": _ratio(drawn.sums(after & impostor), drawn.sums(before & impostor)),
        "tar_loss": drawn.rates(before, genuine) - drawn.rates(after, genuine),
        "false_reject_flips": drawn.rates(before & ~after, genuine),
        "false_accept_flips": drawn.rates(~before & after, impostor),
    }
    found: dict[str, Interval] = {}
    far_float, tar_float = float(before[impostor].mean()), float(before[genuine].mean())
    made = Decisions(pairs.truth, far, threshold, far_float, tar_float, int(genuine.sum()), count, cross, own, found)
    for name, value in made.metrics.items():
        interval = None if value is None else interval_around(samples[name], value)
        if interval is not None:
            found[name] = interval
    return made


def _threshold(impostors: NDArray[np.float64], far: float) -> float:
    """The lowest similarity above which at most a share ``far`` of the impostors lies."""
    accepted = int(far * len(impostors))
    place = len(impostors) - accepted - 1
    return float(np.partition(impostors, place)[place])


def _compare(
    scores: NDArray[np.float64],
    before: NDArray[np.bool_],
    pairs: Pairs,
    far: float,
    threshold: float,
    drawn: _Drawn,
) -> Comparison:
    genuine, impostor = pairs.genuine, ~pairs.genuine
    after = scores > threshold
    lost, gained = before & ~after, ~before & after
    restored = _threshold(scores[impostor], far)
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


def _upper(flips: NDArray[np.bool_], kind: NDArray[np.bool_], drawn: _Drawn) -> float:
    rates = drawn.rates(flips, kind)
    rates = rates[np.isfinite(rates)]
    bound = float(np.percentile(rates, 95)) if len(rates) else 0.0
    return max(bound, wilson_upper(int((flips & kind).sum()), int(kind.sum())))


class _Drawn:
    """Replicates of a bootstrap over rows: a pair is drawn as often as its first row times its second.

    Pairs share rows, so they are no independent trials; drawing rows keeps what they have in common.
    """

    def __init__(self, pairs: Pairs) -> None:
        rows = int(max(pairs.first.max(), pairs.second.max())) + 1
        self._groups = min(rows, _GROUPS)
        self._weights = draw(self._groups, _REPLICATES)
        self._cells = pairs.first % self._groups * self._groups + pairs.second % self._groups

    def sums(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How many of the chosen pairs every replicate has, (replicates,)."""
        counts = np.bincount(self._cells[chosen], minlength=self._groups**2).reshape(self._groups, -1)
        sums: NDArray[np.float64] = ((self._weights @ counts.astype(np.float64)) * self._weights).sum(axis=1)
        return sums

    def rates(self, hits: NDArray[np.bool_], kind: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The share of hits among the pairs of a kind in every replicate; NaN where none of them was drawn."""
        return _ratio(self.sums(hits & kind), self.sums(kind))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return ratio
