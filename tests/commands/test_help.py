"""What all commands share: an example on top of --help that works, options in groups, completion, -v and --quiet."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sysconfig
import termios
from pathlib import Path

import click
import numpy as np
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner
from PIL import Image

from embedlite.convert.command import export_tflite
from embedlite.report.command import drift_report
from embedlite.report.fleet.command import drift_fleet
from embedlite.runtime import DriftMonitor, Encoder
from embedlite.runtime.commands.embed import embed
from embedlite.runtime.commands.inspect import inspect
from embedlite.runtime.commands.options import Command, GroupedOption

from conftest import Digits, Run

COMMANDS = (export_tflite, embed, inspect, drift_report, drift_fleet)

SAME = {
    "threads": "Processors to use",
    "json_path": "Write the result as JSON",
    "feature": "What holds the images",
    "gates": "A limit",
    "mean": "Subtracted from pixels",
    "output": "Which of several outputs",
}


@pytest.fixture
def folder(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the project's example leaves, few images of it; and the state of a monitor."""
    for name in ("model.keras", "model.int8.tflite", "model.float32.tflite"):
        (tmp_path / name).symlink_to(digits.folder / name)
    for name, count in (("calibration", 24), ("test", 12)):
        (tmp_path / name).mkdir()
        for path in sorted((digits.folder / name).iterdir())[:count]:
            (tmp_path / name / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example_of(command: click.Command) -> list[str]:
    """The words of the line that --help begins with."""
    first = CliRunner().invoke(command, ["--help"], prog_name=command.name).output.splitlines()[0]
    assert first.startswith("Example: ")
    words = shlex.split(first.removeprefix("Example: "))
    assert words[0] == command.name
    # As a shell does.
    return [str(path) for word in words[1:] for path in ([word] if "*" not in word else sorted(Path().glob(word)))]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_works(command: Command, folder: Path, digits: Digits, small: Path, run: Run) -> None:
    if command is export_tflite:
        # A small model's files are as good an answer; and in a process that has imported TensorFlow already.
        (folder / "model.keras").unlink()
        (folder / "model.keras").symlink_to(small)
        ended = run(command.name, *example_of(command), cwd=folder)
        assert ended.returncode == 0, ended.stderr
        assert (folder / "exported/model.int8.tflite").is_file()
        return
    if command is drift_fleet:
        (folder / "monitors").mkdir()
        images = np.stack([np.array(Image.open(path)) for path in sorted(digits.test_images.iterdir())[:8]])
        with Encoder("model.int8.tflite") as encoder:
            state = folder / "monitors" / "door.json"
            with DriftMonitor(encoder, "model.float32.tflite", every=1, budget=None, state=state) as monitor:
                monitor.embed(images if images.ndim == 4 else images[..., None])
    done = CliRunner().invoke(command, example_of(command), standalone_mode=False)
    assert done.exception is None, done.output
    assert done.return_value in (None, 0, 1 if command is drift_fleet else 0), done.output
    assert command is not embed or (folder / "vectors.npz").is_file()


QUESTIONS = {
    export_tflite: ("Pi Zero", "Pi 5", "microcontroller", "how many images", "bad: why", "assumed", "can I show"),
    drift_report: ("which threshold", "which class", "gallery again", "bad: why", "which file", "can I show"),
}


@pytest.mark.parametrize("command", QUESTIONS, ids=lambda command: command.name)
def test_the_questions_of_a_newcomer_stand_above_the_options(command: Command) -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    answers = shown[shown.index("\nQuestions:\n") :].split("\n\n", maxsplit=1)[0]
    assert all(question in answers for question in QUESTIONS[command])
    flags = {flag for one in COMMANDS for option in one.params for flag in option.opts}
    assert set(re.findall(r"--[a-z][a-z-]*", answers)) <= flags
    for page in re.findall(r"docs/\S+\.md", answers):
        assert (Path(__file__).parents[2] / page).exists()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_in_a_group_and_used(command: Command) -> None:
    options = [option for option in command.params if isinstance(option, click.Option)]
    common = {"json_path", "verbose", "quiet", "version", "help"}
    assert {option.name for option in options if not isinstance(option, GroupedOption)} <= common
    shown = CliRunner().invoke(command, ["--help"]).output
    assert "\nOptions:" not in shown
    for option in options:
        if isinstance(option, GroupedOption):
            assert f"\n{option.group}:\n" in shown
        assert option.help, option.name


@pytest.mark.parametrize("command", (inspect, drift_fleet), ids=lambda command: command.name)
def test_threads_are_refused_where_nothing_runs(command: Command) -> None:
    done = CliRunner().invoke(command, ["x", "--threads", "2"])
    assert done.exit_code == 2
    assert "No such option" in done.output


def test_one_word_means_one_thing() -> None:
    """A flag has one meaning on all commands, and a meaning one flag."""
    flags: dict[str, set[str]] = {}
    for command in COMMANDS:
        for option in command.params:
            if isinstance(option, click.Option):
                for flag in option.opts:
                    flags.setdefault(flag, set()).add(str(option.name))
                if option.name in SAME and option.name != "output":
                    assert str(option.help).startswith(SAME[option.name]), (command.name, option.name)
                if "--output" in option.opts:
                    assert str(option.help).startswith(SAME["output"])
    assert {flag: names for flag, names in flags.items() if len(names) > 1 and flag != "-o"} == {}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_completes(command: Command) -> None:
    shell = BashComplete(command, {}, str(command.name), "_COMPLETE")
    found = {item.value for item in shell.get_completions([], "--")}
    # --help and --version end the command, and complete as well.
    assert found >= {flag for option in command.params for flag in option.opts if flag.startswith("--")}


def test_the_words_that_an_option_knows_complete() -> None:
    shell = BashComplete(export_tflite, {}, "export-tflite", "_COMPLETE")
    found = [item.value for item in shell.get_completions(["model.keras", "--quantize"], "int")]
    assert found == ["int8", "int16x8"]


def test_bash_completes() -> None:
    """As docs/install.md says, in a real shell."""
    script = (
        'eval "$(_INSPECT_TFLITE_COMPLETE=bash_source inspect-tflite)"; '
        "COMP_WORDS=(inspect-tflite --js); COMP_CWORD=1; "
        '_inspect_tflite_completion inspect-tflite; echo "${COMPREPLY[@]}"'
    )
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("--json\n", "")


def test_quiet_prints_errors_alone_and_verbose_more(folder: Path) -> None:
    def told(*more: str) -> tuple[int, str]:
        stored = ["a.npz", "--reference", "b.npz", "--gate", "cosine_min=2"]
        done = CliRunner().invoke(drift_report, [*stored, *more], standalone_mode=False)
        if done.exception is not None:
            return 2, str(done.exception)
        return done.return_value, done.output

    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    for name in ("a.npz", "b.npz"):
        np.savez(folder / name, embeddings=rows, ids=np.arange(30).astype(str))
    assert told("--quiet") == (1, "")
    assert told("--quiet", "--json", "-")[1].startswith("{")
    (code, short), (_, long) = told(), told("-v")
    assert (code, "-v shows" in short, "-v shows" in long) == (1, True, False)
    assert len(long.splitlines()) > len(short.splitlines())
    assert "opposite" in told("--quiet", "-v")[1]


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_a_terminal_gets_colours_where_they_are_wanted(
    folder: Path, environment: dict[str, str], coloured: bool
) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    for name in ("a.npz", "b.npz"):
        np.savez(folder / name, embeddings=rows, ids=np.arange(30).astype(str))
    for columns in (80, 100, 120) if coloured else (80,):
        shown = on_terminal(["drift-report", "a.npz", "--reference", "b.npz", "-v"], columns, environment)
        assert ("\x1b[32mPASS\x1b[0m" in shown) == coloured
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        assert plain.startswith("PASS: a.npz against b.npz, 30 images")
        assert "\x1b" not in plain
        assert max(map(len, plain.splitlines())) <= columns


def on_terminal(command: list[str], columns: int, environment: dict[str, str]) -> str:
    """What a command shows on a terminal of that many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    given = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    program = Path(sysconfig.get_path("scripts"), command[0])
    with subprocess.Popen(
        [program, *command[1:]], stdout=follower, stderr=follower, env={**given, "TERM": "xterm", **environment}
    ) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                more = os.read(leader, 4096)
            except OSError:
                # Linux says so where the other end is closed.
                break
            if not more:
                break
            shown += more
        assert process.wait() == 0, shown
    os.close(leader)
    return shown.decode().replace("\r\n", "\n")
