"""A TFLite graph as a function in TensorFlow, for a batch, with TFLite's rounding where the file has integers.

Every integer tensor stands for real numbers here: after the operator that writes it they are rounded to its steps and
saturate at its bounds, which is what the kernel does. Sums of products are exact enough in float32: what differs from
the interpreter's integers is a tie now and then. The gradient passes through the rounding and ends where a value
saturates (a straight-through estimator: Bengio et al., arXiv:1308.3432; TensorFlow's fake quantization likewise).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph.graph import Graph
from .operators import OPERATORS, Call, Tensor, UnsupportedError, activated, first_of
from .rare_operators import RARE

_BOUNDS = {"int8": (-128, 127), "int16": (-32768, 32767)}

_FUNCTIONS = {**OPERATORS, **RARE}

_MOVING = {
    *("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "PACK", "UNPACK", "BROADCAST_TO", "SELECT", "SELECT_V2", "POW"),
    *("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "EQUAL", "NOT_EQUAL", "GREATER", "LESS"),
    *("GREATER_EQUAL", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_OR", "FLOOR_DIV", "FLOOR_MOD", "ATAN2"),
}
"""Operators that may give the first axis another length: an image's steps of time or windows, one after the other. Here
those of all images are, image by image, so that most operators need not know."""

_FARTHEST = 1e6
"""Steps beyond which a value is as good as any other that saturates."""


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """Rounded values with the gradient of what was rounded."""
    import tensorflow as tf

    return values + tf.stop_gradient(rounded - values)


def fake_quantized(values: Tensor, scale: Any, zero_point: int, dtype: str = "int8") -> Tensor:
    """Real numbers as an integer tensor with one step size can hold them.

    Args:
        values: float32.
        scale: the step size, a number or a tensor: a gradient reaches it, too (LSQ: Esser et al., arXiv:1902.08153).
        zero_point: the integer that stands for zero.
        dtype: ``int8`` or ``int16``.
    """
    import tensorflow as tf

    lowest, highest = _BOUNDS[dtype]
    # The root of zero may be infinite, and infinity times the zero gradient of what saturates is NaN.
    farthest = _FARTHEST * tf.stop_gradient(tf.convert_to_tensor(scale, tf.float32))
    values = tf.clip_by_value(values, -farthest, farthest)
    steps = tf.clip_by_value(values / scale, float(lowest - zero_point), float(highest - zero_point))
    return straight_through(steps, tf.round(steps)) * scale


class Network:
    """A graph that can be called with a batch."""

    def __init__(self, flatbuffer: bytes) -> None:
        """Read the graph.

        Args:
            flatbuffer: one input of batch 1; float, or quantized with float ends.

        Raises:
            UnsupportedError: there is no function for an operator, by name.
        """
        self.graph = graph = Graph(flatbuffer)
        self._scales: dict[int, tuple[float, int, str]] = {}
        self._constants: dict[int, NDArray[Any]] = {}
        self._depends = {int(index) for index in graph.subgraph.inputs}
        for operator in graph.operators:
            if self._depends.intersection(map(int, operator.inputs)):
                self._depends.update(map(int, operator.outputs))
        unknown = {graph.operator_name(operator) for operator in graph.operators}
        unknown -= {*_FUNCTIONS, "QUANTIZE", "DEQUANTIZE"}
        if unknown:
            raise UnsupportedError(", ".join(sorted(unknown)))
        for index in range(len(graph.subgraph.tensors)):
            if graph.is_constant(index):
                self._constants[index] = real_constant(graph, index)
            elif graph.dtype(index) in _BOUNDS:
                quantization = graph.tensor(index).quantization
                if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
                    raise UnsupportedError(f"an {graph.dtype(index)} activation without a step size")
                kind = str(graph.dtype(index))
                self._scales[index] = float(quantization.scale[0]), int(quantization.zeroPoint[0]), kind
            elif graph.dtype(index) == "uint8":
                raise UnsupportedError("uint8 activations")

    @property
    def output(self) -> int:
        """Index of the output tensor."""
        return int(self.graph.subgraph.outputs[0])

    def __call__(
        self,
        images: Tensor,
        replaced: Mapping[int, Tensor] | None = None,
        scales: Mapping[int, Tensor] | None = None,
    ) -> dict[int, Tensor]:
        """Every activation, by its index.

        Args:
            images: (N, H, W, C) float32.
            replaced: real numbers in place of constants, by index.
            scales: other step sizes of activations, by index.

        Raises:
            UnsupportedError: an operator is of a form that is not there.
        """
        values: dict[int, Tensor] = {int(self.graph.subgraph.inputs[0]): images}
        for operator in self.graph.operators:
            values |= self.apply(operator, values, replaced or {}, scales or {})
        return values

    def apply(
        self,
        operator: Any,
        values: Mapping[int, Tensor],
        replaced: Mapping[int, Tensor] = MappingProxyType({}),
        scales: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> dict[int, Tensor]:
        """What one operator writes, by index.

        Args:
            operator: of the graph.
            values: the activations that it reads, in real numbers.
            replaced: see :meth:`__call__`.
            scales: likewise.
        """
        graph, kind = self.graph, self.graph.operator_name(operator)
        indices = [int(index) for index in operator.inputs]
        inputs = [self._value(index, values, replaced) for index in indices]
        written = [int(index) for index in operator.outputs]
        if kind in ("QUANTIZE", "DEQUANTIZE"):
            found = inputs[:1]
        elif kind == "CAST" and self._scales.keys() & {*indices, *written}:
            # The integers as they are, without their step size.
            raise UnsupportedError("CAST of quantized values")
        else:
            constants = tuple(self._constants.get(index) for index in indices)
            shapes = tuple(graph.shape(index) if index >= 0 else () for index in indices)
            shape, dtype = graph.shape(written[0]), str(graph.dtype(written[0]))
            depends = tuple(index in self._depends for index in indices)
            call = Call(kind, operator.builtinOptions, shape, dtype, shapes, constants, depends)
            if any(depends) and kind not in _MOVING and call.lead != first_of(shape):
                raise call.refuse("over the batch axis")
            answer = _FUNCTIONS[kind](inputs, call)
            found = answer if isinstance(answer, list) else [activated(answer, operator.builtinOptions)]
        return {index: self._rounded(index, values, scales) for index, values in zip(written, found, strict=True)}

    def _rounded(self, index: int, values: Tensor, scales: Mapping[int, Tensor]) -> Tensor:
        if index not in self._scales:
            return values
        scale, zero_point, dtype = self._scales[index]
        return fake_quantized(values, scales.get(index, scale), zero_point, dtype)

    def _value(self, index: int, values: Mapping[int, Tensor], replaced: Mapping[int, Tensor]) -> Tensor:
        import tensorflow as tf

        if index < 0:
            return None
        if index in replaced:
            return replaced[index]
        if index in values:
            return values[index]
        if index not in self._constants:
            raise UnsupportedError("a tensor that nothing writes")
        return tf.constant(self._constants[index])


def real_constant(graph: Graph, index: int) -> NDArray[Any]:
    """A constant in real numbers, float32; indices, axes and sizes as they are."""
    values, quantization = graph.constant(index), graph.tensor(index).quantization
    assert values is not None
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return values.astype(np.float32) if values.dtype == np.float16 else values
    scale = np.asarray(quantization.scale, np.float64)
    zero = np.asarray(quantization.zeroPoint, np.float64)
    if len(scale) > 1:
        shape = [1] * values.ndim
        shape[quantization.quantizedDimension] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape if len(zero) > 1 else [1] * values.ndim)
    return ((values.astype(np.float64) - zero) * scale).astype(np.float32)
