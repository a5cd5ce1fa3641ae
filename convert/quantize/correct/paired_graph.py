"""A quantized graph beside the float graph that it was made from, with constants that can be replaced.

Corrections change the stored values of biases and weights, layer after layer: what a layer is given depends on what
was done to those before it. So both graphs are run layer by layer (:mod:`embedlite.convert.quantize.correct.walk`), and
the constants are overwritten where they lie in the file.

Convolutions as products of matrices: weights times the patches of the input, one for each place of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ....runtime.input.preprocess import dequantize
from ....runtime.model.flatbuffer import read_flatbuffer
from ....runtime.model.tensor_match import match_graphs
from ...graph.graph import Graph
from ...graph.run import map_images
from ..known_ranges import CLIPPING
from .imitation import Imitation
from .linear_layer import LinearLayer, constant_bytes, float_layer, integer_layer
from .walk import Walk

_T = TypeVar("_T")
Values = NDArray[Any]
Run = Callable[[int], Values]
"""From an image's number to a tensor."""


class PairedGraph:
    """The quantized graph, its float original, and the images that both are run on.

    Attributes:
        integers: the linear layers that compute with integers and have a counterpart, in the order of execution.
        layers: these, and one that computes in float with weights that are stored in 8 bits, if the graph ends in one.
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
        self._count, self._threads = len(images), threads
        graph, self._float_graph = Graph(quantized), Graph(original)
        match = match_graphs(read_flatbuffer(quantized), read_flatbuffer(original))
        found = (integer_layer(graph, self._float_graph, place, other) for place, other in match.operators.items())
        self.integers = tuple(layer for layer in found if layer is not None)
        ends = (float_layer(graph, self._float_graph, place, other) for place, other in match.operators.items())
        self.layers = (*self.integers, *[layer for layer in ends if layer is not None][-1:])
        # What the copies replaced is dropped when the file is packed.
        self._data, self._original = bytearray(graph.to_bytes()), original
        self._info, self._float_info = read_flatbuffer(bytes(self._data)), read_flatbuffer(original)
        self._imitation = None
        if images and self.layers and all(self._reads_16_bits(layer) for layer in self.layers):
            self._imitation = Imitation(original, self.layers)
            for layer in self.layers:
                self._imitate(layer.tensors[1:3])
        info = self._info if self._imitation is None else self._imitation.info
        self._walk, self._float_walk = (Walk(item, images, threads) for item in (info, self._float_info))

    def to_bytes(self) -> bytes:
        """The quantized graph as it is now."""
        return bytes(self._data)

    def constant(self, index: int) -> Values:
        """A copy of a constant's stored values."""
        tensor = self._info.tensors[index]
        return np.frombuffer(constant_bytes(self._data, index).tobytes(), tensor.dtype).reshape(tensor.shape)

    def float_constant(self, index: int) -> NDArray[np.float64]:
        """A constant of the float graph."""
        values = self._float_graph.constant(index)
        assert values is not None
        return values.astype(np.float64)

    def float_bias(self, layer: LinearLayer) -> NDArray[np.float64]:
        """A layer's bias in the float graph, (outputs,); zeros where it has none."""
        index = layer.float_tensors[2]
        return np.zeros(self.constant(layer.tensors[2]).shape) if index < 0 else self.float_constant(index)

    def bounds(self, layer: LinearLayer) -> tuple[float, float]:
        """Where a layer's output saturates, if an operator that clips it reads it and so gave the bounds; or none."""
        readers = self._float_graph.consumers(layer.float_tensors[3])
        tensor = self._info.tensors[layer.tensors[3]]
        clipped = readers and all(self._float_graph.operator_name(reader) in CLIPPING for reader in readers)
        if not clipped or tensor.dtype == "float32":
            return -math.inf, math.inf
        limits = np.iinfo(np.dtype(tensor.dtype))
        ends = dequantize(np.array([limits.min, limits.max], tensor.dtype), tensor.scale[0], tensor.zero_point[0])
        return float(ends[0]), float(ends[1])

    def scales(self, index: int, count: int) -> NDArray[np.float64]:
        """A constant's step sizes, one for each of ``count`` channels; 1 of a float one, which has no steps."""
        tensor = self._info.tensors[index]
        scale = 1.0 if tensor.dtype == "float32" else np.asarray(tensor.scale, np.float64)
        return np.broadcast_to(scale, (count,))

    def scaled_by_channel(self, layer: LinearLayer) -> bool:
        """Whether a layer's weights have a step size for each output channel."""
        weights, outputs = self._info.tensors[layer.tensors[1]], self._info.tensors[layer.tensors[3]].shape[-1]
        return len(weights.scale) == outputs

    def replace(self, index: int, values: NDArray[np.float64]) -> None:
        """Overwrite a constant with floats, or with whole numbers that are kept within its type, biases well within."""
        dtype = np.dtype(self._info.tensors[index].dtype)
        if dtype != np.float32:
            # 8-bit weights are symmetric. A bias leaves room for the sum that it is the start of.
            limit = 127 if dtype == np.int8 else float(np.iinfo(dtype).max // 2)
            values = np.clip(np.rint(values), -limit, limit)
        stored = values.astype(dtype)
        constant_bytes(self._data, index)[:] = np.frombuffer(stored.tobytes(), np.uint8)
        self._changed([index])

    def rescale(self, layer: LinearLayer, scales: NDArray[np.float32]) -> None:
        """Give a layer's weights other step sizes, as many as they have, and an integer bias those that follow."""
        source, weights, bias, _ = (self._info.tensors[index] for index in layer.tensors)
        changed = {layer.tensors[1]: scales[: len(weights.scale)]}
        if bias.dtype != "float32":
            changed[layer.tensors[2]] = scales * np.float32(source.scale[0])
        subgraph = schema.Model.GetRootAs(self._data, 0).Subgraphs(0)
        for index, values in changed.items():
            subgraph.Tensors(index).Quantization().ScaleAsNumpy()[:] = values
        self._info = read_flatbuffer(bytes(self._data))
        self._changed(list(changed))

    def inputs(self, layer: LinearLayer, take: Callable[[Values], _T]) -> list[_T]:
        """What ``take`` makes of a layer's input, (1, ...) in real numbers, for each image.

        With 16-bit activations it is the float graph's, which is twenty times faster; see :mod:`.imitation`.
        """
        return self._each([(self._float if self._reads_16_bits(layer) else self._quantized)(layer, 0)], take)

    def both_inputs(self, layer: LinearLayer, take: Callable[[Values, Values], _T]) -> list[_T]:
        """What ``take`` makes of a layer's input in the quantized and in the float graph, for each image."""
        return self._each([self._quantized(layer, 0), self._float(layer, 0)], take)

    def both_outputs(self, layer: LinearLayer, take: Callable[[Values, Values], _T]) -> list[_T]:
        """The same of a layer's output."""
        return self._each([self._quantized(layer, 3), self._float(layer, 3)], take)

    def _each(self, makers: Sequence[Callable[[], Run]], take: Callable[..., _T]) -> list[_T]:
        def make() -> Callable[[int], _T]:
            runs = [maker() for maker in makers]
            return lambda number: take(*(run(number) for run in runs))

        return map_images(make, range(self._count), self._threads)

    def _quantized(self, layer: LinearLayer, role: int) -> Callable[[], Run]:
        """Makes what gives one of a layer's tensors in the quantized graph, in real numbers."""
        if self._imitation is not None:
            return self._walk.reach(self._imitation.data, layer.float_place, layer.float_tensors[role])
        index = layer.tensors[role]
        tensor, maker = self._info.tensors[index], self._walk.reach(self._data, layer.place, index)
        if tensor.dtype == "float32":
            return maker

        def make() -> Run:
            run = maker()
            return lambda number: dequantize(run(number), tensor.scale[0], tensor.zero_point[0])

        return make

    def _float(self, layer: LinearLayer, role: int) -> Callable[[], Run]:
        return self._float_walk.reach(self._original, layer.float_place, layer.float_tensors[role])

    def _reads_16_bits(self, layer: LinearLayer) -> bool:
        return self._info.tensors[layer.tensors[0]].dtype == "int16"

    def _changed(self, indices: Sequence[int]) -> None:
        """What the images gave with other values of these constants is not used again."""
        for index in indices if self._imitation is None else self._imitate(indices):
            self._walk.changed(index)

    def _imitate(self, indices: Sequence[int]) -> list[int]:
        """Give the imitation these constants, and tell where they are there."""
        imitation, quantized = self._imitation, schema.Model.GetRootAs(self._data, 0).Subgraphs(0)
        assert imitation is not None
        found = []
        for index in indices:
            values, axis = self.constant(index), quantized.Tensors(index).Quantization().QuantizedDimension()
            found.append(imitation.replace(index, values, np.asarray(self._info.tensors[index].scale), axis))
        return found


MOST_PLACES = 64
"""Places of one image's output that are looked at: neighbouring patches are nearly the same."""


def weight_matrices(layer: LinearLayer, weights: NDArray[Any]) -> NDArray[Any]:
    """A layer's weights as (groups, outputs, inputs): one group, or one for each channel of a depthwise convolution."""
    if layer.kind == "DEPTHWISE_CONV_2D":
        return weights.reshape(-1, weights.shape[-1]).T[:, None, :]
    return weights.reshape(1, weights.shape[0], -1)


def stored_weights(layer: LinearLayer, matrices: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of :func:`weight_matrices`; ``shape`` is that of the stored weights."""
    if layer.kind == "DEPTHWISE_CONV_2D":
        return matrices[:, 0, :].T.reshape(shape)
    return matrices.reshape(shape)


def input_rows(layer: LinearLayer, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """What a layer multiplies its weights with, at :data:`MOST_PLACES` places of its output at most.

    Args:
        layer: the layer.
        values: its input for one image, in real numbers.
        shape: of its stored weights.

    Returns:
        (groups, places, inputs), to be multiplied with :func:`weight_matrices`; None for grouped convolutions and for
        depthwise ones with a multiplier.
    """
    if layer.kind == "FULLY_CONNECTED":
        rows = values.reshape(-1, shape[1])
        return rows[_some(len(rows))][None]
    if values.shape[-1] != shape[-1]:
        return None
    found = patches(values, (shape[1], shape[2]), layer.options)
    # Only these are copied: all patches together are as many times the input's size as the kernel has places.
    rows = found[np.unravel_index(_some(found.shape[0] * found.shape[1]), found.shape[:2])]
    if layer.kind == "CONV_2D":
        return rows.reshape(1, len(rows), -1)
    return rows.reshape(len(rows), -1, shape[-1]).transpose(2, 0, 1)


def patches(values: NDArray[Any], kernel: tuple[int, int], options: Any) -> NDArray[Any]:
    """The patches of one image.

    Args:
        values: a convolution's input, (1, H, W, C), in real numbers: padding is zero.
        kernel: height and width of the convolution's kernel.
        options: the operator's ``Conv2DOptionsT`` or ``DepthwiseConv2DOptionsT``: strides, dilation, padding.

    Returns:
        (rows of the output, columns of the output, kernel height, kernel width, C), a view if nothing is padded.
    """
    strides = (options.strideH, options.strideW)
    dilations = (options.dilationHFactor, options.dilationWFactor)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if options.padding == schema.Padding.SAME:
        margins = []
        for size, stride, length in zip(values.shape[1:3], strides, reach, strict=True):
            missing = max((-(-size // stride) - 1) * stride + length - size, 0)
            # TensorFlow puts the odd one at the end.
            margins.append((missing // 2, missing - missing // 2))
        values = np.pad(values, ((0, 0), *margins, (0, 0)))
    windows = sliding_window_view(values[0], tuple(reach), axis=(0, 1))  # type: ignore[call-overload]  # two axes
    chosen = windows[:: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    found: NDArray[Any] = chosen.transpose(0, 1, 3, 4, 2)
    return found


def _some(count: int) -> NDArray[np.intp]:
    """The places that are looked at, of ``count``: always the same, and in no step with rows or columns."""
    return np.sort(np.random.default_rng(count).permutation(count)[:MOST_PLACES])
