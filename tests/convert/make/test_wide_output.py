"""Copies of the last layer, each over a part of the range: rounded once in finer steps, on every runtime."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, ExportResult, export
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.make.wide_output import last_layer, widen
from embedlite.report.causes.layer_noise import measure_layers
from embedlite.runtime import Encoder
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
from embedlite.runtime.check.selftest import selftest
from embedlite.runtime.errors import DamagedModelError, RequestError
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.contract import Contract

from encoders import PLAIN
from ways_out import walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (16, 16, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (112, *SHAPE), np.uint8)
UNSEEN = np.random.default_rng(1).integers(0, 256, (64, *SHAPE), np.uint8)


def single(kind: str) -> keras.Model:
    """One layer between an integer image and the normalization, so that what it must give is known exactly."""
    keras.utils.set_random_seed(0)
    body = [layers.Conv2D(12, 16)] if kind == "CONV_2D" else [layers.Flatten(), layers.Dense(12)]
    ends = [layers.Flatten(), L2Normalization()] if kind == "CONV_2D" else [L2Normalization()]
    return keras.Sequential([keras.Input(SHAPE), *body, *ends], name="single")


def network(*end: Callable[[], layers.Layer]) -> keras.Model:
    """Its last layer is a small part of it, and what comes before loses little."""
    keras.utils.set_random_seed(5)
    body = [layers.Conv2D(24, 3, padding="same", activation="relu"), layers.Conv2D(32, 3, strides=4, activation="relu")]
    return keras.Sequential([keras.Input(SHAPE), *body, *(make() for make in end)], name="small")


def made(folder: Path, model: keras.Model, **options) -> ExportResult:
    given = {"measure": False, **PLAIN, "output_type": "int8", **options}
    data = {} if "recipe" in given else {"quantize": given.pop("quantize", ["int8"])}
    return export(model, folder, calibration_data=IMAGES, test_data=UNSEEN, **data, options=ExportOptions(**given))


@pytest.mark.parametrize("copies", [2, 4])
@pytest.mark.parametrize("kind", ["CONV_2D", "FULLY_CONNECTED"])
def test_the_sum_is_rounded_once_in_finer_steps(kind: str, copies: int, tmp_path: Path) -> None:
    artifact = read_artifact(made(tmp_path, single(kind), input_type="int8").files[0].path)
    graph = Graph(artifact.flatbuffer)
    layer = last_layer(graph)
    assert graph.operator_name(layer) == kind
    source, weights = (graph.tensor(int(layer.inputs[place])).quantization for place in (0, 1))
    output = graph.tensor(int(layer.outputs[0])).quantization
    unit = np.asarray(weights.scale, np.float64) * float(source.scale[0])
    kernel = graph.constant(int(layer.inputs[1])).astype(np.int64).reshape(12, -1)
    biased = len(layer.inputs) > 2 and layer.inputs[2] >= 0
    offset = graph.constant(int(layer.inputs[2])).astype(np.int64) if biased else np.int64(0)
    zero = widen(graph, copies)
    step = float(output.scale[0])
    narrow = float(
        Graph(artifact.flatbuffer).tensor(int(Graph(artifact.flatbuffer).subgraph.outputs[0])).quantization.scale[0]
    )
    assert step == pytest.approx(narrow / copies, rel=1e-6)
    interpreter = open_interpreter(find_runtime(), graph.to_bytes(), threads=1)
    reads, writes = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    differing = 0
    for image in UNSEEN:
        stored = (image.astype(np.int64) - 128).astype(np.int8)
        interpreter.set_tensor(reads["index"], stored[None])
        interpreter.invoke()
        answer = interpreter.get_tensor(writes["index"])
        assert answer.shape == (1, 12 * copies)
        found = answer.reshape(copies, 12).astype(np.int64).sum(0)
        values = kernel @ (stored.astype(np.int64).ravel() - int(source.zeroPoint[0])) + offset
        exact = np.clip(values * unit / step + zero, -128 * copies, 127 * copies)
        # A shift is rounded to whole steps of the bias, and an interpreter multiplies in float32.
        limit = 0.5 + unit / (2 * step) + 2.0**-13
        assert (np.abs(found - exact) <= limit).all()
        differing += int((found != np.round(exact)).sum())
    assert differing <= 0.02 * UNSEEN.shape[0] * 12


ENDINGS: dict[str, list[Callable[[], layers.Layer]]] = {
    "L2": [layers.GlobalMaxPooling2D, lambda: layers.Dense(24), L2Normalization],
    "min-max of a map": [
        lambda: layers.Conv2D(10, 1),
        lambda: layers.Reshape((-1, 10)),
        lambda: MinMaxNormalization("channel"),
    ],
}


def noise_db(model: keras.Model, file: Path) -> float:
    """One image after the other, because a normalization may reach over a batch."""
    wanted = np.concatenate([np.asarray(model(image[None] / np.float32(255))) for image in UNSEEN])
    with Encoder(file) as encoder:
        found = encoder.embed(UNSEEN)
    return float(10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


@pytest.mark.parametrize("ending", ENDINGS)
@walks("--wide-output is for files that end in int8, and the output would be {}, where it has no use")
def test_where_it_gains_it_is_offered_and_made(ending: str, tmp_path: Path) -> None:
    model = network(*ENDINGS[ending])
    with pytest.raises(RequestError, match="--wide-output is for files that end in int8"):
        made(tmp_path / "refused", model, output_type=None, wide_output=True)
    plain = made(tmp_path / "plain", model)
    (offered,) = [text for text in plain.decisions if "--wide-output" in text]
    assert "would bring" in offered
    wide = made(tmp_path / "wide", model, wide_output=True)
    (told,) = [text for text in wide.decisions if "computes its last layer" in text]
    assert "held-out calibration images" in told
    (before,), (after,) = plain.files, wide.files
    assert noise_db(model, after.path) > noise_db(model, before.path) + 1
    assert "copies" not in before.contract["normalization"]
    copies = after.contract["normalization"]["copies"]
    assert copies in (2, 4)
    shapes = [read_artifact(file.path).info.outputs[0].shape for file in (before, after)]
    assert shapes[1] == (*shapes[0][:-1], shapes[0][-1] * copies)
    again = made(tmp_path / "again", model, wide_output=True, recipe=tmp_path / "wide" / "small.export.json")
    assert again.files[0].sha256 == after.sha256


@walks("--layers: the candidate computes its last layer {} times, the float model once")
def test_every_runtime_and_the_npu_run_it(tmp_path: Path) -> None:
    model = network(*ENDINGS["L2"])
    options = {"measure": True, "input_type": "int8", "golden_from": IMAGES[:2], "c_header": True}
    wide, plain = (
        made(tmp_path / name, model, quantize=["float32", "int8"], **options, **more)
        for name, more in (("wide", {"wide_output": True}), ("plain", {}))
    )
    reference, file = wide.files
    assert file.contract["normalization"]["copies"] > 1
    verdicts = {verdict.runtime: verdict for verdict in file.verified}
    assert set(verdicts) == {"ai-edge-litert", "tflite-runtime", "tflite-micro", "ethos-u-vela"}
    assert all(verdict.ok for verdict in verdicts.values()), verdicts
    assert not verdicts["ethos-u-vela"].cpu_operators
    assert file.drift.sqnr_db > plain.files[1].drift.sqnr_db + 1
    images = [image / np.float32(255) for image in UNSEEN[:8]]
    with Encoder(file.path) as encoder:
        assert encoder.embedding_shape == (24,)
        assert selftest(encoder).passed
    with pytest.raises(RequestError, match="--layers: the candidate computes its last layer"):
        measure_layers(file.path, reference.path, images, threads=1)
    # What it says.
    measured = measure_layers(plain.files[1].path, plain.files[0].path, images, threads=1)
    assert measured.layers


@pytest.mark.parametrize("changed", [{"copies": 0}, {"copies": "2"}, {"copies": 2.0}])
def test_a_number_of_copies_that_cannot_be_is_a_damaged_contract(changed: dict, tmp_path: Path) -> None:
    contract = made(tmp_path, single("FULLY_CONNECTED")).files[0].contract
    assert Contract.from_json(contract).to_json() == contract
    with pytest.raises(DamagedModelError, match="cannot be read"):
        Contract.from_json({**contract, "normalization": {**contract["normalization"], **changed}})


def test_what_cannot_be_repeated_or_would_take_time_is_one_line(tmp_path: Path) -> None:
    kept = "int8 keeps its raw embedding in eight bits: its last layer "
    costly = made(tmp_path / "one", single("CONV_2D"), wide_output=True).decisions
    assert f"{kept}makes 100% of the network's products, and copies of it would take time." in costly
    pooled = network(layers.GlobalAveragePooling2D, L2Normalization)
    none = made(tmp_path / "two", pooled, wide_output=True).decisions
    assert f"{kept}is none that can be computed several times." in none
    bare = made(tmp_path / "three", network(layers.GlobalAveragePooling2D), wide_output=True).decisions
    why = "copies are added up before a normalization, and Encoder computes none"
    assert f"int8 keeps its embedding in eight bits: {why}." in bare
    few = export(
        pooled,
        tmp_path / "four",
        quantize=["int8"],
        calibration_data=IMAGES[:5],
        test_data=UNSEEN,
        options=ExportOptions(measure=False, correct=("none",), output_type="int8", wide_output=True),
    )
    assert any("too few calibration images to judge copies of its last layer by" in said for said in few.decisions)
