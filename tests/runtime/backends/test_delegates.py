"""A real delegate, compiled here, on both interpreters: it runs, or what is wrong with it is said."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from graphs import FloatGraph

from embedlite.convert.graph.graph import Graph
from embedlite.runtime import Encoder
from embedlite.runtime.errors import DelegateError, DelegateLoadError, MissingOperatorError
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.contract import InputContract

from conftest import Digits, Run, error_line
from project_wheel import ROOT
from tools import require
from ways_out import walks

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


@walks(
    "is not a TFLite delegate: it exports no {}. Pass the delegate's own library",
    "could not be loaded ({}). Check the path, the delegate's options and that the device is",
    "took none of the model's {} operators: all of them would run on the processor. Compile or export",
    "refuses the model on {} {}: {}. Compile or export the model as the delegate's documentation asks",
    "lacks the custom operator {}: no interpreter has it unless it was built with it, or a delegate",
)
def test_what_an_error_about_a_delegate_says_is_done(folder: Path, digits: Digits, tmp_path: Path) -> None:
    """This delegate's documentation is its source: it takes RESHAPE, and with an option int8 models alone."""
    graph = Graph(read_artifact(digits.float32).flatbuffer)
    graph.model.metadata, graph.model.description = [], ""
    (place,) = [
        place
        for place, code in enumerate(graph.model.operatorCodes)
        if code.builtinCode == schema.BuiltinOperator.RESHAPE
    ]
    code = graph.model.operatorCodes[place]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "MyReshape"
    for operator in graph.model.subgraphs[0].operators:
        if operator.opcodeIndex == place:
            operator.builtinOptions, operator.builtinOptionsType = None, schema.BuiltinOptions.NONE
    custom, dense = tmp_path / "custom.tflite", tmp_path / "dense.tflite"
    custom.write_bytes(graph.to_bytes())
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 1024)).astype(np.float32)
    dense.write_bytes(FloatGraph((32, 32, 1)).dense("e", weights, np.zeros(8, np.float32)).to_bytes())
    images = np.load(folder / "images.npy")
    mine, half, none = (str(folder / f"{name}.so") for name in ("delegate", "half", "missing"))

    def embed(model: Path, delegate: str | None = None, **options: str) -> np.ndarray:
        contract = InputContract((32, 32, 1)) if model.parent == tmp_path else None
        with Encoder(model, 1, delegate, delegate_options=options, input_contract=contract) as encoder:
            return encoder.embed(images)

    wanted = {model: embed(model) for model in (digits.float32, digits.int8, dense)}
    for wrong in (half, str(folder / "nothing.so"), none):
        with pytest.raises(DelegateLoadError):
            embed(digits.float32, wrong)
    with pytest.raises(DelegateLoadError):
        embed(digits.float32, mine, fail="no device 0 here")
    np.testing.assert_array_equal(embed(digits.float32, mine), wanted[digits.float32])
    for wrong_model, options in ((dense, {}), (digits.float32, {"take": "int8"})):
        with pytest.raises(DelegateError):
            embed(wrong_model, mine, **options)
        np.testing.assert_array_equal(embed(digits.int8, mine, **options), wanted[digits.int8])
    with pytest.raises(MissingOperatorError):
        embed(custom)
    np.testing.assert_array_equal(embed(custom, mine), wanted[digits.float32])


@walks("{} has no {}. Use another interpreter")
def test_without_the_variable_an_interpreter_has_delegates(
    folder: Path, digits: Digits, run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("tflite_micro")
    embed = ("embed-tflite", digits.int8, folder / "images.npy", "-o", tmp_path / "v.npz")
    delegate = ("--delegate", folder / "delegate.so")
    error_line(run(*embed, *delegate, runtime="tflite-micro"))
    done = run(*embed, *delegate)
    assert done.returncode == 0, done.stderr
