"""The flatbuffer reader against the schema's own reader and writer, and against damage."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.runtime.errors import (
    DamagedModelError,
    ModelFileError,
    ModelLimitError,
    NotTFLiteError,
    UnsupportedModelError,
)
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.flatbuffer import OperatorInfo, Table, TensorInfo, Wiring, read_flatbuffer

from conftest import Digits

OPERATORS = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
TYPE_NAMES = {number: name.lower() for name, number in vars(schema.TensorType).items() if not name.startswith("_")}


@pytest.fixture(scope="session")
def int8_file(digits: Digits) -> Path:
    return digits.int8


@pytest.fixture(scope="session")
def float32_file(digits: Digits) -> Path:
    return digits.float32


def tensor(name: str, shape: list[int], kind: int = schema.TensorType.FLOAT32, buffer: int = 0) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    return made


def operator_code(number: int, version: int = 1) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    return code


def small_model() -> Any:
    """image (int8) and weights -> FULLY_CONNECTED -> embedding (float32), with a signature and metadata."""
    image = tensor("image", [1, 2, 2, 1], schema.TensorType.INT8)
    image.quantization = schema.QuantizationParametersT()
    image.quantization.scale, image.quantization.zeroPoint = [0.5], [-3]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    operator.builtinOptions.keepNumDims = True
    graph = schema.SubGraphT()
    graph.tensors = [image, tensor("weights", [2], buffer=1), tensor("embedding", [1, 8])]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    signature = schema.SignatureDefT()
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = "image", 0
    signature.signatureKey, signature.inputs, signature.outputs = "serving_default", [entry], []
    note = schema.MetadataT()
    note.name, note.buffer = "note", 2
    buffers = [schema.BufferT() for _ in range(3)]
    buffers[1].data, buffers[2].data = list(bytes(8)), list(b"hello")
    model = schema.ModelT()
    model.version, model.description, model.buffers = 3, "small", buffers
    model.subgraphs, model.signatureDefs, model.metadata = [graph], [signature], [note]
    model.operatorCodes = [operator_code(schema.BuiltinOperator.FULLY_CONNECTED, 4)]
    return model


def pack(model: Any) -> bytes:
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def plain(values: Any) -> tuple[Any, ...]:
    return () if values is None else tuple(np.asarray(values).tolist())


SMALL = pack(small_model())


def with_loops(*calls: int) -> Any:
    """The small model with a subgraph for each number, a loop whose body is the subgraph of that number."""
    model = small_model()
    model.operatorCodes.append(operator_code(schema.BuiltinOperator.WHILE, 1))
    for number in calls:
        loops = []
        for _ in range(2):
            loop = schema.OperatorT()
            loop.opcodeIndex, loop.inputs, loop.outputs = 1, [0], [0]
            loop.builtinOptionsType, loop.builtinOptions = schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT()
            loop.builtinOptions.condSubgraphIndex = loop.builtinOptions.bodySubgraphIndex = number
            loops.append(loop)
        graph = schema.SubGraphT()
        graph.tensors, graph.inputs, graph.outputs, graph.operators = [model.subgraphs[0].tensors[0]], [0], [0], loops
        model.subgraphs.append(graph)
    return model


def resized(*shapes: list[int]) -> Any:
    """The small model with other tensors between its input and its output."""
    model = small_model()
    graph = model.subgraphs[0]
    for shape in shapes:
        tensor, operator = schema.TensorT(), schema.OperatorT()
        tensor.name, tensor.shape, tensor.buffer = "between", shape, 0
        graph.tensors.append(tensor)
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [len(graph.tensors) - 1]
        graph.operators.append(operator)
    last = schema.OperatorT()
    last.opcodeIndex, last.inputs, last.outputs = 0, list(range(3, len(graph.tensors))), [2]
    graph.operators.append(last)
    return model


def test_tensors_that_no_machine_holds() -> None:
    read_flatbuffer(pack(resized([1, 1024, 1024, 64])))
    with pytest.raises(ModelLimitError, match=r"'between' has the shape 1 x 100000 x 100000 x 3.*268,435,456"):
        read_flatbuffer(pack(resized([1, 100_000, 100_000, 3])))
    quarter = [1, 16384, 16384]
    read_flatbuffer(pack(resized(*[quarter] * 3)))
    with pytest.raises(ModelLimitError, match=r"memory for 1,073,741,836 values at one time \(at operator 4\)"):
        read_flatbuffer(pack(resized(*[quarter] * 6)))


def test_subgraphs_that_lead_to_themselves_or_to_too_many() -> None:
    read_flatbuffer(pack(with_loops(2, 0)))
    for calls in ((1,), (2, 1), (2, 3, 4, 1)):
        with pytest.raises(ModelLimitError, match="leads back to itself"):
            read_flatbuffer(pack(with_loops(*calls)))
    with pytest.raises(ModelLimitError, match=r"leads to \d\d,\d+ others"):
        read_flatbuffer(pack(with_loops(*range(2, 12), 0)))
    with pytest.raises(DamagedModelError, match="subgraph 7 of 2"):
        read_flatbuffer(pack(with_loops(7)))


def test_tables_that_are_named_a_million_times() -> None:
    """One tensor of a long shape, to which a long list leads: it would take hours and all memory to read."""
    model = small_model()
    model.subgraphs[0].tensors[0].shape = [1] * 50_000
    model.subgraphs[0].tensors += [model.subgraphs[0].tensors[2]] * 2_000
    data = bytearray(pack(model))
    graph = next(iter(read_tables(data, 2)))
    start = graph._target(0)
    first = start + 4 + struct.unpack_from("<I", data, start + 4)[0]
    for place in range(2_003):
        struct.pack_into("<I", data, start + 4 + 4 * place, first - (start + 4 + 4 * place))
    with pytest.raises(DamagedModelError, match="more than 4 times over"):
        read_flatbuffer(bytes(data))


def read_tables(data: bytes | bytearray, number: int) -> list[Table]:
    return Table(bytes(data), struct.unpack_from("<I", data, 0)[0]).tables(number, lambda table: table)


def test_it_reads_what_the_schema_wrote() -> None:
    info = read_flatbuffer(SMALL)
    image = TensorInfo("image", (1, 2, 2, 1), "int8", (0.5,), (-3,), constant=False)
    embedding = TensorInfo("embedding", (1, 8), "float32", (), (), constant=False)
    assert (info.schema, info.description) == (3, "small")
    assert info.tensors == (image, TensorInfo("weights", (2,), "float32", (), (), constant=True), embedding)
    assert (info.inputs, info.outputs) == ((image,), (embedding,))
    assert info.operators == (OperatorInfo("FULLY_CONNECTED", 4),)
    assert (info.signatures, info.metadata) == (("serving_default",), {"note": b"hello"})


@pytest.mark.parametrize("mode", ["int8_file", "float32_file"])
def test_an_exported_file_reads_as_in_the_schemas_own_reader(mode: str, request: pytest.FixtureRequest) -> None:
    data = read_artifact(request.getfixturevalue(mode)).flatbuffer
    info, model = read_flatbuffer(data), schema.ModelT.InitFromPackedBuf(data)
    graph = model.subgraphs[0]
    assert len(info.tensors) == len(graph.tensors)
    for mine, theirs in zip(info.tensors, graph.tensors, strict=True):
        quantization = theirs.quantization or schema.QuantizationParametersT()
        wanted = (theirs.name.decode(), plain(theirs.shape), TYPE_NAMES[theirs.type])
        assert (mine.name, mine.shape, mine.dtype) == wanted
        assert (mine.scale, mine.zero_point) == (plain(quantization.scale), plain(quantization.zeroPoint))
        assert mine.constant == (model.buffers[theirs.buffer].data is not None)
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in graph.operators]
    assert info.operators == tuple(OperatorInfo(OPERATORS[code.builtinCode], code.version) for code in codes)
    wired = tuple((plain(operator.inputs), plain(operator.outputs)) for operator in graph.operators)
    assert info.wiring == Wiring(plain(graph.inputs), plain(graph.outputs), wired)
    metadata = {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    assert info.metadata == metadata


@pytest.mark.parametrize("mode", ["int8_file", "float32_file"])
def test_inputs_and_outputs_are_those_of_the_interpreter(mode: str, request: pytest.FixtureRequest) -> None:
    data = read_artifact(request.getfixturevalue(mode)).flatbuffer
    info, interpreter = read_flatbuffer(data), Interpreter(model_content=data)
    for mine, theirs in (
        (info.inputs, interpreter.get_input_details()),
        (info.outputs, interpreter.get_output_details()),
    ):
        assert [(one.name, one.shape, one.dtype) for one in mine] == [
            (one["name"], tuple(one["shape"]), np.dtype(one["dtype"]).name) for one in theirs
        ]
    assert list(info.signatures) == list(interpreter.get_signature_list())


@pytest.mark.parametrize(("number", "name"), TYPE_NAMES.items())
def test_every_tensor_type_of_the_schema_has_its_name(number: int, name: str) -> None:
    model = small_model()
    model.subgraphs[0].tensors[2].type = number
    assert read_flatbuffer(pack(model)).outputs[0].dtype == name


@pytest.mark.parametrize("number", [100, -1])
def test_a_tensor_type_that_does_not_exist_is_damage(number: int) -> None:
    model = small_model()
    model.subgraphs[0].tensors[2].type = number
    with pytest.raises(DamagedModelError):
        read_flatbuffer(pack(model))


def test_the_operator_number_of_old_files_is_read_from_the_byte() -> None:
    model = small_model()
    model.operatorCodes[0] = schema.OperatorCodeT()
    model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.TANH
    assert read_flatbuffer(pack(model)).operators == (OperatorInfo("TANH", 1),)


@pytest.mark.parametrize(
    ("number", "name"),
    [(schema.BuiltinOperator.STABLEHLO_SCATTER, "STABLEHLO_SCATTER"), (5000, "UNKNOWN:5000")],
)
def test_operator_numbers_beyond_a_byte(number: int, name: str) -> None:
    model = small_model()
    model.operatorCodes[0] = operator_code(number, 2)
    assert read_flatbuffer(pack(model)).operators == (OperatorInfo(name, 2),)


def test_a_custom_operator_carries_its_own_name() -> None:
    model = small_model()
    model.operatorCodes[0] = operator_code(schema.BuiltinOperator.CUSTOM)
    model.operatorCodes[0].customCode = "ethos-u"
    assert read_flatbuffer(pack(model)).operators == (OperatorInfo("CUSTOM:ethos-u", 1),)


def outside(missing: int) -> bytes:
    """The small model with its weights after the flatbuffer, all but the last ``missing`` bytes of them."""
    model = small_model()
    weights = model.buffers[1]
    weights.data, weights.offset, weights.size = None, 1 << 20, 8
    weights.offset = len(pack(model))
    return pack(model) + bytes(8 - missing)


def test_weights_outside_the_flatbuffer_count_as_constant() -> None:
    assert read_flatbuffer(outside(0)).tensors[1].constant


def test_weights_beyond_the_end_of_the_file_are_damage() -> None:
    with pytest.raises(DamagedModelError, match="buffer of 8 bytes"):
        read_flatbuffer(outside(1))


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04rest", SMALL[4:]])
def test_another_kind_of_file_is_named_by_the_bytes_that_were_found(data: bytes) -> None:
    with pytest.raises(NotTFLiteError, match="not a TFLite file") as caught:
        read_flatbuffer(data)
    assert repr(data[4:8]) in str(caught.value)


def tensor_index(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = [3]


def negative_tensor_index(model: Any) -> None:
    model.subgraphs[0].operators[0].outputs = [-2]


def graph_input(model: Any) -> None:
    model.subgraphs[0].inputs = [3]


def absent_graph_input(model: Any) -> None:
    # -1 stands for an operator's optional input; a graph has none.
    model.subgraphs[0].inputs = [-1]


def no_result(model: Any) -> None:
    # Found by changing bytes of files without a contract.
    model.subgraphs[0].operators[0].outputs = []


def operator_index(model: Any) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 1


def buffer_index(model: Any) -> None:
    model.subgraphs[0].tensors[0].buffer = 3


def metadata_index(model: Any) -> None:
    model.metadata[0].buffer = 3


def no_subgraph(model: Any) -> None:
    model.subgraphs = []


def other_version(model: Any) -> None:
    model.version = 2


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (tensor_index, "tensor 3 of 3"),
        (negative_tensor_index, "tensor -2 of 3"),
        (graph_input, "tensor 3 of 3"),
        (absent_graph_input, "tensor -1 of 3"),
        (no_result, "FULLY_CONNECTED without a result"),
        (operator_index, "index"),
        (buffer_index, "index"),
        (metadata_index, "index"),
        (no_subgraph, "no subgraph"),
        (other_version, "schema version 2"),
    ],
)
def test_an_index_that_leaves_its_table_is_damage(harm: Callable[[Any], None], reason: str) -> None:
    model = small_model()
    harm(model)
    with pytest.raises(DamagedModelError, match=f"{reason}.*not given to any interpreter.*Copy it again"):
        read_flatbuffer(pack(model))


def test_a_newer_schema_is_no_damage() -> None:
    """LiteRT refuses it too: "Model provided has schema version 4 not equal to supported version 3"."""
    model = small_model()
    model.version = 4
    with pytest.raises(UnsupportedModelError, match=r"schema version 4, but .* read version 3.*export the model again"):
        read_flatbuffer(pack(model))


def reads(data: bytes) -> bool:
    try:
        read_flatbuffer(data)
    except ModelFileError:
        return False
    return True


@pytest.mark.parametrize("text", [b"small", b"weights", b"serving_default", b"note"])
def test_a_text_that_claims_to_be_longer_than_the_file_is_damage(text: bytes) -> None:
    length = struct.pack("<I", len(text))
    assert SMALL.count(length + text) == 1
    with pytest.raises(DamagedModelError, match="65535 bytes at"):
        read_flatbuffer(SMALL.replace(length + text, struct.pack("<I", 65535) + text))


def test_every_truncation_is_refused() -> None:
    assert [end for end in range(len(SMALL)) if reads(SMALL[:end])] == []


def test_every_flipped_bit_is_read_or_refused_but_never_a_surprise() -> None:
    read = 0
    for position in range(len(SMALL)):
        for bit in range(8):
            mutant = bytearray(SMALL)
            mutant[position] ^= 1 << bit
            read += reads(bytes(mutant))
    assert 0 < read < 8 * len(SMALL)


def test_what_the_schemas_own_reader_cannot_walk_is_refused() -> None:
    accepted = []
    for position in range(len(SMALL)):
        for bit in range(8):
            mutant = bytearray(SMALL)
            mutant[position] ^= 1 << bit
            try:
                schema.ModelT.InitFromPackedBuf(bytes(mutant))
            except (struct.error, TypeError, IndexError, ValueError) as error:
                if reads(bytes(mutant)):
                    accepted.append((position, bit, error))
    assert accepted == []


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_behind_the_identifier_is_read_or_refused(data: bytes) -> None:
    reads(data[:4].ljust(4, b"\0") + b"TFL3" + data[4:])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_exported_file_is_read_or_refused(data: st.DataObject, int8_file: Path) -> None:
    mutant = bytearray(read_artifact(int8_file).flatbuffer)
    for _ in range(data.draw(st.integers(1, 4))):
        # Offsets, tables and vectors fill the ends of the file; weights the middle.
        position = data.draw(st.integers(0, 3000) | st.integers(-40_000, -1))
        mutant[position] = data.draw(st.integers(0, 255))
    reads(bytes(mutant))
