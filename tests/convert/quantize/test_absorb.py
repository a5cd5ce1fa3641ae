"""Offsets move into the bias of the reader without changing the float function, and stay there only if int8 gains."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.calibration import collect_ranges
from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.quantize.absorb import absorb, absorbable_pairs
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.images.open import open_source

SHAPE = (16, 16, 3)


def high_bias(activation: str | None, second: layers.Layer) -> keras.Model:
    """A convolution whose channels have offsets of very different size, and what reads it."""
    keras.utils.set_random_seed(5)
    image = keras.Input(SHAPE, name="image")
    first = layers.Conv2D(8, 3, activation=activation, name="first")
    x = layers.GlobalAveragePooling2D()(second(first(image)))
    model = keras.Model(image, layers.Dense(12, name="embedding")(x), name="high")
    kernel, _ = first.get_weights()
    first.set_weights([kernel, np.linspace(3, 40, 8)])
    # The reader takes the offsets out again, as batch normalization would have trained it to.
    weights, bias = second.get_weights()
    places = weights.sum(axis=(0, 1))
    offsets = np.linspace(3, 40, 8)
    read = places[:, 0] * offsets if isinstance(second, layers.DepthwiseConv2D) else offsets @ places
    second.set_weights([weights, bias - read])
    return model


SECONDS = {
    "pointwise": lambda: layers.Conv2D(10, 1, padding="same", activation="relu"),
    "valid": lambda: layers.Conv2D(10, 3, padding="valid", activation="relu"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="valid", activation="relu"),
}


def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, *SHAPE)).astype(np.uint8)


def lowered(model: keras.Model) -> bytes:
    return lower(from_keras(model, "high", LoadOptions())).flatbuffer


@pytest.mark.parametrize("kind", SECONDS)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_the_float_function_stays_and_the_range_narrows(activation: str | None, kind: str) -> None:
    flatbuffer = lowered(high_bias(activation, SECONDS[kind]()))
    graph, source = Graph(flatbuffer), open_source(photos(), InputContract(SHAPE))
    (pair,) = absorbable_pairs(graph)
    name = graph.tensor_name(pair.between)
    ranges = collect_ranges(flatbuffer, source, by_channel={name})
    moved, narrower, count = absorb(flatbuffer, ranges)
    assert count == 1
    images = [source.ready(index) for index in range(20)]
    np.testing.assert_allclose(float_rows(moved, images, 1), float_rows(flatbuffer, images, 1), rtol=0, atol=3e-5)
    collected = collect_ranges(moved, source)
    assert narrower.limits[name] == pytest.approx(collected.limits[name], abs=1e-4)
    width = [high - low for low, high in (ranges.limits[name], narrower.limits[name])]
    assert width[1] < width[0] / 5


def test_padding_keeps_the_offset_where_it_is() -> None:
    """Given a reader that pads with zeros. Result: nothing is moved: the zeros would have to be the offset."""
    model = high_bias("relu", layers.Conv2D(10, 3, padding="same"))
    assert absorbable_pairs(Graph(lowered(model))) == []


def test_nothing_is_moved_without_offsets() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(4, 1), layers.Flatten()]
    )
    flatbuffer = lowered(model)
    graph = Graph(flatbuffer)
    names = {graph.tensor_name(pair.between) for pair in absorbable_pairs(graph)}
    assert len(names) == 1
    ranges = collect_ranges(flatbuffer, open_source(photos(), InputContract(SHAPE)), by_channel=names)
    assert absorb(flatbuffer, ranges)[2] == 0


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return high_bias("relu", SECONDS["valid"]())


def exported(model: Any, folder: Path, **options: Any) -> tuple[Any, float]:
    """An int8 export, and its SQNR on images that set nothing."""
    images = photos()
    result = export_asked(
        model,
        Asked(
            output_dir=folder,
            quantize=["int8"],
            calibration_data=images[:40],
            calibrate_method="minmax",
            correct=["none"],
            measure=False,
            **options,
        ),
    )
    with Encoder(result.files[0].path) as encoder:
        found = encoder.embed(images[40:])
    expected = np.asarray(model(images[40:] / np.float32(255)))
    return result, measure_drift(found, expected, k=None)[0].sqnr_db


def test_int8_gains_and_a_recipe_does_it_again(model: keras.Model, tmp_path: Path) -> None:
    moved, better = exported(model, tmp_path / "moved")
    assert any(decision.startswith("offsets of 1 activation(s) were moved") for decision in moved.decisions)
    assert moved.recipe["choices"]["absorbed"] is True
    left, plain = exported(model, tmp_path / "left", equalize=False)
    assert left.recipe["choices"]["absorbed"] is False
    assert better > plain + 6
    images = photos()
    again = export(
        model,
        tmp_path / "again",
        calibration_data=images[:40],
        options=ExportOptions(
            calibrate_method="minmax", correct=["none"], measure=False, recipe=tmp_path / "moved/high.export.json"
        ),
    )
    assert again.files[0].path.read_bytes() == moved.files[0].path.read_bytes()
