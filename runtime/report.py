"""The drift report: metrics, gates, verdict and worst inputs, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drift import DEFAULT_K, Drift, measure_drift
from .files import finite_json
from .gates import AT_MOST, Gate, apply_gates

SCHEMA = 1
WORST_ROWS = 5


@dataclass(frozen=True)
class DriftReport:
    """A judged comparison; ``worst`` holds (id, cosine) of the rows that moved most, None for invalid ones."""

    metrics: Drift
    gates: tuple[Gate, ...]
    worst: tuple[tuple[str, float | None], ...]
    candidate: Mapping[str, Any]
    reference: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """The report as the JSON object that scripts rely on."""
        value = {
            "schema": SCHEMA,
            "verdict": "pass" if self.passed else "fail",
            "candidate": dict(self.candidate),
            "reference": dict(self.reference),
            "data": dict(self.data),
            "metrics": asdict(self.metrics),
            "gates": [asdict(gate) for gate in self.gates],
            "worst": [{"id": name, "cosine": cosine} for name, cosine in self.worst],
        }
        finite: dict[str, Any] = finite_json(value)
        return finite


def build_report(
    candidate: NDArray[np.float32],
    reference: NDArray[np.float32],
    ids: Sequence[str],
    description: Mapping[str, Mapping[str, Any]],
    gates: Mapping[str, float],
    *,
    k: int = DEFAULT_K,
) -> DriftReport:
    """Measure paired embeddings and hold them against the gates.

    Args:
        candidate: (N, D) float32.
        reference: (N, D) float32, row by row the same images.
        ids: N texts.
        description: the ``candidate``, ``reference`` and ``data`` objects of the JSON.
        gates: limits by metric; see :mod:`embedlite.runtime.gates`.
        k: neighbours to compare.

    Raises:
        DataError, RequestError: see :func:`embedlite.runtime.drift.measure_drift`.
    """
    metrics, cosines = measure_drift(candidate, reference, k=k)
    # Invalid rows (NaN) are the worst of all; equal cosines keep the order of the data.
    order = np.argsort(np.where(np.isnan(cosines), -2.0, cosines), kind="stable")[:WORST_ROWS]
    worst = tuple((ids[i], None if np.isnan(cosines[i]) else float(cosines[i])) for i in order)
    return DriftReport(metrics, apply_gates(metrics, gates), worst, **description)


def render_report(report: DriftReport) -> str:
    """The report as text: the verdict first, the worst inputs last."""
    failed = [gate.name for gate in report.gates if not gate.passed]
    verdict = "PASS" if not failed else "FAIL (" + ", ".join(failed) + ")"
    lines = [
        f"{verdict}: {report.candidate['path']} against {report.reference['path']}, {report.metrics.count} images",
        "",
        f"{'metric':<20}{'value':>12}   gate",
    ]
    gates = {gate.name: gate for gate in report.gates}
    for name, value in asdict(report.metrics).items():
        if name in ("count", "k"):
            continue
        lines.append(f"{name:<20}{_number(value, name):>12}   {_gate(gates.get(name))}".rstrip())
    lines += ["", "worst inputs by cosine"]
    lines += [f"  {'invalid' if cosine is None else f'{cosine:.6f}':>9}  {name}" for name, cosine in report.worst]
    return "\n".join(lines)


def _number(value: float | None, name: str) -> str:
    if value is None:
        return "none"
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if name == "sqnr_db" else f"{value:.6f}"


def _gate(gate: Gate | None) -> str:
    if gate is None:
        return ""
    return f"{'<=' if gate.name in AT_MOST else '>='} {gate.limit:g}  {'ok' if gate.passed else 'FAILED'}"
