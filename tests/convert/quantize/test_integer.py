"""Operators that litert-quantizer leaves float: in integers here, held against exact arithmetic on three runtimes."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers, ops
from run_files import run_files

from embedlite.calibration import Ranges
from embedlite.convert.errors import ConversionError
from embedlite.convert.graph.constraints import check_constraints
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.repair import repair
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.convert.quantize.integer import KERNELS, scale_of
from embedlite.convert.quantize.litert import quantize

from encoders import Call

SHAPE = (16, 16, 4)
LOW, HIGH = -2.0, 3.0
# 0.51 of a step is rounding once in fixed point; these round twice, the last two in the QUANTIZE that gives one scale.
BOUNDS = {"LEAKY_RELU": 0.8, "PRELU": 0.8, "MINIMUM": 0.7, "RELU6": 0.7}


LACKING = ("TILE",)
"""What TFLite Micro has no kernel for, of any type: a file with it runs there in no mode."""


@dataclass
class Case:
    """An operator as Keras spells it, and exactly; with the range of its output."""

    layer: Callable
    exact: Callable[[np.ndarray], np.ndarray]
    limits: tuple[float, float]


def prelu() -> layers.Layer:
    slopes = keras.initializers.Constant(np.array([0.25, 0.1, -0.3, 1.4]))
    return layers.PReLU(shared_axes=[1, 2], alpha_initializer=lambda shape, dtype=None: slopes(shape, dtype))


CASES = {
    "LEAKY_RELU": Case(layers.LeakyReLU(0.3), lambda x: np.where(x >= 0, x, np.float32(0.3) * x), (-0.6, 3)),
    "PRELU": Case(prelu(), lambda x: np.where(x >= 0, x, x * np.array([0.25, 0.1, -0.3, 1.4])), (-2.8, 3)),
    "ABS": Case(Call(ops.abs), np.abs, (0, 3)),
    "ELU": Case(layers.ELU(), lambda x: np.where(x >= 0, x, np.expm1(x)), (-0.87, 3)),
    "MINIMUM": Case(Call(lambda x: ops.minimum(x, 1.5)), lambda x: np.minimum(x, 1.5), (-2, 1.5)),
    # The converter would fuse it into the pooling, so it is put in place of another.
    "RELU6": Case(Call(ops.abs), lambda x: np.clip(x, 0, 6), (0, 3)),
    "REDUCE_MAX": Case(
        Call(lambda x: ops.max(x, axis=-1, keepdims=True)), lambda x: x.max(axis=-1, keepdims=True), (LOW, HIGH)
    ),
    "REVERSE_V2": Case(Call(lambda x: ops.flip(x, axis=2)), lambda x: x[:, :, ::-1], (LOW, HIGH)),
    "TILE": Case(Call(lambda x: ops.tile(x, (1, 2, 1, 1))), lambda x: np.tile(x, (1, 2, 1, 1)), (LOW, HIGH)),
}


def lowered(layer: Callable) -> bytes:
    image = keras.Input(SHAPE)
    x = layers.MaxPooling2D(1)(layer(layers.MaxPooling2D(1)(image)))
    model = keras.Model(image, layers.Flatten()(x))
    return lower(Original("small", SHAPE, model)).flatbuffer


def quantized(name: str) -> bytes:
    case, after, limits = CASES[name], False, {}
    graph = Graph(lowered(case.layer))
    for operator in graph.operators:
        if name == "RELU6" and graph.operator_name(operator) == "ABS":
            operator.opcodeIndex = graph.operator_code(schema.BuiltinOperator.RELU6, 1)
            operator.builtinOptions = None
        after = after or graph.operator_name(operator) in CASES
        for index in map(int, operator.outputs):
            limits[graph.tensor_name(index)] = case.limits if after else (LOW, HIGH)
    limits[graph.tensor_name(int(graph.subgraph.inputs[0]))] = (LOW, HIGH)
    graph = Graph(quantize(graph.to_bytes(), "int8", Ranges(limits, {}, 1), ()))
    repair(graph)
    check_constraints(graph)
    return graph.to_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    for name in CASES:
        (folder / f"{name}.tflite").write_bytes(quantized(name))
    step = np.float32((HIGH - LOW) / 255)
    # Every integer once in each channel, in another order, so that their largest differ.
    integers = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(4)], axis=-1)
    zero = round(-LOW / float(step))
    np.save(folder / "inputs.npy", ((integers - zero) * step).reshape(1, *SHAPE).astype(np.float32))
    return folder


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime", "tflite-micro"])
def test_kernels_are_within_their_bounds_of_exact_arithmetic(runtime: str, files: Path, run) -> None:
    lacking = LACKING if runtime == "tflite-micro" else ()
    run_files(run, runtime, files, without=lacking)
    values = np.load(files / "inputs.npy").astype(np.float64)
    errors = {}
    for name, case in CASES.items():
        if name in lacking:
            continue
        graph = Graph((files / f"{name}.tflite").read_bytes())
        operator = next(op for op in graph.operators if graph.operator_name(op) == name)
        scale = scale_of(graph, int(operator.outputs[0]))
        assert scale is not None
        step, zero = scale
        steps = np.clip(case.exact(values) / step + zero, -128, 127).ravel()
        answer = np.load(files / f"{name}.{runtime}.npy").ravel().astype(np.float64) / step + zero
        errors[name] = np.abs(answer - steps).max()
    print(json.dumps(errors), file=sys.stderr)
    assert {name: error for name, error in errors.items() if error > BOUNDS.get(name, 0.51)} == {}


def test_every_operator_of_the_table_is_tried_or_moves_values_only() -> None:
    assert KERNELS.keys() - CASES.keys() == {"SQUEEZE", "EXPAND_DIMS"}


def test_operators_in_a_row_have_nothing_between_them() -> None:
    flatbuffer = lowered(lambda x: layers.LeakyReLU(0.2)(Call(lambda y: ops.minimum(ops.abs(y), 1.0))(x)))
    graph = Graph(flatbuffer)
    limits = {graph.tensor_name(int(i)): (LOW, HIGH) for op in graph.operators for i in [*op.inputs, *op.outputs]}
    made = Graph(quantize(flatbuffer, "int8", Ranges(limits, {}, 1), ()))
    kinds = [made.operator_name(op) for op in made.operators]
    assert kinds == [
        "QUANTIZE",
        "MAX_POOL_2D",
        "ABS",
        "MINIMUM",
        "LEAKY_RELU",
        "MAX_POOL_2D",
        "RESHAPE",
        "DEQUANTIZE",
    ]


def test_unequal_scales_fail_the_export() -> None:
    graph = Graph(quantized("MINIMUM"))
    operator = next(op for op in graph.operators if graph.operator_name(op) == "MINIMUM")
    quantization = graph.tensor(int(operator.outputs[0])).quantization
    quantization.scale = quantization.scale * np.float32(1.01)
    with pytest.raises(ConversionError, match=r"quantized MINIMUM .* scales and zero points"):
        check_constraints(graph)
