"""Whether an image's embedding depends on its batch is measured on the original, not guessed from the graph."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from embedlite.convert import Asked, export_asked
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.results import ExportResult
from embedlite.runtime.errors import RequestError

from encoders import Call, small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), np.uint8)


def export_with(model: keras.Model, folder: Path, **options: object) -> ExportResult:
    return export_asked(model, Asked(output_dir=folder, test_data=images(20), **options))


def rows_original(x):
    """One row for every place; the extremes are those of the whole batch."""
    return (ops.reshape(x, (-1, x.shape[-1])) - ops.min(x)) / ops.max(x)


COUPLED = {
    "no axis": [layers.Flatten, lambda: Call(lambda x: (x - ops.min(x)) / ops.max(x - ops.min(x)))],
    "channels over the batch": [lambda: MinMaxNormalization("channel"), layers.GlobalAveragePooling2D],
    "rows": [layers.ReLU, lambda: Call(rows_original)],
}
ALONE = {
    "sample": [layers.Flatten, MinMaxNormalization],
    "l2": [layers.Flatten, L2Normalization],
    "none": [layers.Flatten],
}


@pytest.mark.parametrize("name", COUPLED)
def test_coupling_is_measured_as_one_would_by_hand(name: str, tmp_path: Path) -> None:
    model = small_encoder([make() for make in COUPLED[name]])
    result = export_with(model, tmp_path, training_batch=8)
    ready = images(20)[:8] / np.float32(255)
    together = np.asarray(model(ready)).reshape(8, -1)
    alone = np.stack([np.asarray(model(image[None])).ravel() for image in ready])
    coupling = result.batch_coupling
    assert coupling is not None
    assert coupling.coupled
    assert coupling.batch_size == 8
    assert coupling.max_abs == pytest.approx(float(np.abs(together - alone).max()), rel=1e-3)
    cosines = (together * alone).sum(axis=1) / np.linalg.norm(together, axis=1) / np.linalg.norm(alone, axis=1)
    assert coupling.cosine_min == pytest.approx(float(cosines.min()), abs=1e-5)
    (decision,) = [text for text in result.decisions if "depends on its batch" in text]
    assert "--normalization frozen" in decision
    assert result.to_json()["batch_coupling"]["coupled"] is True


@pytest.mark.parametrize("name", ALONE)
def test_normalizing_each_sample_does_not_couple(name: str, tmp_path: Path) -> None:
    result = export_with(small_encoder([make() for make in ALONE[name]]), tmp_path)
    assert result.batch_coupling is not None
    assert not result.batch_coupling.coupled
    assert result.batch_coupling.batch_size == 32
    assert result.batch_coupling.max_abs < 1e-4


def test_a_model_that_takes_one_image_only_says_so(tmp_path: Path) -> None:
    image = keras.Input(batch_shape=(1, 24, 24, 3))
    vector = layers.Flatten()(layers.Conv2D(4, 3, strides=3)(image))
    model = keras.Model(image, ops.reshape(vector, (1, 256)), name="single")
    result = export_with(model, tmp_path)
    assert result.batch_coupling is None
    assert any("one image at a time" in text for text in result.decisions)


def test_a_batch_of_one_is_no_batch(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--training-batch is 1"):
        export_with(small_encoder([layers.Flatten()]), tmp_path, training_batch=1)
