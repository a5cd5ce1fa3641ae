"""One int8 file on every runtime: LiteRT, tflite-runtime, TFLite Micro, and Vela for the NPU.

Each interpreter runs all files in one process of its own, because only one of them fits into a process. The encoders
end as those of the users do; their weights are such that no ordinary frame, not even a black one, has a flat embedding.
"""

import importlib.util
import json
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import Asked, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.repair import drop_unused_tensors
from embedlite.convert.make.synthetic_inputs import edge_frames
from embedlite.convert.verify.vela import NpuCompilation, compile_for_npu
from embedlite.runtime import InputContract
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.images.open import open_source
from embedlite.runtime.input.normalize import normalize
from embedlite.runtime.input.preprocess import dequantize, quantize
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.contract import NormalizationSpec

from encoders import PLAIN, Call, small_encoder
from rounding import farthest, spread
from seeds.user_functions import norm, norm_original, unit, unit_tf
from seeds.user_layers import BatchMinMax, EmbeddingHead
from servers import ReadyPython

for package in ("ethosu", "tflite_micro", "tflite_runtime"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (embedlite[verify])", allow_module_level=True)

# Vela, and what exports start, is a fork.
pytestmark = pytest.mark.usefixtures("served")

CONVOLUTIONS = 3
"""Of these encoders."""

RUNTIMES = ("ai-edge-litert", "tflite-runtime", "tflite-micro")
CONTRACT = InputContract((24, 24, 3))


def positive() -> keras.layers.Layer:
    """A map whose channels have a maximum well above zero, as the users have it who divide by the maximum."""
    return layers.Conv2D(16, 1, activation="relu", bias_initializer=keras.initializers.Constant(4.0))


ENDINGS: dict[str, Callable[[], list[keras.layers.Layer]]] = {
    "S1": lambda: [layers.Flatten(), BatchMinMax()],
    "S2": lambda: [layers.Flatten()],
    "S3": lambda: [EmbeddingHead(32)],
    "S4": lambda: [Call(norm_original)],
    "S5": lambda: [positive(), Call(norm), layers.Flatten(), layers.Dense(8)],
    "S6": lambda: [positive(), Call(norm), layers.GlobalMaxPool2D()],
    "L2": lambda: [layers.Flatten(), layers.UnitNormalization()],
    "L2, keras.ops": lambda: [layers.Flatten(), Call(unit)],
    "L2, spelled out": lambda: [layers.Flatten(), Call(unit_tf)],
}
IN_GRAPH = tuple(name for name in ENDINGS if name != "S2")
ISLANDS = {
    **dict.fromkeys(("S1", "S3"), NormalizationSpec("minmax", (0, 1, 2, 3))),
    "S4": NormalizationSpec("minmax", (0, 1, 2, 3), "input"),
    **dict.fromkeys(("S5", "S6"), NormalizationSpec("minmax", (0, 1, 2), "input")),
    "L2": NormalizationSpec("l2", (0, 1, 2, 3)),
}
"""What each computes of the map that the last convolution writes; whatever the encoder does to its shape before."""

INTEGERS = ("S1", "S2", "S3", "S4", "L2")
"""Exported with int8 input and output as well, the normalization left to the runtime."""

WIDE = ("with L2", "without")
"""The same encoder of 512 dimensions, with and without its normalization."""


def encoder(ending: list[keras.layers.Layer], dimensions: int = 16) -> keras.Sequential:
    model = small_encoder(ending, dimensions=dimensions)
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if weight.name in ("beta", "bias") and not weight.numpy().any():
            weight.assign(rng.normal(0.1, 0.1, weight.shape))
    return model


@dataclass(frozen=True)
class Files:
    """Everything that is run.

    Attributes:
        paths: the exported files by name; the integer ones are called ``NAME, integers``.
        frames: model-ready, the photos first, the edge frames after them.
        wide: what Keras answers to the photos at 512 dimensions, normalized.
    """

    folder: Path
    paths: Mapping[str, Path]
    frames: np.ndarray
    wide: np.ndarray


@pytest.fixture(scope="module")
def files(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    pixels = np.stack(list(open_source(photos, CONTRACT)))
    # Every third sets no ranges, as on a device.
    held = pixels[::3]
    paths = {}

    def add(name: str, model: keras.Model, **options: object) -> None:
        data = {"calibration_data": np.delete(pixels, np.s_[::3], axis=0), "test_data": held}
        (file,) = export_asked(
            model, Asked(output_dir=folder / name, quantize=["int8"], measure=False, **PLAIN, **data, **options)
        ).files
        paths[name] = file.path

    for name, ending in ENDINGS.items():
        model = encoder(ending())
        if name in IN_GRAPH:
            add(name, model)
        if name in INTEGERS:
            add(f"{name}, integers", model, input_type="int8", output_type="int8")
    with_l2 = encoder([layers.Flatten(), layers.UnitNormalization()], 32)
    # Like the others without what is tried out on the embeddings, which might decide differently for the two.
    add("with L2", with_l2)
    add("without", encoder([layers.Flatten()], 32))
    frames = np.stack([*(image / np.float32(255) for image in held), *edge_frames(CONTRACT)])
    return Files(folder, paths, frames, np.asarray(with_l2(frames[: len(held)])))


def island(path: Path) -> Graph:
    """What lies between the int8 tensor that holds the raw embedding and the end of the normalization."""
    graph = Graph(read_artifact(path).flatbuffer)
    names = [graph.operator_name(operator) for operator in graph.operators]
    last = next(place for place in reversed(range(len(names))) if names[place] in ("DIV", "L2_NORMALIZATION"))
    graph.end_at(int(graph.operators[last].outputs[0]))
    before = max(place for place, operator in enumerate(graph.operators) if graph.operator_name(operator) == "CONV_2D")
    raw = int(graph.operators[before].outputs[0])
    graph.subgraph.operators, graph.subgraph.inputs = graph.operators[before + 1 :], [raw]
    drop_unused_tensors(graph)
    return graph


def steps_of(graph: Graph) -> tuple[float, int]:
    """Scale and zero point of an island's input."""
    quantization = graph.tensor(int(graph.subgraph.inputs[0])).quantization
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def island_vectors(graph: Graph) -> np.ndarray:
    """Random integers, one that stands out, and, the last three, flat vectors: lowest, highest, zero."""
    shape = graph.shape(int(graph.subgraph.inputs[0]))
    rng = np.random.default_rng(0)
    hot = np.full(shape, -128)
    hot.flat[hot.size // 2] = 127
    narrow = rng.integers(100, 103, shape)
    flat = [np.full(shape, value) for value in (-128, 127, steps_of(graph)[1])]
    return np.stack([*rng.integers(-128, 128, (20, *shape)), narrow, hot, *flat]).astype(np.int8)


RUNNER = """
import json, sys
from pathlib import Path
import numpy as np
from embedlite.runtime import Encoder
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter

job = json.load(sys.stdin)
runtime, frames, answers = find_runtime(job["runtime"]), np.load(job["frames"]), {}
for name, path in job["files"].items():
    with Encoder(path, threads=1, runtime=runtime.name) as encoder:
        answers[name] = encoder.embed(frames).reshape(len(frames), -1)
for name, (path, inputs) in job["direct"].items():
    interpreter = open_interpreter(runtime, Path(path).read_bytes(), threads=1)
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for values in np.load(inputs):
        interpreter.set_tensor(source["index"], values)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(result["index"]).copy())
    answers[name] = np.stack(rows)
np.savez(job["result"], **answers)
"""


@pytest.fixture(scope="module")
def answers(files: Files, ready: ReadyPython) -> dict[str, dict[str, np.ndarray]]:
    """By runtime: embeddings by a file's name; raw integers by ``NAME, raw``; what islands give by ``NAME, island``."""
    folder = files.folder
    np.save(folder / "frames.npy", files.frames)
    direct = {}

    def add(name: str, flatbuffer: bytes, inputs: np.ndarray) -> None:
        (folder / f"{name}.tflite").write_bytes(flatbuffer)
        np.save(folder / f"{name}.npy", inputs)
        direct[name] = (str(folder / f"{name}.tflite"), str(folder / f"{name}.npy"))

    for name in INTEGERS:
        artifact = read_artifact(files.paths[f"{name}, integers"])
        source = artifact.info.inputs[0]
        integers = quantize(files.frames, source.scale[0], source.zero_point[0], np.dtype(np.int8))
        add(f"{name}, raw", artifact.flatbuffer, integers[:, None])
    for name in ISLANDS:
        graph = island(files.paths[name])
        add(f"{name}, island", graph.to_bytes(), island_vectors(graph))

    def run(runtime: str) -> dict[str, np.ndarray]:
        job = {
            "runtime": runtime,
            "frames": str(folder / "frames.npy"),
            "files": {name: str(path) for name, path in files.paths.items()},
            "direct": direct,
            "result": str(folder / f"{runtime}.npz"),
        }
        command = [*ready.of("device"), "-c", RUNNER]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{runtime}: {done.stderr}"
        with np.load(job["result"]) as result:
            return dict(result)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(RUNTIMES, pool.map(run, RUNTIMES), strict=True))


@pytest.fixture(scope="module")
def compiled(files: Files, served: None) -> dict[str, NpuCompilation]:
    """What Vela makes of every file."""
    wanted = [name for name in files.paths if name.split(",")[0] in (*ISLANDS, "S2")]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda name: compile_for_npu(files.paths[name], files.folder), wanted)
        return dict(zip(wanted, results, strict=True))


EVERY = (*IN_GRAPH, *(f"{name}, integers" for name in INTEGERS))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", EVERY)
def test_no_frame_gives_nan_or_a_constant(name: str, runtime: str, answers: dict) -> None:
    rows = answers[runtime][name]
    assert np.isfinite(rows).all()
    assert (rows.std(axis=1) > 0).all(), np.flatnonzero(rows.std(axis=1) == 0)
    assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
@pytest.mark.parametrize("name", EVERY)
def test_the_embeddings_of_photos_agree(name: str, runtime: str, files: Files, answers: dict) -> None:
    mine, other = (answers[key][name][: len(files.wide)] for key in (runtime, "ai-edge-litert"))
    drift, _ = measure_drift(mine, other, k=None)
    assert drift.invalid == 0
    # What eight bits themselves cost these encoders is 35 to 42 dB; two interpreters differ by about that at most.
    assert drift.sqnr_db is None or drift.sqnr_db >= 30


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
@pytest.mark.parametrize("name", INTEGERS)
def test_raw_integers_are_a_few_steps_apart(name: str, runtime: str, answers: dict) -> None:
    mine, other = (answers[key][f"{name}, raw"].astype(int) for key in (runtime, "ai-edge-litert"))
    # Of 256 steps; a file that answers next to nothing would agree as well.
    assert mine.std() > 10
    steps = np.abs(mine - other)
    assert steps.max() <= farthest(CONVOLUTIONS)
    assert np.sqrt(np.square(steps).mean()) <= spread(CONVOLUTIONS)


@pytest.mark.parametrize("name", ISLANDS)
def test_the_float_island_agrees_given_the_same_integers(name: str, files: Files, answers: dict) -> None:
    first, *others = (answers[runtime][f"{name}, island"] for runtime in RUNTIMES)
    for other in others:
        assert np.abs(first - other).max() <= 1e-5
    # Nor are they alike in being wrong.
    graph = island(files.paths[name])
    scale, zero_point = steps_of(graph)
    for integers, got in zip(island_vectors(graph), first, strict=True):
        wanted = normalize(dequantize(integers, scale, zero_point), ISLANDS[name]).reshape(got.shape)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ISLANDS)
def test_flat_integers_give_zeros(name: str, runtime: str, answers: dict) -> None:
    # A flat vector has a length, unless it is zero.
    flat = answers[runtime][f"{name}, island"][-1 if name == "L2" else -3 :]
    np.testing.assert_array_equal(flat, 0)


@pytest.mark.parametrize("name", EVERY)
def test_vela_compiles_it(name: str, compiled: dict[str, NpuCompilation]) -> None:
    result = compiled[name]
    assert result.error == ""
    assert result.npu["CONV_2D"] >= 3
    assert "CONV_2D" not in result.cpu


@pytest.mark.parametrize("name", INTEGERS)
def test_with_integers_at_both_ends_all_of_it_is_on_the_npu(name: str, compiled: dict[str, NpuCompilation]) -> None:
    assert compiled[f"{name}, integers"].npu
    assert not compiled[f"{name}, integers"].cpu


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_three_spellings_of_l2_give_one_embedding(runtime: str, answers: dict) -> None:
    for name in ("L2, keras.ops", "L2, spelled out"):
        np.testing.assert_array_equal(answers[runtime][name], answers[runtime]["L2"])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_l2_costs_no_drift_of_its_own(runtime: str, files: Files, answers: dict) -> None:
    count = len(files.wide)
    inside, raw = (answers[runtime][name][:count] for name in WIDE)
    outside = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    first, second = (measure_drift(rows, files.wide, k=None)[0] for rows in (inside, outside))
    assert second.sqnr_db > 30
    # It is the same int8 embedding, divided in float32 here and in the file: what that rounds is a millionth of what
    # eight bits round. An int8 division, or an int8 output of fixed scale, costs decibels.
    assert first.sqnr_db >= second.sqnr_db - 0.001
    assert first.cosine_mean >= second.cosine_mean - 1e-7
