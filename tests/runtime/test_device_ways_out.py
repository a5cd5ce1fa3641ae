"""Every way out that an error of the device's package names is gone: what is refused, and what it says to pass."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from graphs import FloatGraph
from PIL import Image

from embedlite.calibration.engine import open_engine
from embedlite.report.fleet.command import drift_fleet
from embedlite.runtime import Encoder
from embedlite.runtime.backends.interpreters import find_runtime
from embedlite.runtime.check.figures import another_model, read_device_figures
from embedlite.runtime.check.measure_device import find_models, measure_device
from embedlite.runtime.check.selftest import selftest
from embedlite.runtime.commands.embed import embed
from embedlite.runtime.drift import measure
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.stored import load_embeddings, match_rows
from embedlite.runtime.errors import EmbedliteError, MissingPackageError, UnreadableDataError
from embedlite.runtime.files import check_names, check_writable
from embedlite.runtime.images.formats import pillow
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.tfrecord import _masked_checksum
from embedlite.runtime.input.shapes import check_images
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.contract import FITS, InputContract, InputOptions, NormalizationSpec
from embedlite.runtime.model.normalizations import KINDS, NONE
from embedlite.runtime.monitor import DriftMonitor

from conftest import Digits
from example_records import listed, record
from ways_out import check_extra, walk, walks

# What files are tried and measured in is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (4, 4, 3)
IMAGES, WINDOWS = InputContract(SHAPE), InputContract((5, 2))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
ROWS = np.random.default_rng(0).normal(size=(6, 5, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and arrays in every form, sound and not."""
    from pyarrow import parquet, table

    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    (folder / "arrays").mkdir()
    (folder / "nothing").mkdir()
    for number, (pixels, rows) in enumerate(zip(PIXELS, ROWS, strict=True)):
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
        np.save(folder / "arrays" / f"{number}.npy", rows)
    np.save(folder / "nothing" / "0.npy", ROWS[:0])
    shutil.copy(folder / "photos" / "0.png", folder / "0.png")
    Image.fromarray(PIXELS[0]).save(folder / "photo.jpg")
    pillow_heif: Any = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(PIXELS[0]).resize((64, 64))).save(folder / "photo.heic")
    np.save(folder / "pixels.npy", PIXELS)
    np.save(folder / "rows.npy", ROWS)
    np.save(folder / "empty.npy", ROWS[:0])
    np.savez(folder / "two.npz", a=PIXELS, b=PIXELS)
    np.savez(folder / "one.npz", images=PIXELS)
    (folder / "text.npy").write_text("no array")
    (folder / "cut.npz").write_bytes((folder / "one.npz").read_bytes()[:90])
    (folder / "words.txt").write_text("words")
    Image.fromarray(np.float32(PIXELS[0, ..., 0])).save(folder / "floats.tiff")
    np.save(folder / "floats.npy", PIXELS[:1] / np.float32(255))
    Image.fromarray(PIXELS[0, ..., 0].astype(np.int32) * 1000 - 5).save(folder / "wide.tiff")
    np.save(folder / "wide.npy", np.uint16(PIXELS[:1]))
    (folder / "several.tfrecord").write_bytes(listed(ROWS[0], "a") + listed(ROWS[0], "a"))
    (folder / "both.tfrecord").write_bytes(listed(ROWS[0], "a", "b"))
    (folder / "image.tfrecord").write_bytes(record(PIXELS[0]))
    parquet.write_table(table({"a": [row.ravel().tolist() for row in ROWS], "b": list(range(6))}), folder / "t.parquet")
    for name, stored in (
        ("ids", {"embeddings": ROWS[:, 0], "ids": np.array(list("abcdef"))}),
        ("bare", {"embeddings": ROWS[:4, 0]}),
        ("other", {"vectors": ROWS[:, 0]}),
    ):
        np.savez(folder / f"{name}.npz", **stored)
    return folder


def images(data: Any, feature: str | None = None, contract: InputContract = IMAGES) -> Callable[[Path], Any]:
    """Opens data and reads all of it; a function of the folder may stand for the data."""

    def run(folder: Path) -> None:
        given = folder / data if isinstance(data, str) else data
        source = open_source(given, contract, feature)
        for index in range(len(source)):
            assert source.ready(index).shape == contract.shape

    return run


def arrays(data: Any, feature: str | None = None) -> Callable[[Path], Any]:
    return images(data, feature, WINDOWS)


def contract(**parts: Any) -> Callable[[Path], Any]:
    return lambda folder: InputContract(**{"shape": SHAPE, **parts})


def opened(engine: Any) -> None:
    with open_engine(engine, 1):
        pass


def measured(k: int) -> None:
    rows = ROWS.reshape(len(ROWS), -1)
    assert measure(Rows(rows), Rows(rows), k).valid.all()


class Elsewhere:
    """An array of another library, on another device."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("it is on another device")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        walk(
            "there is no {}. Pass {}, .npy",
            images("none"),
            [images("photos"), images("0.png"), images("pixels.npy"), images("one.npz"), images("image.tfrecord")],
        ),
        walk(
            "cannot tell what {} holds from its name. Pass a folder of images",
            images("words.txt"),
            [images("photos"), images("0.png")],
        ),
        walk(
            "is an image file, and the model takes arrays",
            arrays("0.png"),
            [arrays("arrays"), arrays("rows.npy"), arrays("t.parquet")],
        ),
        walk(
            "cannot tell what {} holds from its name. Pass a folder of .npy",
            arrays("words.txt"),
            [arrays("arrays"), arrays("rows.npy")],
        ),
        walk("--feature names what holds the images", images("pixels.npy", "a"), [images("pixels.npy")]),
        walk("its .npy files are empty", arrays("nothing"), [arrays("arrays")]),
        walk("{} holds no {}: its shape is {}. Pass at least one", arrays("empty.npy"), [arrays("rows.npy")]),
        walk(
            "has no array {}: it has {}. Name one of these",
            images("two.npz", "c"),
            [images("two.npz", "a"), images("two.npz", "b")],
        ),
        walk(
            "cannot tell which array of {} holds the {}s",
            images("two.npz"),
            [images("two.npz", "a"), images("one.npz")],
        ),
        walk("has no column {}: it has {}. Name one of these", arrays("t.parquet", "c"), [arrays("t.parquet", "a")]),
        walk(
            "Remove the record, or name the feature", arrays("several.tfrecord", "b"), [arrays("several.tfrecord", "a")]
        ),
        walk(
            "cannot tell which feature of {}, holds the",
            arrays("both.tfrecord"),
            [arrays("both.tfrecord", "a"), arrays("both.tfrecord", "b")],
        ),
        walk(
            "a normalization cannot be {} here. Use one of",
            lambda folder: NormalizationSpec("minimax"),
            [lambda folder: [NormalizationSpec(kind) for kind in (NONE, *KINDS)]],
        ),
        walk("is not a .npy file: it begins with", images("text.npy"), [images("pixels.npy")]),
        walk(
            "Save it again with numpy.save, numpy.savez", images("cut.npz"), [images("one.npz"), images("pixels.npy")]
        ),
        walk("holds floating-point pixels", images("floats.tiff"), [images("floats.npy")]),
        walk("which are not 16-bit gray levels", images("wide.tiff"), [images("wide.npy")]),
        walk(
            "has no image that can be used. Pass others",
            lambda folder: open_source(folder / "floats.tiff", IMAGES).readable(),
            [lambda folder: open_source(folder / "photos", IMAGES).readable()],
        ),
        walk(
            "which no image file has. Pass arrays",
            images("photos", None, InputContract((4, 4, 5), kind="image")),
            [images(np.zeros((1, 4, 4, 5), np.uint8), None, InputContract((4, 4, 5), kind="image"))],
        ),
        walk(
            "cannot take images from {}. Pass a path",
            images(3),
            [images("photos"), images(PIXELS), images(list(PIXELS)), images(lambda: iter(PIXELS))],
        ),
        walk(
            "the function that gives the images needs arguments",
            images(lambda count: PIXELS),
            [images(lambda: iter(PIXELS))],
        ),
        walk(
            "was asked for, but {} is not a dict",
            images(list(PIXELS), "a"),
            [images(list(PIXELS)), images([{"a": image} for image in PIXELS], "a")],
        ),
        walk("and no array. For files, pass the folder", images(["0.png"]), [images("photos")]),
        walk(
            "such as (image, label). Yield the image alone",
            images([(image, 3) for image in PIXELS]),
            [
                images(list(PIXELS)),
                images([[image] for image in PIXELS]),
                images([(str(place), image) for place, image in enumerate(PIXELS)]),
            ],
        ),
        walk("cannot be made an array ({}). Pass numpy arrays", images([Elsewhere()]), [images(list(PIXELS))]),
        walk("the iterable holds no images", images(iter(())), [images(iter(PIXELS))]),
        walk(
            "Integers are pixels and floats are model-ready",
            images([PIXELS[0], PIXELS[1] / np.float32(255)]),
            [images(list(PIXELS)), images(list(PIXELS / np.float32(255)))],
        ),
        walk(
            "cannot be read by another process",
            lambda folder: open_source(iter(PIXELS), IMAGES).shard([0]),
            [lambda folder: open_source(folder / "pixels.npy", IMAGES).shard([0]).open()],
        ),
        walk(
            "integers are taken as pixels 0-255",
            images(np.int32(PIXELS) - 300),
            [images(PIXELS), images(PIXELS / np.float32(255))],
        ),
        walk(
            "the batch holds no {}: its shape",
            lambda folder: check_images(PIXELS[:0], IMAGES),
            [lambda folder: check_images(PIXELS[:1], IMAGES)],
        ),
        walk(
            "Pass uint8 pixels (0-255), or floats as the model was trained on",
            lambda folder: check_images(PIXELS.astype(str), IMAGES),
            [
                lambda folder: check_images(PIXELS, IMAGES),
                lambda folder: check_images(PIXELS / np.float32(255), IMAGES),
            ],
        ),
        walk(
            "the inputs do not form one array",
            lambda folder: check_images([PIXELS[0].tolist(), [[1, 2], [3]]], IMAGES),
            [lambda folder: check_images(np.stack(list(PIXELS)), IMAGES)],
        ),
        walk(
            "the input shape is {}. Use one to four",
            contract(shape=(0, 4, 3)),
            [contract(shape=shape) for shape in ((9,), (5, 2), (4, 4, 3), (2, 4, 4, 3))],
        ),
        walk(
            "unknown kind of input {}. Use one of",
            contract(kind="photo"),
            [contract(kind="image"), contract(kind="array")],
        ),
        walk(
            "is not an image, which has a height",
            contract(shape=(5, 2), kind="image"),
            [contract(shape=(5, 2)), contract(shape=(5, 2), kind="array")],
        ),
        walk(
            "unknown input type {}. Use one of",
            contract(dtype="float64"),
            [contract(dtype="float32"), contract(dtype="uint8"), contract(dtype="int8")],
        ),
        walk(
            "Pass one finite number, or one for each",
            contract(mean=(1.0, 2.0)),
            [contract(mean=(1.0,)), contract(mean=(1.0, 2.0, 3.0))],
        ),
        walk(
            "is for images, and the model takes arrays of",
            contract(kind="array", resampler="bicubic"),
            [contract(kind="array"), contract(kind="image", resampler="bicubic")],
        ),
        walk(
            "the colour order {} does not fit",
            contract(color_order="gray"),
            [contract(color_order="rgb"), contract(color_order="bgr")],
        ),
        walk("unknown {} {}. Use one of: {}", contract(exif="no"), [contract(exif="apply"), contract(exif="ignore")]),
        walk(
            "unknown fit {}. Use one of: {}; resize-crop",
            contract(fit="cut"),
            [contract(fit=fit) for fit in (*FITS, "resize-crop:256")],
        ),
        walk(
            "would leave pictures smaller than the model",
            contract(fit="resize-crop:3"),
            [contract(fit="resize-crop:4")],
        ),
        walk(
            "has no array 'embeddings'",
            lambda folder: load_embeddings(folder / "other.npz"),
            [lambda folder: load_embeddings(folder / "ids.npz")],
        ),
        walk(
            "without ids on both sides they cannot be matched",
            lambda folder: match_rows(load_embeddings(folder / "ids.npz"), load_embeddings(folder / "bare.npz")),
            [lambda folder: match_rows(load_embeddings(folder / "ids.npz"), load_embeddings(folder / "ids.npz"))],
        ),
        walk("unknown engine {}. Use local", lambda folder: opened("spark"), [lambda folder: opened("local")]),
        walk("cannot compute on {}. Pass 'local'", lambda folder: opened(3), [lambda folder: opened("local")]),
        walk(
            "unknown runtime {}. Use one of",
            lambda folder: find_runtime("tfl"),
            [lambda folder: find_runtime("ai-edge-litert")],
        ),
        walk(
            "row(s) have at most {} neighbours each. Pass a smaller --k",
            lambda folder: measured(9),
            [lambda folder: measured(5)],
        ),
        walk(
            "exists and was kept. Pass --force",
            lambda folder: check_writable([folder / "one.npz"], force=False),
            [
                lambda folder: check_writable([folder / "one.npz"], force=True),
                lambda folder: check_writable([folder / "new.npz"], force=False),
            ],
        ),
        walk(
            "is named twice, as {} and as {}",
            lambda folder: check_names([], {"-o": folder / "a", "--json": folder / "a"}),
            [lambda folder: check_names([], {"-o": folder / "a", "--json": folder / "b"})],
        ),
    ],
)
def test_what_an_error_says_to_pass_is_taken(
    wrong: Callable[[Path], Any], right: list[Callable[[Path], Any]], folder: Path
) -> None:
    with pytest.raises(EmbedliteError):
        wrong(folder)
    for passed in right:
        passed(folder)


@walks(
    "cannot read the model {}: {}. Pass the path",
    "not a TFLite file: expected the identifier",
    "threads is {}. Pass 1 or more",
    "the iterator gave no {}. Pass at least one",
    "carries its own input contract. Leave out",
    "the TFLite file has schema version {}, but embedlite and the interpreters read version 3",
)
def test_a_file_that_is_one_is_opened(digits: Digits, folder: Path) -> None:
    newer = schema.ModelT.InitFromPackedBuf(read_artifact(digits.float32).flatbuffer, 0)
    newer.version = 4
    builder = flatbuffers.Builder()
    builder.Finish(newer.Pack(builder), b"TFL3")
    (folder / "newer.tflite").write_bytes(bytes(builder.Output()))
    refused = [
        lambda: Encoder(folder / "newer.tflite"),
        lambda: Encoder(folder / "none.tflite"),
        lambda: Encoder(folder / "words.txt"),
        lambda: Encoder(digits.float32, threads=0),
        lambda: Encoder(digits.float32, input_contract=InputOptions(mean=(1.0,))),
    ]
    for wrong in refused:
        with pytest.raises(EmbedliteError):
            wrong()
    for threads in (1, None):
        with Encoder(digits.float32, threads) as encoder:
            image = np.zeros(encoder.contract.input.shape, np.uint8)
            with pytest.raises(EmbedliteError):
                encoder.embed(iter(()))
            assert len(encoder.embed(iter([image]))) == 1


@walks(
    "carries no contract, so it is not a file of an export",
    "holds no figures of a device, or is damaged",
    "Name the file that embed-tflite --measure wrote on the device",
    "Copy the files of this export to the device",
    "holds no .tflite file. Copy the files",
    "carries no golden vectors, so there is nothing to replay",
    "needs nothing but MODEL: leave out DATA, -o and what describes the",
    "--measure replays the golden vectors too: leave out --selftest",
    "the figures are JSON, so the name of their file ends in .json",
    "--quiet and -v say opposite things: leave one out",
)
def test_the_files_of_an_export_are_measured(digits: Digits, folder: Path, tmp_path: Path) -> None:
    plain, device = tmp_path / "plain.tflite", tmp_path / "device"
    device.mkdir()
    plain.write_bytes(FloatGraph((9, 9, 1)).dense("e", np.ones((3, 81), np.float32), np.ones(3, np.float32)).to_bytes())
    with pytest.raises(EmbedliteError):
        measure_device([plain])
    with pytest.raises(EmbedliteError):
        find_models(device)
    with Encoder(plain, input_contract=InputContract((9, 9, 1))) as encoder, pytest.raises(EmbedliteError):
        selftest(encoder)
    with Encoder(digits.int8) as encoder:
        assert selftest(encoder).passed
    int8, figures = str(digits.int8), str(tmp_path / "x.json")
    for wrong in (
        ["--selftest", str(digits.test_images)],
        ["--measure", figures, "--mean", "3"],
        ["--selftest", "--measure", figures],
        ["--measure", str(tmp_path / "x.txt")],
        ["--selftest", "--quiet", "-v"],
    ):
        with pytest.raises(click.UsageError):
            embed.main([int8, *wrong], standalone_mode=False)
    assert set(tmp_path.iterdir()) == {plain, device}
    for option in ("--quiet", "-v"):
        assert embed.main([int8, "--selftest", option], standalone_mode=False) == 0
    for name in ("int8", "dynamic"):
        shutil.copy(digits.file(name), device)
        measured = tmp_path / f"{name}.json"
        assert embed.main([str(device), "--measure", str(measured), "--threads", "1"], standalone_mode=False) == 0
        figures = read_device_figures(measured)
        if name == "int8":
            other = read_artifact(digits.file("dynamic"))
            with pytest.raises(EmbedliteError):
                raise another_model(measured, figures, digits.file("dynamic").name, other.sha256)
    assert figures.of(other.sha256) is not None
    (tmp_path / "empty.json").write_text("{}")
    for path in (tmp_path / "empty.json", tmp_path / "none.json"):
        with pytest.raises(EmbedliteError):
            read_device_figures(path)


@walks(
    "every is {}, save_seconds {} and budget {}. Pass",
    "this monitor was closed. Make another one",
    "is in use by another monitor",
    "holds statistics of another",
    "Use the float32 file of the same export",
)
def test_a_monitor_that_is_asked_for_as_the_error_says_works(digits: Digits, tmp_path: Path) -> None:
    with Encoder(digits.int8, 1) as encoder, Encoder(digits.file("dynamic"), 1) as other:
        image = np.zeros(encoder.contract.input.shape, np.uint8)
        with pytest.raises(EmbedliteError):
            DriftMonitor(encoder, digits.float32, every=0)
        wrong = replace(encoder.contract.input, shape=(9, 9, 1))
        graph = FloatGraph((9, 9, 1)).dense("e", np.ones((3, 81), np.float32), np.ones(3, np.float32))
        plain = tmp_path / "plain.tflite"
        plain.write_bytes(graph.to_bytes())
        with Encoder(plain, 1, input_contract=wrong) as smaller, pytest.raises(EmbedliteError):
            DriftMonitor(encoder, smaller)
        for every, seconds, budget in ((1, 0.1, 1.0), (2, 60, 0.05), (1, 60, None)):
            DriftMonitor(encoder, digits.float32, every=every, save_seconds=seconds, budget=budget).close()
        monitor = DriftMonitor(encoder, digits.float32, state=tmp_path / "one.json", every=1, budget=None)
        with pytest.raises(EmbedliteError):
            DriftMonitor(encoder, digits.float32, state=tmp_path / "one.json")
        DriftMonitor(encoder, digits.float32, state=tmp_path / "two.json").close()
        monitor.embed_one(image)
        monitor.close()
        with pytest.raises(EmbedliteError):
            monitor.embed_one(image)
        assert encoder.embed_one(image).shape == encoder.embedding_shape
        with pytest.raises(EmbedliteError):
            DriftMonitor(other, digits.float32, state=tmp_path / "one.json")
        DriftMonitor(other, digits.float32, state=tmp_path / "three.json").close()
        assert drift_fleet.main([str(tmp_path / f"{name}.json") for name in ("one", "two")], standalone_mode=False) in (
            0,
            1,
        )


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        walk("reading image files needs Pillow", "PIL", lambda folder: pillow()),
        walk(
            "--jpeg-decoder tensorflow needs simplejpeg",
            "simplejpeg",
            images("photo.jpg", None, InputContract(SHAPE, jpeg_decoder="tensorflow")),
        ),
        walk("it is HEIC, which needs pillow-heif", "pillow_heif", images("photo.heic")),
        walk("reading .tfrecord files needs google-crc32c", "google_crc32c", images("image.tfrecord")),
        walk("needs pyarrow, which cannot be imported", "pyarrow", arrays("t.parquet", "a")),
        walk(
            "is read with fsspec, which is not installed",
            "fsspec",
            lambda folder: open_source((folder / "photos").as_uri(), IMAGES),
        ),
    ],
)
def test_the_extra_that_an_error_names_brings_what_is_missing(
    module: str, needs: Callable[[Path], Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _masked_checksum.cache_clear()
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, module, None)
        with pytest.raises((MissingPackageError, UnreadableDataError)) as caught:
            needs(folder)
    check_extra(str(caught.value), module)
    needs(folder)
