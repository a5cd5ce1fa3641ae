"""The table of normalizations: one row a kind, and one formula for all of them.

With x the raw embedding, and every extreme, sum and maximum over the axes of the specification::

    values  = x - min x    if the kind shifts, else x
    divisor = max or norm  of values (``shifted``), or of x (``input``)
    result  = values / guard(divisor)

``guard(d)`` is ``max(d, epsilon)``, ``d + epsilon`` or ``d``; a divisor that is still zero gives zeros. A kind is added
here and nowhere else: contracts, ``Encoder`` and its exact integers, recognition and guard in the graph, C source,
Keras layers, ``--replace-lambda`` and the tables of docs/normalization.md and docs/formats.md follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Division:
    """What is divided by.

    Attributes:
        formula: the whole normalization, as docs/normalization.md has it.
        epsilon: of the Keras layer unless it is given.
    """

    formula: str
    epsilon: float


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        name: in contracts.
        layer: the name of the Keras layer.
        shifts: whether the minimum is subtracted first.
        measure: what the divisor is: the largest value, or the Euclidean norm.
        divisors: by the name of what is measured: ``shifted`` (what is divided) or ``input`` (the raw embedding).
        axis: of the Keras layer unless it is given.
        reaches: the axes that ``--replace-lambda NAME-REACH`` knows; none if the kind's name alone says all.
    """

    name: str
    layer: str
    shifts: bool
    measure: Literal["max", "norm"]
    divisors: Mapping[str, Division]
    axis: str | int
    reaches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.shifts and self.measure == "norm":
            raise ValueError(f"{self.name}: a norm is taken of the values as they are, not of shifted ones.")

    @property
    def freezes(self) -> bool:
        """Whether the minimum and the maximum are all that it takes from an image."""
        return self.shifts and self.measure == "max"

    def signed(self, divisor: str) -> bool:
        """Whether that divisor may be negative."""
        return self.measure == "max" and not (self.shifts and divisor == "shifted")


REACHES: Mapping[str, str] = {
    "batch": "every axis",
    "channel": "every axis but the last",
    "sample": "every axis but the batch",
}
"""Names of axes, and what they mean."""

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                "minmax",
                "MinMaxNormalization",
                shifts=True,
                measure="max",
                divisors={
                    "shifted": Division("(x − min x) / max(max(x − min x), ε)", 1e-12),
                    "input": Division("(x − min x) / (max x + ε)", 0.0),
                },
                axis="sample",
                reaches=tuple(REACHES),
            ),
            Kind(
                "l2",
                "L2Normalization",
                shifts=False,
                measure="norm",
                divisors={"shifted": Division("x / max(‖x‖₂, ε)", 1e-6)},
                axis=-1,
            ),
        )
    }
)
"""The table, by name."""

NONE = "none"
"""What a contract says where the embedding is not normalized."""


def replacements() -> dict[str, tuple[str, dict[str, str]]]:
    """What ``--replace-lambda`` may put in a Lambda's place: by its name there, the layer and its settings."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for kind in KINDS.values():
        for place, divisor in enumerate(kind.divisors):
            suffix, settings = (f":{divisor}", {"divisor": divisor}) if place else ("", dict[str, str]())
            for reach in kind.reaches:
                found[f"{kind.name}-{reach}{suffix}"] = kind.layer, {"axes": reach, **settings}
            if not kind.reaches:
                found[f"{kind.name}{suffix}"] = kind.layer, settings
    return found
