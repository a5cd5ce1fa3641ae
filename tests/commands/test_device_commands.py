"""``embed-tflite``, ``drift-report`` and ``inspect-tflite`` on the example's files, under both interpreters."""

import json
from pathlib import Path

import numpy as np
import pytest

from embedlite.convert.graph.graph import Graph
from embedlite.runtime.model.artifact import read_artifact

from conftest import Digits, Run, error_line
from documents import copy_first
from rounding import FLOAT_DB, INT8_DB, farthest, spread

RUNTIMES = ("ai-edge-litert", "tflite-runtime")


@pytest.fixture(scope="module")
def vectors(digits: Digits, run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The test split's vectors by (runtime, mode)."""
    folder = tmp_path_factory.mktemp("vectors")
    made = {}
    for runtime in RUNTIMES:
        for mode in ("float32", "float16", "dynamic", "int8"):
            path = made[runtime, mode] = folder / f"{runtime}.{mode}.npz"
            done = run("embed-tflite", digits.file(mode), digits.test_images, "-o", path, runtime=runtime)
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
            assert f"by {runtime} " in " ".join(done.stdout.split())
    return made


def test_both_interpreters_give_the_same_ids_and_nearly_the_same_vectors(
    vectors: dict[tuple[str, str], Path],
) -> None:
    floors = {"float32": FLOAT_DB, "float16": FLOAT_DB, "dynamic": INT8_DB, "int8": INT8_DB}
    for mode, floor in floors.items():
        first, second = (np.load(vectors[runtime, mode]) for runtime in RUNTIMES)
        assert first["ids"].tolist() == second["ids"].tolist()
        assert first["model_sha256"] == second["model_sha256"]
        noise = ((first["embeddings"] - second["embeddings"]) ** 2).sum()
        assert 10 * np.log10((second["embeddings"] ** 2).sum() / max(noise, 1e-30)) > floor, mode


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_numbers_are_right_against_every_kind_of_reference(
    runtime: str, digits: Digits, run: Run, vectors: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Keras, the float file, and stored vectors of the float file give the same figures for the int8 file."""
    metrics = []
    for name, reference in (
        ("keras", digits.model),
        ("float", digits.float32),
        ("stored", vectors[runtime, "float32"]),
    ):
        path = tmp_path / f"{name}.json"
        done = run(
            "drift-report",
            digits.int8,
            *("--reference", reference, "--data", digits.test_images, "--json", path),
            runtime=runtime,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("PASS")
        metrics.append(json.loads(path.read_text())["metrics"])
    # References that differ by rounding may see a pair or two on the other side of a threshold: of some ten thousand,
    # or of the hundred that a rate of one in a thousand accepts.
    pairs = dict.fromkeys(("knn_overlap_self", "knn_overlap_cross", "tar_loss", "false_reject_flips"), 5e-4)
    pairs |= {"false_accept_flips": 5e-5, "far_ratio": 0.05}
    for other in metrics[1:]:
        assert other.keys() == metrics[0].keys()
        for metric, value in other.items():
            if metrics[0][metric] is None:
                assert value is None, metric
                continue
            assert value == pytest.approx(metrics[0][metric], rel=1e-3, abs=pairs.get(metric, 1e-5)), metric


def test_stored_against_stored_needs_no_data_and_no_order(
    vectors: dict[tuple[str, str], Path], run: Run, tmp_path: Path
) -> None:
    loaded = np.load(vectors["ai-edge-litert", "int8"])
    order = np.random.default_rng(0).permutation(len(loaded["ids"]))
    shuffled = tmp_path / "shuffled.npz"
    np.savez(shuffled, embeddings=loaded["embeddings"][order], ids=loaded["ids"][order], model_sha256="")
    done = run("drift-report", shuffled, "--reference", vectors["ai-edge-litert", "int8"], "--json", "-")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["metrics"]["cosine_min"] == pytest.approx(1)
    assert value["metrics"]["sqnr_db"] is None
    assert value["data"]["matched_by"] == "id"


def test_rows_without_ids_are_trusted_and_that_is_said(
    vectors: dict[tuple[str, str], Path], run: Run, tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", np.load(vectors["ai-edge-litert", "int8"])["embeddings"])
    done = run("drift-report", tmp_path / "rows.npy", "--reference", vectors["ai-edge-litert", "float32"])
    assert done.returncode == 0, done.stderr
    assert "same order" in done.stderr


def test_a_failed_gate_is_exit_code_one_and_named_first(digits: Digits, run: Run) -> None:
    done = run(
        "drift-report",
        digits.int8,
        *("--reference", digits.float32, "--data", digits.test_images, "--num-samples", "100"),
        *("--gate", "cosine_min=0.999999", "--gate", "sqnr_db=5"),
    )
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL (cosine_min)")
    assert ">= 0.999999  FAILED" in done.stdout
    assert ">= 5  ok" in done.stdout
    assert done.stdout.index("FAILED") < done.stdout.index("worst inputs")


def test_the_report_has_the_agreed_keys_and_is_deterministic(digits: Digits, run: Run, tmp_path: Path) -> None:
    command = ("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images)
    first, second = (run(*command, "--num-samples", "60", "--json", "-") for _ in range(2))
    assert first.stdout == second.stdout
    value = json.loads(first.stdout)
    agreed = {"schema", "verdict", "candidate", "reference", "data", "metrics", "gates", "worst"}
    assert agreed <= set(value)
    assert {
        *("count", "invalid", "cosine_mean", "cosine_p1", "cosine_min", "sqnr_db", "max_abs", "bias_max_sigma"),
        *("norm_ratio_mean", "knn_overlap_self", "knn_overlap_cross"),
    } <= set(value["metrics"])
    assert value["metrics"]["count"] == 60
    assert {"name", "value", "limit", "passed"} <= set(value["gates"][0])
    assert {"id", "cosine"} <= set(value["worst"][0])
    cosines = [row["cosine"] for row in value["worst"]]
    assert cosines == sorted(cosines)
    assert cosines[0] == value["metrics"]["cosine_min"]


def test_embed_says_what_it_wrote_as_json(digits: Digits, run: Run, tmp_path: Path) -> None:
    done = run("embed-tflite", digits.int8, digits.test_images, "-o", tmp_path / "v.npz", "--json", "-")
    value = json.loads(done.stdout)
    assert (value["count"], value["embedding_shape"]) == (450, [128])
    stored = np.load(tmp_path / "v.npz")
    assert str(stored["model_sha256"]) == value["model"]["sha256"]
    assert stored["embeddings"].dtype == np.float32


def test_inspect_shows_contract_and_operators(digits: Digits, run: Run) -> None:
    done = run("inspect-tflite", digits.int8)
    assert done.returncode == 0, done.stderr
    for text in ("image: float32 [1, 32, 32, 1]", "mode int8", '"kind": "minmax"', "CONV_2D version 3", "1.14.0"):
        assert text in done.stdout
    value = json.loads(run("inspect-tflite", digits.int8, "--json", "-").stdout)
    assert value["contract"]["normalization"]["placement"] == "graph"


@pytest.fixture
def plain(digits: Digits, tmp_path: Path) -> Path:
    """The float32 encoder as a plain .tflite, made by TensorFlow Lite's own converter elsewhere."""
    from embedlite.convert.graph.graph import Graph
    from embedlite.runtime.model.artifact import read_artifact

    graph = Graph(read_artifact(digits.float32).flatbuffer)
    graph.model.metadata, graph.model.description = [], "MLIR Converted."
    path = tmp_path / "plain.tflite"
    path.write_bytes(graph.to_bytes())
    return path


def test_a_plain_file_loads_with_a_note_or_with_options(digits: Digits, plain: Path, run: Run, tmp_path: Path) -> None:
    some = copy_first(digits.test_images, 60, tmp_path / "some")
    silent = run("embed-tflite", plain, some, "-o", tmp_path / "a.npz", "--mean", "0", "--std", "255")
    assert silent.returncode == 0, silent.stderr
    assert silent.stderr == ""
    noted = run("embed-tflite", plain, some, "-o", tmp_path / "b.npz")
    assert "carries no contract" in noted.stderr
    ours = run("embed-tflite", digits.float32, some, "-o", tmp_path / "c.npz")
    assert ours.returncode == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["embeddings"] for name in "abc")
    np.testing.assert_array_equal(a, c)
    np.testing.assert_array_equal(b, c)
    assert "contract none" in run("inspect-tflite", plain).stdout


def test_options_against_the_files_own_contract_are_refused(digits: Digits, run: Run, tmp_path: Path) -> None:
    done = run("embed-tflite", digits.int8, digits.test_images, "-o", tmp_path / "v.npz", "--mean", "127.5")
    assert "carries its own input contract" in error_line(done)


@pytest.fixture
def bad(tmp_path: Path, digits: Digits) -> Path:
    """A folder of things that are wrong."""
    folder = tmp_path / "bad"
    folder.mkdir()
    data = digits.int8.read_bytes()
    (folder / "cut.tflite").write_bytes(data[: len(data) // 2])
    (folder / "no_contract.tflite").write_bytes(data[:-300])
    (folder / "flipped.tflite").write_bytes(data[:5000] + bytes([data[5000] ^ 4]) + data[5001:])
    (folder / "text.tflite").write_text("not a model at all")
    (folder / "empty").mkdir()
    np.save(folder / "shape.npy", np.zeros((3, 16, 16, 1), np.uint8))
    np.savez(folder / "other.npz", embeddings=np.ones((450, 64), np.float32), ids=[str(i) for i in range(450)])
    copy_first(digits.test_images, 30, folder / "images")
    (folder / "taken.npz").write_text("mine")
    return folder


ERRORS = {
    "no such model": (["embed-tflite", "missing.tflite", "images", "-o", "v.npz"], "cannot read the model"),
    "half a model": (["embed-tflite", "cut.tflite", "images", "-o", "v.npz"], "damaged"),
    "a contract cut off": (["embed-tflite", "no_contract.tflite", "images", "-o", "v.npz"], "contract is missing"),
    "one flipped bit": (["embed-tflite", "flipped.tflite", "images", "-o", "v.npz"], "SHA-256"),
    "a text": (["embed-tflite", "text.tflite", "images", "-o", "v.npz"], "not a TFLite file"),
    "an empty folder": (["embed-tflite", "INT8", "empty", "-o", "v.npz"], "no images"),
    "another size": (["embed-tflite", "INT8", "shape.npy", "-o", "v.npz"], "(3, 16, 16, 1)"),
    "an output that exists": (["embed-tflite", "INT8", "images", "-o", "taken.npz"], "--force"),
    "an output in no folder": (["embed-tflite", "INT8", "images", "-o", "nowhere/v.npz"], "no folder"),
    "an output of another kind": (["embed-tflite", "INT8", "images", "-o", "v.csv"], ".npz"),
    "a delegate that is not there": (["embed-tflite", "INT8", "images", "-o", "v.npz", "--delegate", "x.so"], "x.so"),
    "inspecting a text": (["inspect-tflite", "text.tflite"], "not a TFLite file"),
    "a report without data": (["drift-report", "INT8", "--reference", "FLOAT32"], "--data is missing"),
    "a gate that does not exist": (
        ["drift-report", "INT8", "--reference", "FLOAT32", "--data", "images", "--gate", "speed=1"],
        "cosine_p1",
    ),
    "a gate without a number": (
        ["drift-report", "INT8", "--reference", "FLOAT32", "--data", "images", "--gate", "sqnr_db=good"],
        "not a finite number",
    ),
    "k as large as the data": (
        ["drift-report", "INT8", "--reference", "FLOAT32", "--data", "images", "--num-samples", "5", "--k", "5"],
        "smaller --k",
    ),
    "vectors of other images": (
        ["drift-report", "INT8", "--reference", "other.npz", "--data", "images"],
        "do not hold the same images",
    ),
    "a reference that is not a model": (
        ["drift-report", "INT8", "--reference", "text.tflite", "--data", "images"],
        "not a TFLite file",
    ),
    "a result over its own model": (["inspect-tflite", "cut.tflite", "--json", "cut.tflite"], "named twice"),
    "a result over the vectors": (
        ["embed-tflite", "INT8", "images", "-o", "v.npz", "--json", "v.npz"],
        "named twice",
    ),
    "vectors over their own images": (
        ["embed-tflite", "INT8", "taken.npz", "-o", "taken.npz", "--force"],
        "named twice",
    ),
    "data for stored vectors": (
        ["drift-report", "other.npz", "--reference", "other.npz", "--data", "images"],
        "nothing to embed",
    ),
    "a seed that is none": (
        ["drift-report", "INT8", "--reference", "FLOAT32", "--data", "images", "--seed", "-1"],
        "--seed",
    ),
    "a keras reference that is none": (
        ["drift-report", "INT8", "--reference", "missing.keras", "--data", "images"],
        "there is no",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_gets_one_clear_error_and_nothing_is_written(name: str, bad: Path, digits: Digits, run: Run) -> None:
    arguments, message = ERRORS[name]
    places = {"INT8": str(digits.int8), "FLOAT32": str(digits.float32)}
    before = sorted(bad.rglob("*"))
    assert message in error_line(run(*(places.get(argument, argument) for argument in arguments), cwd=bad))
    assert sorted(bad.rglob("*")) == before
    assert (bad / "taken.npz").read_text() == "mine"


def test_raw_int8_outputs_of_the_interpreters_are_a_few_steps_apart(digits: Digits, run: Run, tmp_path: Path) -> None:
    """XNNPACK rounds differently from the reference kernels: by a step in each layer at most."""
    code = (
        "import numpy as np, sys\n"
        "from embedlite.runtime.model.artifact import read_artifact\n"
        "from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter\n"
        "from embedlite.runtime.images.open import open_source\n"
        "artifact = read_artifact(sys.argv[1])\n"
        "source = open_source(sys.argv[2], artifact.contract.input)\n"
        "it = open_interpreter(find_runtime(), artifact.flatbuffer, threads=1, keep_all_tensors=True)\n"
        "raw = max(d['index'] for d in it.get_tensor_details() if d['dtype'] == np.int8 and len(d['shape']) == 4\n"
        "          and tuple(d['shape']) == (1, 1, 1, 128) and d['quantization'][0])\n"
        "rows = []\n"
        "for index in range(len(source)):\n"
        "    it.set_tensor(it.get_input_details()[0]['index'], source.ready(index)[None]); it.invoke()\n"
        "    rows.append(it.get_tensor(raw).ravel())\n"
        "np.save(sys.argv[3], np.stack(rows))\n"
    )
    rows = []
    for runtime in RUNTIMES:
        path = tmp_path / f"{runtime}.npy"
        done = run("python", "-c", code, digits.int8, digits.test_images, path, runtime=runtime)
        assert done.returncode == 0, done.stderr
        rows.append(np.load(path).astype(int))
    assert rows[0].shape == (450, 128)
    # A quantization at the beginning, then convolutions up to the raw embedding.
    graph = Graph(read_artifact(digits.int8).flatbuffer)
    depth = sum(graph.operator_name(operator) in ("QUANTIZE", "CONV_2D") for operator in graph.operators)
    assert depth == 20
    difference = np.abs(rows[0] - rows[1])
    assert difference.max() <= farthest(depth)
    assert np.sqrt(np.square(difference).mean()) <= spread(depth)
    # The embeddings of two images are far more than that apart.
    assert rows[0].std(axis=0).mean() > 10 * spread(depth)


@pytest.fixture
def odd_names(digits: Digits, tmp_path: Path) -> Path:
    """Thirty test images, one of them with a name that is not UTF-8, and a file that is not an image."""
    folder = copy_first(digits.test_images, 30, tmp_path / "odd")
    first = min(folder.iterdir())
    first.rename(folder / "caf\udce9.png")
    return folder


def test_images_that_cannot_be_used_are_left_out_and_named(odd_names: Path, digits: Digits, run: Run) -> None:
    (odd_names / "a\udcff.png").write_text("no image")
    vectors = odd_names.parent / "vectors.npz"
    done = run("embed-tflite", digits.int8, odd_names, "-o", vectors)
    assert r"cannot read the image " in error_line(done)
    assert r"a\udcff.png: its content is not an image" in error_line(done)
    done = run("embed-tflite", digits.int8, odd_names, "-o", vectors, "--skip-unreadable", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [image["id"] for image in result["skipped"]] == ["a\udcff.png"]
    assert result["count"] == 30
    ids = np.load(vectors)["ids"].tolist()
    assert len(ids) == 30
    assert "caf\udce9.png" in ids
    assert "a\udcff.png" not in ids
    done = run("embed-tflite", digits.int8, odd_names, "-o", vectors, "--skip-unreadable", "--force")
    assert r"1 of 31 images cannot be used and were left out: a\udcff.png" in done.stdout


def test_names_that_are_not_utf8_reach_every_output(odd_names: Path, digits: Digits, run: Run) -> None:
    folder = odd_names.parent
    odd = folder / "odd\udce9"
    odd_names.rename(odd)
    stored = folder / "vectors.npz"
    assert run("embed-tflite", digits.float32, odd, "-o", stored).returncode == 0
    outputs = {name: folder / f"report.{name}" for name in ("json", "html", "junit")}
    for reference, data in ((digits.float32, odd), (stored, odd)):
        done = run(
            *(
                "drift-report",
                digits.int8,
                "--reference",
                reference,
                "--data",
                data,
                "--gate",
                "cosine_min=0",
                "--quiet",
            ),
            *(word for name, path in outputs.items() for word in (f"--{name}", path)),
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        report = json.loads(outputs["json"].read_text())
        assert report["data"]["path"] == str(odd)
        outputs["html"].read_bytes().decode()
        assert r"odd\udce9" in outputs["html"].read_text()
