"""Held-out images judge what is quantized: made ready whenever they are asked for, and each graph is run once."""

from collections.abc import Sequence

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.calibration import collect_ranges
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.prepare import prepare
from embedlite.convert.quantize import trial
from embedlite.convert.quantize.trial import CrossTrial, ReadyImages, Trial
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source

SHAPE = (8, 8, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), np.uint8)


def test_images_are_ready_one_by_one_and_in_slices() -> None:
    for given in (PIXELS, PIXELS.astype(np.float32) / 100):
        source = open_source(given, InputContract(SHAPE, mean=(100.0,), std=(50.0,)))
        images, wanted = ReadyImages(source, [4, 1, 3]), [source.ready(index) for index in (4, 1, 3)]
        assert len(images) == 3
        np.testing.assert_array_equal(list(images), wanted)
        np.testing.assert_array_equal(images[::2], wanted[::2])
        np.testing.assert_array_equal(images[-1], wanted[-1])


def test_a_graph_is_run_once_on_each_fold_and_no_fold_that_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(6, 3, activation="relu"), layers.Flatten()])
    graph = prepare(lower(from_keras(model, "small", LoadOptions())).flatbuffer)
    source = open_source(PIXELS, InputContract(SHAPE))
    ran = list[bytes]()
    real = trial.float_rows

    def counted(flatbuffer: bytes, images: Sequence[np.ndarray], threads: int | None) -> np.ndarray:
        ran.append(flatbuffer)
        return real(flatbuffer, images, threads)

    folds = [Trial(graph, ReadyImages(source, range(first, 12, 3)), 1) for first in range(3)]
    monkeypatch.setattr(trial, "float_rows", counted)
    ranges = collect_ranges(graph.flatbuffer, source)
    errors = CrossTrial(folds).errors((graph.flatbuffer, ranges) for _ in folds)
    assert not ran
    first = next(iter(errors))
    assert len(ran) == 1
    everything = np.concatenate([first, *errors])
    assert len(ran) == 3
    again = np.concatenate(list(CrossTrial(folds).errors_of_one(graph.flatbuffer, ranges)))
    assert len(ran) == 3
    np.testing.assert_array_equal(again, everything)
    assert (everything[:, 0] > 0).all()
    assert (folds[0].errors_of(graph.flatbuffer) == 0).all()
    assert len(ran) == 4
