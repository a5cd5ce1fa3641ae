"""What to do, in plain words: ship, ship with another threshold, embed the gallery again, or do not ship.

Every clause of the headline names the figure that it rests on; a clause that the figures do not carry is not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..model.contract import InputContract
from ..model.origin import explain_assumed
from .compare import Measurement
from .decisions import Comparison, Decisions
from .gates import Gate, Metrics
from .rows import constant_rows
from .silent import have_collapsed

Action = Literal["ship", "ship-with-threshold", "re-embed-gallery", "do-not-ship", "cannot-tell"]

MOST_FALSE_ACCEPTS = 1.25
"""The threshold of the float model stays valid while the upper 95 % limit of the candidate's false accept rate there is
at most so many times the float model's, and"""

MOST_FALSE_REJECTS = 0.01
"""that of its false reject rate is at most so much above the float model's: one genuine pair in a hundred."""

LEAST_SPREAD = 1e-6
"""The root of the reference's variance as a share of its length; below this it is float32's rounding."""

_BROKEN = {"invalid", "dead_dimensions"}
_THRESHOLD = {"far_ratio", "tar_loss"}


@dataclass(frozen=True)
class Advice:
    """What to do, and why.

    Attributes:
        action: one of five.
        threshold: the cosine above which the candidate's pairs are to be accepted; None where it does not change or
            nothing was decided.
        headline: the action in one line, with the figures that it rests on.
        why: plain sentences.
    """

    action: Action
    threshold: float | None
    headline: str
    why: tuple[str, ...]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Advice:
        """The advice of a saved report."""
        return cls(value["action"], value["threshold"], value["headline"], tuple(value["why"]))


def find_doubt(measurement: Measurement, noun: str = "image") -> str | None:
    """Why figures that hold every limit say nothing about the candidate; None where they do say something.

    A reference that gives the same embedding for everything, or embeddings without a direction, is matched by a
    candidate that computes nothing.

    Args:
        measurement: of the rows.
        noun: what one input is called.
    """
    reference, moments = measurement.reference, measurement.moments
    if moments is None:
        return None
    if len(reference) == 1:
        return f"a single {noun} was compared, and whether the candidate tells {noun}s apart takes several"
    length = float(measurement.signal[measurement.valid].sum()) / len(reference)
    if moments.variance <= LEAST_SPREAD**2 * length:
        kind = "an embedding of zeros" if length == 0 else "the same embedding"
        return f"the reference gives {kind} for all {len(reference)} {noun}s"
    if all(constant_rows(reference.take(part)).all() for part in reference.slices()):
        return "every embedding of the reference is zero or constant, so none has a direction"
    if have_collapsed(reference):
        return f"the reference has collapsed: its {len(reference)} embeddings have one direction but for rounding"
    return None


def advise(
    gates: Sequence[Gate],
    metrics: Metrics,
    decisions: Decisions | None,
    doubt: str | None = None,
    noun: str = "image",
) -> Advice:
    """What the gates and the decisions say together.

    A gallery that is embedded again is worth it if the candidate's own vectors find the neighbours
    (``knn_overlap_self`` holds the limit of ``knn_overlap_cross``) and decide as well at a threshold of their own
    (``tar_loss`` holds its limit there).

    Args:
        gates: the limits, applied.
        metrics: by name.
        decisions: at the verification threshold, if there are any.
        doubt: why the figures say nothing, see :func:`find_doubt`.
        noun: what one input is called.
    """
    limits = {gate.name: gate for gate in gates}
    failed = [gate for gate in gates if not gate.passed]
    doubts = tuple(
        f"{gate.name} is close: its limit {gate.limit:g} lies within the interval; more {noun}s would tell."
        for gate in gates
        if gate.uncertain
    )
    reasons = tuple(_reason(gate) for gate in failed) or ("every gate holds.", *doubts)
    refused = Advice("do-not-ship", None, "do not ship: " + ", ".join(_figure(gate) for gate in failed), reasons)
    if not failed and doubt is not None:
        headline = f"cannot tell: {doubt}"
        return Advice("cannot-tell", None, headline, (f"compare {noun}s that the reference tells apart.",))
    if not failed:
        return _ship(metrics, decisions, reasons)
    if doubt is not None or any(gate.name in _BROKEN for gate in failed):
        return refused
    only_thresholds = all(gate.name in _THRESHOLD for gate in failed)
    if decisions is not None and only_thresholds and _decides_well(decisions.cross, decisions, limits):
        return _with_threshold(metrics, decisions, reasons)
    wanted, own = limits.get("knn_overlap_cross"), metrics.get("knn_overlap_self")
    finds = wanted is not None and own is not None and own >= wanted.limit
    if finds and (decisions is None or _decides_well(decisions.own, decisions, limits)):
        return _again(own, metrics.get("knn_overlap_cross"), decisions, reasons)
    return refused


def under_contract(advice: Advice, candidate: Mapping[str, Any], reference: Mapping[str, Any]) -> Advice:
    """The advice, with what a good answer does not say: that both sides were fed through one contract.

    Vectors that somebody stored were fed otherwise, so that comparing with them checks the contract.

    Args:
        advice: what to do.
        candidate: what the report says of it; its ``contract`` with ``input`` and ``origins`` where it is a model.
        reference: likewise, with its ``kind``.
    """
    contract = candidate.get("contract")
    if contract is None or reference.get("kind") == "stored" or advice.action in ("do-not-ship", "cannot-tell"):
        return advice
    assumed = explain_assumed(InputContract.from_json(contract["input"]), contract["origins"])
    if not assumed:
        return advice
    said = f"{advice.headline}; candidate and reference are compared under one contract, of which {assumed}"
    return replace(advice, headline=said)


def _ship(metrics: Metrics, decisions: Decisions | None, reasons: tuple[str, ...]) -> Advice:
    kept = _kept(metrics)
    if decisions is None:
        return Advice("ship", None, f"ship: {kept}; thresholds were not looked at, for want of pairs", reasons)
    accepts, rejects = decisions.far_ratio_upper, decisions.tar_loss_upper
    if accepts <= MOST_FALSE_ACCEPTS and rejects <= MOST_FALSE_REJECTS:
        figures = f"{_accepts(accepts)}, {_rejects(rejects)}"
        return Advice("ship", None, f"ship as is: {kept}, thresholds stay valid ({figures})", _told(decisions, reasons))
    return _with_threshold(metrics, decisions, reasons)


def _with_threshold(metrics: Metrics, decisions: Decisions, reasons: tuple[str, ...]) -> Advice:
    side, accepts, rejects = decisions.cross, decisions.far_ratio_upper, decisions.tar_loss_upper
    moved = side.far > MOST_FALSE_ACCEPTS * decisions.far_float or decisions.tar_float - side.tar > MOST_FALSE_REJECTS
    beyond = [
        *([_accepts(accepts)] if accepts > MOST_FALSE_ACCEPTS else []),
        *([_rejects(rejects)] if rejects > MOST_FALSE_REJECTS else []),
    ]
    threshold = side.threshold_restored
    headline = (
        f"ship with threshold {threshold:.6f}: {_kept(metrics)}, the old threshold {decisions.threshold:.6f} "
        f"{'does not' if moved else 'may not'} ({', '.join(beyond) or 'its gates fail'})"
    )
    return Advice("ship-with-threshold", threshold, headline, (_cost(side, decisions), *_told(decisions, reasons)))


def _again(own: float | None, cross: float | None, decisions: Decisions | None, reasons: tuple[str, ...]) -> Advice:
    headline = f"re-embed the gallery with this file: among themselves its vectors keep {own:.1%} of the neighbours"
    if cross is not None:
        headline += f", in the stored float gallery {cross:.1%}"
    if decisions is None:
        return Advice("re-embed-gallery", None, headline, reasons)
    cost = _cost(decisions.own, decisions)
    return Advice("re-embed-gallery", decisions.own.threshold_restored, headline, (cost, *_told(decisions, reasons)))


def _kept(metrics: Metrics) -> str:
    """The clause about the stored gallery, with the figure that there is."""
    neighbours, cosine = metrics.get("knn_overlap_cross"), metrics.get("cosine_p1")
    if neighbours is not None:
        return f"stored float vectors stay valid ({neighbours:.1%} of their neighbours are found)"
    return "stored float vectors stay valid" + ("" if cosine is None else f" (cosine_p1 {cosine:.5f})")


def _accepts(ratio: float) -> str:
    return f"up to {ratio:.2f} times as many false accepts"


def _rejects(more: float) -> str:
    return f"up to {max(more, 0):.1%} more genuine pairs rejected"


def _cost(side: Comparison, decisions: Decisions) -> str:
    return (
        f"at threshold {side.threshold_restored:.6f} as few impostors are accepted as by the float model, and "
        f"{side.tar_restored:.1%} of the genuine pairs; by the float model {decisions.tar_float:.1%}."
    )


def _told(decisions: Decisions, reasons: tuple[str, ...]) -> tuple[str, ...]:
    if decisions.truth == "labels":
        return reasons
    return (*reasons, "nearest neighbours are taken for genuine pairs; --labels FILE says which are.")


def _decides_well(side: Comparison, decisions: Decisions, limits: dict[str, Gate]) -> bool:
    allowed = limits["tar_loss"].limit if "tar_loss" in limits else 0.0
    return decisions.tar_float - side.tar_restored <= allowed


def _figure(gate: Gate) -> str:
    if gate.value is None:
        return f"{gate.name} has no value"
    return f"{gate.name} {gate.value:.4g} ({'at most' if gate.at_most else 'at least'} {gate.limit:g})"


def _reason(gate: Gate) -> str:
    if gate.value is None:
        return f"{gate.name} has no value: no row is valid."
    side = "above" if gate.at_most else "below"
    return f"{gate.name} is {gate.value:.4g}, {side} its limit of {gate.limit:g}."
