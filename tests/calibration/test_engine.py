"""Engines give the same, whatever runs the images: threads, or the two workers of a real cluster, killed or not."""

import contextlib
import importlib.metadata
import io
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, Future
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.calibration import (
    CalibrationCache,
    CalibrationDataError,
    collect_statistics,
    merge,
    save_statistics,
    tensor_groups,
)
from embedlite.calibration.collect import collect_outputs, collect_ranges
from embedlite.calibration.engine import LocalEngine, list_images, open_engine
from embedlite.calibration.engine.dask_engine import DaskEngine, check_environment, shard_size
from embedlite.calibration.engine.worker import describe_worker, drop_model, keep_model, run_shard
from embedlite.calibration.images import check_unchanged
from embedlite.calibration.observe import StatisticsTask
from embedlite.calibration.statistics import Statistics, sparse
from embedlite.convert import ExportOptions, export
from embedlite.runtime import InputContract
from embedlite.runtime.errors import EngineError, RequestError, UnreadableDataError, WorkerMismatchError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.version import __version__

from cluster import Deadly, Slow, two_workers
from conftest import Digits
from example_records import record
from ways_out import brought, walks

CONTRACT = InputContract((32, 32, 1))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with two_workers() as (_, connected):
        yield connected


@pytest.fixture
def engine(client: Client) -> Iterator[DaskEngine]:
    with DaskEngine(client) as made:
        yield made


@pytest.fixture(scope="module")
def flatbuffer(digits: Digits) -> bytes:
    return read_artifact(digits.float32).flatbuffer


@pytest.fixture
def source(digits: Digits) -> Source:
    return open_source(digits.calibration, CONTRACT).sample(90, 0)


def saved(folder: Path, statistics: Statistics) -> bytes:
    save_statistics(folder / "saved.npz", statistics)
    return (folder / "saved.npz").read_bytes()


def test_a_cluster_gives_this_machines_bytes(
    engine: DaskEngine, flatbuffer: bytes, source: Source, tmp_path: Path
) -> None:
    here, there = (collect_statistics(flatbuffer, source, engine=item) for item in (LocalEngine(2), engine))
    assert saved(tmp_path, here) == saved(tmp_path, there)
    order = list(range(80, 3, -1))
    np.testing.assert_array_equal(
        collect_outputs(flatbuffer, source, order), collect_outputs(flatbuffer, source, order, engine=engine)
    )
    channels = {tensor_groups(flatbuffer)[3].name}
    mine, other = (
        collect_ranges(flatbuffer, source, by_channel=channels, engine=item) for item in (LocalEngine(), engine)
    )
    assert mine.limits == other.limits and mine.samples == other.samples
    assert list_images(source, engine).fingerprint(source.ids) == source.fingerprint()
    # Statistics, outputs, ranges and hashes of the images: each was counted where it was done.
    assert engine.summary.images == 90 + 77 + 90 + 90


@pytest.mark.parametrize("kind", ["npy", "tfrecord"])
def test_other_kinds_of_data_are_read_where_they_are(
    kind: str, engine: DaskEngine, flatbuffer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), np.uint8)
    path = tmp_path / f"pool.{kind}"
    if kind == "npy":
        np.save(path, images)
    else:
        path.write_bytes(b"".join(map(record, images)))
    # A relative path: the workers are elsewhere.
    monkeypatch.chdir(tmp_path)
    source = open_source(path.name, CONTRACT).subset(range(39, 0, -2))
    here, there = (collect_statistics(flatbuffer, source, engine=item) for item in (LocalEngine(2), engine))
    assert saved(tmp_path, here) == saved(tmp_path, there)
    # Where the images are is sent, not what is in them.
    assert len(pickle.dumps(source.shard(range(20)))) < 3000


@pytest.fixture(scope="module")
def thirty(digits: Digits, flatbuffer: bytes) -> tuple[Source, Statistics]:
    """Thirty images and their statistics."""
    source = open_source(digits.calibration, CONTRACT).sample(30, 1)
    return source, collect_statistics(flatbuffer, source, threads=1)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_shards_merge_to_the_same(
    data: st.DataObject, flatbuffer: bytes, thirty: tuple[Source, Statistics]
) -> None:
    """What workers do, without a cluster: any cut of the images, any order of the results, sent as they are sent."""
    source, whole = thirty
    order = data.draw(st.permutations(range(30)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 29), max_size=6)))
    shards = [order[a:b] for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
    keep_model("sha", flatbuffer, "test")
    try:
        task = StatisticsTask(True, ())
        done = [pickle.loads(pickle.dumps(run_shard(task, "sha", source.shard(shard)))) for shard in shards]
    finally:
        drop_model("sha", "test")
    merged = merge(item.result for item in done)
    assert (merged.samples, merged.images) == (whole.samples, whole.images)
    for name, tensor in whole.tensors.items():
        assert (tensor.lowest, tensor.highest) == (merged.tensors[name].lowest, merged.tensors[name].highest)
        np.testing.assert_array_equal(tensor.counts, merged.tensors[name].counts)


def test_sparse_parts_merge_as_plain_ones_and_not_twice(flatbuffer: bytes, source: Source, tmp_path: Path) -> None:
    one, two = (collect_statistics(flatbuffer, source, indices=part) for part in (range(40), range(40, 90)))
    assert saved(tmp_path, merge([one, two])) == saved(tmp_path, merge([sparse(two), one]))
    with pytest.raises(CalibrationDataError, match="twice"):
        merge([one, sparse(two), sparse(one)])


@given(st.integers(1, 10**8), st.integers(1, 2000))
def test_every_thread_has_a_shard_and_a_result_is_worth_sending(images: int, threads: int) -> None:
    size = shard_size(images, threads)
    assert 1 <= size <= 1024
    assert -(-images // size) >= min(images, threads)
    # No more than keep every thread busy, or than a large pool needs.
    assert images // size <= max(8 * threads, images // 256)


@pytest.fixture
def broken(digits: Digits, tmp_path: Path) -> Source:
    """Sixty images, of which two are none."""
    for path in sorted(digits.calibration.iterdir())[:60]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = open_source(tmp_path, CONTRACT)
    for place in (13, 41):
        (tmp_path / source.ids[place]).write_bytes(b"nothing")
    return source


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_the_first_bad_image_is_named(where: str, engine: DaskEngine, flatbuffer: bytes, broken: Source) -> None:
    with pytest.raises(UnreadableDataError, match=broken.ids[13]):
        collect_statistics(flatbuffer, broken, engine=engine if where == "cluster" else LocalEngine(2))
    # Neither half a shard nor a model is left that would get into another run.
    assert collect_statistics(flatbuffer, broken, engine=engine, indices=range(14, 41)).samples == 27


def test_a_killed_worker_changes_nothing(flatbuffer: bytes, digits: Digits, tmp_path: Path) -> None:
    source = open_source(digits.calibration, CONTRACT)
    whole = collect_statistics(flatbuffer, source)
    with two_workers() as (_, client), DaskEngine(client) as engine:
        pids = list(client.run(os.getpid).values())
        killed = []

        def indices() -> Iterator[int]:
            for index in range(len(source)):
                # Results are there and others under way.
                if engine.summary.images > 20 and not killed:
                    os.kill(pids[0], signal.SIGKILL)
                    killed.append(pids[0])
                yield index

        there = collect_statistics(flatbuffer, source, engine=engine, indices=indices())
        assert killed
    assert saved(tmp_path, there) == saved(tmp_path, whole)


def test_a_worker_that_joins_late_gets_the_model_and_works(flatbuffer: bytes, digits: Digits) -> None:
    source = open_source(digits.calibration, CONTRACT)
    with two_workers() as (cluster, client):
        cluster.scale(1)
        while len(client.scheduler_info()["workers"]) > 1:
            time.sleep(0.05)
        with DaskEngine(client) as engine:

            def indices() -> Iterator[int]:
                for index in range(len(source)):
                    if index == 50:
                        cluster.scale(2)
                        client.wait_for_workers(2, timeout=30)
                    yield index

            statistics = collect_statistics(flatbuffer, source, engine=engine, indices=indices())
            assert engine.summary.workers == 2
    assert statistics.samples == len(source)
    assert statistics.images == collect_statistics(flatbuffer, source).images


def test_an_image_that_kills_every_worker_ends_the_run(digits: Digits, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(digits.calibration.iterdir())[:8]):
        (tmp_path / f"{'dead' if number == 5 else 'good'}{number}.png").write_bytes(path.read_bytes())
    with (
        # Dask's own default gives an image four tries, and as many workers have to be started.
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        two_workers() as (_, client),
        DaskEngine(client) as engine,
        pytest.raises(EngineError, match=r"died again and again.*'dead5.png'"),
    ):
        list(engine.run(Deadly(), b"", open_source(tmp_path, CONTRACT)))


def test_a_result_that_is_lost_with_its_worker_is_computed_again(
    flatbuffer: bytes, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(digits.calibration, CONTRACT).sample(30, 0)
    lost: list[str] = []
    gather = DaskEngine._gather

    def after_a_death(engine: DaskEngine, futures: dict[int, Future]) -> dict[int, Any]:
        if futures and not lost:
            # Dask gives a result back as done, and its only copy dies before anybody can fetch it.
            future = next(iter(futures.values()))
            [(holder, *_)] = [workers for workers in engine._client.who_has([future]).values() if workers]
            pid = engine._client.run(os.getpid, workers=[holder])[holder]
            os.kill(pid, signal.SIGKILL)
            while future.status == "finished":
                time.sleep(0.01)
            lost.append(future.status)
        return gather(engine, futures)

    monkeypatch.setattr(DaskEngine, "_gather", after_a_death)
    with two_workers() as (_, client), DaskEngine(client) as engine:
        there = collect_statistics(flatbuffer, source, engine=engine)
        assert lost == ["lost"]
        assert engine.summary.images == 30
    assert saved(tmp_path, there) == saved(tmp_path, collect_statistics(flatbuffer, source))


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedlite.calibration.engine.dask_engine.CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(EngineError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 within 0.5 s"),
        open_engine("tcp://127.0.0.1:9", None),
    ):
        pass


@pytest.mark.parametrize("engine", ["spark", "http://x", 3, None])
def test_what_is_no_engine_is_refused(engine: object) -> None:
    with pytest.raises(RequestError, match=r"Use local, dask|Pass 'local'"), open_engine(engine, None):
        pass


@walks("Run on every worker: pip install 'embedlite[images,dask]==")
def test_workers_without_embedlite_or_with_another_version_are_refused(
    client: Client, flatbuffer: bytes, source: Source
) -> None:
    client.run(hide)
    try:
        with pytest.raises(WorkerMismatchError, match=r"cannot run embedlite: .*pip install 'embedlite"):
            DaskEngine(client)
    finally:
        client.run(show)
    # What pip would bring there is what is here.
    assert importlib.metadata.version("embedlite") == __version__
    with DaskEngine(client) as engine:
        assert list(collect_outputs(flatbuffer, source, [0], engine=engine)[0].shape)
    here = describe_worker()
    with pytest.raises(WorkerMismatchError, match=r"worker w .*: it has embedlite 9.9 \(here"):
        check_environment({**here, "embedlite": "9.9"}, here, "w")
    client.run(lambda: os.environ.__setitem__("EMBEDLITE_RUNTIME", "tflite-runtime"))
    try:
        with pytest.raises(WorkerMismatchError, match=r"interpreter tflite-runtime 2\.14.*\(here ai-edge-litert"):
            DaskEngine(client)
    finally:
        client.run(lambda: os.environ.__delitem__("EMBEDLITE_RUNTIME"))


def hide() -> None:
    sys.modules["embedlite.calibration.engine.worker_hidden"] = sys.modules["embedlite.calibration.engine.worker"]
    sys.modules["embedlite.calibration.engine.worker"] = None


def show() -> None:
    sys.modules["embedlite.calibration.engine.worker"] = sys.modules.pop("embedlite.calibration.engine.worker_hidden")


def test_what_is_in_memory_alone_is_not_sent(engine: DaskEngine, flatbuffer: bytes) -> None:
    source = open_source(np.zeros((4, 32, 32, 1), np.uint8), CONTRACT)
    with pytest.raises(RequestError, match=r"images are never sent.*Save them as \.npy"):
        collect_statistics(flatbuffer, source, engine=engine)


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_a_pool_that_changes_while_it_is_read_is_noticed(
    where: str, engine: DaskEngine, flatbuffer: bytes, digits: Digits, tmp_path: Path
) -> None:
    files = sorted(digits.calibration.iterdir())
    for path in files[:20]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source, used = open_source(tmp_path, CONTRACT), engine if where == "cluster" else LocalEngine(2)
    listing = list_images(source, used)
    before = collect_statistics(flatbuffer, source, engine=used)
    check_unchanged(before, source, range(20), listing, used)
    (tmp_path / source.ids[7]).write_bytes(files[30].read_bytes())
    after = collect_statistics(flatbuffer, source, engine=used)
    with pytest.raises(CalibrationDataError, match=f"changed while it was read: 1 image.*{source.ids[7]}"):
        check_unchanged(after, source, range(20), listing, used)


def test_a_run_that_is_stopped_on_a_cluster_goes_on_anywhere(
    engine: DaskEngine, flatbuffer: bytes, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DaskEngine, "first_chunk", 40)
    source = open_source(digits.calibration, CONTRACT).sample(100, 2)
    path, indices = tmp_path / "c.npz", range(100)

    def stopped() -> Iterator[int]:
        for index in indices:
            if index == 90:
                raise KeyboardInterrupt
            yield index

    with pytest.raises(KeyboardInterrupt):
        CalibrationCache(path, flatbuffer, source, engine=engine).collect("all", indices, threads=None, shown=stopped())
    done = engine.summary.images
    CalibrationCache(path, flatbuffer, source, engine=engine).collect("all", indices, threads=None, shown=indices)
    assert engine.summary.images - done == 100 + 60  # hashes of all, statistics of what was left
    CalibrationCache(tmp_path / "w.npz", flatbuffer, source).collect("all", indices, threads=2, shown=indices)
    assert path.read_bytes() == (tmp_path / "w.npz").read_bytes()


def test_nobody_imports_dask_who_does_not_ask_for_it(digits: Digits) -> None:
    code = (
        "import sys, embedlite.calibration.engine, embedlite.calibration.collect\n"
        "from embedlite.calibration.engine import open_engine\n"
        "with open_engine('local', 1): pass\n"
        "print([name for name in ('dask', 'distributed', 'fsspec', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_thread_that_nobody_listens_to_ends(source: Source, flatbuffer: bytes) -> None:
    before = threading.active_count()
    parts = LocalEngine(2).run(replace(StatisticsTask(False, ()), images=1), flatbuffer, source)
    next(parts)
    parts.close()
    assert threading.active_count() == before


def test_an_export_on_a_cluster_is_the_same_file(client: Client, digits: Digits, tmp_path: Path) -> None:
    files = []
    for name, engine in (("here", "local"), ("there", client)):
        made = export(
            digits.float32,
            tmp_path / name,
            quantize=["int8"],
            calibration_data=digits.calibration,
            options=ExportOptions(
                num_samples=60,
                select="coverage",
                calibrate_method="mse",
                calibration_cache=tmp_path / f"{name}.npz",
                correct=["none"],
                measure=False,
                threads=2,
                engine=engine,
            ),
        )
        files.append((made.files[0].path.read_bytes(), (tmp_path / f"{name}.npz").read_bytes()))
    assert files[0] == files[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_progress_dashboard_and_what_each_worker_did(
    client: Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with DaskEngine(client) as engine:
        assert sum(part.result for part in engine.run(Slow(), b"", source, engine.counted(range(90), 90, "waiting")))
        # What is shown is what is done, and it is gone at the end.
        assert re.search(r"\rwaiting: \d+/90, \d+ images/s on 2 worker\(s\)\x1b\[K", sys.stderr.getvalue())
        assert sys.stderr.getvalue().endswith("\r\x1b[K")
    shown = sys.stderr.getvalue()
    assert shown.startswith(f"dashboard: {client.dashboard_link}")
    assert re.search(r"90 images on 2 worker\(s\), \d+ images/s:\n +0 +\d+ images +\d+ shards", shown)


@walks("a cluster needs Dask, which cannot be imported (")
def test_dask_is_brought_by_the_extra_that_the_error_names(client: Client) -> None:
    code = (
        "import sys; sys.modules['distributed'] = None\n"
        "from embedlite.calibration.engine import open_engine\nwith open_engine('dask', 1): pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "dask" in brought(done.stderr)
    with open_engine(client, None) as engine:
        assert engine.environment == describe_worker()


@contextlib.contextmanager
def scheduler_and_worker(address: str | None = None) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """As a user starts them, each a process of its own."""
    address = address or f"tcp://127.0.0.1:{unused_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for command in (
            ["scheduler", "--host", address, "--dashboard-address", "127.0.0.1:0"],
            ["worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"],
        )
    ]
    try:
        _wait_for(address)
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait_for(address: str) -> None:
    """On a busy machine a scheduler that was only just started takes longer to listen than an engine waits."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    end = time.monotonic() + 120
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            assert time.monotonic() < end, address
            time.sleep(0.1)
        else:
            return


def test_a_cluster_without_workers_ends_the_run(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedlite.calibration.engine.dask_engine.CONNECT_SECONDS", 4)
    with scheduler_and_worker() as (address, processes), open_engine(address, None) as engine:
        monkeypatch.setattr(engine, "_patience", 2)

        def indices() -> Iterator[int]:
            for index in range(90):
                if index == 60:
                    processes[1].kill()
                yield index

        started = time.monotonic()
        with pytest.raises(EngineError, match=f"at {address} has had no worker for 2 s.*dask worker {address}"):
            list(engine.run(Slow(), b"", source, indices()))
        assert time.monotonic() - started < 60


@walks("). Start it again and run the command again; with --calibration-cache")
def test_a_scheduler_that_is_started_again_goes_on_where_it_was(
    flatbuffer: bytes, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedlite.calibration.engine.dask_engine.CONNECT_SECONDS", 4)
    monkeypatch.setattr(DaskEngine, "first_chunk", 40)
    source, path, indices = open_source(digits.calibration, CONTRACT).sample(100, 2), tmp_path / "c.npz", range(100)

    def killed() -> Iterator[int]:
        for index in indices:
            if index == 90:
                processes[0].kill()
                processes[0].wait()
            yield index

    with scheduler_and_worker() as (address, processes), open_engine(address, None) as engine:
        cache = CalibrationCache(path, flatbuffer, source, engine=engine)
        with pytest.raises(EngineError, match=f"at {address} no longer answers"):
            cache.collect("all", indices, threads=None, shown=killed())
    with scheduler_and_worker(address), open_engine(address, None) as engine:
        CalibrationCache(path, flatbuffer, source, engine=engine).collect("all", indices, threads=None, shown=indices)
        assert engine.summary.images == 100 + 60  # hashes of all, statistics of what was left
    CalibrationCache(tmp_path / "w.npz", flatbuffer, source).collect("all", indices, threads=2, shown=indices)
    assert path.read_bytes() == (tmp_path / "w.npz").read_bytes()


@pytest.mark.parametrize("at", [0, 80], ids=["before the first image", "among the last ones"])
def test_a_client_that_closed_itself_is_a_scheduler_that_no_longer_answers(
    at: int, client: Client, flatbuffer: bytes, source: Source
) -> None:
    """As it does some seconds after it lost the scheduler, whatever is being done then."""
    address = client.scheduler.address

    def lost() -> Iterator[int]:
        for index in range(len(source)):
            if index == at:
                engine._client.sync(engine._client._close)
            yield index

    with open_engine(address, None) as engine:
        assert isinstance(engine, DaskEngine)
        with pytest.raises(EngineError, match="no longer answers"):
            list(engine.run(StatisticsTask(False, ()), flatbuffer, source, lost()))
    # On the way out, with another error.
    with pytest.raises(UnreadableDataError), open_engine(address, None) as engine:
        engine._sent.add("0" * 64)
        engine._client.sync(engine._client._close)
        raise UnreadableDataError("another")


def unused_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])
