"""Which version of an operator its types ask for.

litert-quantizer leaves every version at 1; tflite-runtime 2.14 then picks kernels by the wrong rules and can answer
zeros. The facts are those of LiteRT's ``op_version.cc`` (2.3), for the operators that occur in image encoders; an
operator that is not listed keeps the version that the converter gave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Signature:
    """What an operator's version depends on.

    Attributes:
        name: ``CONV_2D`` and so on.
        inputs: dtype names of the inputs; ``none`` for an absent one.
        outputs: dtype names of the outputs.
        ranks: ranks of the inputs.
        shapes_differ: whether a two-input operator broadcasts.
        per_channel: whether the tensor that may be per-channel (weights; the input of DEQUANTIZE) is.
        rescale: for MUL, product of the input scales over the output scale; 0 if not quantized.
        options: the schema's options object, None if there is none.
    """

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    ranks: Sequence[int]
    shapes_differ: bool
    per_channel: bool
    rescale: float
    options: Any


_INT8_IS_2 = frozenset(
    [
        "ABS",
        "SPACE_TO_DEPTH",
        "SPLIT_V",
        "SUM",
        "LOG_SOFTMAX",
        "GREATER",
        "LESS_EQUAL",
        "SQUARED_DIFFERENCE",
        "DEPTH_TO_SPACE",
        "ARG_MAX",
        "ARG_MIN",
        "L2_NORMALIZATION",
        "GELU",
    ]
)
_INT8_IS_2_INT16_IS_3 = frozenset(
    [
        "SOFTMAX",
        "MEAN",
        "MIRROR_PAD",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU6",
        "RELU",
        "RSQRT",
        "CONCATENATION",
        "LOGISTIC",
        "TANH",
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "PACK",
        "LESS",
        "GREATER_EQUAL",
        "BATCH_MATMUL",
    ]
)
_ALWAYS_1 = frozenset(
    [
        "RESHAPE",
        "SQRT",
        "SQUARE",
        "NEG",
        "SELECT_V2",
        "EXPAND_DIMS",
        "HARD_SWISH",
        "ELU",
        "PRELU",
        "EXP",
        "SHAPE",
    ]
)


def operator_version(signature: Signature) -> int | None:
    """The lowest version that defines this operator for these types; None for operators that are not listed."""
    first = signature.inputs[0] if signature.inputs else "none"
    name = signature.name
    if name in _SPECIAL:
        return _SPECIAL[name](signature)
    if name in _INT8_IS_2:
        return 2 if first == "int8" else 1
    if name in _INT8_IS_2_INT16_IS_3:
        return {"int8": 2, "int16": 3}.get(first, 1)
    return 1 if name in _ALWAYS_1 else None


def _conv_2d(s: Signature) -> int:
    if s.inputs[0] == "int16":
        return 8 if getattr(s.options, "quantizedBiasType", 0) else 4
    if s.inputs[0] == s.inputs[1] == "int8":
        return 3
    if s.inputs[1] == "int8":
        return 5 if s.per_channel else 2
    return 1


def _depthwise_conv_2d(s: Signature) -> int:
    if s.inputs[0] == "int16":
        return 5
    if s.inputs[0] == s.inputs[1] == "int8":
        return 3
    if s.inputs[1] == "int8":
        return 6 if s.per_channel else 4
    dilated = s.options is not None and (s.options.dilationWFactor != 1 or s.options.dilationHFactor != 1)
    return 2 if dilated else 1


def _fully_connected(s: Signature) -> int:
    hybrid = s.inputs[0] == "float32" and s.inputs[1] == "int8"
    if hybrid and s.per_channel:
        return 12
    if s.inputs[0] == "int16":
        return 11 if getattr(s.options, "quantizedBiasType", 0) else 7
    if len(s.inputs) == 2:
        return 6
    if s.options is not None and s.options.keepNumDims:
        return 5
    if s.inputs[0] == s.inputs[1] == "int8":
        return 4
    if hybrid:
        return 9 if s.options is not None and s.options.asymmetricQuantizeInputs else 3
    return 1


def _transpose_conv(s: Signature) -> int:
    if s.options is not None and s.options.fusedActivationFunction:
        return 4
    if len(s.inputs) == 4 and s.inputs[3] != "none":
        return 3
    return 2 if s.inputs[1] == "int8" else 1


def _mul(s: Signature) -> int:
    if s.inputs[0] == "int16":
        return 4
    if s.rescale >= 1:
        return 3
    return 2 if s.inputs[0] == "int8" else 1


def _add(s: Signature) -> int:
    if s.inputs[0] == "int16":
        return 3
    return 2 if s.inputs[0] == "int8" else 1


def _sub(s: Signature) -> int:
    if s.inputs[0] == "int16":
        return 5
    if s.shapes_differ and max(s.ranks) > 4:
        return 3
    return 2 if s.inputs[0] == "int8" else 1


def _div(s: Signature) -> int:
    return 2 if s.shapes_differ and max(s.ranks) > 4 else 1


def _maximum(s: Signature) -> int:
    if s.inputs[0] == "int16":
        return 4
    if s.shapes_differ and max(s.ranks) > 4:
        return 3
    return 2 if s.inputs[0] == "int8" else 1


def _pad(s: Signature) -> int:
    if s.ranks[0] > 4:
        return 4
    return {"int16": 3, "int8": 2}.get(s.inputs[0], 1)


def _transpose(s: Signature) -> int:
    if s.ranks[0] > 5:
        return 6
    if s.inputs[0] == "int16":
        return 5
    if s.ranks[0] > 4:
        return 4
    return 2 if s.inputs[0] == "int8" else 1


def _strided_slice(s: Signature) -> int:
    if s.options is not None and (s.options.ellipsisMask or s.options.newAxisMask):
        return 6
    if s.ranks[0] > 4:
        return 4
    return 2 if s.inputs[0] == "int8" else 1


def _slice(s: Signature) -> int:
    if s.ranks[0] > 4:
        return 5
    return {"int16": 4, "int8": 2}.get(s.inputs[0], 1)


def _resize(s: Signature) -> int:
    if s.inputs[0] == "int16":
        return 4
    if s.options is not None and s.options.halfPixelCenters:
        return 3
    if s.name == "RESIZE_NEAREST_NEIGHBOR" and s.options is not None and s.options.alignCorners:
        return 3
    return 2 if s.inputs[0] == "int8" else 1


def _split(s: Signature) -> int:
    return {"int16": 4, "int32": 3, "int8": 2}.get(s.inputs[1], 1)


def _dequantize(s: Signature) -> int:
    if s.inputs[0] in ("int16", "float16"):
        return 3
    if s.inputs[0] == "int8":
        return 5 if s.per_channel else 2
    return 1


def _quantize(s: Signature) -> int:
    return 2 if s.outputs[0] == "int16" else 1


def _equal(s: Signature) -> int:
    return {"int16": 4, "int8": 2}.get(s.inputs[0], 1)


def _leaky_relu(s: Signature) -> int:
    return 2 if s.inputs[0] == "int16" else 1


_SPECIAL = {
    "ADD": _add,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "DEQUANTIZE": _dequantize,
    "DIV": _div,
    "EQUAL": _equal,
    "FULLY_CONNECTED": _fully_connected,
    "LEAKY_RELU": _leaky_relu,
    "MAXIMUM": _maximum,
    "MINIMUM": _maximum,
    "MUL": _mul,
    "PAD": _pad,
    "PADV2": _pad,
    "QUANTIZE": _quantize,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SLICE": _slice,
    "SPLIT": _split,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _sub,
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transpose_conv,
}
