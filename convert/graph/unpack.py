"""TFLite flatbuffers as the schema's objects: what the schema's ``InitFromPackedBuf`` does, five times faster.

An export reads its graph some hundred times, each time with other ranges. The generated code looks every field of every
table up by itself; here the places of a table's fields are looked up together, and once for all tables that share them.
What is rare is left to the generated code.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_OFFSET, _BACK, _SIZES = Struct("<I"), Struct("<i"), Struct("<HH")
_U32, _U64, _U8, _I8, _I32, _BOOL = (Struct(f"<{kind}") for kind in "IQBbi?")
_MOST_FIELDS = 14

_OPTIONS = {
    value: getattr(schema, f"{name}T")
    for name, value in vars(schema.BuiltinOptions).items()
    if isinstance(value, int) and value
}


def unpack(flatbuffer: bytes) -> Any:
    """The ``ModelT`` of a TFLite flatbuffer; its arrays are views."""
    root = _Rest()
    root.Init(flatbuffer, _OFFSET.unpack_from(flatbuffer, 0)[0])
    model = schema.ModelT.InitFromObj(root)
    reader = _Reader(flatbuffer)
    _, _, subgraphs, _, buffers, *_ = reader.fields(root.position)
    model.subgraphs = reader.tables(subgraphs, reader.subgraph)
    model.buffers = reader.tables(buffers, reader.buffer)
    return model


class _Rest(schema.Model):  # type: ignore[misc]  # generated code has no types
    """A model without its largest parts."""

    __slots__ = ()

    @property
    def position(self) -> int:
        return int(self._tab.Pos)

    def SubgraphsIsNone(self) -> bool:
        return True

    def BuffersIsNone(self) -> bool:
        return True


class _Reader:
    def __init__(self, flatbuffer: bytes) -> None:
        self._bytes = flatbuffer
        self._known: dict[int, tuple[int, ...]] = {}

    def fields(self, table: int) -> list[int]:
        """Where the fields of a table are, in the schema's order; 0 for those that are left out."""
        places = table - _BACK.unpack_from(self._bytes, table)[0]
        known = self._known.get(places)
        if known is None:
            count = (_SIZES.unpack_from(self._bytes, places)[0] - 4) // 2
            found = unpack_from(f"<{count}H", self._bytes, places + 4)
            known = self._known[places] = (*found, *[0] * _MOST_FIELDS)[:_MOST_FIELDS]
        return [place and table + place for place in known]

    def tables(self, field: int, read: Any) -> list[Any] | None:
        """A list of tables."""
        if not field:
            return None
        field += _OFFSET.unpack_from(self._bytes, field)[0]
        count = _OFFSET.unpack_from(self._bytes, field)[0]
        offsets = unpack_from(f"<{count}I", self._bytes, field + 4)
        return [read(field + 4 + 4 * place + offset) for place, offset in enumerate(offsets)]

    def array(self, field: int, dtype: str) -> Any:
        """A list of numbers."""
        if not field:
            return None
        field += _OFFSET.unpack_from(self._bytes, field)[0]
        return np.frombuffer(self._bytes, dtype, _OFFSET.unpack_from(self._bytes, field)[0], field + 4)

    def number(self, field: int, kind: Struct, default: Any = 0) -> Any:
        """A number, or a truth value."""
        return kind.unpack_from(self._bytes, field)[0] if field else default

    def text(self, field: int) -> bytes | None:
        """A string, as bytes."""
        if not field:
            return None
        field += _OFFSET.unpack_from(self._bytes, field)[0]
        return bytes(self._bytes[field + 4 : field + 4 + _OFFSET.unpack_from(self._bytes, field)[0]])

    def at(self, field: int) -> int:
        """Where a table begins."""
        return int(field + _OFFSET.unpack_from(self._bytes, field)[0])

    def subgraph(self, table: int) -> Any:
        tensors, inputs, outputs, operators, name, debug, *_ = self.fields(table)
        result = schema.SubGraphT()
        result.tensors = self.tables(tensors, self.tensor)
        result.inputs, result.outputs = self.array(inputs, "<i4"), self.array(outputs, "<i4")
        result.operators = self.tables(operators, self.operator)
        result.name = self.text(name)
        result.debugMetadataIndex = self.number(debug, _I32, -1)
        return result

    def buffer(self, table: int) -> Any:
        data, offset, size, *_ = self.fields(table)
        result = schema.BufferT()
        result.data = self.array(data, "u1")
        result.offset, result.size = self.number(offset, _U64), self.number(size, _U64)
        return result

    def tensor(self, table: int) -> Any:
        shape, kind, buffer, name, quantization, variable, sparse, signature, rank, variants, outside, *_ = self.fields(
            table
        )
        if sparse or variants:
            return schema.TensorT.InitFromBuf(self._bytes, table)
        result = schema.TensorT()
        result.shape, result.shapeSignature = self.array(shape, "<i4"), self.array(signature, "<i4")
        result.type, result.buffer = self.number(kind, _I8), self.number(buffer, _U32)
        result.name = self.text(name)
        result.quantization = self.quantization(self.at(quantization)) if quantization else None
        result.isVariable, result.hasRank = self.number(variable, _BOOL, False), self.number(rank, _BOOL, False)
        result.externalBuffer = self.number(outside, _U32)
        return result

    def quantization(self, table: int) -> Any:
        low, high, scale, zero, kind, details, dimension, *_ = self.fields(table)
        if kind or details:
            return schema.QuantizationParametersT.InitFromBuf(self._bytes, table)
        result = schema.QuantizationParametersT()
        result.min, result.max = self.array(low, "<f4"), self.array(high, "<f4")
        result.scale, result.zeroPoint = self.array(scale, "<f4"), self.array(zero, "<i8")
        result.quantizedDimension = self.number(dimension, _I32)
        return result

    def operator(self, table: int) -> Any:
        code, inputs, outputs, kind, options, custom, layout, *rare, debug = self.fields(table)
        if custom or layout or any(rare):
            return schema.OperatorT.InitFromBuf(self._bytes, table)
        result = schema.OperatorT()
        result.opcodeIndex = self.number(code, _U32)
        result.inputs, result.outputs = self.array(inputs, "<i4"), self.array(outputs, "<i4")
        result.builtinOptionsType = self.number(kind, _U8)
        if options and result.builtinOptionsType in _OPTIONS:
            result.builtinOptions = _OPTIONS[result.builtinOptionsType].InitFromBuf(self._bytes, self.at(options))
        result.debugMetadataIndex = self.number(debug, _I32, -1)
        return result
