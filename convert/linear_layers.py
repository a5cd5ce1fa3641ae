"""A quantized graph beside the float graph that it was made from, with constants that can be replaced.

Corrections change the stored values of biases and weights, layer after layer: what a layer is given depends on what
was done to those before it. So the graph is run from its input up to a layer, again for each layer, and the constants
are overwritten where they lie in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ..runtime.flatbuffer import ModelInfo, read_flatbuffer
from ..runtime.interpreters import find_runtime
from ..runtime.layer_match import match_graphs
from ..runtime.preprocess import dequantize
from ..runtime.subgraph import cut, runner
from .graph import Graph
from .run import map_images

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators with weights that corrections know."""

_T = TypeVar("_T")
Values = NDArray[Any]
Run = Callable[[NDArray[np.float32]], Values]


@dataclass(frozen=True)
class LinearLayer:
    """A convolution or dense layer of the quantized graph.

    Attributes:
        kind: one of :data:`KINDS`.
        name: of the tensor that it writes.
        place: among the operators of the quantized graph.
        float_place: of its counterpart in the float graph.
        tensors: in the quantized graph the indices of input, weights, bias and output.
        float_tensors: likewise in the float graph.
        options: the operator's ``builtinOptions`` (strides, padding, activation function).
    """

    kind: str
    name: str
    place: int
    float_place: int
    tensors: tuple[int, int, int, int]
    float_tensors: tuple[int, int, int, int]
    options: Any


class PairedGraph:
    """The quantized graph, its float original, and the images that both are run on.

    Attributes:
        layers: the linear layers that compute with integers and have a counterpart, in the order of execution.
    """

    def __init__(
        self, quantized: bytes, original: bytes, images: Sequence[NDArray[np.float32]], threads: int | None
    ) -> None:
        """Match the two graphs.

        Args:
            quantized: float-in, float-out, with quantized operators between; it is copied.
            original: the float graph that it was made from.
            images: model-ready, (H, W, C) float32.
            threads: processors; default all.

        Raises:
            RequestError: the graphs do not belong together.
        """
        self._images, self._threads, self._runtime = images, threads, find_runtime()
        graph, self._float_graph = Graph(quantized), Graph(original)
        match = match_graphs(read_flatbuffer(quantized), read_flatbuffer(original))
        found = (_layer(graph, self._float_graph, place, other) for place, other in match.operators.items())
        self.layers = tuple(layer for layer in found if layer is not None)
        for layer in self.layers:
            # Equal constants share a buffer, and each is to change by itself.
            for index in layer.tensors[1:3]:
                values = graph.constant(index)
                assert values is not None
                graph.make_constant(index, values)
        self._data, self._original = bytearray(graph.to_bytes()), original
        self._info, self._float_info = read_flatbuffer(bytes(self._data)), read_flatbuffer(original)

    def to_bytes(self) -> bytes:
        """The quantized graph as it is now."""
        return bytes(self._data)

    def constant(self, index: int) -> Values:
        """A copy of a constant's stored values."""
        tensor = self._info.tensors[index]
        return np.frombuffer(self._bytes(index).tobytes(), tensor.dtype).reshape(tensor.shape)

    def float_constant(self, index: int) -> NDArray[np.float64]:
        """A constant of the float graph."""
        values = self._float_graph.constant(index)
        assert values is not None
        return values.astype(np.float64)

    def scales(self, index: int, count: int) -> NDArray[np.float64]:
        """A constant's step sizes, one for each of ``count`` channels."""
        return np.broadcast_to(np.asarray(self._info.tensors[index].scale, np.float64), (count,))

    def replace(self, index: int, values: NDArray[np.float64]) -> None:
        """Overwrite a constant with whole numbers; they are kept within its type, biases well within."""
        dtype = np.dtype(self._info.tensors[index].dtype)
        # 8-bit weights are symmetric. A bias leaves room for the sum that it is the start of.
        limit = 127 if dtype == np.int8 else float(np.iinfo(dtype).max // 2)
        stored = np.clip(np.rint(values), -limit, limit).astype(dtype)
        self._bytes(index)[:] = np.frombuffer(stored.tobytes(), np.uint8)

    def rescale(self, layer: LinearLayer, scales: NDArray[np.float32]) -> None:
        """Give a layer's weights other step sizes, one for each output channel, and its bias those that follow."""
        _, weights, bias, _ = layer.tensors
        step = np.float32(self._info.tensors[layer.tensors[0]].scale[0])
        subgraph = schema.Model.GetRootAs(self._data, 0).Subgraphs(0)
        for index, values in ((weights, scales), (bias, scales * step)):
            subgraph.Tensors(index).Quantization().ScaleAsNumpy()[:] = values
        self._info = read_flatbuffer(bytes(self._data))

    def inputs(self, layer: LinearLayer, take: Callable[[Values], _T]) -> list[_T]:
        """What ``take`` makes of a layer's input, (1, ...) in real numbers, for each image."""
        return self._each([self._quantized(layer.place, layer.tensors[0])], take)

    def both_inputs(self, layer: LinearLayer, take: Callable[[Values, Values], _T]) -> list[_T]:
        """What ``take`` makes of a layer's input in the quantized and in the float graph, for each image."""
        return self._each(
            [self._quantized(layer.place, layer.tensors[0]), self._float(layer.float_place, layer.float_tensors[0])],
            take,
        )

    def both_outputs(self, layer: LinearLayer, take: Callable[[Values, Values], _T]) -> list[_T]:
        """The same of a layer's output."""
        return self._each(
            [self._quantized(layer.place, layer.tensors[3]), self._float(layer.float_place, layer.float_tensors[3])],
            take,
        )

    def _each(self, makers: Sequence[Callable[[], Run]], take: Callable[..., _T]) -> list[_T]:
        def make() -> Callable[[NDArray[np.float32]], _T]:
            runs = [maker() for maker in makers]
            return lambda image: take(*(run(image) for run in runs))

        return map_images(make, self._images, self._threads)

    def _quantized(self, place: int, output: int) -> Callable[[], Run]:
        """Makes the quantized graph up to an operator: from an image to one tensor in real numbers."""
        tensor, part = self._info.tensors[output], _prefix(bytes(self._data), self._info, place, output)

        def make() -> Run:
            run = runner(self._runtime, part, self._info.wiring.inputs, [output], 1)
            return lambda image: dequantize(run([image[None]])[0], tensor.scale[0], tensor.zero_point[0])

        return make

    def _float(self, place: int, output: int) -> Callable[[], Run]:
        part = _prefix(self._original, self._float_info, place, output)

        def make() -> Run:
            run = runner(self._runtime, part, self._float_info.wiring.inputs, [output], 1)
            return lambda image: run([image[None]])[0]

        return make

    def _bytes(self, index: int) -> NDArray[np.uint8]:
        """A constant's bytes where they lie in the file."""
        model = schema.Model.GetRootAs(self._data, 0)
        place = model.Subgraphs(0).Tensors(index).Buffer()
        found: NDArray[np.uint8] = model.Buffers(place).DataAsNumpy()
        return found


def _layer(graph: Graph, original: Graph, place: int, other: int) -> LinearLayer | None:
    operator, counterpart = graph.operators[place], original.operators[other]
    kind = graph.operator_name(operator)
    if kind not in KINDS or len(operator.inputs) < 3 or len(counterpart.inputs) < 3:
        return None
    tensors, floats = (
        (int(op.inputs[0]), int(op.inputs[1]), int(op.inputs[2]), int(op.outputs[0])) for op in (operator, counterpart)
    )
    constant = all(
        index >= 0 and owner.constant(index) is not None
        for owner, indices in ((graph, tensors[1:3]), (original, floats[1:3]))
        for index in indices
    )
    integers = all(graph.dtype(index) in ("int8", "int16") for index in (tensors[0], tensors[3]))
    if not constant or not integers or graph.dtype(tensors[1]) != "int8":
        return None
    name = original.tensor_name(floats[3])
    return LinearLayer(kind, name, place, other, tensors, floats, operator.builtinOptions)


def _prefix(flatbuffer: bytes, info: ModelInfo, place: int, output: int) -> bytes:
    return cut(flatbuffer, range(place + 1), info.wiring.inputs, [output])
