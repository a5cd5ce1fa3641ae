"""What there is to observe in a float graph: its activations, and which of them share their values."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.errors import MissingPackageError

_SAME_VALUES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE")
"""Operators whose output holds the values of their first input, in another shape or order."""

_RECTIFYING = ("RELU", "RELU6")

_SMALL = 16
"""Constants of fewer elements are shapes, axes and guards; what tells one model from another is larger."""


@dataclass(frozen=True)
class TensorGroup:
    """Activations that hold the same values, so that one observation and one range serve them all.

    Attributes:
        name: of the first of them, in the order of execution.
        index: its place in the flatbuffer.
        members: names of all of them.
        rectified: whether no value can be negative; a quantized range begins at zero then, whatever the minimum.
    """

    name: str
    index: int
    members: tuple[str, ...]
    rectified: bool


def tensor_groups(flatbuffer: bytes, without: Collection[str] = ()) -> tuple[TensorGroup, ...]:
    """The float activations of the first subgraph in groups, in the order of execution.

    Args:
        flatbuffer: the float graph.
        without: names of activations that need no range.
    """
    schema = _schema()
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    rectifiers = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
    model = schema.ModelT.InitFromPackedBuf(flatbuffer, 0)
    subgraph = model.subgraphs[0]
    leaders: dict[int, int] = {}
    members: dict[int, list[str]] = {}
    rectified: set[int] = set()
    # XNNPACK computes no output that nobody reads, as a split has them in the first step of an unrolled layer.
    read = {int(i) for operator in subgraph.operators for i in operator.inputs} | set(map(int, subgraph.outputs))

    def add(index: int, leader: int) -> None:
        name = _name(subgraph.tensors[index])
        if subgraph.tensors[index].type != schema.TensorType.FLOAT32 or name in without or index not in read:
            return
        leaders[index] = leader
        members.setdefault(leader, []).append(name)

    for index in subgraph.inputs:
        add(int(index), int(index))
    for operator in subgraph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        # Files from before mid-2020 have only the old field.
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        for index in (int(output) for output in operator.outputs):
            same = kind in _SAME_VALUES and int(operator.inputs[0]) in leaders
            add(index, leaders[int(operator.inputs[0])] if same else index)
            fused = getattr(operator.builtinOptions, "fusedActivationFunction", None)
            if kind in _RECTIFYING or fused in rectifiers:
                rectified.add(index)
    return tuple(TensorGroup(same[0], leader, tuple(same), leader in rectified) for leader, same in members.items())


def model_fingerprint(flatbuffer: bytes) -> str:
    """SHA-256 over a graph's input shape and weights, in the order of the operators that read them.

    Names, metadata and small constants are left out, so that a file and the graph that it was made from agree.
    """
    model = _schema().ModelT.InitFromPackedBuf(flatbuffer, 0)
    subgraph = model.subgraphs[0]
    total = hashlib.sha256(str([list(subgraph.tensors[int(i)].shape) for i in subgraph.inputs]).encode())
    for operator in subgraph.operators:
        for index in (int(i) for i in operator.inputs if i >= 0):
            data = _bytes(flatbuffer, model.buffers[subgraph.tensors[index].buffer])
            shape = subgraph.tensors[index].shape
            if len(data) and shape is not None and np.prod(shape, dtype=np.int64) >= _SMALL:
                total.update(str(list(shape)).encode() + data)
    return total.hexdigest()


def _schema() -> Any:
    """TFLite's schema as Python classes; large, so imported only when a graph is read."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingPackageError(
            "calibration reads a graph's operators with ai-edge-litert, which is not installed. Run: pip install "
            "ai-edge-litert."
        ) from error
    return schema_py_generated


def _bytes(flatbuffer: bytes, buffer: Any) -> bytes:
    # Large weights may lie after the flatbuffer, addressed by offset.
    if buffer.offset > 1:
        return flatbuffer[buffer.offset : buffer.offset + buffer.size]
    return b"" if buffer.data is None else bytes(buffer.data)


def _name(tensor: Any) -> str:
    return tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name)


def short_name(name: str) -> str:
    """A fused tensor's name without the names of what was fused into it."""
    return name.split(";", maxsplit=1)[0]
