"""Which device is worse than the rest of its fleet, and not by chance. Each is held against all others together.

Beside a model, two shares are compared: of the device's valid inputs, those with a larger 1 - cosine than the gate
``cosine_p1`` allows and than nine in ten of the others'; and of all its compared inputs, the invalid ones. It is an
outlier if a share is more than twice the others', and if drawing that many from both together would give it so large a
share less than once in a thousand fleets without any outlier: Fisher's exact test, one-sided (R. A. Fisher, The Design
of Experiments, 1935), with Bonferroni's correction for two shares of every device. Nothing is assumed of how drift is
distributed, and a device with few inputs needs a larger difference.

Beside a distribution there is no distance of an input, so in place of the first share stands the mean stability index,
less what chance alone gives: an outlier's is above 0.1 and three standard deviations, and more than twice the others'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...runtime.monitor.distribution import ReferenceDistribution
from ...runtime.monitor.log_bins import quantile_bin
from ...runtime.monitor.paired import DISTANCE_BINS
from ...runtime.monitor.tallies import Statistics
from ...runtime.monitor.unpaired import dimension_psi, psi_moments

FALSE_ALARMS = 0.001
"""Fleets without an outlier in which one is named nevertheless."""

TIMES = 2
TAIL = Fraction(1, 10)

LEAST_PSI = 0.1
SIGMAS = 3

FAR, INVALID, PSI = "far", "invalid", "psi"


@dataclass(frozen=True)
class Outlier:
    """Why a device is one.

    Attributes:
        what: ``far``, ``invalid`` or ``psi``.
        value: share of the device's inputs, or its mean stability index.
        others: the others'.
        beyond: 1 - cosine from which on an input is ``far``; else None.
    """

    what: str
    value: float
    others: float
    beyond: float | None = None


def find_outliers(
    devices: Sequence[Statistics], reference: ReferenceDistribution | None, allowed: float
) -> list[list[Outlier]]:
    """For each device why it is worse than the others; most often nothing.

    Args:
        devices: statistics of one layout.
        reference: None for statistics made beside a model.
        allowed: 1 - cosine that does not matter beside a model.
    """
    counts = {name: sum(device.counts[name] for device in devices) for name in ("rows", "invalid")}
    name = "cosine_distance" if reference is None else "dimensions"
    total: NDArray[np.int64] = np.sum([device.tables[name] for device in devices], axis=0)
    limit = FALSE_ALARMS / (2 * len(devices))
    found = []
    for device in devices:
        mine, others = device.tables[name], total - device.tables[name]
        invalid = (device.counts["invalid"], device.counts["rows"], counts["invalid"], counts["rows"])
        reasons = [_larger_share(INVALID, invalid, limit)]
        if mine.any() and others.any():
            valid = device.counts["rows"] - device.counts["invalid"]
            rest = counts["rows"] - counts["invalid"] - valid
            if reference is None:
                reasons.append(_farther(mine, others, limit, allowed))
            else:
                reasons.append(_moved((mine, valid), (others, rest), reference))
        found.append([reason for reason in reasons if reason is not None])
    return found


def _farther(mine: NDArray[np.int64], others: NDArray[np.int64], limit: float, allowed: float) -> Outlier | None:
    edge = max(quantile_bin(others, 1 - TAIL), DISTANCE_BINS.bin_of(allowed))
    marked, rest = int(mine[edge + 1 :].sum()), int(others[edge + 1 :].sum())
    drawn = int(mine.sum())
    beyond = DISTANCE_BINS.bounds(edge)[1]
    return _larger_share(FAR, (marked, drawn, marked + rest, drawn + int(others.sum())), limit, beyond)


def _larger_share(
    what: str, counts: tuple[int, int, int, int], limit: float, beyond: float | None = None
) -> Outlier | None:
    """An outlier if the share of marked inputs is; ``counts`` as :func:`tail_probability` takes them."""
    marked, drawn, all_marked, rows = counts
    if drawn in (0, rows):
        return None
    value, others = marked / drawn, (all_marked - marked) / (rows - drawn)
    if value > TIMES * others and tail_probability(*counts) < limit:
        return Outlier(what, value, others, beyond)
    return None


def _moved(
    mine: tuple[NDArray[np.int64], int], others: tuple[NDArray[np.int64], int], reference: ReferenceDistribution
) -> Outlier | None:
    values, excesses, spreads = [], [], []
    for table, rows in (mine, others):
        mean, spread = psi_moments(rows, reference)
        values.append(float(np.mean(dimension_psi(table, reference))))
        excesses.append(values[-1] - mean)
        # As if all dimensions were one: how far they vary together is not known.
        spreads.append(spread)
    if excesses[0] > max(LEAST_PSI + SIGMAS * spreads[0], TIMES * excesses[1]):
        return Outlier(PSI, values[0], values[1])
    return None


def tail_probability(marked: int, drawn: int, all_marked: int, rows: int) -> float:
    """Probability of ``marked`` or more among ``drawn`` of ``rows`` of which ``all_marked`` are (hypergeometric).

    1 where so many are no more than expected.
    """
    if marked * rows <= drawn * all_marked:
        return 1.0
    chance = math.exp(
        _log_choose(all_marked, marked) + _log_choose(rows - all_marked, drawn - marked) - _log_choose(rows, drawn)
    )
    # Above the mean each further term is smaller than the one before by a factor that only falls.
    total, count = 0.0, marked
    while chance > total * 1e-17:
        total += chance
        chance *= (all_marked - count) * (drawn - count)
        count += 1
        chance /= count * (rows - all_marked - drawn + count)
    return min(total, 1.0)


def _log_choose(total: int, part: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(part + 1) - math.lgamma(total - part + 1)
