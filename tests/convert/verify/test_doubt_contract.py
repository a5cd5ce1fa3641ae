"""One encoder, nine ways of preparing photos: right with what its graph or the user's function says, doubted without.

The copies compute the same of the same photo: the first layer is folded for what each takes. The truth is Keras, on
pixels that Pillow read and numpy scaled.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.convert.contract_decision import decide_contract
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import LoweredModel, lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.load.original import Original
from embedlite.convert.verify.doubt_contract import doubt_contract
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.errors import RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.contract import InputOptions

from ways_out import walks

SIDE = 32
SHAPE = (SIDE, SIDE, 3)
TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = ((123.68, 116.779, 103.939), (1.0,))

COPIES: dict[str, tuple[tuple[float, ...], tuple[float, ...], bool]] = {
    "0-1": ((0.0,), (255.0,), False),
    "-1 to 1": ((127.5,), (127.5,), False),
    "torch": (*TORCH, False),
    "caffe": (*CAFFE, True),
    "0-255": ((0.0,), (1.0,), False),
    "BGR 0-1": ((0.0,), (255.0,), True),
}
"""Mean and std in the order red, green, blue, and whether the copy takes BGR."""

FRONTS: dict[str, Callable[[], list[keras.layers.Layer]]] = {
    "Rescaling": lambda: [layers.Rescaling(1 / 255)],
    "Normalization": lambda: [
        layers.Normalization(mean=np.array(TORCH[0]), variance=np.array(TORCH[1]) ** 2),
        # Back to what the base takes, so that the truth is the same.
        layers.Rescaling(np.array(TORCH[1]) / 255, offset=np.array(TORCH[0]) / 255),
    ],
    "two steps": lambda: [layers.Rescaling(1 / 127.5, offset=-1), layers.Rescaling(0.5, offset=0.5)],
}


Converted = Callable[[str], tuple[Original, LoweredModel]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    crops = [(photo, at) for photo in (data.astronaut(), data.coffee(), data.cat()) for at in range(0, 256, 32)]
    for number, (photo, at) in enumerate(crops):
        Image.fromarray(photo[at : at + SIDE, at : at + SIDE]).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def pixels(photos: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(photos.iterdir())])


@pytest.fixture(scope="module")
def base(pixels: np.ndarray) -> keras.Sequential:
    """Takes 0-1; its BatchNormalizations know these photos, as after training."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 3, strides=2, name="first"),
            layers.BatchNormalization(momentum=0.0),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, use_bias=False),
            layers.BatchNormalization(momentum=0.0),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12),
        ]
    )
    model(pixels.astype(np.float32) / 255, training=True)
    return model


def folded(base: keras.Sequential, name: str) -> keras.Sequential:
    mean, std, bgr = COPIES[name]
    copy = keras.models.clone_model(base)
    copy.set_weights(base.get_weights())
    kernel, bias = base.get_layer("first").get_weights()
    offset, gain = np.broadcast_to(mean, 3) / 255, np.broadcast_to(std, 3) / 255
    bias = bias + (kernel * offset[:, None]).sum(axis=(0, 1, 2))
    kernel = kernel * gain[:, None]
    copy.get_layer("first").set_weights([kernel[:, :, ::-1] if bgr else kernel, bias])
    return copy


@pytest.fixture(scope="module")
def converted(base: keras.Sequential) -> Converted:
    """Each copy, and the base behind each front, as an export reads it and converts it; made once."""

    @cache
    def get(name: str) -> tuple[Original, LoweredModel]:
        model = keras.Sequential([keras.Input(SHAPE), *FRONTS[name](), base]) if name in FRONTS else folded(base, name)
        original = from_keras(model, name, LoadOptions())
        return original, lower(original)

    return get


def preparing(name: str) -> Callable[[str], np.ndarray]:
    mean, std, bgr = COPIES[name]

    def prepare(path: str) -> np.ndarray:
        image = (np.asarray(Image.open(path).convert("RGB"), np.float32) - np.float32(mean)) / np.float32(std)
        return image[..., ::-1] if bgr else image

    return prepare


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("name", [*COPIES, *FRONTS])
def test_nine_copies_are_right_with_what_the_graph_or_the_function_says(
    name: str, base: keras.Sequential, photos: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    front = name in FRONTS
    model = keras.Sequential([keras.Input(SHAPE), *FRONTS[name](), base]) if front else folded(base, name)
    options = ExportOptions(measure=False, preprocess=None if front else preparing(name))
    asked = Asked(**vars(options), output_dir=tmp_path, quantize=["float32"], test_data=photos)
    result = export_asked(model, asked)
    with Encoder(result.files[0].path) as encoder:
        found = encoder.embed(np.stack([encoder_pixels(image, encoder) for image in pixels]))
        assert encoder.contract.origins["mean"] == ("graph" if front else "proved")
    truth = np.asarray(base(pixels.astype(np.float32) / 255))
    assert cosines(found, truth).min() >= 0.9999
    assert not any("WARNING" in decision for decision in result.decisions)


def encoder_pixels(image: np.ndarray, encoder: Encoder) -> np.ndarray:
    return image[..., ::-1] if encoder.contract.input.color_order == "bgr" else image


@pytest.mark.parametrize("name", [*COPIES, *FRONTS])
def test_the_defaults_are_refused_where_they_are_grossly_wrong(
    name: str, converted: Converted, pixels: np.ndarray
) -> None:
    original, lowered = converted(name)
    decided = decide_contract(name, SHAPE, InputOptions(), original.inputs, lowered.scaling)
    source = open_source(pixels, decided.contract)
    if name in ("0-255", "caffe"):
        with pytest.raises(RequestError, match=r"does not suit what .* --(mean|std) .*--accept-contract"):
            doubt_contract(name, lowered, source, decided.contract, accept=False)
        (said,) = doubt_contract(name, lowered, source, decided.contract, accept=True)
        assert said.startswith("WARNING: the contract does not suit")
        assert said.endswith("it was accepted.")
        return
    said = doubt_contract(name, lowered, source, decided.contract, accept=False)
    assert not said or name in ("torch", "-1 to 1")
    assert decided.origins["mean"] == ("graph" if name in FRONTS else "assumed")


@pytest.mark.parametrize("name", COPIES)
def test_the_right_contract_is_not_doubted(name: str, converted: Converted, pixels: np.ndarray) -> None:
    mean, std, bgr = COPIES[name]
    turn = -1 if bgr else 1
    contract = InputContract(SHAPE, mean=mean[::turn], std=std[::turn], color_order="bgr" if bgr else "rgb")
    _, lowered = converted(name)
    assert doubt_contract(name, lowered, open_source(pixels[..., ::turn], contract), contract, accept=False) == []
    wide = open_source(pixels[..., ::turn].astype(np.uint16) * 257, contract)
    assert doubt_contract(name, lowered, wide, contract, accept=False) == []


def test_what_a_resampler_makes_ready_is_not_scaled_twice(converted: Converted, photos: Path) -> None:
    _, lowered = converted("0-255")
    right = InputContract(SHAPE, std=(1.0,), resampler="tf-bilinear")
    assert doubt_contract("0-255", lowered, open_source(photos, right), right, accept=False) == []
    wrong = InputContract(SHAPE, resampler="tf-bilinear")
    with pytest.raises(RequestError, match="--std 1 "):
        doubt_contract("0-255", lowered, open_source(photos, wrong), wrong, accept=False)


@walks("Give the one of the training with --mean, --std and --color-order,")
def test_the_contract_of_the_training_is_given_proved_or_insisted_on(
    base: keras.Sequential, photos: Path, tmp_path: Path
) -> None:
    made = folded(base, "0-255")

    def exported(name: str, **given: Any) -> Path:
        options = ExportOptions(measure=False, **given)
        return export(made, tmp_path / name, quantize=["float32"], test_data=photos, options=options).files[0].path

    with pytest.raises(RequestError):
        exported("defaults")
    given = {
        "given": {"mean": (0.0,), "std": (1.0,), "color_order": "rgb"},
        "proved": {"preprocess": preparing("0-255")},
        "insisted": {"accept_contract": True},
    }
    pixels = np.stack(
        [np.asarray(Image.open(path).convert("RGB"), np.float32) for path in sorted(photos.iterdir())[:4]]
    )
    for name, options in given.items():
        with Encoder(exported(name, **options)) as encoder:
            found = encoder.embed(pixels.astype(np.uint8))
        wanted = np.asarray(made(pixels / np.float32(255 if name == "insisted" else 1)))
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_statistics_behind_a_grouped_convolution_are_asked_too(pixels: np.ndarray) -> None:
    """On a processor Keras compiles it, and TensorFlow forgets the shape of what that gives."""
    keras.utils.set_random_seed(3)
    body = [layers.Conv2D(12, 3, groups=3, strides=2), layers.BatchNormalization(momentum=0.0), layers.ReLU()]
    model = keras.Sequential([keras.Input(SHAPE), *body, layers.GlobalAveragePooling2D(), layers.Dense(8)])
    model(pixels.astype(np.float32), training=True)
    lowered = lower(from_keras(model, "grouped", LoadOptions()))
    right, wrong = InputContract(SHAPE, std=(1.0,)), InputContract(SHAPE)
    assert doubt_contract("grouped", lowered, open_source(pixels, right), right, accept=False) == []
    with pytest.raises(RequestError, match="BatchNormalization diverge"):
        doubt_contract("grouped", lowered, open_source(pixels, wrong), wrong, accept=False)


def application(name: str, pixels: np.ndarray, scale: tuple[float, float], **options: Any) -> keras.Model:
    """A backbone with random weights, whose statistics are those of the photos."""
    keras.utils.set_random_seed(5)
    model = getattr(keras.applications, name)(
        weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3), **options
    )
    normalizations = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in normalizations:
        layer.momentum = 0.0
    model(pixels.astype(np.float32) * scale[0] + scale[1], training=True)
    return model


@pytest.mark.parametrize(
    ("name", "contract", "scale", "options", "wrong", "message"),
    [
        (
            *("MobileNetV2", {"mean": (127.5,), "std": (127.5,)}, (1 / 127.5, -1.0), {"alpha": 0.35}),
            *({"std": (1.0,)}, "of the values of its first activations are clipped"),
        ),
        (
            *("MobileNetV3Small", {"mean": (0.0,), "std": (1.0,)}, (1.0, 0.0), {"minimalistic": True}),
            *({}, "of the channels of its first activations are dead or constant"),
        ),
    ],
)
def test_backbones_are_not_doubted(
    name: str, contract: Any, scale: Any, options: Any, wrong: Any, message: str, pixels: np.ndarray
) -> None:
    """Nor are their float files, in which BatchNormalization is nothing but weights; a wrong scale is, in either."""
    model = application(name, pixels, scale, **options)
    given, other = InputContract(SHAPE, **contract), InputContract(SHAPE, **wrong)
    lowered = lower(from_keras(model, name, LoadOptions()))
    as_tflite = replace(lowered, frozen=None)
    for source in (lowered, as_tflite):
        assert doubt_contract(name, source, open_source(pixels, given), given, accept=False) == []
    (said,) = doubt_contract(name, lowered, open_source(pixels, other), other, accept=True)
    assert "BatchNormalization" in said
    (said,) = doubt_contract(name, as_tflite, open_source(pixels, other), other, accept=False)
    assert message in said


def test_a_network_without_statistics_that_tells_no_photos_apart_is_doubted(pixels: np.ndarray) -> None:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 3, strides=2, activation="relu", bias_initializer="random_normal"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, bias_initializer="random_normal"),
        ]
    )
    kernel, bias = model.layers[0].get_weights()
    # Trained on pixels as they are.
    model.layers[0].set_weights([kernel / 255, bias])
    lowered = lower(from_keras(model, "small", LoadOptions()))
    given = InputContract(SHAPE)
    (said,) = doubt_contract("small", lowered, open_source(pixels, given), given, accept=False)
    assert "nearly the same embedding" in said
    right = InputContract(SHAPE, std=(1.0,))
    assert doubt_contract("small", lowered, open_source(pixels, right), right, accept=False) == []
    # One value has no direction but its sign.
    single = keras.Sequential([keras.Input(SHAPE), *model.layers[:-1], layers.Dense(1)])
    lowered = lower(from_keras(single, "single", LoadOptions()))
    doubts = doubt_contract("single", lowered, open_source(pixels, given), given, accept=False)
    assert not any("same embedding" in said for said in doubts)
