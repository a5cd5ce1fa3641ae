"""TensorFlow's resizing in numpy, against ``tf.image.resize`` itself: every bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.runtime.input.tf_resample import TF_RESAMPLERS, resize

SIDES = st.one_of(st.integers(1, 12), st.integers(1, 400))


@pytest.mark.parametrize("resampler", TF_RESAMPLERS)
@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(SIDES, SIDES),
    new=st.tuples(SIDES, SIDES),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_size_is_tensorflows_to_the_bit(
    resampler: str, size: tuple[int, int], new: tuple[int, int], channels: int, seed: int
) -> None:
    import tensorflow as tf

    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)
    wanted = tf.image.resize(pixels, new, method=resampler.removeprefix("tf-")).numpy()
    found = resize(pixels, *new, resampler)
    assert found.dtype == (np.uint8 if size == new or resampler == "tf-nearest" else np.float32)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("resampler", TF_RESAMPLERS)
@pytest.mark.parametrize(("size", "new"), [((1500, 2003), (224, 224)), ((3, 5), (1200, 900)), ((1, 4000), (160, 1))])
def test_photos_and_strips_are_tensorflows_to_the_bit(
    resampler: str, size: tuple[int, int], new: tuple[int, int]
) -> None:
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    wanted = tf.image.resize(pixels, new, method=resampler.removeprefix("tf-")).numpy()
    np.testing.assert_array_equal(resize(pixels, *new, resampler), wanted)


@pytest.mark.parametrize("resampler", TF_RESAMPLERS)
def test_the_same_size_changes_nothing(resampler: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert resize(pixels, 7, 5, resampler) is pixels


def test_opencvs_linear_is_within_a_level() -> None:
    cv2: Any = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 123, 3), np.uint8)
    for height, width in ((64, 64), (31, 200), (180, 246)):
        opencv = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        assert np.abs(resize(pixels, height, width, "tf-bilinear") - opencv.astype(np.float32)).max() <= 1
