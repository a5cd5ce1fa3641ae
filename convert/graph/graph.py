"""A TFLite flatbuffer as objects that can be searched and edited; one subgraph."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ...runtime.model.flatbuffer import TENSOR_TYPES
from .unpack import unpack

_OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
_NUMPY_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.BOOL: np.bool_,
    schema.TensorType.COMPLEX64: np.complex64,
}
_TENSOR_TYPES = {np.dtype(value): key for key, value in _NUMPY_TYPES.items()}

DTYPES = frozenset(dtype.name for dtype in _TENSOR_TYPES)
"""What tensors of an encoder may hold; text, resources, float64 and the like stand in none."""


class Graph:
    """The first subgraph of a TFLite model, in the schema's own objects (``OperatorT``, ``TensorT``)."""

    def __init__(self, flatbuffer: bytes) -> None:
        self.model = unpack(flatbuffer)
        for code in self.model.operatorCodes:
            # Files from before mid-2020 have only the old field, a byte; in newer ones 127 stands for "see the other".
            code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        # Large weights may lie after the flatbuffer, addressed by offset; edits and TFLite Micro need them inside.
        for index, buffer in enumerate(self.model.buffers):
            if buffer.offset > 1:
                buffer.data = np.frombuffer(flatbuffer, np.uint8, buffer.size, buffer.offset)
            self.model.buffers[index] = _AlignedBuffer(buffer.data)

    @property
    def subgraph(self) -> Any:
        """The ``SubGraphT``."""
        return self.model.subgraphs[0]

    @property
    def operators(self) -> list[Any]:
        """The subgraph's operators in execution order; editing the list edits the graph."""
        operators: list[Any] = self.subgraph.operators
        return operators

    def tensor(self, index: int) -> Any:
        """The ``TensorT`` at ``index``."""
        return self.subgraph.tensors[index]

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of a tensor."""
        shape = self.tensor(index).shape
        return () if shape is None else tuple(int(size) for size in shape)

    def size(self, index: int) -> int:
        """How many values a tensor holds."""
        return int(np.prod(self.shape(index), dtype=np.int64))

    def dtype(self, index: int) -> str:
        """``float32`` and so on."""
        return TENSOR_TYPES[int(self.tensor(index).type)]

    def tensor_name(self, index: int) -> str:
        """Name of a tensor."""
        name = self.tensor(index).name
        return name.decode() if isinstance(name, bytes) else str(name)

    def operator_name(self, operator: Any) -> str:
        """``CONV_2D`` and so on."""
        name: str = _OPERATOR_NAMES[self.model.operatorCodes[operator.opcodeIndex].builtinCode]
        return name

    def constant(self, index: int) -> NDArray[Any] | None:
        """The values of a constant tensor, None for any other."""
        data = self.model.buffers[self.tensor(index).buffer].data
        if data is None or not len(data):
            return None
        return np.frombuffer(bytes(data), _NUMPY_TYPES[self.tensor(index).type]).reshape(self.shape(index))

    def is_constant(self, index: int) -> bool:
        """Whether a tensor has values in the file."""
        data = self.model.buffers[self.tensor(index).buffer].data
        return data is not None and len(data) > 0

    def position(self, operator: Any) -> int:
        """The place of an operator in the order of execution."""
        return next(place for place, candidate in enumerate(self.operators) if candidate is operator)

    def producer(self, index: int) -> Any | None:
        """The operator that writes a tensor, None for inputs and constants."""
        return next((op for op in self.operators if index in _listed(op.outputs)), None)

    def consumers(self, index: int) -> list[Any]:
        """The operators that read a tensor."""
        return [op for op in self.operators if index in _listed(op.inputs)]

    def links(self) -> tuple[dict[int, Any], dict[int, list[Any]]]:
        """Every tensor's producer and consumers as they are now, for whoever asks for all of them.

        The second holds each tensor that is read; see :meth:`producer` and :meth:`consumers`.
        """
        producers, consumers = dict[int, Any](), dict[int, list[Any]]()
        for operator in self.operators:
            for index in _listed(operator.outputs):
                producers.setdefault(index, operator)
            for index in dict.fromkeys(_listed(operator.inputs)):
                consumers.setdefault(index, []).append(operator)
        return producers, consumers

    def inputs(self, operator: Any) -> list[int]:
        """An operator's input tensors that are neither constant nor absent."""
        return [int(i) for i in operator.inputs if i >= 0 and not self.is_constant(int(i))]

    def add_tensor(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> int:
        """Add an activation tensor and return its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), _TENSOR_TYPES[np.dtype(dtype)]
        tensor.buffer, tensor.hasRank = 0, True
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def add_constant(self, name: str, values: NDArray[Any]) -> int:
        """Add a constant tensor and return its index."""
        index = self.add_tensor(name, values.shape, values.dtype)
        self.make_constant(index, values)
        return index

    def make_operator(self, name: str, inputs: list[int], outputs: list[int], options: Any = None) -> Any:
        """An ``OperatorT``, not yet in the graph; the repair pass sets its version."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.operator_code(getattr(schema.BuiltinOperator, name), 1)
        operator.inputs, operator.outputs = inputs, outputs
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return operator

    def make_constant(self, index: int, values: NDArray[Any]) -> None:
        """Turn an activation into a constant; whatever computed it is to be removed by the caller."""
        self.model.buffers.append(_AlignedBuffer(np.frombuffer(values.tobytes(), np.uint8)))
        self.tensor(index).buffer = len(self.model.buffers) - 1
        self.tensor(index).shape = list(values.shape)

    def end_at(self, index: int) -> None:
        """Make one tensor the only output, and drop the operators that do not lead to it."""
        needed, kept = {index}, list[Any]()
        for operator in reversed(self.operators):
            if needed.intersection(int(i) for i in operator.outputs):
                kept.insert(0, operator)
                needed.update(self.inputs(operator))
        self.subgraph.outputs, self.subgraph.operators = [index], kept
        # The old one may name tensors that are gone now.
        self.model.signatureDefs = []

    def sign(self, input_name: str, output_name: str) -> None:
        """Give the graph one signature, ``serving_default``, with these names for its input and output."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [_entry(input_name, int(self.subgraph.inputs[0]))]
        signature.outputs = [_entry(output_name, int(self.subgraph.outputs[0]))]
        self.model.signatureDefs = [signature]

    def drop_dead_operators(self) -> None:
        """Drop the operators that do not lead to the output."""
        self.end_at(int(self.subgraph.outputs[0]))

    def index_of(self, name: str) -> int:
        """Index of the tensor with a name."""
        return next(i for i in range(len(self.subgraph.tensors)) if self.tensor_name(i) == name)

    def operator_code(self, builtin: int, version: int) -> int:
        """Index of an operator code with this version, added if it is new."""
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin and code.version == version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, version
        # Readers from before schema 3a look at a byte, in which 127 stands for "see the new field".
        code.deprecatedBuiltinCode = min(builtin, 127)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def to_bytes(self) -> bytes:
        """The flatbuffer, every constant inside it and aligned to 16 bytes as the schema asks."""
        # A builder that grows holds what it had beside twice as much, and its output is a copy, too.
        constants = sum(len(buffer.data) for buffer in self.model.buffers if buffer.data is not None)
        builder = flatbuffers.Builder(min(constants + (1 << 20), flatbuffers.Builder.MAX_BUFFER_SIZE))
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(memoryview(builder.Bytes)[builder.Head() :])


def _entry(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]  # generated code has no types
    """A buffer that packs its data 16-byte aligned; the generated ``Pack`` aligns it to 4 bytes."""

    def __init__(self, data: Any = None) -> None:
        super().__init__()
        self.data = data

    def Pack(self, builder: Any) -> Any:
        vector = None
        if self.data is not None and len(self.data):
            data = bytes(self.data)
            builder.StartVector(1, len(data), 16)
            head = builder.head = builder.head - len(data)
            builder.Bytes[head : head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


HEAVY = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})


def _listed(indices: Any) -> list[int]:
    """An operator's inputs or outputs, which the schema reads as an array: ``list`` of one is slow."""
    numbers: list[int] = indices.tolist() if isinstance(indices, np.ndarray) else list(indices)
    return numbers
