"""Limits on a fleet's metrics: the drift report's, as far as a fleet's files have the metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from ..gates import DEFAULT_GATES
from .references import PAIRED

PAIRED_GATES = {name: limit for name, limit in DEFAULT_GATES.items() if not name.startswith("knn_")}
"""For files made beside a model; neighbours need the vectors themselves."""

UNPAIRED_GATES = {"invalid": 0, "psi_mean": 0.25}
"""For files made beside a distribution; 0.25 is the usual limit of the stability index, see :mod:`.unpaired`."""

AT_LEAST = frozenset({"cosine_mean", "cosine_p1", "cosine_min", "sqnr_db", "norm_ratio_mean", "spread_ratio_min"})
"""Metrics that must not fall below their limit; all others must not exceed it."""

_NO_GATE = frozenset({"count", "psi_expected", "score_p99_reference"})


@dataclass(frozen=True)
class FleetGate:
    """One limit, applied. ``value`` is None where the metric has none, or is unbounded."""

    name: str
    value: float | None
    limit: float
    passed: bool


def apply_limits(metrics: Mapping[str, float | None], kind: str, texts: Sequence[str]) -> tuple[FleetGate, ...]:
    """The default limits of a kind of reference, with ``NAME=VALUE`` texts replacing or adding.

    Args:
        metrics: of the fleet.
        kind: ``model`` or ``distribution``.
        texts: what the user asked for.

    Raises:
        RequestError: no such metric in these files, or no number.
    """
    limits: dict[str, float] = dict(PAIRED_GATES if kind == PAIRED else UNPAIRED_GATES)
    names = [name for name in metrics if name not in _NO_GATE]
    for text in texts:
        name, separator, value = text.partition("=")
        if name not in names or not separator:
            raise RequestError(
                f"--gate {text}: expected NAME=VALUE with NAME one of {', '.join(names)}, which is what the files of "
                f"monitors with a {kind} as reference tell. For example --gate invalid=3."
            )
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = math.nan
        if not math.isfinite(limits[name]):
            raise RequestError(f"--gate {text}: {value!r} is no finite number. For example --gate {name}=0.9.")
    nothing_valid = metrics["count"] == metrics["invalid"]
    return tuple(
        FleetGate(name, metrics[name], limit, _holds(name, metrics[name], limit, nothing_valid))
        for name, limit in limits.items()
    )


def _holds(name: str, value: float | None, limit: float, nothing_valid: bool) -> bool:
    if value is None:
        # Identical rows have no noise to speak of; rows that are all broken have no metric at all.
        return not nothing_valid
    if not math.isfinite(value):
        return False
    return value >= limit if name in AT_LEAST else value <= limit
