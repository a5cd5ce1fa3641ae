"""From a quantized float-in, float-out graph to the file that is shipped: names, input and output types, contract.

TFLite Metadata, by which MediaPipe and other readers learn how an image becomes the model's input.

A flatbuffer of its own inside the model's metadata entry ``TFLITE_METADATA``. What is written is
what MediaPipe's ImageEmbedder asks for: the colour space, and for float input one mean and one std. A union takes two
fields, its type and its value; the reader, :mod:`embedlite.runtime.model.tflite_metadata`, names the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...runtime.model.artifact import DESCRIPTION, MARKER, append_contract, parse_artifact
from ...runtime.model.contract import Contract, InputContract, binding
from ...runtime.model.tflite_metadata import (
    COLOR_SPACES,
    IMAGE_PROPERTIES,
    METADATA_IDENTIFIER,
    METADATA_NAME,
    NORMALIZATION_OPTIONS,
)
from ..errors import ConversionError
from ..graph.constraints import check_constraints
from ..graph.graph import Graph
from ..graph.half_precision import allow_half
from ..graph.repair import add_metadata, repair
from ..load.lower import OUTPUT_NAME
from .wide_output import widen

_TYPES = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}


def package(flatbuffer: bytes, contract: Contract, raw_name: str | None = None) -> tuple[bytes, Contract]:
    """The deployed file, and its contract as it stands in there, checksum included.

    Args:
        flatbuffer: one mode's graph with float32 input and output.
        contract: its input and output types are carried out on the graph, and the placement of its normalization.
        raw_name: the raw embedding, for placement ``runtime``: the file then ends there.

    Raises:
        ConversionError: the graph cannot have these input and output types, or breaks the quantization specification.
    """
    graph = Graph(flatbuffer)
    if contract.input.dtype != "float32":
        _quantized_input(graph, contract.input.dtype)
    if contract.normalization.placement == "runtime" and raw_name is not None:
        _end_at(graph, raw_name)
    if contract.output_dtype != "float32":
        _quantized_output(graph, contract.output_dtype)
    normalization = contract.normalization
    if normalization.copies > 1:
        zero_point = widen(graph, normalization.copies)
        contract = replace(contract, normalization=replace(normalization, zero_point=zero_point))
    _name(graph, contract.input.noun)
    repair(graph)
    check_constraints(graph)
    if contract.half_precision is not None:
        allow_half(graph)
    add_metadata(graph, MARKER, binding(contract.to_json()))
    if (metadata := tflite_metadata(contract.input)) is not None:
        add_metadata(graph, METADATA_NAME, metadata)
    return seal(graph.to_bytes(), contract)


def seal(flatbuffer: bytes, contract: Contract, golden: bytes | None = None) -> tuple[bytes, Contract]:
    """The deployed file with its contract and golden vectors, and the contract as it stands in there."""
    data = append_contract(flatbuffer, contract, golden)
    sealed = parse_artifact(data).contract
    assert sealed is not None
    return data, sealed


def _end_at(graph: Graph, name: str) -> None:
    """Make the graph answer one tensor, dequantized if it is quantized, and drop what is after it."""
    index = graph.index_of(name)
    if graph.dtype(index) == "float32":
        graph.end_at(index)
        return
    reader = next((op for op in graph.consumers(index) if graph.operator_name(op) == "DEQUANTIZE"), None)
    if reader is None:
        raise ConversionError(
            f"the raw embedding is {graph.dtype(index)} in this file, and nothing makes it float, so that no file can "
            "end there."
        )
    graph.end_at(int(reader.outputs[0]))


def _quantized_input(graph: Graph, dtype: str) -> None:
    """Move the boundary after the leading QUANTIZE: the file then takes what that operator made."""
    source = int(graph.subgraph.inputs[0])
    readers = graph.consumers(source)
    if len(readers) != 1 or graph.operator_name(readers[0]) != "QUANTIZE":
        raise ConversionError(
            f"the model's first operator cannot take {dtype} input: it stays float. Use --input-type float32."
        )
    quantized = int(readers[0].outputs[0])
    if dtype == "int8":
        graph.operators.remove(readers[0])
        graph.subgraph.inputs = [quantized]
        return
    # uint8 keeps the operator, which then only shifts by 128: the same step size, no second rounding.
    _set_type(graph, source, dtype, *_parameters(graph, quantized), shift=128)


def _quantized_output(graph: Graph, dtype: str) -> None:
    """Move the boundary in front of the trailing DEQUANTIZE, or quantize a float output over its range."""
    result = int(graph.subgraph.outputs[0])
    producer = graph.producer(result)
    if producer is None or graph.operator_name(producer) != "DEQUANTIZE":
        raise ConversionError(
            f"the file ends in float operators (its last layer or the normalization), so its output cannot be {dtype}. "
            "Use --output-type float32."
        )
    raw = int(producer.inputs[0])
    if dtype == "int8":
        graph.operators.remove(producer)
        graph.subgraph.outputs = [raw]
        return
    position = graph.operators.index(producer)
    graph.operators[position] = graph.make_operator("QUANTIZE", [raw], [result], schema.QuantizeOptionsT())
    _set_type(graph, result, dtype, *_parameters(graph, raw), shift=128)


def _parameters(graph: Graph, index: int) -> tuple[float, int]:
    quantization = graph.tensor(index).quantization
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _set_type(graph: Graph, index: int, dtype: str, scale: float, zero_point: int, *, shift: int) -> None:
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.array([scale], np.float32)
    quantization.zeroPoint = np.array([zero_point + shift], np.int64)
    tensor = graph.tensor(index)
    tensor.type, tensor.quantization = _TYPES[dtype], quantization


def _name(graph: Graph, name: str) -> None:
    """One signature, and tensors that carry the names people see in other tools."""
    source, result = int(graph.subgraph.inputs[0]), int(graph.subgraph.outputs[0])
    graph.tensor(source).name, graph.tensor(result).name = name, OUTPUT_NAME
    graph.sign(name, OUTPUT_NAME)
    graph.model.description = DESCRIPTION


def tflite_metadata(contract: InputContract) -> bytes | None:
    """The content of ``TFLITE_METADATA``; None for inputs that MediaPipe refuses whatever it is told.

    It takes images of three channels only, float32 or uint8. One mean and one std serve all channels there: where they
    differ by channel none is written, and MediaPipe refuses the file instead of computing other embeddings. It refuses
    BGR as well, whose colour space has no name.
    """
    if contract.color_order not in ("rgb", "bgr") or contract.dtype == "int8":
        return None
    builder = flatbuffers.Builder(256)
    space = COLOR_SPACES.index("rgb" if contract.color_order == "rgb" else "unknown")
    image = _table(builder, 1, lambda: builder.PrependInt8Slot(0, space, -1))
    content = _union(builder, IMAGE_PROPERTIES, image)
    mean, std = set(contract.mean), set(contract.std)
    units = []
    if contract.dtype == "float32" and len(mean) == len(std) == 1:
        values = [_floats(builder, [mean.pop()]), _floats(builder, [std.pop()])]
        units.append(_union(builder, NORMALIZATION_OPTIONS, _offsets(builder, values)))
    listed = _vector(builder, units)
    name = builder.CreateString("image")
    source = _table(builder, 5, lambda: _set(builder, {0: name, 3: content, 4: listed}))
    result = _offsets(builder, [builder.CreateString("embedding")])
    sources, results = _vector(builder, [source]), _vector(builder, [result])
    graph = _table(builder, 4, lambda: _set(builder, {2: sources, 3: results}))
    graphs = _vector(builder, [graph])
    builder.Finish(_table(builder, 4, lambda: _set(builder, {3: graphs})), METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, fields: int, fill: Callable[[], object]) -> int:
    builder.StartObject(fields)
    fill()
    return int(builder.EndObject())


def _set(builder: flatbuffers.Builder, offsets: dict[int, int]) -> None:
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)


def _offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """A table whose first fields are these objects."""
    return _table(builder, len(offsets), lambda: _set(builder, dict(enumerate(offsets))))


def _union(builder: flatbuffers.Builder, kind: int, value: int) -> int:
    """A table that holds a union and nothing else."""

    def fill() -> None:
        builder.PrependUint8Slot(0, kind, 0)
        _set(builder, {1: value})

    return _table(builder, 2, fill)


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())
