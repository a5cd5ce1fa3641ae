"""Small paired embeddings, and reports made of them."""

from typing import Any

import numpy as np

from embedlite.runtime.drift import measure
from embedlite.runtime.drift.report import Description, DriftReport, build_report
from embedlite.runtime.drift.rows import Rows

ROWS, SIZE = 60, 12
CANDIDATE = {"path": "a.tflite", "kind": "tflite", "sha256": "ab" * 32}
REFERENCE = {"path": "b.npz", "kind": "stored", "sha256": "cd" * 32}
IDS = [f"image {row}" for row in range(ROWS)]


def pair(noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Candidate and reference embeddings, the first with this much noise."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(ROWS, SIZE)).astype(np.float32)
    return reference + noise * rng.normal(size=reference.shape).astype(np.float32), reference


def describe(count: int = ROWS, labels: np.ndarray | None = None) -> Description:
    """What a report says of its two sides."""
    ids = [f"image {row}" for row in range(count)]
    return Description(CANDIDATE, REFERENCE, {"path": None, "count": count}, ids, {"numpy": "1"}, labels)


def report(candidate: np.ndarray, reference: np.ndarray, *, k: int = 5, **gates: float) -> DriftReport:
    """The report on two arrays, with these gates on top of the defaults."""
    return build_report(measure(Rows(candidate), Rows(reference), k), describe(len(reference)), gates)


def labelled_report(candidate: np.ndarray, reference: np.ndarray, labels: np.ndarray, **options: Any) -> DriftReport:
    """The same with labels."""
    return build_report(measure(Rows(candidate), Rows(reference), 5), describe(len(labels), labels), {}, **options)


def failed(made: DriftReport) -> set[str]:
    """The gates that do not hold."""
    return {gate.name for gate in made.gates if not gate.passed}
