"""Flatbuffers read as the schema's own code reads them."""

import copy
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.unpack import unpack

from conftest import Digits


def assert_same(one: Any, other: Any, path: str = "model") -> None:
    assert type(one) is type(other), path
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), path
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, f"{path}[{place}]")
    elif hasattr(one, "__dict__"):
        assert vars(one).keys() == vars(other).keys(), path
        for name, value in vars(one).items():
            assert_same(value, getattr(other, name), f"{path}.{name}")
    else:
        assert one == other, path


def read_by_the_schema(flatbuffer: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(flatbuffer, 0)


@pytest.mark.parametrize("mode", ["float32", "dynamic", "int8"])
def test_files_are_read_as_the_schema_reads_them(digits: Digits, mode: str) -> None:
    data = (digits.folder / f"model.{mode}.tflite").read_bytes()
    assert_same(unpack(data), read_by_the_schema(data))


def filled(kind: type, values: dict[str, Any]) -> Any:
    result = kind()
    for name, value in values.items():
        assert hasattr(result, name)
        setattr(result, name, value)
    return result


def tensor(**values: Any) -> Any:
    return filled(schema.TensorT, {"shape": [1, 2], "name": "t", **values})


def operator(**values: Any) -> Any:
    return filled(schema.OperatorT, {"inputs": [0], "outputs": [1], **values})


def quantization(**values: Any) -> Any:
    return filled(schema.QuantizationParametersT, {"scale": [0.5], "zeroPoint": [3], **values})


SPARSITY = filled(schema.SparsityParametersT, {"traversalOrder": [0, 1], "blockMap": []})
CALLED = filled(schema.StableHLOCompositeOptionsT, {"name": "f", "decompositionSubgraphIndex": 0})
WAYS = {
    "nothing": {},
    "sparsity": {"tensors": [tensor(sparsity=SPARSITY)]},
    "variants": {"tensors": [tensor(variantTensors=[filled(schema.VariantSubTypeT, {"shape": [3], "type": 2})])]},
    "outside": {"tensors": [tensor(externalBuffer=7, isVariable=True, hasRank=True, shapeSignature=[-1, 2])]},
    "scales": {"tensors": [tensor(type=9, quantization=quantization(min=[-1], max=[1], quantizedDimension=3))]},
    "details": {
        "tensors": [
            tensor(
                quantization=quantization(
                    detailsType=schema.QuantizationDetails.CustomQuantization,
                    details=filled(schema.CustomQuantizationT, {"custom": [1, 2]}),
                )
            )
        ]
    },
    "nameless": {"tensors": [tensor(name=None, shape=[])], "operators": [operator(inputs=[], outputs=None)]},
    "options": {
        "operators": [
            operator(
                builtinOptionsType=schema.BuiltinOptions.Pool2DOptions,
                builtinOptions=filled(schema.Pool2DOptionsT, {"strideW": 2, "padding": 1}),
                debugMetadataIndex=4,
            )
        ]
    },
    "custom": {"operators": [operator(customOptions=[1, 2, 3], intermediates=[0], mutatingVariableInputs=[True])]},
    "composite": {
        "operators": [
            operator(builtinOptions2Type=schema.BuiltinOptions2.StableHLOCompositeOptions, builtinOptions2=CALLED)
        ]
    },
    "large": {"operators": [operator(largeCustomOptionsOffset=9, largeCustomOptionsSize=2)]},
}


def packed(**of_subgraph: Any) -> bytes:
    one = filled(schema.SubGraphT, {"tensors": [tensor()], "operators": [operator()], "inputs": [0], "outputs": [1]})
    other = copy.copy(one)
    for name, value in of_subgraph.items():
        setattr(other, name, value)
    other.name = "second"
    model = filled(
        schema.ModelT,
        {
            "version": 3,
            "description": "d",
            "operatorCodes": [filled(schema.OperatorCodeT, {"builtinCode": 3, "customCode": "c", "version": 2})],
            "subgraphs": [one, other],
            "buffers": [schema.BufferT(), filled(schema.BufferT, {"data": [1, 2]}), schema.BufferT(offset=8, size=4)],
            "metadata": [filled(schema.MetadataT, {"name": "m", "buffer": 1})],
            "signatureDefs": [filled(schema.SignatureDefT, {"signatureKey": "s", "inputs": [], "outputs": []})],
        },
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("way", WAYS)
def test_rare_fields_are_read_as_the_schema_reads_them(way: str) -> None:
    data = packed(**WAYS[way])
    model = unpack(data)
    assert_same(model, read_by_the_schema(data))
    assert model.subgraphs[1].name == b"second"


def test_links_are_what_is_asked_for_tensor_by_tensor(digits: Digits) -> None:
    graph = Graph((digits.folder / "model.int8.tflite").read_bytes())
    producers, consumers = graph.links()
    for index in range(len(graph.subgraph.tensors)):
        assert producers.get(index) is graph.producer(index)
        assert consumers.get(index, []) == graph.consumers(index)
