"""Float TFLite graphs that are written down instead of converted, for tests that start no TensorFlow."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

SHAPE = (12, 12, 3)


class FloatGraph:
    """A graph that grows operator by operator, from one image to whatever its last operator writes."""

    def __init__(self, shape: tuple[int, int, int] = SHAPE) -> None:
        self._model, self._graph = schema.ModelT(), schema.SubGraphT()
        self._model.version, self._model.subgraphs, self._model.operatorCodes = 3, [self._graph], []
        self._model.buffers, self._model.metadata, self._model.signatureDefs = [schema.BufferT()], [], []
        self._graph.tensors, self._graph.operators = [], []
        self._last = self._tensor("image", (1, *shape))

    def conv(self, name: str, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> FloatGraph:
        """A convolution with stride 2 and ReLU: weights (out, height, width, in)."""
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = 2
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding, options.fusedActivationFunction = schema.Padding.SAME, schema.ActivationFunctionType.RELU
        _, height, width, _ = self._graph.tensors[self._last].shape
        shape = (1, -(-height // 2), -(-width // 2), len(weights))
        inputs = [self._last, self._tensor(f"{name}/weights", weights), self._tensor(f"{name}/bias", bias)]
        return self._add("CONV_2D", 3, inputs, name, shape, options)

    def dense(self, name: str, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> FloatGraph:
        """A fully connected layer on the flattened last tensor: weights (out, in)."""
        options = schema.FullyConnectedOptionsT()
        inputs = [self._last, self._tensor(f"{name}/weights", weights), self._tensor(f"{name}/bias", bias)]
        return self._add("FULLY_CONNECTED", 1, inputs, name, (1, len(weights)), options)

    def to_bytes(self) -> bytes:
        """The flatbuffer; the same calls give the same bytes."""
        self._graph.inputs, self._graph.outputs = [0], [self._last]
        builder = flatbuffers.Builder()
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, name: str, content: Any) -> int:
        """A constant from its values, or an activation from its shape."""
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.type, tensor.buffer = name, schema.TensorType.FLOAT32, 0
        tensor.shape = list(content.shape if isinstance(content, np.ndarray) else content)
        if isinstance(content, np.ndarray):
            buffer.data, tensor.buffer = np.frombuffer(content.astype(np.float32).tobytes(), np.uint8), 0
            self._model.buffers.append(buffer)
            tensor.buffer = len(self._model.buffers) - 1
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _add(
        self, kind: str, version: int, inputs: list[int], name: str, shape: tuple[int, ...], options: Any
    ) -> FloatGraph:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = version
        self._model.operatorCodes.append(code)
        operator.opcodeIndex = len(self._model.operatorCodes) - 1
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._last = self._tensor(name, shape)
        operator.inputs, operator.outputs = inputs, [self._last]
        self._graph.operators.append(operator)
        return self


def written_encoder(seed: int = 0) -> bytes:
    """Two convolutions and a dense layer with random weights: an image of :data:`SHAPE` to 8 values."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return rng.normal(0, scale, shape).astype(np.float32)

    graph = FloatGraph()
    graph.conv("first", normal(6, 3, 3, 3), rng.normal(0, 0.1, 6).astype(np.float32))
    graph.conv("second", normal(8, 3, 3, 6), rng.normal(0, 0.1, 8).astype(np.float32))
    return graph.dense("embedding", normal(8, 72), np.zeros(8, np.float32)).to_bytes()


def pictures(count: int, seed: int = 1) -> NDArray[np.uint8]:
    """Smooth random pictures of :data:`SHAPE`, (N, H, W, C)."""
    coarse = np.random.default_rng(seed).random((count, 3, 3, 3))
    return np.asarray(np.kron(coarse, np.ones((1, 4, 4, 1))) * 255, np.uint8)
