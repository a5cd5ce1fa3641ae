"""What is said of values that were scaled otherwise than the model's contract says, and what is not."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.convert import ExportOptions, export
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.errors import EmbedliteWarning, InputValueError
from embedlite.runtime.images.decode import load_image
from embedlite.runtime.input.preprocess import model_ready
from embedlite.runtime.input.values import FIRST_IMAGES, SAMPLE, WHOLE, InputValues
from embedlite.runtime.model.artifact import read_artifact

from encoders import quick_encoder

SHAPE = (24, 24, 3)
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CONTRACTS = {
    "0 to 1": InputContract(SHAPE),
    "-1 to 1": InputContract(SHAPE, mean=(127.5,), std=(127.5,)),
    "ImageNet": InputContract(SHAPE, mean=IMAGENET[0], std=IMAGENET[1]),
    "raw": InputContract(SHAPE, mean=(0.0,), std=(1.0,)),
    "mean only": InputContract(SHAPE, color_order="bgr", mean=(103.939, 116.779, 123.68), std=(1.0,)),
}


@pytest.fixture(scope="module")
def crops(photos: Path) -> list[np.ndarray]:
    return [load_image(path, InputContract(SHAPE)) for path in sorted(photos.iterdir())]


def warnings_of(
    contract: InputContract, images: list[np.ndarray], calibration: dict[str, object] | None = None
) -> list[str]:
    values = InputValues("m.tflite", contract, calibration)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for image in images:
            if image.dtype == np.uint8:
                values.check_pixels(image)
            else:
                values.check_floats(image.astype(np.float32), every_value=False)
    assert all(issubclass(warning.category, EmbedliteWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_photos_that_are_prepared_as_the_contract_says_are_not_remarked_upon(
    contract: InputContract, crops: list[np.ndarray]
) -> None:
    flat = [np.full(SHAPE, level, np.uint8) for level in (0, 128, 255)]
    if contract.color_order == "bgr":
        crops = [image[..., ::-1] for image in crops]
    for images in (crops, flat):
        assert warnings_of(contract, images) == []
        assert warnings_of(contract, [model_ready(image, contract) for image in images]) == []


WRONG = {
    # What the model's contract is, what the caller did to pixels instead, and what is said of it.
    "0-255 where 0-1 belongs": ("0 to 1", lambda x: x, "pixels 0-255 that became floats: pass them as uint8"),
    "0-255 where -1..1 belongs": ("-1 to 1", lambda x: x, "pixels 0-255 that became floats"),
    "0-255 where ImageNet's belong": ("ImageNet", lambda x: x, "pixels 0-255 that became floats"),
    "centered, not divided": ("0 to 1", lambda x: x - 127.5, "scaled with another mean and std"),
    "ImageNet's where 0-1 belongs": ("0 to 1", lambda x: (x - 120) / 58, "scaled with another mean and std"),
    "divided twice": ("raw", lambda x: x / 255 / 255, "scaled already; this model scales pixels itself"),
    "0-1 where 0-255 belongs": ("raw", lambda x: x / 255, "scaled already; this model scales pixels itself"),
    "-1..1 where 0-255 belongs": ("raw", lambda x: x / 127.5 - 1, "scaled already"),
    "0-1 where only the mean is taken off": ("mean only", lambda x: x / 255, "scaled already"),
    "0-1 where -1..1 belongs": ("-1 to 1", lambda x: x / 255, "none below 0, but pixels 0-255 become -1 to 1"),
    "0-1 where ImageNet's belong": (
        "ImageNet",
        lambda x: x / 255,
        "none below 0, but pixels 0-255 become -2.12 to 2.64",
    ),
    "-1..1 where ImageNet's belong": ("ImageNet", lambda x: x / 127.5 - 1, "They look scaled to -1 to 1"),
    "0-255 where only the mean is taken off": ("mean only", lambda x: x, "pixels 0-255 that became floats"),
    "0-200 where only the mean is taken off": (
        "mean only",
        lambda x: x * 0.78,
        "none below 0, but pixels 0-255 become",
    ),
    "ImageNet's where 0-255 belongs": ("raw", lambda x: (x - 120) / 58, "scaled already; this model scales pixels"),
    "ImageNet's where -1..1 belongs": ("-1 to 1", lambda x: (x - 120) / 55, "standardized, as torchvision does it"),
    "caffe's where 0-255 belongs": ("raw", lambda x: x - 123.68, "a mean taken off pixels 0-255, as for caffe"),
    "caffe's where 0-1 belongs": ("0 to 1", lambda x: x - 123.68, "a mean taken off pixels 0-255, as for caffe"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_scaling_is_named_once(name: str, crops: list[np.ndarray]) -> None:
    contract, scaling, message = WRONG[name]
    said = warnings_of(CONTRACTS[contract], [scaling(image.astype(np.float64)) for image in crops])
    assert len(said) == 1
    assert message in said[0]
    assert said[0].startswith("m.tflite: ")


def test_what_one_image_cannot_show_is_said_after_some(crops: list[np.ndarray]) -> None:
    scaled = [image / 255 for image in crops]
    assert warnings_of(CONTRACTS["-1 to 1"], scaled[: FIRST_IMAGES - 1]) == []
    assert len(warnings_of(CONTRACTS["-1 to 1"], scaled[:FIRST_IMAGES])) == 1


def test_floats_cast_to_integers_are_noticed(crops: list[np.ndarray]) -> None:
    bright = crops[0].copy()
    bright[3, 4] = 255
    for cast in (np.round, np.floor):
        images = [cast(image / 255).astype(np.uint8) for image in (bright, *crops)]
        said = warnings_of(CONTRACTS["0 to 1"], images)
        assert len(said) == 1
        assert "np.round(image * 255).astype(np.uint8)" in said[0]


@pytest.mark.parametrize(
    ("bits", "advice"), [(8, "astype(np.uint8)"), (10, "image << 6"), (12, "image << 4"), (14, "<< 2")]
)
def test_16_bit_integers_that_hold_fewer_bits_are_noticed(bits: int, advice: str, crops: list[np.ndarray]) -> None:
    images = [(image.astype(np.uint16) * 257) >> (16 - bits) for image in crops]
    (said,) = wide_warnings(images)
    assert f"They look like values of {bits} bits" in said
    assert advice in said


def test_pictures_of_16_bits_are_not_taken_for_fewer(crops: list[np.ndarray]) -> None:
    whole = [image.astype(np.uint16) * 257 for image in crops]
    dim = [image // 3 for image in whole]
    assert wide_warnings(whole) == wide_warnings([*dim[:20], *whole]) == wide_warnings([np.zeros_like(whole[0])]) == []


def wide_warnings(images: list[np.ndarray]) -> list[str]:
    values = InputValues("m.tflite", CONTRACTS["0 to 1"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for image in images:
            values.check_wide(image)
    return [str(warning.message) for warning in caught]


EXCHANGED = "red and blue look exchanged: the model takes "
WARM = {"channel_means": [140.0, 120.0, 101.5]}


@pytest.mark.parametrize("ready", [False, True], ids=["pixels", "floats"])
@pytest.mark.parametrize(
    ("contract", "calibration"),
    [("ImageNet", None), ("mean only", None), ("0 to 1", WARM), ("-1 to 1", WARM), ("raw", WARM)],
)
def test_red_and_blue_exchanged_are_noticed_where_the_file_knows_better(
    contract: str, calibration: dict[str, object] | None, ready: bool, crops: list[np.ndarray]
) -> None:
    """By real photos, one file after the other: as the model takes them, and as another library reads them."""
    given = CONTRACTS[contract]
    right, wrong = crops, [image[..., ::-1] for image in crops]
    if given.color_order == "bgr":
        right, wrong = wrong, right
    if ready:
        right, wrong = ([model_ready(image, given) for image in images] for images in (right, wrong))
    assert warnings_of(given, right, calibration) == []
    (said,) = warnings_of(given, wrong, calibration)
    assert f"{EXCHANGED}{given.color_order.upper()} and" in said
    assert "image[..., ::-1]" in said


def test_few_images_tell_of_exchanged_colours_where_they_are_clear_and_many_where_they_are_not() -> None:
    rng = np.random.default_rng(0)

    def scenes(count: int, mean: float, spread: float) -> list[np.ndarray]:
        blues = np.clip(rng.normal(mean, spread, count), -100, 100)
        return [np.broadcast_to(np.float32([100, 110, 100 + blue]), SHAPE).astype(np.uint8) for blue in blues]

    assert len(warnings_of(CONTRACTS["ImageNet"], scenes(24, 30, 10))) == 1
    unclear = scenes(250, 15, 45)
    assert warnings_of(CONTRACTS["ImageNet"], unclear[:32]) == []
    assert len(warnings_of(CONTRACTS["ImageNet"], unclear)) == 1


@pytest.mark.parametrize(
    "calibration",
    [
        None,
        {"method": "minmax"},
        {"channel_means": [101.5, 120.0, 140.0]},
        {"channel_means": [120.0, 110.0, 119.0]},
        *(
            {"channel_means": odd}
            for odd in (None, 3, "abc", [1.0], [True, 2.0, 3.0], [1e308, 0.0, -1e308], [[], {}, 0])
        ),
    ],
)
def test_nothing_is_said_of_colours_that_the_file_does_not_know_or_that_fit(
    calibration: dict[str, object] | None, crops: list[np.ndarray]
) -> None:
    assert warnings_of(CONTRACTS["0 to 1"], [image[..., ::-1] for image in crops], calibration) == []


def test_an_int8_file_knows_the_colours_that_it_was_calibrated_on(
    photos: Path, crops: list[np.ndarray], tmp_path: Path
) -> None:
    """From the export's photos to the device's warning; a float32 file and one of gray images know nothing."""
    made = export(
        quick_encoder(SHAPE),
        tmp_path,
        quantize=["float32", "int8"],
        calibration_data=str(photos),
        options=ExportOptions(measure=False),
    )
    float32, int8 = (Path(file.path) for file in made.files)
    calibration = read_artifact(int8).contract.calibration
    means = np.mean([crop.mean(axis=(0, 1)) for crop in crops], axis=0)
    np.testing.assert_allclose(calibration["channel_means"], means, atol=10)
    for path, expected in ((float32, 0), (int8, 1)):
        with Encoder(path) as encoder, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoder.embed(np.stack(crops))
        assert caught == []
        with Encoder(path) as encoder, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for crop in crops:
                encoder.embed_one(crop[..., ::-1])
        assert [EXCHANGED in str(warning.message) for warning in caught] == [True] * expected


def test_one_blue_scene_is_not_taken_for_exchanged_colours(crops: list[np.ndarray]) -> None:
    """However long a camera looks at it, and with its noise."""
    rng = np.random.default_rng(0)
    scene = crops[0][..., ::-1].astype(np.int64)
    frames = [np.clip(scene + rng.integers(-3, 4, scene.shape), 0, 255).astype(np.uint8) for _ in range(300)]
    assert warnings_of(CONTRACTS["ImageNet"], frames) == []


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.tuples(st.integers(0, 199), st.integers(0, 199), st.integers(0, 2)),
)
def test_nan_anywhere_is_found_by_looking_at_all_and_by_looking_often(
    value: float, place: tuple[int, int, int]
) -> None:
    """A sample is other rows every time, so that a pixel which is always NaN is found soon."""
    shape = (200, 200, 3)
    assert math.prod(shape) > WHOLE
    image = np.full(shape, 0.5, np.float32)
    image[place] = value
    message = "1 value.* the first at " + str(place).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputValueError, match=message):
        InputValues("m", InputContract(shape)).check_floats(image, every_value=True)
    often = InputValues("m", InputContract(shape))
    with pytest.raises(InputValueError, match=message):
        for _ in range(-(-math.prod(shape) // SAMPLE)):
            often.check_floats(image, every_value=False)


def test_a_model_that_answers_nan_is_told_from_an_input_with_nan() -> None:
    values = InputValues("m", CONTRACTS["0 to 1"])
    good, bad = np.ones(SHAPE), np.full(SHAPE, np.nan)
    finite, broken = np.full((1, 3), 3e38, np.float32), np.array([[1, np.nan, 0]], np.float32)
    values.explain_non_finite(bad, finite)
    with pytest.warns(EmbedliteWarning, match="answered NaN or infinity for an input without any"):
        values.explain_non_finite(good, broken)
    with pytest.raises(InputValueError, match="NaN or infinite"):
        values.explain_non_finite(bad, broken)
