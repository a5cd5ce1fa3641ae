"""``embed-tflite --measure`` on real files and a real delegate, and the reader of what it writes."""

import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.runtime.check.figures import (
    DeviceFigures,
    DeviceRuntime,
    FileFigures,
    another_model,
    read_device_figures,
)
from embedlite.runtime.check.golden import pack_golden, parse_golden
from embedlite.runtime.errors import DataError, DeviceFiguresError, UnreadableDataError
from embedlite.runtime.files import json_bytes
from embedlite.runtime.machine import describe_environment
from embedlite.runtime.model.artifact import append_contract, read_artifact

from conftest import Digits, Run, error_line
from project_wheel import ROOT
from tools import require


@pytest.fixture(scope="module")
def delegate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("delegate") / "delegate.so"
    command = [require("cc"), "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library]
    subprocess.run([*command, ROOT / "tests" / "support" / "reshape_delegate.c"], check=True)
    return library


@pytest.fixture
def folder(digits: Digits, tmp_path: Path) -> Path:
    """An export's folder with two files that run."""
    folder = tmp_path / "exported"
    folder.mkdir()
    for path in (digits.float32, digits.int8):
        shutil.copy(path, folder)
    return folder


def repacked(model: Path, target: Path, *, golden: bytes | None) -> Path:
    """The same model with other golden vectors, or none."""
    artifact = read_artifact(model)
    assert artifact.contract is not None
    target.write_bytes(append_contract(artifact.flatbuffer, artifact.contract, golden))
    return target


def operators(model: Path) -> str:
    return str(len(read_artifact(model).info.operators))


def test_every_file_of_a_folder_gets_its_figures(folder: Path, digits: Digits, run: Run) -> None:
    """A rejected file and a folder of a file's name are none of them; one without golden vectors is, and says so."""
    repacked(digits.float32, folder / "bare.tflite", golden=None)
    shutil.copy(digits.int8, folder / "model.int16x8.tflite.rejected")
    (folder / "old.tflite").mkdir()
    output = folder.parent / "device.json"
    done = run(*("embed-tflite", folder, "--measure", output), "--threads", "1", "--json", folder.parent / "again.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder.parent / "again.json").read_bytes() == output.read_bytes()
    figures = read_device_figures(output)
    assert figures.passed
    assert figures.threads == 1
    assert figures.device == describe_environment()
    assert (figures.runtime.name, figures.runtime.delegate) == ("ai-edge-litert", None)
    assert [file.path for file in figures.files] == ["bare.tflite", "model.float32.tflite", "model.int8.tflite"]
    assert [file.mode for file in figures.files] == ["float32", "float32", "int8"]
    assert [file.selftest and file.selftest["verdict"] for file in figures.files] == [None, "pass", "pass"]
    exported = {file["mode"]: file["sha256"] for file in json.loads(export_json(digits).read_text())["files"]}
    for mode in ("float32", "int8"):
        found = figures.of(exported[mode])
        assert found is not None
        assert found.path == f"model.{mode}.tflite"
    head, _, table = done.stdout.partition("\n\n")
    # The path may be longer than a line.
    assert "".join(head.split()).startswith(f"{output}:3filesonai-edge-litert")
    heading, *rows = table.splitlines()
    assert heading.split() == ["file", "mode", "µs", "repeated", "self-test"]
    assert [row.split()[0] for row in rows] == [file.path for file in figures.files]
    assert rows[0].endswith("no golden vectors")
    for row, file in zip(rows[1:], figures.files[1:], strict=True):
        assert f" {file.latency_us:,.0f}  {file.low_us:,.0f} to {file.high_us:,.0f} " in row
        assert row.endswith("pass")


def export_json(digits: Digits) -> Path:
    return digits.folder / "model.export.json"


def test_a_file_that_computes_something_else_fails_with_its_figures(folder: Path, digits: Digits, run: Run) -> None:
    artifact = read_artifact(digits.int8)
    assert artifact.golden is not None
    assert artifact.contract is not None
    golden = parse_golden(artifact.golden, artifact.contract)
    other = replace(golden, embeddings=np.ascontiguousarray(golden.embeddings[:, ::-1]))
    repacked(digits.int8, folder / "model.int8.tflite", golden=pack_golden(other))
    done = run("embed-tflite", folder, "--measure", "device.json", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "")
    good, bad = read_device_figures(folder / "device.json").files
    assert (good.passed, bad.passed) == (True, False)
    assert bad.selftest is not None
    assert bad.selftest["verdict"] == "fail"
    assert bad.latency_us is not None
    assert "model.int8.tflite does not compute here what it did at the export" in done.stdout


def test_micro_says_what_it_needs_and_what_it_cannot_run(folder: Path, digits: Digits, run: Run) -> None:
    shutil.copy(digits.file("float16"), folder)
    (folder / "model.float32.tflite").unlink()
    done = run("embed-tflite", folder, "--measure", "device.json", "--json", "-", cwd=folder, runtime="tflite-micro")
    assert (done.returncode, done.stderr) == (1, "")
    figures = DeviceFigures.from_json(json.loads(done.stdout))
    assert figures == read_device_figures(folder / "device.json")
    assert figures.runtime.name == "tflite-micro"
    refused, ran = figures.files
    assert refused.error is not None
    assert "TFLite Micro cannot allocate" in refused.error
    assert (refused.latency_us, refused.selftest) == (None, None)
    assert ran.arena_bytes is not None
    assert ran.arena_bytes > 32 * 32


CRASHES = {"when it is opened": ["crash={operators}"], "when it is timed": ["crash={operators}", "after=40"]}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_named_and_the_others_get_figures(name: str, folder: Path, delegate: Path, run: Run) -> None:
    crashing = folder / "model.int8.tflite"
    assert operators(crashing) != operators(folder / "model.float32.tflite")
    options = [f"--delegate-option={option.format(operators=operators(crashing))}" for option in CRASHES[name]]
    measured = run("embed-tflite", folder, "--measure", "device.json", "--delegate", delegate, *options, cwd=folder)
    assert (measured.returncode, measured.stderr) == (1, "")
    figures = read_device_figures(folder / "device.json")
    assert figures.runtime.delegate == str(delegate)
    well, crashed = figures.files
    assert well.passed
    assert well.selftest is not None
    assert crashed.error is not None
    assert "crashed with signal 6" in crashed.error
    assert "model.int8.tflite" in crashed.error
    assert crashed.latency_us is None
    assert (crashed.selftest is None) == (name == "when it is opened")
    assert f"model.int8.tflite: {crashed.error}" in " ".join(measured.stdout.split())


@pytest.mark.parametrize("second", ["refuse", "crash"])
def test_a_device_that_serves_one_file_at_a_time_measures_all(
    second: str, folder: Path, delegate: Path, run: Run
) -> None:
    options = ("--delegate", delegate, "--delegate-option", f"second={second}")
    done = run("embed-tflite", folder, "--measure", "device.json", *options, cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [file.passed for file in read_device_figures(folder / "device.json").files] == [True, True]


MISTAKES = {
    "a folder without files": (["empty", "--measure", "d.json"], "holds no .tflite file"),
    "a model that is not there": (["missing.tflite", "--measure", "d.json"], "cannot read the model"),
    "a plain file among others": (["plain", "--measure", "d.json"], "plain.tflite carries no contract"),
    "a damaged file among others": (["cut", "--measure", "d.json"], "cut.tflite"),
    "data": (["good", "good", "--measure", "d.json"], "leave out DATA"),
    "an output": (["good", "-o", "v.npz", "--measure", "d.json"], "leave out DATA, -o"),
    "a mean": (["good", "--mean", "0", "--measure", "d.json"], "what describes the input"),
    "the self-test as well": (["good", "--selftest", "--measure", "d.json"], "leave out --selftest"),
    "an output that exists": (["good", "--measure", "taken.json"], "--force"),
    "an output in no folder": (["good", "--measure", "nowhere/d.json"], "no folder"),
    "an output of another kind": (["good", "--measure", "d.csv"], ".json"),
    "a result over the figures": (["good", "--measure", "d.json", "--json", "d.json"], "named twice"),
    "figures over the model": (["taken.json", "--measure", "taken.json", "--force"], "named twice"),
    "a delegate that is not there": (["good", "--measure", "d.json", "--delegate", "x.so"], "x.so"),
    "a delegate without its device": (
        ["good", "--measure", "d.json", "--delegate", "DELEGATE", "--delegate-option", "fail=no device 0"],
        "no device 0",
    ),
    "options without a delegate": (["good", "--measure", "d.json", "--delegate-option", "a=b"], "no delegate"),
    "no processor": (["good", "--measure", "d.json", "--threads", "0"], "--threads"),
}


@pytest.fixture(scope="module")
def mistaken(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders in which something is wrong, each beside a file that is not."""
    folder = tmp_path_factory.mktemp("mistaken")
    for name in ("empty", "good", "plain", "cut"):
        (folder / name).mkdir()
        if name != "empty":
            shutil.copy(digits.int8, folder / name)
    (folder / "cut" / "cut.tflite").write_bytes(digits.int8.read_bytes()[:5000])
    from embedlite.convert.graph.graph import Graph

    graph = Graph(read_artifact(digits.int8).flatbuffer)
    graph.model.metadata, graph.model.description = [], "MLIR Converted."
    (folder / "plain" / "plain.tflite").write_bytes(graph.to_bytes())
    (folder / "taken.json").write_text("mine")
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_error_and_nothing_is_written(name: str, mistaken: Path, delegate: Path, run: Run) -> None:
    arguments, message = MISTAKES[name]
    before = sorted(mistaken.rglob("*"))
    given = [str(delegate) if argument == "DELEGATE" else argument for argument in arguments]
    assert message in error_line(run("embed-tflite", *given, cwd=mistaken))
    assert sorted(mistaken.rglob("*")) == before
    assert (mistaken / "taken.json").read_text() == "mine"


def test_ctrl_c_leaves_nothing(digits: Digits, delegate: Path, tmp_path: Path) -> None:
    """Pressed while the first file runs, as its delegate's note tells; what was written before is still there."""
    note, output = tmp_path / "note.txt", tmp_path / "device.json"
    output.write_text("mine")
    command = [Path(sysconfig.get_path("scripts"), "embed-tflite"), digits.file("int16x8"), "--measure", output]
    options = ["--force", "--delegate", delegate, "--delegate-option", f"report={note}"]
    process = subprocess.Popen(
        [sys.executable, *command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not note.exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "interrupted: nothing was written" in stderr
    assert "Traceback" not in stderr
    assert output.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [output, note]


def test_figures_are_replaced_with_force(digits: Digits, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "device.json"
    output.write_text("old")
    done = run("embed-tflite", digits.int8, "--measure", output, "--force")
    assert (done.returncode, done.stderr) == (0, "")
    (only,) = read_device_figures(output).files
    assert only.model_sha256 == read_artifact(digits.int8).sha256


texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
microseconds = st.floats(1e-3, 1e9) | st.integers(1, 10**9)


@st.composite
def file_figures(draw: st.DrawFn) -> FileFigures:
    described: dict[str, Any] = {"path": draw(texts), "mode": draw(texts), "model_sha256": draw(hashes)}
    if draw(st.booleans()):
        return FileFigures(**described, error=draw(texts))
    low, median, high = sorted(draw(st.lists(microseconds, min_size=3, max_size=3)))
    return FileFigures(
        **described,
        latency_us=median,
        low_us=low,
        high_us=high,
        arena_bytes=draw(st.none() | st.integers(1, 1 << 30)),
        selftest=draw(st.none() | st.sampled_from(["pass", "fail"]).map(lambda verdict: {"verdict": verdict})),
    )


device_figures = st.builds(
    DeviceFigures,
    st.dictionaries(texts, texts),
    st.builds(DeviceRuntime, texts, texts, st.none() | texts),
    st.integers(1, 512),
    st.lists(file_figures(), min_size=1, max_size=5).map(tuple),
)


@settings(deadline=None)
@given(device_figures)
def test_figures_survive_the_journey(figures: DeviceFigures) -> None:
    found = DeviceFigures.from_json(json.loads(json_bytes(figures.to_json())))
    assert found == figures
    for file in figures.files:
        same = found.of(file.model_sha256)
        assert same is not None
        assert same.model_sha256 == file.model_sha256
    assert found.passed == all(file.passed for file in found.files)


SAVED: dict[str, Any] = {
    "schema": 1,
    "device": {"embedlite": "0.1.0", "cpu": "Cortex-A72"},
    "runtime": {"name": "ai-edge-litert", "version": "2.3.0", "delegate": None},
    "threads": 4,
    "files": [
        {
            **{"path": "model.int8.tflite", "mode": "int8", "model_sha256": "ab" * 32, "arena_bytes": None},
            **{"latency_us": 20.0, "low_us": 19.0, "high_us": 22.5, "selftest": None, "error": None},
        }
    ],
}


def parts(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of everything in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from parts(value[key], (*place, key))


def changed(place: tuple[Any, ...], new: Any) -> Any:
    value = json.loads(json.dumps(SAVED))
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return value


def test_the_saved_figures_are_read(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    path.write_text(json.dumps(SAVED))
    assert read_device_figures(path).to_json() == SAVED


LATENCY = ("files", 0, "latency_us")
DAMAGES = {
    "no JSON": (b"photos", "Expecting value"),
    "no UTF-8": (b'{"schema": "\xff"}', "UnicodeDecodeError"),
    "nothing": (b"", "Expecting value"),
    "a list": (b"[1, 2]", "it is [1, 2]"),
    "too deep": (b"[" * 100_000, "RecursionError"),
    "NaN": (changed(LATENCY, float("nan")), "it holds NaN"),
    "infinity": (changed(LATENCY, float("inf")), "it holds Infinity"),
    "a number beyond floats": (json.dumps(SAVED).replace("22.5", "1e999").encode(), "high_us is inf"),
    "a number of too many digits": (json.dumps(SAVED).replace("22.5", "9" * 400).encode(), "OverflowError"),
    "negative": (changed(("files", 0, "low_us"), -3.5), "low_us is -3.5"),
    "zero": (changed(LATENCY, 0), "latency_us is 0"),
    "true": (changed(LATENCY, True), "latency_us is True"),
    "not timed for no reason": (changed(LATENCY, None), "latency_us is None"),
    "timed in spite of an error": (changed(("files", 0, "error"), "it crashed"), "could not be run"),
    "outside what was repeated": (changed(LATENCY, 23.0), "not between low_us and high_us"),
    "no hash": (changed(("files", 0, "model_sha256"), "ab"), "no SHA-256"),
    "no files": (changed(("files",), []), "no list of files"),
    "another verdict": (changed(("files", 0, "selftest"), {"verdict": "maybe"}), "no self-test"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_figures_are_refused(name: str, tmp_path: Path) -> None:
    content, message = DAMAGES[name]
    path = tmp_path / "device.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UnreadableDataError) as caught:
        read_device_figures(path)
    assert str(caught.value).startswith(f"{path} holds no figures of a device, or is damaged (")
    assert message in str(caught.value)
    assert "embed-tflite --measure" in str(caught.value)


@pytest.mark.parametrize("new", [None, "", -1, [], {}, "x", 1.5, True], ids=repr)
def test_a_part_of_another_kind_is_an_error_or_harmless(new: Any) -> None:
    """Whatever is read is sound: it can be written, and read again."""
    for place in parts(SAVED):
        try:
            figures = DeviceFigures.from_json(changed(place, new))
        except (DataError, AttributeError, KeyError, TypeError, ValueError, OverflowError):
            continue
        assert DeviceFigures.from_json(json.loads(json_bytes(figures.to_json()))) == figures


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    whole = json.dumps(SAVED).encode()
    path = tmp_path / "device.json"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableDataError):
            read_device_figures(path)


def test_other_files_are_named_by_what_is_in_them(digits: Digits, tmp_path: Path) -> None:
    for path, key in ((digits.folder / "drift.json", "verdict"), (export_json(digits), "source")):
        with pytest.raises(UnreadableDataError, match=f"an object with schema.*{key}.*expected one with schema, dev"):
            read_device_figures(path)
    with pytest.raises(UnreadableDataError, match=r"No such file.*on the device"):
        read_device_figures(tmp_path / "missing.json")
    with pytest.raises(UnreadableDataError, match="directory"):
        read_device_figures(tmp_path)


def test_newer_figures_name_the_version_to_install(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    path.write_text(json.dumps({**SAVED, "schema": 2, "device": {"embedlite": "3.1"}, "files": {"new": "form"}}))
    with pytest.raises(DeviceFiguresError, match=r"schema 2; .* reads up to 1\..*pip install 'embedlite>=3\.1'"):
        read_device_figures(path)


def test_figures_of_another_model_are_told_with_both_hashes() -> None:
    figures = DeviceFigures.from_json(SAVED)
    assert figures.of("cd" * 32) is None
    message = str(another_model("device.json", figures, "model.int8.tflite", "cd" * 32))
    for part in ("device.json is of another model.int8.tflite", "abababababab…", "cdcdcdcdcdcd…", "--measure"):
        assert part in message
    message = str(another_model("device.json", figures, "model.dynamic.tflite", "cd" * 32))
    for part in ("no figures of model.dynamic.tflite, only of model.int8.tflite", "cdcdcdcdcdcd…", "--measure"):
        assert part in message
