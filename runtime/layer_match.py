"""Which tensor of a float graph a quantized graph's tensor stands for, and in which scale of its own.

Quantizing adds QUANTIZE and DEQUANTIZE, renames the ends of the graph, and may leave out the operators behind the raw
embedding; what is between keeps its order and its wiring. So an operator's counterpart is the one of the same kind
that reads the counterparts of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .flatbuffer import ModelInfo, TensorInfo

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
"""Operators whose output stands for the same values as their input."""

# Axis of the output channels in a convolution's weights; the input channels are the last axis of both.
_OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}

_SAME_SCALE = 0.02
"""Rounding a row of weights to 8 bits changes its size by less than this."""


@dataclass(frozen=True)
class Match:
    """What belongs together in a candidate's graph and in its float reference's.

    Attributes:
        tensors: index of an activation in the candidate, and of the one it stands for in the reference.
        operators: likewise, places of operators; without :data:`CONVERSIONS`.
        lost: operators of the candidate on quantized values that have no counterpart.
    """

    tensors: dict[int, int]
    operators: dict[int, int]
    lost: int


def activations(info: ModelInfo) -> set[int]:
    """Indices of the tensors that depend on the graph's input: no weights, not even stored ones that are unpacked."""
    found = set(info.wiring.inputs)
    for reads, writes in info.wiring.operators:
        if found.intersection(reads):
            found.update(writes)
    return found


def match_graphs(candidate: ModelInfo, reference: ModelInfo) -> Match:
    """Match a quantized graph with the float graph that it was made from.

    Raises:
        RequestError: they do not belong together.
    """
    mine = activations(candidate)
    tensors = dict(zip(candidate.wiring.inputs, reference.wiring.inputs, strict=True))
    operators: dict[int, int] = {}
    lost = 0
    find = _Finder(reference)
    for place, (reads, writes) in enumerate(candidate.wiring.operators):
        inputs = [index for index in reads if index in mine]
        kind = candidate.operators[place].name
        if not inputs:
            continue
        if kind in CONVERSIONS:
            if inputs[0] in tensors:
                tensors[writes[0]] = tensors[inputs[0]]
            continue
        other = find(kind, [tensors.get(index) for index in inputs], [candidate.tensors[index] for index in writes])
        if other is not None:
            operators[place] = other
            tensors.update(zip(writes, reference.wiring.operators[other][1], strict=True))
        elif any(candidate.tensors[index].scale for index in writes):
            lost += 1
    result, other_result = candidate.wiring.outputs[0], reference.wiring.outputs[0]
    if candidate.outputs[0].shape == reference.outputs[0].shape:
        # Behind the embedding's last layer the two may compute the same in another way.
        tensors.setdefault(result, other_result)
    if not operators or result not in tensors or candidate.inputs[0].shape != reference.inputs[0].shape:
        raise RequestError(
            "--layers: the candidate's operators have no counterparts in the reference, so it is not the float model "
            "that the candidate was made from. Name the float32 file of the same export, or the original."
        )
    return Match(tensors, operators, lost)


class _Finder:
    """Looks up operators of the reference by kind, inputs and shapes of the outputs."""

    def __init__(self, reference: ModelInfo) -> None:
        self._info = reference
        self._activations = activations(reference)

    def __call__(self, kind: str, inputs: list[int | None], outputs: list[TensorInfo]) -> int | None:
        """The place of the operator; with several that read the same, the one whose output has the same name."""
        alike = [
            place
            for place, (reads, writes) in enumerate(self._info.wiring.operators)
            if self._info.operators[place].name == kind
            and [index for index in reads if index in self._activations] == inputs
            and [self._info.tensors[index].shape for index in writes] == [tensor.shape for tensor in outputs]
        ]
        named = [place for place in alike if self._output(place).name == outputs[0].name]
        return next(iter(named or alike), None)

    def _output(self, place: int) -> TensorInfo:
        return self._info.tensors[self._info.wiring.operators[place][1][0]]


def channel_gains(
    candidate: ModelInfo,
    reference: ModelInfo,
    match: Match,
    constant: Callable[[int], NDArray[Any]],
    float_constant: Callable[[int], NDArray[Any]],
) -> dict[int, NDArray[np.float64]]:
    """The factors by which an equalized graph's activations are larger than the reference's, channel by channel.

    Equalization divides output channel c of a convolution by s_c and multiplies the next one's input channel c by it
    (embedlite.convert.equalize). Its factors are read off the weights, which no activation range touches, so that a
    fault in a range is not taken for a factor: with W the reference's weights, g the gain of the input, w the
    candidate's, the gain of output channel o is the least-squares solution of w[o] = gain W[o] / g.

    Args:
        candidate: the quantized graph.
        reference: the float graph.
        match: of the two.
        constant: the stored values of the candidate's constant with an index.
        float_constant: of the reference's.

    Returns:
        (C,) float64 for each activation of the candidate that is rescaled.
    """
    readers: dict[int, list[int]] = {}
    for place, (reads, _) in enumerate(candidate.wiring.operators):
        for index in reads:
            readers.setdefault(index, []).append(place)
    gains: dict[int, NDArray[np.float64]] = {}
    for place, other in match.operators.items():
        kind, (reads, writes) = candidate.operators[place].name, candidate.wiring.operators[place]
        following = [candidate.operators[reader].name for reader in readers.get(writes[0], [])]
        if kind not in _OUTPUT_AXIS or len(following) != 1 or following[0] not in _OUTPUT_AXIS:
            continue
        if not candidate.tensors[reads[1]].constant:
            continue
        stored = _dequantized(candidate.tensors[reads[1]], constant(reads[1]), _OUTPUT_AXIS[kind])
        true = float_constant(reference.wiring.operators[other][0][1]).astype(np.float64)
        if reads[0] in gains:
            true = true / gains[reads[0]]
        rows = tuple(axis for axis in range(true.ndim) if axis != _OUTPUT_AXIS[kind])
        power = (true * true).sum(axis=rows)
        gain = np.divide((stored * true).sum(axis=rows), power, out=np.ones_like(power), where=power > 0)
        gain[gain <= 0] = 1
        if np.abs(gain - 1).max() > _SAME_SCALE:
            gains[writes[0]] = gain
    return gains


def _dequantized(tensor: TensorInfo, values: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Weights as real numbers, from one scale or from one for each place along ``axis``."""
    if not tensor.scale:
        return values.astype(np.float64)
    shape = [1] * values.ndim
    shape[axis] = -1 if len(tensor.scale) > 1 else 1
    scale, zero = (np.reshape(np.asarray(part, np.float64), shape) for part in (tensor.scale, tensor.zero_point))
    return (values.astype(np.float64) - zero) * scale
