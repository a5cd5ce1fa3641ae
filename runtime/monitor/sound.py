"""Whether a monitor's figures can be those of one monitor: each alone is a number, and together they add up.

A checksum tells that a file is whole, not that it is true: whoever changes a figure can seal the file again. What would
crash the arithmetic later or count a row twice is refused here, with the figure's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from .distribution import BINS
from .references import PAIRED
from .tallies import WORST_ROWS, Statistics

LARGEST_SUM = Fraction(1 << 400)
"""No sum of squares of fewer than 2^48 float32 values, or of their quotients, comes near it."""


def refuse_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different; for ``object_pairs_hook``.

    Raises:
        ValueError: a name is there twice, and each reader would take another value.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!r} is there twice")
        found[name] = value
    return found


def refuse_constant(text: str) -> Any:
    """For ``parse_constant``: NaN and infinity are no figures.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{text} is not a figure")


def check_names(candidate: Any, reference: Any, series: Any, device: Any, runtimes: Any) -> None:
    """Refuse what should be text and is not.

    Raises:
        KeyError, TypeError: it is so.
    """
    texts = [candidate["sha256"], candidate["mode"], reference["kind"], reference["sha256"], series]
    if not isinstance(runtimes, list) or not all(isinstance(text, str) for text in (*texts, *runtimes, device or "")):
        raise TypeError("a name that is not text")
    if device is not None and not isinstance(device, str):
        raise TypeError("a name that is not text")


def check_sound(kind: str, statistics: Statistics, counters: dict[str, int], size: int) -> None:
    """Refuse figures that contradict each other.

    Args:
        kind: ``model`` or ``distribution``.
        statistics: of that kind's layout.
        counters: of the monitor.
        size: values of one embedding.

    Raises:
        ValueError: the first contradiction.
    """
    rows, invalid = statistics.counts["rows"], statistics.counts["invalid"]
    valid = rows - invalid
    _hold(valid >= 0, "more invalid rows than rows")
    _hold(rows + counters["skipped"] + counters["failed"] <= counters["inputs"], "more rows than inputs")
    _hold(len(statistics.worst) == min(WORST_ROWS, valid), "another number of worst rows than there are")
    sums = statistics.sums()
    _hold(all(abs(value) < LARGEST_SUM for values in sums.values() for value in values), "a sum that no rows give")
    tables = statistics.tables
    crowds: tuple[str, ...] = ("embedding",)
    if kind == PAIRED:
        _hold(int(tables["cosine_distance"].sum()) == valid, "a histogram of another number of rows")
        _hold(statistics.counts["norm_ratios"] <= valid, "more ratios than rows")
        _hold(0 <= sums["cosine_distance"][0] <= 2 * valid, "cosine distances beyond 2")
        _hold(sums["norm_ratio"][0] >= 0, "a negative ratio of norms")
        _hold(all(0 <= far <= 2 and most >= 0 for far, most in statistics.worst), "a worst row beyond its range")
        _hold(statistics.maxima["max_abs"] >= max((most for _, most in statistics.worst), default=0), "a small maximum")
        crowds = ("candidate", "reference")
        _check_products(sums)
    else:
        _hold(bool((tables["dimensions"].reshape(size, BINS).sum(axis=1) == valid).all()), "another number of values")
        _hold(all(int(tables[name].sum()) == valid for name in ("norm", "score")), "a histogram of another number")
        _hold(all(min(row) >= 0 for row in statistics.worst), "a worst row beyond its range")
    for name in crowds:
        for total, squares in zip(sums[name], sums[f"{name}_squared"], strict=True):
            _hold(squares * valid >= total * total, f"squares of {name} that are smaller than its sum allows")


def check_computes(*compute: Callable[[], object]) -> None:
    """Refuse figures on which the arithmetic of the report fails.

    Raises:
        ValueError: it does.
    """
    try:
        with np.errstate(all="ignore"):
            for one in compute:
                one()
    except (ArithmeticError, IndexError) as error:
        raise ValueError(f"figures without a result ({error})") from error


def _check_products(sums: dict[str, list[Fraction]]) -> None:
    squares = zip(sums["candidate_squared"], sums["reference_squared"], sums["product"], strict=True)
    _hold(all(product * product <= c * r for c, r, product in squares), "products that are larger than their squares")


def _hold(true: bool, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)
