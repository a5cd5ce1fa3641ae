"""Operators that litert-quantizer leaves float although every runtime has an int8 kernel for them.

It puts DEQUANTIZE before and QUANTIZE after such an operator. Here the operator takes their place: it reads the
integers, writes integers with the scale of its range, and holds its constants as integers. Which scales a kernel may
have is in :data:`KERNELS`; where tensors must share one, an input of another scale is requantized.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ..graph.graph import Graph
from .flat_tensors import LEAST_WIDTH

Limits = tuple[float, float]
Scale = tuple[float, int]
"""Step size and zero point."""

ANY, ALIKE, INPUTS = "any", "alike", "inputs"

KERNELS: Mapping[str, str] = {
    "LEAKY_RELU": ANY,
    "PRELU": ANY,
    "ABS": ANY,
    "ELU": ANY,
    "MINIMUM": ALIKE,
    "RELU6": ALIKE,
    "REDUCE_MAX": INPUTS,
    "SQUEEZE": INPUTS,
    "EXPAND_DIMS": INPUTS,
    "REVERSE_V2": INPUTS,
    "TILE": INPUTS,
}
"""Operators, and which scales theirs may be: ``any``; ``alike``, one for all inputs and the output, that of the output;
``inputs``, the output has the input's."""

_LOWEST, _HIGHEST = -128, 127
_NUMBERS = frozenset({"PRELU", "MINIMUM"})
"""Operators whose constant is of values; that of others is of axes."""


def in_integers(graph: Graph, limits: Mapping[str, Limits], floating: Collection[str]) -> bool:
    """Make these operators of an int8 graph compute with integers, too.

    Args:
        graph: as litert-quantizer made it; it is changed.
        limits: the range of every activation of the float graph, by name; none without a width.
        floating: operators that are to stay as they are, by the name of their first output tensor.

    Returns:
        Whether there were any.
    """
    changed = False
    for operator in list(graph.operators):
        kind, name = graph.operator_name(operator), graph.tensor_name(int(operator.outputs[0]))
        if kind not in KERNELS or name not in limits or name in floating:
            continue
        sources = [_stored(graph, index) for index in graph.inputs(operator)]
        if sources and None not in sources and graph.dtype(int(operator.outputs[0])) == "float32":
            _convert(graph, operator, [index for index in sources if index is not None], limits[name])
            changed = True
    if not changed:
        return False
    outputs = {int(index) for index in graph.subgraph.outputs}
    _, read = graph.links()
    graph.subgraph.operators = [
        operator
        for operator in graph.operators
        if graph.operator_name(operator) != "DEQUANTIZE"
        or int(operator.outputs[0]) in outputs
        or int(operator.outputs[0]) in read
    ]
    return True


def _stored(graph: Graph, index: int) -> int | None:
    """The int8 tensor that an activation is dequantized from."""
    producer = graph.producer(index)
    if producer is None or graph.operator_name(producer) != "DEQUANTIZE":
        return None
    source = int(producer.inputs[0])
    return source if graph.dtype(source) == "int8" and not graph.is_constant(source) else None


def _convert(graph: Graph, operator: Any, sources: list[int], limits: Limits) -> None:
    kind, result = graph.operator_name(operator), int(operator.outputs[0])
    rule, name = KERNELS[kind], graph.tensor_name(result)
    readers = [reader for reader in graph.consumers(result) if graph.operator_name(reader) == "QUANTIZE"]
    wanted = [scale for reader in readers if (scale := scale_of(graph, int(reader.outputs[0]))) is not None]
    if rule == INPUTS:
        own = scale_of(graph, sources[0])
        assert own is not None
        scale = own
    else:
        # That of what reads it, where there is one: then nothing is left to convert.
        scale = wanted[0] if wanted else _scale(*limits)
    place = graph.position(operator)
    if rule == ALIKE:
        for number, source in enumerate(sources):
            if scale_of(graph, source) == scale:
                continue
            moved = _add(graph, f"{graph.tensor_name(source)}/{name}", graph.shape(source), scale)
            graph.operators.insert(place, graph.make_operator("QUANTIZE", [source], [moved], schema.QuantizeOptionsT()))
            sources[number], place = moved, place + 1
    left = list(sources)
    inputs = []
    for index in map(int, operator.inputs):
        values = graph.constant(index)
        if values is None:
            inputs.append(left.pop(0))
        elif kind in _NUMBERS:
            low, high = float(values.min()), float(values.max())
            inputs.append(_constant(graph, index, values, scale if rule == ALIKE else _scale(low, high), name))
        else:
            inputs.append(index)
    graph.tensor(result).name = f"{name}_dequant"
    written = _add(graph, name, graph.shape(result), scale)
    operator.inputs, operator.outputs = inputs, [written]
    back = graph.make_operator("DEQUANTIZE", [written], [result], schema.DequantizeOptionsT())
    graph.operators.insert(place + 1, back)
    for reader in readers:
        stored = int(reader.outputs[0])
        reader.inputs = [written]
        if scale_of(graph, stored) != scale or stored in [int(i) for i in graph.subgraph.outputs]:
            continue
        del graph.operators[graph.position(reader)]
        for other in graph.consumers(stored):
            other.inputs = [written if int(i) == stored else int(i) for i in other.inputs]


def scale_of(graph: Graph, index: int) -> Scale | None:
    """Step size and zero point of an int8 tensor that has one of each."""
    quantization = graph.tensor(index).quantization
    if graph.dtype(index) != "int8" or quantization is None or len(quantization.scale) != 1:
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _scale(low: float, high: float) -> Scale:
    low, high = min(low, 0.0), max(high, 0.0)
    step = float(np.float32(max(high - low, LEAST_WIDTH) / (_HIGHEST - _LOWEST)))
    return step, int(np.clip(round(_LOWEST - low / step), _LOWEST, _HIGHEST))


def _add(graph: Graph, name: str, shape: tuple[int, ...], scale: Scale) -> int:
    index = graph.add_tensor(name, shape, np.int8)
    graph.tensor(index).quantization = _quantization(scale)
    return index


def _constant(graph: Graph, index: int, values: NDArray[Any], scale: Scale, name: str) -> int:
    step, zero = scale
    stored = np.clip(np.round(values.astype(np.float64) / step) + zero, _LOWEST, _HIGHEST).astype(np.int8)
    # A copy: the converter shares equal constants, and another reader has a scale of its own.
    added = graph.add_constant(f"{graph.tensor_name(index)}/{name}", stored)
    graph.tensor(added).quantization = _quantization(scale)
    return added


def _quantization(scale: Scale) -> Any:
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.array([scale[0]], np.float32)
    quantization.zeroPoint = np.array([scale[1]], np.int64)
    return quantization
