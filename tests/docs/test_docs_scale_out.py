"""The commands of docs/scale-out.md, as they stand there: a scheduler, a worker, and both programs over a bucket."""

import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from buckets import s3_bucket
from conftest import ROOT, Digits, Run, blocks
from documents import small_models

IMAGES = 48
"""Of each folder: a bucket's server for tests takes its time over each."""

START, WORK = blocks((ROOT / "docs" / "scale-out.md").read_text(), "sh")[:2]


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def scheduler(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Started by the commands; the bucket's address is in the environment of all of them, as credentials would be."""
    host, port = "127.0.0.1", free_port()
    address = f"{host}:{port}"
    scheduler, worker = commands(START)
    scheduler += ["--host", host, "--port", port, "--dashboard-address", "127.0.0.1:0"]
    worker = [part.replace("scheduler:8786", address) for part in worker]
    worker[worker.index("8")] = "2"
    folder = tmp_path_factory.mktemp("dask")
    files = [
        (f"{name}/{path.name}", path) for name, images in folders(digits) for path in sorted(images.iterdir())[:IMAGES]
    ]
    with s3_bucket("bucket", files), (folder / "log").open("wb") as log:
        started = [subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) for command in (scheduler, worker)]
        try:
            with Client(address, timeout=30, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
            yield address
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(30)


def folders(digits: Digits) -> list[tuple[str, Path]]:
    return [("photos", digits.calibration), ("held-out", digits.test_images)]


def test_commands_on_a_cluster_run(
    scheduler: str, digits: Digits, run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = small_models(digits, run, tmp_path_factory)
    for name in ("model.keras", "model.float32.tflite"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    export, report = commands(WORK)
    export[export.index("5000")] = "40"
    for command in (export, report):
        done = run(*(part.replace("scheduler:8786", scheduler) for part in command), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "images on 2 worker(s)" in done.stderr
    assert (tmp_path / "pool.npz").exists()
