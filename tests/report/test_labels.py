"""Labels from every kind of file, and the files that are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedlite.report.labels import codes, read_labels
from embedlite.runtime.errors import DataError, EmbedliteError, UnreadableDataError

IDS = ["a.png", "b, c.png", "sub/ü.png", "d.png"]
LABELS = ["cat", "dog", "cat", "7"]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"labels.{kind}"
    if kind == "csv":
        path.write_text('id,label\nd.png,7\n\n"b, c.png",dog\na.png,cat\nsub/ü.png,cat\nmore.png,dog\n', "utf-8")
    elif kind == "json":
        path.write_text(json.dumps({**dict(zip(IDS, LABELS, strict=True)), "d.png": 7, "more.png": "x"}))
    elif kind == "npz":
        np.savez(path, ids=np.array(IDS[::-1]), labels=np.array(LABELS[::-1]))
    else:
        np.save(path, np.array(LABELS))
    return path


@pytest.mark.parametrize("kind", ["csv", "json", "npz", "npy"])
def test_labels_are_found_by_id(kind: str, tmp_path: Path) -> None:
    numbers = read_labels(written(tmp_path, kind), IDS)
    assert [[one == other for other in numbers] for one in numbers] == [
        [one == other for other in LABELS] for one in LABELS
    ]


def test_a_csv_may_begin_with_a_byte_order_mark_and_lack_a_head(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes("\ufeffa,x\r\nb,y\r\nc,x\r\n".encode())
    assert read_labels(path, ["c", "b", "a"]).tolist() == [0, 1, 0]


BAD: dict[str, tuple[str, bytes, type[EmbedliteError], str]] = {
    "a missing id": (
        "a.csv",
        b"a,1\nb,2\n",
        DataError,
        r"no label for 1 of 3 images \(c\)\. It labels a, b\. Give every",
    ),
    "an id twice": ("a.csv", b"a,1\nb,2\nc,1\nb,2\n", DataError, "labels b twice"),
    "an id twice in JSON": ("a.json", b'{"a": 1, "b": 2, "c": 1, "a": 3}', DataError, "labels a twice"),
    "three columns": ("a.csv", b"a,1\nb,2,3\n", UnreadableDataError, "line 2: 3 columns; expected two, id and label"),
    "an open quote": ("a.csv", b'a,"1\n', UnreadableDataError, "cannot read labels"),
    "no UTF-8": ("a.csv", b"\xff\xfe", UnreadableDataError, "cannot read labels"),
    "a list": ("a.json", b"[1, 2]", UnreadableDataError, "not a JSON object of id to label"),
    "a label that is a list": ("a.json", b'{"a": [1]}', UnreadableDataError, "not a JSON object of id to label"),
    "half a JSON": ("a.json", b'{"a": 1', UnreadableDataError, "cannot read labels"),
    "an empty file": ("a.json", b"", UnreadableDataError, "cannot read labels"),
    "an empty table": ("a.csv", b"", DataError, "no label for 3 of 3"),
    "a text": ("a.txt", b"a 1", UnreadableDataError, "labels are read from .csv, .json"),
    "all the same": ("a.csv", b"a,1\nb,1\nc,1\n", DataError, "the same label for each of 3 rows; deciding needs pairs"),
    "all different": ("a.csv", b"a,1\nb,2\nc,3\n", DataError, "a label of its own for each of 3 rows"),
    "a list without ids": ("a.json", b'[{"label": 1}]', UnreadableDataError, "nor a list of objects with both"),
    "a truth value": ("a.json", b'{"a": true}', UnreadableDataError, "not a JSON object of id to label"),
    "a line that is short": (
        "a.csv",
        b"id,label,split\na,1\n",
        UnreadableDataError,
        "line 2: 2 columns; expected 3 as",
    ),
    "three columns at once": (
        "a.csv",
        b"a,1,x\n",
        UnreadableDataError,
        "If there are more, the first line has to name",
    ),
    "a name twice": ("a.csv", b"x/a.png,1\ny/a.png,2\nb,1\nc,2\n", DataError, "2 labels that the image a may mean"),
    "no array": ("a.npy", b"text", UnreadableDataError, r"a\.npy"),
}


@pytest.mark.parametrize("name", BAD)
def test_labels_that_cannot_be_used_are_refused(name: str, tmp_path: Path) -> None:
    file, content, error, message = BAD[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(error, match=message):
        read_labels(tmp_path / file, ["a", "b", "c"])


def test_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDataError, match=r"cannot read labels from .*none\.csv: No such file"):
        read_labels(tmp_path / "none.csv", ["a"])


@pytest.mark.parametrize("arrays", [{"ids": IDS}, {"labels": LABELS}, {"x": [1]}])
def test_an_archive_needs_ids_and_labels(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UnreadableDataError, match="ids and labels; both are needed"):
        read_labels(tmp_path / "a.npz", IDS)


def test_labels_are_one_a_row() -> None:
    with pytest.raises(DataError, match=r"labels of shape \(2, 2\); expected one for each of 4 rows"):
        codes(np.zeros((2, 2)), 4, Path("a.npy"))


def classes(path: Path, ids: list[str]) -> list[int]:
    return read_labels(path, ids).tolist()


def test_a_folder_of_class_folders_labels_by_path_by_name_and_by_stem(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/old/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for ids in (
        ["cat/a.png", "cat/b.png", "dog/c.png", "dog/old/d.png"],
        ["a.png", "b.png", "c.png", "d.png"],
        ["a.jpg", "b", "other/c.jpg", "old/d.jpg"],
        ["photos/cat/a.png", "cat/b.png", "c.png", "dog/old/d"],
    ):
        assert classes(tmp_path, ids) == [0, 0, 1, 1]


def test_a_folder_without_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UnreadableDataError, match="has no folders with images in them"):
        read_labels(tmp_path, ["a.png", "b.png", "c.png"])


@pytest.mark.parametrize("head", ["id,label\n", "", "Filename,Class\n"])
def test_a_csv_may_have_a_first_line(head: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(head + "a.png,x\nb.png,y\nc.png,x\n")
    assert classes(path, ["a.png", "b.png", "c.png"]) == [0, 1, 0]


def test_a_first_line_finds_the_columns_among_others(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("split,label,path\ntest,x,/data/a.png\ntest,y,/data/b.png\ntrain,x,/data/c.png\n")
    assert classes(path, ["a.png", "b.png", "c.png"]) == [0, 1, 0]


def test_a_json_may_list_objects(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"file": name, "class": label} for name, label in zip("abc", (3, 4, 3), strict=True)]))
    assert classes(path, ["a.png", "b.png", "c.png"]) == [0, 1, 0]


@pytest.mark.parametrize(
    ("entries", "ids", "message"),
    [
        (
            ["cat/1.png", "dog/1.png", "dog/2.png"],
            ["1.png", "2.png"],
            "2 labels that the image 1.png may mean: cat/1.png",
        ),
        (["1.png", "2.png"], ["a/1.png", "b/1.png", "2.png"], "that two images may mean: a/1.png and b/1.png"),
        (["1.png", "1.jpg", "2.png"], ["1.webp", "2.png"], "2 labels that the image 1.webp may mean"),
        (
            ["a/1.png", "a/2.png"],
            ["1.png", "3.png"],
            r"no label for 1 of 2 images \(3.png\). It labels a/1.png, a/2.png",
        ),
    ],
)
def test_an_id_that_may_mean_two_is_refused(entries: list[str], ids: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({name: place for place, name in enumerate(entries)}))
    with pytest.raises(DataError, match=message):
        read_labels(path, ids)


def test_an_entry_that_is_the_id_itself_is_not_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"1.png": "x", "old/1.png": "y", "2.png": "x"}))
    assert classes(path, ["1.png", "2.png", "old/1.png"]) == [0, 0, 1]
