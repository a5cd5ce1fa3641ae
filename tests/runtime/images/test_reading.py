"""Image files as people train on them: against Keras, TensorFlow and Pillow called directly."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from embedlite.runtime import InputContract
from embedlite.runtime.errors import MissingPackageError, RequestError, UnreadableDataError
from embedlite.runtime.images.decode import decode_image, load_image
from embedlite.runtime.images.fit import fit
from embedlite.runtime.input.tf_resample import TF_RESAMPLERS

RNG = np.random.default_rng(0)
AS_THEY_ARE: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}
"""Floats of a contract with these are pixels."""


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves of three lengths with noise: JPEG keeps most of it."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 7 + y / 13), np.sin(x / 5 - y / 9), np.cos(x / 11)], -1)
    noise = np.random.default_rng(seed).normal(0, 20, (height, width, 3))
    return (127 + 100 * waves + noise).clip(0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def read(content: bytes, shape: tuple[int, int, int], **fields: Any) -> np.ndarray:
    return decode_image(io.BytesIO(content), "x", InputContract(shape, **{**AS_THEY_ARE, **fields}))


@pytest.mark.parametrize("resampler", TF_RESAMPLERS)
@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
def test_fractions_go_through_mean_and_std(resampler: str, color_order: str) -> None:
    import tensorflow as tf

    pixels = picture(40, 50)
    mean, std = np.float32([120, 110, 100]), np.float32([50, 60, 70])
    wanted = tf.image.resize(pixels, (24, 32), method=resampler.removeprefix("tf-")).numpy().astype(np.float32)
    wanted = ((wanted[..., ::-1] if color_order == "bgr" else wanted) - mean) / std
    found = read(
        encoded(pixels),
        (24, 32, 3),
        resampler=resampler,
        color_order=color_order,
        mean=(120.0, 110.0, 100.0),
        std=(50.0, 60.0, 70.0),
    )
    if found.dtype == np.uint8:
        # Nearest leaves no fractions.
        found = (found - mean) / std
    np.testing.assert_array_equal(found, wanted)


@settings(max_examples=60, deadline=None)
@given(picture=st.tuples(*[st.integers(1, 3000)] * 2), model=st.tuples(*[st.integers(1, 300)] * 2))
def test_crop_takes_what_smart_resize_takes(picture: tuple[int, int], model: tuple[int, int]) -> None:
    import tensorflow as tf

    # The part that is left over when a picture of its own coordinates is cut and not blurred.
    rows, columns = picture
    height, width = (tf.constant(side) for side in picture)
    tall = tf.maximum(1, tf.minimum(height, tf.cast(tf.cast(width * model[0], tf.float32) / model[1], tf.int32)))
    wide = tf.maximum(1, tf.minimum(width, tf.cast(tf.cast(height * model[1], tf.float32) / model[0], tf.int32)))
    how = fit("crop", picture, model)
    assert (how.taken, how.resized) == ((int(tall), int(wide)), model)
    assert (how.top, how.left) == (int((rows - how.taken[0]) / 2), int((columns - how.taken[1]) / 2))


@pytest.mark.parametrize("size", [(40, 50), (50, 31), (33, 33), (7, 90), (24, 32)])
def test_crop_is_keras_own(size: tuple[int, int]) -> None:
    from keras.src.utils.image_utils import smart_resize

    pixels = picture(*size)
    wanted = smart_resize(pixels.astype(np.float32), (24, 32), interpolation="bilinear")
    found = read(encoded(pixels), (24, 32, 3), fit="crop", resampler="tf-bilinear")
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("size", [(40, 50), (50, 31), (33, 33), (7, 90), (90, 7), (24, 32)])
def test_pad_is_tensorflows_own(size: tuple[int, int]) -> None:
    import tensorflow as tf

    pixels = picture(*size)
    wanted = tf.image.resize_with_pad(pixels.astype(np.float32), 24, 32).numpy()
    np.testing.assert_array_equal(read(encoded(pixels), (24, 32, 3), fit="pad", resampler="tf-bilinear"), wanted)


@pytest.mark.parametrize("size", [(40, 50), (50, 31), (33, 33), (7, 90), (90, 7), (24, 32)])
@pytest.mark.parametrize("how", ["pad-resize", "center-crop"])
def test_bars_and_cuts_are_those_of_keras_layers(how: str, size: tuple[int, int]) -> None:
    from keras import layers

    pixels = picture(*size)
    layer = layers.CenterCrop(24, 32) if how == "center-crop" else layers.Resizing(24, 32, pad_to_aspect_ratio=True)
    found = read(encoded(pixels), (24, 32, 3), fit=how, resampler="tf-bilinear")
    np.testing.assert_array_equal(found, layer(pixels.astype(np.float32)))


@pytest.mark.parametrize("how", ["pad-resize", "resize-crop"])
def test_a_small_file_does_not_fill_the_memory(how: str) -> None:
    """A line of pixels: a square around it, or what covers the model, would be billions of them."""
    line = encoded(np.zeros((1, 60_000, 3), np.uint8))
    with pytest.raises(UnreadableDataError, match=rf"it has 60000x1 pixels, of which fit {how} makes .* Remove"):
        read(line, (224, 224, 3), fit=how)


def resize_and_crop(image: Any, short: int, size: int) -> np.ndarray:
    """torchvision's Resize(short) and CenterCrop(size) on Pillow images, as its documentation has it."""
    width, height = image.size
    new = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(new, Image.Resampling.BILINEAR)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("size", [(40, 50), (51, 30), (33, 33), (24, 24), (300, 31)])
@pytest.mark.parametrize(("how", "short"), [("resize-crop", 24), ("resize-crop:27", 27)])
def test_resize_crop_is_torchvisions(how: str, short: int, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    wanted = resize_and_crop(Image.fromarray(pixels), short, 24)
    np.testing.assert_array_equal(read(encoded(pixels), (24, 24, 3), fit=how), wanted)


@pytest.mark.parametrize("size", [(40, 50), (50, 31), (7, 90), (90, 7)])
def test_resize_crop_covers_models_that_are_not_square(size: tuple[int, int]) -> None:
    how = fit("resize-crop", size, (24, 32))
    assert how.resized[0] >= 24
    assert how.resized[1] >= 32
    assert 24 in how.resized or 32 in how.resized
    assert read(encoded(np.full((*size, 3), 200, np.uint8)), (24, 32, 3), fit="resize-crop").min() == 200


@pytest.mark.parametrize("how", ["zoom", "crop:3", "resize-crop:", "resize-crop:x", "resize-crop:23", "resize-crop:-5"])
def test_a_fit_that_there_is_not_is_refused(how: str) -> None:
    with pytest.raises(RequestError, match=r"unknown fit|smaller than the model's 24x24"):
        InputContract((24, 24, 3), fit=how)


@pytest.mark.parametrize("field", ["jpeg_decoder", "exif", "gray"])
def test_a_way_of_reading_that_there_is_not_is_refused(field: str) -> None:
    with pytest.raises(RequestError, match=r"unknown .* 'libpng'\. Use one of: \w+"):
        InputContract((24, 24, 1), **{field: "libpng"})


JPEGS: list[dict[str, Any]] = [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}]


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_tensorflows_jpeg_decoder_is_its_own_to_the_bit(channels: int, options: dict[str, Any]) -> None:
    import tensorflow as tf

    differs = 0
    for seed in range(12):
        pixels = picture(*np.random.default_rng(seed).integers(8, 90, 2), seed=seed)
        content, shape = encoded(pixels, "JPEG", **options), (*pixels.shape[:2], channels)
        wanted = tf.io.decode_jpeg(content, channels=channels).numpy()
        found = read(content, shape, jpeg_decoder="tensorflow", gray="tf-decode")
        np.testing.assert_array_equal(found, wanted)
        differs += not np.array_equal(read(content, shape, gray="tf-decode"), wanted)
    assert differs


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gray_jpeg_and_other_formats_are_read_with_either_decoder(channels: int) -> None:
    import tensorflow as tf

    gray = encoded(picture(20, 30)[..., 0], "JPEG")
    wanted = tf.io.decode_jpeg(gray, channels=channels).numpy()
    np.testing.assert_array_equal(read(gray, (20, 30, channels), jpeg_decoder="tensorflow"), wanted)
    for kind in ("PNG", "WEBP"):
        content = encoded(picture(20, 30), kind)
        ours = [read(content, (20, 30, channels), jpeg_decoder=name) for name in ("pillow", "tensorflow")]
        np.testing.assert_array_equal(*ours)


def test_a_jpeg_cut_short_is_refused_by_either_decoder(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(picture(64, 64), "JPEG")[:-200])
    for decoder in ("pillow", "tensorflow"):
        with pytest.raises(UnreadableDataError, match=r"cannot read the image .*cut\.jpg"):
            load_image(path, InputContract((64, 64, 3), jpeg_decoder=decoder))


def test_a_decoder_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'embedlite\[tfjpeg\]'"):
        read(encoded(picture(20, 30), "JPEG"), (20, 30, 3), jpeg_decoder="tensorflow")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("decoder", ["pillow", "tensorflow"])
def test_the_orientation_is_applied_or_ignored(orientation: int, decoder: str) -> None:
    import tensorflow as tf

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(np.kron([[20, 90], [160, 230]], np.ones((16, 8), np.uint8)).astype(np.uint8), "JPEG", exif=exif)
    stored = tf.io.decode_jpeg(content).numpy()[..., 0]
    found = read(content, (32, 16, 1), exif="ignore", jpeg_decoder=decoder)
    np.testing.assert_array_equal(found[..., 0], stored)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    found = read(content, (*upright.shape, 1), jpeg_decoder=decoder)
    np.testing.assert_array_equal(found[..., 0], upright)


def test_colour_becomes_gray_as_in_tensorflow() -> None:
    import tensorflow as tf

    colors = RNG.integers(0, 256, (300, 300, 3), np.uint8)
    content = encoded(colors)
    wanted = {
        "tf-image": tf.image.rgb_to_grayscale(colors).numpy(),
        "tf-decode": tf.io.decode_image(content, channels=1).numpy(),
    }
    for way, gray in wanted.items():
        np.testing.assert_array_equal(read(content, (300, 300, 1), gray=way), gray)
    pillow = read(content, (300, 300, 1)).astype(int)
    for gray in wanted.values():
        assert np.abs(pillow - gray).max() == 1
    # What is gray already stays as it is.
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for way in ("pillow", *wanted):
        np.testing.assert_array_equal(read(encoded(levels), (16, 16, 1), gray=way)[..., 0], levels)
