"""The drift report: everything that was found, as an object and as the JSON that other people's scripts rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import finite_json
from .advice import Advice, advise, find_doubt, under_contract
from .compare import Measurement
from .decisions import (
    DEFAULT_FAR,
    Comparison,
    Decisions,
    decide,
    labelled_pairs,
    neighbour_pairs,
    score,
)
from .gates import Gate, Metrics, all_gates, apply_gates
from .intervals import Interval, bootstrap_intervals
from .labelled.parts import Breakdown, Grouping, break_down, row_figures
from .labelled.retrieval import Retrieval, equal_error_rates, measure_retrieval
from .metrics import METRICS, compute

SCHEMA = 1
WORST_ROWS = 5
SHOWN_NEIGHBOURS = 5

HISTOGRAM_EDGES = (0.0, *(10.0**power for power in np.arange(-8, 0.51, 0.25)))
"""Lower bounds of 1 - cosine; it is at most 2."""


@dataclass(frozen=True)
class Worst:
    """A row that moved far.

    Attributes:
        id: of the image.
        cosine: None for an invalid row.
        reference_neighbours: ids that the reference finds for it, the nearest first; empty if it did not search.
        candidate_neighbours: ids that the candidate finds for it in the reference's gallery.
    """

    id: str
    cosine: float | None
    reference_neighbours: tuple[str, ...] = ()
    candidate_neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriftReport:
    """A judged comparison; docs/drift.md explains each part.

    Attributes:
        candidate, reference, data, environment: what was compared, on what, by what.
        metrics: figures by name; None where one has no value, infinite where it is unbounded.
        intervals: 95 % intervals by metric.
        gates: the limits, applied.
        doubt: why figures that hold every limit say nothing, see :func:`embedlite.runtime.drift.advice.find_doubt`.
        advice: what to do.
        decisions: at the verification threshold; None where there were too few pairs.
        retrieval: what retrieval loses, where there are labels.
        parts: who pays, by class and by group.
        neighbours: overlap by number of neighbours; None where there were too few rows.
        histogram: of 1 - cosine.
        dimensions: bias and gain of each, and which are dead.
        worst: the rows that moved most, invalid ones first.
        ladder, layers: where the drift comes from, if that was asked for.
        preprocessing: which part of the drift it is, where the reference is stored vectors of the same images.
        silent: which vectors of both sides say nothing, see :class:`embedlite.runtime.drift.silent.Silent`.
        preprocess: whether the contract does what the user's own preprocessing does, if that was asked for.
        other_workers: the drift of workers that differ from the machine, if that was asked for.
    """

    candidate: Mapping[str, Any]
    reference: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Metrics
    intervals: Mapping[str, Interval]
    gates: tuple[Gate, ...]
    doubt: str | None
    advice: Advice
    decisions: Decisions | None
    retrieval: Retrieval | None
    parts: tuple[Breakdown, ...]
    neighbours: Mapping[str, Any] | None
    histogram: Mapping[str, Any]
    dimensions: Mapping[str, Any]
    worst: tuple[Worst, ...]
    ladder: Sequence[Mapping[str, Any]] | None = None
    layers: Sequence[Mapping[str, Any]] | None = None
    preprocessing: Mapping[str, Any] | None = None
    silent: Mapping[str, Any] | None = None
    preprocess: Mapping[str, Any] | None = None
    other_workers: Sequence[Mapping[str, Any]] | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate holds, and that says something."""
        return self.verdict == "pass"

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, or ``undecided`` where every gate holds and the reference does not vary."""
        if not all(gate.passed for gate in self.gates):
            return "fail"
        return "pass" if self.doubt is None else "undecided"

    @property
    def identical(self) -> bool:
        """Whether all rows are the same, so that there is no noise."""
        return self.metrics.get("max_abs") == 0 and self.metrics["invalid"] == 0

    @property
    def noun(self) -> str:
        """What one input is called: an image, as long as no model says otherwise; vectors alone do not tell."""
        return _noun(self.candidate, self.reference)

    def judge(self, gates: Mapping[str, float]) -> DriftReport:
        """The same figures under the default gates with others on top."""
        labelled = self.decisions is not None and self.decisions.truth == "labels"
        applied = apply_gates(self.metrics, all_gates(gates, labelled=labelled), self.intervals)
        advice = advise(applied, self.metrics, self.decisions, self.doubt, self.noun)
        return replace(self, gates=applied, advice=under_contract(advice, self.candidate, self.reference))

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        value = {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "doubt": self.doubt,
            "advice": asdict(self.advice),
            "candidate": dict(self.candidate),
            "reference": dict(self.reference),
            "data": dict(self.data),
            "environment": dict(self.environment),
            "metrics": dict(self.metrics),
            "intervals": dict(self.intervals),
            "gates": [asdict(gate) for gate in self.gates],
            "decisions": None if self.decisions is None else _decisions_to_json(self.decisions),
            "retrieval": None if self.retrieval is None else self.retrieval.to_json(),
            "parts": [breakdown.to_json() for breakdown in self.parts],
            "neighbours": self.neighbours,
            "histogram": dict(self.histogram),
            "dimensions": dict(self.dimensions),
            "worst": [asdict(row) for row in self.worst],
            "ladder": self.ladder,
            "layers": self.layers,
            "preprocessing": self.preprocessing,
            "silent": self.silent,
            "preprocess": self.preprocess,
            "other_workers": self.other_workers,
        }
        finite: dict[str, Any] = finite_json(value)
        return finite

    @classmethod
    def from_json(cls, value: Any) -> DriftReport:
        """A saved report.

        Raises:
            DataError: another schema, or not a whole report.
        """
        if not isinstance(value, dict) or "schema" not in value:
            raise DataError("it is no drift report: there is no schema. Make one with drift-report --json.")
        if value["schema"] != SCHEMA:
            raise DataError(
                f"its schema is {value['schema']!r}, and this version reads {SCHEMA}. Make the report again with this "
                "version, or judge it with the one that made it."
            )
        try:
            intervals = {name: (float(low), float(high)) for name, (low, high) in value["intervals"].items()}
            return cls(
                candidate=dict(value["candidate"]),
                reference=dict(value["reference"]),
                data=dict(value["data"]),
                environment=dict(value["environment"]),
                metrics=_metrics_from_json(value["metrics"]),
                intervals=intervals,
                gates=tuple(Gate(**{**gate, "interval": intervals.get(gate["name"])}) for gate in value["gates"]),
                doubt=None if value["doubt"] is None else str(value["doubt"]),
                advice=Advice.from_json(value["advice"]),
                decisions=None if value["decisions"] is None else _decisions_from_json(value["decisions"]),
                retrieval=None if value["retrieval"] is None else Retrieval.from_json(value["retrieval"]),
                parts=tuple(Breakdown.from_json(part) for part in value["parts"]),
                neighbours=value["neighbours"],
                histogram=dict(value["histogram"]),
                dimensions=dict(value["dimensions"]),
                worst=tuple(
                    Worst(row["id"], row["cosine"], *(tuple(row[f"{side}_neighbours"]) for side in _SIDES))
                    for row in value["worst"]
                ),
                ladder=value["ladder"],
                layers=value["layers"],
                preprocessing=value["preprocessing"],
                silent=value["silent"],
                preprocess=value["preprocess"],
                other_workers=value["other_workers"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"it is not a whole drift report ({type(error).__name__}: {error}). Make it again with --json."
            ) from error


_SIDES = ("reference", "candidate")


def _metrics_from_json(saved: Mapping[str, Any]) -> dict[str, float | None]:
    if not isinstance(saved["count"], int) or not isinstance(saved["invalid"], int):
        raise ValueError("count and invalid are whole numbers")
    for name, value in saved.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"metric {name} is {value!r}")
    moved = bool(saved["max_abs"])
    return {
        name: METRICS[name].unbounded if value is None and moved and name in METRICS else value
        for name, value in saved.items()
    }


def _decisions_to_json(decisions: Decisions) -> dict[str, Any]:
    value = asdict(decisions)
    value["self"] = value.pop("own")
    return value


def _decisions_from_json(saved: Mapping[str, Any]) -> Decisions:
    value = dict(saved)
    own, cross = Comparison(**value.pop("self")), Comparison(**value.pop("cross"))
    return Decisions(**{**value, "own": own, "cross": cross})


@dataclass(frozen=True)
class Description:
    """What is known of both sides besides their rows; the objects of the JSON.

    Attributes:
        ids: (N,) one text a row.
        labels: (N,) one number a class, if the images have labels.
        groupings: classes, and other groups such as cameras.
        clusters: (N,) one number for all images that belong together, such as crops of one photo.
    """

    candidate: Mapping[str, Any]
    reference: Mapping[str, Any]
    data: Mapping[str, Any]
    ids: Sequence[str] | NDArray[np.str_]
    environment: Mapping[str, Any] = field(default_factory=dict)
    labels: NDArray[np.intp] | None = None
    clusters: NDArray[np.intp] | None = None
    groupings: Sequence[Grouping] = ()


def _noun(*sides: Mapping[str, Any]) -> str:
    kinds = [contract["input"].get("kind", "image") for side in sides if (contract := side.get("contract")) is not None]
    return "image" if all(kind == "image" for kind in kinds) else "input"


def build_report(
    measurement: Measurement, description: Description, gates: Mapping[str, float], *, far: float | None = None
) -> DriftReport:
    """Hold what was measured against the gates.

    Args:
        measurement: of paired rows.
        description: what the rows are.
        gates: limits by metric, on top of the defaults.
        far: the false accept rate of the verification threshold; default :data:`DEFAULT_FAR`.
    """
    drift = measurement.drift
    metrics: dict[str, float | None] = {**dict.fromkeys(METRICS), **asdict(drift)}
    intervals = bootstrap_intervals(measurement)
    decisions, retrieval, decided = None, None, None
    kept = np.flatnonzero(measurement.valid)
    pairs = None
    if description.labels is not None and len(kept):
        pairs = labelled_pairs(description.labels[kept])
    elif measurement.neighbours is not None:
        pairs = neighbour_pairs(measurement.neighbours)
    if pairs is not None and len(pairs.first):
        scores = score(pairs, measurement.candidate, measurement.reference)
        impostors = ~pairs.genuine
        if impostors.any():
            metrics.update(compute("similarities", (scores.reference[impostors], scores.own[impostors])))
        decisions = decide(pairs, scores, far)
        if decisions is not None:
            metrics.update(compute("decisions", decisions))
            intervals.update(decisions.intervals)
            decided = pairs, scores, decisions
        if description.labels is not None and measurement.neighbours is not None:
            clusters = None if description.clusters is None else description.clusters[kept]
            retrieval = measure_retrieval(
                measurement.candidate, measurement.reference, description.labels[kept], measurement.neighbours, clusters
            )
            if retrieval is not None:
                retrieval = retrieval.with_figure("eer", equal_error_rates(pairs, scores, clusters))
                metrics.update(compute("retrieval", retrieval))
                intervals.update(retrieval.intervals)
    labelled = decisions is not None and decisions.truth == "labels"
    applied = apply_gates(metrics, all_gates(gates, labelled=labelled), intervals)
    noun = _noun(description.candidate, description.reference)
    doubt = find_doubt(measurement, noun)
    return DriftReport(
        candidate=description.candidate,
        reference=description.reference,
        data=description.data,
        environment=description.environment,
        metrics=metrics,
        intervals=intervals,
        gates=applied,
        doubt=doubt,
        advice=under_contract(
            advise(applied, metrics, decisions, doubt, noun), description.candidate, description.reference
        ),
        decisions=decisions,
        retrieval=retrieval,
        parts=tuple(
            break_down(grouping.only(kept), row_figures(measurement, decided))
            for grouping in description.groupings
            if len(kept)
        ),
        neighbours=_neighbours(measurement),
        histogram=_histogram(measurement.cosines[kept]),
        dimensions=_dimensions(measurement),
        worst=_worst(measurement, description.ids),
    )


def _neighbours(measurement: Measurement) -> dict[str, Any] | None:
    found = measurement.neighbours
    if found is None:
        return None
    return {
        "k": list(found.k),
        "self": found.kept_self.mean(axis=0).tolist(),
        "cross": found.kept_cross.mean(axis=0).tolist(),
        "queries": len(found.queries),
        "gallery": found.gallery,
    }


def _histogram(cosines: NDArray[np.float64]) -> dict[str, Any]:
    counts, _ = np.histogram(1 - cosines, [*HISTOGRAM_EDGES[:-1], max(2.0, HISTOGRAM_EDGES[-1])])
    return {"edges": [*HISTOGRAM_EDGES[:-1], max(2.0, HISTOGRAM_EDGES[-1])], "counts": counts.tolist()}


def _dimensions(measurement: Measurement) -> dict[str, Any]:
    if measurement.moments is None:
        return {"bias_sigma": [], "gain": [], "dead": []}
    (bias,), (gain,), _, _ = measurement.moments.dimensions()
    return {"bias_sigma": bias.tolist(), "gain": gain.tolist(), "dead": measurement.moments.dead().tolist()}


def _worst(measurement: Measurement, ids: Sequence[str] | NDArray[np.str_]) -> tuple[Worst, ...]:
    # Invalid rows (NaN) are the worst of all; equal cosines keep the order of the data.
    ranked = np.where(np.isnan(measurement.cosines), -2.0, measurement.cosines)
    order = np.argsort(ranked, kind="stable")[:WORST_ROWS]
    kept = np.flatnonzero(measurement.valid)
    found = measurement.neighbours
    rows = []
    for row in order:
        cosine = measurement.cosines[row]
        names: list[tuple[str, ...]] = [(), ()]
        if found is not None and measurement.valid[row]:
            place = np.flatnonzero(kept[found.queries] == row)
            if len(place):
                names = [
                    tuple(str(ids[kept[near]]) for near in side[place[0], :SHOWN_NEIGHBOURS])
                    for side in (found.reference, found.candidate)
                ]
        rows.append(Worst(str(ids[row]), None if np.isnan(cosine) else float(cosine), *names))
    return tuple(rows)


__all__ = ["DEFAULT_FAR", "SCHEMA", "Description", "DriftReport", "Worst", "build_report"]
