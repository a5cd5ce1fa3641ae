"""The layers that corrections know: found in a quantized graph and in the float graph that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ...graph.graph import Graph
from ..floating.end import LAYERS as FLOAT_LAYERS

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators with weights that corrections know."""


@dataclass(frozen=True)
class LinearLayer:
    """A convolution or dense layer of the quantized graph: in integers, or in float with weights in 8 bits.

    Attributes:
        kind: one of :data:`KINDS`.
        name: of the tensor that it writes.
        place: among the operators of the quantized graph.
        float_place: of its counterpart in the float graph.
        tensors: in the quantized graph the indices of input, weights as they are stored, bias and output.
        float_tensors: likewise in the float graph; -1 for a bias that it does not have.
        options: the operator's ``builtinOptions`` (strides, padding, activation function).
    """

    kind: str
    name: str
    place: int
    float_place: int
    tensors: tuple[int, int, int, int]
    float_tensors: tuple[int, int, int, int]
    options: Any


def integer_layer(graph: Graph, original: Graph, place: int, other: int) -> LinearLayer | None:
    """The layer at a place of the quantized graph that computes with integers; None of anything else.

    Args:
        graph: the quantized graph; the layer gets weights and a bias of its own.
        original: the float graph.
        place: of the operator in the first.
        other: of its counterpart in the second.
    """
    operator, counterpart = graph.operators[place], original.operators[other]
    kind = graph.operator_name(operator)
    if kind not in KINDS:
        return None
    weights, true = int(operator.inputs[1]), int(counterpart.inputs[1])
    ends = (int(operator.inputs[0]), int(operator.outputs[0]))
    if graph.constant(weights) is None or original.constant(true) is None or graph.dtype(weights) != "int8":
        return None
    if any(graph.dtype(index) not in ("int8", "int16") for index in ends):
        return None
    if _shared(graph, weights):
        # Two layers with the same weights would need them twice after that, and the file would grow.
        return None
    weights, bias = own_constant(graph, operator, 1), own_constant(graph, operator, 2)
    true_bias = int(counterpart.inputs[2]) if len(counterpart.inputs) > 2 else -1
    floats = (int(counterpart.inputs[0]), true, true_bias, int(counterpart.outputs[0]))
    name = original.tensor_name(floats[3])
    return LinearLayer(kind, name, place, other, (ends[0], weights, bias, ends[1]), floats, operator.builtinOptions)


def float_layer(graph: Graph, original: Graph, place: int, other: int) -> LinearLayer | None:
    """Likewise a layer whose weights a DEQUANTIZE makes float, each time or once."""
    operator, counterpart = graph.operators[place], original.operators[other]
    kind = graph.operator_name(operator)
    source = graph.producer(int(operator.inputs[1])) if kind in FLOAT_LAYERS else None
    true = int(counterpart.inputs[1]) if source is not None else -1
    if source is None or graph.operator_name(source) != "DEQUANTIZE" or original.constant(true) is None:
        return None
    weights = int(source.inputs[0])
    if graph.constant(weights) is None or graph.dtype(weights) != "int8" or _shared(graph, weights):
        return None
    true_bias = int(counterpart.inputs[2]) if len(counterpart.inputs) > 2 else -1
    floats = (int(counterpart.inputs[0]), true, true_bias, int(counterpart.outputs[0]))
    tensors = (int(operator.inputs[0]), weights, own_constant(graph, operator, 2), int(operator.outputs[0]))
    return LinearLayer(kind, original.tensor_name(floats[3]), place, other, tensors, floats, operator.builtinOptions)


def _shared(graph: Graph, weights: int) -> bool:
    buffer = graph.tensor(weights).buffer
    reads = (int(index) for operator in graph.operators for index in operator.inputs if index >= 0)
    return len([index for index in reads if graph.tensor(index).buffer == buffer]) > 1


def own_constant(graph: Graph, operator: Any, role: int) -> int:
    """Give an operator a copy of its weights (1) or its bias (2; zeros where it has none), and return its index."""
    index = int(operator.inputs[role]) if len(operator.inputs) > role else -1
    name = f"{graph.tensor_name(int(operator.outputs[0]))}/corrected{role}"
    if index >= 0:
        values = graph.constant(index)
        assert values is not None
        copy = graph.add_constant(name, values)
        graph.tensor(copy).quantization = graph.tensor(index).quantization
    elif graph.dtype(int(operator.outputs[0])) == "float32":
        copy = graph.add_constant(name, np.zeros(graph.shape(int(operator.outputs[0]))[-1], np.float32))
    else:
        weights = graph.tensor(int(operator.inputs[1])).quantization
        step = np.float32(graph.tensor(int(operator.inputs[0])).quantization.scale[0])
        outputs = graph.shape(int(operator.outputs[0]))[-1]
        wide = graph.dtype(int(operator.inputs[0])) == "int16"
        copy = graph.add_constant(name, np.zeros(outputs, np.int64 if wide else np.int32))
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.asarray(weights.scale, np.float32) * step
        quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
        graph.tensor(copy).quantization = quantization
    operator.inputs = [*(int(i) for i in operator.inputs[:role]), copy, *(int(i) for i in operator.inputs[role + 1 :])]
    return copy


def constant_bytes(flatbuffer: bytearray, index: int) -> NDArray[np.uint8]:
    """A constant's bytes where they lie in the file."""
    model = schema.Model.GetRootAs(flatbuffer, 0)
    place = model.Subgraphs(0).Tensors(index).Buffer()
    found: NDArray[np.uint8] = model.Buffers(place).DataAsNumpy()
    return found
