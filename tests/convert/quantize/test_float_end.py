"""The end of the network: in float where that is free, in integers where those were asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


def network(*end: Callable[[], layers.Layer]) -> keras.Model:
    keras.utils.set_random_seed(3)
    sizes = [layers.Conv2D(24, 3, padding="same", activation="relu") for _ in range(3)]
    return keras.Sequential(
        [
            keras.Input((24, 24, 3)),
            *sizes,
            layers.MaxPooling2D(4),
            layers.Conv2D(32, 3),
            *(make() for make in end),
            L2Normalization(),
        ],
        name="small",
    )


ALONE: dict[str, Any] = {"equalize": False, "calibrate_method": "auto"}
"""Equalization alone may make the end as exact in integers: its weights have one step size when they become float."""


def made(folder: Path, model: keras.Model, modes: Sequence[str] = ("int8",), **options) -> ExportResult:
    given = {"measure": False, "calibrate_method": "minmax", "correct": ("none",), **options}
    asked = ExportOptions(**given)
    return export(model, folder, quantize=modes, calibration_data=IMAGES, options=asked)


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
    wanted = np.asarray(model(IMAGES / np.float32(255)))
    return float(10 * np.log10((wanted**2).sum() / ((Encoder(result.files[0].path).embed(IMAGES) - wanted) ** 2).sum()))


def test_an_average_is_float_in_int8_alone_and_gains(tmp_path: Path) -> None:
    model = network(layers.GlobalAveragePooling2D)
    result = made(tmp_path / "float", model, ("int8", "int16x8"))
    assert any("average that makes the embedding is computed in float" in text for text in result.decisions)
    assert dtypes(result, "MEAN") == ["float32", "int16"]
    integers = made(tmp_path / "int8", model, ("int8", "int16x8"), output_type="int8")
    assert dtypes(integers, "MEAN") == ["int8", "int16"]
    assert noise_db(model, result) > noise_db(model, integers) + 1


def test_a_recipe_makes_it_again(tmp_path: Path) -> None:
    model = network(layers.GlobalAveragePooling2D)
    first = made(tmp_path / "first", model)
    file = tmp_path / "first" / "small.export.json"
    asked = ExportOptions(measure=False, calibrate_method="minmax", correct=("none",), recipe=file)
    again = export(model, tmp_path / "again", calibration_data=IMAGES, options=asked)
    assert again.files[0].sha256 == first.files[0].sha256


def test_a_maximum_stays_as_it_is(tmp_path: Path) -> None:
    result = made(tmp_path, network(layers.GlobalMaxPooling2D))
    assert not any("average" in text for text in result.decisions)


ENDS = {
    "a dense layer": ([layers.GlobalMaxPooling2D, lambda: layers.Dense(40)], ["the last layer"]),
    "a dense layer without bias": (
        [layers.GlobalMaxPooling2D, lambda: layers.Dense(40, use_bias=False)],
        ["the last layer"],
    ),
    "an average, then a dense layer": (
        [layers.GlobalAveragePooling2D, lambda: layers.Dense(40)],
        ["the last layer", "the average"],
    ),
    "a convolution": (
        [lambda: layers.MaxPooling2D(4), lambda: layers.Conv2D(40, 1), layers.Flatten],
        ["the last layer"],
    ),
    "a small layer": ([layers.GlobalMaxPooling2D, lambda: layers.Dense(8)], ["the last layer"]),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_last_layer_is_float_where_that_is_free(name: str, tmp_path: Path) -> None:
    """On every runtime: 8-bit weights of one step size, which each makes float, and every correction on top."""
    end, said = ENDS[name]
    model = network(*end)
    result = made(tmp_path / "float", model, correct=(), measure=True, **ALONE)
    (told,) = [text for text in result.decisions if "computed in float: " in text]
    assert all(part in told for part in said)
    integers = made(tmp_path / "int8", model, correct=(), output_type="int8", **ALONE)
    assert noise_db(model, result) > noise_db(model, integers)
    file = result.files[0]
    assert {verdict.runtime for verdict in file.verified} >= {"ai-edge-litert", "tflite-runtime", "tflite-micro"}
    assert all(verdict.ok for verdict in file.verified)
    info = read_flatbuffer(read_artifact(file.path).flatbuffer)
    kernels = [
        info.tensors[reads[1]]
        for operator, (reads, _) in zip(info.operators, info.wiring.operators, strict=True)
        if operator.name in ("CONV_2D", "FULLY_CONNECTED")
    ]
    assert [kernel.dtype for kernel in kernels] == ["int8"] * (len(kernels) - 1) + ["float32"]
    # Kept in 8 bits, but for what is too small for that to matter.
    dequantized = [
        info.tensors[reads[0]]
        for operator, (reads, writes) in zip(info.operators, info.wiring.operators, strict=True)
        if operator.name == "DEQUANTIZE" and info.tensors[writes[0]].shape == kernels[-1].shape
    ]
    assert [(item.dtype, len(item.scale)) for item in dequantized] == [("int8", 1)] * (name != "a small layer")


def test_a_layer_that_costs_time_stays_in_integers(tmp_path: Path) -> None:
    result = made(tmp_path, network(lambda: layers.Conv2D(40, 1), layers.GlobalMaxPooling2D))
    assert not any("computed in float" in text for text in result.decisions)
    wide = keras.Sequential([keras.Input((24, 24, 3)), layers.Conv2D(8, 3, 4), layers.Flatten(), layers.Dense(64)])
    assert not any("computed in float" in text for text in made(tmp_path / "wide", wide).decisions)


def test_what_others_read_stays_in_integers(tmp_path: Path) -> None:
    """The last layer but one is read by the shortcut, too, and the addition of the two is not a layer."""
    source = keras.Input((24, 24, 3))
    body = layers.Conv2D(24, 3, padding="same", activation="relu")(source)
    body = layers.Conv2D(24, 3, padding="same", activation="relu")(body)
    first = layers.Dense(32)(layers.GlobalMaxPooling2D()(body))
    model = keras.Model(source, layers.Add()([first, layers.Dense(32)(first)]), name="small")
    result = made(tmp_path, model)
    assert not any("computed in float" in text for text in result.decisions)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"targets": ["micro"]}, "int8"),
        ({"targets": ["micro"], "output_type": "float32"}, "float32"),
    ],
    ids=["micro", "asked"],
)
def test_a_microcontroller_gets_integers_unless_floats_are_asked_for(options, dtype: str, tmp_path: Path) -> None:
    model = network(layers.GlobalMaxPooling2D, lambda: layers.Dense(40))
    result = made(tmp_path, model, measure=True, **ALONE, **options)
    assert dtypes(result, "FULLY_CONNECTED")[0] == dtype
    told = [text for text in result.decisions if "computes with integers up to the raw embedding" in text]
    assert len(told) == (dtype == "int8")
