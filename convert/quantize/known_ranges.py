"""Ranges that are known without an image: of pixels, and from bounds that come later.

A layer whose answer is clipped needs no steps for what is cut off.

Where MAXIMUM, MINIMUM, RELU or RELU6 alone reads an activation, everything outside of its own range ends at one of the
two bounds; so the activation takes that range, saturates where it would be clipped anyway, and has finer steps in
between. It is exact, and saves requantizing to the scale that the clipping operator needs.

Pixels are 256 values, so that an input can have a step for each. But zero has to be a step, too, for padding is made of
zeros; where it lies between two pixels, as with a mean of 127.5, all of them would be half a step off. There the range
is a little wider, so that black and zero lie on steps and the others are off by what rounding costs on average.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...runtime.model.contract import InputContract
from ..graph.graph import Graph

Limits = tuple[float, float]

CLIPPING = frozenset({"MAXIMUM", "MINIMUM", "RELU", "RELU6"})
_MOVING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "MAX_POOL_2D", "PAD", "SLICE", "STRIDED_SLICE"})
"""What only moves values, or takes some of them: a bound after it is one before it."""


_STEPS = 255
_ON_AVERAGE = 0.4
"""Root of the mean square error, in steps, from which on pixels lie between steps; rounding costs 0.29."""


def pixel_range(contract: InputContract) -> Limits:
    """What the first and the last of the pixel values 0-255 become, and more where steps fit the pixels better then."""
    mean, std = np.asarray(contract.mean), np.asarray(contract.std)
    values = (np.arange(_STEPS + 1)[:, None] - mean) / std
    low, high = float(values.min()), float(values.max())
    if not low < 0 < high or _error(values, low, high) < _ON_AVERAGE:
        return low, high
    below = np.floor(-low / (high - low) * _STEPS)
    fitting = low, low - _STEPS * low / below if below else high
    return min(((low, high), fitting), key=lambda limits: _error(values, *limits))


def told_of_pixels(contract: InputContract) -> str:
    """What is decided about the steps of an int8 input that takes pixels."""
    mean, std = np.asarray(contract.mean), np.asarray(contract.std)
    if pixel_range(contract)[1] > float(((_STEPS - mean) / std).max()):
        return (
            "the int8 input covers all pixels 0-255, in steps on which black and zero lie: otherwise this mean puts "
            "every pixel half a step off."
        )
    return "the int8 input covers all pixels 0-255, so that each keeps a step of its own."


def _error(values: NDArray[np.float64], low: float, high: float) -> float:
    """Root of the mean square error of values in int8, in steps of the range from the first to the last of them."""
    step = (high - low) / _STEPS
    zero = np.round(-low / step)
    stored = np.clip(np.round(values / step) + zero, 0, _STEPS)
    return float(np.sqrt(np.square((stored - zero) * step - values).mean()) * _STEPS / (values.max() - values.min()))


def carry_back(graph: Graph, limits: Mapping[str, Limits]) -> dict[str, Limits]:
    """The ranges, with those narrower that a later operator clips.

    Args:
        graph: the float graph.
        limits: (minimum, maximum) of its activations, by name.
    """
    carried = dict(limits)
    inputs = {int(index) for index in graph.subgraph.inputs} | {int(index) for index in graph.subgraph.outputs}
    clipped: set[str] = set()
    _, consumers = graph.links()
    for operator in reversed(graph.operators):
        kind, result = graph.operator_name(operator), graph.tensor_name(int(operator.outputs[0]))
        read = graph.inputs(operator)
        if len(read) != 1 or read[0] in inputs or len(consumers[read[0]]) != 1:
            continue
        name = graph.tensor_name(read[0])
        if name not in carried or result not in carried:
            continue
        if kind in CLIPPING or (kind in _MOVING and result in clipped):
            low, high = _with_zero(*carried[result])
            mine = _with_zero(*carried[name])
            if low <= mine[0] and mine[1] <= high:
                continue
            # Both ends inside what was seen: a range by percentile may be narrower than the bound.
            carried[name] = max(low, mine[0]), min(high, mine[1])
            clipped.add(name)
    return carried


def _with_zero(low: float, high: float) -> Limits:
    return min(low, 0.0), max(high, 0.0)
