"""--help of every command: an example on top that works as it stands, and every option in a group."""

import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from embedlite.convert.command import export_tflite
from embedlite.report.command import drift_report
from embedlite.report.fleet.command import drift_fleet
from embedlite.runtime import DriftMonitor, Encoder
from embedlite.runtime.commands.embed import embed
from embedlite.runtime.commands.inspect import inspect
from embedlite.runtime.commands.options import Command, GroupedOption

from conftest import Digits

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
def test_the_example_works(command: Command, folder: Path, digits: Digits) -> None:
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
    written = {export_tflite: "exported/model.int8.tflite", embed: "vectors.npz"}
    assert command not in written or (folder / written[command]).is_file()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_in_a_group_and_used(command: Command) -> None:
    options = [option for option in command.params if isinstance(option, click.Option)]
    common = {"json_path", "verbose", "version", "help"}
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
