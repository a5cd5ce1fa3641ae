"""Options are declared once, and found in --help, in Python, in export.json and in the recipe."""

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from embedlite.convert import Asked, ExportOptions, export
from embedlite.runtime.commands.options import options_of
from embedlite.runtime.errors import RequestError
from embedlite.runtime.model.contract import InputOptions
from embedlite.runtime.options import as_json, check_values, deciding, given, part, rows

from changed import copy_packages, run_with
from conftest import Run
from ways_out import walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

ROW = '    sharpness: int = option(3, "How sharp pixels are.", metavar="N", least=1, decides=True)\n'

SCRIPT = """
import inspect, json, sys
from pathlib import Path
from click.testing import CliRunner
from embedlite.convert import Asked, ExportOptions, export
from embedlite.convert.command import export_tflite
from encoders import quick_encoder

model, folder = quick_encoder(), Path(sys.argv[1])
try:
    export(model, folder, options=ExportOptions(sharpness=0))
except Exception as error:
    refused = str(error)
result = export(model, folder, options=ExportOptions(sharpness=5, measure=False))
print(json.dumps({
    "help": CliRunner().invoke(export_tflite, ["--help"]).output,
    "python": [line for base in ExportOptions.__mro__ for line in (inspect.getdoc(base) or "").splitlines()],
    "refused": refused,
    "command refuses": CliRunner().invoke(export_tflite, ["model.keras", "--sharpness", "0"]).output,
    "export.json": json.loads((folder / "quick.export.json").read_text()),
}))
"""


def test_one_row_is_an_option_everywhere(tmp_path: Path, run: Run) -> None:
    """The packages, with one line more than they have."""
    declared = copy_packages(tmp_path) / "convert" / "options.py"
    before, after = declared.read_text().split("    seed: int", 1)
    declared.write_text(f"{before}{ROW}    seed: int{after}")
    done = run_with(run, tmp_path, SCRIPT, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "--sharpness N How sharp pixels are. [default: 3; x>=1]" in " ".join(found["help"].split())
    assert "    sharpness: How sharp pixels are. Default: 3." in found["python"]
    assert found["refused"] == "--sharpness is 0. Use a whole number of 1 or more."
    assert "Invalid value for '--sharpness': 0" in found["command refuses"]
    assert found["export.json"]["options"] == {
        "output_dir": str(tmp_path / "out"),
        "sharpness": 5,
        "measure": False,
    }
    assert found["export.json"]["recipe"]["options"]["sharpness"] == 5


def test_the_command_has_every_row_and_python_those_it_shares() -> None:
    @click.command()
    @options_of(Asked, "asked")
    def command(asked: Asked) -> None:
        taken.append(asked)

    taken: list[Asked] = []
    words = {"Path": "some/where", "int": "7", "float": "1.5", "shape": "8,8,3", "mean": "1,2.5,3"}
    arguments, expected = [], {}
    for row in rows(Asked):
        if not row.option.command:
            continue
        if row.kind is bool:
            arguments.append(f"--no-{row.flag[2:]}" if row.default else row.flag)
            expected[row.name] = not row.default
            continue
        parse = row.option.parse
        kind = str(row.kind)
        word = row.option.choices[-1] if row.option.choices else next((words[key] for key in words if key in kind), "x")
        if row.name in ("mean", "std"):
            word = words["mean"]
        elif row.name == "input_shape":
            word = words["shape"]
        value = parse(word) if parse else int(word) if word == "7" else float(word) if word == "1.5" else word
        value = Path(word) if word == words["Path"] and parse is None else value
        arguments += [row.flag, word]
        expected[row.name] = (value,) if row.default == () else value
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert taken == [Asked(**expected)]
    assert given(taken[0]) == {name: as_json(value) for name, value in expected.items()}
    # Every field is a row, so that none is left out of --help, of the checks or of export.json.
    assert [field.name for field in fields(Asked) if field.name not in {row.name for row in rows(Asked)}] == []
    assert len(inspect.signature(export).parameters) <= 12


def test_what_was_given_and_what_decides() -> None:
    assert given(Asked()) == {}
    assert given(Asked(quantize=[], targets=[], replace_lambda=())) == {}
    images = np.zeros((2, 8, 8, 3), np.uint8)
    asked = Asked(quantize=["int8"], calibration_data=images, test_data=Path("photos"), mean=(1.0,), threads=2)
    assert given(asked) == {
        "quantize": ["int8"],
        "calibration_data": "ndarray",
        "test_data": "photos",
        "mean": [1.0],
        "threads": 2,
    }
    assert deciding(Asked(targets=["micro", "litert"])) == deciding(Asked(targets=["litert", "micro"]))
    assert part(asked, InputOptions) == InputOptions(mean=(1.0,))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": -1}, r"--seed is -1\. Use a whole number of 0 or more"),
        ({"training_batch": 1}, r"--training-batch is 1\. Use a whole number of 2 or more"),
        ({"threads": 0}, "--threads is 0"),
        ({"num_samples": 0}, "--num-samples is 0"),
        ({"select": "best"}, r"unknown --select 'best'\. Use one of: random, coverage"),
        ({"targets": ["litert", "toaster"]}, "unknown --target 'toaster'"),
        ({"quantize": ["int4"]}, "unknown --quantize 'int4'"),
        ({"time_budget": float("nan")}, "the time budget is nan s"),
        ({"output_type": "int16"}, r"unknown --output-type 'int16'\. Use one of: float32, uint8, int8"),
    ],
)
def test_values_that_no_row_allows(options: dict, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        check_values(Asked(**options))


def test_python_knows_the_options_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sead"):
        ExportOptions(sead=3)
    with pytest.raises(TypeError, match="seed"):
        export("model.keras", tmp_path, seed=3)


@walks("{} is {}. Use a whole number of")
def test_the_least_number_that_an_error_names_is_taken() -> None:
    for row in (row for row in rows(Asked) if row.option.least is not None):
        with pytest.raises(RequestError) as caught:
            check_values(Asked(**{row.name: row.option.least - 1}))
        least = int(re.findall(r"whole number of (\d+) or more", str(caught.value))[0])
        check_values(Asked(**{row.name: least}))
