"""A drift report from a cluster's embeddings is this machine's, figure by figure."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from PIL import Image

from embedlite.calibration.engine import list_images
from embedlite.calibration.engine.dask_engine import DaskEngine
from embedlite.report.command import drift_report
from embedlite.report.embedding import check_same, embed_far
from embedlite.report.sides import Request, open_sides
from embedlite.runtime.errors import DataError, EmbedliteWarning, InputValueError, RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.contract import InputContract

from cluster import two_workers
from conftest import Digits, Run
from ways_out import walks

CONTRACT = InputContract((32, 32, 1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[LocalCluster, Client]]:
    with two_workers() as made:
        yield made


@pytest.fixture
def engine(cluster: tuple[LocalCluster, Client]) -> Iterator[DaskEngine]:
    with DaskEngine(cluster[1]) as made:
        yield made


def test_the_command_gives_the_same_report_wherever_it_embeds(
    cluster: tuple[LocalCluster, Client], digits: Digits, run: Run, tmp_path: Path
) -> None:
    found = []
    for engine in ("local", cluster[0].scheduler_address):
        done = run(
            *("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images),
            *("--num-samples", "150", "--engine", engine, "--json", tmp_path / "report.json"),
        )
        assert done.returncode == 0, done.stderr
        found.append((done.stdout, json.loads((tmp_path / "report.json").read_text())))
    assert found[0] == found[1]
    # Where the work was done, and nothing of Dask's own log.
    assert "images on 2 worker(s)" in done.stderr
    assert "distributed" not in done.stderr


def test_what_the_workers_noticed_is_said_here(engine: DaskEngine, digits: Digits, tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", np.random.default_rng(0).uniform(0, 255, (20, 32, 32, 1)).astype(np.float32))
    request = Request(digits.int8, digits.float32, tmp_path / "raw.npy", engine=engine)
    with pytest.warns(EmbedliteWarning, match="255"):
        open_sides(request)


def test_an_image_that_cannot_be_embedded_is_named(engine: DaskEngine, digits: Digits, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(0, 1, (20, 32, 32, 1)).astype(np.float32)
    images[11, 3] = np.nan
    np.save(tmp_path / "nan.npy", images)
    with pytest.raises(InputValueError, match=r"nan.npy, image '11': "):
        open_sides(Request(digits.int8, digits.float32, tmp_path / "nan.npy", engine=engine))


def test_an_image_that_changes_between_the_models_is_named(engine: DaskEngine, digits: Digits, tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(np.full((32, 32), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    source, rows = open_source(tmp_path, CONTRACT), np.empty((3, 128), np.float32)
    before = embed_far(engine, digits.int8, source, rows, contract=None, ready=False, label="candidate")
    check_same(before, list_images(source, engine), source)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "b.png")
    after = embed_far(engine, digits.int8, source, rows, contract=None, ready=False, label="candidate")
    with pytest.raises(DataError, match=r"changed while it was read: 1 image.*'b.png'"):
        check_same(before, after, source)


@walks("needs TensorFlow, which a cluster's workers do without. Name the")
@pytest.mark.usefixtures("served")
def test_what_cannot_run_on_a_cluster(cluster: tuple[LocalCluster, Client], digits: Digits) -> None:
    keras, float32 = (["--reference", str(path)] for path in (digits.model, digits.float32))
    far = ["--engine", cluster[0].scheduler_address]

    def report(*options: str) -> int:
        sides = [str(digits.int8), "--data", str(digits.test_images), "--num-samples", "40", "--threads", "1"]
        return int(drift_report.main([*sides, *options], standalone_mode=False))

    with pytest.raises(RequestError, match="unknown engine"):
        report(*keras, "--engine", "spark")
    with pytest.raises(RequestError):
        report(*keras, *far)
    assert report(*float32, *far) == report(*keras, "--engine", "local") == 0
