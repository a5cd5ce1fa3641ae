"""A graph run in stretches: what it computed up to an operator is kept of every image, and the next run starts there.

Corrections go through the layers in the order of execution. Run from the image to each of them, a graph of twenty
layers would be computed ten times over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ....runtime.backends.interpreters import find_runtime
from ....runtime.backends.subgraph import cut, runner
from ....runtime.model.flatbuffer import ModelInfo
from ....runtime.model.tensor_match import activations
from ...graph.run import Values, map_images

MOST_KEPT = 96 << 20
"""Bytes of activations that are kept of all images together; where more are alive, the last place that fitted stays."""

_T = TypeVar("_T")
_State = dict[int, NDArray[np.generic]]


class Walk:
    """Where a graph stands, for each image; only the activations that later operators read are in memory."""

    def __init__(self, info: ModelInfo, images: Sequence[Values], threads: int | None) -> None:
        """Stand before the first operator.

        Args:
            info: the graph's tensors and wiring, which do not change; its constants may.
            images: model-ready, (H, W, C) float32.
            threads: processors; default all.
        """
        self._info, self._images, self._threads, self._runtime = info, images, threads, find_runtime()
        self._activations = activations(info)
        self._start()

    def reach(
        self, flatbuffer: bytes | bytearray, place: int, tensor: int
    ) -> Callable[[], Callable[[int], NDArray[np.generic]]]:
        """Walk to an operator, back to the start first if it has been passed.

        Args:
            flatbuffer: the graph as it is now.
            place: of the operator.
            tensor: index of one of its inputs or outputs.

        Returns:
            Makes, once for each thread, a function from an image's number to the tensor's value as it is stored.
        """
        if place < self._place:
            self._start()
        self._advance(flatbuffer, place)
        return self._stretch(flatbuffer, place + 1, [tensor], lambda _, found: found[tensor])

    def changed(self, tensor: int) -> None:
        """Tell that a constant has other values now; what was computed with the old ones is dropped."""
        if any(tensor in reads for reads, _ in self._info.wiring.operators[: self._place]):
            self._start()

    def _start(self) -> None:
        (source,) = self._info.wiring.inputs
        self._place = 0
        self._states: list[_State] = [{source: image[None]} for image in self._images]

    def _advance(self, flatbuffer: bytes | bytearray, place: int) -> None:
        alive = self._alive(place)
        bytes_alive = sum(
            np.dtype(tensor.dtype).itemsize * int(np.prod(tensor.shape, dtype=np.int64))
            for tensor in (self._info.tensors[index] for index in alive)
        )
        if place == self._place or bytes_alive * len(self._images) > MOST_KEPT:
            return

        def keep(number: int, found: _State) -> None:
            self._states[number] = found

        map_images(self._stretch(flatbuffer, place, alive, keep), range(len(self._images)), self._threads)
        self._place = place

    def _stretch(
        self, flatbuffer: bytes | bytearray, end: int, wanted: Sequence[int], take: Callable[[int, _State], _T]
    ) -> Callable[[], Callable[[int], _T]]:
        """Makes what runs the operators from where the graph stands to ``end``, which is not run, for one image."""
        operators = [*self._unpacking(), *range(self._place, end)]
        known = self._states[0]
        computed = [index for index in wanted if index not in known]
        reads = {index for place in operators for index in self._info.wiring.operators[place][0]}
        given = [index for index in known if index in reads]
        part = cut(flatbuffer, operators, given, computed) if computed else b""

        def make() -> Callable[[int], _T]:
            run = runner(self._runtime, part, given, computed, 1) if computed else None

            def one(number: int) -> _T:
                state = self._states[number]
                values = [] if run is None else run([state[index] for index in given])
                new = dict(zip(computed, values, strict=True))
                return take(number, {index: new[index] if index in new else state[index] for index in wanted})

            return one

        return make

    def _alive(self, place: int) -> list[int]:
        """What operators from ``place`` on read of what those before it wrote, or of the graph's input."""
        wiring = self._info.wiring
        written = [*wiring.inputs, *(index for _, writes in wiring.operators[:place] for index in writes)]
        reads = {index for needs, _ in wiring.operators[place:] for index in needs}.union(wiring.outputs)
        return [index for index in written if index in reads and index in self._activations]

    def _unpacking(self) -> list[int]:
        """The operators before where the graph stands that only unpack weights.

        They run again in each stretch: an interpreter unpacks once, for itself, and answers whatever lies in its memory
        to who asks for the result.
        """
        done = enumerate(self._info.wiring.operators[: self._place])
        return [place for place, (_, writes) in done if not self._activations.intersection(writes)]
