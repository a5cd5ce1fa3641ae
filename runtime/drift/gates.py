"""Limits on drift metrics, and whether they hold.

The defaults are deliberately few: rows and dimensions that are broken outright, the tail of the cosine, the noise
power, systematic shifts and gains, and the neighbours that a stored float gallery would lose; with labels also the
decisions at the threshold that was set at home. Sources and reasons: docs/drift.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from .intervals import Interval
from .metrics import METRICS

Metrics = Mapping[str, float | None]

AT_MOST = frozenset(name for name, metric in METRICS.items() if metric.at_most)
"""Metrics that must not exceed their limit; all others must not fall below it."""

INFORMATION = frozenset(name for name, metric in METRICS.items() if metric.information)
"""What the report tells and cannot gate: a rotation leaves CKA and Procrustes alone and ruins a stored gallery."""

GATEABLE = tuple(name for name in METRICS if name not in INFORMATION)

DEFAULT_GATES: Mapping[str, float] = {
    name: metric.gate for name, metric in METRICS.items() if metric.gate is not None and not metric.labelled
}

DECISION_GATES: Mapping[str, float] = {
    name: metric.gate for name, metric in METRICS.items() if metric.gate is not None and metric.labelled
}
"""Defaults where labels say what the same thing is. Nearest neighbours that stand in for them do so for curiosity only:
in a dense cluster the threshold then lies among images that nobody tells apart, and noise moves it."""


@dataclass(frozen=True)
class Gate:
    """One limit, applied.

    Attributes:
        name: the metric's.
        value: the metric's; None where it is unbounded (identical rows) or undefined.
        limit: what it may just reach.
        at_most: whether the limit is an upper one.
        passed: whether it holds.
        margin: how far the value is on the right side of the limit, in the metric's unit; negative if it is not.
        interval: 95 % interval of the value, where it has one.
    """

    name: str
    value: float | None
    limit: float
    at_most: bool
    passed: bool
    margin: float | None
    interval: Interval | None

    @property
    def uncertain(self) -> bool:
        """Whether the limit lies within the interval: other images might give the other answer."""
        return self.interval is not None and self.interval[0] < self.limit < self.interval[1]


def parse_gates(texts: Sequence[str], names: Collection[str] = GATEABLE, option: str = "--gate") -> dict[str, float]:
    """What ``NAME=VALUE`` texts ask for, to be laid over the defaults.

    Args:
        texts: what the user gave.
        names: metrics that can be asked for.
        option: what the user calls it.

    Raises:
        RequestError: no such metric, or no number.
    """
    gates = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if name in INFORMATION:
            raise RequestError(f"{option} {text}: {name} is for information and cannot gate; see docs/drift.md.")
        if name not in names or not separator:
            raise RequestError(
                f"{option} {text}: expected NAME=VALUE with NAME one of {', '.join(names)}. For example {option} "
                "invalid=3."
            )
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise RequestError(f"{option} {text}: {value!r} is not a finite number. For example {option} {name}=0.95.")
        gates[name] = limit
    return gates


def all_gates(asked: Mapping[str, float], *, labelled: bool) -> dict[str, float]:
    """The limits that apply: the defaults, those for decisions if there are labels, and what was asked on top."""
    return {**DEFAULT_GATES, **(DECISION_GATES if labelled else {}), **asked}


def apply_gates(
    metrics: Metrics,
    gates: Mapping[str, float],
    intervals: Mapping[str, Interval] | None = None,
    at_most: Collection[str] = AT_MOST,
) -> tuple[Gate, ...]:
    """Hold the metrics against the limits.

    A metric without a value passes where that means "no difference" (``sqnr_db`` of identical rows) or "too few
    rows to say" (neighbours, decisions); rows that are all invalid fail through ``invalid`` and everything else.

    Args:
        metrics: by name; those that are not there have no value.
        gates: limits by name.
        intervals: of the metrics that have one.
        at_most: metrics whose limit is an upper one.
    """
    nothing_valid = metrics["invalid"] == metrics["count"]
    applied = []
    for name, limit in gates.items():
        value, upper = metrics.get(name), name in at_most
        margin = None if value is None or not math.isfinite(value) else (limit - value if upper else value - limit)
        # An unbounded difference has no margin and holds no limit, whichever side the limit is on.
        passed = not nothing_valid if value is None else margin is not None and margin >= 0
        applied.append(Gate(name, value, limit, upper, passed, margin, (intervals or {}).get(name)))
    return tuple(applied)
