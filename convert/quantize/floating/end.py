"""The end in float where that is free: the average that makes the embedding, and the last layer.

The integers of an embedding are its last rounding, one step size for all its values, and often most of the noise. In
float neither an average nor a layer rounds what it gives; the layer's weights keep their 8 bits. It is done where
calibration images gain, and where the end is so small beside the network that the time cannot be seen. Fine-tuning
also tries it with the activation function, product or sum before the average: that rounds again what was rounded, and
small values behind a PReLU all in one direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ....calibration import Ranges
from ....calibration.auto import all_if_better
from ....runtime.drift.wording import gained
from ...graph.graph import HEAVY, Graph
from ...normalization.prepare import FloatGraph
from ..trial import CrossTrial

_RESHAPING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
AVERAGING = ("MEAN", "AVERAGE_POOL_2D")
LAYERS = ("CONV_2D", "FULLY_CONNECTED")
ELEMENTWISE = ("PRELU", "LEAKY_RELU", "RELU", "RELU6", "RELU_N1_TO_1", "ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM")
"""What an end in float may begin with: kinds of averages, of layers, and of what is cheap for each value."""


@dataclass(frozen=True)
class Cost:
    """What an end in float is held to take, in products of int8 numbers, and how much it may.

    Attributes:
        value: of dequantizing a value, and again of adding it up.
        product: of one float product, more than one of integers: four times as many of those fit into a register.
        share: of the network's products that the end may take more.
        elementwise: whether it may begin with an operator that computes value by value.
    """

    value: float
    product: float
    share: float
    elementwise: bool = False


WIDE = Cost(20, 3, 0.02)
"""By a wide margin, so that no processor's time is longer."""

MEASURED = Cost(1.2, 1.5, 0.03, elementwise=True)
"""As measured with XNNPACK on five small networks: at most 1.15 and 1, and the end took up to 1.4 % of the time."""

_STANDARD_ERRORS = 2


def possible_ends(graph: FloatGraph, cost: Cost = WIDE) -> list[tuple[str, ...]]:
    """What may stay float before the normalization: the names of what the operators write, the shortest end first.

    Each end begins with an average over a whole map, with a layer or with an operator that computes value by value,
    holds at most one of each, and costs no time that could be seen.

    Args:
        graph: the prepared float graph.
        cost: what it is held to take.
    """
    operators = Graph(graph.flatbuffer)
    index = int(operators.subgraph.outputs[0]) if graph.raw_name is None else operators.index_of(graph.raw_name)
    allowed = products(operators) * cost.share
    names, ends, families, added = list[str](), list[tuple[str, ...]](), set[tuple[str, ...]](), 0.0
    while (operator := operators.producer(index)) is not None:
        kind, read = operators.operator_name(operator), int(operator.inputs[0])
        size = operators.size(read)
        family = next((kinds for kinds in (AVERAGING, LAYERS, ELEMENTWISE) if kind in kinds), ())
        if kind in AVERAGING:
            begins = operators.size(index) == operators.shape(read)[-1]
            added += cost.value * size
        elif kind in LAYERS:
            begins = operators.constant(int(operator.inputs[1])) is not None
            added += cost.product * products_of(operators, operator)
        elif kind in ELEMENTWISE:
            begins = cost.elementwise
            # In float it takes no longer than in integers; what is added is to dequantize what it reads besides.
            added += cost.value * sum(map(operators.size, operators.inputs(operator)[1:]))
        else:
            begins = False
        # What others read too is needed in integers anyway.
        if names and len(operators.consumers(index)) > 1:
            break
        if not begins and kind not in _RESHAPING:
            break
        if begins and (family in families or added + cost.value * size > allowed):
            break
        names.insert(0, operators.tensor_name(index))
        if begins:
            families.add(family)
            ends.append(tuple(names))
        index = read
    return ends


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
    ends = possible_ends(graph)
    if not ends:
        return (), None
    chosen: tuple[str, ...] = ()
    plain = best = np.concatenate(list(trial.errors_of_one(flatbuffer, ranges)))
    for end in ends:
        errors = all_if_better(trial.errors_of_one(flatbuffer, ranges, end), best, _STANDARD_ERRORS)
        if errors is not None:
            chosen, best = end, errors
    if not chosen:
        return (), None
    return chosen, (
        f"{_named(Graph(flatbuffer), chosen)} computed in float: {gained(trial.sqnr(plain), trial.sqnr(best))} on "
        f"{len(trial)} calibration images. --output-type int8 keeps it in integers."
    )


def _named(graph: Graph, end: tuple[str, ...]) -> str:
    kinds = [graph.operator_name(operator) for operator in map(graph.producer, map(graph.index_of, end)) if operator]
    parts = []
    if any(kind in LAYERS for kind in kinds):
        parts.append("the last layer (its weights in 8 bits)")
    if any(kind in AVERAGING for kind in kinds):
        parts.append("the average that makes the embedding")
    return " and ".join(parts) + (" are" if len(parts) > 1 else " is")


def products(graph: Graph) -> int:
    """Products of all layers with constant weights."""
    return sum(products_of(graph, operator) for operator in graph.operators if graph.operator_name(operator) in HEAVY)


def products_of(graph: Graph, operator: Any) -> int:
    """Products of a layer with constant weights; none of one whose weights are computed."""
    values = graph.constant(int(operator.inputs[1]))
    outputs = graph.shape(int(operator.outputs[0]))
    return 0 if values is None else values.size * int(np.prod(outputs[:-1], dtype=np.int64))
