"""Which device is worse than the rest of its fleet, and not by chance.

A device is held against all the others together, in two shares: of its valid inputs, those farther off than nine in ten
of the others' are (by 1 - cosine, or by the z-score beside a distribution); and of all its compared inputs, the invalid
ones. It is an outlier if a share is more than twice the others', and if drawing that many from both together would
give it so large a share less than once in a thousand fleets without any outlier: Fisher's exact test, one-sided
(R. A. Fisher, The Design of Experiments, 1935), with Bonferroni's correction for two shares of every device.

Nothing is assumed of how drift is distributed, and a device with few inputs needs a larger difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .histogram import LogBins, quantile_bin
from .statistics import Statistics

FALSE_ALARMS = 0.001
"""Fleets without an outlier in which one is named nevertheless."""

TIMES = 2
TAIL = Fraction(1, 10)


@dataclass(frozen=True)
class Outlier:
    """Why a device is one.

    Attributes:
        what: ``far`` or ``invalid``.
        share: of the device's inputs.
        others: of the others'.
        beyond: how far off ``far`` is, 1 - cosine or z-score; None for ``invalid``.
        chance: probability of such a share without any difference.
    """

    what: str
    share: float
    others: float
    beyond: float | None
    chance: float


def find_outliers(devices: Sequence[Statistics], table: str, bins: LogBins) -> list[list[Outlier]]:
    """For each device why it is worse than the others; most often nothing.

    Args:
        devices: statistics of one layout.
        table: the histogram that says how far off inputs are.
        bins: its bins.
    """
    limit = FALSE_ALARMS / (2 * len(devices))
    everything = {name: sum(device.counts[name] for device in devices) for name in ("rows", "invalid")}
    distances = np.sum([device.tables[table] for device in devices], axis=0)
    found = []
    for device in devices:
        mine, others = device.tables[table], distances - device.tables[table]
        counts = (device.counts["invalid"], device.counts["rows"], everything["invalid"], everything["rows"])
        tests: list[tuple[str, float | None, tuple[int, int, int, int]]] = [("invalid", None, counts)]
        if mine.any() and others.any():
            far = slice(quantile_bin(others, 1 - TAIL) + 1, None)
            counts = (int(mine[far].sum()), int(mine.sum()), int(distances[far].sum()), int(distances.sum()))
            tests.append(("far", bins.bounds(far.start - 1)[1], counts))
        outliers = []
        for what, beyond, (marked, drawn, all_marked, rows) in tests:
            if drawn in (0, rows):
                continue
            share, rest = marked / drawn, (all_marked - marked) / (rows - drawn)
            chance = tail_probability(marked, drawn, all_marked, rows)
            if share > TIMES * rest and chance < limit:
                outliers.append(Outlier(what, share, rest, beyond, chance))
        found.append(outliers)
    return found


def tail_probability(marked: int, drawn: int, all_marked: int, rows: int) -> float:
    """Probability of ``marked`` or more among ``drawn`` of ``rows`` of which ``all_marked`` are (hypergeometric)."""
    if marked * rows <= drawn * all_marked:
        # Not above what is expected: nothing that this module asks about.
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
