"""The version, and files of a newer one."""

import importlib.metadata
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import embedlite.runtime
from embedlite.report.page import export_files
from embedlite.runtime import Encoder
from embedlite.runtime.check import figures
from embedlite.runtime.errors import EmbedliteError
from embedlite.runtime.model import contract
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.monitor import DriftMonitor, state
from embedlite.runtime.version import newer

from conftest import Digits
from ways_out import walks

FIGURES = figures.DeviceFigures(
    {"embedlite": embedlite.runtime.__version__},
    figures.DeviceRuntime("ai-edge-litert", "1"),
    1,
    (figures.FileFigures("m.tflite", "int8", "0d" * 32, 2.0, 1.0, 3.0),),
).to_json()


def test_installed_metadata_and_module_agree_on_the_version() -> None:
    assert importlib.metadata.version("embedlite") == embedlite.runtime.__version__


@walks("Install a newer one: pip install")
@pytest.mark.parametrize(
    ("module", "read"),
    [
        (contract, lambda digits, folder: read_artifact(digits.int8)),
        (figures, lambda digits, folder: figures.DeviceFigures.from_json(FIGURES)),
        (state, lambda digits, folder: state.read_state(folder / "state.json")),
        (export_files, lambda digits, folder: export_files.read_export(digits.folder / "model.export.json")),
    ],
)
def test_what_a_version_cannot_read_is_read_by_the_one_that_it_names(
    module: Any, read: Callable[[Digits, Path], Any], digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of an older version is this one that knows no schema; what it says to install is this one."""
    with Encoder(digits.int8, 1) as encoder:
        DriftMonitor(encoder, digits.float32, state=tmp_path / "state.json").close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "SCHEMA", 0)
        with pytest.raises(EmbedliteError) as caught:
            read(digits, tmp_path)
    *options, wanted = shlex.split(str(caught.value).partition("pip install ")[2].removesuffix("."))
    assert options in ([], ["--upgrade"])
    asked = Requirement(wanted)
    assert asked.name == "embedlite"
    assert asked.specifier.contains(importlib.metadata.version("embedlite"))
    read(digits, tmp_path)


@pytest.mark.parametrize("made_by", [None, "", "1.0'; reboot; '", "$(reboot)", {"a": 1}])
def test_only_a_version_becomes_part_of_a_command(made_by: object) -> None:
    """It is copied into a shell, and comes out of a file."""
    assert newer(made_by, 1).endswith("pip install --upgrade embedlite.")
