"""What is trained of a quantized graph: weights and biases in steps, so that one rate suits all, and step sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph.constraints import FIXED
from ..graph.graph import HEAVY, Graph
from ..quantize.correct.linear_layer import LinearLayer
from ..quantize.correct.paired_graph import PairedGraph
from .network import straight_through
from .operators import Tensor

_MOST = 127.0
_CHANNEL_AXIS = {"DEPTHWISE_CONV_2D": 3}

STEP_SIZE_RATE = 0.25
"""How fast the logarithms of step sizes move beside weights in steps."""

Values = list[NDArray[np.float32]]


@dataclass(frozen=True)
class _Layer:
    """One layer's constants.

    Attributes:
        layer: see :class:`LinearLayer`.
        scale: step sizes of the weights, shaped to be multiplied with them.
        bias: in real numbers.
        bias_scale: its step sizes; None of one in float.
        unit: what one unit of the bias's parameter is: one step of what the layer writes, or would write in 8 bits.
    """

    layer: LinearLayer
    scale: NDArray[np.float32]
    bias: NDArray[np.float64]
    bias_scale: NDArray[np.float64] | None
    unit: float


class Parameters:
    """The parameters of a quantized graph: weights and bias of each layer in turns, then the step sizes.

    Step sizes are those of 8-bit activations, as logarithms of what they are multiplied with. Tensors with equal ones
    keep them equal, because kernels may insist on it. Zero points stay.

    Attributes:
        start: their values for the file as it is.
        rates: how fast each moves, relative to the others.
    """

    def __init__(self, paired: PairedGraph, original: bytes, limits: Mapping[str, tuple[float, float]]) -> None:
        """Take those of every layer that is paired with a float one, a last one in float with 8-bit weights included.

        Args:
            paired: the quantized graph beside its float original.
            original: that float graph.
            limits: ranges of its activations, by name.
        """
        self.quantized, self._original = paired.to_bytes(), original
        self._graph = Graph(self.quantized)
        self._layers: list[_Layer] = []
        self.start: Values = []
        for layer in paired.layers:
            self._add(layer, paired, limits)
        self._groups = self._step_sizes()
        self._of = {index: place for place, members in enumerate(self._groups) for index in members}
        self._first = {index: self._scale(index) for index in self._of}
        self.start.append(np.zeros(len(self._groups), np.float32))
        self.rates = [1.0] * (2 * len(self._layers)) + [STEP_SIZE_RATE]

    def __len__(self) -> int:
        """How many layers are trained."""
        return len(self._layers)

    def replaced(self, values: Sequence[Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Constants in real numbers, rounded as the file rounds them, and step sizes of activations; by index."""
        import tensorflow as tf

        wider = tf.exp(values[-1])
        scales = {index: self._first[index] * wider[place] for index, place in self._of.items()}
        constants = {}
        for item, weights, bias in zip(self._layers, values[0:-1:2], values[1:-1:2], strict=True):
            source, at_weights, at_bias, _ = item.layer.tensors
            bounded = tf.clip_by_value(weights, -_MOST, _MOST)
            constants[at_weights] = straight_through(bounded, tf.round(bounded)) * item.scale
            moved = item.bias.astype(np.float32) + bias * np.float32(item.unit)
            if item.bias_scale is not None:
                steps = tf.stop_gradient(item.bias_scale.astype(np.float32) * self._wider(source, wider))
                moved = straight_through(moved, tf.round(moved / steps) * steps)
            constants[at_bias] = moved
        return constants, scales

    def _wider(self, index: int, wider: Any) -> Any:
        return wider[self._of[index]] if index in self._of else 1.0

    def file(self, values: Values) -> bytes:
        """The quantized graph with these parameters."""
        graph, wider = self._graph, np.exp(values[-1].astype(np.float64))
        for index, place in self._of.items():
            graph.tensor(index).quantization.scale = np.array([self._first[index] * wider[place]], np.float32)
        for item, weights, bias in zip(self._layers, values[0:-1:2], values[1:-1:2], strict=True):
            source, at_weights, at_bias, _ = item.layer.tensors
            _store(graph, at_weights, np.clip(np.round(weights.astype(np.float64)), -_MOST, _MOST))
            moved = item.bias + bias.astype(np.float64) * item.unit
            if item.bias_scale is None:
                _store(graph, at_bias, moved)
                continue
            steps = item.bias_scale * self._wider(source, wider)
            # A layer with one step size for all weights has one for its bias.
            count = len(graph.tensor(at_bias).quantization.scale)
            graph.tensor(at_bias).quantization.scale = steps[:count].astype(np.float32)
            limit = np.iinfo(np.dtype(graph.dtype(at_bias))).max // 2
            _store(graph, at_bias, np.clip(np.round(moved / steps), -limit, limit))
        return graph.to_bytes()

    def unrounded(self, values: Values) -> bytes:
        """The float graph with these weights and biases and no rounding."""
        graph = Graph(self._original)
        for item, weights, bias in zip(self._layers, values[0:-1:2], values[1:-1:2], strict=True):
            operator = graph.operators[item.layer.float_place]
            # Copies: layers of the float graph may share a constant.
            constants = [
                graph.add_constant(f"{item.layer.name}/{name}", exact.astype(np.float32))
                for name, exact in (("weights", weights * item.scale), ("bias", item.bias + bias * item.unit))
            ]
            operator.inputs = [int(operator.inputs[0]), *constants]
        return graph.to_bytes()

    def _scale(self, index: int) -> float:
        return float(self._graph.tensor(index).quantization.scale[0])

    def _add(self, layer: LinearLayer, paired: PairedGraph, limits: Mapping[str, tuple[float, float]]) -> None:
        _, at_weights, at_bias, result = layer.tensors
        stored = paired.constant(at_weights).astype(np.float64)
        scales = np.asarray(self._graph.tensor(at_weights).quantization.scale, np.float64)
        shape = [1] * stored.ndim
        shape[_CHANNEL_AXIS.get(layer.kind, 0)] = -1
        scale = scales.reshape(shape if len(scales) > 1 else [1] * stored.ndim)
        wanted = paired.float_constant(layer.float_tensors[1]) / scale
        # Where a correction chose another integer, training starts in the middle of it, and does not undo it at once.
        self.start.append(np.where(np.round(wanted) == stored, wanted, stored).astype(np.float32))
        bias = paired.constant(at_bias).astype(np.float64)
        self.start.append(np.zeros(bias.shape, np.float32))
        if self._graph.dtype(at_bias) == "float32":
            low, high = limits[layer.name]
            unit = (high - low) / 255
            self._layers.append(_Layer(layer, scale.astype(np.float32), bias, None, unit))
            return
        bias_scale = np.broadcast_to(np.asarray(self._graph.tensor(at_bias).quantization.scale, np.float64), bias.shape)
        self._layers.append(_Layer(layer, scale.astype(np.float32), bias * bias_scale, bias_scale, self._scale(result)))

    def _step_sizes(self) -> list[list[int]]:
        """Activations whose step sizes are trained, those with equal ones together."""
        graph, found = self._graph, dict[tuple[float, int], list[int]]()
        fixed = set[tuple[float, int]]()
        image = {int(index) for index in graph.subgraph.inputs}
        trained = {index for item in self._layers for index in item.layer.tensors[1:3]}
        written = {int(index): operator for operator in graph.operators for index in operator.outputs}
        # The bias of a layer that is not trained has a step size that follows from its input's.
        places = {item.layer.place for item in self._layers}
        others = (op for place, op in enumerate(graph.operators) if place not in places)
        held = {int(index) for op in others if graph.operator_name(op) in HEAVY for index in op.inputs}
        for index, tensor in enumerate(graph.subgraph.tensors):
            if tensor.quantization is None or tensor.quantization.scale is None or index in trained:
                continue
            if len(tensor.quantization.scale) != 1 or graph.dtype(index) != "int8":
                continue
            key = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
            operator = written.get(index)
            # The image's is what makes its integers pixels, and a constant's belongs to the constant.
            prescribed = operator is not None and (graph.operator_name(operator), "int8") in FIXED
            if operator is None or prescribed or index in held or int(operator.inputs[0]) in image:
                fixed.add(key)
            found.setdefault(key, []).append(index)
        return [members for key, members in found.items() if key not in fixed]


def _store(graph: Graph, index: int, values: NDArray[np.float64]) -> None:
    stored = values.astype(np.dtype(graph.dtype(index)))
    graph.model.buffers[graph.tensor(index).buffer].data = np.frombuffer(stored.tobytes(), np.uint8)
