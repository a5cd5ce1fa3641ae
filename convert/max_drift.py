"""``--max-drift``: limits on the drift of the file that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..runtime.drift import Drift
from ..runtime.drift.gates import AT_MOST, DEFAULT_GATES, INFORMATION, Gate, apply_gates, parse_gates
from ..runtime.drift.metrics import OF_ROWS
from ..runtime.drift.wording import UNMEASURED
from ..runtime.errors import RequestError

LEAST_IMAGES = 40
"""Calibration images with which a search is worth its time."""

METRICS = tuple(name for name in OF_ROWS if name not in INFORMATION)
"""What can be limited: the metrics that are measured of every file."""


@dataclass(frozen=True)
class Budget:
    """Limits on drift metrics; without any it is kept by every file.

    Attributes:
        limits: by metric; see :data:`embedlite.runtime.drift.gates.AT_MOST` for those that are upper ones.
    """

    limits: Mapping[str, float]

    def missed(self, drift: Drift) -> tuple[Gate, ...]:
        """The limits that a drift does not keep."""
        return tuple(gate for gate in apply_gates(asdict(drift), self.limits) if not gate.passed)

    def kept(self, drift: Drift) -> bool:
        """Whether a drift keeps all limits."""
        return not self.missed(drift)

    def __str__(self) -> str:
        return ", ".join(limit_text(name, limit) for name, limit in self.limits.items())


def required_of_shipped(budget: Budget | None) -> Budget:
    """What a file must keep to be recommended: the default gates, with the limits asked for laid over them."""
    return Budget({**DEFAULT_GATES, **({} if budget is None else budget.limits)})


def missed_text(gates: Sequence[Gate]) -> str:
    """Gates that do not hold, briefly: ``sqnr_db 12 (at least 20)``."""
    return ", ".join(
        f"{gate.name} {UNMEASURED if gate.value is None else f'{gate.value:.4g}'} "
        f"({'at most' if gate.at_most else 'at least'} {gate.limit:g})"
        for gate in gates
    )


def parse_budget(texts: Sequence[str]) -> Budget:
    """Limits from ``METRIC=VALUE`` texts.

    Raises:
        RequestError: no such metric, or no number.
    """
    return Budget(parse_gates(texts, METRICS, "--max-drift"))


def limit_text(name: str, limit: float) -> str:
    """A limit as people write it: ``sqnr_db >= 30``."""
    return f"{name} {'<=' if name in AT_MOST else '>='} {limit:g}"


def check_enough_images(count: int) -> None:
    """Refuse to search with so few images that chance would decide.

    Args:
        count: calibration images, without those that are test data.

    Raises:
        RequestError: they are too few; the message says how many are needed.
    """
    if count < LEAST_IMAGES:
        raise RequestError(
            f"a search for the least drift needs {LEAST_IMAGES} calibration images or more, and there are {count} "
            "(without those that are test data). Pass more images with --calibration-data, or leave --pareto and "
            "--max-drift out."
        )
