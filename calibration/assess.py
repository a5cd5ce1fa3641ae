"""Is the calibration data enough? Three figures for each tensor group, and a plain verdict.

**Clipped**: the share of values of held-out images that lie outside the range that the other images gave.
**Growth**: by how much a range widens from half of the images to all of them, on average over all halves. With n images
and the largest maxima M_1 >= M_2 >= ..., a half of h images has the maximum M_j with the probability
C(n - j, h - 1) / C(n, h), so the average needs no drawing of halves; the few largest decide it.
**Alone**: the images, three at most, without which the range would be at most half as wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .bins import filled_bins
from .methods import MINMAX, Method, choose_range
from .statistics import Extreme, Statistics, TensorStatistics
from .tensors import TensorGroup, short_name

MOST_GROWTH = 0.1
"""A range that widens by more from half of the images to all still moves; a tenth is 0.8 dB of rounding noise."""

MOST_MISSED = 1e-3
"""A larger share of held-out values outside a range than of the values that set it says that the two differ."""

_MOST_ALONE = 3
_FEW = 5
_HALF = 0.5


@dataclass(frozen=True)
class GroupAssessment:
    """How firmly one tensor group's range stands.

    Attributes:
        name: of the group.
        method: how its range was taken.
        low: lower end of the range.
        high: upper end.
        clipped: share of held-out values outside the range that the other images gave; None without held-out images.
        missed: the same less the share of those images' own values that the method leaves outside.
        growth: average widening from half of the images to all, as a share of the half's width.
        alone: ids of the images without which the range would be at most half as wide.
        without: its width without them, as a share of the width with them; None if there are no such images.
    """

    name: str
    method: str
    low: float
    high: float
    clipped: float | None
    missed: float
    growth: float
    alone: tuple[str, ...]
    without: float | None


@dataclass(frozen=True)
class Assessment:
    """Whether the calibration data is enough.

    Attributes:
        verdict: ``enough``, ``add more``, or ``these images look wrong``.
        reason: why, and what to do, in a sentence or two.
        samples: images that set the ranges.
        groups: every tensor group, in the order of execution.
    """

    verdict: str
    reason: str
    samples: int
    groups: tuple[GroupAssessment, ...]


def assess(
    fit: Statistics,
    held: Statistics | None,
    whole: Statistics,
    groups: Sequence[TensorGroup],
    method: Method,
    only: Mapping[str, Method] | None = None,
) -> Assessment:
    """Judge calibration data by the statistics of its parts.

    Args:
        fit: of the images that are not held out.
        held: of the images that are, with counts; None if there are none.
        whole: of both.
        groups: of the same graph.
        method: how ranges are taken.
        only: another method for some groups, by name.
    """
    found = []
    for group in groups:
        how = (only or {}).get(group.name, method)
        tensor = whole.tensors[group.name]
        low, high = choose_range(tensor, how)
        limits = choose_range(fit.tensors[group.name], how)
        clipped = None if held is None else _share_outside(held.tensors[group.name], limits)
        missed = max(0.0, (clipped or 0.0) - (_share_outside(fit.tensors[group.name], limits) or 0.0))
        alone, without = images_alone(tensor, whole.samples)
        growth = expected_growth(tensor, whole.samples)
        found.append(GroupAssessment(group.name, str(how), low, high, clipped, missed, growth, alone, without))
    verdict, reason = _judge(found, whole.samples)
    return Assessment(verdict, reason, whole.samples, tuple(found))


def _share_outside(tensor: TensorStatistics, limits: tuple[float, float]) -> float | None:
    return None if tensor.counts is None else filled_bins(tensor.counts).share_outside(*limits)


def expected_growth(tensor: TensorStatistics, samples: int) -> float:
    """Average widening of the range from half of the images to all of them, as a share of the half's width."""
    half = max(1, samples // 2)
    width = max(tensor.high, 0.0) - min(tensor.low, 0.0)
    top = _expected_end([(max(value, 0.0), name) for value, name in tensor.highest], samples, half)
    bottom = _expected_end([(min(value, 0.0), name) for value, name in tensor.lowest], samples, half)
    return width / (top - bottom) - 1 if top > bottom else 0.0


def _expected_end(extremes: Sequence[Extreme], samples: int, half: int) -> float:
    expected, left = 0.0, 1.0
    for rank, (value, _) in enumerate(extremes, 1):
        # The last that was kept stands for all after it.
        share = math.comb(samples - rank, half - 1) / math.comb(samples, half)
        share = left if rank == len(extremes) else min(share, left)
        expected += value * share
        left -= share
    return expected


def images_alone(tensor: TensorStatistics, samples: int) -> tuple[tuple[str, ...], float | None]:
    """The fewest images, three at most and fewer than a quarter, without which the range is at most half as wide."""
    width = max(tensor.high, 0.0) - min(tensor.low, 0.0)
    for number in range(1, min(_MOST_ALONE, (samples - 1) // 4) + 1):
        for end in (tensor.highest, tensor.lowest):
            names = {name for _, name in end[:number]}
            left = _end_without(tensor.highest, names, max) - _end_without(tensor.lowest, names, min)
            if width > 0 and left <= width * _HALF:
                return tuple(name for _, name in end[:number]), left / width
    return (), None


def _end_without(extremes: Sequence[Extreme], names: set[str], outermost: Callable[[list[float]], float]) -> float:
    left = [value for value, name in extremes if name not in names]

    return outermost([*left[:1], 0.0])


def _judge(groups: Sequence[GroupAssessment], samples: int) -> tuple[str, str]:
    suspicious = [group for group in groups if group.alone]
    if suspicious:
        worst = min(suspicious, key=lambda group: group.without or 0.0)
        shrunk = f"the range of {short_name(worst.name)!r} shrinks to {worst.without:.0%} of its width"
        return (
            "these images look wrong",
            f"{', '.join(map(repr, worst.alone))}: without {'it' if len(worst.alone) == 1 else 'them'} {shrunk}; "
            f"{len(suspicious)} of {len(groups)} ranges are set by so few images. Look at them, and remove them if "
            "they are not what the encoder will see.",
        )
    exact = [group for group in groups if group.method == str(MINMAX)]
    moving = max(exact, key=lambda group: group.growth, default=None)
    if moving is not None and moving.growth > MOST_GROWTH:
        return (
            "add more",
            f"from half of the {samples} images to all of them the range of {short_name(moving.name)!r} still widened "
            f"by {moving.growth:.1%}. Twice as many images would tell whether that goes on.",
        )
    missed = max(groups, key=lambda group: group.missed)
    if missed.missed > MOST_MISSED:
        return (
            "add more",
            f"{missed.clipped:.2%} of the values of {short_name(missed.name)!r} in held-out images lie outside its "
            "range, more than in the images that set it. Add images like those that the encoder will see.",
        )
    held_out = all(group.clipped is not None for group in groups)
    if not held_out and samples < _FEW:
        return "add more", f"{samples} images are too few to hold some out and look whether they fit the ranges."
    told = []
    if held_out:
        told.append(
            f"at most {missed.missed:.3%} more of a tensor's values lie outside its range in held-out images than in "
            "the others"
        )
    if moving is not None:
        told.append(f"from half of the {samples} images to all the ranges widened by at most {moving.growth:.1%}")
    return "enough", "; ".join(told) or f"ranges from {samples} images, of which none were held out to look at them"
