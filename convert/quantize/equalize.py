"""Cross-layer equalization: the same float function, with activations that int8 can tell apart better.

int8 gives all channels of an activation one step size, set by the widest channel; narrow channels then lose most of
their steps. Where a convolution feeds only another one, with nothing or a ReLU between them, its output channel c can
be divided by s_c > 0 and the next one's input channel c multiplied by it: relu(x / s) = relu(x) / s, so the float
model computes the same, and no operator is added. Weights are quantized per output channel, so only the second
convolution pays, in the spread of its weights; the exponent balances the two, as in SmoothQuant:

    s_c = max|activation_c|^a / max|next weights_c|^(1 - a)

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019 (arXiv:1906.04721);
Xiao et al., SmoothQuant, 2023 (arXiv:2211.10438).
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

EXPONENT = 0.3
"""SmoothQuant's alpha. Per-channel weights leave more room on the first side, so it lies below one half."""

_LIMIT = 1e3
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# Axis of the output channels in a convolution's weights, and of the input channels (None: one each, as outputs).
_OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
_INPUT_AXIS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3}


@dataclass(frozen=True)
class Pair:
    """Two convolutions in a row and the index of the activation between them."""

    first: Any
    second: Any
    between: int


def equalizable_pairs(graph: Graph) -> list[Pair]:
    """The pairs that can be equalized exactly: one reader, no activation function but ReLU, weights of their own."""
    pairs = []
    for first in graph.operators:
        between = int(first.outputs[0])
        readers = graph.consumers(between)
        if graph.operator_name(first) not in _CONVOLUTIONS or len(readers) != 1 or _is_output(graph, between):
            continue
        second = readers[0]
        activation = first.builtinOptions.fusedActivationFunction
        allowed = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)
        if graph.operator_name(second) not in _CONVOLUTIONS or activation not in allowed:
            continue
        # A grouped convolution's weights have fewer input channels than its input, and a depthwise one with a
        # multiplier has more.
        channels = graph.shape(int(second.inputs[1]))[_INPUT_AXIS[graph.operator_name(second)]]
        if channels != graph.shape(between)[-1]:
            continue
        if all(graph.constant(int(op.inputs[1])) is not None for op in (first, second)):
            pairs.append(Pair(first, second, between))
    return pairs


def equalize(flatbuffer: bytes, ranges: Ranges, *, backwards: bool = False) -> tuple[bytes, Ranges]:
    """The float graph with every pair equalized, and its ranges, which follow from the old ones.

    Args:
        flatbuffer: the float graph.
        ranges: with the channels of the activations between the pairs.
        backwards: whether the last pair is the first. A pair's scales depend on the weights that read it, whose other
            axis the next pair scales: backwards that has been done, and channels of very unequal size further on no
            longer matter; forwards the weights are those that training left, which suits ordinary networks better.
    """
    graph = Graph(flatbuffer)
    limits = dict(ranges.limits)
    pairs = equalizable_pairs(graph)
    for pair in reversed(pairs) if backwards else pairs:
        name = graph.tensor_name(pair.between)
        low, high = ranges.channels[name]
        scale = _scale(graph, pair, np.maximum(high, -low))
        limits[name] = (float((low / scale).min()), float((high / scale).max()))
        _multiply(graph, pair.first, 1, _OUTPUT_AXIS[graph.operator_name(pair.first)], 1 / scale)
        if len(pair.first.inputs) > 2 and pair.first.inputs[2] >= 0:
            _multiply(graph, pair.first, 2, 0, 1 / scale)
        _multiply(graph, pair.second, 1, _INPUT_AXIS[graph.operator_name(pair.second)], scale)
    drop_unused_tensors(graph)
    return graph.to_bytes(), replace(ranges, limits=limits)


def _scale(graph: Graph, pair: Pair, maxima: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = graph.constant(int(pair.second.inputs[1]))
    assert weights is not None
    axis = _INPUT_AXIS[graph.operator_name(pair.second)]
    reach = np.abs(weights).max(axis=tuple(i for i in range(weights.ndim) if i != axis))
    # A channel that is never active, or never read, has nothing to balance.
    alive = (maxima > 0) & (reach > 0)
    scale = np.ones(maxima.shape, np.float64)
    scale[alive] = maxima[alive] ** EXPONENT / reach[alive] ** (1 - EXPONENT)
    if alive.any():
        scale[alive] /= np.exp(np.log(scale[alive]).mean())
    clipped: NDArray[np.float32] = np.clip(scale, 1 / _LIMIT, _LIMIT).astype(np.float32)
    return clipped


def _multiply(graph: Graph, operator: Any, place: int, axis: int, factor: NDArray[np.float32]) -> None:
    """Multiply an operator's constant along one axis; in a copy, because the converter shares equal constants."""
    index = int(operator.inputs[place])
    values = graph.constant(index)
    assert values is not None
    shape = [1] * values.ndim
    shape[axis] = -1
    name = f"{graph.tensor_name(int(operator.outputs[0]))}/equalized{place}"
    inputs = [int(i) for i in operator.inputs]
    inputs[place] = graph.add_constant(name, (values * factor.reshape(shape)).astype(np.float32))
    if graph.tensor_name(index) == name:
        # A constant that an earlier pair made already: replaced, so that names stay unique.
        graph.tensor(index).name = f"{name}/before"
    operator.inputs = inputs


def _is_output(graph: Graph, index: int) -> bool:
    return index in [int(i) for i in graph.subgraph.outputs]
