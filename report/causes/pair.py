"""A quantized file and the float file that it was made from, run side by side and in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.interpreters import find_runtime, open_interpreter
from ...runtime.backends.subgraph import cut, runner, with_constants
from ...runtime.errors import RequestError
from ...runtime.input.normalize import normalize
from ...runtime.input.preprocess import dequantize, quantize
from ...runtime.model.artifact import Artifact
from ...runtime.model.flatbuffer import TensorInfo
from ...runtime.model.tensor_match import activations, match_graphs
from .gains import OUTPUT_AXIS, channel_gains, dequantized

INTEGERS = ("int8", "uint8", "int16")
"""Types of quantized activations."""

SMALL = (*INTEGERS, "float16", "int4")
"""Types of quantized activations and weights."""

_CHUNK_BYTES = 256 << 20

Values = NDArray[Any]
Run = Callable[[Sequence[Values]], list[Values]]


class GraphPair:
    """Two files whose tensors are matched; indices are those of the flatbuffers.

    Attributes:
        match: see :func:`embedlite.runtime.model.tensor_match.match_graphs`.
        gains: of the candidate's activations, see :class:`embedlite.report.causes.gains.Gains`.
        mine: indices of the candidate's activations.
        other: indices of the reference's.
        output: index of the candidate's output.

    Raises:
        RequestError: they do not belong together.
        InterpreterFailedError: the interpreter refused one of them.
    """

    def __init__(self, candidate: Artifact, reference: Artifact, threads: int) -> None:
        self._runtime, self._threads = find_runtime(), threads
        self._candidate, self._reference = candidate, reference
        mine, other = candidate.info, reference.info
        own = candidate.contract
        if own is not None and own.normalization.copies > 1:
            raise RequestError(
                f"--layers: the candidate computes its last layer {own.normalization.copies} times, the float model "
                "once. Export without --wide-output and look at the layers of that file: all others are the same."
            )
        self.match = match_graphs(mine, other)
        self._constant = self._constants(candidate)
        gains = channel_gains(mine, other, reference.flatbuffer, self.match, self._constant)
        self.gains, self._constant_gains = gains.tensors, gains.constants
        self.mine, self.other = activations(mine), activations(other)
        self.output, self._result = mine.wiring.outputs[0], other.wiring.outputs[0]

    def chunk_size(self) -> int:
        """Images whose activations may be in memory at once."""
        sizes = [
            4 * int(np.prod(info.tensors[index].shape, dtype=np.int64))
            for info, indices in ((self._candidate.info, self.mine), (self._reference.info, self.other))
            for index in indices
        ]
        return max(1, _CHUNK_BYTES // sum(sizes))

    def all_values(
        self, images: Sequence[NDArray[np.float32]]
    ) -> tuple[list[dict[int, Values]], list[dict[int, Values]]]:
        """Every activation of the reference, and every matched one of the candidate as it is stored, for each image."""
        (mine_source,), (other_source,) = self._candidate.info.wiring.inputs, self._reference.info.wiring.inputs
        matched = [index for index in self.match.tensors if index != mine_source]
        floats = [index for index in self.other if index != other_source]
        run_mine = self._run(self._candidate, None, [mine_source], matched)
        run_float = self._run(self._reference, None, [other_source], floats)
        all_mine, all_floats = [], []
        for image in images:
            all_floats.append({other_source: image[None], **dict(zip(floats, run_float([image[None]]), strict=True))})
            stored = self.stored(mine_source, image[None])
            all_mine.append({mine_source: stored, **dict(zip(matched, run_mine([stored]), strict=True))})
        return all_floats, all_mine

    def operator(self, place: int, reads: Sequence[int], writes: Sequence[int]) -> tuple[Run, Run]:
        """One operator of the candidate, and its counterpart in the reference, each as a function of its activations.

        Args:
            place: of the operator in the candidate.
            reads: indices of its activations.
            writes: indices of its outputs.
        """
        mine = self._run(self._candidate, [*self._unpacking(place), place], reads, writes)
        if place not in self.match.operators:
            # A conversion: the float graph has nothing there, and hands its input on.
            return mine, list
        other = self.match.operators[place]
        outputs = self._reference.info.wiring.operators[other][1]
        return mine, self._run(self._reference, [other], [self.match.tensors[index] for index in reads], outputs)

    def with_small_weights(self, place: int, reads: Sequence[int], writes: Sequence[int]) -> Run | None:
        """The reference's operator with the candidate's weights and biases: what these alone make of its activations.

        Args:
            place: of the operator in the candidate.
            reads: indices of its activations.
            writes: indices of its outputs.

        Returns:
            A function of activations in the float graph's scale; None where no weights were rounded.
        """
        if self._unpacking(place):
            return self.operator(place, reads, writes)[0]
        if place not in self.match.operators:
            return None
        info, other = self._candidate.info, self.match.operators[place]
        theirs, outputs = self._reference.info.wiring.operators[other]
        rounded = {}
        for number, (mine, true) in enumerate(zip(info.wiring.operators[place][0], theirs, strict=False)):
            if mine < 0 or true < 0 or not info.tensors[mine].constant or not info.tensors[mine].scale:
                continue
            stored, wanted = info.tensors[mine], self._reference.info.tensors[true]
            if stored.shape == wanted.shape and wanted.dtype == "float32":
                axis = _axis(info.operators[place].name, stored)
                values = dequantized(stored, self._constant(mine), axis)
                rounded[true] = (values / self._constant_gains.get((other, number), 1.0)).astype(np.float32)
        if not rounded:
            return None
        inputs = [self.match.tensors[index] for index in reads]
        part = with_constants(cut(self._reference.flatbuffer, [other], inputs, outputs), rounded)
        return runner(self._runtime, part, inputs, outputs, self._threads)

    def clipped(self, index: int, values: Values) -> Values:
        """Values in the float graph's scale without what the candidate's tensor cannot hold, to half a step."""
        tensor = self._candidate.info.tensors[index]
        if tensor.dtype not in INTEGERS:
            return values
        (step, zero), held = _parameters(tensor), np.iinfo(tensor.dtype)
        gain = self.gains.get(index, 1.0)
        within = np.clip(values * gain, step * (held.min - zero - 0.5), step * (held.max - zero + 0.5))
        return (within / gain).astype(np.float32)

    def is_small(self, place: int) -> bool:
        """Whether an operator's weights or values are quantized, or were: float16 weights come through DEQUANTIZE."""
        info = self._candidate.info
        reads, writes = info.wiring.operators[place]
        touched = [index for index in (*reads, *writes) if index >= 0]
        return bool(self._unpacking(place)) or any(info.tensors[index].dtype in SMALL for index in touched)

    def after(self, changed: tuple[int, ...]) -> Callable[[Mapping[int, Values]], Values]:
        """The float operators that depend on some tensors, as a function from all activations to the embedding."""
        info = self._reference.info
        moved, places = set(changed), []
        for place, (reads, writes) in enumerate(info.wiring.operators):
            if moved.intersection(reads):
                places.append(place)
                moved.update(writes)
        if not places:
            return self.embedding
        made = {index for place in places for index in info.wiring.operators[place][1]}
        known = self.other - made
        read = sorted({index for place in places for index in info.wiring.operators[place][0]} & known)
        run = self._run(self._reference, places, read, [self._result])
        return lambda values: self.finish(run([values[index] for index in read])[0])

    def embedding(self, values: Mapping[int, Values]) -> Values:
        """The reference's embedding, from all its activations."""
        return self.finish(values[self._result])

    def finish(self, values: Values) -> Values:
        """The reference's embedding from its output: the normalization, where that is left to ``Encoder``."""
        contract = self._reference.contract
        if contract is None or contract.normalization.placement != "runtime":
            return values
        return normalize(values, contract.normalization)

    def stored(self, index: int, values: Values) -> Values:
        """The float graph's values as the candidate's tensor holds them."""
        tensor = self._candidate.info.tensors[index]
        if index in self.gains:
            values = (values * self.gains[index]).astype(np.float32)
        if tensor.dtype not in INTEGERS:
            return values
        return quantize(values, *_parameters(tensor), np.dtype(tensor.dtype))

    def real(self, index: int, stored: Values) -> Values:
        """The candidate's values in the float graph's scale."""
        tensor = self._candidate.info.tensors[index]
        real = dequantize(stored, *_parameters(tensor)) if tensor.dtype in INTEGERS else stored
        return (real / self.gains[index]).astype(np.float32) if index in self.gains else real

    def _run(
        self, artifact: Artifact, places: Sequence[int] | None, inputs: Sequence[int], outputs: Sequence[int]
    ) -> Run:
        every = range(len(artifact.info.wiring.operators))
        part = cut(artifact.flatbuffer, every if places is None else places, inputs, outputs)
        return runner(self._runtime, part, inputs, outputs, self._threads)

    def _constants(self, artifact: Artifact) -> Callable[[int], Values]:
        # Asked to keep its tensors, an interpreter that has none to read says so.
        interpreter = open_interpreter(self._runtime, artifact.flatbuffer, threads=1, keep_all_tensors=True)
        return lambda index: np.array(interpreter.get_tensor(index))

    def _unpacking(self, place: int) -> list[int]:
        """Places of the operators that only unpack an operator's weights."""
        wiring = self._candidate.info.wiring
        reads = {index for index in wiring.operators[place][0] if index not in self.mine}
        return [
            before
            for before, (_, writes) in enumerate(wiring.operators[:place])
            if reads.intersection(writes) and not self.mine.intersection(writes)
        ]


def _axis(kind: str, tensor: TensorInfo) -> int:
    """Along which axis a constant has a scale for each place; the first one where it has a single scale."""
    places = [place for place, size in enumerate(tensor.shape) if size == len(tensor.scale)]
    wanted = OUTPUT_AXIS.get(kind, 0)
    known = wanted in places or (kind in OUTPUT_AXIS and wanted < len(tensor.shape))
    return wanted if known else next(iter(places), 0)


def _parameters(tensor: TensorInfo) -> tuple[float, int]:
    return float(tensor.scale[0]), int(tensor.zero_point[0])
