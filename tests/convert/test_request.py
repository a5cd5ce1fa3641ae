"""Every way out that an error about a request names is walked, without TensorFlow: ``.tflite`` in, files out."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from embedlite.convert import Asked, ExportResult, export_asked
from embedlite.convert.graph.run import float_rows
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime import Encoder
from embedlite.runtime.errors import RequestError

from encoders import PLAIN, small_encoder
from ways_out import walk

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3), np.uint8)
WINDOWS = np.random.default_rng(0).normal(size=(12, 20, 3)).astype(np.float32)
INT8: dict[str, Any] = {"quantize": ["float32", "int8"], "calibration_data": IMAGES}
LEAST_DB = {"float32": 95, "dynamic": 20, "int8": 20}
"""Of a file against the model that it was made of; 8 bits are not what is tried here."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two float models, of images and of windows of a sensor, and an export of the first."""
    folder = tmp_path_factory.mktemp("made")
    window = keras.Input((20, 3))
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(8, 3, activation="relu")(window))
    models = {"images": small_encoder([keras.layers.Flatten(), MinMaxNormalization("sample")])}
    models["windows"] = keras.Model(window, pooled)
    for name, model in models.items():
        lowered = lower(from_keras(model, name, LoadOptions()))
        (folder / f"{name}.tflite").write_bytes(lowered.flatbuffer)
    export_asked(folder / "images.tflite", Asked(output_dir=folder / "first", measure=False, **PLAIN, **INT8))
    return folder


WALKS = [
    walk("--recipe says which files to make", {"recipe": "first", "quantize": ["int8"]}, [{"recipe": "first"}]),
    walk("{} is about a search", {"time_budget": 5.0}, [{}]),
    walk(
        "{} needs calibration data to know the range",
        {"quantize": ["int8"]},
        [INT8, {"quantize": ["dynamic"]}],
    ),
    walk(
        "--normalization frozen takes its constants",
        {"normalization": "frozen"},
        [{"normalization": "frozen", **INT8}],
    ),
    walk(
        "--select coverage chooses among",
        {"select": "coverage", **INT8},
        [{"select": "coverage", "num_samples": 8, **INT8}],
    ),
    walk(
        "{} is about calibration images, and there are none",
        {"calibration_cache": "cache"},
        [{"calibration_cache": "cache", **INT8}],
    ),
    walk(
        "{} is for the images, and none were given",
        {"skip_unreadable": True},
        [{"skip_unreadable": True, **INT8}, {"skip_unreadable": True, "test_data": IMAGES}, {}],
    ),
    walk(
        "{} {} is for the int8 file",
        {"input_type": "uint8", "quantize": ["float32"]},
        [{"input_type": "uint8", **INT8}],
    ),
    walk(
        "--input-type uint8 needs one std and one whole mean",
        {"input_type": "uint8", "mean": (0.5,), "std": (255.0,), **INT8},
        [{"input_type": kind, "mean": (0.5,), "std": (255.0,), **INT8} for kind in ("float32", "int8")],
    ),
    walk(
        "--input-type uint8 is for pixels",
        {"input_type": "uint8", **INT8, "calibration_data": WINDOWS},
        [{"input_type": kind, **INT8, "calibration_data": WINDOWS} for kind in ("float32", "int8")],
    ),
    walk("{} is for fine-tuning", {"fine_tune_flips": True}, [{}]),
    walk(
        "--recipe makes files again without trying",
        {"recipe": "first", "fine_tune": True},
        [{"recipe": "first"}],
    ),
]


def exported(made: Path, folder: Path, request: dict[str, Any]) -> ExportResult:
    windows = request.get("calibration_data") is WINDOWS
    paths = {"recipe": made / "first" / "images.export.json", "calibration_cache": folder / "cache.npz"}
    request = {name: paths.get(name, value) for name, value in request.items()}
    model = made / ("windows.tflite" if windows else "images.tflite")
    data = {"calibration_data": IMAGES} if "recipe" in request else {}
    plain = PLAIN if "calibration_data" in {**data, **request} else {}
    return export_asked(model, Asked(output_dir=folder / "out", measure=False, **plain, **data, **request))


@pytest.mark.parametrize(("wrong", "right"), WALKS)
def test_what_the_error_says_is_done_and_gives_the_original(
    wrong: dict[str, Any], right: list[dict[str, Any]], made: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError):
        exported(made, tmp_path, wrong)
    for number, request in enumerate(right):
        result = exported(made, tmp_path / str(number), request)
        assert result.files
        if request.get("normalization") == "frozen":
            continue  # another function, by design
        windows = request.get("calibration_data") is WINDOWS
        inputs = (WINDOWS if windows else IMAGES)[:4]
        for file in result.files:
            given = inputs if windows else (inputs - np.float32(file.contract["input"]["mean"])) / np.float32(255)
            wanted = float_rows((made / ("windows.tflite" if windows else "images.tflite")).read_bytes(), given)
            with Encoder(file.path) as encoder:
                got = encoder.embed(inputs)
            noise = float(((got - wanted) ** 2).sum())
            assert noise <= 10 ** (-LEAST_DB[file.mode] / 10) * float((wanted**2).sum()), (request, file.mode)
