"""Activations that carry nothing: channels that no image moves, and values that a bound cuts off.

Where pixels come at too small a scale, the biases of the first layers decide alone: channels are dead, or the same
everywhere. At too large a one values run into a bound such as RELU6's. Any float graph shows that, also one that keeps
nothing of its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ..graph.graph import Graph
from ..graph.run import tensor_values

_LAYERS = 6
"""Activations that are looked at, the first ones: what comes later sees what these let through."""

_CONSTANT = 0.02
"""Deviation, of its mean, of a channel that images do not move."""

_OPERATORS = {
    "RELU": (0.0, np.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}

_FUSED = {getattr(schema.ActivationFunctionType, name): _OPERATORS[name] for name in ("RELU", "RELU6", "RELU_N1_TO_1")}
"""The same by the number of an activation that is fused into an operator."""


@dataclass(frozen=True)
class Stuck:
    """Means over the first activations.

    Attributes:
        dead: share of channels that have one value everywhere in every image, but for a little.
        clipped: share of values at the upper bound.
    """

    dead: float
    clipped: float


def bounded_tensors(flatbuffer: bytes) -> dict[str, tuple[float, float]]:
    """The first tensors of a float graph that an activation bounds, with the bounds."""
    graph, found = Graph(flatbuffer), dict[str, tuple[float, float]]()
    for operator in graph.operators:
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        bounds = _OPERATORS.get(graph.operator_name(operator)) or _FUSED.get(fused)
        place = int(operator.outputs[0])
        if bounds is not None and len(graph.shape(place)) == 4:
            found[graph.tensor_name(place)] = bounds
        if len(found) == _LAYERS:
            break
    return found


def measure_stuck(
    flatbuffer: bytes, bounded: dict[str, tuple[float, float]], images: Sequence[NDArray[np.float32]]
) -> Stuck:
    """What stands at its bounds on some images.

    Args:
        flatbuffer: a float graph.
        bounded: see :func:`bounded_tensors`; not empty.
        images: (H, W, C), as the model takes them.
    """
    seen: dict[str, list[NDArray[Any]]] = {name: [] for name in bounded}
    cut: dict[str, list[float]] = {name: [] for name in bounded}
    for answer in tensor_values(flatbuffer, list(bounded), images):
        for name, (_, high) in bounded.items():
            _, height, width, channels = answer[name].shape
            # At the border zeros that pad make differences of their own.
            middle = answer[name][0, height // 4 : height - height // 4, width // 4 : width - width // 4]
            seen[name].append(middle.reshape(-1, channels))
            cut[name].append(float((middle >= high).mean()))
    return Stuck(
        _mean([_dead(np.concatenate(rows)) for rows in seen.values()]), _mean([_mean(part) for part in cut.values()])
    )


def _dead(rows: NDArray[Any]) -> float:
    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    return float((deviation <= _CONSTANT * np.abs(mean)).mean())


def _mean(shares: Sequence[float]) -> float:
    return float(np.mean(shares))
