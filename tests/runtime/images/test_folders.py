"""Folders as people have them: formats, links, pipes, damaged and huge files, names that are not UTF-8."""

import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedlite.runtime import InputContract
from embedlite.runtime.errors import EmbedliteWarning, EmptyDataError, UnreadableDataError
from embedlite.runtime.images import formats
from embedlite.runtime.images.formats import IMAGE_SUFFIXES
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Readable

CONTRACT = InputContract((8, 8, 3))
PICTURE = Image.fromarray(np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3, np.ones((4, 4), np.uint8)))


def save(path: Path, **options: Any) -> None:
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".pbm": "PPM", ".pnm": "PPM", ".heic": "HEIF"}.get(path.suffix.lower())
    mode = {".pbm": "1", ".pgm": "L"}.get(path.suffix.lower(), "RGB")
    PICTURE.convert(mode).save(path, kind, **options)


@pytest.mark.parametrize("suffix", [suffix for suffix in IMAGE_SUFFIXES if suffix not in (".heic", ".heif")])
def test_every_format_of_the_list_is_read(suffix: str, tmp_path: Path) -> None:
    for name in (f"a{suffix}", f"B{suffix.upper()}"):
        save(tmp_path / name)
    source = open_source(tmp_path, CONTRACT)
    assert list(source.ids) == [f"B{suffix.upper()}", f"a{suffix}"]
    with Image.open(tmp_path / f"a{suffix}") as image:
        wanted = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(source.load(0), wanted)
    assert list(open_source(tmp_path / f"a{suffix}", CONTRACT).ids) == [f"a{suffix}"]


def test_heic_is_read_with_its_own_package(tmp_path: Path) -> None:
    pillow_heif: Any = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    for suffix in (".heic", ".heif"):
        save(tmp_path / f"a{suffix}", quality=95)
    for image in open_source(tmp_path, CONTRACT):
        assert np.abs(image.astype(int) - np.asarray(PICTURE.resize((8, 8)))[..., None]).max() < 12


def test_of_an_animation_the_first_picture_is_read(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (40, 200))
    for name in ("a.gif", "b.webp", "c.avif", "d.png", "e.tif"):
        more = {} if name == "e.tif" else {"duration": 50}
        first.save(tmp_path / name, save_all=True, append_images=[second], **more)
    for image in open_source(tmp_path, CONTRACT):
        assert np.abs(image.astype(int) - 40).max() <= 3


def test_what_else_pillow_would_open_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    PICTURE.save(tmp_path / "b.jpg", "PDF")
    # No signature says that this is TGA.
    PICTURE.save(tmp_path / "c.png", "TGA")
    source = open_source(tmp_path, CONTRACT)
    for index in range(3):
        with pytest.raises(UnreadableDataError, match="its content is not an image"):
            source.load(index)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for name in ("notes.txt", "labels.csv", "model.h5", "page.pdf", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
    with pytest.warns(EmbedliteWarning) as said:
        source = open_source(tmp_path, CONTRACT)
    (text,) = (str(warning.message) for warning in said)
    assert text.startswith(f"the folder {tmp_path}: 7 of 8 entries are left out: ")
    assert "other kinds: 4 (labels.csv, model.h5, notes.txt, …)" in text
    for part in ("named pipes: 1 (pipe.png)", "links that lead nowhere: 1 (lost.jpg)", "sockets: 1 (s.png)"):
        assert part in text
    assert list(source.ids) == ["a.png"]


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.txt").touch()
    with pytest.raises(
        EmptyDataError, match=r"no images in .* \(named pipes: 1 \(pipe\.png\); other kinds: 1 \(a\.txt\)\)"
    ):
        open_source(tmp_path, CONTRACT)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tfrecord", ".npz"])
def test_a_named_pipe_is_told_and_not_waited_for(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(UnreadableDataError, match="one of the named pipes"):
        open_source(tmp_path / f"pipe{suffix}", CONTRACT)


def test_linked_folders_are_followed_and_each_is_read_once(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "real", elsewhere / "deep"):
        folder.mkdir(parents=True)
        save(folder / "a.png")
    (data / "again").symlink_to(data / "real")
    (data / "linked").symlink_to(elsewhere)
    (elsewhere / "deep" / "back").symlink_to(data)
    (data / "real" / "self").symlink_to(".")
    (data / "b.png").symlink_to(data / "real" / "a.png")
    with pytest.warns(
        EmbedliteWarning, match=r"read already, by another name: 3 \(again, linked/deep/back, real/self\)"
    ):
        source = open_source(data, CONTRACT)
    assert list(source.ids) == ["b.png", "linked/deep/a.png", "real/a.png"]
    assert len({image.tobytes() for image in source}) == 1


def test_a_photo_of_two_hundred_megapixels_is_read(tmp_path: Path) -> None:
    # Two levels only, so that the file is small: it is decoded in full all the same.
    large = Image.new("1", (14_500, 14_000))
    large.paste(1, (0, 0, 7_250, 14_000))
    large.save(tmp_path / "large.png")
    image = open_source(tmp_path, InputContract((4, 4, 1), resampler="box")).load(0)
    assert image[..., 0].tolist() == [[255, 255, 0, 0]] * 4


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    source, order = open_source(tmp_path, CONTRACT), []
    monkeypatch.setattr(formats, "LARGE", 100)

    def load() -> None:
        source.load(0)
        order.append("loaded")

    with (tmp_path / "a.png").open("rb") as file, formats.opened_image(file, "a.png"):
        other = threading.Thread(target=load)
        other.start()
        other.join(0.3)
        order.append("released")
    other.join()
    assert order == ["released", "loaded"]


def test_readable_gives_out_each_sound_image_once(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    images = Readable(open_source(tmp_path, CONTRACT))
    assert len(list(images)) == 2
    assert images.ids == ["a.png", "c.png"]
    assert [image.id for image in images.skipped] == ["b.png"]
    floats = np.zeros((3, 8, 8, 3), np.float32)
    floats[1, 2, 3] = np.nan
    images = Readable(open_source(floats, CONTRACT))
    assert len(list(images)) == 2
    assert "NaN" in images.skipped[0].reason
