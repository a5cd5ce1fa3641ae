"""Stored embeddings: what is written is read again, and rows are paired by id."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.stored import (
    StoredEmbeddings,
    is_stored,
    load_embeddings,
    match_rows,
    pack_embeddings,
)
from embedlite.runtime.errors import DataError, EmbedliteError, EmptyDataError, UnreadableDataError

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS = ["b.png", "a.png", "sub/c.png", "ü 4.png"]

shapes = st.tuples(st.integers(1, 6), st.integers(1, 5)) | st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 3))
# NUL ends a text in numpy; no file name holds one.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def store(folder: Path, **arrays: Any) -> Path:
    path = folder / "vectors.npz"
    np.savez(path, **arrays)
    return path


def stored(ids: list[str] | None, rows: np.ndarray = ROWS) -> StoredEmbeddings:
    return StoredEmbeddings(rows, None if ids is None else np.array(ids), "")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=shapes)
def test_what_was_packed_is_read_again(
    data: st.DataObject, shape: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(width=32)))
    ids = data.draw(st.lists(names, min_size=shape[0], max_size=shape[0], unique=True))
    path = tmp_path_factory.mktemp("stored") / "vectors.npz"
    path.write_bytes(pack_embeddings(rows, ids, "ab" * 32))
    read = load_embeddings(path)
    assert read.embeddings.dtype == np.float32
    np.testing.assert_array_equal(read.embeddings, rows)
    assert read.ids is not None
    assert (read.ids.tolist(), read.model_sha256) == (ids, "ab" * 32)


def test_the_same_input_gives_the_same_bytes() -> None:
    packed = pack_embeddings(ROWS, IDS, "ab")
    assert pack_embeddings(ROWS.copy(), tuple(IDS), "ab") == packed
    others = [pack_embeddings(ROWS + 1, IDS, "ab"), pack_embeddings(ROWS, IDS[::-1], "ab")]
    assert len({packed, *others, pack_embeddings(ROWS, IDS, "cd")}) == 4


def test_the_file_is_an_ordinary_npz_without_pickles(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    path.write_bytes(pack_embeddings(ROWS, IDS, "ab"))
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive.files) == ["contract", "embeddings", "embedlite", "ids", "model_sha256"]
        assert archive["embeddings"].dtype == np.float32
        assert archive["ids"].tolist() == IDS
        assert str(archive["model_sha256"]) == "ab"
    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_npy_is_rows_without_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", ROWS)
    read = load_embeddings(tmp_path / "vectors.npy")
    assert (read.ids, read.model_sha256) == (None, "")
    np.testing.assert_array_equal(read.embeddings, ROWS)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_every_float_type_is_taken(dtype: Any, tmp_path: Path) -> None:
    read = load_embeddings(store(tmp_path, embeddings=ROWS.astype(dtype)))
    np.testing.assert_array_equal(Rows(read.embeddings).take(slice(None)), ROWS)


def test_an_archive_of_others_may_lack_ids_and_hold_more(tmp_path: Path) -> None:
    read = load_embeddings(store(tmp_path, embeddings=ROWS, labels=np.arange(4)))
    assert (read.ids, read.model_sha256) == (None, "")
    assert read.labels is not None
    assert read.labels.tolist() == [0, 1, 2, 3]
    numbered = load_embeddings(store(tmp_path, embeddings=ROWS, ids=np.arange(4)))
    assert numbered.ids is not None
    assert numbered.ids.tolist() == ["0", "1", "2", "3"]


def test_embeddings_may_hold_what_the_report_will_count_as_invalid(tmp_path: Path) -> None:
    rows = np.array([[np.nan, 1], [np.inf, 2]], np.float32)
    np.testing.assert_array_equal(load_embeddings(store(tmp_path, embeddings=rows)).embeddings, rows)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"embeddings": ROWS.astype(int)}, DataError, r"int64 of shape \(4, 3\); embeddings are floats of shape"),
        ({"embeddings": ROWS[0]}, DataError, r"float32 of shape \(3,\)"),
        ({"embeddings": np.float32(1)}, DataError, r"float32 of shape \(\)"),
        ({"embeddings": ROWS[:0]}, EmptyDataError, r"holds no embeddings: its shape is \(0, 3\)"),
        ({"embeddings": ROWS[:, :0]}, EmptyDataError, r"its shape is \(4, 0\)"),
        ({"vectors": ROWS, "ids": IDS}, UnreadableDataError, "no array 'embeddings', only vectors, ids"),
        ({}, UnreadableDataError, "no array 'embeddings', only nothing"),
        ({"embeddings": ROWS, "ids": IDS[:3]}, DataError, "4 rows and 3 ids, 3 of them different"),
        ({"embeddings": ROWS, "ids": []}, DataError, "4 rows and 0 ids"),
        (
            {"embeddings": ROWS, "ids": ["b", "a", "b", "a"]},
            DataError,
            r"4 rows and 4 ids, 2 of them different \(repeated: a, b\). Every row needs an id of its own",
        ),
    ],
)
def test_what_are_no_embeddings_is_refused_and_named(
    arrays: dict[str, Any], error: type[EmbedliteError], message: str, tmp_path: Path
) -> None:
    path = store(tmp_path, **arrays)
    with pytest.raises(error, match=f"{path}.*{message}"):
        load_embeddings(path)


def test_many_repeated_ids_are_refused_too(tmp_path: Path) -> None:
    path = store(tmp_path, embeddings=np.ones((20_000, 2), np.float32), ids=np.arange(20_000) // 2)
    with pytest.raises(DataError, match="20000 ids, 10000 of them different"):
        load_embeddings(path)


@pytest.mark.parametrize("name", ["vectors.npz", "vectors.npy"])
@pytest.mark.parametrize("content", [None, b"", b"just some text", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_named(content: bytes | None, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableDataError, match=f"{path}.*embed-tflite"):
        load_embeddings(path)


# See above.
def test_every_truncated_file_is_refused(tmp_path: Path) -> None:
    path, packed = tmp_path / "vectors.npz", pack_embeddings(ROWS, IDS, "ab")
    for end in range(len(packed)):
        path.write_bytes(packed[:end])
        with pytest.raises(UnreadableDataError, match="vectors"):
            load_embeddings(path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    objects = np.array(["a", "b", "c", 4], dtype=object)
    for arrays in ({"embeddings": objects}, {"embeddings": ROWS, "ids": objects}):
        with pytest.raises(UnreadableDataError, match=r"vectors\.npz"):
            load_embeddings(store(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("before", "distance", "value"),
    [
        pytest.param(b"embeddings.npy", 40, 0xFF, id="compressed data"),
        pytest.param(b"PK\x01\x02", 8, 1, id="encryption"),
        pytest.param(b"PK\x01\x02", 10, 99, id="compression method"),
    ],
)
def test_one_damaged_byte_is_refused(before: bytes, distance: int, value: int, tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    np.savez_compressed(path, embeddings=ROWS, ids=IDS)
    content = bytearray(path.read_bytes())
    content[content.index(before) + distance] = value
    path.write_bytes(content)
    with pytest.raises(UnreadableDataError, match=r"vectors\.npz"):
        load_embeddings(path)


def test_one_id_for_all_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbedliteError, match=r"vectors\.npz"):
        load_embeddings(store(tmp_path, embeddings=ROWS, ids="a.png"))


def test_ids_of_bytes_are_text(tmp_path: Path) -> None:
    read = load_embeddings(store(tmp_path, embeddings=ROWS[:2], ids=np.array(["ä".encode(), b"b"])))
    assert read.ids is not None
    assert read.ids.tolist() == ["ä", "b"]
    with pytest.raises(UnreadableDataError, match="not UTF-8"):
        load_embeddings(store(tmp_path, embeddings=ROWS[:2], ids=np.array([b"\xff", b"b"])))


def test_doubles_beyond_float32_are_infinite(tmp_path: Path) -> None:
    read = load_embeddings(store(tmp_path, embeddings=np.array([[1e300, 1.0]])))
    assert Rows(read.embeddings).take(slice(None)).tolist() == [[np.inf, 1.0]]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_many_rows_are_mapped_and_verified(save: Any, tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    rows = np.zeros((300_000, 64), np.float32)
    rows[:, 0] = np.arange(len(rows))
    save(path, embeddings=rows, ids=np.arange(len(rows)).astype(str))
    read = load_embeddings(path)
    assert isinstance(read.embeddings, np.memmap)
    np.testing.assert_array_equal(read.embeddings, rows)
    rows = Rows(read.embeddings, np.array([5, 299_999]))
    np.testing.assert_array_equal(rows.take(slice(None)), read.embeddings[[5, 299_999]])
    with path.open("r+b") as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UnreadableDataError, match=r"cannot read .*vectors\.npz"):
        load_embeddings(path)


def test_labels_are_one_a_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels of shape \(3,\) for 4 rows"):
        load_embeddings(store(tmp_path, embeddings=ROWS, labels=np.arange(3)))


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(4)))
def test_rows_are_paired_by_id_in_the_references_order(order: list[int]) -> None:
    candidate = stored([IDS[row] for row in order], ROWS[order] + 100)
    matched = match_rows(candidate, stored(IDS))
    np.testing.assert_array_equal(Rows(candidate.embeddings, matched.candidate).take(slice(None)), ROWS + 100)
    assert (matched.ids.tolist(), matched.trusted) == (IDS, False)


@pytest.mark.parametrize(
    ("candidate", "reference", "ids"),
    [(None, IDS, IDS), (IDS, None, IDS), (None, None, ["0", "1", "2", "3"])],
)
def test_without_ids_on_both_sides_the_order_is_trusted(
    candidate: list[str] | None, reference: list[str] | None, ids: list[str]
) -> None:
    matched = match_rows(stored(candidate, ROWS + 1), stored(reference))
    assert (matched.candidate, matched.ids.tolist(), matched.trusted) == (None, ids, True)


@pytest.mark.parametrize("ids", [None, IDS[:3]])
def test_other_numbers_of_rows_without_ids_cannot_be_matched(ids: list[str] | None) -> None:
    with pytest.raises(DataError, match=r"candidate has 3 rows, the reference 4.*Make both with embed-tflite"):
        match_rows(stored(ids, ROWS[:3]), stored(None))


def test_images_that_only_one_side_has_are_named() -> None:
    candidate = stored(["b.png", "a.png", "new.png"], ROWS[:3])
    message = r"2 only in the reference \(sub/c.png, ü 4.png\), 1 only in the candidate \(new.png\)"
    with pytest.raises(DataError, match=f"{message}. Embed the same images with both models"):
        match_rows(candidate, stored(IDS))
    with pytest.raises(DataError, match=r"1 only in the reference \(a.png\), 0 only in the candidate"):
        match_rows(stored(IDS[:1], ROWS[:1]), stored(IDS[:2], ROWS[:2]))
    with pytest.raises(DataError, match=r"0 only in the reference .*1 only in the candidate \(new.png\)"):
        match_rows(stored([*IDS, "new.png"], np.ones((5, 3), np.float32)), stored(IDS))


@pytest.mark.parametrize(
    ("name", "wanted"), [("a.npz", True), ("a.npy", True), ("a.tflite", False), ("a.keras", False), ("npz", False)]
)
def test_stored_embeddings_are_known_by_their_suffix(name: str, wanted: bool) -> None:
    assert is_stored(Path(name)) is wanted
