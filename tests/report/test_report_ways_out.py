"""Every way out that an error of ``drift-report`` names is gone, with the example's files and 60 of its images."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from graphs import FloatGraph

from embedlite.report.command import drift_report
from embedlite.runtime.commands.embed import embed
from embedlite.runtime.drift.moments import LARGEST_MATRIX
from embedlite.runtime.drift.stored import load_embeddings, pack_embeddings
from embedlite.runtime.embedding_map import read_map
from embedlite.runtime.errors import EmbedliteError, MissingPackageError

from conftest import Digits
from ways_out import check_extra, walk, walks

# What the command starts to run Keras is a fork.
pytestmark = pytest.mark.usefixtures("served")

COUNT = 60
GALLERY = "--gallery a.npz --candidate-vectors b.npz"
FILES = "int8.tflite --reference float32.tflite --data some"
ARRAYS = "array.tflite --reference array.tflite --data rows.npy --mean 0 --std 1"
WIDE = "--gallery wide_a.npz --candidate-vectors wide_b.npz"
SEVERAL = "int8.tflite dynamic.tflite --reference float32.tflite --data some"


def told(command: str) -> int:
    code = drift_report.main(command.split(), standalone_mode=False)
    assert code in (0, 1)
    return code


@pytest.fixture(scope="module")
def folder(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as their modes, ``a.npz`` and ``b.npz`` of float32 and int8, and all kinds of saved results."""
    folder = tmp_path_factory.mktemp("ways")
    (folder / "some").mkdir()
    for path in sorted(digits.test_images.iterdir())[:COUNT]:
        shutil.copy(path, folder / "some")
    for mode in ("float32", "int8", "dynamic"):
        shutil.copy(digits.file(mode), folder / f"{mode}.tflite")
    shutil.copy(digits.folder / "model.export.json", folder / "export.json")
    shutil.copy(digits.model, folder / "model.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, mode in (("a", "float32"), ("b", "int8")):
            embed.main(f"{mode}.tflite some -o {name}.npz".split(), standalone_mode=False)
        told(f"{FILES} --json report.json")
        told(f"{SEVERAL} --json several.json")
    a, b = (load_embeddings(folder / f"{name}.npz") for name in "ab")
    assert a.ids is not None
    np.save(folder / "bare.npy", a.embeddings)
    np.savez(folder / "unsigned.npz", embeddings=b.embeddings, ids=b.ids)
    (folder / "odd.npz").write_bytes(pack_embeddings(a.embeddings, list(map(str, a.ids)), "0d" * 32, None))
    with np.load(folder / "a.npz") as stored:
        np.savez(folder / "odd.npz", **{**stored, "contract": np.asarray("{")})
    names = list(map(str, a.ids))
    (folder / "labels.csv").write_text("".join(f"{name},{Path(name).stem[-1]}\n" for name in names))
    (folder / "one.csv").write_text("".join(f"{name},0\n" for name in names))
    (folder / "bad.csv").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.json").write_text("{}")
    (folder / "torn.json").write_text("{")
    for name in ("report", "several"):
        value = json.loads((folder / f"{name}.json").read_text())
        value.pop("metrics" if name == "report" else "candidates")
        if name == "several":
            value["candidates"] = [{}]
        (folder / f"less_{name}.json").write_text(json.dumps(value))
    rng = np.random.default_rng(0)
    graph = FloatGraph((9,)).dense("e", rng.normal(size=(4, 9)).astype(np.float32), np.zeros(4, np.float32))
    (folder / "array.tflite").write_bytes(graph.to_bytes())
    np.save(folder / "rows.npy", rng.normal(size=(30, 9)).astype(np.float32))
    wide = rng.normal(size=(COUNT, LARGEST_MATRIX + 1)).astype(np.float32)
    for name in "ab":
        (folder / f"wide_{name}.npz").write_bytes(pack_embeddings(wide, names, name * 64, None))
    export = json.loads((folder / "export.json").read_text())
    for file in export["files"]:
        file["sha256"] = "0d" * 32
    (folder / "other.json").write_text(json.dumps(export))
    (folder / "own.py").write_text(
        "import numpy as np\nfrom PIL import Image\n\n"
        "def load(image):\n    pixels = np.asarray(Image.open(image).convert('L'), np.float32)\n"
        "    return pixels[..., None] / 255\n"
    )
    return folder


@pytest.mark.filterwarnings("ignore::embedlite.runtime.errors.EmbedliteWarning")
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        walk("--{} is about one candidate", f"{SEVERAL} --layers", [SEVERAL, f"{FILES} --layers"]),
        walk(
            "has no latency of any of the candidates",
            f"{SEVERAL} --export other.json",
            [f"{SEVERAL} --export export.json", SEVERAL],
        ),
        walk(
            "--layers needs a quantized candidate",
            "float32.tflite --reference float32.tflite --data some --layers",
            ["float32.tflite --reference float32.tflite --data some"],
        ),
        walk("run both models, and {} holds stored", "a.npz --reference b.npz --layers", [f"{FILES} --layers"]),
        walk(
            "need a float reference, and {} is quantized",
            "int8.tflite --reference dynamic.tflite --data some --layers",
            [f"{FILES} --layers"],
        ),
        walk("--gallery compares two files", f"{GALLERY} --data some", [GALLERY]),
        walk("{} is missing: name the stored gallery", "--gallery a.npz", [GALLERY]),
        walk("--measured says which of several", f"{FILES} --measured x.json", [FILES, SEVERAL]),
        walk(
            "--export shows its files on the page",
            f"{FILES} --export export.json",
            [f"{FILES} --export export.json --html page.html", FILES],
        ),
        walk(
            "--judge applies gates to a saved report",
            "--judge report.json --data some",
            ["--judge report.json --gate invalid=3 --html judged.html --export export.json"],
        ),
        walk("{} is missing: name what to compare", "", [FILES, "--judge report.json"]),
        walk(
            "a false accept rate is above 0",
            f"{FILES} --labels labels.csv --far 2",
            [f"{FILES} --labels labels.csv --far 0.001"],
        ),
        walk("is for images, and none are given", "a.npz --reference b.npz --engine dask", ["a.npz --reference b.npz"]),
        walk(
            "does not say which model made it, and a map",
            "--gallery a.npz --candidate-vectors unsigned.npz --map m.npz",
            [f"{GALLERY} --map m.npz"],
        ),
        walk("were made by the same model", "--gallery a.npz --candidate-vectors a.npz", [GALLERY]),
        walk("has a contract that is not JSON", "--gallery odd.npz --candidate-vectors b.npz", [GALLERY]),
        walk("has no ids, and a gallery is matched by them", "--gallery bare.npy --candidate-vectors b.npz", [GALLERY]),
        walk("is not stored embeddings (.npz or .npy)", "--gallery some --candidate-vectors b.npz", [GALLERY]),
        walk("deciding needs pairs of the same label", f"{FILES} --labels one.csv", [FILES]),
        walk("cannot read labels from", f"{FILES} --labels bad.csv", [f"{FILES} --labels labels.csv"]),
        walk("--float tells preprocessing from quantization", f"{FILES} --float float32.tflite", [FILES]),
        walk(
            "is not the float32 file of",
            "int8.tflite --reference a.npz --data some --float int8.tflite",
            ["int8.tflite --reference a.npz --data some --float float32.tflite"],
        ),
        walk(
            "--preprocess is held against a file's contract",
            "a.npz --reference b.npz --preprocess own.py:load",
            ["a.npz --reference b.npz"],
        ),
        walk("cannot judge {}: it is not a whole drift report", "--judge less_report.json", ["--judge report.json"]),
        walk("it is not a whole comparison", "--judge less_several.json", ["--judge several.json"]),
        walk("as a saved report", "--judge torn.json", ["--judge report.json"]),
        walk("it is no drift report: there is no schema", "--judge empty.json", ["--judge report.json"]),
        walk(
            "is not the export of",
            f"{FILES} --export other.json --html page.html",
            [f"{FILES} --export export.json --html page.html", FILES],
        ),
        walk(
            "as an export.json",
            f"{FILES} --export torn.json --html page.html",
            [f"{FILES} --export export.json --html page.html"],
        ),
        walk(
            "is not an export.json",
            f"{FILES} --export empty.json --html page.html",
            [f"{FILES} --export export.json --html page.html"],
        ),
        walk("there is no {}. Pass the path of a model", "int8.tflite --reference no.keras --data some", [FILES]),
        walk(
            "holds stored embeddings and {} is a model",
            "a.npz int8.tflite --reference float32.tflite --data some",
            [SEVERAL, "a.npz b.npz --reference odd.npz"],
        ),
        walk(
            "is about retrieval by labels, and there are none",
            f"{FILES} --gate recall_at_1_drop=0.5",
            [f"{FILES} --gate recall_at_1_drop=0.5 --labels labels.csv", FILES],
        ),
        walk("are for a Keras reference, and {} is none", f"{FILES} --layer x", [FILES]),
        walk("says what made stored embeddings", f"{FILES} --candidate-model int8.tflite", [FILES]),
        walk("--data is missing", "int8.tflite --reference float32.tflite", [FILES]),
        walk("so the reference must be stored too", "b.npz --reference float32.tflite", ["b.npz --reference a.npz"]),
        walk("). Make it again with --json.", "--judge less_report.json", ["--judge report.json"]),
        walk(
            "--preprocess is for images, and {}. Leave it out",
            f"{ARRAYS} --preprocess own.py:load",
            [ARRAYS],
        ),
        walk("there are too many. Leave out --map", f"{WIDE} --map m.npz", [WIDE]),
        walk("both sides are stored embeddings", "b.npz --reference a.npz --data some", ["b.npz --reference a.npz"]),
    ],
)
def test_what_the_error_says_is_done(
    wrong: str, right: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(EmbedliteError):
        told(wrong)
    assert set(tmp_path.iterdir()) == before
    for command in right:
        told(command)
        for path in set(tmp_path.iterdir()) - before:
            path.unlink()


@walks("is not a map of embeddings", "maps the embeddings of a model with SHA-256")
def test_a_map_that_is_made_as_the_error_says_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbedliteError):
        read_map(folder / "a.npz")
    (a, b), made = (folder / "a.npz", folder / "b.npz"), tmp_path / "m.npz"
    told(f"--gallery {a} --candidate-vectors {b} --map {made}")
    found, sha256 = read_map(made), {name: load_embeddings(path).model_sha256 for name, path in (("a", a), ("b", b))}
    with pytest.raises(EmbedliteError):
        found.check_model(sha256["a"], made, a)
    found.check_model(sha256["b"], made, b)


@pytest.mark.parametrize(
    ("module", "wrong", "without", "elsewhere"),
    [
        walk(
            "needs TensorFlow, which is not installed. Run: pip install",
            "tensorflow",
            "int8.tflite --reference model.keras --data some",
            [FILES, "int8.tflite --reference a.npz --data some"],
            "",
        ),
        walk(
            "--html needs Jinja and Pillow, and one of them is not installed. Run",
            "jinja2",
            f"{FILES} --html page.html",
            [f"{FILES} --json made.json"],
            "--judge made.json --html page.html",
        ),
    ],
)
def test_without_a_package_the_same_is_found_as_the_error_says(
    module: str,
    wrong: str,
    without: list[str],
    elsewhere: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, module, None)
        with pytest.raises(MissingPackageError) as caught:
            told(wrong)
        for command in without:
            told(command)
    check_extra(str(caught.value), module)
    if elsewhere:
        told(elsewhere)
        assert "<html" in Path("page.html").read_text()
