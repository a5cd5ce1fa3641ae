"""The real mediapipe package opens exported files, in a process of its own, and gives what Encoder gives."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from embedlite.convert import Asked, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.make.package import tflite_metadata
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.errors import DamagedModelError, EmbedliteWarning
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.flatbuffer import read_flatbuffer
from embedlite.runtime.model.tflite_metadata import METADATA_NAME, ImageMetadata, read_metadata

from conftest import ROOT, Run
from encoders import small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

MEAN, STD = (123.0, 117.0, 104.0), (58.0, 57.0, 57.5)

CHILD = """
import json, sys
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

job = json.load(sys.stdin)
images, answers, errors = np.load(job["images"]), {}, {}
for name, path in job["models"].items():
    options = vision.ImageEmbedderOptions(base_options=BaseOptions(model_asset_path=path))
    try:
        with vision.ImageEmbedder.create_from_options(options) as embedder:
            made = [embedder.embed(mediapipe.Image(mediapipe.ImageFormat.SRGB, image)) for image in images]
        answers[name] = np.stack([answer.embeddings[0].embedding for answer in made])
    except (ValueError, RuntimeError, OSError) as error:  # one class for each of its status codes
        errors[name] = str(error)
np.savez(job["result"], **answers)
print(json.dumps(errors))
"""


@dataclass(frozen=True)
class Opened:
    """What MediaPipe and Encoder made of every file.

    Attributes:
        answers: MediaPipe's embeddings by name, (N, D).
        errors: how MediaPipe refused a file.
        own: Encoder's embeddings, (N, ...).
        paths: the files.
    """

    answers: dict[str, np.ndarray]
    errors: dict[str, str]
    own: dict[str, np.ndarray]
    paths: dict[str, Path]


@pytest.fixture(scope="module")
def opened(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("mediapipe")
    model = small_encoder([layers.Flatten(), MinMaxNormalization()])
    rows = small_encoder([layers.Reshape((16, 16))])
    inside = keras.Sequential(
        [keras.Input((24, 24, 3)), layers.Normalization(mean=MEAN, variance=np.square(STD)), *model.layers]
    )
    paths: dict[str, Path] = {}

    def add(name: str, encoder: keras.Model, modes: tuple[str, ...], **options: object) -> None:
        given = {"calibration_data": photos, "equalize": False, "calibrate_method": "minmax", "measure": False}
        for file in export_asked(encoder, Asked(output_dir=folder / name, quantize=modes, **given, **options)).files:
            paths[f"{name} {file.mode}"] = file.path

    every = ("float32", "float16", "dynamic", "int8")
    add("default", model, every)
    add("centred", model, every, mean=(127.5,), std=(127.5,))
    add("equal", model, ("float32",), mean=(100.0,) * 3, std=(50.0,) * 3)
    add("pixels", model, ("int8",), input_type="uint8")
    add("centred pixels", model, ("int8",), input_type="uint8", mean=(127.0,), std=(128.0,))
    add("rows", rows, ("float32",))
    add("inside", inside, ("float32",), mean=(0.0,), std=(1.0,))
    add("raw", model, ("int8",), input_type="uint8", output_type="uint8")
    add("per channel", model, ("float32", "int8"), mean=MEAN, std=STD)
    add("bgr", model, ("float32",), color_order="bgr")
    add("bgr pixels", model, ("int8",), color_order="bgr", input_type="uint8")
    add("integers", model, ("int8",), input_type="int8")
    for name in ("centred float32", "default float32", "centred pixels int8"):
        paths[f"bare {name}"] = bare(paths[name], folder)
    gray = small_encoder([layers.Flatten()], (24, 24, 1))
    add("gray", gray, ("float32",))

    images = np.stack(list(open_source(photos, InputContract((24, 24, 3)))))[::6]
    np.save(folder / "images.npy", images)
    job = {"images": str(folder / "images.npy"), "result": str(folder / "answers.npz")}
    job |= {"models": {name: str(path) for name, path in paths.items()}}
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(job["result"]) as answers:
        found = dict(answers)
    own = {}
    for name, path in paths.items():
        if name.split()[0] != "gray":
            with warnings.catch_warnings():
                # What plain files say of themselves.
                warnings.simplefilter("ignore", EmbedliteWarning)
                with Encoder(path) as encoder:
                    own[name] = encoder.embed(images)
    return Opened(found, json.loads(done.stdout.splitlines()[-1]), own, paths)


def bare(path: Path, folder: Path) -> Path:
    """The same network as a file from elsewhere has it: no contract of ours, only what MediaPipe reads."""
    graph = Graph(read_artifact(path).flatbuffer)
    kept = [item for item in graph.model.metadata if item.name.decode() == METADATA_NAME]
    graph.model.metadata, graph.model.description = kept, "MLIR Converted."
    plain = folder / f"bare-{path.parent.name}-{path.name}"
    plain.write_bytes(graph.to_bytes())
    return plain


FLOAT = ("default float32", "default float16", "centred float32", "centred float16", "equal float32", "inside float32")
PIXELS = ("pixels int8", "centred pixels int8")
BARE = ("bare centred float32", "bare default float32", "bare centred pixels int8")


@pytest.mark.parametrize("name", [*FLOAT, *PIXELS, *BARE])
def test_the_same_embedding(name: str, opened: Opened) -> None:
    assert opened.errors.get(name) is None
    np.testing.assert_allclose(opened.answers[name], opened.own[name], rtol=0, atol=1e-5)
    # Not because all images have one.
    assert opened.own[name].std(axis=0).max() > 0.05


@pytest.mark.parametrize("name", ["default dynamic", "default int8", "centred dynamic", "centred int8"])
def test_the_same_but_for_rounding(name: str, opened: Opened) -> None:
    drift, _ = measure_drift(opened.answers[name], opened.own[name], k=None)
    assert drift.invalid == 0
    # Eight bits themselves cost these encoders some 40 dB.
    assert drift.sqnr_db is None or drift.sqnr_db > 35


def test_rows_come_back_flattened(opened: Opened) -> None:
    own = opened.own["rows float32"]
    assert own.shape[1:] == (16, 16)
    np.testing.assert_allclose(opened.answers["rows float32"], own.reshape(len(own), -1), rtol=0, atol=1e-5)


def test_a_normalization_left_to_encoder_is_not_mediapipes(opened: Opened) -> None:
    raw, own = opened.answers["raw int8"].astype(np.float64), opened.own["raw int8"]
    assert np.abs(raw - own).max() > 0.1
    low, high = raw.min(axis=1, keepdims=True), raw.max(axis=1, keepdims=True)
    np.testing.assert_allclose((raw - low) / (high - low), own, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("per channel float32", "requires specifying NormalizationOptions"),
        ("per channel int8", "requires specifying NormalizationOptions"),
        ("bgr float32", "Only RGB color space"),
        ("bgr pixels int8", "Only RGB color space"),
        ("integers int8", "type"),
        ("gray float32", "channels|dimension|depth|NormalizationOptions"),
    ],
)
def test_what_would_be_wrong_is_refused(name: str, message: str, opened: Opened) -> None:
    assert name not in opened.answers
    assert re.search(message, opened.errors[name]), opened.errors[name]


def test_the_page_says_what_runs(photos: Path, run: Run, tmp_path: Path) -> None:
    """Its command and its Python, in a folder with what they speak of."""
    page = (ROOT / "docs" / "mediapipe.md").read_text()
    shutil.copytree(photos, tmp_path / "photos")
    small_encoder([layers.Flatten(), MinMaxNormalization()]).save(tmp_path / "model.keras")
    from skimage import data

    Image.fromarray(data.coffee()).save(tmp_path / "photo.png")
    (command,) = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    name, *arguments = shlex.split(command)
    done = run(name, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    # ai-edge-litert shares the process, as the page says.
    compare = """
from embedlite.runtime import Encoder
with Encoder("model.int8.tflite") as encoder:
    own = encoder.embed_one(np.asarray(photo))
print(vector.shape, float(np.abs(vector - own).max()))
"""
    done = run("python", "-c", block + compare, cwd=tmp_path, runtime="ai-edge-litert")
    assert done.returncode == 0, done.stderr
    shape, difference = done.stdout.splitlines()[-1].rsplit(maxsplit=1)
    assert shape == "(256,)"
    assert float(difference) <= 1e-5


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (InputContract((4, 4, 3)), ImageMetadata("rgb", (0.0,), (255.0,))),
        (InputContract((4, 4, 3), mean=(1.0, 1.0, 1.0), std=(2.0,)), ImageMetadata("rgb", (1.0,), (2.0,))),
        (InputContract((4, 4, 3), "uint8"), ImageMetadata("rgb", (), ())),
        (InputContract((4, 4, 3), mean=(1.0, 1.0, 2.0)), ImageMetadata("rgb", (), ())),
        (InputContract((4, 4, 3), color_order="bgr"), ImageMetadata("unknown", (0.0,), (255.0,))),
        (InputContract((4, 4, 3), "int8"), None),
        (InputContract((4, 4, 1)), None),
        (InputContract((4, 4, 4)), None),
    ],
)
def test_what_the_metadata_says(contract: InputContract, expected: ImageMetadata | None) -> None:
    data = tflite_metadata(contract)
    assert (None if data is None else read_metadata(data)) == expected


def test_inspect_shows_the_metadata(opened: Opened, run: Run) -> None:
    path = opened.paths["centred float32"]
    value = json.loads(run("inspect-tflite", path, "--json", "-").stdout)
    assert value["tflite_metadata"] == {"color_space": "rgb", "mean": [127.5], "std": [127.5]}
    assert "TFLite Metadata:" in run("inspect-tflite", path).stdout
    assert METADATA_NAME not in read_artifact(opened.paths["gray float32"]).info.metadata


def test_damaged_metadata_is_an_error_of_ours(opened: Opened) -> None:
    whole = read_flatbuffer(read_artifact(opened.paths["default float32"]).flatbuffer).metadata[METADATA_NAME]
    assert read_metadata(whole) == ImageMetadata("rgb", (0.0,), (255.0,))
    ends = 0
    for position in range(len(whole)):
        for bit in range(8):
            mutant = bytearray(whole)
            mutant[position] ^= 1 << bit
            try:
                read_metadata(bytes(mutant))
            except DamagedModelError:
                ends += 1
    assert ends > 100
    for end in range(len(whole) - 1):
        with pytest.raises(DamagedModelError):
            read_metadata(whole[:end])
