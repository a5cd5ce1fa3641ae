"""The normalizations as plain numpy, per image: the definition that graphs and tests are held against.

Formulas, with x the raw embedding and both extremes over ``axes``::

    minmax, divisor "shifted":  (x - min x) / guard(max(x - min x))
    minmax, divisor "input":    (x - min x) / guard(max x)
    l2:                         x / guard(sqrt(sum x^2))

``guard(d)`` is ``max(d, epsilon)``, ``d + epsilon`` or ``d``; a divisor that is still zero gives zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import NormalizationSpec


def normalize(values: NDArray[Any], spec: NormalizationSpec) -> NDArray[np.float32]:
    """Normalize a raw embedding.

    Args:
        values: the tensor that ``spec.axes`` speak of, batch axis included, any float dtype.
        spec: see :class:`~embedlite.runtime.contract.NormalizationSpec`.

    Returns:
        An array of the same shape, float32; all zeros where the divisor is zero.
    """
    x = values.astype(np.float32)
    if spec.kind == "none":
        return x
    axes = spec.axes
    if spec.kind == "l2":
        numerator = x
        divisor = np.sqrt((x * x).sum(axis=axes, keepdims=True))
    else:
        numerator = x - x.min(axis=axes, keepdims=True)
        divisor = (numerator if spec.divisor == "shifted" else x).max(axis=axes, keepdims=True)
    if spec.epsilon_mode == "max":
        divisor = np.maximum(divisor, np.float32(spec.epsilon))
    elif spec.epsilon_mode == "add":
        divisor = divisor + np.float32(spec.epsilon)
    # Where the divisor is zero the answer is zero, whatever stands above it.
    return np.divide(numerator, divisor, out=np.zeros_like(x), where=divisor != 0)
