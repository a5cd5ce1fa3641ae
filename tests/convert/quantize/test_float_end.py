"""The average that makes the embedding: in float where that is free, in integers where those were asked for."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, ExportResult, export
from embedlite.convert.layers import L2Normalization
from embedlite.runtime import Encoder
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.flatbuffer import read_flatbuffer

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 24, 24, 3), np.uint8)


def network(pooling: layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(0)
    sizes = [layers.Conv2D(24, 3, padding="same", activation="relu") for _ in range(3)]
    return keras.Sequential(
        [keras.Input((24, 24, 3)), *sizes, layers.MaxPooling2D(4), layers.Conv2D(32, 3), pooling, L2Normalization()],
        name="small",
    )


def made(folder: Path, model: keras.Model, **options) -> ExportResult:
    given = {"measure": False, "calibrate_method": "minmax", "correct": ("none",), **options}
    asked = ExportOptions(**given)
    return export(model, folder, quantize=["int8", "int16x8"], calibration_data=IMAGES, options=asked)


def dtypes(result: ExportResult, kind: str) -> list[str]:
    """What operators of a kind write in each file."""
    found = []
    for file in result.files:
        info = read_flatbuffer(read_artifact(file.path).flatbuffer)
        found += [
            info.tensors[writes[0]].dtype
            for operator, (_, writes) in zip(info.operators, info.wiring.operators, strict=True)
            if operator.name == kind
        ]
    return found


def noise_db(model: keras.Model, result: ExportResult) -> float:
    wanted = model.predict(IMAGES / np.float32(255), verbose=0)
    return float(10 * np.log10((wanted**2).sum() / ((Encoder(result.files[0].path).embed(IMAGES) - wanted) ** 2).sum()))


def test_an_average_is_float_in_int8_alone_and_gains(tmp_path: Path) -> None:
    model = network(layers.GlobalAveragePooling2D())
    result = made(tmp_path / "float", model)
    assert any("average that makes the embedding is computed in float" in text for text in result.decisions)
    assert dtypes(result, "MEAN") == ["float32", "int16"]
    integers = made(tmp_path / "int8", model, output_type="int8")
    assert dtypes(integers, "MEAN") == ["int8", "int16"]
    assert noise_db(model, result) > noise_db(model, integers) + 1


def test_a_recipe_makes_it_again(tmp_path: Path) -> None:
    model = network(layers.GlobalAveragePooling2D())
    first = made(tmp_path / "first", model)
    file = tmp_path / "first" / "small.export.json"
    asked = ExportOptions(measure=False, calibrate_method="minmax", correct=("none",), recipe=file)
    again = export(model, tmp_path / "again", calibration_data=IMAGES, options=asked)
    assert again.files[0].sha256 == first.files[0].sha256


def test_a_maximum_stays_as_it_is(tmp_path: Path) -> None:
    result = made(tmp_path, network(layers.GlobalMaxPooling2D()))
    assert not any("average" in text for text in result.decisions)
