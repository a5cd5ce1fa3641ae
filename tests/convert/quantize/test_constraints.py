"""Every row of TFLite's quantization specification: a written file that breaks it is refused."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers, ops

from embedlite.calibration import collect_ranges
from embedlite.convert import ExportOptions, export
from embedlite.convert.errors import ConversionError
from embedlite.convert.graph.constraints import ALIKE, FIXED, check_constraints
from embedlite.convert.graph.graph import HEAVY, Graph
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.convert.make.package import package
from embedlite.convert.quantize.litert import quantize
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.contract import Contract

from encoders import Call

SHAPE = (16, 16, 4)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), np.uint8)
FLOAT_IMAGES = IMAGES.astype(np.float32) / 255


def many_kinds() -> keras.Model:
    """An encoder with as many of the operators as fit in one."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", activation="tanh")(layers.ZeroPadding2D(1)(image))
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2DTranspose(8, 3, padding="same", bias_initializer="ones")(x)
    one, two = Call(lambda y: ops.split(y, 2, axis=-1)[0])(x), Call(lambda y: y[..., 2:6])(x)
    x = layers.Concatenate()([layers.MaxPooling2D(2)(one), layers.AveragePooling2D(2)(two)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Add()([x, layers.UpSampling2D(2)(layers.MaxPooling2D(2)(x))])
    x = Call(lambda y: ops.transpose(ops.maximum(ops.minimum(y, ops.flip(y, 1)), -0.2), (0, 2, 1, 3)))(x)
    x = layers.Activation("sigmoid")(Call(lambda y: ops.tile(ops.max(y, axis=-1, keepdims=True), (1, 1, 1, 4)))(x))
    x = layers.Softmax()(layers.Dense(6, bias_initializer="ones")(layers.Reshape((-1,))(x)))
    return keras.Model(image, layers.Dense(4)(x), name="many")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Contract]]:
    """By mode what stands in a file: an int8 and an int16x8 export, and int8 with some layers of another precision."""
    folder, model = tmp_path_factory.mktemp("many"), many_kinds()
    options = ExportOptions(measure=False, correct=["none"], calibrate_method="minmax", equalize=False)
    result = export(
        model, folder, quantize=["int8", "int16x8", "dynamic"], calibration_data=FLOAT_IMAGES, options=options
    )
    found = {file.mode: read_artifact(file.path) for file in result.files}
    files = {mode: (item.flatbuffer, item.contract) for mode, item in found.items() if item.contract is not None}
    flatbuffer = lower(Original("many", SHAPE, model)).flatbuffer
    graph = Graph(flatbuffer)
    names = [graph.tensor_name(int(op.outputs[0])) for op in graph.operators if graph.operator_name(op) in HEAVY]
    added = next(op for op in graph.operators if graph.operator_name(op) == "ADD")
    precision = {names[0]: "int16", graph.tensor_name(int(added.outputs[0])): "float", names[-1]: "dynamic"}
    ranges = collect_ranges(flatbuffer, open_source(IMAGES, InputContract(SHAPE)))
    files["mixed"] = quantize(flatbuffer, "int8", ranges, (), precision=precision), files["int8"][1]
    return files


def kinds(flatbuffer: bytes) -> set[str]:
    graph = Graph(flatbuffer)
    return {graph.operator_name(operator) for operator in graph.operators}


def test_the_files_have_what_is_to_be_broken(written: dict[str, tuple[bytes, Contract]]) -> None:
    for mode in ("int8", "int16x8", "mixed"):
        assert {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"} <= kinds(written[mode][0])
        assert {"TANH", "LOGISTIC", "SOFTMAX"} <= kinds(written[mode][0])
        assert len(kinds(written[mode][0]) & ALIKE) > 8


def refused(flatbuffer: bytes, contract: Contract, change: Callable[[Graph], object], match: str) -> None:
    """The file as it is is written, and after the change it is not."""
    package(flatbuffer, contract)
    graph = Graph(flatbuffer)
    change(graph)
    with pytest.raises(ConversionError, match=match):
        package(graph.to_bytes(), contract)


@pytest.mark.parametrize("mode", ["int8", "int16x8", "mixed"])
def test_no_tensor_of_a_row_may_have_a_scale_or_zero_point_of_its_own(
    mode: str, written: dict[str, tuple[bytes, Contract]]
) -> None:
    """Every activation of every operator that the specification ties, one after the other."""
    flatbuffer, _ = written[mode]
    graph, broken = Graph(flatbuffer), 0
    for operator in graph.operators:
        kind, result = graph.operator_name(operator), int(operator.outputs[0])
        ends = [int(i) for i in [*operator.inputs, result] if graph.dtype(int(i)) in ("int8", "int16")]
        if (kind, graph.dtype(result)) in FIXED:
            ends = [result]
        elif kind not in ALIKE:
            ends = []
        for index in ends:
            quantization = graph.tensor(index).quantization
            kept = quantization.scale, quantization.zeroPoint
            for scale, zero in ((1.01, 0), (1.0, 1)):
                quantization.scale, quantization.zeroPoint = kept[0] * np.float32(scale), kept[1] + zero
                with pytest.raises(ConversionError, match="is not what TFLite's specification asks for"):
                    check_constraints(graph)
                broken += 1
            quantization.scale, quantization.zeroPoint = kept
    check_constraints(graph)
    assert broken > 40


def test_an_activation_of_two_scales_is_refused(written: dict[str, tuple[bytes, Contract]]) -> None:
    def change(graph: Graph) -> None:
        operator = next(op for op in graph.operators if graph.operator_name(op) == "ADD")
        quantization = graph.tensor(int(operator.outputs[0])).quantization
        quantization.scale, quantization.zeroPoint = np.repeat(quantization.scale, 4), np.repeat(0, 4)

    refused(*written["int8"], change, "has 4 scales, not one")


def test_a_tensor_without_a_scale_is_refused(written: dict[str, tuple[bytes, Contract]]) -> None:
    def change(graph: Graph) -> None:
        operator = next(op for op in graph.operators if graph.operator_name(op) == "CONCATENATION")
        graph.tensor(int(operator.outputs[0])).quantization = None

    refused(*written["int8"], change, "CONCATENATION .* others none")


WEIGHTED = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}


def with_weights(graph: Graph, kind: str) -> tuple[int, int]:
    """Weights and bias of the first such layer whose weights are integers."""
    found = (op for op in graph.operators if graph.operator_name(op) == kind)
    operator = next(op for op in found if graph.dtype(int(op.inputs[1])) == "int8")
    return int(operator.inputs[1]), int(operator.inputs[WEIGHTED[kind]])


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("mode", ["int8", "int16x8", "mixed"])
def test_weights_and_biases_keep_to_the_specification(
    mode: str, kind: str, written: dict[str, tuple[bytes, Contract]]
) -> None:
    flatbuffer, contract = written[mode]

    def change(place: int, **values: Callable) -> Callable[[Graph], None]:
        def changed(graph: Graph) -> None:
            quantization = graph.tensor(with_weights(graph, kind)[place]).quantization
            for name, make in values.items():
                setattr(quantization, name, make(getattr(quantization, name)))

        return changed

    def lowest(graph: Graph) -> None:
        index = with_weights(graph, kind)[0]
        values = np.array(graph.constant(index))
        values.flat[0] = -128
        graph.make_constant(index, values)

    refused(flatbuffer, contract, change(0, zeroPoint=lambda zero: zero + 1), "weights have a zero point")
    refused(flatbuffer, contract, change(1, zeroPoint=lambda zero: zero + 1), "bias has a zero point")
    refused(flatbuffer, contract, change(1, scale=lambda scale: scale * np.float32(1.001)), "bias does not have")
    refused(flatbuffer, contract, change(1, scale=lambda scale: scale[:0]), "bias does not have")
    refused(flatbuffer, contract, lowest, "weights reach -128")
    refused(flatbuffer, contract, change(0, quantizedDimension=lambda axis: 1), "scales along axis 1, not")


def test_weights_of_a_dynamic_file_are_held_to_it_too(written: dict[str, tuple[bytes, Contract]]) -> None:
    def change(graph: Graph) -> None:
        quantization = graph.tensor(with_weights(graph, "FULLY_CONNECTED")[0]).quantization
        quantization.zeroPoint = quantization.zeroPoint + 1

    refused(*written["dynamic"], change, "weights have a zero point")


@pytest.mark.parametrize("kind", sorted(ALIKE | {kind for kind, _ in FIXED}))
def test_each_row_is_looked_at_whether_an_encoder_has_it_or_not(
    kind: str, written: dict[str, tuple[bytes, Contract]]
) -> None:
    """The operator in place of one of the file's; only what is looked at matters, it need not run."""
    graph = Graph(written["int8"][0])
    operator = next(op for op in graph.operators if graph.operator_name(op) == "RESHAPE")
    source, result = int(operator.inputs[0]), int(operator.outputs[0])
    operator.opcodeIndex = graph.operator_code(getattr(schema.BuiltinOperator, kind), 1)
    fixed = FIXED.get((kind, "int8"))
    if fixed is not None:
        quantization = graph.tensor(result).quantization
        quantization.scale, quantization.zeroPoint = np.array([fixed[0]], np.float32), np.array([fixed[1]])
        operator.inputs = operator.inputs[:1]
    graph.operators[:] = [operator]
    check_constraints(graph)
    for index in (source, result) if kind in ALIKE else (result,):
        quantization = graph.tensor(index).quantization
        kept = quantization.scale
        quantization.scale = kept * np.float32(1.01)
        with pytest.raises(ConversionError, match=f"quantized {kind} "):
            check_constraints(graph)
        quantization.scale = kept


def test_the_table_has_every_row_of_the_specification() -> None:
    tied = {
        "AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D", "RESHAPE", "RESIZE_BILINEAR", "SPACE_TO_DEPTH", "PAD",
        "GATHER", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "TRANSPOSE", "SQUEEZE", "MAXIMUM", "MINIMUM", "PADV2",
        "SLICE",
    }  # fmt: skip
    assert tied <= ALIKE
    assert {kind for kind, dtype in FIXED if dtype == "int8"} == {
        "L2_NORMALIZATION", "LOGISTIC", "SOFTMAX", "TANH", "LOG_SOFTMAX"
    }  # fmt: skip


def test_a_16_bit_sum_with_a_zero_point_is_refused(written: dict[str, tuple[bytes, Contract]]) -> None:
    def change(graph: Graph) -> None:
        operator = next(op for op in graph.operators if graph.operator_name(op) == "ADD")
        graph.tensor(int(operator.outputs[0])).quantization.zeroPoint = np.array([3])

    refused(*written["int16x8"], change, "16-bit tensor has the zero point 3, not 0")
