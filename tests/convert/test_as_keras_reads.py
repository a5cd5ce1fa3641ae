"""Files whose contract reads images as Keras does, against vectors that Keras' own pipeline makes."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, export
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.load.tflite import load_tflite
from embedlite.runtime import Encoder
from embedlite.runtime.images.open import open_source

from crops import save_crops
from encoders import small_encoder
from rounding import decibels

Encoders = dict[int, tuple[keras.Model, Encoder]]

AS_KERAS: dict[str, Any] = {"resampler": "tf-bilinear", "exif": "ignore", "jpeg_decoder": "tensorflow"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of several sizes and proportions from scikit-image's photos: in ``png`` as PNG, in ``jpg`` as JPEG."""
    root = tmp_path_factory.mktemp("pictures")
    save_crops(root, 12, (40, 250), 50)
    return root


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoders]:
    """By channels a model, and its float32 file."""
    with contextlib.ExitStack() as stack:
        made = {}
        for channels in (1, 3):
            model = small_encoder([layers.GlobalAveragePooling2D()], (24, 24, channels))
            folder = tmp_path_factory.mktemp("files")
            result = export(model, folder, quantize=["float32"], options=ExportOptions(measure=False))
            made[channels] = model, stack.enter_context(Encoder(result.files[0].path))
        yield made


def by_keras(model: keras.Model, folder: Path, **options: Any) -> np.ndarray:
    images = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(24, 24), shuffle=False, batch_size=4, verbose=False, **options
    )
    return np.concatenate([np.asarray(model(batch / 255.0)) for batch in images])


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize(
    ("loader", "reading"),
    [
        ({}, {}),
        ({"crop_to_aspect_ratio": True}, {"fit": "crop"}),
        ({"pad_to_aspect_ratio": True}, {"fit": "pad"}),
        ({"interpolation": "area"}, {"resampler": "tf-area"}),
        ({"color_mode": "grayscale"}, {"gray": "tf-decode"}),
    ],
    ids=str,
)
def test_the_vectors_are_those_of_keras_own_pipeline(
    kind: str, loader: dict[str, Any], reading: dict[str, Any], folders: Path, encoders: Encoders
) -> None:
    model, encoder = encoders[1 if "color_mode" in loader else 3]
    contract = replace(encoder.contract.input, **{**AS_KERAS, **reading})
    found = np.stack(list(encoder.embed_iter(open_source(folders / kind, contract))))
    assert decibels(found, by_keras(model, folders / kind, **loader)) > 100


def test_a_file_that_is_exported_again_is_read_as_before(tmp_path: Path) -> None:
    model = small_encoder([layers.GlobalAveragePooling2D()])
    options = ExportOptions(**AS_KERAS, fit="crop", gray="tf-image", measure=False)
    path = Path(export(model, tmp_path, quantize=["float32"], options=options).files[0].path)
    said = load_tflite(path, LoadOptions()).inputs
    assert said is not None
    assert {**AS_KERAS, "fit": "crop", "gray": "tf-image"}.items() <= vars(said.options).items()


def test_what_rounding_to_a_uint8_input_costs_is_said(folders: Path, tmp_path: Path) -> None:
    model = small_encoder([layers.GlobalAveragePooling2D()])
    said = {}
    for resampler in ("tf-bilinear", "tf-nearest", "bilinear"):
        options = ExportOptions(resampler=resampler, input_type="uint8", measure=False, correct=("none",))
        data = folders / "png"
        result = export(model, tmp_path / resampler, quantize=["int8"], calibration_data=data, options=options)
        said[resampler] = [text for text in result.decisions if "fractions" in text]
    assert said["tf-nearest"] == said["bilinear"] == []
    (text,) = said["tf-bilinear"]
    figure = float(text.partition("costs ")[2].partition(" dB")[0])
    assert text.startswith("a uint8 input rounds the fractions that tf-bilinear leaves")
    assert 30 < figure < 80
