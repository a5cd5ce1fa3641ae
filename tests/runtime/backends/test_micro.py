"""TFLite Micro as a third interpreter; always in processes of its own, because one process holds one runtime."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from conftest import Digits, Run, error_line
from rounding import FLOAT_DB, INT8_DB, decibels

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed (embedlite[verify])"
)


def sqnr_db(candidate: Path, reference: Path) -> float:
    mine, other = (np.load(path)["embeddings"] for path in (candidate, reference))
    return decibels(mine, other)


# Measured on the 450 test digits: 132.3 dB for float32, another order of summation; 39.9 dB for int8, another rounding
# of intermediate values than XNNPACK's.
@pytest.mark.parametrize(("mode", "floor"), [("float32", FLOAT_DB), ("int8", INT8_DB)])
def test_it_agrees_with_litert_on_real_digits(
    mode: str, floor: float, digits: Digits, run: Run, tmp_path: Path
) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(digits.test_images.iterdir())[::5]:
        shutil.copy(path, some)
    for runtime in ("tflite-micro", "ai-edge-litert"):
        path = tmp_path / f"{runtime}.npz"
        done = run("embed-tflite", digits.file(mode), some, "-o", path, runtime=runtime)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"by {runtime} " in " ".join(done.stdout.split())
    assert sqnr_db(tmp_path / "tflite-micro.npz", tmp_path / "ai-edge-litert.npz") > floor


@pytest.mark.parametrize(("mode", "reason"), [("dynamic", "dynamic file"), ("float16", "float16 weights")])
def test_a_mode_that_it_cannot_allocate_is_refused_with_the_reason(
    mode: str, reason: str, digits: Digits, run: Run, tmp_path: Path
) -> None:
    vectors = tmp_path / "vectors.npz"
    done = run("embed-tflite", digits.file(mode), digits.test_images, "-o", vectors, runtime="tflite-micro")
    error = error_line(done)
    assert f"TFLite Micro cannot allocate a {reason}" in error or f"TFLite Micro cannot allocate {reason}" in error
    # What C++ printed is in the error, and nowhere else.
    assert "failed to prepare" in error
    assert done.stderr.strip() == error
    assert not vectors.exists()


ARENA = """
import json, sys
import flatbuffers
import numpy as np
from tflite_micro import runtime
from embedlite.runtime import Encoder
from embedlite.runtime.model.artifact import read_artifact

model, inputs = sys.argv[1], np.load(sys.argv[2])
flatbuffer = read_artifact(model).flatbuffer
with Encoder(model, threads=1, runtime="tflite-micro") as encoder:
    needed, ample = encoder.arena_bytes, encoder.embed(inputs)

def embed(arena):
    interpreter = runtime.Interpreter.from_bytes(flatbuffer, arena_size=arena)
    rows = []
    for image in inputs:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        rows.append(interpreter.get_output(0)[0])
    return np.stack(rows)

refused = []
for arena in (needed * 9 // 10, needed - 1024):
    try:
        embed(arena)
    except RuntimeError as error:
        refused.append(arena)
print(json.dumps({"needed": needed, "refused": len(refused), "same": bool((embed(needed) == ample).all())}))
"""


@pytest.fixture(scope="module")
def images(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight model-ready digits, (8, 32, 32, 1) float32."""
    from embedlite.runtime.images.open import open_source
    from embedlite.runtime.model.artifact import read_artifact

    contract = read_artifact(digits.int8).contract
    assert contract is not None
    source = open_source(digits.test_images, contract.input)
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.stack([source.ready(index) for index in range(8)]))
    return path


@pytest.mark.parametrize(("mode", "largest"), [("float32", 1), ("int8", 0.5)])
def test_the_arena_is_the_smallest_that_works(
    mode: str, largest: float, digits: Digits, images: Path, run: Run
) -> None:
    done = run("python", "-c", ARENA, digits.file(mode), images)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer == {"needed": answer["needed"], "refused": 2, "same": True}
    # Weights stay outside the arena, so it holds the two largest neighbouring activations and the bookkeeping. The
    # first two layers of the example hold 32x32x8 values each.
    values = 2 * 32 * 32 * 8
    # The last layer of the int8 file is computed in float, with 128x128 weights that are made float there.
    end = 128 * 128 * 4 if mode == "int8" else 0
    assert values * (4 if mode == "float32" else 1) < answer["needed"] < largest * 128 * 1024 + end


def probe(model: Path, runtime: str, images: Path, result: Path) -> dict[str, Any]:
    request = {
        "model": str(model),
        "runtime": runtime,
        "threads": 2,
        "inputs": str(images),
        "rows": [*range(8)],
        "seconds": 60,
    }
    done = subprocess.run(
        [sys.executable, "-m", "embedlite.runtime.check.probe"],
        input=json.dumps({**request, "result": str(result)}),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_the_probe_reports_the_arena(digits: Digits, images: Path, tmp_path: Path) -> None:
    micro = probe(digits.int8, "tflite-micro", images, tmp_path / "micro.npy")
    assert micro["arena_bytes"] > 2 * 32 * 32 * 8
    assert np.load(tmp_path / "micro.npy").shape == (8, 128)
    litert = probe(digits.int8, "ai-edge-litert", images, tmp_path / "litert.npy")
    assert litert["arena_bytes"] is None


def test_threads_each_have_an_interpreter(digits: Digits, images: Path, run: Run) -> None:
    code = """
import sys
import flatbuffers
import numpy as np
from embedlite.runtime import Encoder
inputs = np.load(sys.argv[2])
with Encoder(sys.argv[1], threads=3, runtime="tflite-micro") as encoder:
    together = encoder.embed(np.concatenate([inputs] * 4))
    assert (together == np.concatenate([[encoder.embed_one(image) for image in inputs]] * 4)).all()
"""
    done = run("python", "-c", code, digits.int8, images)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_it_does_not_have_is_a_request_error(digits: Digits, run: Run) -> None:
    code = """
import sys
from embedlite.runtime import Encoder
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.errors import RequestError
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
try:
    Encoder(sys.argv[1], delegate="libdelegate.so", runtime="tflite-micro")
except RequestError as error:
    print(error)
try:
    flatbuffer = read_artifact(sys.argv[1]).flatbuffer
    open_interpreter(find_runtime("tflite-micro"), flatbuffer, threads=1, keep_all_tensors=True)
except RequestError as error:
    print(error)
"""
    done = run("python", "-c", code, digits.int8)
    assert done.returncode == 0, done.stderr
    assert "tflite-micro has no delegates" in done.stdout
    assert "tflite-micro has no intermediate tensors" in done.stdout


def test_it_is_never_chosen_by_default(run: Run) -> None:
    code = """
import sys
sys.modules["ai_edge_litert"] = sys.modules["tflite_runtime"] = None
from embedlite.runtime.errors import NoInterpreterError
from embedlite.runtime.backends.interpreters import find_runtime
try:
    print("found", find_runtime().name)
except NoInterpreterError:
    print("none,", find_runtime("tflite-micro").name)
"""
    assert run("python", "-c", code).stdout == "none, tflite-micro\n"


def test_without_the_package_the_error_names_it(digits: Digits, run: Run) -> None:
    code = """
import sys
sys.modules["tflite_micro"] = None
from embedlite.runtime.commands.embed import main
main()
"""
    done = run("python", "-c", code, digits.int8, digits.test_images, "-o", "never.npz", runtime="tflite-micro")
    assert "pip install tflite-micro" in error_line(done)


def test_an_operator_without_a_kernel_is_named_with_what_helps(digits: Digits, run: Run, tmp_path: Path) -> None:
    """Not another mode, which would have the operator, too."""
    model = schema.ModelT.InitFromPackedBuf(digits.file("float32").read_bytes(), 0)
    code = next(code for code in model.operatorCodes if code.builtinCode == schema.BuiltinOperator.SUB)
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.POW
    for operator in model.subgraphs[0].operators:
        if model.operatorCodes[operator.opcodeIndex] is code:
            operator.builtinOptions, operator.builtinOptionsType = None, schema.BuiltinOptions.NONE
    model.metadata, model.description = [], b"rewritten"
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "powers.tflite"
    path.write_bytes(bytes(builder.Output()))
    done = run("embed-tflite", path, digits.test_images, "-o", tmp_path / "out.npz", runtime="tflite-micro")
    error = error_line(done)
    assert "It has no kernel for POW: build the model without it, or run the file on another runtime." in error
    assert not (tmp_path / "out.npz").exists()
