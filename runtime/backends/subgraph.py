"""Some operators of a TFLite graph as a graph of their own, cut out with nothing but the standard library.

A flatbuffer's tables stay where they are: the list of operators is overwritten with a shorter one, and new lists of
the graph's inputs and outputs are appended to the file. Weights and tensor indices do not change.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InterpreterFailedError
from .interpreters import Runtime, open_interpreter

# Field numbers of TFLite's schema.fbs, version 3.
_SUBGRAPHS, _BUFFERS, _SIGNATURES = 2, 4, 7
_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS = 0, 1, 2, 3
_BUFFER, _DATA = 2, 0


def cut(
    flatbuffer: bytes | bytearray, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """The graph that consists of some operators of the first subgraph.

    Args:
        flatbuffer: a checked flatbuffer (see :func:`embedlite.runtime.model.flatbuffer.read_flatbuffer`).
        operators: places of the operators in the order of execution; in the new graph they run in this order.
        inputs: indices of the tensors that are handed in.
        outputs: indices of the tensors that are answered; they need not be the last ones computed.

    Returns:
        A flatbuffer with the same tensors and no signature.
    """
    model = _unsigned(flatbuffer, 0)
    graph = _target(flatbuffer, _target(flatbuffer, _field(flatbuffer, model, _SUBGRAPHS)) + 4)
    changes = [_kept(flatbuffer, _target(flatbuffer, _field(flatbuffer, graph, _OPERATORS)), operators)]
    lists = [(_field(flatbuffer, graph, number), values) for number, values in ((_INPUTS, inputs), (_OUTPUTS, outputs))]
    # A signature names tensors that are not inputs and outputs any more.
    if position := _field(flatbuffer, model, _SIGNATURES):
        lists.append((position, ()))
    end = bytes(-len(flatbuffer) % 4)
    for position, values in lists:
        changes.append((position, struct.pack("<I", len(flatbuffer) + len(end) - position)))
        end += struct.pack(f"<I{len(values)}i", len(values), *values)
    # Joined at once: the weights are most of the file, and walks through a large graph cut it for every layer.
    whole, place = memoryview(flatbuffer), 0
    parts: list[bytes | memoryview] = []
    for position, new in sorted(changes):
        parts += [whole[place:position], new]
        place = position + len(new)
    return b"".join((*parts, whole[place:], end))


def with_constants(flatbuffer: bytes, constants: Mapping[int, NDArray[Any]]) -> bytes:
    """The same graph with other numbers in some of its constants.

    Tensors that share a buffer with one of them get the numbers, too.

    Args:
        flatbuffer: a checked flatbuffer.
        constants: by index of the tensor, of the shape and type that are there.

    Raises:
        ValueError: a tensor is not a constant of that many bytes inside the flatbuffer.
    """
    data = bytearray(flatbuffer)
    model = _unsigned(data, 0)
    graph = _target(data, _target(data, _field(data, model, _SUBGRAPHS)) + 4)
    tensors, buffers = (
        _target(data, position) for position in (_field(data, graph, _TENSORS), _field(data, model, _BUFFERS))
    )
    for index, values in constants.items():
        number = _field(data, _target(data, tensors + 4 + 4 * index), _BUFFER)
        buffer = _target(data, buffers + 4 + 4 * (_unsigned(data, number) if number else 0))
        field = _field(data, buffer, _DATA)
        start = _target(data, field) if field else 0
        if not start or _unsigned(data, start) != values.nbytes:
            raise ValueError(f"tensor {index} does not hold {values.nbytes} bytes")
        data[start + 4 : start + 4 + values.nbytes] = values.tobytes()
    return bytes(data)


def runner(
    runtime: Runtime, flatbuffer: bytes, inputs: Sequence[int], outputs: Sequence[int], threads: int
) -> Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]:
    """A graph as a function from the values of its inputs to those of its outputs, both by tensor index."""
    interpreter = open_interpreter(runtime, flatbuffer, threads=threads)

    def run(values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            for index, value in zip(inputs, values, strict=True):
                interpreter.set_tensor(index, value)
            interpreter.invoke()
            return [np.array(interpreter.get_tensor(index)) for index in outputs]
        except (RuntimeError, ValueError) as error:
            raise InterpreterFailedError(
                f"{runtime.name} {runtime.version} failed while running a part of the model: {str(error).strip()}."
            ) from error

    return run


def _unsigned(data: bytes | bytearray, position: int) -> int:
    value: int = struct.unpack_from("<I", data, position)[0]
    return value


def _target(data: bytes | bytearray, position: int) -> int:
    """Where the offset at ``position`` leads."""
    return position + _unsigned(data, position)


def _field(data: bytes | bytearray, table: int, number: int) -> int:
    """Position of a table's field, 0 if the table leaves it out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * number
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else 0


def _kept(data: bytes | bytearray, vector: int, chosen: Sequence[int]) -> tuple[int, bytes]:
    """Where a vector of tables is shortened to some of them, and its beginning then.

    Offsets count from their own place, so they change with it.
    """
    tables = [_target(data, vector + 4 + 4 * place) for place in range(_unsigned(data, vector))]
    # Builders write a table after the vectors that lead to it, so the distance is positive.
    offsets = [tables[item] - (vector + 4 + 4 * place) for place, item in enumerate(chosen)]
    return vector, struct.pack(f"<{1 + len(offsets)}I", len(offsets), *offsets)
