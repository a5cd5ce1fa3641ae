"""The repair pass: what makes a quantized flatbuffer right on every interpreter, not only on the newest.

1. Weights inside the flatbuffer (:class:`embedlite.convert.graph.graph.Graph` does it on reading): TFLite Micro answers
zeros otherwise. 2. Operator versions as the schema asks (:mod:`embedlite.convert.graph.versions`). 3. Operator codes,
tensors and buffers that nothing uses any more are dropped. 4. ``min_runtime_version`` set to what the operators really
need; other converter metadata dropped. 5. Dense layers of 16 bits give two axes: of more tflite-runtime 2.14 computes
as many rows as the first axis has, and leaves the others as they were.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...runtime.model.flatbuffer import TENSOR_TYPES
from ...runtime.model.operators import minimum_runtime
from .graph import Graph
from .versions import Signature, operator_version

_KEPT_METADATA_SIZE = 16


def repair(graph: Graph) -> None:
    """Repair a graph in place; see the module's text."""
    _lay_out_rows(graph)
    versions = []
    for operator in graph.operators:
        code = graph.model.operatorCodes[operator.opcodeIndex]
        version = operator_version(_signature(graph, operator)) or code.version
        operator.opcodeIndex = graph.operator_code(code.builtinCode, version)
        versions.append((graph.operator_name(operator), version))
    # The bodies of loops are as the converter wrote them, versions included.
    for operator in (operator for subgraph in graph.model.subgraphs[1:] for operator in subgraph.operators):
        versions.append((graph.operator_name(operator), graph.model.operatorCodes[operator.opcodeIndex].version))
    _drop_unused_codes(graph)
    drop_unused_tensors(graph)
    graph.model.metadata = []
    _compact_buffers(graph)
    add_metadata(graph, "min_runtime_version", minimum_runtime(versions).encode().ljust(_KEPT_METADATA_SIZE, b"\0"))


def _lay_out_rows(graph: Graph) -> None:
    """Reshape what dense layers of 16 bits read and write to two axes, and back."""
    for operator in list(graph.operators):
        source, result = int(operator.inputs[0]), int(operator.outputs[0])
        shape = graph.shape(result)
        if graph.operator_name(operator) != "FULLY_CONNECTED" or graph.dtype(source) != "int16" or len(shape) == 2:
            continue
        inputs = graph.shape(int(operator.inputs[1]))[1]
        rows = math.prod(shape[:-1])
        given = _like(graph, source, f"{graph.tensor_name(result)}/given", (rows, inputs))
        made = _like(graph, result, f"{graph.tensor_name(result)}/rows", (rows, shape[-1]))
        place = graph.position(operator)
        graph.operators.insert(place + 1, _reshape(graph, made, result))
        graph.operators.insert(place, _reshape(graph, source, given))
        operator.inputs, operator.outputs = [given, *map(int, operator.inputs[1:])], [made]
        operator.builtinOptions.keepNumDims = False


def _like(graph: Graph, index: int, name: str, shape: tuple[int, ...]) -> int:
    """A tensor with the steps of another one."""
    added = graph.add_tensor(name, shape, np.dtype(graph.dtype(index)))
    graph.tensor(added).quantization = graph.tensor(index).quantization
    return added


def _reshape(graph: Graph, source: int, result: int) -> Any:
    options = schema.ReshapeOptionsT()
    options.newShape = list(graph.shape(result))
    shape = graph.add_constant(f"{graph.tensor_name(result)}/shape", np.array(options.newShape, np.int32))
    return graph.make_operator("RESHAPE", [source, shape], [result], options)


def add_metadata(graph: Graph, name: str, content: bytes) -> None:
    """Add a metadata entry to the flatbuffer."""
    buffer = type(graph.model.buffers[0])(np.frombuffer(content, np.uint8))
    graph.model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(graph.model.buffers) - 1
    graph.model.metadata = [*(graph.model.metadata or []), entry]


def _signature(graph: Graph, operator: Any) -> Signature:
    inputs = [int(i) for i in operator.inputs]
    outputs = [int(i) for i in operator.outputs]
    shapes = [graph.shape(i) for i in inputs if i >= 0]
    name = graph.operator_name(operator)
    # Weights are the second input of the operators that may hold them per channel; DEQUANTIZE has one input.
    weights = inputs[1] if name not in ("DEQUANTIZE", "QUANTIZE") and len(inputs) > 1 else inputs[0]
    scales = [_scales(graph, i) for i in [*inputs[:2], *outputs[:1]]]
    rescale = 0.0
    if name == "MUL" and all(len(scale) for scale in scales):
        rescale = scales[0][0] * scales[1][0] / scales[2][0]
    return Signature(
        name=name,
        inputs=[_dtype(graph, i) for i in inputs],
        outputs=[_dtype(graph, i) for i in outputs],
        ranks=[len(shape) for shape in shapes] or [0],
        shapes_differ=len(shapes) > 1 and shapes[0] != shapes[1],
        per_channel=weights >= 0 and len(_scales(graph, weights)) > 1,
        rescale=rescale,
        options=operator.builtinOptions,
    )


def _dtype(graph: Graph, index: int) -> str:
    return TENSOR_TYPES[graph.tensor(index).type] if index >= 0 else "none"


def _scales(graph: Graph, index: int) -> list[float]:
    if index < 0 or (quantization := graph.tensor(index).quantization) is None or quantization.scale is None:
        return []
    return [float(scale) for scale in quantization.scale]


def _drop_unused_codes(graph: Graph) -> None:
    operators = [operator for subgraph in graph.model.subgraphs for operator in subgraph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    place = {old: new for new, old in enumerate(used)}
    graph.model.operatorCodes = [graph.model.operatorCodes[old] for old in used]
    for operator in operators:
        operator.opcodeIndex = place[operator.opcodeIndex]


def drop_unused_tensors(graph: Graph) -> None:
    """Drop tensors that no operator and no boundary of the graph names; an interpreter never allocates them."""
    subgraph = graph.subgraph
    lists = [operator.inputs for operator in graph.operators]
    lists += [operator.outputs for operator in graph.operators]
    used = sorted({int(i) for indices in [*lists, subgraph.inputs, subgraph.outputs] for i in indices if i >= 0})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    for operator in graph.operators:
        operator.inputs = [place[int(i)] for i in operator.inputs]
        operator.outputs = [place[int(i)] for i in operator.outputs]
    subgraph.inputs = [place[int(i)] for i in subgraph.inputs]
    subgraph.outputs = [place[int(i)] for i in subgraph.outputs]
    subgraph.tensors = [subgraph.tensors[old] for old in used]
    for signature in graph.model.signatureDefs or []:
        for entry in [*signature.inputs, *signature.outputs]:
            entry.tensorIndex = place[int(entry.tensorIndex)]


def _compact_buffers(graph: Graph) -> None:
    """Keep the buffers that tensors use, the empty one first; the schema reserves buffer 0 for "no data"."""
    buffers = graph.model.buffers
    kept = [type(buffers[0])()]
    place: dict[int, int] = {}
    for tensor in (tensor for subgraph in graph.model.subgraphs for tensor in subgraph.tensors):
        old = tensor.buffer
        if old not in place:
            if buffers[old].data is None or not len(buffers[old].data):
                place[old] = 0
            else:
                kept.append(buffers[old])
                place[old] = len(kept) - 1
        tensor.buffer = place[old]
    graph.model.buffers = kept
