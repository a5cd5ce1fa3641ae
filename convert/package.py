"""From a quantized float-in, float-out graph to the file that is shipped: names, input and output types, contract."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..runtime.artifact import DESCRIPTION, MARKER, append_contract, parse_artifact
from ..runtime.contract import Contract, binding
from ..runtime.tflite_metadata import METADATA_NAME
from .errors import ConversionError
from .graph import Graph
from .lower import INPUT_NAME, OUTPUT_NAME
from .metadata import tflite_metadata
from .repair import add_metadata, repair

_TYPES = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}


def package(flatbuffer: bytes, contract: Contract, raw_name: str | None = None) -> tuple[bytes, Contract]:
    """The deployed file, and its contract as it stands in there, checksum included.

    Args:
        flatbuffer: one mode's graph with float32 input and output.
        contract: its input and output types are carried out on the graph, and the placement of its normalization.
        raw_name: the raw embedding, for placement ``runtime``: the file then ends there.

    Raises:
        ConversionError: the graph cannot have these input and output types.
    """
    graph = Graph(flatbuffer)
    if contract.input.dtype != "float32":
        _quantized_input(graph, contract.input.dtype)
    if contract.normalization.placement == "runtime" and raw_name is not None:
        _end_at(graph, raw_name)
    if contract.output_dtype != "float32":
        _quantized_output(graph, contract.output_dtype)
    _name(graph)
    repair(graph)
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
    """Make the graph answer one tensor, dequantized if it is quantized, and drop what is behind it."""
    index = graph.index_of(name)
    if graph.dtype(index) == "float32":
        graph.end_at(index)
        return
    reader = next((op for op in graph.consumers(index) if graph.operator_name(op) == "DEQUANTIZE"), None)
    if reader is None:
        raise ConversionError(
            "the raw embedding is not quantized in this model, so the normalization cannot be left to the runtime. "
            "Use --output-type float32."
        )
    graph.end_at(int(reader.outputs[0]))


def _quantized_input(graph: Graph, dtype: str) -> None:
    """Move the boundary behind the leading QUANTIZE: the file then takes what that operator made."""
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
            f"the file ends in float operators (the normalization), so its output cannot be {dtype}. "
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


def _name(graph: Graph) -> None:
    """One signature, and tensors that carry the names people see in other tools."""
    source, result = int(graph.subgraph.inputs[0]), int(graph.subgraph.outputs[0])
    graph.tensor(source).name, graph.tensor(result).name = INPUT_NAME, OUTPUT_NAME
    graph.sign(INPUT_NAME, OUTPUT_NAME)
    graph.model.description = DESCRIPTION
