"""Cross-validation: calibration images in folds, each judged with what the others gave.

With a fixed part held out, a dozen images decide, and those that are unlike the others are among them or not. In folds
every image judges once, and everything is collected once for each fold and merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from ...calibration import Ranges
from ...calibration.auto import MOST_TRIALS
from ...calibration.errors import CalibrationDataError
from ...runtime.images.source import Source
from ..graph.graph import HEAVY, Graph

FOLDS = 4
LEAST_IN_FOLDS = 8
"""Fewer images than that judge nothing."""

LEAST_TO_COMPARE = 24
"""Fewer than that decide whether convolutions are equalized, and nothing else."""

MOST_JUDGED_BYTES = 128 << 20
"""Of images that judge: of very many or very large ones a part of each fold does."""

_SECONDS = 5.0
_OPERATIONS_PER_SECOND = 4e10
_SECONDS_PER_OPERATOR, _SECONDS_PER_WEIGHT = 6e-4, 4e-8
_LEAST_TRIALS = 3
LARGE = 6
"""A network of which no more sets of ranges can be tried in that time is large: what takes longest is left out."""


def check_different(calibration: Source, digests: Sequence[bytes]) -> None:
    """Refuse one image, and images that are all the same.

    Args:
        calibration: the images.
        digests: of their content.

    Raises:
        CalibrationDataError: ranges from them would clip every other image.
    """
    advice = "Pass some hundred images like those the encoder will see."
    if len(digests) == 1:
        raise CalibrationDataError(
            f"{calibration.name} holds one calibration image, and ranges from it would clip every other. {advice}"
        )
    if len(set(digests)) == 1:
        raise CalibrationDataError(
            f"all {len(digests)} calibration images of {calibration.name} are the same, and ranges from them would "
            f"clip every other. {advice}"
        )


def make_folds(order: Sequence[int]) -> list[list[int]]:
    """Images in folds of equal size, in turns; all in one where they are too few.

    Args:
        order: their numbers, in an order that does not depend on how they were given.
    """
    count = FOLDS if len(order) >= LEAST_IN_FOLDS else 1
    return [list(order[place::count]) for place in range(count)]


def merged(parts: Sequence[Ranges]) -> Ranges:
    """The ranges of all folds together."""
    return reduce(Ranges.merge, parts)


def without_each(parts: Sequence[Ranges]) -> list[Ranges]:
    """For each fold the ranges of the others."""
    return [merged([*parts[:place], *parts[place + 1 :]]) for place in range(len(parts))]


def most_trials(flatbuffer: bytes, images: int, folds: int) -> int:
    """How many sets of ranges may be tried, so that a large network takes seconds and not minutes.

    From sizes and not from a clock: the same export has to decide the same.
    """
    graph = Graph(flatbuffer)
    products = weights = 0
    for operator in graph.operators:
        if graph.operator_name(operator) in HEAVY and (values := graph.constant(int(operator.inputs[1]))) is not None:
            weights += values.size
            outputs = graph.shape(int(operator.outputs[0]))
            products += values.size * int(np.prod(outputs[:-1], dtype=np.int64))
    making = len(graph.operators) * _SECONDS_PER_OPERATOR + weights * _SECONDS_PER_WEIGHT
    seconds = folds * making + images * products / _OPERATIONS_PER_SECOND
    return int(np.clip(_SECONDS / max(seconds, 1e-9), _LEAST_TRIALS, MOST_TRIALS))
