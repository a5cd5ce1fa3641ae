"""Bounds that come later: a layer whose answer is clipped needs no steps for what is cut off.

Where MAXIMUM, MINIMUM, RELU or RELU6 alone reads an activation, everything outside of its own range ends at one of the
two bounds; so the activation takes that range, saturates where it would be clipped anyway, and has finer steps in
between. It is exact, and saves requantizing to the scale that the clipping operator needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..graph.graph import Graph

Limits = tuple[float, float]

CLIPPING = frozenset({"MAXIMUM", "MINIMUM", "RELU", "RELU6"})
_MOVING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "MAX_POOL_2D", "PAD", "SLICE", "STRIDED_SLICE"})
"""What only moves values, or takes some of them: a bound after it is one before it."""


def carry_back(graph: Graph, limits: Mapping[str, Limits]) -> dict[str, Limits]:
    """The ranges, with those narrower that a later operator clips.

    Args:
        graph: the float graph.
        limits: (minimum, maximum) of its activations, by name.
    """
    carried = dict(limits)
    inputs = {int(index) for index in graph.subgraph.inputs} | {int(index) for index in graph.subgraph.outputs}
    clipped: set[str] = set()
    for operator in reversed(graph.operators):
        kind, result = graph.operator_name(operator), graph.tensor_name(int(operator.outputs[0]))
        read = graph.inputs(operator)
        if len(read) != 1 or read[0] in inputs or len(graph.consumers(read[0])) != 1:
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
