"""Scaling inside a model: found in the float graph whatever it is spelled with, and held against the options."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from embedlite.convert import Asked, export_asked
from embedlite.convert.contract_decision import decide_contract
from embedlite.convert.data import explain_values
from embedlite.convert.load import load_original
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower, trace
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.load.scaling import scaling_of_tensorflow
from embedlite.runtime import Encoder
from embedlite.runtime.errors import RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.contract import InputContract, InputOptions

from ways_out import walk, walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (20, 24, 3)
CAFFE = (103.939, 116.779, 123.68)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def body(x: Any) -> Any:
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    return layers.Dense(8)(layers.GlobalAveragePooling2D()(x))


def model(front: Callable[[Any], Any], shape: tuple[int, ...] = SHAPE) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(shape)
    return keras.Model(image, body(front(image)), name="scaled")


def trained_normalization(x: Any) -> Any:
    """A BatchNormalization right on the pixels, with statistics of pixels."""
    layer = layers.BatchNormalization()
    y = layer(x)
    layer.set_weights([np.ones(3), np.zeros(3), np.array([120.0, 110, 100]), np.array([4000.0, 3900, 4100])])
    return y


def split_and_joined(x: Any) -> Any:
    red, green, blue = (x[..., channel : channel + 1] for channel in range(3))
    return layers.Concatenate()([blue - CAFFE[0], green - CAFFE[1], red - CAFFE[2]])


RAW, UNIT, SIGNED = (0.0, 1.0), (0.0, 255.0), (127.5, 127.5)

FRONTS: dict[str, tuple[Callable[[Any], Any], tuple[float, float]]] = {
    "Rescaling to 0-1": (layers.Rescaling(1 / 255), RAW),
    "Rescaling to -1 to 1": (layers.Rescaling(1 / 127.5, offset=-1), RAW),
    "Rescaling from 0-1 to -1 to 1": (layers.Rescaling(2.0, offset=-1), UNIT),
    "Normalization of pixels": (layers.Normalization(mean=MEAN * 255, variance=(STD * 255) ** 2), RAW),
    "Normalization of 0-1": (layers.Normalization(mean=MEAN, variance=STD**2), UNIT),
    "Normalization of -1 to 1": (layers.Normalization(mean=2 * MEAN - 1, variance=(2 * STD) ** 2), SIGNED),
    "two layers": (
        lambda x: layers.Normalization(mean=MEAN, variance=STD**2)(layers.Rescaling(1 / 255)(x)),
        RAW,
    ),
    "plain arithmetic": (lambda x: (keras.ops.cast(x, "float32") - 127.5) / 127.5, RAW),
    "caffe": (lambda x: x[..., ::-1] - np.array(CAFFE, np.float32), RAW),
    "caffe, by channel": (split_and_joined, RAW),
    "resized and cropped": (
        lambda x: layers.Rescaling(1 / 255)(layers.CenterCrop(12, 12)(layers.Resizing(16, 16)(x))),
        RAW,
    ),
    "BatchNormalization": (trained_normalization, RAW),
    "mean image": (lambda x: x - np.random.default_rng(0).uniform(100, 125, SHAPE).astype(np.float32), RAW),
    "padded after it": (lambda x: layers.ZeroPadding2D(2)(layers.Rescaling(1 / 255)(x)), RAW),
    "padded before it": (lambda x: layers.Rescaling(1 / 127.5, offset=-1)(layers.ZeroPadding2D(9)(x)), RAW),
    "mirrored at the edge before it": (
        lambda x: layers.Rescaling(1 / 255)(keras.ops.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")),
        RAW,
    ),
    "nested": (keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255)]), RAW),
}


def decided(path_or_model: Any, *, accept: bool = False, **given: Any) -> tuple[InputContract, tuple[str, ...]]:
    """The contract of a model, as an export decides it."""
    options = LoadOptions()
    keras_model = isinstance(path_or_model, keras.Model)
    original = from_keras(path_or_model, "scaled", options) if keras_model else load_original(path_or_model, options)
    found = decide_contract(
        "scaled", original.input_shape, InputOptions(**given), original.inputs, lower(original).scaling, accept=accept
    )
    return found.contract, found.decisions


@pytest.mark.parametrize("name", FRONTS)
def test_scaling_is_found_whatever_it_is_spelled_with(name: str) -> None:
    front, (mean, std) = FRONTS[name]
    contract, said = decided(model(front))
    assert (contract.mean, contract.std, contract.color_order) == ((mean,), (std,), "rgb")
    assert "scales pixels of" in said[0]
    assert f"mean {mean:g}, std {std:g}" in said[0]


@pytest.mark.parametrize(
    "front",
    [
        lambda x: x,
        layers.ZeroPadding2D(2),
        layers.Resizing(16, 16),
        layers.BatchNormalization(),
        layers.Conv2D(3, 1),
        layers.DepthwiseConv2D(1),
        layers.AveragePooling2D(2),
        layers.ReLU(),
    ],
)
def test_the_usual_contract_is_assumed_where_nothing_is_scaled(front: Callable[[Any], Any]) -> None:
    """The table says so, by the origins; it is not among what was decided as well."""
    contract, said = decided(model(front))
    assert (contract.mean, contract.std, said) == ((0.0,), (255.0,), ())
    assert decided(model(front), mean=(0.0,), std=(255.0,)) == (contract, ())


# In a .tflite, factor and offset are multiplied into the first convolution unless zeros are put around the picture.
@pytest.mark.parametrize("suffix", [".keras", ".h5", "", ".tflite"])
def test_every_format_tells(suffix: str, tmp_path: Path) -> None:
    made = model(lambda x: layers.ZeroPadding2D(1)(layers.Rescaling(1 / 127.5, offset=-1)(x)))
    path = tmp_path / f"scaled{suffix}"
    if suffix == ".tflite":
        path.write_bytes(lower(from_keras(made, "scaled", LoadOptions())).flatbuffer)
    elif suffix:
        made.save(path)
    else:
        made.export(path, verbose=False)
    contract, said = decided(path)
    assert (contract.mean, contract.std) == ((0.0,), (1.0,))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": (127.5,), "std": (127.5,)}, r"--mean 127.5 contradicts scaled: .*x \* 0.003922.* --mean 0 --std 1"),
        ({"std": (255.0,)}, "--std 255 contradicts scaled"),
        ({"mean": tuple(CAFFE), "std": (1.0,)}, r"--mean \[103.9, 116.8, 123.7\] contradicts"),
    ],
)
def test_options_that_contradict_the_graph_are_refused_with_both(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decided(model(layers.Rescaling(1 / 255)), **given)


def test_the_way_out_of_a_contradiction_is_to_leave_the_options_out_or_give_the_right_ones() -> None:
    for given in ({}, {"mean": (0.0,), "std": (1.0,)}, {"mean": (0.0, 0.0, 0.0)}):
        contract, _ = decided(model(layers.Rescaling(1 / 255)), **given)
        assert set(contract.mean) == {0.0}
        assert contract.std == (1.0,)


def test_accepting_the_contract_insists_on_the_options() -> None:
    contract, said = decided(model(layers.Rescaling(1 / 255)), mean=(127.5,), std=(127.5,), accept=True)
    assert (contract.mean, contract.std) == ((127.5,), (127.5,))
    assert said[0].endswith("--accept-contract takes it all the same.")


def gives(made: keras.Model, folder: Path, scaled: tuple[float, float], **given: Any) -> None:
    """An export with these options gives what the model makes of pixels scaled so."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    result = export_asked(made, Asked(output_dir=folder, quantize=["float32"], measure=False, **given))
    with Encoder(result.files[0].path) as encoder:
        found = encoder.embed(pixels)
    wanted = np.asarray(made((pixels.astype(np.float32) - scaled[0]) / np.float32(scaled[1])))
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "front",
    [
        walk("would suit that. Say what it takes: --mean 0 --std 1 for 0-255,", layers.Rescaling(1 / 20)),
        walk(
            ", so the graph does not tell which pixels it takes. Say so: --mean 0",
            lambda x: keras.ops.log(2 + keras.ops.maximum(x, 0.0) / 255),
        ),
    ],
)
def test_pixels_that_the_graph_does_not_tell_are_told_as_the_error_says(
    front: Callable[[Any], Any], tmp_path: Path
) -> None:
    made = model(front)
    with pytest.raises(RequestError) as caught:
        decided(made)
    ways = re.findall(r"--mean ([\d.]+) --std ([\d.]*\d)", str(caught.value))
    assert [tuple(map(float, way)) for way in ways] == [RAW, UNIT, SIGNED]
    for number, (mean, std) in enumerate((RAW, UNIT, SIGNED)):
        gives(made, tmp_path / str(number), (mean, std), mean=(mean,), std=(std,))


@walks("Leave --mean, --std and --color-order out, take the scaling out of")
def test_a_contradiction_ends_as_the_error_says(tmp_path: Path) -> None:
    made, signed = model(layers.Rescaling(1 / 255)), {"mean": (127.5,), "std": (127.5,)}
    with pytest.raises(RequestError):
        decided(made, **signed)
    gives(made, tmp_path / "left out", RAW)
    gives(model(lambda x: x), tmp_path / "taken out", SIGNED, **signed)
    gives(made, tmp_path / "insisted", SIGNED, **signed, accept_contract=True)


def test_a_model_that_turns_rgb_into_bgr_itself_takes_rgb() -> None:
    with pytest.raises(RequestError, match="--color-order bgr contradicts scaled: it turns RGB into BGR itself"):
        decided(model(FRONTS["caffe"][0]), color_order="bgr")


@pytest.mark.parametrize("front", [layers.Rescaling(1 / 20), layers.Rescaling(3.0, offset=50)])
def test_scaling_that_suits_no_pixels_is_asked_for(front: Callable[[Any], Any]) -> None:
    with pytest.raises(RequestError, match="no usual pixel range would suit that"):
        decided(model(front))
    contract, said = decided(model(front), mean=(0.0,), std=(1.0,))
    assert contract.std == (1.0,)
    assert "are taken as given" in said[0]


def test_a_loop_after_the_scaling_does_not_hide_it() -> None:
    """Frozen, a recurrent layer is a cycle of operators."""
    image = keras.Input(SHAPE)
    rows = layers.Reshape((SHAPE[0], SHAPE[1] * SHAPE[2]))(layers.Rescaling(1 / 255)(image))
    traced, _ = trace(from_keras(keras.Model(image, layers.LSTM(4)(rows)), "scaled", LoadOptions()))
    scaling = scaling_of_tensorflow(convert_variables_to_constants_v2(traced))
    assert scaling is not None
    np.testing.assert_allclose(scaling.factor, 1 / 255, rtol=1e-5)


def test_what_is_no_factor_and_offset_is_said_and_asked_for() -> None:
    bent = model(lambda x: keras.ops.log(1 + keras.ops.maximum(x, 0.0) / 255))
    with pytest.raises(RequestError, match=r"the model computes .*(?i:log).* on its input"):
        decided(bent)
    _, said = decided(bent, mean=(0.0,), std=(1.0,))
    assert "is not checked" in said[0]


@pytest.mark.parametrize("name", ["two layers", "caffe", "resized and cropped", "Normalization of -1 to 1"])
def test_the_exported_file_gives_the_models_vectors_on_raw_photos(name: str, tmp_path: Path) -> None:
    """The truth is Keras on what the model was trained on, made with numpy."""
    from skimage import data

    front, (mean, std) = FRONTS[name]
    made = model(front)
    photo = data.astronaut()
    pixels = np.stack([photo[at : at + 20, at : at + 24] for at in range(0, 400, 25)])
    result = export_asked(made, Asked(output_dir=tmp_path, quantize=["float32"], measure=False, test_data=pixels))
    wanted = made.predict((pixels.astype(np.float32) - mean) / std, verbose=0)
    with Encoder(result.files[0].path) as encoder:
        found = encoder.embed(pixels)
    cosines = (found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() > 0.9999
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


CAFFE_CONTRACT = {"mean": CAFFE, "std": (1.0,)}


@pytest.mark.parametrize(
    ("contract", "make", "message"),
    [
        ({}, lambda pixels: pixels.astype(np.float32), "look like pixels 0-255 that became floats"),
        ({"mean": (0.0,), "std": (1.0,)}, lambda pixels: pixels / 255.0, "looks scaled already"),
        ({"mean": (127.5,), "std": (127.5,)}, lambda pixels: pixels / 255.0, "0-1"),
        ({"mean": (127.5,), "std": (127.5,)}, lambda pixels: pixels / 1.0 - np.array(CAFFE), "another mean and std"),
        ({}, lambda pixels: (pixels / 255.0 - MEAN) / STD, "another mean and std"),
        (CAFFE_CONTRACT, lambda pixels: pixels.astype(np.float32), "look like pixels 0-255 that became floats"),
        ({"mean": (0.0,), "std": (1.0,)}, lambda pixels: (pixels / 255.0 - MEAN) / STD, "looks scaled already"),
        ({"mean": (0.0,), "std": (1.0,)}, lambda pixels: pixels - np.array(CAFFE), "as for caffe"),
        ({}, lambda pixels: np.random.default_rng(0).random(pixels.shape), "as in noise"),
        ({}, lambda pixels: np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8), "as in noise"),
        ({}, lambda pixels: (pixels > 127).astype(np.uint8), "no pixel is above 1"),
        ({}, lambda pixels: pixels.astype(np.uint16) * 16, "They look like values of 12 bits"),
        (CAFFE_CONTRACT, lambda pixels: pixels - np.array(CAFFE), ""),
        ({}, lambda pixels: pixels.astype(np.uint16) * 257, ""),
        ({}, lambda pixels: pixels / 255.0, ""),
        ({"mean": (127.5,), "std": (127.5,)}, lambda pixels: pixels / 127.5 - 1, ""),
        ({}, lambda pixels: pixels, ""),
    ],
)
def test_floats_of_another_scale_are_told_at_the_export_by_what_they_are(
    contract: dict[str, Any], make: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    from skimage import data

    photo = data.astronaut()
    pixels = np.stack([photo[at : at + 20, at : at + 24] for at in range(0, 480, 12)])
    images = make(pixels)
    images = images if images.dtype.kind == "u" else images.astype(np.float32)
    said = explain_values("calibration", open_source(images, InputContract(SHAPE, **contract)))
    assert len(said) == bool(message)
    assert all(line.startswith("mind the calibration images: ") and message in line for line in said)
