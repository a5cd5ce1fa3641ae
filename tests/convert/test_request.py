"""Every way out that an error about a request names is walked, without TensorFlow: ``.tflite`` in, files out."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from embedlite.calibration import collect_statistics, save_statistics
from embedlite.convert import Asked, ExportOptions, ExportResult, check_installed, export, export_asked
from embedlite.convert.graph.run import float_rows
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.normalization.prepare import prepare
from embedlite.runtime import Encoder
from embedlite.runtime.check.selftest import selftest
from embedlite.runtime.errors import EmbedliteError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.contract import InputContract

from encoders import PLAIN, Call, small_encoder
from ways_out import needs_package, walk, walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3), np.uint8)
WINDOWS = np.random.default_rng(0).normal(size=(12, 20, 3)).astype(np.float32)
INT8: dict[str, Any] = {"quantize": ["float32", "int8"], "calibration_data": IMAGES}
TUNE: dict[str, Any] = {"fine_tune": True, "fine_tune_time": 0.5, **INT8}
LEAST_DB = {"float32": 95, "float16": 50, "dynamic": 20, "int8": 20, "mixed": 20}
"""Of a file against the model that it was made of; 8 bits are not what is tried here. Whether a search makes a mixed
file depends on what layers take on the processor."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float models, statistics of images that the first one has seen, and an export of it."""
    folder = tmp_path_factory.mktemp("made")
    window = keras.Input((20, 3))
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(8, 3, activation="relu")(window))
    flatten = keras.layers.Flatten()
    models = {
        "images": small_encoder([flatten, MinMaxNormalization("sample")]),
        "windows": keras.Model(window, pooled),
        "plain": small_encoder([flatten]),
        "inside": small_encoder([MinMaxNormalization("sample"), flatten, keras.layers.Dense(4)]),
        "cosine": small_encoder([flatten, Call(keras.ops.cos)]),
        "cosine first": keras.Sequential([keras.Input((24, 24, 3)), Call(keras.ops.cos), small_encoder([flatten])]),
    }
    for name, model in models.items():
        lowered = lower(from_keras(model, name, LoadOptions()))
        (folder / f"{name}.tflite").write_bytes(lowered.flatbuffer)
    graph = prepare((folder / "images.tflite").read_bytes()).flatbuffer
    for name, images in (("statistics", IMAGES), ("flat", IMAGES * 0)):
        statistics = collect_statistics(graph, open_source(images, InputContract(IMAGES.shape[1:])))
        save_statistics(folder / f"{name}.npz", statistics)
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
    walk(
        "was asked for. Give the same settings, or leave --recipe out to",
        {"recipe": "first", "calibrate_method": "mse"},
        [{"recipe": "first"}, {**INT8, "calibrate_method": "mse"}],
    ),
    walk(
        "Name the model that it was made for, or leave --recipe out to",
        {"recipe": "first", "model": "plain"},
        [{"recipe": "first"}, {**INT8, "model": "plain"}],
    ),
    walk(
        "Pass the same --calibration-data, --test-data, --num-samples,",
        {"recipe": "first", "seed": 1, "calibration_data": IMAGES},
        [{"recipe": "first", "seed": 0, "calibration_data": IMAGES}],
    ),
    walk("). Name the export.json that export-tflite wrote", {"recipe": "images.tflite"}, [{"recipe": "first"}]),
    walk(
        "--fine-tune-flips is for images, and the input is an array",
        {**TUNE, "fine_tune_flips": True, "calibration_data": WINDOWS},
        [{**TUNE, "calibration_data": WINDOWS}],
    ),
    walk("s. Give the training some time, for instance", {**TUNE, "fine_tune_time": 0.0}, [TUNE]),
    walk("--fine-tune is for int8 and int16x8 files", {"fine_tune": True, "quantize": ["float32"]}, [TUNE]),
    walk(
        "needs calibration images, and statistics were given in their place",
        {"num_samples": 8, "calibration_data": "statistics"},
        [{"calibration_data": "statistics"}, {"num_samples": 8, "calibration_data": IMAGES}],
    ),
    walk(
        "--c-array is for microcontrollers, which run",
        {"c_array": True, "quantize": ["float16"]},
        [{"c_array": True, "quantize": ["float16", "float32"]}, {"c_array": True, **INT8}],
    ),
    walk(
        "--normalization graph ends the file in float operators, so its output",
        {"normalization": "graph", "output_type": "int8", **INT8},
        [
            {"normalization": place, "output_type": kind, **INT8}
            for place, kind in (("runtime", "int8"), ("graph", "float32"))
        ],
    ),
    walk(
        "--normalization runtime: the encoder does not end in a normalization",
        {"normalization": "runtime", "model": "inside"},
        [{"normalization": "graph", "model": "inside"}, {"normalization": "frozen", "model": "inside", **INT8}],
    ),
    walk(
        "--normalization frozen: there is no min-max normalization in this",
        {"normalization": "frozen", "model": "plain", **INT8},
        [{"model": "plain", **INT8}],
    ),
    walk(
        "the file ends in float operators (its last layer or the normalization), so",
        {"output_type": "int8", "model": "cosine", **INT8, "quantize": ["int8"]},
        [{"output_type": "float32", "model": "cosine", **INT8}],
    ),
    walk(
        "input: it stays float. Use --input-type float32",
        {"input_type": "int8", "model": "cosine first", **INT8, "quantize": ["int8"]},
        [{"input_type": "float32", "model": "cosine first", **INT8}],
    ),
    walk(
        "unknown correction {}. Use",
        {"correct": ["luck"], **INT8},
        [{"correct": [name], **INT8} for name in ("rounding", "bias", "refit", "auto", "none")],
    ),
    walk(
        ", which this export does not make. Add -q",
        {"correct": ["bias"], "quantize": ["float32"]},
        [{"correct": ["bias"], **INT8}],
    ),
    walk(
        "corrections were given as none and as",
        {"correct": ["none", "bias"], **INT8},
        [{"correct": ["none"], **INT8}, {"correct": ["bias"], **INT8}],
    ),
    walk(
        "Pass some hundred images like those the encoder will see.",
        {"calibration_data": IMAGES[:1], "quantize": ["int8"]},
        [{"calibration_data": np.random.default_rng(2).integers(0, 256, (100, 24, 24, 3), np.uint8)}],
    ),
    walk(
        ", so these images say nothing about the encoder. Pass images like",
        {"calibration_data": "flat"},
        [{"calibration_data": IMAGES}],
    ),
]


def exported(made: Path, folder: Path, request: dict[str, Any]) -> ExportResult:
    model = made / f"{model_of(request)}.tflite"
    named = {
        "first": made / "first" / "images.export.json",
        "images.tflite": model,
        "statistics": made / "statistics.npz",
        "flat": made / "flat.npz",
        "cache": folder / "cache.npz",
    }
    wanted = {name: named.get(value, value) if isinstance(value, str) else value for name, value in request.items()}
    wanted.pop("model", None)
    data = {"calibration_data": IMAGES} if "recipe" in request else {}
    plain = PLAIN if "calibration_data" in {**data, **wanted} else {}
    options = {"output_dir": folder / "out", "measure": False, **plain, **data, **wanted}
    return export_asked(model, Asked(**options))


def model_of(request: dict[str, Any]) -> str:
    return "windows" if request.get("calibration_data") is WINDOWS else request.get("model", "images")


@pytest.mark.filterwarnings("ignore::embedlite.runtime.errors.EmbedliteWarning")
@pytest.mark.parametrize(("wrong", "right"), WALKS)
def test_what_the_error_says_is_done_and_gives_the_original(
    wrong: dict[str, Any], right: list[dict[str, Any]], made: Path, tmp_path: Path
) -> None:
    refused(made, tmp_path, wrong)
    for number, request in enumerate(right):
        result = exported(made, tmp_path / str(number), request)
        assert result.files
        if request.get("normalization") == "frozen":
            continue  # another function, by design
        equal(result, made / f"{model_of(request)}.tflite", WINDOWS if model_of(request) == "windows" else IMAGES)


@walks("a model in memory has no folder of its own. Pass output_dir")
def test_a_model_in_memory_goes_where_the_error_says(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.Flatten(), keras.layers.Dense(4)], name="mine")
    with pytest.raises(EmbedliteError):
        export(model)
    result = export(model, output_dir=tmp_path, quantize=["float32"], options=ExportOptions(measure=False))
    assert result.files[0].path == tmp_path / "mine.float32.tflite"
    with Encoder(result.files[0].path) as encoder:
        wanted = np.asarray(model(IMAGES / np.float32(255)))
        np.testing.assert_allclose(encoder.embed(IMAGES), wanted, atol=1e-5 * np.abs(wanted).max())


@walks(", which is not installed here. Run: pip install 'embedlite[convert]'")
def test_what_an_export_needs_is_brought_by_the_extra_that_the_error_names() -> None:
    for module in ("tensorflow", "litert_quantizer"):
        needs_package(module, check_installed)


@walks(
    "by running the files, and measure is False. Leave one of them out",
    "holds floats, and golden vectors are replayed from pixels. Pass",
    "--target {} runs {} files, but {} was asked for. Add -q",
)
def test_files_are_run_as_the_errors_say(made: Path, photos: Path, tmp_path: Path) -> None:
    refused(made, tmp_path, {"golden_from": photos}, {"targets": ["micro"], **INT8})
    run = {"measure": True}
    refused(
        made, tmp_path, {"golden_from": IMAGES / 255, **run}, {"targets": ["micro"], "quantize": ["dynamic"], **run}
    )
    exported(made, tmp_path / "left out", {})
    for name, golden in (("photos", photos), ("integers", IMAGES)):
        wanted = {"quantize": ["dynamic", "int8"], "targets": ["micro"], "calibration_data": IMAGES}
        # A recipe of files that were not run says nothing of golden vectors.
        wanted = wanted if golden is photos else {"recipe": "first"}
        result = exported(made, tmp_path / name, {"golden_from": golden, **wanted, **run})
        assert result.files
        assert not result.failed_targets
        equal(result, made / "images.tflite", IMAGES)
        for file in result.files:
            with Encoder(file.path) as encoder:
                assert selftest(encoder).passed


@walks(
    "--max-drift searches for a file, and --recipe says which files. Leave",
    "a comparison is made by running the files, and measure is False",
    "compares int8 files with the others, and int8 needs calibration data",
    "a search judges files by calibration images, and --calibration-data",
    "(without those that are test data). Pass more images with",
)
def test_a_search_is_asked_for_as_the_errors_say(made: Path, tmp_path: Path) -> None:
    limit = {"max_drift": ("sqnr_db=15",), "quantize": ["int8"], "measure": True}
    refused(
        made,
        tmp_path,
        {"recipe": "first", "max_drift": limit["max_drift"], "measure": True},
        {**limit, "measure": False, "calibration_data": IMAGES},
        limit,
        {**limit, "calibration_data": "statistics"},
        {**limit, "calibration_data": IMAGES},
    )
    for number, request in enumerate([{"recipe": "first"}, INT8, {}, {"calibration_data": "statistics"}]):
        equal(exported(made, tmp_path / str(number), request), made / "images.tflite", IMAGES)
    many = np.random.default_rng(1).integers(0, 256, (60, 24, 24, 3), np.uint8)
    result = exported(made, tmp_path / "many", {**limit, "calibration_data": many})
    assert not result.missed
    equal(result, made / "images.tflite", IMAGES)


def refused(made: Path, folder: Path, *requests: dict[str, Any]) -> None:
    for request in requests:
        with pytest.raises(EmbedliteError):
            exported(made, folder, request)
        assert not (folder / "out").exists()


def equal(result: ExportResult, original: Path, inputs: np.ndarray) -> None:
    """Every file gives what the model gives that it was made of."""
    for file in result.files:
        mean, std = (np.float32(file.contract["input"][name]) for name in ("mean", "std"))
        wanted = float_rows(original.read_bytes(), (inputs[:4] - mean) / std)
        with Encoder(file.path) as encoder:
            got = encoder.embed(inputs[:4])
        noise = float(((got - wanted) ** 2).sum())
        assert noise <= 10 ** (-LEAST_DB[file.mode] / 10) * float((wanted**2).sum()), file.mode
