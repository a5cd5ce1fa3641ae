"""The cache: the same bytes whether or not a run was killed; refused with the difference where it does not belong."""

import json
import resource
import shutil
import signal
import subprocess
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedlite.calibration import (
    CalibrationCache,
    StatisticsMismatchError,
    collect_statistics,
    tensor_groups,
)
from embedlite.calibration import statistics_cache as cache_module
from embedlite.calibration.engine import LocalEngine
from embedlite.convert import ExportOptions, export
from embedlite.runtime import InputContract
from embedlite.runtime.errors import OutputError, UnreadableDataError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.artifact import read_artifact

from conftest import Digits, Run

CONTRACT = InputContract((32, 32, 1))
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 1), np.uint8)


@pytest.fixture(scope="module")
def flatbuffer(digits: Digits) -> bytes:
    return read_artifact(digits.float32).flatbuffer


@pytest.fixture
def source() -> Source:
    return open_source(IMAGES, CONTRACT)


def collect(path: Path, flatbuffer: bytes, source: Source, indices: range = range(50)) -> object:
    return CalibrationCache(path, flatbuffer, source).collect("all", indices, threads=2, shown=indices)


def test_a_cache_gives_what_a_run_without_it_gives(flatbuffer: bytes, source: Source, tmp_path: Path) -> None:
    cached, plain = collect(tmp_path / "c.npz", flatbuffer, source), collect_statistics(flatbuffer, source)
    again = collect(tmp_path / "c.npz", flatbuffer, source)
    for statistics in (cached, again):
        assert (statistics.samples, statistics.images) == (plain.samples, plain.images)
        for group in tensor_groups(flatbuffer):
            mine, other = statistics.tensors[group.name], plain.tensors[group.name]
            assert (mine.lowest, mine.highest) == (other.lowest, other.highest)
            np.testing.assert_array_equal(mine.counts, other.counts)


def test_a_full_cache_needs_no_inference(
    flatbuffer: bytes, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(tmp_path / "c.npz", flatbuffer, source)
    before = (tmp_path / "c.npz").read_bytes()
    monkeypatch.delattr(cache_module, "collect_statistics")
    collect(tmp_path / "c.npz", flatbuffer, source)
    assert (tmp_path / "c.npz").read_bytes() == before


@pytest.mark.parametrize("stop", [1, 17, 49])
def test_a_run_that_an_error_stopped_goes_on_to_the_same_bytes(
    stop: int, flatbuffer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEngine, "first_chunk", 5)
    path = tmp_path / "c.npz"
    broken = open_source(IMAGES, CONTRACT)
    load = broken.load
    broken.ready = lambda index: 1 / 0 if index == stop else load(index).astype(np.float32) / 255
    with pytest.raises(ZeroDivisionError):
        collect(path, flatbuffer, broken)
    assert path.exists() == (stop >= 5)
    collect(path, flatbuffer, open_source(IMAGES, CONTRACT))
    collect(tmp_path / "whole.npz", flatbuffer, open_source(IMAGES, CONTRACT))
    assert path.read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("model", "the model (weights"),
        ("preprocessing", "mean ([0.0], now [127.5])"),
        ("added", "1 image(s) added ('50')"),
        ("removed", "1 image(s) removed ('49')"),
        ("changed", "1 image(s) changed ('7')"),
        ("tools", "ai-edge-litert (1.0, now"),
    ],
)
def test_a_cache_of_something_else_is_refused_with_the_difference(
    change: str, says: str, flatbuffer: bytes, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, images, contract = tmp_path / "c.npz", IMAGES.copy(), CONTRACT
    if change == "tools":
        older = replace(cache_module.find_runtime())
        # What the property would look up, and keep here.
        vars(older)["version"] = "1.0"
        monkeypatch.setattr(cache_module, "find_runtime", lambda: older)
    collect(path, flatbuffer, open_source(IMAGES, CONTRACT))
    monkeypatch.undo()
    before = path.read_bytes()
    if change == "model":
        from embedlite.convert.graph.graph import Graph

        graph = Graph(flatbuffer)
        weights = next(op for op in graph.operators if graph.operator_name(op) == "CONV_2D").inputs[1]
        graph.make_constant(int(weights), graph.constant(int(weights)) * 2)
        flatbuffer = graph.to_bytes()
    elif change == "preprocessing":
        contract = replace(CONTRACT, mean=(127.5,))
    elif change == "added":
        images = np.concatenate([images, images[:1] + 1])
    elif change == "removed":
        images = images[:-1]
    elif change == "changed":
        images[7] += 1
    with pytest.raises(StatisticsMismatchError) as caught:
        collect(path, flatbuffer, open_source(images, contract))
    assert says in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_cache_cut_short_is_refused_and_kept(share: float, flatbuffer: bytes, source: Source, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    collect(path, flatbuffer, source)
    cut = path.read_bytes()[: int(share * path.stat().st_size)]
    path.write_bytes(cut)
    with pytest.raises(UnreadableDataError, match="cannot read"):
        collect(path, flatbuffer, source)
    assert path.read_bytes() == cut


def test_another_file_is_no_cache_and_is_kept(flatbuffer: bytes, source: Source, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=IMAGES)
    before = (tmp_path / "mine.npz").read_bytes()
    with pytest.raises(UnreadableDataError, match="holds no calibration cache"):
        collect(tmp_path / "mine.npz", flatbuffer, source)
    assert (tmp_path / "mine.npz").read_bytes() == before


def test_a_folder_that_is_not_there_is_said_before_any_work(flatbuffer: bytes, source: Source, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        CalibrationCache(tmp_path / "none" / "c.npz", flatbuffer, source)


def test_a_disk_that_fills_up_leaves_the_old_cache(flatbuffer: bytes, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the middle, as there."""
    path = tmp_path / "c.npz"
    broken = open_source(IMAGES, CONTRACT)
    load = broken.load
    broken.ready = lambda index: 1 / 0 if index == 30 else load(index).astype(np.float32) / 255
    with pytest.raises(ZeroDivisionError):
        collect(path, flatbuffer, broken)
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            collect(path, flatbuffer, open_source(IMAGES, CONTRACT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [item.name for item in tmp_path.iterdir()] == ["c.npz"]
    assert path.read_bytes() == before
    collect(path, flatbuffer, open_source(IMAGES, CONTRACT))


def test_the_command_says_that_its_cache_could_not_be_written(digits: Digits, tmp_path: Path) -> None:
    data, program = tmp_path / "images.npy", Path(sysconfig.get_path("scripts"), "export-tflite")
    np.save(data, np.random.default_rng(1).normal(0, 50, (40, 32, 32, 1)).astype(np.float32))
    command = [program, digits.float32, "-o", tmp_path / "out", "-q", "int8", "--calibration-data", data]
    limited = ["bash", "-c", "ulimit -f 16; trap '' XFSZ; exec \"$@\"", "limited"]
    failed = subprocess.run(
        [*limited, *command, "--calibration-cache", tmp_path / "c.npz"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2, failed.stderr
    assert f"cannot write {tmp_path / 'c.npz'}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["images.npy"]


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(digits: Digits, run: Run, tmp_path: Path) -> None:
    data = tmp_path / "many.npy"
    np.save(data, np.random.default_rng(2).integers(0, 256, (400, 32, 32, 1), np.uint8))

    def command(name: str) -> tuple[str | Path, ...]:
        return (
            *("export-tflite", digits.float32, "-o", tmp_path / name, "-q", "int8"),
            *("--calibration-data", data, "--calibrate-method", "mse", "--calibration-cache", tmp_path / f"{name}.npz"),
            *("--no-equalize", "--correct", "none"),
        )

    name, *arguments = command("killed")
    program = [*run.ready.of("auto"), Path(sysconfig.get_path("scripts"), name)]
    process = subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (tmp_path / "killed.npz").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # The server kills the command of whoever is killed. Nobody has the pipe any more once that is gone.
    process.communicate()
    with np.load(tmp_path / "killed.npz") as partial:
        done = json.loads(partial["header"].tobytes().rstrip(b"\0"))["parts"]["fold0"]
    assert 0 < done < 400 - 64
    shutil.copy(tmp_path / "killed.npz", tmp_path / "as it was killed.npz")
    for name in ("killed", "whole"):
        ended = run(*command(name))
        assert ended.returncode == 0, ended.stderr
    for suffix in (".npz", "/model.float32.int8.tflite"):
        first, second = (Path(f"{tmp_path / name}{suffix}").read_bytes() for name in ("killed", "whole"))
        assert first == second
    assert (tmp_path / "as it was killed.npz").read_bytes() != (tmp_path / "killed.npz").read_bytes()


def test_the_export_uses_its_cache_for_every_method(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(method: str, cache: Path | None) -> bytes:
        result = export(
            digits.float32,
            tmp_path / f"{method} {cache is None}",
            quantize=["int8"],
            calibration_data=digits.calibration,
            options=ExportOptions(
                calibrate_method=method,
                calibration_cache=cache,
                num_samples=60,
                equalize=False,
                correct=["none"],
                measure=False,
            ),
        )
        return result.files[0].path.read_bytes()

    first = made("minmax", tmp_path / "c.npz")
    monkeypatch.delattr(cache_module, "collect_statistics")
    assert made("mse", tmp_path / "c.npz") == made("mse", None)
    assert first == made("minmax", None)
