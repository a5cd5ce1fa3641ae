"""Divisors near zero: measured in steps of int8, told where they decide the drift, with ways out that are walked."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, ExportResult, export
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.outcome.explain import explain_conditioning
from embedlite.convert.results import NEAR, Conditioning
from embedlite.runtime import Encoder

from encoders import PLAIN

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 12, 12, 3), np.uint8)


def network(normalization: layers.Layer) -> keras.Model:
    """A convolution that is not trained, whose channels' maxima lie anywhere, normalized and averaged."""
    keras.utils.set_random_seed(0)
    parts = [layers.Conv2D(32, 5, name="raw"), normalization, layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((12, 12, 3)), *parts], name="small")


def made(model: keras.Model, folder: Path, *modes: str, images: np.ndarray = IMAGES, **options) -> ExportResult:
    asked = ExportOptions(**PLAIN, **options)
    return export(model, folder, quantize=modes, calibration_data=images, options=asked)


def int8_db(model: keras.Model, result: ExportResult) -> float:
    wanted = np.concatenate([np.asarray(model(image[None] / np.float32(255))) for image in IMAGES])
    found = Encoder(result.files[-1].path).embed(IMAGES)
    return float(10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return made(network(MinMaxNormalization("channel", "input")), tmp_path_factory.mktemp("ill"), "float32", "int8")


def test_the_divisor_is_measured_in_steps_of_int8(ill: ExportResult) -> None:
    (found,) = ill.conditioning
    model = network(MinMaxNormalization("channel", "input"))
    raw = keras.Model(model.inputs[0], model.get_layer("raw").output)(IMAGES[:32] / np.float32(255)).numpy()
    assert found.images == 32
    # The range is that of all images which set ranges, so the step is at least as wide as that of these.
    assert found.step >= (max(raw.max(), 0) - min(raw.min(), 0)) / 255 * 0.9
    steps = np.abs(raw.max(axis=(1, 2))) / found.step
    assert found.near == pytest.approx((steps < NEAR).mean(), abs=0.01)
    assert found.nearest <= np.sort(steps.ravel())[2]
    value = json.loads((ill.files[0].path.parent / "small.export.json").read_text())
    assert value["conditioning"][0]["near"] == found.near


def test_a_divisor_near_zero_is_named_with_its_ways_out_and_nothing_that_fails_is_recommended(
    ill: ExportResult,
) -> None:
    (told,) = [text for text in ill.decisions if text.startswith("WARNING: the normalization of")]
    assert "divides by the maximum of its input" in told
    assert ill.conditioning[0].decides
    # Why each place gets none depends on the runtimes that are there; tests/convert/test_ship.py has the sentences.
    assert not any("ship small.int8" in text for text in ill.ship)


@pytest.mark.parametrize("way", ["shifted", "epsilon"])
def test_each_way_out_is_one(tmp_path: Path, ill: ExportResult, way: str) -> None:
    epsilon = 50 * ill.conditioning[0].step
    layer = MinMaxNormalization("channel", "input", epsilon) if way == "epsilon" else MinMaxNormalization("channel")
    model = network(layer)
    result = made(model, tmp_path, "int8", measure=False)
    assert not any("Ways out: the maximum of the shifted" in text for text in result.decisions)
    assert not result.conditioning[0].decides
    assert int8_db(model, result) > 30
    assert int8_db(network(MinMaxNormalization("channel", "input")), ill) < 20


def test_embeddings_that_may_be_short_are_told_as_well(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    parts = [layers.Conv2D(16, 12, use_bias=False, name="raw"), layers.Flatten(), L2Normalization()]
    model = keras.Sequential([keras.Input((12, 12, 3)), *parts], name="short")
    # Without a bias a dark image has a short embedding, and one bright image in sixteen sets the range.
    dark = (IMAGES * np.where(np.arange(48) % 16 == 0, 1, 0.01).reshape(-1, 1, 1, 1)).astype(np.uint8)
    result = made(model, tmp_path, "int8", images=dark, measure=False)
    (found,) = result.conditioning
    assert (found.kind, found.divisor, found.decides) == ("l2", "shifted", True)
    (told,) = [text for text in result.decisions if text.startswith("WARNING: the normalization of")]
    assert "divides by its length" in told


def test_what_does_not_decide_is_not_said() -> None:
    bad = Conditioning("raw", "minmax", "input", 32, 0.1, 0.5, 0.03, 30.0, 20.0, 0.9)
    assert len(explain_conditioning([bad], ())[0]) == 1
    for other in (
        Conditioning("raw", "minmax", "input", 32, 0.1, 0.5, 0.03, 30.0, 3.0, 0.9),
        Conditioning("raw", "minmax", "input", 32, 0.1, 0.5, 0.03, 30.0, 20.0, 0.1),
        Conditioning("raw", "minmax", "input", 32, 0.1, 0.5, 0.03, 30.0, None, 0.0),
    ):
        assert explain_conditioning([other], ()) == ([], "")
