"""The C source of a file, compiled by the real compiler and held against what the runtime computes."""

import ctypes
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from embedlite.convert import Asked, export_asked
from embedlite.convert.errors import ConversionError
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.make.c_source import c_identifier, c_source
from embedlite.convert.make.names import c_names
from embedlite.runtime import Encoder, NormalizationSpec
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
from embedlite.runtime.input.normalize import normalize, normalize_quantized
from embedlite.runtime.input.preprocess import model_ready, quantize
from embedlite.runtime.model.artifact import Artifact, append_contract, read_artifact

from conftest import ROOT
from encoders import PLAIN, small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
TYPES = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8, "float32": schema.TensorType.FLOAT32}
MISSING = [name for name in ("gcc", "g++", "nm") if shutil.which(name) is None]

compiled = pytest.mark.skipif(
    bool(MISSING), reason=f"generated C is not compiled: there is no {', '.join(MISSING)} here"
)

Library = Callable[..., ctypes.CDLL]


def tool(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Writes sources, compiles them into a shared library of their own and loads it."""
    folder = tmp_path_factory.mktemp("c")
    numbers = iter(range(1_000_000))

    def load(sources: dict[str, bytes], *options: str, compiler: str = "gcc", standard: str = "c99") -> ctypes.CDLL:
        own = folder / str(next(numbers))
        own.mkdir()
        for name, content in sources.items():
            (own / name).write_bytes(content)
        units = [own / name for name in sources if name.endswith((".c", ".cc"))]
        language = ["-x", "c++"] if compiler == "g++" else []
        shared = ["-shared", "-fPIC", "-o", own / "library.so"]
        tool(compiler, f"-std={standard}", *STRICT, *options, *shared, *language, *units, "-lm")
        return ctypes.CDLL(str(own / "library.so"))

    return load


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """One int8 export for each ending and input and output type."""
    images = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3)).astype(np.uint8)
    endings = {
        "sample": lambda: [MinMaxNormalization(), layers.Flatten()],
        "channel, input, added epsilon": lambda: [MinMaxNormalization("channel", "input", 1e-3), layers.Flatten()],
        "L2": lambda: [layers.Flatten(), L2Normalization()],
        "none": lambda: [layers.Flatten()],
    }
    made: dict[tuple[str, ...], Artifact] = {}

    def get(ending: str = "sample", input_type: str = "int8", output_type: str = "int8", **options) -> Artifact:
        key = (ending, input_type, output_type, str(options))
        if key not in made:
            folder = tmp_path_factory.mktemp("exported")
            model = small_encoder(endings[ending]())
            types = {"input_type": input_type, "output_type": output_type}
            settings = {"quantize": ["int8"], "calibration_data": images, "measure": False, **PLAIN, **types, **options}
            made[key] = read_artifact(export_asked(model, Asked(output_dir=folder, **settings)).files[0].path)
        return made[key]

    return get


def source_of(artifact: Artifact, stem: str = "small.int8") -> dict[str, bytes]:
    assert artifact.contract is not None
    return c_source(stem, artifact.flatbuffer, artifact.contract)


def ending_in(
    artifact: Artifact, spec: NormalizationSpec, shape: tuple[int, ...], dtype: str, scale: float, zero_point: int
) -> dict[str, bytes]:
    """The source of the same file with another output tensor and another normalization left to the runtime.

    Without weights, which compilers take as long to read as all the rest.
    """
    graph = Graph(artifact.flatbuffer)
    for buffer in graph.model.buffers:
        buffer.data = None
    tensor = graph.tensor(int(graph.subgraph.outputs[0]))
    tensor.shape, tensor.type = list(shape), TYPES[dtype]
    tensor.quantization = schema.QuantizationParametersT()
    if dtype != "float32":
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint = np.array([zero_point], np.int64)
    assert artifact.contract is not None
    contract = replace(artifact.contract, normalization=replace(spec, placement="runtime"))
    return c_source("small.int8", graph.to_bytes(), contract)


def normalized(loaded: ctypes.CDLL, raw: np.ndarray, copies: int = 1) -> np.ndarray:
    """What the C function makes of one raw embedding; a guard after the result must stay as it is."""
    raw = np.ascontiguousarray(raw)
    result = np.full(raw.size // copies + 1, -7, np.float32)
    loaded.small_int8_normalize(raw.ctypes.data_as(ctypes.c_void_p), result.ctypes.data_as(ctypes.c_void_p))
    assert result[-1] == -7
    return result[:-1].reshape(*raw.shape[:-1], -1)


def assert_same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.dtype == wanted.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))


@compiled
@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("gcc", "c11"), ("g++", "c++11"), ("g++", "c++20")])
def test_the_array_is_the_flatbuffer(
    compiler: str, standard: str, exported: Callable[..., Artifact], library: Library
) -> None:
    artifact = exported()
    loaded = library(source_of(artifact), compiler=compiler, standard=standard)
    length = ctypes.c_uint.in_dll(loaded, "small_int8_model_len").value
    array = (ctypes.c_ubyte * length).in_dll(loaded, "small_int8_model")
    assert bytes(array) == artifact.flatbuffer


ALIGNMENT = """
#include "small.int8.c"
int32_t alignment = (int32_t)__alignof__(small_int8_model);
"""


@compiled
@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("gcc", "c11"), ("g++", "c++11")])
def test_the_array_asks_for_its_alignment(
    compiler: str, standard: str, exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    """As declared: the compiler here aligns any large array, others do not."""
    for name, content in {**source_of(exported()), "probe.c": ALIGNMENT.encode()}.items():
        (tmp_path / name).write_bytes(content)
    language = "c++" if compiler == "g++" else "c"
    shared = tmp_path / "probe.so"
    tool(compiler, f"-std={standard}", *STRICT, "-shared", "-fPIC", "-x", language, tmp_path / "probe.c", "-o", shared)
    assert ctypes.c_int32.in_dll(ctypes.CDLL(str(shared)), "alignment").value == 16


PROBE = """
#include "small.int8.h"
const int32_t sizes[] = {
    SMALL_INT8_INPUT_HEIGHT, SMALL_INT8_INPUT_WIDTH, SMALL_INT8_INPUT_CHANNELS, SMALL_INT8_EMBEDDING_SIZE,
    SMALL_INT8_INPUT_ZERO_POINT, SMALL_INT8_OUTPUT_ZERO_POINT, (int32_t)sizeof(small_int8_model)};
const float scales[] = {SMALL_INT8_INPUT_SCALE, SMALL_INT8_OUTPUT_SCALE};
const small_int8_input input_type[] = {(small_int8_input)-1};
const small_int8_output output_type[] = {(small_int8_output)-1};
"""


@compiled
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_constants_are_those_of_the_tensors(
    dtype: str, exported: Callable[..., Artifact], library: Library
) -> None:
    artifact = exported("sample", dtype, dtype)
    image, raw = artifact.info.inputs[0], artifact.info.outputs[0]
    loaded = library({**source_of(artifact), "probe.c": PROBE.encode()})
    zero_points = [image.zero_point[0], raw.zero_point[0]]
    sizes = [24, 24, 3, raw.shape[0] * int(np.prod(raw.shape[1:])), *zero_points, len(artifact.flatbuffer)]
    assert list((ctypes.c_int32 * 7).in_dll(loaded, "sizes")) == sizes
    assert list((ctypes.c_float * 2).in_dll(loaded, "scales")) == [image.scale[0], raw.scale[0]]
    c_type = {"int8": ctypes.c_int8, "uint8": ctypes.c_uint8}[dtype]
    assert c_type.in_dll(loaded, "input_type").value == c_type.in_dll(loaded, "output_type").value == c_type(-1).value


MAIN = """
#include <cstdio>
#include "small.int8.h"
int main() {
    static int8_t input[SMALL_INT8_INPUT_HEIGHT * SMALL_INT8_INPUT_WIDTH * SMALL_INT8_INPUT_CHANNELS];
    static uint8_t pixels[sizeof input];
    static int8_t raw[SMALL_INT8_EMBEDDING_SIZE] = {1, 3};
    static float embedding[SMALL_INT8_EMBEDDING_SIZE];
    pixels[0] = 1;
    small_int8_preprocess(pixels, input);
    small_int8_normalize(raw, embedding);
    std::printf("%u %d %.9g", small_int8_model_len, input[0] - input[1], embedding[0]);
}
"""


@compiled
def test_a_cpp_program_links_with_the_c_object(exported: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = exported()
    for name, content in {**source_of(artifact), "main.cc": MAIN.encode()}.items():
        (tmp_path / name).write_bytes(content)
    tool("gcc", "-std=c99", *STRICT, "-c", tmp_path / "small.int8.c", "-o", tmp_path / "model.o")
    tool("g++", "-std=c++11", *STRICT, tmp_path / "main.cc", tmp_path / "model.o", "-o", tmp_path / "main")
    # One pixel value is one step; of raw values 0, 1 and 3 the first shown is a third of the way.
    assert tool(tmp_path / "main") == f"{len(artifact.flatbuffer)} 1 {np.float32(1) / np.float32(3):.9g}"


@compiled
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("ending", ["sample", "channel, input, added epsilon", "L2"])
def test_the_functions_around_the_interpreter_are_those_of_the_encoder(
    ending: str, dtype: str, exported: Callable[..., Artifact], library: Library, tmp_path: Path
) -> None:
    artifact = exported(ending, dtype, dtype)
    assert artifact.contract is not None
    assert artifact.contract.normalization.placement == "runtime"
    loaded = library(source_of(artifact))
    interpreter = open_interpreter(find_runtime(), artifact.flatbuffer, threads=1)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    images = np.random.default_rng(1).integers(0, 256, (5, 24, 24, 3)).astype(np.uint8)
    path = tmp_path / "small.int8.tflite"
    path.write_bytes(append_contract(artifact.flatbuffer, artifact.contract))
    with Encoder(path) as encoder:
        for image in images:
            fed = np.empty((1, 24, 24, 3), dtype)
            if dtype == "uint8":
                fed[0] = image
            else:
                loaded.small_int8_preprocess(image.ctypes.data_as(ctypes.c_void_p), fed.ctypes.data_as(ctypes.c_void_p))
            interpreter.set_tensor(source["index"], fed)
            interpreter.invoke()
            got = normalized(loaded, interpreter.get_tensor(target["index"])).reshape(encoder.embedding_shape)
            wanted = encoder.embed_one(image)
            assert wanted.any()
            if ending == "L2":
                np.testing.assert_array_max_ulp(got, wanted, maxulp=1)
            else:
                assert_same_bits(got, wanted)


@compiled
@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize(
    "options",
    [{}, {"mean": (127.5,), "std": (127.5,)}, {"mean": (123.68, 116.779, 103.939), "std": (58.4,)}],
    ids=["0-1", "-1-1", "per channel"],
)
def test_pixels_become_what_the_encoder_feeds(
    dtype: str, options: dict, exported: Callable[..., Artifact], library: Library
) -> None:
    artifact = exported("sample", dtype, "int8", **options)
    loaded = library(source_of(artifact))
    image = np.random.default_rng(2).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    image.ravel()[:768] = np.repeat(np.arange(256), 3)
    got = np.empty((24, 24, 3), dtype)
    loaded.small_int8_preprocess(image.ctypes.data_as(ctypes.c_void_p), got.ctypes.data_as(ctypes.c_void_p))
    assert artifact.contract is not None
    wanted = model_ready(image, artifact.contract.input)
    if dtype == "int8":
        tensor = artifact.info.inputs[0]
        wanted = quantize(wanted, tensor.scale[0], tensor.zero_point[0], np.dtype(dtype))
    np.testing.assert_array_equal(got, wanted)


def vectors(shape: tuple[int, ...], dtype: str, seed: int) -> Iterator[np.ndarray]:
    """Random integers, all of them and a few neighbouring ones, and the flat and two-valued edges."""
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype)
    for low, high in ((limits.min, limits.max), (limits.min, limits.min + 3), (limits.max - 3, limits.max), (60, 70)):
        yield rng.integers(low, high + 1, shape).astype(dtype)
    for value in (limits.min, 0, 1, limits.max):
        yield np.full(shape, value, dtype)
    yield np.where(rng.integers(0, 2, shape), limits.min, limits.max).astype(dtype)


def zero_points(dtype: str) -> st.SearchStrategy[int]:
    limits = np.iinfo(dtype)
    return st.sampled_from([int(limits.min), int(limits.max), 0]) | st.integers(int(limits.min), int(limits.max))


SCALES = st.floats(2**-20, 8, width=32) | st.sampled_from([2.0**-7, 0.5, 3 * 2.0**-9])
EPSILONS = st.sampled_from([1e-12, 1e-7, float(np.float32(1e-3)), 0.5, 3.0, 40.0]) | st.floats(1e-30, 1e30)
SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=4).map(lambda sizes: (1, *sizes))


@st.composite
def cases(draw: st.DrawFn, kind: str) -> tuple[NormalizationSpec, tuple[int, ...], str, float, int]:
    shape, dtype = draw(SHAPES), draw(st.sampled_from(["int8", "uint8"]))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1)))))
    divisor, mode = draw(st.sampled_from(["shifted", "input"])), draw(st.sampled_from(["none", "add", "max"]))
    epsilon = 0.0 if mode == "none" else draw(EPSILONS)
    spec = NormalizationSpec(kind, axes, divisor, epsilon, mode, "runtime")
    return spec, shape, dtype, draw(SCALES), draw(zero_points(dtype))


def assert_same_to_the_last_place(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_array_max_ulp(got, wanted, maxulp=1)


@compiled
@pytest.mark.parametrize(("kind", "assert_same"), [("minmax", assert_same_bits), ("l2", assert_same_to_the_last_place)])
@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_normalizations_are_the_runtimes_bit_for_bit_or_to_the_last_place(
    kind: str,
    assert_same: Callable[[np.ndarray, np.ndarray], None],
    data: st.DataObject,
    seed: int,
    exported: Callable[..., Artifact],
    library: Library,
) -> None:
    case = data.draw(cases(kind))
    spec, shape, dtype, scale, zero_point = case
    loaded = library(ending_in(exported(), *case))
    for raw in vectors(shape, dtype, seed):
        assert_same(normalized(loaded, raw), normalize_quantized(raw, scale, zero_point, spec))


@compiled
@settings(max_examples=20, deadline=None)
@given(
    case=cases("minmax") | cases("l2"),
    copies=st.sampled_from([2, 4]),
    zero_point=st.integers(-128, 127),
    seed=st.integers(0, 2**32 - 1),
)
def test_copies_of_the_last_layer_are_added_up(
    case: tuple[NormalizationSpec, tuple[int, ...], str, float, int],
    copies: int,
    zero_point: int,
    seed: int,
    exported: Callable[..., Artifact],
    library: Library,
) -> None:
    spec, shape, _, scale, _ = case
    shape = (*shape[:-1], shape[-1] * copies)
    spec = replace(spec, copies=copies, zero_point=copies * zero_point)
    loaded = library(ending_in(exported(), spec, shape, "int8", scale, 0))
    for raw in vectors(shape, "int8", seed):
        got, wanted = normalized(loaded, raw, copies), normalize_quantized(raw, scale, 0, spec)
        if spec.kind == "l2":
            assert_same_to_the_last_place(got, wanted)
        else:
            assert_same_bits(got, wanted)


@compiled
@settings(max_examples=20, deadline=None)
@given(case=cases("minmax") | cases("l2"), seed=st.integers(0, 2**32 - 1))
def test_a_float_output_is_normalized_too(
    case: tuple[NormalizationSpec, tuple[int, ...], str, float, int],
    seed: int,
    exported: Callable[..., Artifact],
    library: Library,
) -> None:
    spec, shape, dtype, scale, zero_point = case
    loaded = library(ending_in(exported(), spec, shape, "float32", 0, 0))
    for integers in vectors(shape, dtype, seed):
        raw = (integers.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
        got, wanted = normalized(loaded, raw), normalize(raw, spec)
        if spec.kind == "l2":
            np.testing.assert_array_max_ulp(got, wanted, maxulp=1)
        else:
            assert_same_bits(got, wanted)


def is_tie(value: Fraction) -> bool:
    """Whether a rational number lies in the middle between two float32: an odd integer of 25 bits times 2^n."""
    numerator = abs(value.numerator)
    odd = numerator // (numerator & -numerator) if numerator else 0
    return odd.bit_length() == 25 and value.denominator & (value.denominator - 1) == 0


# Scales with few enough digits that quotients fall on the middle between two floats.
SHORT = (2**23 - 1) * 2.0**-26
THIRD = 6_000_001 * 2.0**-25


@compiled
@pytest.mark.parametrize("divisor", ["shifted", "input"])
@pytest.mark.parametrize("options", [[], ["-mfpmath=387"]], ids=["float", "80 bits"])
def test_every_pair_of_integers_is_divided_exactly(
    divisor: str, options: list[str], exported: Callable[..., Artifact], library: Library
) -> None:
    if options and platform.machine() != "x86_64":
        pytest.skip("only x86-64 has a second floating-point unit, which rounds twice")
    spec = NormalizationSpec("minmax", (1,), divisor, 0.0, "none", "runtime")
    loaded = library(ending_in(exported(), spec, (1, 256), "int8", 0.0123, 0), *options)
    for highest in range(256):
        raw = (np.arange(256)[None] % (highest + 1) - 128).astype(np.int8)
        assert_same_bits(normalized(loaded, raw), normalize_quantized(raw, 0.0123, 0, spec))


@compiled
@pytest.mark.parametrize(
    ("scale", "mode", "epsilon", "ties"),
    [
        (SHORT, "max", 64.0, True),
        (THIRD, "max", 96.0, True),
        (SHORT, "add", 64 - 5 * SHORT, True),
        (0.0123, "max", 1.0, False),
        (2.0, "max", 3.0, False),  # reaches a divisor of 1, not one of 2
        (0.0123, "add", 1e-3, False),
        (0.0123, "add", 1e-30, False),
        (0.25, "add", 2.0, False),  # a divisor of -8 becomes 0
        (0.0123, "add", 1e37, False),  # results are subnormal
        (0.0123, "max", 1e43, False),
    ],
)
@pytest.mark.parametrize("divisor", ["shifted", "input"])
def test_an_epsilon_in_the_divisor_is_divided_exactly(
    scale: float,
    mode: str,
    epsilon: float,
    ties: bool,
    divisor: str,
    exported: Callable[..., Artifact],
    library: Library,
) -> None:
    """Every numerator over divisors at both ends and around zero, with exact ties among the quotients."""
    spec = NormalizationSpec("minmax", (1,), divisor, epsilon, mode, "runtime")
    loaded = library(ending_in(exported(), spec, (1, 256), "int8", scale, 0))
    found = False
    for highest in (*range(12), *range(116, 140), *range(250, 256)):
        raw = (np.arange(256)[None] % (highest + 1) - 128).astype(np.int8)
        assert_same_bits(normalized(loaded, raw), normalize_quantized(raw, scale, 0, spec))
        bottom = (highest if divisor == "shifted" else highest - 128) * Fraction(scale)
        guarded = max(bottom, Fraction(epsilon)) if mode == "max" else bottom + Fraction(epsilon)
        found = found or (guarded != 0 and any(is_tie(top * Fraction(scale) / guarded) for top in range(highest + 1)))
    assert found == ties


@compiled
@pytest.mark.parametrize(("ending", "needed"), [("sample", set()), ("L2", {"sqrt"}), ("none", set())])
def test_nothing_is_needed_but_the_square_root(
    ending: str, needed: set[str], exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    sources = source_of(exported(ending))
    for name, content in sources.items():
        (tmp_path / name).write_bytes(content)
    tool("gcc", "-std=c99", "-O0", "-c", tmp_path / "small.int8.c", "-o", tmp_path / "model.o")
    undefined = {line.split()[-1] for line in tool("nm", "-u", tmp_path / "model.o").splitlines()}
    assert undefined == needed
    included = set(re.findall(rb"#include [<\"](.*?)[>\"]", b"".join(sources.values())))
    assert included == {b"small.int8.h", b"stdint.h"} | ({b"math.h"} if needed else set())


def test_a_normalization_that_is_in_the_file_has_no_function(exported: Callable[..., Artifact]) -> None:
    for artifact in (exported("none"), exported("sample", "float32", "float32")):
        assert b"_normalize" not in b"".join(source_of(artifact).values())
    assert b"OUTPUT_ZERO_POINT" in source_of(exported("none"))["small.int8.h"]
    assert b"OUTPUT_ZERO_POINT" not in source_of(exported("sample", "float32", "float32"))["small.int8.h"]


def test_the_header_says_where_it_came_from_and_what_the_resolver_needs(exported: Callable[..., Artifact]) -> None:
    artifact = exported()
    assert artifact.contract is not None
    header = source_of(artifact)["small.int8.h"].decode()
    assert artifact.contract.flatbuffer_sha256 in header
    assert artifact.contract.tools["embedlite"] in header
    assert {operator.name for operator in artifact.info.operators} == {"CONV_2D"}
    assert "MicroMutableOpResolver<1>" in header
    assert "resolver.AddConv2D();" in header
    told = c_source("small.int8", artifact.flatbuffer, artifact.contract, arena_bytes=12345)["small.int8.h"]
    assert b"12345" in told


def test_the_documentation_names_what_is_there(exported: Callable[..., Artifact]) -> None:
    named = set(re.findall(r"\b(?:model_int8|MODEL_INT8)_\w+", (ROOT / "docs" / "microcontroller.md").read_text()))
    assert {"model_int8_model", "model_int8_preprocess", "model_int8_normalize"} <= named
    header = source_of(exported(), "model.int8")["model.int8.h"].decode()
    assert named <= set(re.findall(r"\w+", header))


def test_the_same_file_gives_the_same_bytes(exported: Callable[..., Artifact]) -> None:
    assert source_of(exported()) == source_of(exported())


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("model.int8", "model_int8"),
        ("2024-11.int8", "model_2024_11_int8"),
        ("größe (neu)", "gr_e_neu"),
        ("_x__y_", "x_y"),
        ("模型", "model"),
        ("", "model"),
        ("int", "int"),
        ('a"b\\c??/\n\udcff', "a_b_c"),
    ],
)
@compiled
def test_any_stem_becomes_an_identifier(
    stem: str, name: str, exported: Callable[..., Artifact], library: Library
) -> None:
    assert c_identifier(stem) == name
    sources = source_of(exported(), stem)
    assert tuple(sources) == c_names(stem)
    loaded = library(sources)
    assert ctypes.c_uint.in_dll(loaded, f"{name}_model_len").value == len(exported().flatbuffer)


def test_ordinary_file_names_are_kept() -> None:
    assert c_names("größe (neu).int8") == ("größe (neu).int8.h", "größe (neu).int8.c")


def test_what_cannot_be_written_as_c_is_refused(exported: Callable[..., Artifact]) -> None:
    spec = NormalizationSpec("minmax", (2,))
    with pytest.raises(ConversionError, match=r"axes \[2\].*shape \[1, 5\]"):
        ending_in(exported(), spec, (1, 5), "int8", 0.1, 0)
    graph = Graph(exported().flatbuffer)
    graph.tensor(int(graph.subgraph.outputs[0])).type = schema.TensorType.INT16
    contract = exported().contract
    assert contract is not None
    with pytest.raises(ConversionError, match="int16"):
        c_source("small", graph.to_bytes(), contract)
