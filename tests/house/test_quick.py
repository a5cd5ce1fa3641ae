"""What ``run.py check`` leaves out, and what ``run.py test`` begins with."""

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
