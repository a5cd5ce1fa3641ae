"""Must a gallery be embedded again: maps that are found, figures by plain loops, and what does not belong."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ortho_group

from embedlite.report.command import drift_report
from embedlite.report.gallery.answer import GalleryAnswer
from embedlite.report.gallery.fit import FOLDS, MappedRows, _fit, _Sums, fit_map
from embedlite.report.gallery.options import judge_options, split_pairs
from embedlite.report.gallery.run import GalleryRequest, answer_gallery
from embedlite.runtime import Encoder
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.stored import pack_embeddings
from embedlite.runtime.embedding_map import GalleryMap, read_map
from embedlite.runtime.errors import DataError, EmbedliteError, UnreadableDataError
from embedlite.runtime.model.contract import InputContract

from conftest import Digits
from digit_vectors import digit_images

ROWS, SIZE, CLASSES = 300, 12, 6
OLD, NEW = "0d" * 32, "ee" * 32
NAMES = [f"{row:03d}.png" for row in range(ROWS)]
LABELS = np.arange(ROWS) % CLASSES


def old_rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(CLASSES, SIZE))[LABELS] + 0.5 * rng.normal(size=(ROWS, SIZE))
    return rows.astype(np.float32)


def new_rows(kind: str) -> np.ndarray:
    """What another model makes of the same images."""
    old, noise = old_rows(), np.random.default_rng(1).normal(size=(ROWS, SIZE))
    if kind == "rotated":
        return (0.7 * (old + 0.01 * noise) @ ortho_group.rvs(SIZE, random_state=2) + 0.3).astype(np.float32)
    return {
        "same": old + 0.0005 * noise,
        "rounded": old + 0.06 * noise,
        "another": 3 * noise,
    }[kind].astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "old.npz").write_bytes(pack_embeddings(old_rows(), NAMES, OLD, InputContract((8, 8, 3))))
    (tmp_path / "labels.csv").write_text(
        "".join(f"{name},{label}\n" for name, label in zip(NAMES, LABELS, strict=True))
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def store(kind: str, part: slice = slice(None), path: str = "new.npz") -> None:
    order = np.random.default_rng(5).permutation(ROWS)[part]
    rows, ids = new_rows(kind)[order], [NAMES[place] for place in order]
    Path(path).write_bytes(pack_embeddings(rows, ids, NEW, InputContract((8, 8, 3), dtype="uint8")))


def asked(*arguments: str) -> int:
    command = ["--gallery", "old.npz", "--candidate-vectors", "new.npz", *arguments]
    return int(drift_report.main(command, "drift-report", standalone_mode=False))


def test_a_map_is_found_and_its_error_is_what_the_rows_say() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 5)) + 4
    turned = ortho_group.rvs(5, random_state=1)
    fitted = fit_map(Rows(x), Rows(2 * x @ turned + 1), np.arange(200))
    assert fitted is not None
    assert fitted.kind == "orthogonal"
    np.testing.assert_allclose(x @ fitted.matrix + fitted.offset, 2 * x @ turned + 1, atol=1e-9)
    stretched = x @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    fitted = fit_map(Rows(x), Rows(stretched), np.arange(200))
    assert fitted is not None
    assert (fitted.kind, fitted.ridge) == ("ridge", 1e-4)
    mapped = MappedRows(Rows(x), fitted)
    np.testing.assert_allclose(mapped.take(slice(None)), stretched, atol=0.05)
    np.testing.assert_array_equal(mapped.only(np.array([7, 3])).take(slice(None)), mapped.take(np.array([7, 3])))
    # The sums of squares against the rows themselves.
    sums = _Sums.nothing(5, 5)
    sums.add(x, stretched)
    affine = _fit(sums, "ridge", 0.1)
    direct = ((x @ affine[0] + affine[1] - stretched) ** 2).sum()
    np.testing.assert_allclose(sums.error(affine), direct, rtol=1e-6)
    centred = x - x.mean(axis=0)
    ridge = 0.1 * centred.var(axis=0).mean() * len(x) * np.eye(5)
    expected = np.linalg.solve(centred.T @ centred + ridge, centred.T @ (stretched - stretched.mean(axis=0)))
    np.testing.assert_allclose(affine[0], expected, rtol=1e-9)
    assert fit_map(Rows(x), Rows(stretched), np.arange(2 * FOLDS - 1)) is None


def test_figures_are_of_the_half_that_nothing_was_fitted_on() -> None:
    old, new = old_rows().astype(np.float64), new_rows("rounded").astype(np.float64)
    split = split_pairs(ROWS, np.arange(ROWS))
    assert int(split.fitted.sum()) == ROWS // 2
    before, options = judge_options(Rows(new), Rows(old), Rows(new * 1.0), split, k=5, labels=LABELS, far=0.05)
    kept, moved, mapped, again = options
    assert [option.name for option in options] == ["keep", "move-threshold", "map", "embed-again"]

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def similar(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        found = unit(queries) @ unit(gallery).T
        np.fill_diagonal(found, -np.inf)
        return found

    truth = np.argsort(-similar(old, old), axis=1)[:, :5]
    half = np.flatnonzero(~split.fitted)
    for option, found in ((kept, similar(new, old)), (again, similar(new, new))):
        nearest = np.argsort(-found, axis=1)
        shares = [len(set(truth[row]) & set(nearest[row, :5])) / 5 for row in half]
        np.testing.assert_allclose(option.neighbours, np.mean(shares))
        np.testing.assert_allclose(option.recall, np.mean([LABELS[nearest[row, 0]] == LABELS[row] for row in half]))
    # A map that changes nothing is keeping the gallery, with a threshold of its own.
    assert (mapped.neighbours, mapped.recall, mapped.threshold) == (kept.neighbours, kept.recall, moved.threshold)
    same = LABELS[:, None] == LABELS
    different = ~np.eye(ROWS, dtype=bool)
    for option, found in ((kept, similar(new, old)), (again, similar(new, new))):
        pairs = found[half] > option.threshold
        np.testing.assert_allclose(option.tar, pairs[(same & different)[half]].mean())
        np.testing.assert_allclose(option.far, pairs[~same[half]].mean())
    assert before.threshold == kept.threshold
    fitted = similar(old, old)[split.fitted][~same[split.fitted]]
    np.testing.assert_allclose((fitted > before.threshold).mean(), 0.05, atol=1e-3)


def test_images_that_belong_together_are_on_one_side() -> None:
    clusters = np.arange(90) // 3
    split = split_pairs(90, np.arange(90), clusters)
    assert all(len(set(split.fitted[clusters == cluster])) == 1 for cluster in range(30))
    assert int(split.fitted.sum()) == 45


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [
        ("same", "keep", "No, the gallery and its threshold can stay"),
        ("rotated", "map", "No, the gallery can stay if new vectors are mapped, with threshold 0."),
        ("another", "embed-again", "Yes, embed the gallery again, and even that does not find what was found"),
    ],
)
def test_the_answer_is_the_cheapest_that_holds(
    kind: str, answer: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(kind)
    code = asked("--labels", "labels.csv", "--far", "0.05", "--json", "a.json", "--map", "map.npz")
    text = capsys.readouterr().out
    assert code == (1 if answer == "embed-again" else 0)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert f"Must the gallery be embedded again? {said}" in " ".join(text.split())
    value = json.loads(Path("a.json").read_text())
    assert value["answer"] == answer
    assert (
        [option["holds"] for option in value["options"]].index(True)
        == [option["name"] for option in value["options"]].index(answer)
        if any(option["holds"] for option in value["options"])
        else answer == "embed-again"
    )
    assert value["images"] == {"gallery": ROWS, "paired": ROWS, "fitted": 150, "judging": 150, "queries": 150}
    assert "the images were prepared otherwise" not in text
    found = read_map("map.npz")
    assert (found.model_sha256, found.gallery_sha256, found.pairs) == (NEW, OLD, 150)
    if kind == "rotated":
        assert found.kind == "orthogonal"
        np.testing.assert_allclose(found.apply(new_rows(kind)), old_rows(), atol=0.1)
    before = Path("map.npz").read_bytes()
    asked("--labels", "labels.csv", "--far", "0.05", "--map", "map.npz")
    assert Path("map.npz").read_bytes() == before, "not the same bytes"


def test_a_part_of_the_gallery_is_enough(folder: Path) -> None:
    store("same", slice(0, 120))
    request = GalleryRequest(Path("old.npz"), Path("new.npz"), None, None, None, None, 10, None, None, 0, False)
    answer, packed = answer_gallery(request)
    assert packed is None
    assert isinstance(answer, GalleryAnswer)
    assert (answer.images["gallery"], answer.images["paired"]) == (ROWS, 120)
    assert answer.best.neighbours > 0.99
    assert "nearest neighbours are taken for the same thing" in answer.render(100)


def other_contract(folder: Path) -> None:
    rows = new_rows("same")
    contract = InputContract((8, 8, 3), resampler="bicubic")
    (folder / "new.npz").write_bytes(pack_embeddings(rows, NAMES, NEW, contract))


def test_contracts_that_differ_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other_contract(folder)
    asked("--json", "a.json")
    assert "the images were prepared otherwise" in capsys.readouterr().out
    (note, *_) = json.loads(Path("a.json").read_text())["notes"]
    assert "resampler bilinear and bicubic" in note


MISTAKES = {
    "another model": ((), ("--reference-model", "labels.csv"), "old.npz was made by a model with SHA-256 0d0d"),
    "the same model": ((NEW, OLD), (), "were made by the same model"),
    "another size": ((new_rows("same")[:, :8],), (), "has embeddings of 12 values, and those in new.npz have 8"),
    "other images": (("000.png", "x.png"), (), "1 of 300 images in new.npz are not in the gallery old.npz (x.png)"),
    "too few images": ((slice(0, 30),), (), "30 images of old.npz have a valid vector in new.npz, and it takes 40"),
    "no name for a map": ((NEW, ""), ("--map", "map.npz"), "does not say which model made it"),
    "a candidate": ((), ("--reference", "old.npz"), "compares two files of stored embeddings"),
    "labels of others": ((), ("--labels", "few.csv"), "no label for 299 of 300 images"),
    "a map over a file": ((), ("--map", "old.npz"), "named twice"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_belong_together_is_one_error(name: str, folder: Path) -> None:
    change, arguments, message = MISTAKES[name]
    rows, ids, digest = new_rows("same"), list(NAMES), NEW
    if len(change) == 2 and change[0] == NEW:
        digest = change[1]
    elif len(change) == 2:
        ids[0] = change[1]
    elif change and isinstance(change[0], slice):
        rows, ids = rows[change[0]], ids[change[0]]
    elif change:
        rows = change[0]
    Path("new.npz").write_bytes(pack_embeddings(rows, ids, digest))
    Path("few.csv").write_text("000.png,1\n")
    with pytest.raises(EmbedliteError) as caught:
        asked(*arguments)
    assert message in str(caught.value)
    assert not Path("map.npz").exists()


def test_no_ids_and_half_a_request_are_errors(folder: Path) -> None:
    np.save("new.npy", new_rows("same"))
    for arguments, message in (
        (["--gallery", "old.npz", "--candidate-vectors", "new.npy"], "new.npy has no ids"),
        (["--gallery", "old.npz"], "--candidate-vectors NEW.npz is missing"),
        (["--candidate-vectors", "new.npy"], "--gallery OLD.npz is missing"),
        (["--gallery", "labels.csv", "--candidate-vectors", "new.npy"], "is not stored embeddings"),
    ):
        with pytest.raises(EmbedliteError) as caught:
            drift_report.main(arguments, "drift-report", standalone_mode=False)
        assert message in str(caught.value)


def test_an_encoder_applies_the_map_of_its_model_alone(digits: Digits, tmp_path: Path) -> None:
    images = digit_images(digits, 6)
    with Encoder(digits.int8, threads=2) as encoder:
        plain, digest = encoder.embed(images), encoder.artifact.sha256
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(128, 128)).astype(np.float32)
    made = GalleryMap(matrix, rng.normal(size=128).astype(np.float32), "ridge", digest, OLD, 100)
    path = tmp_path / "map.npz"
    path.write_bytes(made.pack())
    assert made.pack() == made.pack()
    with Encoder(digits.int8, threads=2, map=path) as encoder:
        mapped = encoder.embed(images)
        np.testing.assert_allclose(mapped, plain @ matrix + made.offset, rtol=1e-3, atol=1e-3)
        assert (mapped.dtype, encoder.embedding_shape) == (np.float32, (128,))
        np.testing.assert_array_equal(encoder.embed_one(images[2]), mapped[2])
        np.testing.assert_array_equal(np.stack(list(encoder.embed_iter(images))), mapped)
        with pickle.loads(pickle.dumps(encoder)) as again:
            np.testing.assert_array_equal(again.embed(images), mapped)
    with pytest.raises(DataError, match="maps the embeddings of a model with SHA-256"):
        Encoder(digits.float32, map=path)
    np.savez(tmp_path / "other.npz", matrix=matrix)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:900])
    for name, message in (("other.npz", "there is no array"), ("cut.npz", "cut.npz"), ("no.npz", "no.npz")):
        with pytest.raises(UnreadableDataError, match=message):
            Encoder(digits.int8, map=tmp_path / name)
