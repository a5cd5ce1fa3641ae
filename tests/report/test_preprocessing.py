"""Preprocessing told from quantization, against vectors that Keras' own pipeline makes."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from keras import layers
from PIL import Image

from embedlite.convert import ExportOptions, export
from embedlite.report.command import drift_report
from embedlite.runtime.drift.stored import pack_embeddings

from crops import save_crops
from encoders import small_encoder

KINDS = {"png": "--resampler tf-bilinear", "jpg": "--resampler tf-bilinear --jpeg-decoder tensorflow"}


class Made:
    """An exported encoder, its pictures, and what Keras makes of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[tuple[object, ...], bytes] = {}
        self.model = small_encoder([layers.GlobalAveragePooling2D()])
        save_crops(root, 24, (60, 200), 90)
        export(
            self.model,
            root,
            quantize=["float32", "int8"],
            calibration_data=root / "png",
            options=ExportOptions(measure=False, correct=("none",)),
        )

    def vectors(self, kind: str, scale: float = 255.0, **options: Any) -> Path:
        """What the user has: vectors by the paths of the pictures, computed when first asked for."""
        path, key = self.root / f"{kind}.npz", (kind, scale, *sorted(options.items()))
        if key not in self.known:
            self.known[key] = self._computed(kind, scale, options)
        path.write_bytes(self.known[key])
        return path

    def _computed(self, kind: str, scale: float, options: dict[str, Any]) -> bytes:
        images = keras.utils.image_dataset_from_directory(
            self.root / kind, labels=None, image_size=(24, 24), shuffle=False, verbose=False, **options
        )
        rows = np.concatenate([np.asarray(self.model(batch / scale)) for batch in images])
        ids = [Path(name).relative_to(self.root / kind).as_posix() for name in images.file_paths]
        return pack_embeddings(rows, ids, "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


def report(made: Made, mode: str, vectors: Path, kind: str, *more: str) -> tuple[dict[str, Any], str]:
    path = made.root / "report.json"
    arguments = [
        *(str(made.root / f"small.{mode}.tflite"), "--reference", str(vectors), "--data", str(made.root / kind)),
        *("--json", str(path), "--threads", "1", *more),
    ]
    done = CliRunner().invoke(drift_report, arguments, standalone_mode=False)
    assert done.exception is None, done.output
    return json.loads(path.read_text()), done.output


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_the_way_of_keras_is_found_and_named(mode: str, kind: str, made: Made) -> None:
    found, text = report(made, mode, made.vectors(kind), kind)
    part = found["preprocessing"]
    assert part["options"] == KINDS[kind]
    assert part["preprocessing_db"] < 30
    assert part["found_db"] > 100
    assert (part["quantization_db"] is None) == (mode == "float32")
    headline = f": preprocessing, not quantization: with {KINDS[kind]} it is {part['found_db']:.0f} dB; "
    assert headline in found["advice"]["headline"]
    assert headline in " ".join(text.split())
    if kind == "jpg":
        # What the decoder alone costs is told, too.
        first, second = part["steps"]
        assert first["options"] == "--resampler tf-bilinear"
        assert first["sqnr_db"] < 50
        assert second["sqnr_db"] > 100


def test_preprocessing_and_decoder_are_steps_of_the_ladder(made: Made) -> None:
    """Each is what the float model makes of pictures that TensorFlow and Pillow read that far apart."""
    found, text = report(made, "int8", made.vectors("jpg"), "jpg", "--ladder")
    steps = found["ladder"]
    assert [step["step"] for step in steps] == [
        f"the vectors → float .tflite with {KINDS['jpg']}",
        "JPEG decoder: --jpeg-decoder tensorflow → --jpeg-decoder pillow",
        "preprocessing: --resampler tf-bilinear → --resampler bilinear",
        "float .tflite → int8",
    ]
    assert all(step["on_the_way"] and step["skipped"] is None for step in steps)
    assert sum(step["share"] for step in steps) == pytest.approx(1)
    assert "most of it is spent in: preprocessing: --resampler tf-bilinear" in text
    paths = sorted((made.root / "jpg" / "all").iterdir())
    sizes = tf.constant([24, 24])
    ways = [
        [tf.image.resize(tf.io.decode_jpeg(path.read_bytes()), sizes) for path in paths],
        [tf.image.resize(np.asarray(Image.open(path)), sizes) for path in paths],
        [np.asarray(Image.open(path).resize((24, 24), Image.Resampling.BILINEAR)) for path in paths],
    ]
    rows = [np.asarray(made.model(np.stack(way).astype(np.float32) / 255)) for way in ways]
    for step, one, other in zip(steps[1:3], rows[:2], rows[1:], strict=True):
        some = np.unique(np.linspace(0, len(paths) - 1, 16).round().astype(int))
        moved = 10 * np.log10((one[some] ** 2).sum() / ((one - other)[some] ** 2).sum())
        assert step["sqnr_db"] == pytest.approx(moved, abs=0.05)


@pytest.mark.parametrize(
    ("loader", "options"),
    [
        ({"scale": 1.0}, "--std 1 --resampler tf-bilinear"),
        ({"crop_to_aspect_ratio": True}, "--fit crop --resampler tf-bilinear"),
        ({"pad_to_aspect_ratio": True, "interpolation": "area"}, "--fit pad --resampler tf-area"),
    ],
    ids=str,
)
def test_scaling_and_fit_are_found_as_well(loader: dict[str, Any], options: str, made: Made) -> None:
    found, _ = report(made, "float32", made.vectors("png", **loader), "png")
    part = found["preprocessing"]
    assert part["options"] == options
    assert part["found_db"] > 100


def test_vectors_of_the_right_pipeline_blame_quantization(made: Made) -> None:
    images = sorted((made.root / "png" / "all").iterdir())
    pixels = [Image.open(path).resize((24, 24), Image.Resampling.BILINEAR) for path in images]
    rows = np.asarray(made.model(np.stack([np.asarray(image) for image in pixels]) / np.float32(255)))
    vectors = made.root / "own.npz"
    vectors.write_bytes(pack_embeddings(rows, [f"all/{path.name}" for path in images], ""))
    found, text = report(made, "int8", vectors, "png", "--float", str(made.root / "small.float32.tflite"))
    part = found["preprocessing"]
    assert (part["options"], part["tried"]) == ("", 1)
    assert part["preprocessing_db"] > 100 > part["quantization_db"]
    assert "preprocessing" not in found["advice"]["headline"]
    assert "quantization, not preprocessing" in text


def test_what_no_contract_explains_is_said(made: Made) -> None:
    vectors = made.vectors("png")
    stored = dict(np.load(vectors))
    rows = np.random.default_rng(0).normal(size=stored["embeddings"].shape).astype(np.float32)
    vectors.write_bytes(pack_embeddings(rows, stored["ids"].tolist(), ""))
    found, text = report(made, "float32", vectors, "png")
    assert "preprocessing" not in found["advice"]["headline"]
    assert found["preprocessing"]["found_db"] < 3
    assert "preprocessing and quantization, on 16 images" in text


def test_float_is_for_vectors_and_must_be_the_float_file(made: Made) -> None:
    from embedlite.runtime.errors import RequestError

    files = {mode: str(made.root / f"small.{mode}.tflite") for mode in ("int8", "float32")}
    common = [files["int8"], "--data", str(made.root / "png")]
    run = CliRunner().invoke
    done = run(
        drift_report, [*common, "--reference", files["float32"], "--float", files["float32"]], standalone_mode=False
    )
    assert isinstance(done.exception, RequestError)
    assert "stored vectors as --reference" in str(done.exception)
    done = run(
        drift_report,
        [*common, "--reference", str(made.vectors("png")), "--float", files["int8"]],
        standalone_mode=False,
    )
    assert isinstance(done.exception, RequestError)
    assert "is not the float32 file" in str(done.exception)


def test_the_users_function_is_held_against_the_files_contract(made: Made) -> None:
    from embedlite.runtime.errors import RequestError

    code = made.root / "prepare.py"
    code.write_text(
        "import numpy as np\nfrom PIL import Image\n"
        "def read(path, way):\n"
        "    image = Image.open(path).convert('RGB').resize((24, 24), way)\n"
        "    return np.asarray(image, np.float32) / 255\n"
        "def right(path):\n    return read(path, Image.Resampling.BILINEAR)\n"
        "def wrong(path):\n    return read(path, Image.Resampling.BICUBIC)\n"
    )
    arguments = [str(made.root / "small.int8.tflite"), "--reference", str(made.root / "small.float32.tflite")]
    arguments += ["--data", str(made.root / "png"), "--threads", "1", "--preprocess"]
    assumed = (
        "of which mean 0, std 255, colour order rgb are assumed, not proved: drift-report FILE --reference VECTORS"
    )
    done = CliRunner().invoke(drift_report, arguments[:-1], standalone_mode=False)
    assert assumed in " ".join(done.output.split())
    saved = made.root / "proved.json"
    done = CliRunner().invoke(drift_report, [*arguments, f"{code}:right", "--json", str(saved)], standalone_mode=False)
    assert done.exception is None, done.output
    assert "the contract does what right() does, proved; at most" in done.output
    assert "assumed, not proved" not in done.output
    found = json.loads(saved.read_text())
    assert found["candidate"]["contract"]["origins"]["mean"] == "proved"
    # No image is turned, so nothing is known of that.
    assert found["candidate"]["contract"]["origins"]["exif"] == "assumed"
    assert (found["preprocess"]["function"], found["preprocess"]["holds"]) == ("right()", True)
    done = CliRunner().invoke(drift_report, [*arguments, f"{code}:wrong"], standalone_mode=False)
    assert isinstance(done.exception, RequestError)
    assert "the file's contract does not do what wrong() does" in str(done.exception)
    assert "the nearest contract has --resampler bicubic" in str(done.exception)
    done = CliRunner().invoke(drift_report, [*arguments, f"{code}:wrong", "--accept-contract"], standalone_mode=False)
    assert done.exception is None, done.output
    assert "it was accepted" in done.output
