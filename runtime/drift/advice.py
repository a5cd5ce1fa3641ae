"""What to do, in plain words: ship, ship with another threshold, embed the gallery anew, or do not ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .decisions import Comparison, Decisions
from .gates import Gate, Metrics

Action = Literal["ship", "ship-with-threshold", "re-embed-gallery", "do-not-ship"]

HEADLINES: dict[str, str] = {
    "ship": "ship as is: stored float vectors and thresholds stay valid",
    "ship-with-threshold": "ship with threshold {threshold:.6f}: stored float vectors stay valid, the old one does not",
    "re-embed-gallery": "re-embed the gallery with this file: its vectors fit each other, not the stored float ones",
    "do-not-ship": "do not ship",
}

_BROKEN = {"invalid", "dead_dimensions"}
_THRESHOLD = {"far_ratio", "tar_loss"}


@dataclass(frozen=True)
class Advice:
    """What to do, and why.

    Attributes:
        action: one of four.
        threshold: the cosine above which the candidate's pairs are to be accepted; None where it does not change or
            nothing was decided.
        why: plain sentences.
    """

    action: Action
    threshold: float | None
    why: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The action in one line."""
        return HEADLINES[self.action].format(threshold=self.threshold)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Advice:
        """The advice of a saved report."""
        return cls(value["action"], value["threshold"], tuple(value["why"]))


def advise(gates: Sequence[Gate], metrics: Metrics, decisions: Decisions | None) -> Advice:
    """What the gates and the decisions say together.

    A gallery that is embedded anew is worth it if the candidate's own vectors find the neighbours (``knn_overlap_self``
    holds the limit of ``knn_overlap_cross``) and decide as well at a threshold of their own (``tar_loss`` holds its
    limit there).
    """
    limits = {gate.name: gate for gate in gates}
    failed = [gate for gate in gates if not gate.passed]
    broken = [gate for gate in failed if gate.name in _BROKEN]
    doubts = tuple(
        f"{gate.name} is close: its limit {gate.limit:g} lies within the interval; more images would tell."
        for gate in gates
        if gate.uncertain
    )
    if not failed:
        return Advice("ship", None, ("every gate holds.", *doubts))
    reasons = tuple(_reason(gate) for gate in failed)
    if broken:
        return Advice("do-not-ship", None, reasons)
    if decisions is not None and all(gate.name in _THRESHOLD for gate in failed):
        cross = decisions.cross
        if _decides_well(cross, decisions, limits):
            return Advice(
                "ship-with-threshold",
                cross.threshold_restored,
                (*reasons, f"at {cross.threshold_restored:.6f} instead of {decisions.threshold:.6f} {_rates(cross)}."),
            )
    wanted, own = limits.get("knn_overlap_cross"), metrics.get("knn_overlap_self")
    finds = wanted is not None and own is not None and own >= wanted.limit
    if finds and (decisions is None or _decides_well(decisions.own, decisions, limits)):
        threshold = None if decisions is None else decisions.own.threshold_restored
        why = f"among themselves its vectors keep {own:.1%} of the neighbours"
        if decisions is not None:
            why += f", and at a threshold of {threshold:.6f} {_rates(decisions.own)}"
        return Advice("re-embed-gallery", threshold, (*reasons, f"{why}."))
    return Advice("do-not-ship", None, reasons)


def _decides_well(side: Comparison, decisions: Decisions, limits: dict[str, Gate]) -> bool:
    allowed = limits["tar_loss"].limit if "tar_loss" in limits else 0.0
    return decisions.tar_float - side.tar_restored <= allowed


def _rates(side: Comparison) -> str:
    return f"as few impostors are accepted as by the float model, and {side.tar_restored:.1%} of the genuine pairs"


def _reason(gate: Gate) -> str:
    if gate.value is None:
        return f"{gate.name} has no value: no row is valid."
    side = "above" if gate.at_most else "below"
    return f"{gate.name} is {gate.value:.4g}, {side} its limit of {gate.limit:g}."
