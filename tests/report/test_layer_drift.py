"""Layers are judged by real interpreters; a fault that was planted in one of them is found in that one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.calibration import Ranges, collect_ranges
from embedlite.convert import Asked, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.layers import L2Normalization
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.prepare import prepare
from embedlite.convert.quantize.equalize import equalizable, equalize
from embedlite.convert.quantize.litert import LEAST_WEIGHTS, quantize
from embedlite.convert.quantize.trial import unmeasured
from embedlite.report.causes import pair as layer_pair
from embedlite.report.causes.help import Made, Noise, what_helps
from embedlite.report.causes.layer_noise import PARTS, LayerDrift, LayerReport, measure_layers, render_layers
from embedlite.runtime import InputContract
from embedlite.runtime.backends.interpreters import find_runtime
from embedlite.runtime.backends.subgraph import cut, runner
from embedlite.runtime.errors import RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.flatbuffer import read_flatbuffer

from conftest import Digits, Run, error_line
from ways_out import walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (16, 16, 3)
CONTRACT = InputContract(SHAPE)


def encoder(kind: str) -> keras.Model:
    keras.utils.set_random_seed(5)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="first")(image)
    if kind == "depthwise":
        x = layers.DepthwiseConv2D(3, activation="relu", name="deep")(x)
        x = layers.Conv2D(16, 1, activation="relu", name="point")(x)
    else:
        x = layers.Add(name="sum")([x, layers.Conv2D(8, 3, padding="same", activation="relu", name="branch")(x)])
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(layers.Conv2D(12, 3, name="embedding")(x))
    return keras.Model(image, L2Normalization()(x), name=kind)


def pictures(count: int = 24) -> np.ndarray:
    """Smooth coloured noise: neighbouring pixels go together, as in photos."""
    rng = np.random.default_rng(1)
    coarse = rng.random((count, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return (255 * np.clip(coarse + 0.1 * rng.normal(size=coarse.shape), 0, 1)).astype(np.uint8)


IMAGES = [picture.astype(np.float32) / 255 for picture in pictures()]


@cache
def lowered(kind: str) -> SimpleNamespace:
    """A float graph, ready for quantization, with its ranges."""
    graph = prepare(lower(from_keras(encoder(kind), kind, LoadOptions())).flatbuffer)
    operators = Graph(graph.flatbuffer)
    names = equalizable(operators)
    source = open_source(pictures(), CONTRACT)
    ranges = collect_ranges(graph.flatbuffer, source, by_channel=names, without=unmeasured(graph))
    ranges = replace(ranges, limits={**ranges.limits, graph.input_name: (0.0, 1.0)})
    changed, scaled = equalize(graph.flatbuffer, ranges)
    return SimpleNamespace(graph=graph, ranges=ranges, equalized=changed, scaled=scaled)


def int8(kind: str, shrunk: str = "", *, equalized: bool = False) -> bytes:
    """The int8 graph, one of its ranges a tenth of what it should be."""
    made = lowered(kind)
    flatbuffer = made.equalized if equalized else made.graph.flatbuffer
    ranges: Ranges = made.scaled if equalized else made.ranges
    if shrunk:
        low, high = ranges.limits[shrunk]
        ranges = replace(ranges, limits={**ranges.limits, shrunk: (low / 10, high / 10)})
    return quantize(flatbuffer, "int8", ranges, made.graph.keep_float)


def measured(candidate: bytes, reference: bytes, folder: Path) -> LayerReport:
    paths = [folder / "candidate.tflite", folder / "reference.tflite"]
    for path, data in zip(paths, (candidate, reference), strict=True):
        path.write_bytes(data)
    return measure_layers(*paths, IMAGES, threads=1)


def named(report: LayerReport, name: str) -> LayerDrift:
    (layer,) = [layer for layer in report.layers if f"/{name}" in f"/{layer.name}" and layer.operator != "RESHAPE"]
    return layer


@pytest.mark.parametrize(
    ("kind", "name", "equalized"),
    [
        ("depthwise", "first", False),
        ("depthwise", "deep", False),
        ("depthwise", "deep", True),
        ("depthwise", "point", True),
        ("depthwise", "embedding", False),
        ("residual", "branch", False),
        ("residual", "sum", False),
        ("residual", "sum", True),
    ],
)
def test_a_layer_whose_range_is_a_tenth_of_what_it_needs_is_ranked_first(
    kind: str, name: str, equalized: bool, tmp_path: Path
) -> None:
    reference = lowered(kind).graph.flatbuffer
    sound = measured(int8(kind, equalized=equalized), reference, tmp_path)
    layer = named(sound, name)
    faulty = measured(int8(kind, layer.name, equalized=equalized), reference, tmp_path)
    worst = faulty.ranked()[0]
    assert worst.name == layer.name
    assert worst.share > 0.9 > layer.share
    assert worst.alone_db < layer.alone_db - 10
    assert worst.clipping > 0.9 > layer.clipping + 0.8
    assert faulty.helps.startswith("more calibration images like these: ")
    # What comes before it is as it was.
    place = sound.layers.index(layer)
    assert place > 0
    assert faulty.layers[:place] == tuple(
        replace(before, share=after.share) for before, after in zip(sound.layers, faulty.layers[:place], strict=False)
    )


def test_an_input_whose_range_is_too_small_is_ranked_first(tmp_path: Path) -> None:
    made = lowered("depthwise")
    faulty = measured(int8("depthwise", made.graph.input_name), made.graph.flatbuffer, tmp_path)
    assert (faulty.ranked()[0].operator, faulty.ranked()[0].name) == ("QUANTIZE", faulty.layers[0].name)


@pytest.mark.parametrize("equalized", [False, True])
@pytest.mark.parametrize("name", ["first", "deep", "point"])
def test_a_layer_with_damaged_weights_is_ranked_first(name: str, equalized: bool, tmp_path: Path) -> None:
    reference = lowered("depthwise").graph.flatbuffer
    sound = int8("depthwise", equalized=equalized)
    layer = named(measured(sound, reference, tmp_path), name)
    graph = Graph(sound)
    (operator,) = [op for op in graph.operators if graph.tensor_name(int(op.outputs[0])) == layer.name]
    weights = graph.constant(int(operator.inputs[1]))
    damaged = np.random.default_rng(0).permutation(weights.ravel()).reshape(weights.shape)
    graph.make_constant(int(operator.inputs[1]), damaged)
    worst = measured(graph.to_bytes(), reference, tmp_path).ranked()[0]
    assert worst.name == layer.name
    assert worst.alone_db < layer.alone_db - 10
    # The range was made for other weights, so that some values are clipped now.
    assert worst.weights > 0.7


@pytest.mark.parametrize("kind", ["depthwise", "residual"])
def test_what_the_layers_do_alone_explains_what_they_do_together(kind: str, tmp_path: Path) -> None:
    made = lowered(kind)
    report = measured(int8(kind), made.graph.flatbuffer, tmp_path)
    assert report.images == len(IMAGES)
    assert report.lost == 0
    assert report.sum_db == pytest.approx(report.together_db, abs=3)
    assert sum(layer.share for layer in report.layers) == pytest.approx(1)
    # The embeddings that both files give, by a way of their own.
    wanted = float_rows(made.graph.flatbuffer, IMAGES, 1).astype(np.float64)
    given = float_rows(int8(kind), IMAGES, 1)
    assert report.together_db == pytest.approx(
        10 * np.log10((wanted**2).sum() / ((given - wanted) ** 2).sum()), abs=0.01
    )


def test_alone_is_what_a_file_gives_in_which_nothing_else_is_quantized(tmp_path: Path) -> None:
    """Of the first layer: its input, pixels, loses nothing, so no other rounding is in that file."""
    made = lowered("depthwise")
    report = measured(int8("depthwise"), made.graph.flatbuffer, tmp_path)
    graph = Graph(made.graph.flatbuffer)
    others = [graph.tensor_name(int(op.outputs[0])) for op in graph.operators[1:]]
    single = quantize(made.graph.flatbuffer, "int8", made.ranges, others)
    wanted = float_rows(made.graph.flatbuffer, IMAGES, 1).astype(np.float64)
    noise = float_rows(single, IMAGES, 1) - wanted
    alone = 10 * np.log10((wanted**2).sum() / (noise**2).sum())
    assert named(report, "first").alone_db == pytest.approx(alone, abs=0.1)


def test_the_part_of_the_weights_is_what_a_float_file_with_them_gives(tmp_path: Path) -> None:
    """The integers as they are stored, put as floats where the float graph has its weights and biases."""
    made = lowered("depthwise")
    report = measured(int8("depthwise"), made.graph.flatbuffer, tmp_path)
    wanted = float_rows(made.graph.flatbuffer, IMAGES, 1).astype(np.float64)
    stored = Graph(int8("depthwise"))
    for layer in report.layers:
        if layer.operator not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            assert not layer.weights
            continue
        assert layer.weights + layer.clipping + layer.rounding == pytest.approx(1)
        graph = Graph(made.graph.flatbuffer)
        (operator,) = [op for op in graph.operators if graph.tensor_name(int(op.outputs[0])) == layer.name]
        (small,) = [op for op in stored.operators if stored.tensor_name(int(op.outputs[0])) == layer.name]
        for place in (1, 2):
            values, quantization = stored.constant(int(small.inputs[place])), stored.tensor(int(small.inputs[place]))
            scale = np.asarray(quantization.quantization.scale)
            shape = [-1 if size == len(scale) else 1 for size in values.shape]
            if layer.operator == "CONV_2D" and place == 1:
                shape = [-1, 1, 1, 1]
            real = (values * scale.reshape(shape)).astype(np.float32)
            graph.make_constant(int(operator.inputs[place]), real)
        noise = float_rows(graph.to_bytes(), IMAGES, 1) - wanted
        alone = 10 * np.log10((wanted**2).sum() / (noise**2).sum())
        parts = layer.alone_db - 10 * np.log10(layer.weights)
        assert parts == pytest.approx(alone, abs=1)


@pytest.mark.parametrize(
    ("kind", "rescaled"), [("depthwise", ["first", "deep", "point"]), ("residual", ["first", "branch", "sum"])]
)
def test_equalized_channels_are_brought_back_before_they_are_compared(
    kind: str, rescaled: list[str], tmp_path: Path
) -> None:
    """Against the float graph that was equalized too, nothing needs to be brought back: the same must come out."""
    made = lowered(kind)
    report = measured(int8(kind, equalized=True), made.graph.flatbuffer, tmp_path)
    direct = measured(int8(kind, equalized=True), made.equalized, tmp_path)
    assert [named(report, name).rescaled for name in (*rescaled, "embedding")] == [True] * 3 + [False]
    assert not any(layer.rescaled for layer in direct.layers)
    assert report.together_db == pytest.approx(direct.together_db, abs=0.01)
    for mine, true in zip(report.layers, direct.layers, strict=True):
        if mine.alone_db is not None and mine.share > 0.01:
            assert mine.alone_db == pytest.approx(true.alone_db, abs=1), mine.name
            assert mine.weights == pytest.approx(true.weights, abs=0.1), mine.name
            assert mine.rounding == pytest.approx(true.rounding, abs=0.1), mine.name
        if mine.rescaled:
            assert mine.sqnr_db > 25


def test_the_memory_for_activations_does_not_change_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lowered("residual")
    whole = measured(int8("residual"), made.graph.flatbuffer, tmp_path)
    monkeypatch.setattr(layer_pair, "_CHUNK_BYTES", 1)
    assert measured(int8("residual"), made.graph.flatbuffer, tmp_path) == whole


@pytest.mark.parametrize("kind", ["depthwise", "residual"])
def test_an_operator_that_was_cut_out_computes_what_it_does_in_the_whole(kind: str) -> None:
    flatbuffer = int8(kind)
    info = read_flatbuffer(flatbuffer)
    wiring, runtime = info.wiring, find_runtime()
    outputs = [index for _, writes in wiring.operators for index in writes]
    whole = cut(flatbuffer, range(len(wiring.operators)), wiring.inputs, outputs)
    values = dict(zip(outputs, runner(runtime, whole, wiring.inputs, outputs, 1)([IMAGES[0][None]]), strict=True))
    values[wiring.inputs[0]] = IMAGES[0][None]
    for place, (reads, writes) in enumerate(wiring.operators):
        inputs = [index for index in reads if index in values]
        part = cut(flatbuffer, [place], inputs, writes)
        assert read_flatbuffer(part).operators == (info.operators[place],)
        (answer,) = runner(runtime, part, inputs, writes, 1)([values[index] for index in inputs])
        np.testing.assert_array_equal(answer, values[writes[0]])


@pytest.mark.parametrize("mode", ["int8", "int16x8", "dynamic", "float16"])
def test_every_mode_of_a_real_export(mode: str, digits: Digits) -> None:
    source = open_source(digits.test_images, read_artifact(digits.float32).contract.input).sample(8, 0)
    images = [source.ready(index) for index in range(len(source))]
    report = measure_layers(digits.file(mode), digits.float32, images, threads=1)
    convolutions = [layer for layer in report.layers if layer.operator == "CONV_2D"]
    # A dynamic file leaves small weights float, and there is nothing to compare then.
    graph = Graph(read_artifact(digits.float32).flatbuffer)
    weights = [
        int(np.prod(graph.shape(int(operator.inputs[1]))))
        for operator in graph.operators
        if graph.operator_name(operator) == "CONV_2D"
    ]
    assert len(weights) == 19
    rounded = [size for size in weights if mode != "dynamic" or size >= LEAST_WEIGHTS]
    assert len(convolutions) == len(rounded) >= 16
    assert report.lost == 0
    # The raw embedding is worth what the report of the whole file says, within what eight images tell.
    assert {"int8": 25, "int16x8": 28, "dynamic": 20, "float16": 50}[mode] < report.together_db
    # N errors that all point the same way are together N times the sum of their powers. They may be far less than the
    # sum, too, where one undoes another: those of a refitted last layer do.
    assert report.together_db > report.sum_db - 10 * np.log10(len(report.layers))
    # Beside a tensor that is not its counterpart, a layer is all noise: 0 dB.
    assert [layer.sqnr_db > 10 for layer in convolutions] == [True] * len(rounded)
    json.dumps(report.to_json(), allow_nan=False)
    parts = {part: sum(layer.share * (getattr(layer, part) or 0) for layer in report.layers) for part in PARTS}
    assert sum(parts.values()) == pytest.approx(1)
    most = {"int16x8": "weights", "float16": "weights"}.get(mode)
    assert most is None or parts[most] > 0.6
    if mode == "int8":
        # Its last layer is computed in float, which rounds nothing but the weights; the others round what they give.
        *inner, end = convolutions
        assert (end.weights, end.rounding) == (pytest.approx(1, abs=0.01), pytest.approx(0, abs=0.01))
        assert all(layer.rounding > 0.1 for layer in inner)
    assert (report.helps is None) == (report.together_db >= 60)


def test_a_file_with_integer_ends_that_leaves_the_normalization_to_the_runtime(tmp_path: Path) -> None:
    options = {"quantize": ["float32", "int8"], "calibration_data": pictures(), "measure": False}
    export_asked(encoder("depthwise"), Asked(output_dir=tmp_path / "float", **options))
    export_asked(
        encoder("depthwise"), Asked(output_dir=tmp_path / "int8", input_type="int8", output_type="int8", **options)
    )
    reference = tmp_path / "float" / "depthwise.float32.tflite"
    whole = measure_layers(tmp_path / "float" / "depthwise.int8.tflite", reference, IMAGES, threads=1)
    ends = measure_layers(tmp_path / "int8" / "depthwise.int8.tflite", reference, IMAGES, threads=1)
    assert [layer.operator for layer in ends.layers] == ["INPUT", *(layer.operator for layer in whole.layers[1:])]
    assert ends.together_db == pytest.approx(whole.together_db, abs=0.01)
    assert [layer.alone_db for layer in ends.layers[1:]] == pytest.approx(
        [layer.alone_db for layer in whole.layers[1:]]
    )


@walks(
    "--layers: the candidate's operators have no counterparts in the",
    "--layers: there are no images to measure layers on. Pass at least one",
)
def test_the_float_model_of_another_candidate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no counterparts in the reference.*float32 file of the same export"):
        measured(int8("residual"), lowered("depthwise").graph.flatbuffer, tmp_path)
    assert measured(int8("residual"), lowered("residual").graph.flatbuffer, tmp_path).layers
    with pytest.raises(RequestError):
        measure_layers(tmp_path / "candidate.tflite", tmp_path / "reference.tflite", [], threads=1)
    assert measure_layers(tmp_path / "candidate.tflite", tmp_path / "reference.tflite", IMAGES[:1], threads=1).layers


def test_the_table_shows_the_worst_and_counts_the_others() -> None:
    rows = [LayerDrift(f"layer{i};x", "CONV_2D", (1, 4), 40.0 - i, None, i == 3, 50.0, i / 66) for i in range(12)]
    text = render_layers(LayerReport(tuple(rows), 7, 30.0, 31.0, 2), 100).splitlines()
    assert text[0].endswith("7 images")
    assert [line.split()[0] for line in text[2:12]] == [f"layer{i}" for i in range(11, 1, -1)]
    assert text[12].split() == ["2", "others:", "1.5%"]
    assert text[13] == "all together 30.0 dB; if their noise added up it would be 31.0 dB"
    assert text[14].startswith("* equalized")
    assert text[15].startswith("2 operator(s) have no counterpart")


@pytest.mark.parametrize(
    ("parts", "made", "says"),
    [
        (
            ((0, 0.3, 0.1), (0.2, 0, 0.4)),
            Made("int8", "minmax", 100),
            r"^more calibration .* than the 100 .*30% .* first",
        ),
        (((0, 0.3, 0.1), (0.2, 0, 0.4)), Made("int8", "mse", 9), "^--calibrate-method minmax, or more calibration"),
        (((0.1, 0, 0.8), (0.1, 0, 0)), Made("int8"), r"^float or 16 bits for first.* 90% .* 40.0 dB.*sqnr_db=39 "),
        (((0.1, 0, 0.2),) * 3, Made(), r"^16-bit activations .*: 67% of the noise is rounded activations"),
        (((0.2, 0.01, 0.1),) * 3, Made(), r"^fine-tuning .*: 65% of the noise is rounded weights"),
        (((1, 0, 0),), Made("int16x8"), "^float16 or float32"),
        (((1, 0, 0),), Made("dynamic"), "float16 or float32"),
    ],
)
def test_what_helps_follows_from_the_parts(parts: tuple, made: Made, says: str) -> None:
    layers = [Noise(name, *values) for name, values in zip(("first", "second", "third"), parts, strict=False)]
    total = sum(layer.share for layer in layers)
    layers = [Noise(layer.layer, *(getattr(layer, part) / total for part in PARTS)) for layer in layers]
    assert re.search(says, what_helps(layers, 30.0, made))
    assert what_helps(layers, 70.0, made) is None
    assert what_helps(layers, None, made) is None


def test_the_command_on_the_older_runtime(digits: Digits, run: Run) -> None:
    arguments = [digits.int8, "--reference", digits.float32, "--data", digits.test_images, "--num-samples", "16"]
    done = run("drift-report", *arguments, "--layers", "--json", "-", runtime="tflite-runtime")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["ladder"] is None
    assert len(value["layers"]) == 20
    keys = ["name", "operator", "shape", "sqnr_db", "drop_db", "rescaled", "alone_db", "share"]
    assert list(value["layers"][0]) == [*keys, "weights", "clipping", "rounding"]


@pytest.mark.parametrize(
    ("candidate", "reference", "options", "says"),
    [
        ("float32", "float32", ["--layers"], "--layers needs a quantized candidate"),
        ("int8", "int8", ["--layers"], "--layers need a float reference"),
        ("int8", "float16", ["--ladder", "--layers"], "--ladder and --layers need a float reference"),
        ("int8", "vectors.npz", ["--layers"], "--layers run both models, and .*vectors.npz holds stored embeddings"),
    ],
)
def test_what_has_no_ladder_or_layers_is_refused_at_once(
    candidate: str, reference: str, options: list[str], says: str, digits: Digits, run: Run
) -> None:
    other = digits.folder / reference if "." in reference else digits.file(reference)
    done = run("drift-report", digits.file(candidate), "--reference", other, "--data", digits.test_images, *options)
    assert re.search(says, error_line(done))


def test_the_input_is_no_layer_that_could_have_more_bits() -> None:
    layers = [Noise("image", 0.0, 0.0, 0.6, is_input=True), Noise("first", 0.1, 0.0, 0.3)]
    said = what_helps(layers, 30.0, Made("int8"))
    assert said is not None
    assert "image" not in said
    # One layer that makes most of the rest is still named.
    assert "float or 16 bits for first" in str(
        what_helps([layers[0], Noise("first", 0.1, 0.0, 0.35)], 30.0, Made("int8"))
    )
