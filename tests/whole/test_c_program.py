"""examples/c, compiled against LiteRT's own library and run, against Encoder in Python."""

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ai_edge_litert
import numpy as np
import pytest
from keras import layers
from PIL import Image

from embedlite.convert import Asked, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.make.c_header import c_header
from embedlite.convert.make.c_source import c_identifier
from embedlite.convert.make.names import header_name
from embedlite.runtime import Encoder

from conftest import ROOT, Digits
from encoders import small_encoder
from tools import require

EXAMPLE = ROOT / "examples" / "c"
LIBRARY = Path(ai_edge_litert.__file__).with_name("libLiteRt.so")
DOCUMENT = ROOT / "docs" / "c.md"
TESTED = "2.3.0"
STANDARDS = {"c": ("-std=c99", "-x", "c"), "c++": ("-std=c++11", "-x", "c++")}

pytestmark = pytest.mark.skipif(not LIBRARY.exists() or sys.maxsize < 2**32, reason="LiteRT's library is for 64 bits")

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with integers at its ends, blue first, and a normalization that is left to its reader."""
    images = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3)).astype(np.uint8)
    model = small_encoder([MinMaxNormalization("channel", "input", 1e-3), layers.Flatten()])
    asked = Asked(
        output_dir=tmp_path_factory.mktemp("integers"),
        quantize=["int8"],
        calibration_data=images,
        color_order="bgr",
        mean=(127.5,),
        std=(127.5,),
        input_type="int8",
        output_type="int8",
        c_header=True,
    )
    (file,) = export_asked(model, asked).files
    return file.path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles the example for a file, with the names of that file's header in it."""
    compiler = require("cc")

    def compile_for(model: Path, language: str = "c") -> Path:
        folder = tmp_path_factory.mktemp("program")
        stem, name = model.stem, c_identifier(model.stem)
        (folder / header_name(stem)).write_bytes(c_header(stem, model.read_bytes()))
        source = (EXAMPLE / "embed.c").read_text()
        for word, own in (("model.int8", stem), ("model_int8", name), ("MODEL_INT8", name.upper())):
            source = source.replace(word, own)
        (folder / "embed.c").write_text(source)
        warnings = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
        command = (compiler, *STANDARDS[language], *warnings, f"-I{EXAMPLE}", folder / "embed.c")
        done = subprocess.run(
            [*command, "-x", "none", LIBRARY, f"-Wl,-rpath,{LIBRARY.parent}", "-lm", "-o", folder / "embed"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return folder / "embed"

    return compile_for


def call(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)


def write_images(folder: Path, model: Path, count: int) -> list[Path]:
    """Images of the encoder's size as .ppm or .pgm, written by Pillow."""
    with Encoder(model) as encoder:
        height, width, channels = encoder.contract.input.shape
    frames = np.random.default_rng(5).integers(0, 256, (count, 5, 5, channels)).astype(np.uint8)
    paths = []
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(folder / f"{number}.{'pgm' if channels == 1 else 'ppm'}")
        image.save(paths[-1])
    return paths


def assert_same_vectors(program: Path, model: Path, folder: Path, tolerance: float) -> None:
    paths = write_images(folder, model, 20)
    done = call(program, model, *paths)
    assert done.returncode == 0, done.stderr
    vectors = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    pixels = np.stack([np.atleast_3d(np.asarray(Image.open(path))) for path in paths])
    with Encoder(model) as encoder:
        # Arrays come in the contract's order of colours.
        blue_first = encoder.contract.input.color_order == "bgr"
        wanted = encoder.embed(pixels[..., ::-1] if blue_first else pixels).reshape(len(paths), -1)
    assert vectors.shape == wanted.shape
    assert np.abs(vectors - wanted).max() <= tolerance * np.abs(wanted).max()


def test_the_header_of_the_library_is_for_the_version_that_is_tested() -> None:
    """The wheel has no headers: what litert.h declares is looked up for each version by hand, and run below."""
    assert importlib.metadata.version("ai-edge-litert") == TESTED
    assert f"version {TESTED} on Linux" in (EXAMPLE / "litert.h").read_text()


@pytest.mark.parametrize(("mode", "language"), [("float32", "c"), ("int8", "c++")])
def test_the_program_gives_the_encoders_vectors(
    digits: Digits, build: Build, tmp_path: Path, mode: str, language: str
) -> None:
    # Printed with nine digits: the same float, where the library computes the same.
    assert_same_vectors(build(digits.file(mode), language), digits.file(mode), tmp_path, 1e-4)


def test_the_documents_commands_build_and_run_it(digits: Digits, tmp_path: Path) -> None:
    require("cc")
    (tmp_path / "examples").symlink_to(EXAMPLE.parent)
    program = tmp_path / "program"
    program.mkdir()
    shutil.copy(digits.int8, program)
    (program / "model.int8.contract.h").write_bytes(c_header("model.int8", digits.int8.read_bytes()))
    (image,) = write_images(tmp_path, digits.int8, 1)
    install, *commands = re.search(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1].splitlines()
    assert install == f"pip install ai-edge-litert=={TESTED}"
    script = "\n".join(commands).replace("python3", sys.executable).replace("photo.ppm", image.name)
    done = subprocess.run(["sh", "-e"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Encoder(digits.int8) as encoder:
        wanted = encoder.embed_one(np.atleast_3d(np.asarray(Image.open(image)))).ravel()
    assert np.allclose(np.array(done.stdout.split(), np.float32), wanted, rtol=1e-6, atol=1e-9)


def test_integers_at_the_ends_blue_first_and_a_normalization_left_to_the_reader(
    integers: Path, build: Build, tmp_path: Path
) -> None:
    assert_same_vectors(build(integers), integers, tmp_path, 1e-6)


def test_an_export_writes_the_header_of_each_file(integers: Path) -> None:
    header = integers.with_name("small.int8.contract.h")
    assert header.read_bytes() == c_header("small.int8", integers.read_bytes())
    assert hashlib.sha256(integers.read_bytes()).hexdigest() in header.read_text()


def test_another_file_than_the_headers_is_refused(digits: Digits, integers: Path, build: Build, tmp_path: Path) -> None:
    program = build(integers)
    other_sizes = call(program, digits.int8)
    assert other_sizes.returncode == 2
    assert "it is another file's" in other_sizes.stderr
    data = bytearray(integers.read_bytes())
    graph = Graph(bytes(data))
    constants = (graph.constant(index) for index in range(len(graph.subgraph.tensors)))
    largest = max((values for values in constants if values is not None), key=lambda values: values.nbytes)
    start = data.index(largest.tobytes())
    data[start : start + largest.nbytes] = np.negative(largest).tobytes()
    (tmp_path / "changed.tflite").write_bytes(data)
    same_sizes = call(program, tmp_path / "changed.tflite")
    assert same_sizes.returncode == 1
    assert "the golden vector is not what it was at the export" in same_sizes.stderr


def test_each_image_that_cannot_be_read_is_named_and_the_others_are_embedded(
    digits: Digits, build: Build, tmp_path: Path
) -> None:
    good, large = write_images(tmp_path, digits.int8, 2)
    with Image.open(large) as image:
        image.resize((7, 9)).save(large)
    done = call(build(digits.int8), digits.int8, large, good, tmp_path / "none.pgm")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "1.pgm is not a binary .pgm of 32x32 pixels" in done.stderr
    assert "none.pgm: No such file" in done.stderr
    assert call(build(digits.int8)).returncode == 2
