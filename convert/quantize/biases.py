"""Biases that do not fit their integers: weights of almost nothing beside a bias.

A bias is stored in steps of the input's step size times the weights'. Of a channel that training switched off (all
weights zero, or nearly) that product is next to nothing, the bias does not fit, and litert-quantizer clips it: the
channel, whose whole answer is its bias, is wrong by as much. Such a channel's weights get a step size with which the
bias fits; they are so small beside it that this costs nothing that could be seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.model.flatbuffer import read_flatbuffer
from ...runtime.model.tensor_match import match_graphs
from ..graph.graph import Graph

_CLIPPED = 2**31 - 1
_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_CHANNEL_AXIS = {"DEPTHWISE_CONV_2D": 3}

_MOST = {np.dtype(np.int32): 2**29, np.dtype(np.int64): 2**38}
"""The largest bias that is left. Sums of 16-bit products are 64 bits wide, of which the NPU has forty."""


def fit_biases(graph: Graph, original: Graph) -> bool:
    """Change a quantized graph so that no bias is clipped.

    Args:
        graph: as litert-quantizer made it; it is changed.
        original: the float graph that it was made from.

    Returns:
        Whether any was.
    """
    clipped = [place for place, operator in enumerate(graph.operators) if _is_clipped(graph, operator)]
    if not clipped:
        return False
    places = match_graphs(*(read_flatbuffer(one.to_bytes()) for one in (graph, original))).operators
    for place in clipped:
        if place in places:
            _fit(graph, graph.operators[place], original, original.operators[places[place]])
    return True


def _bias_index(graph: Graph, operator: Any) -> int:
    place = 3 if graph.operator_name(operator) == "TRANSPOSE_CONV" else 2
    return int(operator.inputs[place]) if len(operator.inputs) > place else -1


def _is_clipped(graph: Graph, operator: Any) -> bool:
    if graph.operator_name(operator) not in _KINDS or (index := _bias_index(graph, operator)) < 0:
        return False
    bias = graph.constant(index)
    return bias is not None and bias.dtype in _MOST and bool((np.abs(bias.astype(np.int64)) >= _CLIPPED).any())


def _fit(graph: Graph, operator: Any, original: Graph, counterpart: Any) -> None:
    weights_at = int(operator.inputs[1])
    bias_at, true_weights = _bias_index(graph, operator), original.constant(int(counterpart.inputs[1]))
    true_bias, stored = original.constant(_bias_index(original, counterpart)), graph.constant(bias_at)
    input_at = int(operator.inputs[2 if graph.operator_name(operator) == "TRANSPOSE_CONV" else 0])
    if true_weights is None or true_bias is None or stored is None:
        return
    quantization = graph.tensor(weights_at).quantization
    step = float(graph.tensor(input_at).quantization.scale[0])
    scales = np.asarray(quantization.scale, np.float64)
    least = np.abs(true_bias.astype(np.float64)) / (_MOST[stored.dtype] * step)
    scales = np.maximum(scales, least if len(scales) > 1 else least.max()).astype(np.float32).astype(np.float64)
    axis = _CHANNEL_AXIS.get(graph.operator_name(operator), 0)
    shape = [1] * true_weights.ndim
    shape[axis] = -1
    rounded = np.clip(np.round(true_weights / scales.reshape(shape if len(scales) > 1 else ())), -127, 127)
    wide = np.round(true_bias.astype(np.float64) / (step * scales)).astype(stored.dtype)
    inputs = [int(index) for index in operator.inputs]
    # Copies: the converter shares equal constants, and the other reader has scales of its own.
    inputs[1] = _copy(graph, weights_at, rounded.astype(np.int8), scales)
    inputs[inputs.index(bias_at)] = _copy(graph, bias_at, wide, step * scales)
    operator.inputs = inputs


def _copy(graph: Graph, index: int, values: NDArray[Any], scales: NDArray[np.float64]) -> int:
    name = graph.tensor_name(index)
    added = graph.add_constant(f"{name}/fits", values.reshape(graph.shape(index)))
    old = graph.tensor(index).quantization
    quantization = type(old)()
    quantization.scale, quantization.zeroPoint = scales.astype(np.float32), np.zeros(len(scales), np.int64)
    quantization.quantizedDimension = old.quantizedDimension
    graph.tensor(added).quantization = quantization
    return added
