"""What lies between operators without an integer kernel stays float, and what float16 cannot hold stays float32."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers, ops

from embedlite.calibration import Ranges
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows, tensor_values
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.convert.quantize.litert import quantize

from encoders import Call

IMAGES = list(np.random.default_rng(0).random((16, 12, 12, 3)).astype(np.float32))


def lowered(between: Callable[[keras.KerasTensor], keras.KerasTensor]) -> bytes:
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, kernel_initializer=keras.initializers.RandomNormal(0, 3.0))(image)
    x = layers.Conv2D(8, 3)(between(x))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    return lower(Original("small", (12, 12, 3), model)).flatbuffer


def quantized(flatbuffer: bytes, mode: str) -> bytes:
    graph = Graph(flatbuffer)
    limits = {graph.tensor_name(int(graph.subgraph.inputs[0])): (0.0, 1.0)}
    names = [graph.tensor_name(int(operator.outputs[0])) for operator in graph.operators]
    found = list(tensor_values(flatbuffer, names, IMAGES))
    limits |= {
        name: (min(float(v[name].min()) for v in found), max(float(v[name].max()) for v in found)) for name in names
    }
    return quantize(flatbuffer, mode, Ranges(limits, {}, len(IMAGES)), ())


def decibels(flatbuffer: bytes, made: bytes) -> float:
    wanted = float_rows(flatbuffer, IMAGES).astype(np.float64)
    return float(10 * np.log10((wanted**2).sum() / ((float_rows(made, IMAGES) - wanted) ** 2).sum()))


@pytest.mark.parametrize(("mode", "least"), [("int8", 30), ("int16x8", 40)])
def test_a_softplus_keeps_its_small_values(mode: str, least: float) -> None:
    """log(1 + exp(x)): of a sum that goes up to millions, integers keep nothing that makes a small logarithm."""
    flatbuffer = lowered(Call(lambda x: x * ops.tanh(ops.log(1 + ops.exp(x)))))
    made = Graph(quantized(flatbuffer, mode))
    kinds = [made.operator_name(operator) for operator in made.operators]
    first = kinds.index("EXP")
    assert kinds[first - 1 : first + 4] == ["DEQUANTIZE", "EXP", "ADD", "LOG", "QUANTIZE"]
    assert decibels(flatbuffer, made.to_bytes()) > least


@pytest.mark.parametrize(
    ("function", "last", "mode"), [("selu", "SELECT", "int8"), ("selu", "SELECT", "int16x8"), ("gelu", "DIV", "int8")]
)
def test_what_grows_beyond_its_use_stays_float(function: str, last: str, mode: str) -> None:
    """exp(x) where x is above 0, which SELECT drops, and the powers of x in the quotient that is the error function."""
    flatbuffer = lowered(Call(ops.selu if function == "selu" else lambda x: ops.gelu(x, approximate=False)))
    made = Graph(quantized(flatbuffer, mode))
    (end,) = [operator for operator in made.operators if made.operator_name(operator).startswith(last)]
    ends, seen = [end], []
    while ends:
        operator = ends.pop()
        if made.operator_name(operator) != "DEQUANTIZE":
            seen.append(operator)
            ends += [before for index in made.inputs(operator) if (before := made.producer(index)) is not None]
    assert len(seen) > 2
    assert {made.dtype(int(operator.outputs[0])) for operator in seen} <= {"float32", "bool"}
    assert decibels(flatbuffer, made.to_bytes()) > 25


def test_what_a_quantized_operator_reads_as_well_is_quantized() -> None:
    def between(x: keras.KerasTensor) -> keras.KerasTensor:
        summed = 1 + ops.exp(0.1 * x)
        return ops.log(summed) + ops.tanh(summed)

    made = Graph(quantized(lowered(Call(between)), "int8"))
    (exponential,) = [operator for operator in made.operators if made.operator_name(operator) == "EXP"]
    (reader,) = made.consumers(int(exponential.outputs[0]))
    assert made.operator_name(reader) == "QUANTIZE"


def test_constants_too_large_or_too_small_for_float16_stay_float32() -> None:
    def between(x: keras.KerasTensor) -> keras.KerasTensor:
        large = layers.Rescaling(1e6)(layers.Conv2D(6, 3)(layers.ReLU()(x)))
        return layers.Rescaling(1e-6)(layers.ReLU(negative_slope=0.5)(large))

    flatbuffer = lowered(between)
    made = quantize(flatbuffer, "float16", None, ())
    graph = Graph(made)
    for index in range(len(graph.subgraph.tensors)):
        values = graph.constant(index)
        assert values is None or np.isfinite(values).all()
    assert {graph.dtype(index) for index in range(len(graph.subgraph.tensors))} >= {"float16", "float32"}
    assert decibels(flatbuffer, made) > 55


@pytest.mark.parametrize("mode", ["int8", "int16x8"])
def test_places_that_nobody_reads_stay_places(mode: str) -> None:
    """Sorting gives values and their places: of the one made to be as the other is, LiteRT refused the file."""
    flatbuffer = lowered(Call(lambda x: ops.sort(x, axis=-1)))
    assert decibels(flatbuffer, quantized(flatbuffer, mode)) > 20
