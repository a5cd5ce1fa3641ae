"""How figures are written: on the terminal, in tables, on the page and in sentences; one fact has one wording."""

from __future__ import annotations

import math

from .metrics import METRICS

IDENTICAL = "identical"
"""No difference at all: there is no noise, so there is no SQNR."""

UNMEASURED = "–"
"""A figure that was not measured, or that has no value for these rows."""

ACTIONS = {
    "ship": "Ship as is",
    "ship-with-threshold": "Ship with another threshold",
    "re-embed-gallery": "Re-embed the gallery",
    "do-not-ship": "Do not ship",
    "cannot-tell": "Cannot tell",
}

RETRIEVAL = {
    **{f"recall_at_{count}": f"recall@{count}" for count in (1, 5, 10)},
    "map": "mAP",
    "knn_accuracy": "k-NN accuracy",
    "eer": "EER",
}
"""What figures of retrieval are called."""

PARTS = {
    "drift": "drift (1 - cosine)",
    "neighbours_lost": "neighbours lost",
    "genuine_rejected": "genuine pairs rejected",
    "impostors_accepted": "impostor pairs accepted",
}
"""What figures of a class or a group are called."""


def decibels(value: float | None, digits: int = 1, unit: str = " dB") -> str:
    """An SQNR, or that the two are identical.

    Args:
        value: in dB; None or infinite without any difference, minus infinite without a signal.
        digits: after the point.
        unit: what comes after the number; empty in a column whose heading says it.
    """
    if value is None or value == math.inf:
        return IDENTICAL
    return fixed(value, digits) + unit


def gained(before: float | None, after: float | None) -> str:
    """What an SQNR was and what it became: ``31.0 -> 33.5 dB``."""
    return f"{decibels(before, unit='')} -> {decibels(after)}"


def fixed(value: float | None, digits: int) -> str:
    """A figure with that many decimals."""
    if value is None or math.isnan(value):
        return UNMEASURED
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    return f"{value:.{digits}f}"


def metric_text(value: float | int | None, name: str, identical: bool = False) -> str:
    """A metric as the terminal writes it, the same number of decimals in every row of a column.

    Args:
        value: the metric's.
        name: the metric's.
        identical: whether the rows are, so that an SQNR without a value says so.
    """
    if isinstance(value, int):
        return f"{value}"
    digits = 2 if unit_of(name) in ("dB", "count") else 6
    return decibels(value, digits, unit="") if identical and unit_of(name) == "dB" else fixed(value, digits)


def figure(value: float | None, name: str, identical: bool = False) -> str:
    """A metric as the page writes it: shares in per cent, others with five digits; see :func:`metric_text`."""
    unit = unit_of(name)
    if value is None or not math.isfinite(value):
        return IDENTICAL if identical and unit == "dB" and value is None else fixed(value, 0)
    if unit == "share":
        return f"{value:.2%}" if abs(value) >= 0.001 or value == 0 else f"{value:.4%}"
    if unit == "dB":
        return f"{value:.2f}"
    return f"{value:.0f}" if unit == "count" and value == int(value) else f"{value:.5g}"


def cosine(value: float | None) -> str:
    """A row's cosine."""
    return "invalid" if value is None else f"{value:.6f}"


def part_figure(name: str, value: float) -> str:
    """A figure of a class or a group."""
    return f"{value:.2g}" if name == "drift" else f"{value:.2%}"


def unit_of(name: str) -> str:
    """A metric's unit; empty for those of other tables."""
    return METRICS[name].unit if name in METRICS else ""
