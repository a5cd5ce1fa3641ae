"""Placement ``frozen``: constants from the calibration images, folded where that is exact, judged against Keras."""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from embedlite.calibration import CalibrationDataError
from embedlite.convert import ExportOptions, export
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_runner, tensor_values
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.freeze import FrozenNormalization, collect_extremes, freeze
from embedlite.convert.normalization.recognise import find_normalizations
from embedlite.runtime import Encoder
from embedlite.runtime.errors import RequestError
from embedlite.runtime.model.contract import NormalizationSpec

from encoders import PLAIN, Call, small_encoder
from ways_out import walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (12, 12, 3)


def images(count: int, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def ready(count: int, seed: int = 0) -> np.ndarray:
    return images(count, seed) / np.float32(255)


def encoder(before: Sequence[keras.layers.Layer], after: Sequence[keras.layers.Layer]) -> keras.Sequential:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(6, 3, activation="relu"), *before, *after])
    for weight in model.weights:  # biases that matter
        weight.assign_add(keras.random.normal(weight.shape, stddev=0.1, seed=1))
    return model


BEFORE: dict[str, Callable[[], list[keras.layers.Layer]]] = {
    "conv valid": lambda: [layers.Conv2D(5, 3, padding="valid")],
    "conv padded with zeros": lambda: [layers.Conv2D(5, 3, padding="same")],
    "depthwise": lambda: [layers.DepthwiseConv2D(3, padding="same")],
    "dense": lambda: [layers.Flatten(), layers.Dense(7)],
    "dense without bias": lambda: [layers.Flatten(), layers.Dense(7, use_bias=False)],
    "conv and batch norm": lambda: [layers.Conv2D(5, 3), layers.BatchNormalization()],
}


def frozen_graphs(model: keras.Sequential) -> tuple[Graph, bytes, bytes, int, list[FrozenNormalization]]:
    """The float graph, the graph with constants unfolded and folded, how many folded, and the constants."""
    graph = Graph(lower(from_keras(model, "model", LoadOptions())).flatbuffer)
    found = find_normalizations(graph)
    named = [(graph.tensor_name(item.source), item.spec) for item in found]
    constants = collect_extremes(graph.to_bytes(), named, ready(20))
    plain, none = freeze(graph.to_bytes(), found, constants, fold=False)
    folded, count = freeze(graph.to_bytes(), found, constants, fold=True)
    assert none == 0
    return graph, plain, folded, count, constants


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("axis", ["sample", "channel"])
@pytest.mark.parametrize("divisor", ["shifted", "input"])
def test_folding_into_the_layer_before_changes_nothing(before: str, axis: str, divisor: str) -> None:
    if "dense" in before and axis == "channel":
        axis = "batch"  # a vector has no places to reduce over
    model = encoder(BEFORE[before](), [MinMaxNormalization(axis, divisor), layers.Flatten()])
    _, plain, folded, count, _ = frozen_graphs(model)
    assert count == 1
    names = {Graph(folded).operator_name(operator) for operator in Graph(folded).operators}
    assert not names & {"REDUCE_MIN", "REDUCE_MAX", "DIV", "SUB", "MUL", "ADD"}
    first, second = float_runner(plain), float_runner(folded)
    for image in ready(8, seed=1):
        np.testing.assert_allclose(second(image), first(image), atol=2e-6 * max(1, float(np.abs(first(image)).max())))


def test_the_constants_are_those_of_keras_and_so_is_the_embedding(tmp_path: Path) -> None:
    """Independent of the graph: Keras' raw embedding, numpy's extremes over the calibration images, the formula."""
    model = small_encoder([layers.Flatten(), Call(lambda x: (x - ops.min(x)) / ops.max(x - ops.min(x)))])
    rng = np.random.default_rng(0)
    calibration, test = (rng.integers(0, 256, (count, 24, 24, 3), np.uint8) for count in (30, 20))
    raw = keras.Model(model.inputs[0], model.layers[-1].input)
    low, high = (f(np.asarray(raw(calibration / np.float32(255)))) for f in (np.min, np.max))
    wanted_raw = np.asarray(raw(test / np.float32(255)))
    wanted = (wanted_raw - low) / (high - low)

    result = export(
        model,
        tmp_path,
        quantize=["float32", "dynamic", "int8"],
        calibration_data=calibration,
        test_data=test,
        options=ExportOptions(normalization="frozen", **PLAIN),
    )
    with Encoder(result.files[0].path) as opened:
        np.testing.assert_allclose(opened.embed(test), wanted, atol=1e-5)
        spec = opened.contract.normalization
    assert spec.placement == "frozen"
    np.testing.assert_allclose([*spec.minimum, *spec.maximum], [low, high], rtol=1e-5)
    report = result.normalization
    assert report.outside == pytest.approx(float(((wanted_raw < low) | (wanted_raw > high)).mean()), abs=1e-3)
    assert report.from_original is not None
    original = np.stack([np.asarray(model(image[None] / np.float32(255)))[0] for image in test])
    noise = float(((wanted - original) ** 2).sum())
    assert report.from_original.sqnr_db == pytest.approx(10 * np.log10(float((original**2).sum()) / noise), abs=0.01)
    # Judged against Keras with the same constants, the files hardly drift.
    drifts = {file.mode: file.drift for file in result.files}
    assert all(drift is not None and drift.sqnr_db is not None for drift in drifts.values())
    assert drifts["float32"].sqnr_db > 100
    assert drifts["int8"].sqnr_db > 25
    assert any("outside" in decision or "lie outside" in decision for decision in result.decisions)


def test_a_shared_raw_tensor_is_not_folded() -> None:
    """Its other reader wants the values as they were."""
    image = keras.Input(SHAPE)
    raw = layers.Flatten()(layers.Conv2D(5, 3)(layers.Conv2D(6, 3, activation="relu")(image)))
    model = keras.Model(image, layers.Concatenate()([MinMaxNormalization()(raw), raw]))
    _, plain, folded, count, _ = frozen_graphs(model)
    assert count == 0
    assert folded == plain


def test_a_fused_activation_is_folded_only_where_it_commutes() -> None:
    """ReLU commutes with a positive scale, and with no offset but zero."""
    relu = encoder([layers.Conv2D(5, 3, activation="relu")], [MinMaxNormalization("batch"), layers.Flatten()])
    _, plain, folded, count, (constants,) = frozen_graphs(relu)
    assert float(constants.minimum.min()) == 0
    assert count == 1
    clipped = encoder([layers.Conv2D(5, 3), layers.ReLU(6)], [MinMaxNormalization("batch"), layers.Flatten()])
    assert frozen_graphs(clipped)[3] == 0
    for image in ready(4, seed=2):
        np.testing.assert_allclose(float_runner(folded)(image), float_runner(plain)(image), atol=2e-6)


def test_channels_that_a_reshape_mixes_are_not_folded() -> None:
    mixing = encoder([layers.Conv2D(6, 3), layers.Reshape((-1, 3))], [MinMaxNormalization("channel"), layers.Flatten()])
    assert frozen_graphs(mixing)[3] == 0


def test_extremes_do_not_depend_on_the_order_of_the_images() -> None:
    model = encoder([layers.Conv2D(5, 3)], [MinMaxNormalization("channel"), layers.Flatten()])
    graph, _, _, _, (constants,) = frozen_graphs(model)
    shuffled = ready(20)[np.random.default_rng(5).permutation(20)]
    (again,) = collect_extremes(graph.to_bytes(), [(constants.source, constants.spec)], shuffled)
    np.testing.assert_array_equal(again.minimum, constants.minimum)
    np.testing.assert_array_equal(again.maximum, constants.maximum)
    raw = np.concatenate([values[constants.source] for values in _raw(graph, constants.source)])
    np.testing.assert_array_equal(raw.min(axis=(0, 1, 2)), constants.minimum.ravel())
    np.testing.assert_array_equal(raw.max(axis=(0, 1, 2)), constants.maximum.ravel())


def _raw(graph: Graph, name: str) -> list[dict[str, np.ndarray]]:
    return [{key: value.copy() for key, value in v.items()} for v in tensor_values(graph.to_bytes(), [name], ready(20))]


def test_a_flat_embedding_cannot_be_frozen() -> None:
    flat = FrozenNormalization(NormalizationSpec("minmax", (0, 1)), "raw", np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(CalibrationDataError, match="flat embedding"):
        flat.affine()


@walks("places, and a frozen normalization would divide by zero there. Use")
def test_constants_that_flat_images_do_not_give_are_had_as_the_error_says(tmp_path: Path) -> None:
    """Given images of one level each. Result: refused; frozen from more of them, or left in the graph, it exports."""
    model = encoder([layers.Conv2D(5, 3)], [MinMaxNormalization("channel", epsilon=0.0), layers.Flatten()])
    flat = [np.full(SHAPE, 40, np.uint8)] * 2
    varied, sample = [*flat, *images(20)], images(3, 1)

    def exported(name: str, data: list[np.ndarray], placement: str) -> np.ndarray:
        asked = ExportOptions(normalization=placement, measure=False)
        folder = tmp_path / name
        calibration = np.stack(data)
        export(model, folder, quantize=["float32"], calibration_data=calibration, test_data=sample, options=asked)
        with Encoder(next(folder.glob("*.tflite"))) as opened:
            return opened.embed(sample)

    with pytest.raises(CalibrationDataError):
        exported("flat", flat, "frozen")
    raw = keras.Model(model.inputs[0], model.layers[-3].output)
    seen, values = (np.asarray(raw(np.stack(data) / np.float32(255))) for data in (varied, list(sample)))
    low, high = seen.min((0, 1, 2)), seen.max((0, 1, 2))
    wanted = ((values - low) / (high - low)).reshape(3, -1)
    np.testing.assert_allclose(exported("more", varied, "frozen"), wanted, atol=1e-5)
    wanted = np.stack([np.asarray(model(image[None] / np.float32(255)))[0] for image in sample])
    np.testing.assert_allclose(exported("graph", flat, "graph"), wanted, atol=1e-5)


def test_a_normalization_in_the_middle_is_frozen_too(tmp_path: Path) -> None:
    model = encoder([layers.Conv2D(5, 3)], [MinMaxNormalization("channel"), layers.Flatten(), layers.Dense(8)])
    export(
        model,
        tmp_path,
        quantize=["int8"],
        calibration_data=images(40),
        options=ExportOptions(normalization="frozen", input_type="int8", output_type="int8", measure=False),
    )
    names = {operator.name for operator in Encoder(next(tmp_path.glob("*.tflite"))).artifact.info.operators}
    assert not names & {"DIV", "REDUCE_MAX", "QUANTIZE", "DEQUANTIZE"}


@pytest.mark.parametrize("ending", [[], [L2Normalization]])
def test_without_a_minmax_there_is_nothing_to_freeze(ending: list[type[keras.layers.Layer]], tmp_path: Path) -> None:
    model = encoder([layers.Conv2D(5, 3), layers.Flatten()], [make() for make in ending])
    with pytest.raises(RequestError, match="no min-max normalization"):
        export(
            model,
            tmp_path / "out",
            calibration_data=images(20),
            options=ExportOptions(normalization="frozen", measure=False),
        )
    assert not (tmp_path / "out").exists()


def test_freezing_needs_calibration_images(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--calibration-data"):
        export(encoder([], [layers.Flatten()]), tmp_path, options=ExportOptions(normalization="frozen", measure=False))
