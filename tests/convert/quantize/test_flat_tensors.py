"""Tensors of one value: they cost nobody the int8 file, and where nothing else is left, the reason is told."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.calibration import CalibrationDataError
from embedlite.convert import Asked, ExportOptions, ExportResult, export, export_asked
from embedlite.runtime import Encoder
from embedlite.runtime.drift import measure_drift

from encoders import PLAIN, Call

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)


def dead(filters: int = 4) -> layers.Layer:
    return layers.Conv2D(filters, 3, activation="relu", bias_initializer=keras.initializers.Constant(-100.0))


def beside(x: keras.KerasTensor, image: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Concatenate()([x, dead()(image)])


def added(x: keras.KerasTensor, image: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Add()([x, dead(8)(image)])


def no_negatives(x: keras.KerasTensor, _: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Concatenate()([x, Call(lambda y: y - keras.ops.abs(y))(x)])


def encoder(between, ending=lambda x: x) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = between(layers.Conv2D(8, 3, activation="relu")(image), image)
    return keras.Model(image, ending(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, strides=2)(x))), name="small")


def made(model: keras.Model, folder: Path, images: np.ndarray = IMAGES, **options) -> ExportResult:
    return export(
        model,
        folder,
        quantize=["int8", "int16x8"],
        calibration_data=images,
        test_data=IMAGES[:4],
        options=ExportOptions(**options),
    )


@pytest.mark.parametrize("between", [beside, added, no_negatives])
def test_a_flat_tensor_beside_others_costs_nothing(between, tmp_path: Path) -> None:
    result = made(encoder(between), tmp_path)
    for file, least in zip(result.files, (25, 45), strict=True):
        assert file.drift is not None
        assert file.drift.sqnr_db is not None
        assert file.drift.sqnr_db > least
        assert [verdict.detail for verdict in file.verified if not verdict.ok] == []
    said = [text for text in result.decisions if "throughout all 40 calibration images" in text]
    assert len(said) == 1
    assert ("that layer is dead" in said[0]) == (between in (beside, added))


def test_a_network_that_is_dead_throughout_is_refused_with_the_cause(tmp_path: Path) -> None:
    model = encoder(lambda _, image: dead()(image))
    with pytest.raises(CalibrationDataError, match=r"same embedding for all .* is 0 throughout all 40.* layer is dead"):
        made(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    options = ExportOptions(measure=False)
    result = export(
        model, tmp_path / "out", quantize=["dynamic", "int8", "int16x8"], calibration_data=IMAGES, options=options
    )
    assert [file.mode for file in result.files] == ["dynamic"]
    assert [item.mode for item in result.not_made] == ["int8", "int16x8"]
    assert all("that layer is dead" in item.reason for item in result.not_made)
    assert result.failed_modes


def test_calibration_images_that_are_all_alike_are_named_and_cost_other_files_nothing(tmp_path: Path) -> None:
    """All the same: no ranges. Each of one colour, or all of one kind: ranges that say little of the test images."""
    model, options = encoder(lambda x, image: x), ExportOptions(measure=False, **PLAIN)
    colours = np.tile(np.arange(10, 250, 6, dtype=np.uint8)[:, None, None, None], (1, *IMAGES.shape[1:]))
    kind = IMAGES[:1] ^ (IMAGES & 1)
    cases = {"same": np.tile(colours[:1], (40, 1, 1, 1)), "colours": colours, "kind": kind, "other": IMAGES[:20]}
    said = {}
    for name, images in cases.items():
        modes = ["float32", "int8"]
        result = export(
            model, tmp_path / name, quantize=modes, calibration_data=images, test_data=IMAGES[20:], options=options
        )
        said[name] = " ".join(result.decisions)
        assert [file.mode for file in result.files] == (["float32"] if name == "same" else modes)
        assert [item.reason.partition(",")[0] for item in result.not_made] == (
            ["all 40 calibration images of the array are the same"] if name == "same" else []
        )
    assert {name for name, text in said.items() if "of one colour throughout" in text} == {"same", "colours"}
    assert re.search("vary [0-9]% as much as those of the test images", said["kind"])
    assert "as much as those of the test images" not in said["other"]


def test_images_that_never_reach_a_layer_are_told_from_a_dead_one(tmp_path: Path) -> None:
    dim = np.where(np.arange(40)[:, None, None, None] % 2, IMAGES // 128, 0).astype(np.uint8)
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    first = layers.Conv2D(4, 3, activation="relu", bias_initializer=keras.initializers.Constant(-0.2))
    first.build(image.shape)
    model = keras.Model(image, layers.Flatten()(layers.Conv2D(8, 14)(first(image))), name="small")
    with pytest.raises(CalibrationDataError, match="On random images it is not, so it is these images"):
        made(model, tmp_path, dim)


def test_activations_of_an_untrained_network_may_be_as_small_as_they_like(tmp_path: Path) -> None:
    """Narrow ones keep steps of their own; a step that is wide beside the sum's makes interpreters abort."""
    keras.utils.set_random_seed(3)
    x = source = keras.Input((24, 24, 3))
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    small = layers.Rescaling(1e-9)(x)
    gate = layers.Conv2D(16, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    added = layers.Add()([layers.Conv2D(16, 1)(small), layers.Conv2D(16, 1)(layers.Multiply()([small, gate]))])
    model = keras.Model(source, layers.Flatten()(layers.AveragePooling2D(4)(added)))
    images = np.random.default_rng(0).integers(0, 256, (40, 24, 24, 3), np.uint8)
    asked = Asked(output_dir=tmp_path, quantize=["int8"], measure=False, calibration_data=images[:32])
    (file,) = export_asked(model, asked).files
    with Encoder(file.path) as encoder:
        found = encoder.embed(images[32:])
    wanted = np.asarray(model(images[32:].astype(np.float32) / 255))
    assert measure_drift(found, wanted, k=None)[0].sqnr_db > 15
