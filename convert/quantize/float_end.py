"""The end in float where that is free: the average that makes the embedding.

The integers of an average over the last map are the embedding's last rounding, one step size for all its values, and
often most of the noise. In float the average loses nothing, and takes no longer: a DEQUANTIZE of a small map in place
of one of a vector. It is done where calibration images gain, and where the map is so small beside the network that the
time cannot be seen.
"""

from __future__ import annotations

import numpy as np

from ...calibration import Ranges
from ...calibration.auto import better
from ...runtime.drift.wording import gained
from ..graph.graph import HEAVY, Graph
from ..normalization.prepare import FloatGraph
from .trial import CrossTrial

_RESHAPING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_AVERAGING = ("MEAN", "AVERAGE_POOL_2D")

_PRODUCTS = 20
"""Products of int8 numbers in the time in which one value is dequantized and added up, by a wide margin."""

_SHARE = 0.02
"""Of the network's time that the end may take more."""

_STANDARD_ERRORS = 2


def averaging_end(graph: FloatGraph) -> tuple[str, ...]:
    """The operators from the last average on to the raw embedding, by the name of what they write; none without one.

    None either where the map that is averaged is not a small part of the network.
    """
    operators = Graph(graph.flatbuffer)
    index = int(operators.subgraph.outputs[0]) if graph.raw_name is None else operators.index_of(graph.raw_name)
    found: list[str] = []
    while (operator := operators.producer(index)) is not None:
        found.insert(0, operators.tensor_name(index))
        index = int(operator.inputs[0])
        kind = operators.operator_name(operator)
        if kind in _AVERAGING:
            spatial = operators.shape(int(operator.outputs[0]))
            whole = int(np.prod(spatial, dtype=np.int64)) == operators.shape(index)[-1]
            size = int(np.prod(operators.shape(index), dtype=np.int64))
            return tuple(found) if whole and size * _PRODUCTS <= _products(operators) * _SHARE else ()
        if kind not in _RESHAPING:
            break
    return ()


def try_float_end(
    graph: FloatGraph, flatbuffer: bytes, ranges: Ranges, trial: CrossTrial
) -> tuple[tuple[str, ...], str | None]:
    """What stays float at the end, by the name of what it writes, and what is to be said of it.

    Args:
        graph: the prepared float graph.
        flatbuffer: the float graph that int8 is made from.
        ranges: of its activations.
        trial: judges.
    """
    end = averaging_end(graph)
    if not end:
        return (), None
    plain, in_float = trial.errors_of_one(flatbuffer, ranges), trial.errors_of_one(flatbuffer, ranges, end)
    if not better(in_float, plain, _STANDARD_ERRORS):
        return (), None
    return end, (
        f"the average that makes the embedding is computed in float: {gained(trial.sqnr(plain), trial.sqnr(in_float))} "
        f"on {len(trial)} calibration images. --output-type int8 keeps it in integers."
    )


def _products(graph: Graph) -> int:
    products = 0
    for operator in graph.operators:
        if graph.operator_name(operator) not in HEAVY:
            continue
        values = graph.constant(int(operator.inputs[1]))
        outputs = graph.shape(int(operator.outputs[0]))
        products += 0 if values is None else values.size * int(np.prod(outputs[:-1], dtype=np.int64))
    return products
