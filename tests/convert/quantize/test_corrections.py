"""Corrections change numbers only, do what they say on a real graph, and are kept only where embeddings gain."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from embedlite.calibration import collect_ranges
from embedlite.convert import ExportOptions, export
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.modes import CORRECTIONS
from embedlite.convert.normalization.prepare import prepare
from embedlite.convert.quantize import correct as corrections
from embedlite.convert.quantize.correct import Corrected, Corrector, walk
from embedlite.convert.quantize.correct.bias import channel_errors, correct_biases
from embedlite.convert.quantize.correct.paired_graph import (
    PairedGraph,
    input_rows,
    stored_weights,
    weight_matrices,
)
from embedlite.convert.quantize.correct.refit import choose_ridge, fit_near, refit_last_layer
from embedlite.convert.quantize.correct.rounding import (
    input_moments,
    round_groups,
    round_weights,
    round_with_feedback,
)
from embedlite.convert.quantize.litert import quantize
from embedlite.convert.quantize.trial import Trial
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.backends.interpreters import find_runtime
from embedlite.runtime.backends.subgraph import cut, runner
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.errors import RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model import tensor_match
from embedlite.runtime.model.flatbuffer import ModelInfo, read_flatbuffer

from conftest import Digits, Run, error_line
from rounding import decibels

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (17, 14, 3)


def encoder() -> keras.Model:
    """Every kind of layer that is corrected, with padding, strides and dilation; and a grouped one, which is not."""
    keras.utils.set_random_seed(11)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, strides=(2, 2), padding="same", activation="relu"),
            layers.Conv2D(12, 2, dilation_rate=2, padding="same", activation="relu"),
            layers.Conv2D(12, 1, groups=3),
            layers.Conv2D(16, 3, padding="valid", activation="relu"),
            layers.Flatten(),
            layers.Dense(10, name="embedding"),
        ],
        name="kinds",
    )


@cache
def made() -> SimpleNamespace:
    """The float graph, its int8 graph, and smooth images of which the last ten are held out."""
    graph = prepare(lower(from_keras(encoder(), "kinds", LoadOptions())).flatbuffer)
    coarse = np.random.default_rng(0).integers(0, 256, (60, 5, 5, 3), np.uint8)
    pictures = np.repeat(np.repeat(coarse, 4, axis=1), 3, axis=2)[:, :17, :14]
    source = open_source(pictures, InputContract(SHAPE))
    int8 = quantize(graph.flatbuffer, "int8", collect_ranges(graph.flatbuffer, source), graph.keep_float)
    images = [source.ready(index) for index in range(len(source))]
    trial = Trial(graph, images[50:], 2)
    return SimpleNamespace(graph=graph, int8=int8, source=source, images=images[:50], trial=trial)


def paired(quantized: bytes | None = None) -> PairedGraph:
    return PairedGraph(quantized or made().int8, made().graph.flatbuffer, made().images, 2)


def test_rows_times_weights_are_what_the_interpreter_computes() -> None:
    """Of every layer, by the float graph: padding, strides and dilation are TensorFlow's."""
    graph, seen = paired(), []
    for layer in graph.layers:
        weights, bias = graph.float_constant(layer.float_tensors[1]), graph.float_bias(layer)
        matrices = weight_matrices(layer, weights)
        np.testing.assert_array_equal(stored_weights(layer, matrices, weights.shape), weights)
        found = graph.both_inputs(layer, lambda _, true, item=layer, w=weights: input_rows(item, true, w.shape))
        if found[0] is None:
            seen.append("grouped")
            continue
        answers = graph.both_outputs(layer, lambda _, true: true.reshape(-1, true.shape[-1]))
        for rows, answer in zip(found[:3], answers, strict=False):
            computed = (
                (rows.astype(np.float64) @ matrices.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(len(answer), -1)
            )
            computed += bias
            if layer.options.fusedActivationFunction:
                computed = np.maximum(computed, 0)
            np.testing.assert_allclose(computed, answer, atol=1e-5)
        seen.append(layer.kind)
    assert seen == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "grouped", "CONV_2D", "FULLY_CONNECTED"]


def test_a_planted_error_of_the_biases_is_taken_out() -> None:
    graph = paired()
    spoiled = [graph.layers[0], graph.layers[-1]]
    for layer in spoiled:
        bias = layer.tensors[2]
        real = 0.02 * np.abs(np.concatenate(graph.both_outputs(layer, lambda _, true: true.ravel()))).max()
        graph.replace(bias, graph.constant(bias) + real / graph.scales(bias, graph.constant(bias).size))
    before = made().trial.errors_of(graph.to_bytes())[:, 0].sum()
    correct_biases(graph)
    last = graph.layers[-1]
    left = np.mean(graph.both_outputs(last, channel_errors), axis=0)
    largest = np.abs(np.concatenate(graph.both_outputs(last, lambda _, true: true.ravel()))).max()
    # Less would have been clipped away, and three steps are more than anything else here.
    assert np.abs(left).max() < 0.02 * largest / 5
    assert made().trial.errors_of(graph.to_bytes())[:, 0].sum() < before / 2


@pytest.mark.parametrize("correction", [correct_biases, round_weights, refit_last_layer])
def test_only_stored_numbers_change(correction) -> None:
    graph = paired()
    correction(graph)
    before, after = Graph(paired().to_bytes()), Graph(graph.to_bytes())
    assert len(graph.to_bytes()) == len(paired().to_bytes())
    assert [before.operator_name(op) for op in before.operators] == [after.operator_name(op) for op in after.operators]
    allowed = {
        correct_biases: {layer.tensors[2] for layer in graph.layers},
        round_weights: {layer.tensors[1] for layer in graph.layers},
        refit_last_layer: set(graph.layers[-1].tensors[1:3]),
    }[correction]
    changed = set()
    for index in range(len(before.subgraph.tensors)):
        one, other = before.tensor(index), after.tensor(index)
        same_scales = one.quantization is None or np.array_equal(one.quantization.scale, other.quantization.scale)
        assert same_scales or (correction is refit_last_layer and index in allowed)
        if before.constant(index) is not None and not np.array_equal(before.constant(index), after.constant(index)):
            changed.add(index)
    assert changed
    assert changed <= allowed
    assert made().trial.errors_of(graph.to_bytes())[:, 0].sum() < 1.5 * made().trial.errors_of(made().int8)[:, 0].sum()


def test_rounding_brings_every_layer_closer_on_its_inputs() -> None:
    graph = paired()
    moments = {
        layer.name: input_moments(graph, layer, graph.constant(layer.tensors[1]).shape) for layer in graph.layers[:1]
    }
    (layer,) = graph.layers[:1]
    weights = graph.float_constant(layer.float_tensors[1])

    def error() -> float:
        stored = weight_matrices(layer, graph.constant(layer.tensors[1]).astype(np.float64))[0]
        difference = stored * graph.scales(layer.tensors[1], len(stored))[:, None] - weight_matrices(layer, weights)[0]
        return float(np.einsum("oi,ij,oj->", difference, moments[layer.name][0], difference))

    before = error()
    round_weights(graph)
    assert error() < before / 2


@pytest.mark.parametrize("inputs", [1, 9, 25])
def test_the_channels_of_a_depthwise_convolution_at_once_are_rounded_as_one_by_one(inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    rows = rng.normal(size=(40, 200, inputs)) @ rng.normal(size=(40, inputs, inputs))
    rows[3, :, -1] = 0  # an input that is never used
    rows[7] = 0
    weights, scales = rng.normal(size=(40, 1, inputs)), rng.uniform(0.005, 0.05, (40, 1))
    moments = rows.transpose(0, 2, 1) @ rows
    alone = [round_with_feedback(*group) for group in zip(weights, moments, scales, strict=True)]
    np.testing.assert_array_equal(round_groups(weights, moments, scales), np.stack(alone))


@cache
def wide() -> bytes:
    ranges = collect_ranges(made().graph.flatbuffer, made().source)
    return quantize(made().graph.flatbuffer, "int16x8", ranges, made().graph.keep_float)


def test_with_16_bit_activations_corrections_take_most_of_the_error_away() -> None:
    corrector = Corrector(made().graph.flatbuffer, made().source.subset(range(50)), made().trial, CORRECTIONS, 2)
    corrected = corrector.correct(wide(), "int16x8")
    assert corrected.steps == (CORRECTIONS,)
    assert corrected.decisions[0].startswith("int16x8 was corrected (rounding, bias, refit): ")
    graphs = (wide(), corrector.apply(wide(), (("rounding",),)), corrected.graph)
    plain, rounded, whole = (made().trial.errors_of(flatbuffer)[:, 0].sum() for flatbuffer in graphs)
    assert rounded < plain / 2
    assert whole < rounded


def test_a_graph_of_16_bit_activations_is_imitated_with_the_weights_that_it_has_now() -> None:
    """By the interpreter's own answers: what the imitation leaves out is small beside what the weights do."""
    graph = paired(wide())
    for layer in graph.layers:
        graph.replace(layer.tensors[1], graph.constant(layer.tensors[1]) // 2 * 2)
    graph.replace(layer.tensors[2], graph.constant(layer.tensors[2]) + 50)
    graph.rescale(layer, (graph.scales(layer.tensors[1], 10) * np.linspace(0.9, 1.1, 10)).astype(np.float32))
    both = graph.both_outputs(layer, lambda *both: np.stack(both).reshape(2, -1))
    imitated, true = np.stack(both, axis=1)
    answered = float_rows(graph.to_bytes(), made().images, 2)
    np.testing.assert_allclose(true, float_rows(made().graph.flatbuffer, made().images, 2), atol=1e-5)
    assert decibels(imitated, answered) > decibels(true, answered) + 20


def test_weights_that_two_layers_share_stay_shared() -> None:
    """Otherwise the file would grow by them."""
    image = keras.Input((12, 12, 3))
    shared = layers.Conv2D(3, 3, padding="same", activation="relu")
    x = layers.Flatten()(layers.Conv2D(4, 12)(shared(shared(image))))
    graph = prepare(lower(from_keras(keras.Model(image, x, name="shared"), "shared", LoadOptions())).flatbuffer)
    images = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8)
    source = open_source(images, InputContract((12, 12, 3)))
    int8 = quantize(graph.flatbuffer, "int8", collect_ranges(graph.flatbuffer, source), graph.keep_float)
    both = PairedGraph(int8, graph.flatbuffer, [source.ready(index) for index in range(20)], 1)
    kinds = [Graph(int8).operator_name(operator) for operator in Graph(int8).operators]
    assert kinds.count("CONV_2D") == 3
    assert len(both.layers) == 1


def activations(*, float_end: bool) -> tuple[bytes, ModelInfo, list[tuple[int, int]]]:
    """An int8 graph with a residual, and each operator with an activation that it reads or writes, in order.

    Of a layer that computes in float at the end, an operator unpacks the weights.
    """
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    y = layers.DepthwiseConv2D(3, padding="same")(layers.Conv2D(4, 1, activation="relu")(x))
    x = layers.Dense(64)(layers.Flatten()(layers.Conv2D(6, 3, strides=2)(layers.Add()([x, y]))))
    graph = prepare(lower(from_keras(keras.Model(image, x, name="residual"), "r", LoadOptions())).flatbuffer)
    source = open_source(pictures(), InputContract((12, 12, 3)))
    last = (read_flatbuffer(graph.flatbuffer).outputs[0].name,)
    ranges = collect_ranges(graph.flatbuffer, source)
    int8 = quantize(graph.flatbuffer, "int8", ranges, graph.keep_float, floating=last if float_end else ())
    info = read_flatbuffer(int8)
    images = tensor_match.activations(info)
    wiring = enumerate(info.wiring.operators)
    pairs = [(place, index) for place, ends in wiring for index in (ends[0][0], ends[1][0]) if index in images]
    return int8, info, pairs


def pictures() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (9, 12, 12, 3), np.uint8)


@pytest.mark.parametrize("kept", [walk.MOST_KEPT, 9 * 12 * 12 * 3 * 4, 0])
@pytest.mark.parametrize(
    ("order", "float_end"), [("onwards", False), ("back", False), ("any", False), ("onwards", True)]
)
def test_a_walk_answers_what_a_run_from_the_image_does(
    kept: int, order: str, float_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, whatever is kept on the way and wherever it goes next."""
    monkeypatch.setattr(walk, "MOST_KEPT", kept)
    int8, info, pairs = activations(float_end=float_end)
    chosen = {"onwards": pairs, "back": pairs[::-1], "any": list(np.random.default_rng(3).permutation(pairs))}[order]
    images = [np.float32(picture) / 255 for picture in pictures()]
    going = walk.Walk(info, images, 2)
    for place, index in chosen:
        part = cut(int8, range(place + 1), info.wiring.inputs, [int(index)])
        whole = runner(find_runtime(), part, info.wiring.inputs, [int(index)], 1)
        read = going.reach(int8, int(place), int(index))()
        for number, image in enumerate(images):
            np.testing.assert_array_equal(read(number), whole([image[None]])[0])


def test_a_walk_forgets_what_an_older_constant_led_to() -> None:
    """Of a layer before the one where it stands; the layer itself has not been run."""
    graph = paired()
    first, last = graph.layers[0], graph.layers[-1]
    before = np.stack(graph.inputs(last, np.array))
    bias = graph.constant(first.tensors[2])
    graph.replace(first.tensors[2], bias + 3000)
    after = np.stack(graph.inputs(last, np.array))
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(after, np.stack(paired(graph.to_bytes()).inputs(last, np.array)))


def test_the_number_of_threads_changes_nothing() -> None:
    corrected = set()
    for threads in (1, 2, 3):
        corrector = Corrector(
            made().graph.flatbuffer, made().source.subset(range(50)), made().trial, CORRECTIONS, threads
        )
        corrected.add(corrector.correct(made().int8, "int8"))
    assert len(corrected) == 1


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 9), st.integers(1, 90))
@settings(max_examples=40, deadline=None)
def test_independent_inputs_round_to_the_nearest_step(seed: int, outputs: int, inputs: int) -> None:
    rng = np.random.default_rng(seed)
    weights, scales = rng.normal(size=(outputs, inputs)), rng.uniform(0.005, 0.05, outputs)
    rounded = round_with_feedback(weights, np.diag(rng.uniform(0, 9, inputs)), scales)
    np.testing.assert_array_equal(rounded, np.clip(np.rint(weights / scales[:, None]), -127, 127))


@given(SEEDS, st.integers(1, 9), st.integers(1, 90), st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_weights_that_are_whole_steps_already_stay(seed: int, outputs: int, inputs: int, rows: int) -> None:
    """With any inputs: fewer rows than inputs, none at all, some of them always zero."""
    rng = np.random.default_rng(seed)
    whole, scales = rng.integers(-127, 128, (outputs, inputs)), 2.0 ** rng.integers(-9, 2, outputs)
    given_rows = rng.normal(1, 1, (rows, inputs)) * (rng.random(inputs) < 0.8)
    rounded = round_with_feedback(whole * scales[:, None], given_rows.T @ given_rows, scales)
    np.testing.assert_array_equal(rounded, whole)


@given(SEEDS, st.integers(2, 90))
@settings(max_examples=40, deadline=None)
def test_rounding_with_feedback_costs_less_than_to_the_nearest_step(seed: int, inputs: int) -> None:
    """For inputs that go together, in the sum over many outputs."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(300, 1)) + 0.3 * rng.normal(size=(300, inputs))
    moments, weights, scales = rows.T @ rows, rng.normal(size=(40, inputs)), np.full(40, 0.05)

    def cost(whole: np.ndarray) -> float:
        return float(np.square(rows @ (whole * 0.05 - weights).T).sum())

    assert cost(round_with_feedback(weights, moments, scales)) < cost(np.rint(weights / 0.05))


@given(SEEDS, st.integers(1, 20), st.integers(1, 60), st.sampled_from([0.01, 1.0, 10.0]))
@settings(max_examples=40, deadline=None)
def test_a_fit_near_the_right_weights_is_exact(seed: int, inputs: int, rows: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    given_rows, weights, bias = rng.normal(size=(rows, inputs)), rng.normal(size=(3, inputs)), rng.normal(size=3)
    fitted, offset = fit_near(given_rows, given_rows @ weights.T + bias, weights, ridge)
    np.testing.assert_allclose(fitted, weights, atol=1e-9)
    np.testing.assert_allclose(offset, bias, atol=1e-9)


@given(SEEDS, st.integers(1, 20), st.integers(2, 60), st.sampled_from([0.01, 1.0, 10.0]))
@settings(max_examples=40, deadline=None)
def test_a_fit_leaves_no_mean_error_and_no_larger_one(seed: int, inputs: int, rows: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    given_rows, near = rng.normal(1, 1, size=(rows, inputs)), rng.normal(size=(3, inputs))
    targets = rng.normal(size=(rows, 3))
    weights, bias = fit_near(given_rows, targets, near, ridge)
    left = given_rows @ weights.T + bias - targets
    np.testing.assert_allclose(left.mean(axis=0), 0, atol=1e-9)
    before = given_rows @ near.T - targets
    assert np.square(left).sum() <= np.square(before - before.mean(axis=0)).sum() + 1e-9


@given(SEEDS, st.integers(1, 20), st.integers(2, 60), st.sampled_from([0.01, 1.0, 10.0]))
@settings(max_examples=40, deadline=None)
def test_a_fit_is_that_of_the_normal_equations_with_few_images_too(
    seed: int, inputs: int, rows: int, ridge: float
) -> None:
    rng = np.random.default_rng(seed)
    x, near, y = rng.normal(1, 1, size=(rows, inputs)), rng.normal(size=(3, inputs)), rng.normal(size=(rows, 3))
    weights, _ = fit_near(x, y, near, ridge)
    centred, left = x - x.mean(axis=0), y - y.mean(axis=0) - (x - x.mean(axis=0)) @ near.T
    variance = np.square(centred).sum() / inputs
    # The derivative of |X W' + b - Y|^2 + r |W - W_float|^2 is zero there.
    slope = centred.T @ (centred @ (weights - near).T - left) + ridge * variance * (weights - near).T
    np.testing.assert_allclose(slope, 0, atol=1e-9 * (1 + np.abs(centred.T @ left).max()))


def test_the_ridge_is_strong_where_the_images_say_nothing_new() -> None:
    rng = np.random.default_rng(0)
    near = rng.normal(size=(4, 30))
    images = [rng.normal(size=(1, 30)) for _ in range(40)]
    noise = [image @ near.T + rng.normal(size=(1, 4)) for image in images]
    other = [image @ (near + 1).T for image in images]
    assert choose_ridge(images, noise, near) >= 1
    assert choose_ridge(images, other, near) == 0.01


def test_what_does_harm_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(graph: PairedGraph) -> None:
        bias = graph.layers[0].tensors[2]
        graph.replace(bias, graph.constant(bias) + 2000)

    monkeypatch.setitem(corrections._APPLY, "bias", shift)
    corrector = Corrector(made().graph.flatbuffer, made().source.subset(range(50)), made().trial, ["bias"], 2)
    why = "int8 was not corrected: bias brought no clear gain on 10 held-out calibration images."
    assert corrector.correct(made().int8, "int8") == Corrected(made().int8, (), (why,))


def test_a_graph_without_layers_is_left_alone() -> None:
    corrector = Corrector(made().graph.flatbuffer, made().source.subset(range(50)), made().trial, ["bias"], 2)
    assert corrector.correct(made().graph.flatbuffer, "int8") == Corrected(made().graph.flatbuffer, (), ())


@pytest.fixture(scope="module")
def exported(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """The digits' int8 file, corrected twice and not at all."""
    found = {}
    for name, correct in (("corrected", ()), ("again", ("auto",)), ("plain", ("none",))):
        folder = tmp_path_factory.mktemp(name)
        result = export(
            digits.float32,
            folder,
            quantize=["int8"],
            calibration_data=digits.calibration,
            test_data=digits.test_images,
            options=ExportOptions(
                calibrate_method="minmax",
                equalize=False,
                correct=correct,
                targets=["litert", "tflite-runtime", "micro"] if name == "corrected" else (),
                # With micro the last layer would be of integers in that file alone.
                output_type="float32",
                measure=name == "corrected",
            ),
        )
        found[name] = SimpleNamespace(result=result, path=result.files[0].path)
    return found


def test_the_corrected_digits_gain_on_images_that_judged_nothing(
    digits: Digits, exported: dict[str, SimpleNamespace]
) -> None:
    # Which steps are kept depends on the network that was trained.
    (promise,) = [text for text in exported["corrected"].result.decisions if text.startswith("int8 was corrected (")]
    steps, before, after = re.match(r"int8 was corrected \((.+)\): ([\d.]+) -> ([\d.]+) dB", promise).groups()
    assert set(steps.split(", ")) <= {"rounding", "bias", "refit"}
    assert float(after) > float(before)
    assert not any("correct" in text for text in exported["plain"].result.decisions)
    drifts = {}
    with Encoder(digits.float32) as encoder:
        images = open_source(digits.test_images, encoder.contract.input)
        frames = np.stack([images.load(index) for index in range(len(images))])
        reference = encoder.embed(frames)
    for name in ("corrected", "plain"):
        with Encoder(exported[name].path) as encoder:
            drifts[name] = measure_drift(encoder.embed(frames), reference, k=None)[0].sqnr_db
    # A step is kept for a gain that is more than chance on the images that judged, so others gain, too; how much is up
    # to the network.
    assert drifts["corrected"] > drifts["plain"]


def test_the_corrected_file_is_no_larger_and_always_the_same(exported: dict[str, SimpleNamespace]) -> None:
    flatbuffers = {}
    for name, item in exported.items():
        with Encoder(item.path) as encoder:
            flatbuffers[name] = item.path.read_bytes()[: encoder.contract.flatbuffer_bytes]
    assert flatbuffers["corrected"] == flatbuffers["again"]
    assert flatbuffers["corrected"] != flatbuffers["plain"]
    # Equal constants of several layers may share a buffer in the plain file.
    assert len(flatbuffers["corrected"]) < 1.005 * len(flatbuffers["plain"])


def test_every_runtime_agrees_on_the_corrected_file(exported: dict[str, SimpleNamespace]) -> None:
    verdicts = {verdict.runtime: verdict for verdict in exported["corrected"].result.files[0].verified}
    for runtime in ("ai-edge-litert", "tflite-runtime", "tflite-micro"):
        assert verdicts[runtime].ok, verdicts[runtime].detail


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--correct", "gptq"], "unknown correction 'gptq'. Use rounding, bias, refit, auto or none"),
        (["--correct", "none", "--correct", "bias"], "given as none and as bias"),
        (
            ["-q", "float32", "--correct", "bias"],
            "--correct bias is for int8, int16x8 and mixed, which this export does not make. Add -q int8",
        ),
        (["-q", "float16", "--correct", "rounding"], "--correct rounding is for int8, int16x8 and mixed, which"),
    ],
)
def test_corrections_that_make_no_sense(
    options: list[str], says: str, digits: Digits, run: Run, tmp_path: Path
) -> None:
    data = ["--calibration-data", digits.calibration]
    assert says in error_line(run("export-tflite", digits.float32, "-o", tmp_path, *data, *options))


def test_names_are_tried_in_the_order_in_which_they_build_on_each_other() -> None:
    assert corrections.choose_corrections(["refit", "rounding"], ["int8"]) == ("rounding", "refit")
    assert corrections.choose_corrections(["rounding"], ["int16x8"]) == ("rounding",)
    assert corrections.choose_corrections([], ["float32"]) == ("rounding", "bias", "refit")
    with pytest.raises(RequestError, match="--correct refit is for int8, int16x8 and mixed, which"):
        corrections.choose_corrections(["refit"], ["dynamic"])
