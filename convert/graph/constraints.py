"""What TFLite's quantization specification asks of scales, checked in every file before it is written.

Most runtimes do not look: MAXIMUM of two tensors with unequal scales runs everywhere, compares integers that mean
different things, and costs 5 to 7 dB without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import ConversionError
from .graph import Graph

ALIKE = frozenset(
    {
        "AVERAGE_POOL_2D",
        "BATCH_TO_SPACE_ND",
        "BROADCAST_TO",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
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

_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_NEAR = 1e-5
_NEAR_BIAS = 0.02
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
    ends = [*(int(i) for i in operator.inputs), *(int(i) for i in operator.outputs)]
    scales = [scale for index in ends if index >= 0 and (scale := _scale(graph, index)) is not None]
    if kind in ALIKE and any(not _same(scale, scales[0]) for scale in scales[1:]):
        yield f"its tensors have the scales and zero points {', '.join(f'{s:g} {z}' for s, z in scales)}, not one"
    fixed, written = FIXED.get((kind, graph.dtype(result))), _scale(graph, result)
    if fixed is not None and written is not None and not _same(written, fixed):
        yield f"its output has scale {written[0]:g} and zero point {written[1]}, not {fixed[0]:g} and {fixed[1]}"
    for index in ends:
        scale = None if index < 0 else _scale(graph, index)
        if scale is not None and graph.dtype(index) == "int16" and scale[1] != 0:
            yield f"a 16-bit tensor has the zero point {scale[1]}, not 0"
    if kind in _WEIGHTED:
        yield from _weight_problems(graph, operator)


def _weight_problems(graph: Graph, operator: Any) -> Iterator[str]:
    inputs = [int(i) for i in operator.inputs]
    source = _scale(graph, inputs[0])
    weights = graph.tensor(inputs[1]).quantization
    if source is None or graph.dtype(inputs[1]) != "int8" or weights is None or weights.scale is None:
        return
    if np.any(np.asarray(weights.zeroPoint)):
        yield "its weights have a zero point"
    if len(inputs) < 3 or inputs[2] < 0 or (bias := graph.tensor(inputs[2]).quantization) is None or bias.scale is None:
        return
    wanted = source[0] * np.asarray(weights.scale, np.float64)
    if len(bias.scale) != len(wanted) or not np.allclose(bias.scale, wanted, rtol=_NEAR_BIAS, atol=0):
        yield "its bias does not have the scale of its input times that of its weights"


def _scale(graph: Graph, index: int) -> _Scale | None:
    quantization = graph.tensor(index).quantization
    if graph.dtype(index) not in ("int8", "int16") or quantization is None or quantization.scale is None:
        return None
    if len(quantization.scale) != 1:
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _same(one: _Scale, other: _Scale) -> bool:
    return one[1] == other[1] and abs(one[0] - other[0]) <= _NEAR * other[0]
