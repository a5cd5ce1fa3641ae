"""``drift-report`` as a user runs it: stored embeddings, labels, saved reports, JUnit, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from conftest import Digits, Run, error_line
from documents import copy_first

ROWS = 120


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with stored embeddings of four classes: float ones, and a device's in another order."""
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 4
    reference = (rng.normal(size=(4, 16))[labels] + 0.6 * rng.normal(size=(ROWS, 16))).astype(np.float32)
    candidate = reference + np.float32(0.01) * rng.normal(size=reference.shape).astype(np.float32)
    ids = np.array([f"{row:03d}.png" for row in range(ROWS)])
    order = rng.permutation(ROWS)
    (tmp_path / "model.tflite").write_bytes(b"some model")
    digest = "0d7f2a1b" * 8
    np.savez(tmp_path / "home.npz", embeddings=reference, ids=ids, model_sha256=digest)
    np.savez(tmp_path / "device.npz", embeddings=candidate[order], ids=ids[order], model_sha256=digest)
    (tmp_path / "labels.csv").write_text("".join(f"{name},{label}\n" for name, label in zip(ids, labels, strict=True)))
    return tmp_path


def test_stored_embeddings_are_compared_wherever_they_come_from(home: Path, run: Run) -> None:
    report = (
        *("drift-report", "device.npz", "--reference", "home.npz", "--labels", "labels.csv"),
        *("--json", "a.json", "--junit", "a.xml", "-v"),
    )
    done = run(*report, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("PASS: device.npz against home.npz, 120 images\nship as is")
    assert " genuine and " in " ".join(done.stdout.split())
    value = json.loads((home / "a.json").read_text())
    assert value["data"]["matched_by"] == "id"
    assert value["decisions"]["truth"] == "labels"
    assert value["environment"].keys() == {"embedlite", "numpy", "python", "machine", "cpu"}
    assert len(value["candidate"]["sha256"]) == 64
    cases = [case.get("name") for case in ElementTree.parse(home / "a.xml").iter("testcase")]
    assert cases == [gate["name"] for gate in value["gates"]]
    before = [(home / name).read_bytes() for name in ("a.json", "a.xml")]
    assert run(*report, cwd=home).stdout == done.stdout
    assert [(home / name).read_bytes() for name in ("a.json", "a.xml")] == before, "not the same bytes"


def test_labels_may_be_stored_with_the_embeddings(home: Path, run: Run) -> None:
    with np.load(home / "home.npz") as archive:
        np.savez(home / "labelled.npz", **archive, labels=np.arange(ROWS) % 4)
    done = run("drift-report", "device.npz", "--reference", "labelled.npz", "--far", "0.02", "--json", "-", cwd=home)
    decisions = json.loads(done.stdout)["decisions"]
    assert (decisions["truth"], decisions["far"]) == ("labels", 0.02)


def test_saved_numbers_are_judged_by_other_gates(home: Path, run: Run) -> None:
    first = run("drift-report", "device.npz", "--reference", "home.npz", "--json", "a.json", cwd=home)
    assert first.returncode == 0
    same = run("drift-report", "--judge", "a.json", cwd=home)
    assert same.stdout == first.stdout
    strict = run(
        "drift-report", "--judge", "a.json", "--gate", "sqnr_db=90", "--json", "b.json", "--junit", "b.xml", cwd=home
    )
    assert strict.returncode == 1
    assert strict.stdout.startswith("FAIL (sqnr_db)")
    value = json.loads((home / "b.json").read_text())
    assert (value["verdict"], value["metrics"]) == ("fail", json.loads((home / "a.json").read_text())["metrics"])
    assert len(list(ElementTree.parse(home / "b.xml").iter("failure"))) == 1
    assert run("drift-report", "--judge", "b.json", cwd=home).returncode == 0


def test_a_random_part_searches_and_the_report_says_so(home: Path, run: Run) -> None:
    command = ("drift-report", "device.npz", "--reference", "home.npz", "--queries", "30", "--json", "-")
    value = json.loads(run(*command, cwd=home).stdout)
    assert (value["neighbours"]["queries"], value["neighbours"]["gallery"]) == (30, ROWS)
    assert json.loads(run(*command, cwd=home).stdout) == value
    assert json.loads(run(*command, "--seed", "1", cwd=home).stdout)["metrics"] != value["metrics"]


def test_embeddings_without_ids_are_trusted_and_the_report_says_so(home: Path, run: Run) -> None:
    with np.load(home / "home.npz") as archive:
        np.save(home / "rows.npy", archive["embeddings"])
    done = run("drift-report", "rows.npy", "--reference", "home.npz", "--json", "a.json", cwd=home)
    assert "taken to be in the same order" in done.stderr
    assert json.loads((home / "a.json").read_text())["data"]["matched_by"] == "order"


def test_embeddings_must_be_made_by_the_model_that_was_named(digits: Digits, run: Run, tmp_path: Path) -> None:
    some = copy_first(digits.test_images, 120, tmp_path / "some")
    for mode in ("int8", "float32"):
        done = run("embed-tflite", digits.file(mode), some, "-o", tmp_path / f"{mode}.npz")
        assert done.returncode == 0, done.stderr
    report = ("drift-report", tmp_path / "int8.npz", "--reference", tmp_path / "float32.npz")
    made_by = ("--candidate-model", digits.int8, "--reference-model", digits.float32)
    assert run(*report, *made_by).returncode == 0
    wrong = ("--candidate-model", digits.file("dynamic"))
    assert "int8.npz was made by a model with SHA-256" in error_line(run(*report, *wrong))


def test_a_quantized_reference_is_pointed_out(digits: Digits, run: Run) -> None:
    sides = (digits.int8, "--reference", digits.file("dynamic"))
    done = run("drift-report", *sides, "--data", digits.test_images, "--num-samples", "60")
    assert "is itself quantized (dynamic)" in done.stderr


def test_a_keras_reference_that_is_not_there_is_told_before_anything_is_embedded(digits: Digits, run: Run) -> None:
    done = run("drift-report", digits.file("int8"), "--reference", "none.keras", "--data", digits.test_images)
    assert done.returncode == 2
    assert done.stderr.strip() == error_line(done)
    assert "there is no none.keras. Pass the path of a model: .keras" in error_line(done)


def test_a_keras_reference_has_the_hash_of_its_file(digits: Digits, run: Run, tmp_path: Path) -> None:
    done = run(
        *("drift-report", digits.int8, "--reference", digits.model, "--data", digits.test_images),
        *("--num-samples", "40", "--json", "-"),
    )
    value = json.loads(done.stdout)
    assert value["reference"]["kind"] == "keras"
    assert len(value["reference"]["sha256"]) == 64
    assert value["metrics"]["count"] == 40


def cut(home: Path) -> None:
    """Half a saved report."""
    text = (home / "a.json").read_bytes()
    (home / "bad.json").write_bytes(text[: len(text) // 2])


def newer(home: Path) -> None:
    """A report of a later version."""
    value = json.loads((home / "a.json").read_text())
    (home / "bad.json").write_text(json.dumps({**value, "schema": 9}))


def other_ids(home: Path) -> None:
    """The device has an image that nobody has at home."""
    with np.load(home / "device.npz") as archive:
        ids = archive["ids"].copy()
        ids[3] = "new.png"
        np.savez(home / "device.npz", embeddings=archive["embeddings"], ids=ids)


def same_ids(home: Path) -> None:
    """An id that stands for two rows."""
    with np.load(home / "device.npz") as archive:
        ids = archive["ids"].copy()
        ids[3] = ids[4]
        np.savez(home / "device.npz", embeddings=archive["embeddings"], ids=ids)


def narrower(home: Path) -> None:
    """Embeddings of another size."""
    with np.load(home / "device.npz") as archive:
        np.savez(home / "device.npz", embeddings=archive["embeddings"][:, :8], ids=archive["ids"])


def few_labels(home: Path) -> None:
    """Not every image has a label."""
    (home / "labels.csv").write_text("000.png,1\n001.png,2\n")


def nothing(home: Path) -> None:
    """All is well; the request is what is wrong."""


COMPARE = ["device.npz", "--reference", "home.npz"]
MISTAKES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "half a report": (cut, ["--judge", "bad.json"], "cannot read bad.json as a saved report"),
    "a newer report": (newer, ["--judge", "bad.json"], "its schema is 9, and this version reads 1"),
    "no report": (nothing, ["--judge", "labels.csv"], "cannot read labels.csv as a saved report"),
    "a report that is not there": (nothing, ["--judge", "no.json"], "No such file"),
    "judging and comparing": (
        nothing,
        ["--judge", "a.json", *COMPARE],
        "applies gates to a saved report and runs nothing",
    ),
    "nothing to compare": (nothing, [], "CANDIDATE is missing"),
    "nothing to compare with": (nothing, ["device.npz"], "--reference is missing"),
    "an image more": (other_ids, COMPARE, "1 only in the candidate (new.png)"),
    "an id twice": (same_ids, COMPARE, "Every row needs an id of its own"),
    "another size": (narrower, COMPARE, "120 embeddings of 8 values, the reference 120 of 16"),
    "labels that are missing": (few_labels, [*COMPARE, "--labels", "labels.csv"], "no label for 118 of 120 images"),
    "a gate that needs labels": (
        nothing,
        [*COMPARE, "--gate", "recall_at_1_drop=0.01"],
        "is about retrieval by labels, and there are none",
    ),
    "a gate of a saved report that needs labels": (
        nothing,
        ["--judge", "a.json", "--gate", "map_drop=0.01"],
        "is about retrieval by labels, and there are none",
    ),
    "labels that are not there": (nothing, [*COMPARE, "--labels", "no.csv"], "cannot read labels from no.csv"),
    "k of all rows": (nothing, [*COMPARE, "--k", "120"], "Pass a smaller --k"),
    "no rate": (nothing, [*COMPARE, "--far", "0"], "above 0 and below 1"),
    "a gate that tells nothing": (nothing, [*COMPARE, "--gate", "cka=0.9"], "for information and cannot gate"),
    "a table over the data": (nothing, [*COMPARE, "--junit", "home.npz"], "named twice"),
    "a table over the report": (nothing, [*COMPARE, "--junit", "x", "--json", "x"], "named twice"),
    "an output in no folder": (nothing, [*COMPARE, "--junit", "no/a.xml"], "there is no folder"),
    "the maker of a model": (
        nothing,
        ["model.tflite", "--reference", "home.npz", "--data", ".", "--candidate-model", "model.tflite"],
        "is a model itself",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_error_and_nothing_is_written(name: str, home: Path, run: Run) -> None:
    assert run("drift-report", *COMPARE, "--json", "a.json", cwd=home).returncode == 0
    spoil, arguments, message = MISTAKES[name]
    spoil(home)
    before = {path: path.read_bytes() for path in home.iterdir()}
    assert message in error_line(run("drift-report", *arguments, cwd=home))
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_classes_and_groups_are_told_apart_by_name(home: Path, run: Run) -> None:
    with np.load(home / "home.npz") as archive:
        ids = archive["ids"].tolist()
    (home / "cameras").mkdir()
    for place, name in enumerate(ids):
        (home / "cameras" / "ab"[place % 2]).mkdir(exist_ok=True)
        (home / "cameras" / "ab"[place % 2] / name).touch()
    done = run("drift-report", *COMPARE, "--group", "cameras", "--html", "a.html", "--json", "a.json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "who pays, by cameras: 2 looked at" in done.stdout
    assert "Who pays, by cameras" in (home / "a.html").read_text()
    (found,) = json.loads((home / "a.json").read_text())["parts"]
    assert sorted(part["name"] for part in found["parts"]) == ["a", "b"]
    again = run("drift-report", "--judge", "a.json", "--html", "b.html", cwd=home)
    assert again.stdout == done.stdout


@pytest.mark.parametrize("reference", ["model", "vectors"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a.png,1\nb.png,2\n", "no label for 2 of 4 images (c.png, d.png)"),
        ("a.png,1\nb.png,1\nc.png,1\nd.png,1\n", "the same label for each of 4 rows"),
        ("x/a.png,1\ny/a.png,2\nb.png,1\nc.png,1\nd.png,1\n", "2 labels that the image a.png may mean"),
        (None, "gives embeddings of 128 values, and those in vectors.npz have 8"),
    ],
)
def test_what_does_not_fit_is_said_before_an_image_is_read(
    labels: str | None, message: str, reference: str, digits: Digits, run: Run, tmp_path: Path
) -> None:
    if labels is None and reference == "model":
        pytest.skip("about stored vectors")
    (tmp_path / "images").mkdir()
    names = [f"{name}.png" for name in "abcd"]
    for name in names:
        # Reading one would be another error.
        (tmp_path / "images" / name).write_bytes(b"no image")
    np.savez(tmp_path / "vectors.npz", embeddings=np.eye(4, 8 if labels is None else 128), ids=names)
    (tmp_path / "labels.csv").write_text(labels or "a.png,1\nb.png,2\nc.png,1\nd.png,1\n")
    done = run(
        *("drift-report", digits.int8, "--data", "images", "--labels", "labels.csv"),
        *("--reference", digits.float32 if reference == "model" else "vectors.npz"),
        cwd=tmp_path,
    )
    assert message in error_line(done)


def test_a_folder_without_images_is_an_error(digits: Digits, run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("drift-report", digits.int8, "--reference", digits.float32, "--data", tmp_path / "empty")
    assert "no images" in error_line(done)


def test_a_disk_that_is_full_keeps_what_was_there(home: Path, run: Run) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (home / "a.json").write_text("mine")
    done = run("drift-report", *COMPARE, "--json", "a.json", "--junit", "/dev/full", cwd=home)
    assert "No space left" in error_line(done)
    shutil.rmtree(home, ignore_errors=True)
