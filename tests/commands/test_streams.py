"""Standard output and error that are closed, full or read by nobody: the right code, and never a traceback."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from ways_out import walks

COMMANDS = ("export-tflite", "embed-tflite", "inspect-tflite", "drift-report", "drift-fleet")
FULL = "error: cannot write to standard output: No space left on device. Send it elsewhere, or give --quiet"


def shell(line: str, folder: Path, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a line in which commands stand by their names."""
    scripts = sysconfig.get_path("scripts")
    return subprocess.run(
        ["bash", "-c", f'PATH="{scripts}:$PATH"; {line}'],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
    )


def to_nobody(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line into a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return shell(line, folder, writer)
    finally:
        os.close(writer)


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """A folder with two sets of vectors that are far apart."""
    rows = np.random.default_rng(0).normal(size=(2, 30, 8)).astype(np.float32)
    for name, embeddings in zip(("a.npz", "b.npz"), rows, strict=True):
        np.savez(tmp_path / name, embeddings=embeddings, ids=np.arange(30).astype(str))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_full_is_an_error_on_every_command(command: str, tmp_path: Path) -> None:
    done = shell(f"{command} --help > /dev/full", tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(FULL)


@pytest.mark.parametrize("command", COMMANDS)
def test_names_with_line_breaks_and_escape_sequences_stay_in_one_line(command: str, tmp_path: Path) -> None:
    more = {"embed-tflite": "x -o y.npz", "drift-report": "--reference x"}.get(command, "")
    for name in (r"$'\e[31mred\nerror: false.npz'", r"--no$'\e[31mred\nerror: false'"):
        done = shell(f"{command} {name} {more}", tmp_path)
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith(("error: ", "Error: ")), done.stderr
        assert r"\x1b[31mred\nerror: false" in last


@walks("cannot write to standard output: {}. Send it elsewhere")
def test_a_result_that_is_sent_elsewhere_is_there(vectors: Path) -> None:
    command = "drift-report a.npz --reference b.npz"
    assert shell(f"{command} > /dev/full", vectors).returncode == 2
    for rest in ("> report", "--quiet --json report > /dev/full"):
        done = shell(f"{command} {rest}", vectors)
        assert (done.returncode, done.stderr) == (1, "")
        assert "fail" in (vectors / "report").read_text().lower()


def test_a_verdict_that_nobody_reads_keeps_its_code(vectors: Path) -> None:
    command = "drift-report a.npz --reference b.npz --json report.json"
    for line, start in ((command, to_nobody), (f"{command} >&-", shell)):
        done = start(line, vectors)
        assert (done.returncode, done.stderr) == (1, "")
        assert json.loads((vectors / "report.json").read_text())["verdict"] == "fail"
        (vectors / "report.json").unlink()
    full = shell(f"{command} > /dev/full", vectors)
    assert full.returncode == 2
    assert json.loads((vectors / "report.json").read_text())["verdict"] == "fail", "the file is there all the same"


def test_json_on_a_closed_output_is_an_error(vectors: Path) -> None:
    done = shell("drift-report a.npz --reference b.npz --json - >&-", vectors)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write to standard output: it is closed.")


def test_an_error_that_nobody_reads_keeps_its_code(tmp_path: Path) -> None:
    for streams in ("2> /dev/full", "2>&-", "<&- >&- 2>&-"):
        done = shell(f"inspect-tflite missing.tflite {streams}", tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_warnings_of_libraries_stay_out_though_tensorflow_sets_their_level_back() -> None:
    code = (
        "import absl.logging as absl\nfrom embedlite.runtime.commands.options import quiet_libraries\n"
        "with quiet_libraries():\n"
        "    level = absl.get_verbosity()\n    absl.set_verbosity(absl.FATAL)\n    absl.set_verbosity(level)\n"
        "    absl.warning('of no use here')\n    absl.error('this is')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "of no use here" not in done.stderr
    assert "this is" in done.stderr


@pytest.mark.parametrize(("kind", "shown"), [("EmbedliteError", False), ("ZeroDivisionError", True)])
def test_what_libraries_say_is_shown_with_errors_that_nobody_foresaw_alone(kind: str, shown: bool) -> None:
    code = (
        "import os\nfrom embedlite.runtime.commands.options import quiet_libraries\n"
        "from embedlite.runtime.errors import EmbedliteError\n"
        "try:\n    with quiet_libraries():\n        os.write(2, b'said by a library')\n"
        f"        raise {kind}('the reason')\nexcept {kind}:\n    pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("said by a library" in done.stderr) == shown
