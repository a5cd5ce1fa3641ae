"""Which tensor of a float graph a quantized graph's tensor stands for.

Quantizing adds QUANTIZE and DEQUANTIZE, renames the ends of the graph, and may leave out the operators after the raw
embedding; what is between keeps its order and its wiring. So an operator's counterpart is the one of the same kind
that reads the counterparts of its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError
from .flatbuffer import ModelInfo, TensorInfo

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
"""Operators whose output stands for the same values as their input."""


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
            continue
        # An operator that was spelled out: its last step writes the tensor that it wrote.
        tensors.update({index: same for index in writes if (same := find.named(candidate.tensors[index])) is not None})
        if any(candidate.tensors[index].scale for index in writes):
            lost += 1
    result, other_result = candidate.wiring.outputs[0], reference.wiring.outputs[0]
    if candidate.outputs[0].shape == reference.outputs[0].shape:
        # After the embedding's last layer the two may compute the same in another way.
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

    def named(self, tensor: TensorInfo) -> int | None:
        """The activation with a tensor's name and shape."""
        return next(
            (
                index
                for index in sorted(self._activations)
                if (found := self._info.tensors[index]).name == tensor.name and found.shape == tensor.shape
            ),
            None,
        )

    def _output(self, place: int) -> TensorInfo:
        return self._info.tensors[self._info.wiring.operators[place][1][0]]
