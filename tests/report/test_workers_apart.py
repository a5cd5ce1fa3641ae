"""Workers that differ from this machine: refused, or, if asked, what they make of the images is reported apart."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from embedlite.calibration.collect import collect_outputs
from embedlite.calibration.engine.dask_engine import DaskEngine, others_by_kind
from embedlite.report.embedding import embed_far
from embedlite.runtime import Encoder
from embedlite.runtime.errors import EngineError, WorkerMismatchError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.artifact import read_artifact

from cluster import two_workers
from conftest import Digits, Run, error_line
from ways_out import walks

OTHER = "tflite-runtime"


def become_another() -> None:
    os.environ["EMBEDLITE_RUNTIME"] = OTHER


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[LocalCluster, str]]:
    """Two workers, and the address of the one that runs another interpreter."""
    with two_workers() as (made, client):
        other = sorted(client.scheduler_info()["workers"])[0]
        client.run(become_another, workers=[other])
        yield made, other


def report(
    cluster: LocalCluster, digits: Digits, run: Run, path: Path, *options: str | Path
) -> tuple[str, dict[str, object]]:
    done = run(
        *("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images),
        *("--num-samples", "60", "--json", path, *options),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def embedded(digits: Digits, run: Run, path: Path, runtime: str | None, ids: Sequence[str]) -> np.ndarray:
    """The int8 file's embeddings of these images by an interpreter."""
    done = run("embed-tflite", digits.int8, digits.test_images, "-o", path, runtime=runtime)
    assert done.returncode == 0, done.stderr
    with np.load(path) as stored:
        rows = dict(zip(stored["ids"].tolist(), stored["embeddings"], strict=True))
    return np.stack([rows[name] for name in ids])


@walks("runs on this machine alone. Name a scheduler, such as --engine")
def test_another_interpreter_is_refused_unless_set_apart(
    cluster: tuple[LocalCluster, str], digits: Digits, run: Run, tmp_path: Path
) -> None:
    address = cluster[0].scheduler_address
    sides = ("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images)
    refused = error_line(run(*sides, "--engine", address))
    assert "interpreter tflite-runtime 2.14" in refused
    assert "--workers-apart" in refused
    assert "Name a scheduler" in error_line(run(*sides, "--engine", "local", "--workers-apart"))
    _, alone = report(cluster[0], digits, run, tmp_path / "local.json")
    text, found = report(
        *(cluster[0], digits, run, tmp_path / "apart.json", "--engine", address, "--workers-apart", "--ladder"),
        *("--html", tmp_path / "apart.html"),
    )
    (other,) = found.pop("other_workers")
    assert alone.pop("other_workers") is None
    assert found.pop("ladder") is not None
    assert {**alone, "ladder": None} == {**found, "ladder": None}

    # What each interpreter makes of the same images in a process of its own, in which neither meets the other.
    compared = open_source(digits.test_images, Encoder(digits.int8).contract.input).sample(60, 0)
    mine, theirs = (embedded(digits, run, tmp_path / f"{name}.npz", name, compared.ids) for name in (None, OTHER))
    assert other["workers"] == 1
    assert other["environment"]["interpreter"].startswith(OTHER)
    assert other["drift"]["max_abs"] == pytest.approx(np.abs(mine - theirs).max())
    assert "workers that differ from this machine: their embeddings by the candidate" in text
    assert f"  {OTHER} 2.14" in text
    page = (tmp_path / "apart.html").read_text()
    (section,) = re.findall(r'<section class="workers" id="workers">.*?</section>', page, re.DOTALL)
    drift = other["drift"]
    for words in (f"{OTHER} 2.14", f"{drift['sqnr_db']:.2f}", f"{drift['cosine_min']:.6f}", f"{drift['max_abs']:.5g}"):
        assert words in section


def test_a_cluster_without_any_worker_like_this_machine_only_adds_its_own(
    digits: Digits, run: Run, tmp_path: Path
) -> None:
    with two_workers() as (made, client):
        client.run(become_another)
        options = ("--engine", made.scheduler_address, "--workers-apart")
        _, found = report(made, digits, run, tmp_path / "apart.json", *options)
    _, alone = report(made, digits, run, tmp_path / "local.json")
    (other,) = found.pop("other_workers")
    assert other["workers"] == 2
    del alone["other_workers"]
    assert found == alone


@walks("Install the same versions there, or leave it out of the cluster;")
def test_the_last_worker_of_a_kind_that_dies_ends_the_run(digits: Digits) -> None:
    flatbuffer = read_artifact(digits.float32).flatbuffer
    few = open_source(digits.test_images, Encoder(digits.int8).contract.input).sample(8, 0)
    here = collect_outputs(flatbuffer, few, range(8))

    def gives_the_same() -> None:
        with DaskEngine(client) as engine:
            np.testing.assert_array_equal(collect_outputs(flatbuffer, few, range(8), engine=engine), here)

    with two_workers() as (_, client):
        other = sorted(client.scheduler_info()["workers"])[0]
        client.run(become_another, workers=[other])
        with pytest.raises(WorkerMismatchError):
            DaskEngine(client)
        client.run(lambda: os.environ.__delitem__("EMBEDLITE_RUNTIME"), workers=[other])
        gives_the_same()
        client.run(become_another, workers=[other])
        with DaskEngine(client, patience=2, apart=True) as engine:
            assert [kind.workers for kind in engine.others] == [(other,)]
            client.retire_workers([other])
            source = open_source(digits.test_images, Encoder(digits.int8).contract.input).sample(40, 0)
            with pytest.raises(EngineError, match="has had no worker for 2 s that is like"):
                rows = np.empty((40, 128), np.float32)
                embed_far(engine.others[0], digits.int8, source, rows, contract=None, ready=False, label="apart")
        gives_the_same()


def test_kinds_are_told_apart_by_all_that_decides_results() -> None:
    here = {"embedlite": "1", "interpreter": "a 1", "Pillow": "11", "machine": "x86_64"}
    arm = {**here, "machine": "aarch64"}
    answers = {"w3": arm, "w1": here, "w2": {**here, "Pillow": "10"}, "w0": arm}
    assert others_by_kind(answers, here) == [({**here, "Pillow": "10"}, ("w2",)), (arm, ("w0", "w3"))]
    with pytest.raises(WorkerMismatchError, match=r"embedlite 2 \(here 1\)"):
        others_by_kind({"w": {**arm, "embedlite": "2"}}, here)


def test_one_machine_has_no_workers_to_set_apart(digits: Digits, run: Run) -> None:
    sides = ("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images)
    assert "--workers-apart is for a cluster" in error_line(run(*sides, "--engine", "dask", "--workers-apart"))
