"""The ladder: steps by real runtimes, their figures computed a second time by hand, and reasons for those not run."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from PIL import Image

from embedlite.convert import Asked, export_asked
from embedlite.convert.layers import MinMaxNormalization
from embedlite.report.causes.ladder import Ladder, LadderStep, Moved, render_ladder, with_shares

from conftest import Run, error_line
from encoders import PLAIN, small_encoder
from ways_out import walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (32, 32, 3)
BATCH = 32


def model() -> keras.Model:
    """Its normalization goes over the batch, and photos have to be stretched for it."""
    return small_encoder([MinMaxNormalization("channel"), layers.GlobalAveragePooling2D()], SHAPE)


@pytest.fixture(scope="module")
def shipped(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, its float32 and int8 files, and in ``ends`` an int8 file with int8 input."""
    folder = tmp_path_factory.mktemp("shipped")
    model().save(folder / "model.keras")
    options: dict[str, Any] = {"calibration_data": photos, "measure": False, **PLAIN}
    export_asked(folder / "model.keras", Asked(quantize=["float32", "int8"], **options))
    export_asked(
        folder / "model.keras", Asked(output_dir=folder / "ends", quantize=["int8"], input_type="int8", **options)
    )
    return folder


@pytest.fixture(scope="module")
def climbed(shipped: Path, photos: Path, run: Run) -> tuple[dict[str, Any], str]:
    """The report of the int8 file against the original, as JSON and as text."""
    done = run(
        "drift-report",
        *(shipped / "model.int8.tflite", "--reference", shipped / "model.keras", "--data", photos),
        *("--ladder", "--layers", "--json", shipped / "report.json", "--gate", "knn_overlap_cross=0"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((shipped / "report.json").read_text()), done.stdout


def step_of(report: dict[str, Any], part: str) -> dict[str, Any]:
    (found,) = [step for step in report["ladder"] if part in step["step"]]
    return found


def sqnr(after: np.ndarray, before: np.ndarray) -> float:
    return 10 * math.log10(np.square(before).sum() / np.square(after - before).sum())


def prepared(photos: Path, resample: Image.Resampling) -> np.ndarray:
    """The photos as the model takes them, in the order of their names."""
    images = [Image.open(path).convert("RGB").resize((32, 32), resample) for path in sorted(photos.iterdir())]
    return np.stack([np.asarray(image, np.float32) for image in images]) / 255


def alone(images: np.ndarray) -> np.ndarray:
    encoder = model()
    return np.stack([np.asarray(encoder(image[None]), np.float64)[0] for image in images])


def test_every_step_is_there_and_what_was_spent_adds_up(climbed: tuple[dict[str, Any], str]) -> None:
    report, text = climbed
    steps = report["ladder"]
    # The photos are PNG files.
    assert [step["step"] for step in steps if step["skipped"]] == ["JPEG decoder: pillow → tensorflow"]
    way = [step for step in steps if step["on_the_way"]]
    assert [step["step"].split(" ")[0] for step in way] == ["original", "float", "its"]
    assert sum(step["share"] for step in way) == pytest.approx(1)
    assert all(step["share"] is None for step in steps if not step["on_the_way"])
    assert all(f"int8 on {name}" in text for name in ("ai-edge-litert", "tflite-runtime", "tflite-micro"))
    conversion, quantization = way[:2]
    assert conversion["sqnr_db"] > 80 > quantization["sqnr_db"]
    assert f"most of it is spent in: {quantization['step']}" in text
    # The top is the reference of the report, so the step that ends at the candidate has the report's own figures.
    for name, value in quantization["from_top"].items():
        assert value == pytest.approx(report["metrics"][name], rel=1e-6), name
    assert {"name", "operator", "shape", "sqnr_db", "drop_db", "rescaled"} <= report["layers"][0].keys()
    assert "layers by their share" in text


def test_the_batch_coupling_is_what_the_model_itself_does(climbed: tuple[dict[str, Any], str], photos: Path) -> None:
    images = prepared(photos, Image.Resampling.BILINEAR)
    filled = np.concatenate([images, images[: 2 * BATCH - len(images)]])
    encoder = model()
    batched = np.concatenate([np.asarray(encoder(filled[start : start + BATCH])) for start in (0, BATCH)])[:60]
    step = step_of(climbed[0], "in batches of 32")
    assert step["sqnr_db"] == pytest.approx(sqnr(batched, alone(images)), abs=0.01)
    assert step["sqnr_db"] < 30


@pytest.mark.parametrize("name", ["nearest", "bicubic", "lanczos", "tf.image.resize"])
def test_preprocessing_alone_is_what_the_model_makes_of_other_pixels(
    name: str, climbed: tuple[dict[str, Any], str], photos: Path
) -> None:
    if name == "tf.image.resize":
        files = [np.asarray(Image.open(path).convert("RGB"), np.float32) for path in sorted(photos.iterdir())]
        images = tf.image.resize(np.stack(files), (32, 32), method="bilinear").numpy() / 255
    else:
        images = prepared(photos, getattr(Image.Resampling, name.upper()))
    wanted = sqnr(alone(images), alone(prepared(photos, Image.Resampling.BILINEAR)))
    assert step_of(climbed[0], f"→ {name}")["sqnr_db"] == pytest.approx(wanted, abs=0.01)


def test_without_tensorflow_the_other_steps_are_run(shipped: Path, photos: Path, run: Run) -> None:
    """And a candidate with integer ends has no step to them."""
    program = (
        "import sys\nsys.modules['tensorflow'] = None\n"
        "from embedlite.report.command import main\nmain()\nassert 0, 'unreachable'"
    )
    done = run(
        *("python", "-c", program, shipped / "ends" / "model.int8.tflite"),
        *("--reference", shipped / "model.float32.tflite", "--data", photos, "--num-samples", "20"),
        *("--ladder", "--json", "-", "--gate", "knn_overlap_cross=0"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    reasons = {step["step"]: step["skipped"] for step in report["ladder"] if step["skipped"]}
    assert "name the original" in reasons.pop("original → float .tflite")
    assert "integer already" in reasons.pop("its float input and output → int8")
    assert "pip install 'embedlite[convert]'" in reasons.pop("preprocessing: Pillow's bilinear → tf.image.resize")
    assert "no image is a JPEG" in reasons.pop("JPEG decoder: pillow → tensorflow")
    assert reasons == {}
    assert step_of(report, "float .tflite → int8 on ai-edge-litert")["share"] == 1
    assert step_of(report, "→ nearest")["sqnr_db"] < 40


def frozen(shipped: Path, photos: Path, *modes: str) -> tuple[Path, ...]:
    """Files of the shipped model in which constants have taken the place of its normalization."""
    made = export_asked(
        shipped / "model.keras",
        Asked(
            output_dir=shipped / "frozen" / modes[-1],
            quantize=modes,
            calibration_data=photos,
            normalization="frozen",
            measure=False,
            **(PLAIN if "int8" in modes else {}),
        ),
    )
    return tuple(file.path for file in made.files)


def test_arrays_are_never_resized_and_a_frozen_normalization_is_named(shipped: Path, photos: Path, run: Run) -> None:
    images = (255 * prepared(photos, Image.Resampling.BILINEAR)[:12]).round().astype(np.uint8)
    np.save(shipped / "images.npy", images)
    done = run(
        *("drift-report", *frozen(shipped, photos, "float16"), "--reference", shipped / "model.float32.tflite"),
        *("--data", shipped / "images.npy", "--ladder", "--k", "3", "--json", shipped / "frozen.json"),
    )
    # A frozen normalization is another function; whether it passes is not the question here.
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((shipped / "frozen.json").read_text())
    assert "no image is resized" in step_of(report, "preprocessing")["skipped"]
    assert "not an int8 file" in step_of(report, "its float input")["skipped"]
    assert step_of(report, "float16 on ai-edge-litert")["detail"] == "with the frozen normalization"
    assert "not run: float .tflite → float16 on tflite-micro" in done.stdout


@walks("has a frozen normalization, which the original has not, so that their")
def test_layers_of_a_frozen_file_are_not_compared_with_the_original(shipped: Path, photos: Path, run: Run) -> None:
    reference, candidate = frozen(shipped, photos, "float32", "int8")
    options = ("--data", photos, "--num-samples", "20", "--layers")
    error_line(run("drift-report", candidate, "--reference", shipped / "model.keras", *options))
    done = run("drift-report", candidate, "--reference", reference, *options)
    assert done.returncode in (0, 1), done.stderr
    assert "all together" in done.stdout


@given(st.lists(st.floats(-20, 150) | st.none(), min_size=1, max_size=6))
def test_shares_are_shares_of_the_noise_power(decibels: list[float | None]) -> None:
    steps = [LadderStep(str(i), moved=Moved(db, 1.0, 1.0), on_the_way=True) for i, db in enumerate(decibels)]
    steps.append(LadderStep("beside", moved=Moved(-30.0, 1.0, 1.0)))
    steps.append(LadderStep("skipped", on_the_way=True, skipped="why"))
    shared = with_shares(steps)
    assert shared[-2].share is None
    assert shared[-1].share is None
    shares = [step.share for step in shared[:-2]]
    if all(db is None for db in decibels):
        assert shares == [None] * len(decibels)
        assert Ladder(shared, 3).largest is None
        return
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
    finite = [(db, share) for db, share in zip(decibels, shares, strict=True) if db is not None]
    for (one, mine), (other, its) in itertools.pairwise(finite):
        assert mine == pytest.approx(its * 10 ** ((other - one) / 10), rel=1e-6)
    largest = Ladder(shared, 3).largest
    assert largest is not None
    assert f"most of it is spent in: {largest.step} (" in render_ladder(Ladder(shared, 3), 100)
    assert "not run: skipped: why" in render_ladder(Ladder(shared, 3), 100)
