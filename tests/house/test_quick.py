"""What ``run.py check`` leaves out, and what ``run.py test`` begins with."""

import importlib.util
from types import ModuleType

import pytest

from conftest import LONGEST_FIRST
from project_wheel import ROOT
from quick import starts_a_world


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("docs/test_docs.py", True),
        ("whole/test_install.py", True),
        ("convert/test_export.py", True),
        ("calibration/test_engine.py", True),
        ("runtime/test_files.py", False),
        ("runtime/drift/test_drift.py", False),
        ("conftest.py", False),
    ],
)
def test_files_that_start_another_world_are_left_out(path: str, left_out: bool) -> None:
    assert starts_a_world(ROOT / "tests" / path) is left_out


def test_files_that_are_begun_first_are_there() -> None:
    assert set(LONGEST_FIRST) <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def verbs() -> ModuleType:
    """run.py as a module."""
    spec = importlib.util.spec_from_file_location("verbs", ROOT / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "trained", "given"),
    [
        (["-x"], True, ["-x"]),
        (["--digits", "out", "-x"], False, ["--digits=out", "-x"]),
        (["--digits=out"], False, ["--digits=out"]),
        (["-k", "a name"], True, ["-k", "a name"]),
    ],
)
def test_the_example_that_is_there_is_not_trained_again(
    arguments: list[str], trained: bool, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And pytest does not take its folder for one with tests."""
    module, ran = verbs(), list[tuple[str, ...]]()
    monkeypatch.setattr(module, "in_environment", lambda *command: ran.append(command) or 0)
    assert module.test(arguments) == 0
    assert [command[0] for command in ran] == (["examples/digits.py", "-m"] if trained else ["-m"])
    assert list(ran[-1][-len(given) :]) == given
