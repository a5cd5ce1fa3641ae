"""High-bias absorption: what an activation always has is moved into the bias of the layer that reads it.

int8 gives an activation one step size for its whole range. Where a channel never comes below c, the steps from zero to
c are wasted on it, and a few such channels widen the range for all. With y = relu(x) and x >= c >= 0

    W y + b = W relu(x - c) + (b + W c)

so c is taken off the bias of the first layer and W c added to that of the second: the same float function, no operator
more. Without an activation function between them any c is exact, and the middle of a channel's range makes that
narrowest. With a ReLU it is exact for images that keep x >= c, as those did that c was taken from; others decide
whether it is kept.

Only where the second layer sees every place of its input alike, in a kernel of one place or without padding: a padded
zero would have to be c.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019 (arXiv:1906.04721), section
4.1.3, which takes c from the statistics of batch normalization; here it is taken from calibration images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ...calibration import Ranges
from ..graph.graph import Graph
from ..graph.repair import drop_unused_tensors

_LEAST = 0.01
"""Offsets below this share of the activation's range narrow nothing."""


_CONVOLUTIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3}
"""Axis of the input channels in their weights."""


@dataclass(frozen=True)
class Pair:
    """Two convolutions in a row and the index of the activation between them."""

    first: Any
    second: Any
    between: int


def absorbable_pairs(graph: Graph) -> list[Pair]:
    """The pairs between which an offset can be moved: one reader that sees all alike, no activation but ReLU."""
    pairs = []
    for first in graph.operators:
        between = int(first.outputs[0])
        readers = graph.consumers(between)
        if graph.operator_name(first) not in _CONVOLUTIONS or len(readers) != 1 or between in graph.subgraph.outputs:
            continue
        second = readers[0]
        activation = first.builtinOptions.fusedActivationFunction
        allowed = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)
        if graph.operator_name(second) not in _CONVOLUTIONS or activation not in allowed:
            continue
        # A grouped convolution's weights have fewer input channels than its input, and a depthwise one with a
        # multiplier has more.
        channels = graph.shape(int(second.inputs[1]))[_CONVOLUTIONS[graph.operator_name(second)]]
        if channels != graph.shape(between)[-1]:
            continue
        pair = Pair(first, second, between)
        if all(graph.constant(int(op.inputs[1])) is not None for op in (first, second)):
            pairs += [pair] if _sees_all_alike(graph, second) and _biased(graph, pair) else []
    return pairs


def absorb(flatbuffer: bytes, ranges: Ranges) -> tuple[bytes, Ranges, int]:
    """The float graph with every offset moved, its ranges, which follow from the old ones, and how many pairs have one.

    Args:
        flatbuffer: the float graph.
        ranges: with the channels of the activations between the pairs.
    """
    graph = Graph(flatbuffer)
    limits, moved = dict(ranges.limits), 0
    for pair in absorbable_pairs(graph):
        name = graph.tensor_name(pair.between)
        low, high = (values.astype(np.float64) for values in ranges.channels[name])
        rectified = pair.first.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.RELU
        offset = np.maximum(low, 0) if rectified else (low + high) / 2
        if np.abs(offset).max() < _LEAST * (high.max() - min(low.min(), 0.0)):
            continue
        _add(graph, pair.first, -offset)
        _add(graph, pair.second, _read(graph, pair.second, offset))
        limits[name] = (float((low - offset).min()), float((high - offset).max()))
        moved += 1
    drop_unused_tensors(graph)
    return graph.to_bytes(), replace(ranges, limits=limits), moved


def _sees_all_alike(graph: Graph, operator: Any) -> bool:
    _, height, width, _ = graph.shape(int(operator.inputs[1]))
    return (height, width) == (1, 1) or bool(operator.builtinOptions.padding == schema.Padding.VALID)


def _biased(graph: Graph, pair: Pair) -> bool:
    return all(
        len(operator.inputs) > 2 and graph.constant(int(operator.inputs[2])) is not None
        for operator in (pair.first, pair.second)
    )


def _read(graph: Graph, operator: Any, offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a layer makes of an input that is the offset everywhere, without its bias: (outputs,)."""
    weights = graph.constant(int(operator.inputs[1]))
    assert weights is not None
    if graph.operator_name(operator) == "DEPTHWISE_CONV_2D":
        read: NDArray[np.float64] = weights.astype(np.float64).sum(axis=(0, 1, 2)) * offset
    else:
        read = weights.astype(np.float64).sum(axis=(1, 2)) @ offset
    return read


def _add(graph: Graph, operator: Any, values: NDArray[np.float64]) -> None:
    """Add to an operator's bias; in a copy, because the converter shares equal constants."""
    index = int(operator.inputs[2])
    bias = graph.constant(index)
    assert bias is not None
    name = f"{graph.tensor_name(int(operator.outputs[0]))}/absorbed"
    if graph.tensor_name(index) == name:
        # It was changed for the pair before already: replaced, so that names stay unique.
        graph.tensor(index).name = f"{name}/before"
    inputs = [int(i) for i in operator.inputs]
    inputs[2] = graph.add_constant(name, (bias.astype(np.float64) + values).astype(np.float32))
    operator.inputs = inputs
