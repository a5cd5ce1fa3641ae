"""int16x8 has ranges of its own and runs; and a mode that cannot be made costs the others nothing."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from run_files import run_files

from embedlite.convert import ExportOptions, export
from embedlite.convert.errors import ConversionError
from embedlite.convert.graph.graph import Graph
from embedlite.convert.make import maker
from embedlite.runtime import Encoder
from embedlite.runtime.model.artifact import read_artifact

from conftest import Run
from rounding import decibels

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (48, 24, 24, 3), np.uint8)
OTHERS = RNG.integers(0, 256, (24, 24, 24, 3), np.uint8)


def encoder(*first: keras.layers.Layer, pooled: bool = True) -> keras.Model:
    keras.utils.set_random_seed(0)
    pool = [layers.GlobalAveragePooling2D()] if pooled else [layers.Flatten()]
    body = [layers.Conv2D(8, 3, 2, "same", activation="relu"), *pool, layers.Dense(16)]
    return keras.Sequential([keras.Input((24, 24, 3)), *first, *body, layers.UnitNormalization()], name="small")


def sqnr_of(file: Path, model: keras.Model, images: np.ndarray) -> float:
    wanted = np.asarray(model(images.astype(np.float32)))
    with Encoder(file) as opened:
        found = opened.embed(images)
    return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


@pytest.mark.parametrize("offset", [-1.0, 1.0])
def test_a_sum_of_tensors_in_steps_of_powers_of_two_runs(offset: float, tmp_path: Path) -> None:
    """Pixels in steps of 1/127.5 and a whole offset: LiteRT refuses the sum unless one scale is not a power of two."""
    model = encoder(layers.Rescaling(1 / 127.5, offset=offset))
    result = export(
        model,
        tmp_path,
        quantize=["int16x8"],
        calibration_data=IMAGES,
        test_data=OTHERS,
        options=ExportOptions(mean=(0.0,), std=(1.0,), measure=False),
    )
    # 8-bit weights alone leave some 44 dB here.
    assert sqnr_of(result.files[0].path, model, OTHERS) > 40


def test_its_ranges_are_not_those_of_int8(tmp_path: Path) -> None:
    """A range that int8 clips for its own sake would clip 16 bits as well."""
    model, sqnr = encoder(layers.Rescaling(1 / 255)), {}
    for method in ("percentile:90", "minmax"):
        result = export(
            model,
            tmp_path / method[:3],
            quantize=["int8", "int16x8"],
            calibration_data=IMAGES,
            test_data=OTHERS,
            options=ExportOptions(mean=(0.0,), std=(1.0,), calibrate_method=method, correct=["none"], measure=False),
        )
        sqnr[method] = [sqnr_of(file.path, model, OTHERS) for file in result.files]
        assert result.files[1].contract["calibration"]["method"] == "minmax"
    assert sqnr["percentile:90"][0] < sqnr["minmax"][0] - 3
    assert sqnr["percentile:90"][1] == pytest.approx(sqnr["minmax"][1], abs=0.01)


def branches(larger: float) -> keras.Model:
    """One function, whose first branch is so many times larger than its reader needs it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((24, 24, 3))
    first, second = (layers.Conv2D(8, 3, 2, activation="relu") for _ in range(2))
    reader = layers.Conv2D(8, 3, 2, activation="relu")
    x = reader(layers.Concatenate()([first(image), second(image)]))
    first.set_weights([larger * values for values in first.get_weights()])
    kernel, bias = reader.get_weights()
    reader.set_weights([kernel / np.repeat([larger, 1.0], 8).astype(np.float32)[:, None], bias])
    return keras.Model(image, layers.Dense(16)(layers.Flatten()(x)), name="branches")


def test_branches_of_very_different_size_are_equalized_and_a_recipe_does_it_again(tmp_path: Path) -> None:
    """One scale for all that an output reads does not tell the small weights apart."""
    found, models = {}, {larger: branches(larger) for larger in (1.0, 1000.0)}
    for name, larger, more in (
        ("alike", 1.0, {}),
        ("apart", 1000.0, {}),
        ("again", 1000.0, {"recipe": tmp_path / "apart" / "branches.export.json"}),
        ("plain", 1000.0, {"equalize": False}),
    ):
        model = models[larger]
        modes = [] if "recipe" in more else ["int16x8"]
        options = ExportOptions(measure=False, **more)
        result = export(model, tmp_path / name, quantize=modes, calibration_data=IMAGES, options=options)
        wanted = np.asarray(model(OTHERS / np.float32(255)))
        with Encoder(result.files[0].path) as opened:
            noise = decibels(opened.embed(OTHERS), wanted)
        found[name] = noise, result.files[0].sha256, any("equalized for int16x8" in text for text in result.decisions)
    assert found["apart"][2]
    assert found["apart"][0] > found["alike"][0] - 1
    assert found["again"][1] == found["apart"][1]
    assert found["plain"][0] < found["apart"][0] - 6


def test_layer_normalization_hard_swish_and_dense_layers_on_rows_are_right_on_every_runtime(
    run: Run, tmp_path: Path
) -> None:
    """Of 16 bits tflite-runtime 2.14 refuses the root of a variance, and computes one row of nine of a dense layer.

    No runtime has HARD_SWISH there; Vela refuses a file that computes it in float.

    The runtimes round alike but for ties, so that what they differ by is small beside what 8-bit weights cost.
    """
    keras.utils.set_random_seed(0)
    image = keras.Input((24, 24, 3))
    x = layers.Reshape((9, 16))(layers.Conv2D(16, 8, 8, activation="hard_silu")(image))
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="relu")(layers.LayerNormalization()(x)))])
    x = layers.Dense(8)(layers.Flatten()(layers.LayerNormalization()(x)))
    model = keras.Model(image, x, name="rows")
    result = export(
        model, tmp_path, quantize=["int16x8"], calibration_data=IMAGES, options=ExportOptions(measure=False)
    )
    (file,) = result.files
    graph = Graph(read_artifact(file.path).flatbuffer)
    dense = [item for item in graph.operators if graph.operator_name(item) == "FULLY_CONNECTED"]
    assert {graph.dtype(int(item.inputs[0])) for item in dense} == {"int16"}
    assert "HARD_SWISH" not in {graph.operator_name(item) for item in graph.operators}
    inputs = OTHERS.astype(np.float32) / 255
    np.save(tmp_path / "inputs.npy", inputs)
    wanted, found = np.asarray(model(inputs)), {}
    for runtime in ("ai-edge-litert", "tflite-runtime", "tflite-micro"):
        run_files(run, runtime, tmp_path)
        found[runtime] = np.load(tmp_path / f"{file.path.stem}.{runtime}.npy")
    drift = decibels(found["ai-edge-litert"], wanted)
    assert drift > 30
    for runtime in ("tflite-runtime", "tflite-micro"):
        assert decibels(found[runtime], found["ai-edge-litert"]) > drift + 6, runtime


@pytest.mark.parametrize("asked", [["all"], ["float32", "int16x8"]])
def test_a_mode_that_cannot_be_made_costs_the_others_nothing(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise ConversionError("no kernel for that")

    monkeypatch.setattr(maker, "quantize_wide", refuse)
    model = encoder(layers.Rescaling(1 / 255))
    result = export(
        model, tmp_path, quantize=asked, calibration_data=IMAGES, test_data=OTHERS, options=ExportOptions(measure=False)
    )
    modes = [file.mode for file in result.files]
    assert modes == (["float32", "float16", "dynamic", "int8"] if asked == ["all"] else ["float32"])
    assert all(file.path.exists() for file in result.files)
    assert [(item.mode, item.reason) for item in result.not_made] == [("int16x8", "no kernel for that")]
    # What ``all`` brought along may fail; what was named may not.
    assert bool(result.failed_modes) == (asked != ["all"])


def test_where_nothing_can_be_made_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise ConversionError("no kernel for that")

    monkeypatch.setattr(maker, "quantize_wide", refuse)
    with pytest.raises(ConversionError, match="no kernel"):
        export(
            encoder(),
            tmp_path,
            quantize=["int16x8"],
            calibration_data=IMAGES,
            test_data=OTHERS,
            options=ExportOptions(measure=False),
        )
