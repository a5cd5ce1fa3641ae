"""Data for encoders that take no images: every way to hand arrays over gives the same ones, and mistakes are named."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedlite.runtime import EmbedliteError, InputContract
from embedlite.runtime.errors import EmbedliteWarning, EmptyDataError, UnreadableDataError
from embedlite.runtime.images.open import open_source

from example_records import listed, record

SHAPES = [(12, 6), (40,), (5, 4, 6), (3, 4, 2, 2)]
WINDOWS = np.random.default_rng(0).normal(0, 9, (7, 12, 6)).astype(np.float32)


def windows(shape: tuple[int, ...], count: int = 7) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 9, (count, *shape)).astype(np.float32)


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tensor_proto(array: np.ndarray) -> bytes:
    """What ``tf.io.serialize_tensor`` makes of float32: checked against TensorFlow in tests/convert/test_arrays.py."""
    sizes = b"".join(b"\x12" + bytes([len(dim)]) + dim for dim in (b"\x08" + bytes([size]) for size in array.shape))
    content = array.tobytes()
    assert len(content) > 127
    length = bytes([len(content) & 127 | 128, len(content) >> 7])
    return b"\x08\x01\x12" + bytes([len(sizes)]) + sizes + b"\x22" + length + content


def folder_of_files(folder: Path, data: np.ndarray) -> Path:
    for index, window in enumerate(data):
        (folder / "windows" / "a").mkdir(parents=True, exist_ok=True)
        np.save(folder / "windows" / "a" / f"{index}.npy", window)
    return folder / "windows"


def folder_of_batches(folder: Path, data: np.ndarray) -> Path:
    (folder / "batches").mkdir()
    np.save(folder / "batches" / "0.npy", data[:3])
    np.save(folder / "batches" / "1.npy", data[3:])
    return folder / "batches"


def one_file(folder: Path, name: str, write: Callable[[Path], object]) -> Path:
    write(folder / name)
    return folder / name


WAYS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "array": lambda _, data: data,
    "npy": lambda folder, data: one_file(folder, "x.npy", lambda path: np.save(path, data)),
    "npz": lambda folder, data: one_file(folder, "x.npz", lambda path: np.savez(path, labels=np.arange(7), runs=data)),
    "folder": folder_of_files,
    "batches": folder_of_batches,
    "lists in records": lambda folder, data: one_file(
        folder, "x.tfrecord", lambda path: path.write_bytes(b"".join(listed(row, "window") for row in data))
    ),
    "tensors in records": lambda folder, data: one_file(
        folder, "x.tfrecord", lambda path: path.write_bytes(b"".join(record(tensor_proto(row)) for row in data))
    ),
    "files in records": lambda folder, data: one_file(
        folder, "x.tfrecord", lambda path: path.write_bytes(b"".join(record(npy_bytes(row)) for row in data))
    ),
    "bytes in records": lambda folder, data: one_file(
        folder, "x.tfrecord", lambda path: path.write_bytes(b"".join(record(row.tobytes()) for row in data))
    ),
    "parquet": lambda folder, data: one_file(
        folder,
        "x.parquet",
        lambda path: pq.write_table(pa.table({"id": range(7), "window": [row.tolist() for row in data]}), path),
    ),
    "iterable": lambda _, data: list(data),
    "batches of an iterable": lambda _, data: iter([data[:2], data[2:]]),
    "dicts": lambda _, data: ({"x": row} for row in data),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_way_gives_the_same_arrays(way: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    data = windows(shape)
    source = open_source(WAYS[way](tmp_path, data), InputContract(shape))
    assert len(source) == 7 and not source.pixels
    np.testing.assert_array_equal(np.stack([source.ready(index) for index in range(7)]), data)
    stored = open_source(data, InputContract(shape))
    if "records" not in way or "lists" in way:
        assert [source.digest(index) for index in range(7)] == [stored.digest(index) for index in range(7)]
    if way in ("npy", "folder", "batches", "parquet"):
        part = pickle.loads(pickle.dumps(source.shard([5, 2]))).open()
        np.testing.assert_array_equal(np.stack(list(part)), data[[5, 2]])


def test_ids_of_a_folder_are_names_and_rows(tmp_path: Path) -> None:
    contract = InputContract((12, 6))
    assert open_source(folder_of_files(tmp_path, WINDOWS[:2]), contract).ids == ("a/0.npy", "a/1.npy")
    assert open_source(folder_of_batches(tmp_path, WINDOWS[:4]), contract).ids == (
        *("0.npy:0", "0.npy:1", "0.npy:2"),
        "1.npy:0",
    )


def test_one_file_may_be_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", WINDOWS[0])
    source = open_source(tmp_path / "one.npy", InputContract((12, 6)))
    assert source.ids == ("one.npy",)
    np.testing.assert_array_equal(source.load(0), WINDOWS[0])


def test_the_contract_scales_integers_and_floats_alike() -> None:
    contract = InputContract((12, 6), mean=(1, 2, 3, 4, 5, 6), std=(2.0,))
    whole = np.rint(WINDOWS).astype(np.int16)
    wanted = (whole.astype(np.float32) - np.arange(1, 7, dtype=np.float32)) / np.float32(2)
    for data in (whole, whole.astype(np.float32), whole.astype(np.float64)):
        np.testing.assert_array_equal(np.stack([open_source(data, contract).ready(i) for i in range(7)]), wanted)


def test_a_folder_of_arrays_serves_images_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    for index, image in enumerate(pixels):
        np.save(tmp_path / f"{index}.npy", image)
    source = open_source(tmp_path, InputContract((4, 4, 3)))
    assert source.pixels
    np.testing.assert_array_equal(np.stack(list(source)), pixels)


def photos(folder: Path, _: np.ndarray) -> Path:
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


WRONG: dict[str, tuple[Callable[[Path, np.ndarray], Any], str]] = {
    "photos": (photos, r"1 images and no arrays in .*takes arrays of shape \(12, 6\)"),
    "a photo": (
        lambda f, d: photos(f, d) / "a.png",
        r"is an image file, and the model takes arrays of shape \(12, 6\)",
    ),
    "nothing": (lambda folder, _: folder, "there are no arrays in"),
    "sound": (lambda f, _: one_file(f, "a.wav", lambda path: path.write_bytes(b"RIFF")), "save what other formats"),
    "missing": (lambda folder, _: folder / "nowhere", "there is no .*Pass a folder of .npy files"),
    "shape": (
        lambda _, data: data[:, :5],
        r"inputs of shape \(12, 6\), received an array of shape \(7, 5, 6\)",
    ),
    "turned": (lambda _, data: data.transpose(0, 2, 1), r"reverse order: np.transpose\(x, \(0, -1, -2\)\)"),
    "flat": (lambda _, data: data.reshape(7, -1), r"flat: x.reshape\(-1, 12, 6\)"),
    "one more axis": (lambda _, data: data[..., None], r"axis of one too many: take it away with x\[..., 0\]"),
    "bool": (lambda _, data: data > 0, "dtype bool cannot be embedded. Pass floats or integers"),
    "int8": (lambda _, data: data.astype(np.int8), r"int8 .*x.astype\(np.int16\)"),
    "text": (lambda _, data: data.astype(str), "Pass numbers"),
    "empty": (lambda _, data: data[:0], "holds no inputs"),
    "file": (
        lambda folder, data: one_file(folder, "x.npz", lambda path: np.savez(path, a=data[:, 1], b=data[:, 2])),
        "cannot tell which array of .* holds the inputs",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_named_without_a_word_of_images(mistake: str, tmp_path: Path) -> None:
    make, message = WRONG[mistake]
    with pytest.raises(EmbedliteError, match=message) as caught:
        open_source(make(tmp_path, WINDOWS), InputContract((12, 6)))
    assert "photo" in mistake or "image" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (np.ones((12, 5), np.float32), r"1\.npy: expected inputs of shape \(12, 6\)"),
        (np.full((12, 6), np.nan, np.float32), r"input '1\.npy' has 72 value\(s\) that are NaN"),
        (b"nonsense", "1.npy is not a .npy file"),
    ],
)
def test_one_bad_file_of_a_folder_is_named_or_left_out(broken: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", WINDOWS[0])
    (tmp_path / "1.npy").write_bytes(broken if isinstance(broken, bytes) else npy_bytes(broken))
    source = open_source(tmp_path, InputContract((12, 6)))
    with pytest.raises(EmbedliteError, match=message):
        source.ready(1)
    assert source.readable()[0].ids == ("0.npy",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (listed(WINDOWS[0, :5], "window"), r"an input of shape \(12, 6\) has 72"),
        (record(b"\x89PNG\r\n\x1a\n" + bytes(99)), "an image file, and not an array"),
        (
            record(npy_bytes(WINDOWS[0, 1:])),
            r"inputs of shape \(12, 6\), received an array of shape \(11, 6\)",
        ),
    ],
)
def test_records_of_something_else_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(content)
    feature = "window" if b"window" in content else "image"
    with pytest.raises(EmbedliteError, match=message):
        open_source(tmp_path / "x.tfrecord", InputContract((12, 6)), feature).load(0)


def test_what_a_folder_holds_besides_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", WINDOWS[0])
    (tmp_path / "notes.txt").write_text("about")
    with pytest.warns(EmbedliteWarning, match=r"1 of 2 entries are left out: other kinds: 1 \(notes.txt\)"):
        open_source(tmp_path, InputContract((12, 6)))


IMAGE = InputContract((4, 5, 3))


def image_files(folder: Path, *arrays: np.ndarray | bytes) -> Path:
    for number, array in enumerate(arrays):
        content = array if isinstance(array, bytes) else npy_bytes(array)
        (folder / f"{number}.npy").write_bytes(content)
    return folder


def test_an_empty_batch_in_a_folder_is_told_as_an_empty_file_is(tmp_path: Path) -> None:
    folder = image_files(tmp_path, np.zeros((0, 4, 5, 3), np.uint8))
    for path in (folder, folder / "0.npy"):
        with pytest.raises(EmptyDataError, match="Pass at least one"):
            open_source(path, IMAGE)


@pytest.mark.parametrize("first", [np.uint8, np.float32])
def test_pixels_and_floats_in_one_folder_are_refused_by_the_files_name(first: type, tmp_path: Path) -> None:
    """A damaged file before them decides nothing."""
    second = np.float32 if first is np.uint8 else np.uint8
    folder = image_files(tmp_path, b"damaged", np.ones((4, 5, 3), first), np.ones((2, 4, 5, 3), second))
    source = open_source(folder, IMAGE)
    assert source.pixels is (first is np.uint8)
    assert source.load(1).dtype == first
    for index in (2, 3):
        with pytest.raises(UnreadableDataError, match=r"2\.npy holds .*, but the first sound file holds"):
            pickle.loads(pickle.dumps(source.load))(index)
    with pytest.raises(UnreadableDataError, match=r"0\.npy"):
        source.load(0)
