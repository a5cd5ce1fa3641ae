"""Reading a TFLite flatbuffer with nothing but the standard library, and checking it on the way.

The interpreters are C++ and trust their input: a damaged file can crash the process or give silently
wrong vectors. For files with a contract the SHA-256 settles it; a plain ``.tflite`` from elsewhere has
none, so this walk over the whole structure, with every offset checked against the file's end and every
index against its table, is what stands between the bytes and the C++ code.

Format: https://flatbuffers.dev/internals/ (little-endian; a table points back to its vtable, whose
16-bit entries are the fields' offsets, 0 for "absent"). Field numbers: TFLite's schema.fbs, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ..errors import DamagedModelError, NotTFLiteError, UnsupportedModelError
from .operators import OPERATOR_NAMES
from .sizes import check_calls, check_sizes

_T = TypeVar("_T")

TENSOR_TYPES = [
    "float32",
    "float16",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
    "float64",
    "complex128",
    "uint64",
    "resource",
    "variant",
    "uint32",
    "uint16",
    "int4",
    "bfloat16",
    "int2",
    "uint4",
    "float8_e4m3fn",
    "float8_e5m2",
]
"""Names of the schema's TensorType, by value."""

NPU_OPERATOR = "CUSTOM:ethos-u"
"""What the compiler Vela puts in place of the operators that an Arm Ethos-U NPU runs."""


class TensorInfo(NamedTuple):
    """What the file says of one tensor; ``scale`` and ``zero_point`` are empty for float tensors."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    constant: bool


class OperatorInfo(NamedTuple):
    """An operator's name (``CUSTOM:name`` for custom ones) and the version the file asks for."""

    name: str
    version: int


class Wiring(NamedTuple):
    """Which tensors a graph's operators read and write, as indices into :attr:`ModelInfo.tensors`.

    Attributes:
        inputs: of the graph.
        outputs: of the graph.
        operators: what each reads and what it writes, in the order of execution; -1 is an optional input left out.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


class ModelInfo(NamedTuple):
    """The parts of a TFLite file that this package needs; see :func:`read_flatbuffer`."""

    schema: int
    description: str
    tensors: tuple[TensorInfo, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]
    wiring: Wiring
    signatures: tuple[str, ...]
    metadata: dict[str, bytes]


def read_flatbuffer(data: bytes) -> ModelInfo:
    """Read and check the first subgraph of a TFLite flatbuffer.

    Raises:
        NotTFLiteError: the four bytes ``TFL3`` are not where they belong.
        DamagedModelError: an offset leaves the file or an index leaves its table.
        UnsupportedModelError: a schema version newer than 3.
        ModelLimitError: its tensors need more memory than any encoder's.
    """
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise NotTFLiteError(
            f"not a TFLite file: expected the identifier b'TFL3' at byte 4, found {bytes(data[4:8])!r}. "
            "Pass a .tflite file that was written by export-tflite or by the TFLite converter."
        )
    try:
        return _read_model(Table(data, struct.unpack_from("<I", data, 0)[0]))
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise DamagedModelError(
            f"the TFLite file is damaged or cut short ({error}); it was not given to any interpreter. "
            "Copy it again from where it was made, and compare the checksums."
        ) from error


_SIGNED, _SIZES = struct.Struct("<i"), struct.Struct("<HH")


class Table:
    """One flatbuffer table; every read is checked against the end of the data."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        # Read without help of the methods below: a large model has a thousand tables, and opening it waits for this.
        vtable = position - _SIGNED.unpack_from(data, position)[0]
        if position < 0 or vtable < 4:
            raise IndexError(f"table at {position}, vtable at {vtable}")
        vtable_size, size = _SIZES.unpack_from(data, vtable)
        if vtable_size < 4 or vtable_size % 2:
            raise IndexError(f"vtable of {vtable_size} bytes")
        # Every field lies within the table and the table within the file, whether this module reads it or not.
        self._offsets = struct.unpack_from(f"<{vtable_size // 2 - 2}H", data, vtable + 4)
        if size < 4 or position + size > len(data) or max(self._offsets, default=0) >= size:
            raise IndexError(f"table of {size} bytes at {position}")

    def _unpack(self, code: str, position: int) -> int:
        if position < 0:
            raise IndexError(f"offset {position}")
        value: int = struct.unpack_from(code, self.data, position)[0]
        return value

    def _field(self, number: int) -> int:
        offset = self._offsets[number] if number < len(self._offsets) else 0
        return self.position + offset if offset else 0

    def scalar(self, number: int, code: str, default: int) -> int:
        """A field that holds a whole number of a :mod:`struct` type."""
        position = self._field(number)
        return self._unpack(code, position) if position else default

    def _target(self, number: int) -> int:
        position = self._field(number)
        return position + self._unpack("<I", position) if position else 0

    def table(self, number: int) -> Table | None:
        """A field that holds a table; None where it is absent."""
        position = self._target(number)
        return Table(self.data, position) if position else None

    def vector(self, number: int, code: str) -> tuple[float, ...]:
        """A field that holds a vector of numbers of a :mod:`struct` type; empty where it is absent."""
        start = self._target(number)
        if not start:
            return ()
        count = self._unpack("<I", start)
        # It is unpacked only where it ends within the data: a damaged count could ask for gigabytes.
        if start + 4 + count * struct.calcsize("<" + code) > len(self.data):
            raise IndexError(f"vector of {count} items at {start}")
        return struct.unpack_from(f"<{count}{code}", self.data, start + 4)

    def integers(self, number: int, code: str) -> tuple[int, ...]:
        """The same, of whole numbers."""
        return tuple(map(int, self.vector(number, code)))

    def raw(self, number: int) -> bytes:
        """A field that holds a vector of bytes."""
        start = self._target(number)
        if not start:
            return b""
        count = self._unpack("<I", start)
        if start + 4 + count > len(self.data):
            raise IndexError(f"{count} bytes at {start}")
        return bytes(self.data[start + 4 : start + 4 + count])

    def check_raw(self, number: int) -> int:
        """Length of a byte vector, checked to lie within the data but not copied."""
        start = self._target(number)
        if not start:
            return 0
        count = self._unpack("<I", start)
        if start + 4 + count > len(self.data):
            raise IndexError(f"{count} bytes at {start}")
        return count

    def text(self, number: int) -> str:
        """A field that holds text."""
        return self.raw(number).decode("utf-8")

    def tables(self, number: int, read: Callable[[Table], _T]) -> list[_T]:
        """A field that holds a vector of tables, each as ``read`` makes it."""
        start = self._target(number)
        if not start:
            return []
        count = self._unpack("<I", start)
        if start + 4 + 4 * count > len(self.data):
            raise IndexError(f"vector of {count} tables at {start}")
        distances = struct.unpack_from(f"<{count}I", self.data, start + 4)
        return [read(Table(self.data, start + 4 + 4 * place + far)) for place, far in enumerate(distances)]


# What the tables of the schema hold beside plain numbers, by field: "text", ":" and a vector's number type, the name of
# a table, or [name] for a vector of tables. Operator options are a union; those with a vector are told by their type.
_LAYOUT: dict[str, dict[int, str]] = {
    "Model": {
        **{1: "[OperatorCode]", 2: "[SubGraph]", 3: "text", 4: "[Buffer]", 5: ":i", 6: "[Metadata]"},
        7: "[SignatureDef]",
    },
    "OperatorCode": {1: "text"},
    "SubGraph": {0: "[Tensor]", 1: ":i", 2: ":i", 3: "[Operator]", 4: "text"},
    "Tensor": {0: ":i", 3: "text", 4: "Quantization", 6: "Sparsity", 7: ":i", 9: "[VariantSubType]"},
    "Quantization": {0: ":f", 1: ":f", 2: ":f", 3: ":q"},
    "Sparsity": {0: ":i", 1: ":i", 2: "[DimensionMetadata]"},
    "DimensionMetadata": {},
    "VariantSubType": {0: ":i"},
    "Operator": {1: ":i", 2: ":i", 5: ":B", 7: ":?", 8: ":i", 4: "Options", 11: "Options"},
    "Options": {},
    "Buffer": {0: ":B"},
    "Metadata": {0: "text"},
    "SignatureDef": {0: "[TensorMap]", 1: "[TensorMap]", 2: "text"},
    "TensorMap": {0: "text"},
}
_VECTOR_OPTIONS = {17: "Reshape", 30: "Squeeze"}


_CALLS = {92: (0, 1), 93: (0, 1), 103: (0,)}
"""Operator options (of IF, WHILE, CALL_ONCE) that name other subgraphs, and in which fields."""

_REPEATS = 4
"""How many times the file's length may be read: parts that are alike may stand there once, and be named often."""


class _Walk:
    """What is read of a file, so that small tables that are named a million times do not take hours."""

    def __init__(self, size: int) -> None:
        self.left = _REPEATS * size + 4096

    def count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise IndexError(f"its tables name the same bytes more than {_REPEATS} times over")


def _check(table: Table, name: str, walk: _Walk) -> None:
    """Walk a table and everything below it, so that every offset is followed once."""
    walk.count(4)
    for number, kind in _LAYOUT[name].items():
        if kind == "text":
            walk.count(len(table.text(number)))
        elif kind == ":B":
            table.check_raw(number)
        elif kind.startswith(":"):
            walk.count(len(table.vector(number, kind[1:])) * struct.calcsize("<" + kind[1:]))
        elif kind.startswith("["):
            for item in table.tables(number, lambda item: item):
                _check(item, kind[1:-1], walk)
        elif (inner := table.table(number)) is not None:
            _check(inner, kind, walk)
    if name == "Operator" and table.scalar(3, "<B", 0) in _VECTOR_OPTIONS and (options := table.table(4)) is not None:
        options.vector(0, "i")


def _read_model(model: Table) -> ModelInfo:
    schema = model.scalar(0, "<I", 0)
    if schema > 3:
        # Before anything else is looked at: nobody knows how such a file is laid out.
        raise UnsupportedModelError(
            f"the TFLite file has schema version {schema}, but embedlite and the interpreters read version 3. A newer "
            "converter wrote it: export the model again with export-tflite."
        )
    if schema < 3:
        raise IndexError(f"schema version {schema} instead of 3")
    _check(model, "Model", _Walk(len(model.data)))
    codes = model.tables(1, _read_operator_code)
    sizes = model.tables(4, _read_buffer)
    buffers = model.tables(4, lambda table: table)
    graphs = model.tables(2, lambda graph: _read_graph(graph, codes, sizes))
    if not graphs:
        raise IndexError("no subgraph")
    check_calls(model.tables(2, _read_calls))
    tensors, operators, wiring = graphs[0]
    metadata = {}
    for name, index in model.tables(6, lambda entry: (entry.text(0), entry.scalar(1, "<I", 0))):
        metadata[name] = buffers[index].raw(0)
    return ModelInfo(
        schema=schema,
        description=model.text(3),
        tensors=tensors,
        inputs=tuple(tensors[index] for index in wiring.inputs),
        outputs=tuple(tensors[index] for index in wiring.outputs),
        operators=operators,
        wiring=wiring,
        signatures=tuple(model.tables(7, lambda signature: signature.text(2))),
        metadata=metadata,
    )


def _read_calls(graph: Table) -> list[int]:
    """The subgraphs that one calls, as often as it does."""

    def read(operator: Table) -> list[int]:
        options = operator.table(4)
        fields = _CALLS.get(operator.scalar(3, "<B", 0), ()) if options is not None else ()
        return [options.scalar(field, "<i", 0) for field in fields] if options is not None else []

    return [number for calls in graph.tables(3, read) for number in calls]


def _dtype(number: int) -> str:
    if not 0 <= number < len(TENSOR_TYPES):
        raise IndexError(f"tensor type {number}")
    return TENSOR_TYPES[number]


def _read_operator_code(code: Table) -> OperatorInfo:
    # Files from before schema 3a keep the number in a byte; newer ones fill both, 127 for "see the other".
    number = max(code.scalar(0, "<b", 0), code.scalar(3, "<i", 0))
    version = code.scalar(2, "<i", 1)
    if number == OPERATOR_NAMES.index("CUSTOM"):
        return OperatorInfo(f"CUSTOM:{code.text(1)}", version)
    if not 0 <= number < len(OPERATOR_NAMES):
        return OperatorInfo(f"UNKNOWN:{number}", version)
    return OperatorInfo(OPERATOR_NAMES[number], version)


def _read_buffer(buffer: Table) -> int:
    """Length of a buffer's data, inside the table or, for large weights, elsewhere in the file."""
    inline = buffer.check_raw(0)
    offset, size = buffer.scalar(1, "<Q", 0), buffer.scalar(2, "<Q", 0)
    if offset <= 1:
        return inline
    if offset + size > len(buffer.data):
        raise IndexError(f"buffer of {size} bytes at {offset}")
    return size


_WITHOUT_RESULT = ("CALL_ONCE", "ASSIGN_VARIABLE", "HASHTABLE_IMPORT")

_Graph = tuple[tuple[TensorInfo, ...], tuple[OperatorInfo, ...], Wiring]


def _read_graph(graph: Table, codes: list[OperatorInfo], buffer_sizes: list[int]) -> _Graph:
    def read_tensor(table: Table) -> TensorInfo:
        size = buffer_sizes[table.scalar(2, "<I", 0)]
        quantization = table.table(4)
        return TensorInfo(
            name=table.text(3),
            shape=table.integers(0, "i"),
            dtype=_dtype(table.scalar(1, "<b", 0)),
            scale=quantization.vector(2, "f") if quantization else (),
            zero_point=quantization.integers(3, "q") if quantization else (),
            constant=size > 0,
        )

    tensors = tuple(graph.tables(0, read_tensor))

    def check(indices: tuple[int, ...], lowest: int = 0) -> tuple[int, ...]:
        for index in indices:
            if not lowest <= index < len(tensors):
                raise IndexError(f"tensor {index} of {len(tensors)}")
        return indices

    def read_operator(operator: Table) -> tuple[OperatorInfo, tuple[int, ...], tuple[int, ...]]:
        code = codes[operator.scalar(0, "<I", 0)]
        # -1 stands for an optional input that is absent.
        reads, writes = check(operator.integers(1, "i"), lowest=-1), check(operator.integers(2, "i"))
        if not writes and code.name not in _WITHOUT_RESULT and not code.name.startswith("CUSTOM:"):
            raise IndexError(f"{code.name} without a result")
        return code, reads, writes

    operators = graph.tables(3, read_operator)
    wiring = Wiring(
        inputs=check(graph.integers(1, "i")),
        outputs=check(graph.integers(2, "i")),
        operators=tuple((reads, writes) for _, reads, writes in operators),
    )
    check_sizes([(item.name, item.shape, item.constant) for item in tensors], *wiring)
    return tensors, tuple(code for code, _, _ in operators), wiring
