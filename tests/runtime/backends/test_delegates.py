"""A real delegate, compiled here, on both interpreters: it runs, or what is wrong with it is said."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from conftest import Digits, Run, error_line
from project_wheel import ROOT
from tools import require

RUNTIMES = ("ai-edge-litert", "tflite-runtime")
SOURCE = ROOT / "tests" / "support" / "reshape_delegate.c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three libraries: a delegate, half a delegate, and something else; and images."""
    compiler = require("cc")
    folder = tmp_path_factory.mktemp("delegates")
    (folder / "nothing.c").write_text("int nothing;\n")
    for name, source, options in (
        ("delegate", SOURCE, ()),
        ("half", SOURCE, ("-DWITHOUT_DESTROY",)),
        ("nothing", folder / "nothing.c", ()),
    ):
        command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *options, "-o"]
        subprocess.run([*command, folder / f"{name}.so", source], check=True)
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (6, 32, 32, 1), np.uint8))
    return folder


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_delegate_runs_with_its_options(runtime: str, folder: Path, digits: Digits, run: Run, tmp_path: Path) -> None:
    """It copies what the processor would copy, so that the vectors are the same; and it leaves a note."""
    embed = ("embed-tflite", digits.int8, folder / "images.npy", "-o")
    plain = run(*embed, tmp_path / "plain.npz", runtime=runtime)
    assert plain.returncode == 0, plain.stderr
    note = tmp_path / "note.txt"
    options = ("--delegate-option", f"report={note}", "--delegate-option", "mode=a=b")
    done = run(*embed, tmp_path / "with.npz", "--delegate", folder / "delegate.so", *options, runtime=runtime)
    assert done.returncode == 0, done.stderr
    assert note.read_text() == f"report={note}\nmode=a=b\n"
    with np.load(tmp_path / "plain.npz") as wanted, np.load(tmp_path / "with.npz") as got:
        np.testing.assert_array_equal(got["embeddings"], wanted["embeddings"])
        assert got["embeddings"].std() > 0.01
    replayed = run(
        *("embed-tflite", digits.int8, "--selftest", "--delegate", folder / "delegate.so", *options), runtime=runtime
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


MISTAKES = {
    "it has no device": (
        ["delegate.so", "--delegate-option", "fail=no device 0 here"],
        ["could not be loaded", "no device 0 here", "nothing falls back silently"],
    ),
    "it refuses the model": (
        ["delegate.so", "--delegate-option", "take=refuse"],
        ["refuses the model", "the accelerator is on fire", "nothing falls back silently"],
    ),
    "it takes nothing": (
        ["delegate.so", "--delegate-option", "take=none"],
        ["took none of the model's", "would run on the processor", "leave the delegate out"],
    ),
    "it is half of one": (["half.so"], ["is not a TFLite delegate", "tflite_plugin_destroy_delegate"]),
    "it is another library": (["nothing.so"], ["is not a TFLite delegate", "tflite_plugin_create_delegate"]),
    "it is not there": (["missing.so"], ["could not be loaded", "missing.so", "Check the path"]),
    "it is not a library": (["images.npy"], ["could not be loaded", "images.npy"]),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_wrong_with_a_delegate_is_said(
    name: str, runtime: str, folder: Path, digits: Digits, run: Run, tmp_path: Path
) -> None:
    (library, *options), messages = MISTAKES[name]
    output = tmp_path / "v.npz"
    command = ("embed-tflite", digits.float32, folder / "images.npy", "-o", output)
    message = error_line(run(*command, "--delegate", folder / library, *options, runtime=runtime))
    for part in messages:
        assert part in message
    assert not output.exists()


OPTIONS = {
    "options without a delegate": (["--delegate-option", "a=b"], "no delegate. Name one"),
    "an option without a value": (["--delegate", "x.so", "--delegate-option", "a"], "'a' is not of the form KEY=VALUE"),
    "an option without a name": (
        ["--delegate", "x.so", "--delegate-option", "=b"],
        "'=b' is not of the form KEY=VALUE",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_checked(name: str, folder: Path, digits: Digits, run: Run, tmp_path: Path) -> None:
    options, message = OPTIONS[name]
    command = ("embed-tflite", digits.float32, folder / "images.npy", "-o", tmp_path / "v.npz")
    assert message in error_line(run(*command, *options))
