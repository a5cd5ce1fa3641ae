"""Masks of an attention cost the scores no steps: held against exact arithmetic on three runtimes, and Keras."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from run_files import run_files

from embedlite.calibration import Ranges
from embedlite.convert import ExportOptions, export
from embedlite.convert.graph.constraints import check_constraints
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.masks import masked_tensors
from embedlite.convert.graph.repair import repair
from embedlite.convert.graph.run import float_rows, tensor_values
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.convert.quantize.int16x8 import quantize_wide
from embedlite.convert.quantize.litert import quantize
from embedlite.runtime import Encoder

from encoders import Call
from rounding import decibels

SIZE = 12
SHAPE = (SIZE, SIZE, 1)
LOWER = np.tril(np.ones((SIZE, SIZE), np.float32))
PADDED = (np.arange(SIZE) < 9).astype(np.float32)[None]
SLOPES = -np.abs(np.subtract.outer(np.arange(SIZE), np.arange(SIZE))).astype(np.float32) / 8

MASKS: dict[str, Callable] = {
    "sum": lambda s: s + (1 - LOWER) * -1e9,
    "product and sum": lambda s: s * LOWER + (1 - LOWER) * -1e9,
    "difference": lambda s: s - (1 - LOWER) * 1e10,
    "choice": lambda s: ops.where(LOWER > 0, s, -1e9),
    "choice the other way round": lambda s: ops.where(LOWER == 0, -1e9, s),
    "infinite choice": lambda s: ops.where(LOWER > 0, s, -np.inf),
    "infinite sum": lambda s: s + np.where(LOWER > 0, 0, -np.inf).astype("float32"),
    "float16": lambda s: s + (1 - LOWER) * -65504,
    "a hundred": lambda s: s + (1 - LOWER) * -100,
    "padding": lambda s: s + (1 - PADDED) * -1e9,
    "two": lambda s: s + (1 - LOWER) * -1e9 + (1 - PADDED) * -65504,
    "mask and bias": lambda s: s + (1 - LOWER) * -1e9 + SLOPES,
    "bias and mask": lambda s: s + SLOPES + (1 - LOWER) * -1e9,
    "divided": lambda s: (s + (1 - LOWER) * -1e9) / 2,
    "computed": lambda s: s + (1 - ops.cast(s[:, :1] > -1, "float32")) * -1e9,
    "computed, negative": lambda s: s + (ops.cast(s[:, :1] > -1, "float32") - 1) * 1e9,
    "computed choice": lambda s: ops.where(s[:, :1] > -1, s, -1e9),
    "computed sum of a choice": lambda s: s + ops.where(s[:, :1] > -1, 0.0, -1e9),
    "all of a row": lambda s: s - 1e9 * (np.arange(SIZE) > 8).astype("float32")[:, None],
}
"""What an attention has between its scores and the softmax."""


MODES = {"int8": 2**8, "int16x8": 2**16}


def scores_of(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] - 0.5) * 8


def lowered(masks: Sequence[Callable]) -> bytes:
    """The weights of attentions, one after the other, from the scores in an image."""
    image = keras.Input(SHAPE)
    x = Call(lambda x: (ops.reshape(x, (-1, SIZE, SIZE)) - 0.5) * 8)(image)
    weights = [layers.Flatten()(Call(lambda s, mask=mask: ops.softmax(mask(s)))(x)) for mask in masks]
    # TFLite Micro joins ten at most.
    joined = [layers.Concatenate()(weights[i : i + 8]) for i in range(0, len(weights), 8) if len(weights) > 1]
    x = layers.Concatenate()(joined) if len(joined) > 1 else (joined or weights)[0]
    return lower(Original("small", SHAPE, keras.Model(image, x))).flatbuffer


IMAGES = list(np.random.default_rng(0).random((24, *SHAPE)).astype(np.float32))
# What is computed from scores must not be about rounding: none lies near the bound.
for one in IMAGES:
    scores = scores_of(one)[0]
    one[0, :, 0] = np.where(np.abs(scores + 1) < 0.2, scores + 0.5, scores) / 8 + 0.5


def quantized(flatbuffer: bytes, mode: str) -> bytes:
    graph = Graph(flatbuffer)
    without = masked_tensors(graph)
    limits = {graph.tensor_name(int(graph.subgraph.inputs[0])): (0.0, 1.0)}
    names = [graph.tensor_name(int(operator.outputs[0])) for operator in graph.operators]
    kept = [name for name in names if name not in without and graph.dtype(graph.index_of(name)) == "float32"]
    found = list(tensor_values(flatbuffer, kept, IMAGES))
    limits |= {
        name: (min(float(v[name].min()) for v in found), max(float(v[name].max()) for v in found)) for name in kept
    }
    ranges = Ranges(limits, {}, len(IMAGES))
    wide = mode == "int16x8"
    made = Graph(quantize_wide(flatbuffer, ranges, ()) if wide else quantize(flatbuffer, mode, ranges, ()))
    repair(made)
    check_constraints(made)
    return made.to_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    flatbuffer = lowered(list(MASKS.values()))
    np.save(folder / "wanted.npy", float_rows(flatbuffer, IMAGES))
    for mode in MODES:
        (folder / f"{mode}.tflite").write_bytes(quantized(flatbuffer, mode))
    np.save(folder / "inputs.npy", IMAGES)
    return folder


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime", "tflite-micro"])
def test_weights_are_as_exact_as_the_steps_of_scores_without_a_mask(runtime: str, files: Path, run) -> None:
    run_files(run, runtime, files)
    wanted = np.load(files / "wanted.npy").reshape(len(IMAGES), len(MASKS), -1).astype(np.float64)
    wrong = {}
    for mode, steps in MODES.items():
        # Scores of -4 to 4 and biases of at most 1.4, and below them what makes half a step of all that is masked.
        # In 16 bits ranges are twice that, and zero lies in the middle.
        width = (8 + 2 * 1.4 + math.log(2 * steps * SIZE)) / steps * (1 if mode == "int8" else 4)
        # Rounded, each to half a step: the input, its difference and product, two sums and their constants. A weight
        # moves by no more than its exponential does.
        spread = math.expm1(7 * width / 2)
        # Of the softmax: half a step of its own, half for what is masked, one for the kernel's tables of 8 or 9 bits.
        step = 1 / 256 if mode == "int8" else 1 / 512
        answers = np.load(files / f"{mode}.{runtime}.npy").reshape(wanted.shape)
        for name, answer, exact in zip(MASKS, answers.swapaxes(0, 1), wanted.swapaxes(0, 1), strict=True):
            error, masked = np.abs(answer - exact) - spread * exact, answer[exact == 0]
            if error.max() > 2 * step or masked.max(initial=0.0) > step / 2:
                wrong[name, mode] = error.max(), masked.max(initial=0.0)
    assert wrong == {}


def test_all_of_it_is_in_integers(files: Path) -> None:
    for mode in MODES:
        graph = Graph((files / f"{mode}.tflite").read_bytes())
        found = [op for op in graph.operators if graph.operator_name(op) == "SOFTMAX"]
        assert len(found) == len(MASKS)
        assert {graph.dtype(int(op.inputs[0])) for op in found} == {"int8" if mode == "int8" else "int16"}


UNPROVED: dict[str, Callable] = {
    # Where all are masked, the softmax is that of the scores, and nothing says that it never happens.
    "computed": lambda s: s + (1 - ops.cast(s[:, :1] > -1, "float32")) * -65504,
    "constant": lambda s: s + (np.arange(SIZE) > 8)[:, None] * np.float32(-65504),
    "not of true and false": lambda s: s + ops.maximum(s[:, :1], 0) * -1e9,
}


def test_what_cannot_be_proved_stays_float() -> None:
    flatbuffer = lowered(list(UNPROVED.values()))
    for mode in MODES:
        graph = Graph(quantized(flatbuffer, mode))
        found = [op for op in graph.operators if graph.operator_name(op) == "SOFTMAX"]
        assert len(found) == len(UNPROVED)
        assert {graph.dtype(int(op.inputs[0])) for op in found} == {"float32"}


def test_biases_are_no_masks() -> None:
    graph = Graph(lowered([lambda s: s + SLOPES * 8]))
    assert masked_tensors(graph) == set()


def test_a_float_layer_keeps_the_mask_as_it_is() -> None:
    flatbuffer = lowered([MASKS["sum"]])
    graph = Graph(flatbuffer)
    names = [graph.tensor_name(int(operator.outputs[0])) for operator in graph.operators]
    limits = dict.fromkeys([*names, graph.tensor_name(int(graph.subgraph.inputs[0]))], (-4.0, 4.0))
    ranges = Ranges(limits, {}, len(IMAGES))
    made = quantize(flatbuffer, "int8", ranges, (), precision=dict.fromkeys(names, "float"))
    np.testing.assert_array_equal(float_rows(made, IMAGES), float_rows(flatbuffer, IMAGES))


def test_causal_attention_of_keras_in_every_mode(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    x = layers.Reshape((16, 16))(layers.Conv2D(16, 2, strides=2)(image))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(x, x, use_causal_mask=True)])
    x = layers.Dense(16)(layers.Flatten()(layers.Dense(32, activation="relu")(x)))
    model = keras.Model(image, x, name="causal")
    images = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 3), np.uint8)
    options = ExportOptions(measure=False)
    modes = ["float32", "float16", "dynamic", "int8", "int16x8"]
    result = export(model, tmp_path, quantize=modes, calibration_data=images[:32], options=options)
    assert [file.mode for file in result.files] == modes
    wanted = np.asarray(model(images[32:] / np.float32(255)))
    for file, least in zip(result.files, (110, 50, 35, 30, 45), strict=True):
        assert decibels(Encoder(file.path).embed(images[32:]), wanted) > least, file.mode
