"""Folders, files and arrays of images: what is found, in which order, under which names, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedlite.runtime import EmbedliteError, InputContract
from embedlite.runtime.errors import (
    DataError,
    EmbedliteWarning,
    EmptyDataError,
    InputShapeError,
    InputTypeError,
    InputValueError,
    RequestError,
    UnreadableDataError,
)
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Skipped, Source

from conftest import Digits

CONTRACT = InputContract((4, 4, 1))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), np.uint8)
NAMES = np.array(["a", "b", "c", "d", "e", "f"])


def save_image(path: Path, index: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS[index, ..., 0]).save(path)


def loaded(source: Source) -> np.ndarray:
    return np.stack(list(source))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    # Written out of order on purpose.
    for index, name in enumerate(["b.png", "sub/z.png", "a.PNG", "sub/deep/c.bmp", "B.tif", "sub/a.png"]):
        save_image(root / name, index)
    return root


def test_a_folder_is_read_recursively_in_the_order_of_the_paths(folder: Path) -> None:
    source = open_source(folder, CONTRACT)
    assert source.ids == ("B.tif", "a.PNG", "b.png", "sub/a.png", "sub/deep/c.bmp", "sub/z.png")
    np.testing.assert_array_equal(loaded(source), PIXELS[[4, 2, 0, 5, 3, 1]])
    assert (source.name, source.pixels, len(source)) == (str(folder), True, 6)


def test_hidden_and_other_files_are_left_out(folder: Path) -> None:
    for name in (".hidden.png", "._b.png", ".thumbnails/b.png", "sub/.cache/b.png"):
        save_image(folder / name)
    (folder / "labels.csv").write_text("b,1\n")
    (folder / "png").write_text("no suffix")
    (folder / "empty.png").mkdir()
    with pytest.warns(EmbedliteWarning, match=r"2 of 8 entries are left out: other kinds: 2 \(labels\.csv"):
        assert len(open_source(folder, CONTRACT)) == 6


def test_the_examples_folder_has_all_its_images(digits: Digits) -> None:
    source = open_source(digits.test_images, InputContract((32, 32, 1)))
    assert list(source.ids) == sorted(path.name for path in digits.test_images.iterdir())
    with Image.open(digits.test_images / source.ids[7]) as image:
        np.testing.assert_array_equal(source.load(7)[..., 0], np.asarray(image))


def test_files_are_not_opened_before_they_are_needed(folder: Path) -> None:
    (folder / "broken.png").write_text("no image")
    source = open_source(folder, CONTRACT)
    assert source.load(source.ids.index("b.png")).shape == (4, 4, 1)
    with pytest.raises(UnreadableDataError, match=str(folder / "broken.png")):
        source.load(source.ids.index("broken.png"))


@pytest.mark.parametrize("content", ["nothing", "text", "hidden"])
def test_a_folder_without_images_is_named(content: str, tmp_path: Path) -> None:
    if content == "text":
        (tmp_path / "notes.txt").write_text("none here")
    if content == "hidden":
        save_image(tmp_path / ".cache" / "a.png")
    with pytest.raises(EmptyDataError, match=rf"no images in the folder {tmp_path}.*\.png.*\.jpg"):
        open_source(tmp_path, CONTRACT)


def test_one_image_is_a_source_of_one(tmp_path: Path) -> None:
    save_image(tmp_path / "cat.PNG", 3)
    source = open_source(str(tmp_path / "cat.PNG"), CONTRACT)
    assert (source.ids, source.pixels) == (("cat.PNG",), True)
    np.testing.assert_array_equal(loaded(source), PIXELS[3:4])


def test_an_array_is_numbered(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    for source in (open_source(PIXELS, CONTRACT), open_source(tmp_path / "images.npy", CONTRACT)):
        assert (source.ids, source.pixels) == (("0", "1", "2", "3", "4", "5"), True)
        np.testing.assert_array_equal(loaded(source), PIXELS)


def test_a_npy_is_mapped_not_read(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, PIXELS)
    source = open_source(path, CONTRACT)
    # What is written into the file now is seen only by a reader that has not read it yet.
    later = np.load(path, mmap_mode="r+")
    later[5] = 77
    later.flush()
    assert (source.load(5) == 77).all()
    np.testing.assert_array_equal(source.load(0), PIXELS[0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["images", "image", "x", "anything"])
def test_a_npz_has_its_images_under_one_of_several_names(save: Any, key: str, tmp_path: Path) -> None:
    save(tmp_path / "data.npz", **{key: PIXELS})
    source = open_source(tmp_path / "data.npz", CONTRACT)
    assert source.ids == ("0", "1", "2", "3", "4", "5")
    np.testing.assert_array_equal(loaded(source), PIXELS)


def test_the_ids_of_a_npz_are_kept(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", labels=np.arange(6), ids=NAMES, images=PIXELS)
    assert open_source(tmp_path / "data.npz", CONTRACT).ids == tuple(NAMES)
    np.savez(tmp_path / "data.npz", images=PIXELS, ids=np.arange(10, 16))
    assert open_source(tmp_path / "data.npz", CONTRACT).ids == ("10", "11", "12", "13", "14", "15")


def test_a_npz_with_too_few_ids_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=PIXELS, ids=NAMES[:5])
    with pytest.raises(UnreadableDataError, match=r"6, 4, 4, 1.* and 5 ids"):
        open_source(tmp_path / "data.npz", CONTRACT)


def test_a_npz_with_repeated_ids_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=PIXELS, ids=np.array(list("abcdea")))
    with pytest.raises(DataError, match="a"):
        open_source(tmp_path / "data.npz", CONTRACT)


@pytest.mark.parametrize("arrays", [{"images": PIXELS, "ids": "abcdef"}, {"images": np.uint8(3), "ids": NAMES}])
def test_a_npz_with_a_scalar_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(EmbedliteError, match=r"data\.npz"):
        open_source(tmp_path / "data.npz", CONTRACT)


def test_ids_of_bytes_are_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=PIXELS, ids=NAMES.astype("S"))
    assert open_source(tmp_path / "data.npz", CONTRACT).ids == tuple(NAMES)


@pytest.mark.parametrize("keys", [["first", "second"], []])
def test_a_npz_whose_images_cannot_be_told_says_how_to_name_them(keys: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", ids=NAMES, **dict.fromkeys(keys, PIXELS))
    with pytest.raises(RequestError, match=rf"it has {', '.join(keys) or 'none'}\. Call it 'images'"):
        open_source(tmp_path / "data.npz", CONTRACT)


def test_a_feature_names_the_array_of_a_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=PIXELS[:2], others=PIXELS[2:], ids=NAMES[:2])
    np.testing.assert_array_equal(loaded(open_source(path, CONTRACT, "images")), PIXELS[:2])
    with pytest.raises(UnreadableDataError, match=r"\(4, 4, 4, 1\) and 2 ids"):
        open_source(path, CONTRACT, "others")
    np.savez(path, images=PIXELS[:2], others=PIXELS[2:])
    np.testing.assert_array_equal(loaded(open_source(path, CONTRACT, "others")), PIXELS[2:])
    with pytest.raises(RequestError, match=r"data\.npz has no array 'left': it has images, others\. .*--feature"):
        open_source(path, CONTRACT, "left")


@pytest.mark.parametrize("kind", ["folder", "image", "npy", "array"])
def test_a_feature_of_what_has_no_names_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    data = {"folder": folder, "image": folder / "b.png", "npy": tmp_path / "images.npy", "array": PIXELS}[kind]
    with pytest.raises(RequestError, match=r"has no feature 'x': --feature names .*\.tfrecord or \.npz\. Leave it out"):
        open_source(data, CONTRACT, "x")


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1), slice(1, 5, 2)])
def test_a_mapped_array_is_read_as_any_other(layout: Any, rows: slice, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 50, 40, 3), np.uint8)
    np.save(tmp_path / "images.npy", np.asarray(images, order=layout))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")[rows]
    source = open_source(mapped, InputContract((50, 40, 3)))
    for _ in range(2):
        np.testing.assert_array_equal(loaded(source), images[rows])
    assert source.fingerprint() == open_source(images[rows], InputContract((50, 40, 3))).fingerprint()


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_what_was_written_into_a_mapped_array_is_not_lost(mode: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    mapped = np.load(tmp_path / "images.npy", mmap_mode=mode)
    mapped[:] = 7
    for _ in range(2):
        assert (loaded(open_source(mapped, CONTRACT)) == 7).all()


MEMORY = """
import sys
import numpy as np
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source

def resident():
    lines = (line.split() for line in open("/proc/self/status"))
    return sum(int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssFile:")) / 1024

source = open_source(sys.argv[1], InputContract((224, 224, 3)))
source.load(0)
before = resident()
most = 0
for index in range(len(source)):
    source.load(index)
    most = max(most, resident() - before)
source.fingerprint()
print(most, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_a_mapped_file_does_not_take_its_size_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    shape = (2000, 224, 224, 3)
    # 287 MiB of zeros, of which a file system with holes stores next to nothing.
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    assert all(float(grown) < 20 for grown in done.stdout.split()), done.stdout


def test_readable_leaves_out_what_cannot_be_used(folder: Path) -> None:
    (folder / "broken.png").write_text("no image")
    save_image(folder / "sub" / "gone.png")
    source = open_source(folder, CONTRACT)
    (folder / "sub" / "gone.png").unlink()
    left, skipped = source.readable()
    assert left.ids == tuple(name for name in source.ids if name not in ("broken.png", "sub/gone.png"))
    np.testing.assert_array_equal(loaded(left), PIXELS[[4, 2, 0, 5, 3, 1]])
    assert [image.id for image in skipped] == ["broken.png", "sub/gone.png"]
    assert skipped[0] == Skipped("broken.png", skipped[0].reason)
    assert "its content is not an image" in skipped[0].reason
    assert left.readable()[1] == ()


def test_readable_checks_values_too() -> None:
    images = np.ones(PIXELS.shape, np.float32)
    images[1, 0, 0], images[4, 3, 3] = np.nan, np.inf
    left, skipped = open_source(images, CONTRACT).readable()
    assert left.ids == ("0", "2", "3", "5")
    assert [(image.id, "NaN or infinite" in image.reason) for image in skipped] == [("1", True), ("4", True)]


def test_readable_of_nothing_readable_says_why(folder: Path) -> None:
    for path in folder.rglob("*.*"):
        path.write_text("no image")
    with pytest.raises(EmptyDataError, match=r"no image that can be used.*The first of 6: .*B\.tif: its content is no"):
        open_source(folder, CONTRACT).readable()


def test_readable_does_not_take_a_wrong_request_for_a_damaged_image(folder: Path) -> None:
    with pytest.raises(RequestError, match="takes 2 channels"):
        open_source(folder, InputContract((4, 4, 2), kind="image")).readable()


def write(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, images=array)
    return path


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (PIXELS[:, :3], InputShapeError, r"shape \(4, 4, 1\).*received an array of shape \(6, 3, 4, 1\)"),
        (PIXELS[..., 0], InputShapeError, "channel axis is missing"),
        (PIXELS[0], InputShapeError, "one image"),
        (PIXELS.astype(np.int8), InputTypeError, "int8 has no scale"),
        (PIXELS.astype(complex), InputTypeError, "complex128 cannot be embedded"),
        (PIXELS.astype("U3"), InputTypeError, "cannot be embedded"),
        (PIXELS[:0], EmptyDataError, r"holds no images: its shape is \(0, 4, 4, 1\)"),
    ],
)
def test_an_array_that_does_not_fit_is_named(
    name: str, array: np.ndarray, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, array)
    with pytest.raises(error, match=f"{path}.*{message}"):
        open_source(path, CONTRACT)
    with pytest.raises(error, match=f"the array.*{message}"):
        open_source(array, CONTRACT)


def test_a_broken_image_is_named_by_file_and_id(tmp_path: Path) -> None:
    images = np.ones(PIXELS.shape, np.float32)
    images[3, 1, 2] = np.nan
    np.savez(tmp_path / "data.npz", images=images, ids=NAMES)
    source = open_source(tmp_path / "data.npz", CONTRACT)
    assert not source.pixels
    np.testing.assert_array_equal(source.ready(2), images[2])
    with pytest.raises(InputValueError, match=r"data\.npz, image 'd' has 1 value.*the first at \(1, 2, 0\)"):
        source.ready(3)
    with pytest.raises(InputValueError, match="the array, image '4' holds int64 values from 300 to 300"):
        open_source(np.full(PIXELS.shape, 75) * np.arange(6).reshape(6, 1, 1, 1), CONTRACT).ready(4)


def test_pixels_are_made_ready_by_the_contract() -> None:
    contract = InputContract((4, 4, 1), mean=(100.0,), std=(50.0,))
    np.testing.assert_allclose(open_source(PIXELS, contract).ready(1), (PIXELS[1] - 100.0) / 50, rtol=1e-6)


@pytest.mark.parametrize("name", ["data.npy", "data.npz"])
def test_pickled_objects_are_never_loaded(name: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = write(tmp_path / name, np.array([Trap()], dtype=object))
    with pytest.raises(UnreadableDataError, match=f"{path}"):
        open_source(path, CONTRACT)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["data.npy", "data.npz"])
@pytest.mark.parametrize("content", [b"", b"just some text", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_a_file_that_is_no_array_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableDataError, match=f"{tmp_path / name}"):
        open_source(tmp_path / name, CONTRACT)


@pytest.mark.parametrize("name", ["data.npy", "data.npz"])
def test_every_truncated_array_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, PIXELS)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UnreadableDataError, match=name):
            open_source(path, CONTRACT)


@pytest.mark.parametrize(
    ("name", "before", "distance", "value"),
    [
        pytest.param("data.npy", b"}", 0, ord(" "), id="header"),
        pytest.param("data.npz", b"images.npy", 40, 0xFF, id="compressed data"),
        pytest.param("data.npz", b"PK\x01\x02", 8, 1, id="encryption"),
        pytest.param("data.npz", b"PK\x01\x02", 10, 99, id="compression method"),
    ],
)
def test_one_damaged_byte_is_refused(name: str, before: bytes, distance: int, value: int, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, PIXELS)
    else:
        np.savez_compressed(path, images=PIXELS)
    content = bytearray(path.read_bytes())
    content[content.index(before) + distance] = value
    path.write_bytes(content)
    with pytest.raises(UnreadableDataError, match=name):
        open_source(path, CONTRACT)


def test_a_npy_called_npz_and_the_other_way_round_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", PIXELS).rename(tmp_path / "b.npz")
    with pytest.raises(UnreadableDataError, match=r"b\.npz is a \.npy array called \.npz\. Rename it"):
        open_source(tmp_path / "b.npz", CONTRACT)
    write(tmp_path / "a.npz", PIXELS).rename(tmp_path / "b.npy")
    with pytest.raises(UnreadableDataError, match=r"b\.npy is not a \.npy file: .* Rename it"):
        open_source(tmp_path / "b.npy", CONTRACT)


@pytest.mark.parametrize("name", ["absent", "absent.npy", "absent.png"])
def test_a_path_that_does_not_exist_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableDataError, match=f"there is no {tmp_path / name}"):
        open_source(tmp_path / name, CONTRACT)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDataError):
        open_source(tmp_path / f"{'x' * 300}.npy", CONTRACT)


def test_a_file_of_another_kind_is_told_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n")
    with pytest.raises(UnreadableDataError, match=r"cannot tell what .*data\.csv holds.*\.npy, \.npz.*\.png"):
        open_source(tmp_path / "data.csv", CONTRACT)


def test_a_sample_is_seeded_in_order_and_without_repetition() -> None:
    source = open_source(np.repeat(PIXELS, 20, axis=0), CONTRACT)
    sample = source.sample(30, seed=7)
    rows = [int(name) for name in sample.ids]
    assert len(set(rows)) == 30
    assert rows == sorted(rows)
    assert sample.ids == source.sample(30, seed=7).ids != source.sample(30, seed=8).ids
    np.testing.assert_array_equal(loaded(sample), np.repeat(PIXELS, 20, axis=0)[rows])


@pytest.mark.parametrize("count", [None, 6, 100])
def test_a_sample_of_all_is_all(count: int | None) -> None:
    assert open_source(PIXELS, CONTRACT).sample(count, seed=0).ids == ("0", "1", "2", "3", "4", "5")


def test_a_subset_keeps_order_names_and_content(folder: Path) -> None:
    source = open_source(folder, CONTRACT)
    subset = source.subset([5, 0, 2])
    assert subset.ids == ("sub/z.png", "B.tif", "b.png")
    np.testing.assert_array_equal(loaded(subset), PIXELS[[1, 4, 0]])
    np.testing.assert_array_equal(subset.ready(1), source.ready(0))
    again = subset.subset([2])
    assert again.fingerprint() == source.subset([2]).fingerprint()
    assert (again.name, again.pixels) == (source.name, True)


def test_the_fingerprint_is_of_names_content_and_order(folder: Path) -> None:
    source = open_source(folder, CONTRACT)
    original = source.fingerprint()
    assert len(original) == 64
    assert open_source(folder, CONTRACT).fingerprint() == original
    prints = {original, source.subset([1, 0, 2, 3, 4, 5]).fingerprint(), source.subset(range(5)).fingerprint()}
    (folder / "b.png").rename(folder / "c.png")
    prints.add(open_source(folder, CONTRACT).fingerprint())
    (folder / "c.png").rename(folder / "b.png")
    assert open_source(folder, CONTRACT).fingerprint() == original
    save_image(folder / "b.png", 1)
    prints.add(open_source(folder, CONTRACT).fingerprint())
    assert len(prints) == 5


def test_the_fingerprint_of_an_array_is_of_values_and_type(tmp_path: Path) -> None:
    other = PIXELS.copy()
    other[3, 0, 0] ^= 1
    wide = [PIXELS.astype(dtype) for dtype in (np.int16, np.uint16, np.int32, np.float32)]
    arrays = [PIXELS, other, PIXELS[::-1], PIXELS[:5], *wide]
    prints = [open_source(array, CONTRACT).fingerprint() for array in arrays]
    assert len(set(prints)) == len(arrays)
    assert open_source(write(tmp_path / "a.npy", PIXELS), CONTRACT).fingerprint() == prints[0]
    assert open_source(write(tmp_path / "a.npz", PIXELS), CONTRACT).fingerprint() == prints[0]


def test_the_fingerprint_of_a_subset_is_of_its_own_images() -> None:
    array = PIXELS.copy()
    subset = open_source(array, CONTRACT).subset([4, 2])
    original = subset.fingerprint()
    array[0] ^= 1
    assert subset.fingerprint() == original
    array[4] ^= 1
    assert subset.fingerprint() != original


def test_the_fingerprint_needs_no_decoding(folder: Path) -> None:
    (folder / "broken.png").write_text("no image")
    assert len(open_source(folder, CONTRACT).fingerprint()) == 64


def test_the_fingerprint_of_a_file_that_went_away_is_an_error_that_names_it(folder: Path) -> None:
    source = open_source(folder, CONTRACT)
    (folder / source.ids[0]).unlink()
    with pytest.raises(UnreadableDataError, match=source.ids[0]):
        source.fingerprint()


def test_the_fingerprint_of_a_name_that_is_no_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes((folder / "b.png").read_bytes())
    source = open_source(folder, CONTRACT)
    assert source.load(source.ids.index("caf\udce9.png")).shape == (4, 4, 1)
    assert len(source.fingerprint()) == 64
