"""int16x8: ranges of its own, and scales that no interpreter refuses.

With 65,536 steps nothing is gained by clipping: the range is twice what was seen of all calibration images. What is
chosen for int8, with its 256 steps, costs 8 to 24 dB here. Weights have 8 bits as there, so equalized channels may
help: where one branch is a thousand times another, by 20 dB and more.

TFLite has two kernels for the sum of two 16-bit tensors. If all three scales are powers of two it takes the one that
shifts, and refuses at runtime where both inputs have to be shifted. The other knows any scale, so a range is widened by
0.02 dB until one of the three scales is none.

tflite-runtime 2.14 refuses a 16-bit RSQRT. So the variance of a layer normalization and its root are float, which is
nearer, too: most variances are small beside their range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ...calibration import Ranges
from ...calibration.auto import better
from ...runtime.drift.wording import gained
from ...runtime.errors import InterpreterFailedError
from ..errors import ConversionError
from ..graph.graph import Graph
from .equalize import equalize
from .litert import quantize
from .trial import Trial

_NEAR = 2e-3
"""The kernel takes a scale for a power of two whose logarithm is as near as 0.001 to a whole number."""

_WIDER = 2.0 ** (2 * _NEAR)
_MOST_ROUNDS = 4
_SUMS = ("ADD", "SUB")

_VARIANCE = ("ADD", "MAXIMUM", "MEAN", "SQUARED_DIFFERENCE")
"""What lies between an activation and the root of its variance."""

_STANDARD_ERRORS = 2.3
"""See :mod:`embedlite.convert.quantize.correct`."""

_HEADROOM = 2.0
"""Ranges are so many times what was seen: of 16 bits one is free, and images unlike those clip nothing then."""


def quantize_wide(flatbuffer: bytes, ranges: Ranges, keep_float: Sequence[str], *, older: bool = False) -> bytes:
    """The int16x8 graph from the float one; inputs and outputs stay float32.

    Args:
        flatbuffer: the float graph.
        ranges: minimum and maximum of its activations.
        keep_float: operators that stay float, by the name of their first output tensor.
        older: for tflite-runtime 2.14, see :func:`embedlite.convert.quantize.litert.quantize`.

    Raises:
        ConversionError: litert-quantizer refused.
    """
    flatbuffer, ranges = spelled_out(flatbuffer, ranges)
    keep_float = [*keep_float, *_roots(Graph(flatbuffer))]
    roomy = {name: (_HEADROOM * low, _HEADROOM * high) for name, (low, high) in ranges.limits.items()}
    ranges = replace(ranges, limits=roomy)
    quantized = quantize(flatbuffer, "int16x8", ranges, keep_float, older=older)
    for _ in range(_MOST_ROUNDS):
        names = _shifting(quantized)
        if not names:
            break
        ranges = _widened(flatbuffer, ranges, names)
        quantized = quantize(flatbuffer, "int16x8", ranges, keep_float, older=older)
    return quantized


def equalized_wide(flatbuffer: bytes, minmax: Ranges, channels: Ranges) -> tuple[bytes, Ranges]:
    """The float graph with its channels equalized, and the ranges of its activations.

    Args:
        flatbuffer: the float graph.
        minmax: minimum and maximum of its activations.
        channels: of some of the images, with the channels of what
            :func:`embedlite.convert.quantize.equalize.equalizable` names.
    """
    equalized, ranges = equalize(flatbuffer, channels, wide=True)

    def limit(name: str, side: int) -> float:
        seen = channels.limits[name][side] if name in channels.limits else 0.0
        return ranges.limits[name][side] * (minmax.limits[name][side] / seen if seen else 1.0)

    limits = {name: (limit(name, 0), limit(name, 1)) for name in minmax.limits if name in ranges.limits}
    return equalized, replace(minmax, limits={**minmax.limits, **limits})


def choose_wide(
    plain: tuple[bytes, Ranges],
    equalized: tuple[bytes, Ranges],
    keep_float: Sequence[str],
    trial: Trial | None,
    decisions: list[str],
) -> bool:
    """Whether int16x8 comes clearly closer to float by the equalized graph.

    Args:
        plain: the float graph as it is, and its ranges.
        equalized: likewise with its channels equalized.
        keep_float: see :func:`quantize_wide`.
        trial: judges; None finds nothing better.
        decisions: says so where it is better.
    """
    if trial is None:
        return False
    try:
        before, after = (trial.errors_of(quantize_wide(*graph, keep_float)) for graph in (plain, equalized))
    except (ConversionError, InterpreterFailedError):
        # Whether there is such a file at all is found out where it is made.
        return False
    if not better(after, before, _STANDARD_ERRORS):
        return False
    decisions.append(
        f"channels were equalized for int16x8: {gained(trial.sqnr(before), trial.sqnr(after))} on {len(trial)} "
        "calibration images. --no-equalize leaves them as they are."
    )
    return True


def _roots(graph: Graph) -> list[str]:
    """Roots of variances and what they alone are computed from, by the name of what the operators write."""
    producers, consumers = graph.links()
    found = []
    for operator in graph.operators:
        if graph.operator_name(operator) != "RSQRT":
            continue
        found.append(graph.tensor_name(int(operator.outputs[0])))
        index = int(operator.inputs[0])
        while len(consumers[index]) == 1 and index in producers and graph.operator_name(producers[index]) in _VARIANCE:
            found.append(graph.tensor_name(index))
            index = graph.inputs(producers[index])[0]
    return found


def spelled_out(flatbuffer: bytes, ranges: Ranges) -> tuple[bytes, Ranges]:
    """The float graph with PRELU, LEAKY_RELU and HARD_SWISH as sums and products, and its ranges.

    No runtime but LiteRT has the first two in 16 bits, and none the last. relu(x) + a (x - relu(x)), and
    x (relu6(x + 3) / 6): all of whose operators are there in 16 bits everywhere.
    """
    graph, limits = Graph(flatbuffer), dict(ranges.limits)
    for operator in list(graph.operators):
        kind, result = graph.operator_name(operator), int(operator.outputs[0])
        if kind not in ("PRELU", "LEAKY_RELU", "HARD_SWISH"):
            continue
        source, name = int(operator.inputs[0]), graph.tensor_name(result)
        if name not in limits or graph.tensor_name(source) not in limits:
            continue
        if kind == "HARD_SWISH":
            parts = _swish(graph, source, result, limits)
        elif kind == "LEAKY_RELU":
            parts = _slopes(graph, source, result, np.array(operator.builtinOptions.alpha, np.float32), limits)
        elif (slopes := graph.constant(int(operator.inputs[1]))) is not None:
            parts = _slopes(graph, source, result, slopes, limits)
        else:
            continue
        place = graph.position(operator)
        graph.operators[place : place + 1] = parts
    if len(limits) == len(ranges.limits):
        return flatbuffer, ranges
    return graph.to_bytes(), replace(ranges, limits=limits)


def _part(
    graph: Graph, result: int, part: str, limit: tuple[float, float], limits: dict[str, tuple[float, float]]
) -> int:
    name = f"{graph.tensor_name(result)}/{part}"
    limits[name] = limit
    return graph.add_tensor(name, graph.shape(result))


def _slopes(
    graph: Graph, source: int, result: int, slopes: NDArray[np.float32], limits: dict[str, tuple[float, float]]
) -> list[Any]:
    low, high = limits[graph.tensor_name(source)]
    low, high = min(low, 0.0), max(high, 0.0)
    ends = [low * float(slopes.max()), low * float(slopes.min()), 0.0]
    above = _part(graph, result, "above", (0.0, high), limits)
    below = _part(graph, result, "below", (low, 0.0), limits)
    times = _part(graph, result, "times", (min(ends), max(ends)), limits)
    factor = graph.add_constant(f"{graph.tensor_name(result)}/factor", slopes)
    return [
        graph.make_operator("RELU", [source], [above]),
        graph.make_operator("SUB", [source, above], [below], schema.SubOptionsT()),
        graph.make_operator("MUL", [below, factor], [times], schema.MulOptionsT()),
        graph.make_operator("ADD", [above, times], [result], schema.AddOptionsT()),
    ]


def _swish(graph: Graph, source: int, result: int, limits: dict[str, tuple[float, float]]) -> list[Any]:
    name, clipped = graph.tensor_name(result), schema.AddOptionsT()
    clipped.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    shifted = _part(graph, result, "shifted", (0.0, 6.0), limits)
    gate = _part(graph, result, "gate", (0.0, 1.0), limits)
    three, sixth = (graph.add_constant(f"{name}/{item}", np.array(item, np.float32)) for item in (3.0, 1 / 6))
    return [
        graph.make_operator("ADD", [source, three], [shifted], clipped),
        graph.make_operator("MUL", [shifted, sixth], [gate], schema.MulOptionsT()),
        graph.make_operator("MUL", [source, gate], [result], schema.MulOptionsT()),
    ]


def _shifting(quantized: bytes) -> set[str]:
    """Sums of 16-bit tensors whose scales are all powers of two, by the name of what they write."""
    graph, found = Graph(quantized), set[str]()
    for operator in graph.operators:
        if graph.operator_name(operator) not in _SUMS:
            continue
        ends = [*(int(index) for index in operator.inputs), int(operator.outputs[0])]
        if all(graph.dtype(index) == "int16" and _is_power_of_two(graph, index) for index in ends):
            found.add(graph.tensor_name(ends[-1]))
    return found


def _is_power_of_two(graph: Graph, index: int) -> bool:
    scale = graph.tensor(index).quantization.scale
    if len(scale) != 1 or scale[0] <= 0:
        return False
    exponent = math.log2(float(scale[0]))
    return abs(exponent - round(exponent)) < _NEAR


def _widened(flatbuffer: bytes, ranges: Ranges, names: set[str]) -> Ranges:
    """The ranges with those wider that the sums' tensors have, all that hold the same values alike."""
    graph, limits = Graph(flatbuffer), dict(ranges.limits)
    changed: set[tuple[float, float]] = set()
    for operator in graph.operators:
        written = graph.tensor_name(int(operator.outputs[0]))
        # What litert-quantizer adds to a name when it quantizes comes after the name.
        if any(name.startswith(written) for name in names):
            changed |= {
                limits[name]
                for i in (*operator.inputs, *operator.outputs)
                if (name := graph.tensor_name(int(i))) in limits
            }
    wider = {name: (low * _WIDER, high * _WIDER) for name, (low, high) in limits.items() if (low, high) in changed}
    return replace(ranges, limits={**limits, **wider})
