"""Half precision: what a float graph answers where its values are float16, and the mark that lets a device do that.

XNNPACK, which runs float graphs on the processors of phones and boards, computes in half precision where the processor
has the instructions (ARMv8.2 and later) and the flatbuffer's metadata ``reduced_precision_support`` says
``fp16accfp16``: values and sums in float16. Everywhere else the mark changes nothing.

Here every value is rounded to float16 between two operators, weights as well; sums inside an operator stay float32.
What an emulated Cortex-A76 computes is within 6 dB of that (tests/whole/test_device.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from .graph import Graph
from .repair import add_metadata
from .run import tensor_values

MARK = "reduced_precision_support"
_SUMS_TOO = b"fp16accfp16"

LARGEST = float(np.finfo(np.float16).max) / 2
"""The largest value that leaves a sum on its way to it, or another image, room below float16's 65504."""


def allow_half(graph: Graph) -> None:
    """Mark a graph, in place, so that devices may compute it in half precision."""
    add_metadata(graph, MARK, _SUMS_TOO)


def in_half(flatbuffer: bytes) -> bytes:
    """A float graph that rounds every value between its operators, and its weights, to float16.

    Args:
        flatbuffer: one subgraph, float32 input and output.
    """
    graph = Graph(flatbuffer)
    subgraph = graph.subgraph
    for index in range(len(subgraph.tensors)):
        if graph.is_constant(index) and graph.dtype(index) == "float32":
            with np.errstate(over="ignore"):
                values = graph.constant(index).astype(np.float16)  # type: ignore[union-attr]
            graph.make_constant(index, values.astype(np.float32))
    rounded: dict[int, int] = {}
    operators: list[Any] = []
    for index in map(int, subgraph.inputs):
        operators += _round(graph, index, rounded)
    for operator in graph.operators:
        operator.inputs = [rounded.get(int(index), int(index)) for index in operator.inputs]
        operators.append(operator)
        for index in map(int, operator.outputs):
            if graph.dtype(index) == "float32":
                operators += _round(graph, index, rounded)
    subgraph.operators = operators
    subgraph.outputs = [rounded.get(int(index), int(index)) for index in subgraph.outputs]
    graph.model.signatureDefs = []
    return graph.to_bytes()


def largest_value(flatbuffer: bytes, images: Sequence[NDArray[np.float32]]) -> float:
    """The largest magnitude that any operator of a float graph answers for some images.

    A constant may be beyond float16: often it bounds what nothing reaches, and where not, :func:`in_half` shows it.
    """
    graph, largest = Graph(flatbuffer), 0.0
    names = [
        graph.tensor_name(index)
        for operator in graph.operators
        for index in map(int, operator.outputs)
        if graph.dtype(index) == "float32"
    ]
    for values in tensor_values(flatbuffer, names, images):
        # Unlike max(), it does not lose what is not a number.
        largest = float(np.max([largest, *(np.abs(value).max() for value in values.values() if value.size)]))
    return largest


def _round(graph: Graph, index: int, rounded: dict[int, int]) -> list[Any]:
    """The two casts that round a tensor; its readers are to read ``rounded[index]``."""
    name, shape = graph.tensor_name(index), graph.shape(index)
    half = graph.add_tensor(f"{name}/half", shape, np.float16)
    rounded[index] = graph.add_tensor(f"{name}/rounded", shape)
    to, back = schema.TensorType.FLOAT16, schema.TensorType.FLOAT32
    return [
        graph.make_operator("CAST", [index], [half], _cast(back, to)),
        graph.make_operator("CAST", [half], [rounded[index]], _cast(to, back)),
    ]


def _cast(of: int, to: int) -> Any:
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = of, to
    return options
