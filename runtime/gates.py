"""Limits on drift metrics, and whether they hold.

The defaults are deliberately few: rows that are broken outright, the tail of the cosine, the noise power, and
the neighbours that a stored float gallery would lose. Sources and reasons: docs/drift.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .drift import Drift
from .errors import RequestError

AT_MOST = frozenset({"invalid", "max_abs", "bias_max_sigma"})
"""Metrics that must not exceed their limit; all others must not fall below it."""

GATEABLE = tuple(name for name in Drift.__dataclass_fields__ if name not in ("count", "k"))

DEFAULT_GATES: Mapping[str, float] = {
    "invalid": 0,
    "cosine_p1": 0.98,
    "sqnr_db": 20.0,
    "knn_overlap_cross": 0.90,
}


@dataclass(frozen=True)
class Gate:
    """One limit, applied. ``value`` is None where the metric is unbounded (identical rows) or undefined."""

    name: str
    value: float | None
    limit: float
    passed: bool


def parse_gates(texts: Sequence[str]) -> dict[str, float]:
    """The default gates, with ``NAME=VALUE`` texts replacing or adding.

    Raises:
        RequestError: no such metric, or no number.
    """
    gates = dict(DEFAULT_GATES)
    for text in texts:
        name, separator, value = text.partition("=")
        if name not in GATEABLE or not separator:
            raise RequestError(
                f"--gate {text}: expected NAME=VALUE with NAME one of {', '.join(GATEABLE)}. "
                "For example --gate cosine_min=0.95."
            )
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise RequestError(f"--gate {text}: {value!r} is no finite number. For example --gate {name}=0.95.")
        gates[name] = limit
    return gates


def apply_gates(drift: Drift, gates: Mapping[str, float]) -> tuple[Gate, ...]:
    """Hold the metrics against the limits.

    A metric without a value passes where that means "no difference" (``sqnr_db`` of identical rows) or "too few
    rows to say" (neighbours); rows that are all invalid fail through ``invalid`` and everything else.
    """
    values = asdict(drift)
    nothing_valid = drift.invalid == drift.count
    applied = []
    for name, limit in gates.items():
        applied.append(Gate(name, values[name], limit, _holds(name, values[name], limit, nothing_valid)))
    return tuple(applied)


def _holds(name: str, value: float | None, limit: float, nothing_valid: bool) -> bool:
    if value is None:
        return not nothing_valid
    if not math.isfinite(value):
        # An unbounded difference holds no limit, whichever side the limit is on.
        return False
    return value <= limit if name in AT_MOST else value >= limit
