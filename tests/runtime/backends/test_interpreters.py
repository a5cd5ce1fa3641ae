"""What an interpreter lacks is named, with what has it; on both interpreters."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from packaging.requirements import Requirement

from embedlite.convert.graph.graph import Graph
from embedlite.runtime.backends.interpreters import find_runtime
from embedlite.runtime.errors import EmbedliteError, NoInterpreterError
from embedlite.runtime.machine import available_threads
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.operators import first_runtime, minimum_runtime

from conftest import Digits
from ways_out import walks

CODE = """
import json, sys
from embedlite.runtime import Encoder
from embedlite.runtime.errors import EmbedliteError
try:
    Encoder(sys.argv[1], 1, runtime=sys.argv[2])
    print(json.dumps(["", ""]))
except EmbedliteError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def opened(path: Path, runtime: str) -> tuple[str, str]:
    """Class and text of the error that opening the file gives."""
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(path), runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    name, text = json.loads(done.stdout)
    return name, text


def plain(digits: Digits, path: Path, **changes: object) -> Path:
    """The float32 file without its contract, its first convolution's operator code changed."""
    graph = Graph(read_artifact(digits.float32).flatbuffer)
    graph.model.metadata, graph.model.description = [], ""
    code = next(code for code in graph.model.operatorCodes if code.builtinCode == schema.BuiltinOperator.CONV_2D)
    for name, value in changes.items():
        setattr(code, name, value)
    path.write_bytes(graph.to_bytes())
    return path


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
def test_a_version_that_nobody_knows_is_named(runtime: str, digits: Digits, tmp_path: Path) -> None:
    path = plain(digits, tmp_path / "m.tflite", version=99)
    name, text = opened(path, runtime)
    assert name == "MissingOperatorError"
    assert text.startswith(runtime)
    assert "lacks CONV_2D version 99, which the model needs. It is not known which release has it" in text


def test_a_version_that_others_have_is_named_with_them(digits: Digits, tmp_path: Path) -> None:
    """Weights with a scale for each channel in the dense layer of a dynamic file came after tflite-runtime 2.14."""
    code = schema.BuiltinOperator.FULLY_CONNECTED
    path = plain(digits, tmp_path / "m.tflite", builtinCode=code, deprecatedBuiltinCode=code, version=12)
    name, text = opened(path, "tflite-runtime")
    assert name == "MissingOperatorError"
    assert "tflite-runtime 2.14.0 lacks FULLY_CONNECTED version 12" in text
    assert "TensorFlow Lite has it since 2.17.0, and so has every ai-edge-litert: pip install ai-edge-litert" in text


def test_an_operator_newer_than_the_interpreter_is_named(digits: Digits, tmp_path: Path) -> None:
    path = plain(
        digits,
        tmp_path / "m.tflite",
        builtinCode=schema.BuiltinOperator.STABLEHLO_COMPOSITE,
        deprecatedBuiltinCode=127,
    )
    name, text = opened(path, "tflite-runtime")
    assert name == "MissingOperatorError"
    assert "tflite-runtime 2.14.0 lacks STABLEHLO_COMPOSITE version 1" in text


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
@pytest.mark.parametrize("operator", ["MyPooling", "FlexErf"])
def test_a_custom_operator_is_named(operator: str, runtime: str, digits: Digits, tmp_path: Path) -> None:
    """Also one of TensorFlow's own, which a converter leaves in a file with SELECT_TF_OPS."""
    code = schema.BuiltinOperator.CUSTOM
    path = plain(digits, tmp_path / "m.tflite", builtinCode=code, deprecatedBuiltinCode=code, customCode=operator)
    name, text = opened(path, runtime)
    assert name == "MissingOperatorError"
    assert f"lacks the custom operator {operator}: no interpreter has it" in text


@walks("it was built for numpy {} and numpy {} is installed; pip install")
def test_with_the_numpy_that_is_named_the_older_runtime_runs(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment has two of them: a newer one says that it is, and what is named is what this one has."""
    here = np.__version__
    with monkeypatch.context() as patch:
        patch.setattr(np, "__version__", "2.3.0")
        with pytest.raises(NoInterpreterError) as caught:
            find_runtime("tflite-runtime")
    (asked,) = re.findall(r"pip install '(numpy\S+)'", str(caught.value))
    assert Requirement(asked).specifier.contains(here)
    assert opened(digits.float32, "tflite-runtime") == ("", "")


def test_the_first_runtime_of_a_version_is_where_its_own_minimum_lies() -> None:
    assert first_runtime("CONV_2D", 1) == "1.5.0"
    assert (
        first_runtime("FULLY_CONNECTED", 12) == minimum_runtime([("FULLY_CONNECTED", 12), ("CONV_2D", 1)]) == "2.17.0"
    )
    assert first_runtime("CONV_2D", 99) == first_runtime("CONV_2D", 0) == first_runtime("NO_SUCH_OPERATOR", 1) == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds a process to processors")
def test_threads_are_the_processors_that_the_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from embedlite.runtime.machine import available_threads; print(available_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("text", "most"),
    [("max 100000\n", None), ("50000 100000\n", 1), ("100000 100000\n", 1), ("150000 100000\n", 2), ("", None)],
)
def test_a_container_s_quota_limits_the_threads(text: str, most: int | None, tmp_path: Path) -> None:
    """The kernel's own format; see its cgroup-v2.rst, cpu.max."""
    quota = tmp_path / "cpu.max"
    processors = available_threads(quota)
    quota.write_text(text)
    assert available_threads(quota) == (processors if most is None else min(most, processors))


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    from embedlite.runtime import errors

    tree = errors.__doc__ or ""
    rows = [line for line in tree.splitlines() if line.strip().split(" ")[0].endswith("Error")]
    # Its cause, and what to do.
    assert [line for line in rows if not re.search(r"Error +\w.*: \w", line)] == []
    drawn = {line.split()[0]: (len(line) - len(line.lstrip())) for line in rows}
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, EmbedliteError)]
    assert {item.__name__ for item in classes} == set(drawn)
    for item in classes:
        if item is not EmbedliteError:
            assert drawn[item.__name__] == drawn[item.__bases__[0].__name__] + 2, item
        assert item.exit_code == 2
        assert item.__doc__
