"""The workflow files: what they run are verbs of run.py, on the Pythons that setup.cfg names."""

import configparser
import re
from typing import Any

import pytest
import yaml

from conftest import ROOT

FOLDER = ROOT / ".github" / "workflows"


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_nothing_is_run_but_verbs_of_run_py(name: str) -> None:
    verbs = re.findall(r"python3 run\.py (\w+)", (ROOT / "run.py").read_text())
    commands = [step["run"].split() for step in steps(name) if "run" in step]
    assert commands
    for program, script, verb, *arguments in commands:
        assert (program, script) == ("python3", "run.py")
        assert verb in verbs
        assert all((ROOT / argument).exists() for argument in arguments)


def test_the_matrix_is_the_pythons_of_the_classifiers() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    classified = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    assert workflow("test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == classified


def test_a_release_is_published_without_a_password_and_only_after_it_was_installed() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert "secrets" not in (FOLDER / "release.yml").read_text()
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert {"run": "python3 run.py test tests/whole/test_install.py"} in jobs["build"]["steps"]
