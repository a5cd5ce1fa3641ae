"""What TFLite's quantization specification asks of scales, checked in every file before it is written.

Most runtimes do not look: MAXIMUM of two tensors with unequal scales runs everywhere, compares integers that mean
different things, and costs 5 to 7 dB without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConversionError
from .graph import Graph

ALIKE = frozenset(
    {
        "AVERAGE_POOL_2D",
        "BATCH_TO_SPACE_ND",
        "BROADCAST_TO",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "DYNAMIC_UPDATE_SLICE",
        "EXPAND_DIMS",
        "GATHER",
        "GATHER_ND",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MINIMUM",
        "MIRROR_PAD",
        "PACK",
        "PAD",
        "PADV2",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU6",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "REVERSE_SEQUENCE",
        "REVERSE_V2",
        "SELECT",
        "SELECT_V2",
        "SLICE",
        "SPACE_TO_BATCH_ND",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TILE",
        "TRANSPOSE",
        "UNPACK",
    }
)
"""Operators whose quantized inputs and outputs have one scale and zero point. RELU6 is among them for TFLite Micro,
which takes the bounds in the input's steps."""

FIXED: Mapping[tuple[str, str], tuple[float, int]] = {
    ("LOGISTIC", "int8"): (1 / 256, -128),
    ("SOFTMAX", "int8"): (1 / 256, -128),
    ("TANH", "int8"): (1 / 128, 0),
    ("L2_NORMALIZATION", "int8"): (1 / 128, 0),
    ("LOG_SOFTMAX", "int8"): (16 / 256, 127),
    ("LOGISTIC", "int16"): (1 / 32768, 0),
    ("SOFTMAX", "int16"): (1 / 32768, 0),
    ("TANH", "int16"): (1 / 32768, 0),
}
"""Operators whose kernels know one output scale and zero point only, by the output's type."""


@dataclass(frozen=True)
class _Places:
    """Where a layer has its input and its bias among its inputs, weights second; the weights' axis with scales."""

    source: int
    bias: int
    axis: int


_WEIGHTED: Mapping[str, _Places] = {
    "CONV_2D": _Places(0, 2, 0),
    "DEPTHWISE_CONV_2D": _Places(0, 2, 3),
    "FULLY_CONNECTED": _Places(0, 2, 0),
    "TRANSPOSE_CONV": _Places(2, 3, 0),
}
_QUANTIZED = ("int8", "int16")
_NEAR = 1e-5
_NEAR_BIAS = 1e-4
_LOWEST_WEIGHT = -127
_Scale = tuple[float, int]


def check_constraints(graph: Graph) -> None:
    """Refuse a graph that breaks one.

    Raises:
        ConversionError: the first operator that does, and how.
    """
    for operator in graph.operators:
        for problem in _problems(graph, operator):
            name = graph.tensor_name(int(operator.outputs[0]))
            raise ConversionError(
                f"the quantized {graph.operator_name(operator)} {name!r} is not what TFLite's specification asks for: "
                f"{problem}. Runtimes would compute something else without a word, so no file is written; this is a "
                "bug in embedlite, please report it with the model."
            )


def _problems(graph: Graph, operator: Any) -> Iterator[str]:
    kind, result = graph.operator_name(operator), int(operator.outputs[0])
    places = _WEIGHTED.get(kind)
    apart = () if places is None else (1, places.bias)
    read = [int(index) for place, index in enumerate(operator.inputs) if index >= 0 and place not in apart]
    ends = [index for index in [*read, *map(int, operator.outputs)] if graph.dtype(index) in _QUANTIZED]
    several = next((index for index in ends if len(_scales(graph, index)) > 1), None)
    if several is not None:
        yield f"{graph.tensor_name(several)!r} has {len(_scales(graph, several))} scales, not one"
    scales = [scale for index in ends if (scale := _scale(graph, index)) is not None]
    if kind in ALIKE and scales and len(scales) < len(ends):
        yield "some of its tensors have a scale and others none"
    if kind in ALIKE and any(not _same(scale, scales[0]) for scale in scales[1:]):
        yield f"its tensors have the scales and zero points {', '.join(f'{s:g} {z}' for s, z in scales)}, not one"
    fixed, written = FIXED.get((kind, graph.dtype(result))), _scale(graph, result)
    if fixed is not None and written is not None and not _same(written, fixed):
        yield f"its output has scale {written[0]:g} and zero point {written[1]}, not {fixed[0]:g} and {fixed[1]}"
    for index in ends:
        scale = _scale(graph, index)
        if scale is not None and graph.dtype(index) == "int16" and scale[1] != 0:
            yield f"a 16-bit tensor has the zero point {scale[1]}, not 0"
    if places is not None:
        yield from _weight_problems(graph, operator, places)


def _weight_problems(graph: Graph, operator: Any, places: _Places) -> Iterator[str]:
    inputs = [int(i) for i in operator.inputs]
    values, scales = graph.constant(inputs[1]), _scales(graph, inputs[1])
    if values is None or values.dtype != np.int8 or not len(scales):
        return
    quantization = graph.tensor(inputs[1]).quantization
    if np.any(np.asarray(quantization.zeroPoint)):
        yield "its weights have a zero point"
    if values.min() < _LOWEST_WEIGHT:
        yield f"its weights reach {values.min()}, and {_LOWEST_WEIGHT} is the lowest"
    axis, channels = int(quantization.quantizedDimension), values.shape[places.axis]
    if len(scales) > 1 and (axis, len(scales)) != (places.axis, channels):
        yield f"its weights have {len(scales)} scales along axis {axis}, not {channels} along axis {places.axis}"
    source = _scale(graph, inputs[places.source])
    if source is None or len(inputs) <= places.bias or inputs[places.bias] < 0:
        return
    wanted, found = source[0] * scales, _scales(graph, inputs[places.bias])
    if len(found) != len(wanted) or not np.allclose(found, wanted, rtol=_NEAR_BIAS, atol=0):
        yield "its bias does not have the scale of its input times that of its weights"
    elif np.any(np.asarray(graph.tensor(inputs[places.bias]).quantization.zeroPoint)):
        yield "its bias has a zero point"


def _scales(graph: Graph, index: int) -> NDArray[np.float64]:
    """All scales of a tensor; none where it is not quantized."""
    quantization = graph.tensor(index).quantization
    return np.asarray([] if quantization is None or quantization.scale is None else quantization.scale, np.float64)


def _scale(graph: Graph, index: int) -> _Scale | None:
    """Scale and zero point of an activation that has one of each."""
    scales = _scales(graph, index)
    if graph.dtype(index) not in _QUANTIZED or len(scales) != 1:
        return None
    return float(scales[0]), int(graph.tensor(index).quantization.zeroPoint[0])


def _same(one: _Scale, other: _Scale) -> bool:
    return one[1] == other[1] and abs(one[0] - other[0]) <= _NEAR * other[0]
