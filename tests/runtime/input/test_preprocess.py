"""The arithmetic between an image and an input tensor, against plain float64 formulas."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedlite.runtime import InputContract
from embedlite.runtime.errors import InputShapeError, InputTypeError, InputValueError
from embedlite.runtime.input.preprocess import dequantize, model_ready, quantize, to_pixels
from embedlite.runtime.input.shapes import check_batch, check_one

RGB = InputContract((4, 6, 3), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
GRAY = InputContract((5, 5, 1))
EIGHT_BITS = st.sampled_from([np.dtype(np.int8), np.dtype(np.uint8)])
INTEGERS = [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble]

finite = st.floats(-1e6, 1e6, width=32)
images = hnp.arrays(np.uint8, RGB.shape)
scales = st.floats(2**-13, 2**10, width=32)


def zero_points(dtype: np.dtype[Any]) -> st.SearchStrategy[int]:
    return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


@settings(max_examples=50, deadline=None)
@given(pixels=images)
def test_pixels_become_pixel_minus_mean_over_std(pixels: np.ndarray) -> None:
    wanted = (pixels.astype(np.float64) - np.array(RGB.mean)) / np.array(RGB.std)
    ready = model_ready(pixels, RGB)
    assert ready.dtype == np.float32
    np.testing.assert_allclose(ready, wanted, rtol=1e-6, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(pixels=images, dtype=st.sampled_from(INTEGERS))
def test_every_integer_type_holds_the_same_pixels(pixels: np.ndarray, dtype: type[np.integer]) -> None:
    # Sixteen unsigned bits are the exception: they are full scale at 65535, and 257 is 65535 / 255.
    wide = pixels.astype(dtype) * (257 if dtype == np.uint16 else 1)
    np.testing.assert_array_equal(to_pixels(wide), pixels)
    np.testing.assert_array_equal(model_ready(wide, RGB), model_ready(pixels, RGB))


def test_sixteen_bits_are_scaled_to_the_nearest_pixel() -> None:
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_pixels(every), np.round(every * (255 / 65535)))


@pytest.mark.parametrize("level", [128, 32768])
def test_sixteen_bits_of_the_other_byte_order_are_the_same_pixels(level: int) -> None:
    image = np.full(GRAY.shape, level, np.uint16)
    np.testing.assert_array_equal(to_pixels(image.astype(image.dtype.newbyteorder())), to_pixels(image))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.int16, -1), (np.int32, 256), (np.int64, -(2**40)), (np.uint32, 2**32 - 1), (np.uint64, 2**64 - 1)],
)
def test_integers_that_are_no_pixels_are_refused_by_name_and_range(dtype: type[np.integer], value: int) -> None:
    image = np.zeros(GRAY.shape, dtype)
    image[2, 3] = value
    message = rf"cat\.png holds {image.dtype} values from {min(value, 0)} to {max(value, 0)}; .* pixels 0-255"
    for function in (to_pixels, lambda pixels, name: model_ready(pixels, GRAY, name)):
        with pytest.raises(InputValueError, match=message):
            function(image, "cat.png")


@settings(max_examples=50, deadline=None)
@given(image=hnp.arrays(st.sampled_from(FLOATS), GRAY.shape, elements=st.floats(-1000, 1000, width=16)))
def test_floats_are_model_ready_as_they_are(image: np.ndarray) -> None:
    ready = model_ready(image, InputContract((5, 5, 1), mean=(9.0,), std=(3.0,)))
    assert ready.dtype == np.float32
    np.testing.assert_array_equal(ready, image.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_named_with_its_place(dtype: type[np.floating], value: float) -> None:
    image = np.ones(RGB.shape, dtype)
    image[1, 2, 0] = image[3, 5, 2] = value
    with pytest.raises(InputValueError, match=r"cat\.png has 2 value.* NaN or infinite, the first at \(1, 2, 0\)"):
        model_ready(image, RGB, "cat.png")


def test_infinities_that_cancel_are_found() -> None:
    image = np.zeros(GRAY.shape, np.float32)
    image[0, 0], image[1, 1] = np.inf, -np.inf
    with pytest.raises(InputValueError, match="the input has 2 value"):
        model_ready(image, GRAY)


def test_the_largest_finite_floats_are_numbers() -> None:
    image = np.full(GRAY.shape, np.finfo(np.float32).max, np.float32)
    np.testing.assert_array_equal(model_ready(image, GRAY), image)


def test_a_double_beyond_float32_is_refused() -> None:
    with pytest.raises(InputValueError, match="NaN or infinite"):
        model_ready(np.full(GRAY.shape, 1e300), GRAY)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, ">u2", ">f4"])
def test_an_image_is_never_changed(dtype: Any) -> None:
    image = np.arange(72).reshape(RGB.shape).astype(dtype)
    before = image.copy()
    model_ready(image, RGB)
    np.testing.assert_array_equal(image, before)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), values=hnp.arrays(np.float32, 20, elements=finite), scale=scales, dtype=EIGHT_BITS)
def test_quantizing_is_off_by_half_a_step_at_most(
    data: st.DataObject, values: np.ndarray, scale: float, dtype: np.dtype[Any]
) -> None:
    zero_point, limits = data.draw(zero_points(dtype)), np.iinfo(dtype)
    quantized = quantize(values, scale, zero_point, dtype)
    assert quantized.dtype == dtype
    low, high = ((limit - zero_point) * scale for limit in (limits.min, limits.max))
    wanted = np.clip(values.astype(np.float64), low, high)
    error = np.abs((quantized.astype(np.float64) - zero_point) * scale - wanted)
    assert error.max() <= scale * 0.5001


@settings(max_examples=100, deadline=None)
@given(data=st.data(), scale=scales, dtype=EIGHT_BITS)
def test_every_step_survives_the_way_there_and_back(data: st.DataObject, scale: float, dtype: np.dtype[Any]) -> None:
    zero_point, limits = data.draw(zero_points(dtype)), np.iinfo(dtype)
    steps = np.arange(limits.min, limits.max + 1).astype(dtype)
    values = dequantize(steps, scale, zero_point)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, (steps.astype(np.float64) - zero_point) * scale, rtol=1e-6)
    np.testing.assert_array_equal(quantize(values, scale, zero_point, dtype), steps)


@settings(max_examples=50, deadline=None)
@given(values=hnp.arrays(np.float32, 20, elements=finite), scale=scales)
def test_quantizing_keeps_the_order(values: np.ndarray, scale: float) -> None:
    steps = quantize(np.sort(values), scale, 3, np.dtype(np.int8))
    assert (np.diff(steps.astype(int)) >= 0).all()


def test_the_largest_float_is_clipped_quietly() -> None:
    values = np.array([np.finfo(np.float32).max, np.finfo(np.float32).min])
    np.testing.assert_array_equal(quantize(values, 1e-3, 0, np.dtype(np.int8)), [127, -128])


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, ">u2", ">f4"])
def test_pixels_and_floats_pass_the_check_as_they_are(dtype: Any) -> None:
    batch = np.zeros((2, *RGB.shape), dtype)
    assert check_batch(batch, RGB) is batch
    image = np.zeros(RGB.shape, dtype)
    assert check_one(image, RGB) is image


@pytest.mark.parametrize("dtype", [bool, complex, "U3", "S3", object, "datetime64[s]"])
def test_types_that_are_no_images_are_refused(dtype: Any) -> None:
    image = np.zeros(GRAY.shape, dtype)
    with pytest.raises(InputTypeError, match=r"cannot be embedded\. Pass uint8 pixels \(0-255\), or floats"):
        check_one(image, GRAY)
    with pytest.raises(InputTypeError, match="cannot be embedded"):
        check_batch(image[None], GRAY)


def test_int8_is_refused_with_the_reason() -> None:
    with pytest.raises(InputTypeError, match=r"int8 has no scale of its own.*uint8 pixels"):
        check_one(np.zeros(GRAY.shape, np.int8), GRAY)


def test_nested_lists_are_arrays_too() -> None:
    nested = np.arange(25).reshape(GRAY.shape).tolist()
    np.testing.assert_array_equal(model_ready(check_one(nested, GRAY), GRAY).ravel() * 255, np.arange(25))
    assert check_batch([nested, nested], GRAY).shape == (2, 5, 5, 1)


def test_images_of_several_sizes_do_not_form_a_batch() -> None:
    with pytest.raises(InputShapeError, match=r"do not form one array.*images of one size"):
        check_batch([np.zeros((4, 6, 3)), np.zeros((5, 6, 3))], RGB)


def test_a_ragged_list_is_no_image() -> None:
    with pytest.raises(InputShapeError):
        check_one([[[1], [2]], [[3]]], GRAY)


@pytest.mark.parametrize(
    ("shape", "contract", "advice"),
    [
        ((4, 6, 3), RGB, r"one image: call embed_one, or add a batch axis with image\[None\]"),
        ((2, 3, 4, 6), RGB, r"channels come first: .*np.moveaxis\(images, -3, -1\)"),
        ((2, 5, 5), GRAY, r"channel axis is missing: .*images\[\.\.\., None\]"),
        ((5, 5), GRAY, r"channel axis is missing: .*images\[\.\.\., None\]"),
        ((2, 8, 8, 3), RGB, "Arrays are never resized; resize them, or pass image files"),
        ((2, 4, 6, 1), RGB, r"images are gray: np.repeat\(images, 3, axis=-1\)"),
        ((4, 6), RGB, r"images are gray: np.repeat\(images\[\.\.\., None\], 3, axis=-1\)"),
        ((4, 6, 4), RGB, r"alpha channel: drop it with images\[\.\.\., :3\].* takes RGB"),
        ((3, 4, 6), RGB, r"channels come first: .*np.moveaxis\(images, -3, -1\)"),
        ((2, 6, 4, 3), RGB, r"Height and width are swapped: np.swapaxes\(images, -3, -2\)"),
        ((2, 5, 5, 3), GRAY, r"takes gray images: images @ \(0.299, 0.587, 0.114\)"),
        ((2, 4, 6, 2), RGB, r"takes 3 channel\(s\): rgb"),
        ((72,), RGB, r"are flat: images.reshape\(-1, 4, 6, 3\)"),
        ((2, 72), RGB, r"are flat: images.reshape\(-1, 4, 6, 3\)"),
        ((1, 2, 4, 6, 3), RGB, r"a batch in a batch: take it out with images\[0\], or images.reshape\(-1, 4, 6, 3\)"),
        ((2, 2, 4, 6, 3), RGB, r"a batch in a batch: images.reshape\(-1, 4, 6, 3\)"),
        ((2, 2, 4, 5, 3), RGB, "Arrays are never resized"),
        ((), RGB, "Arrays are never resized"),
    ],
)
def test_a_wrong_shape_is_told_what_to_do(shape: tuple[int, ...], contract: InputContract, advice: str) -> None:
    with pytest.raises(InputShapeError, match=advice) as caught:
        check_batch(np.zeros(shape), contract)
    assert f"expected images of shape {contract.shape}" in str(caught.value)
    assert f"received an array of shape {shape}" in str(caught.value)


def test_a_batch_is_no_single_image() -> None:
    with pytest.raises(InputShapeError, match="That is a batch: call embed"):
        check_one(np.zeros((2, *RGB.shape)), RGB)


def test_the_advice_on_axes_works() -> None:
    first = np.zeros((2, 3, 4, 6))
    assert check_batch(np.moveaxis(first, -3, -1), RGB).shape == (2, *RGB.shape)
    assert check_batch(np.zeros((2, 5, 5))[..., None], GRAY).shape == (2, *GRAY.shape)
