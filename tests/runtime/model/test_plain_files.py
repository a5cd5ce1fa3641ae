"""Plain ``.tflite`` files from elsewhere: what they say of pixels themselves is heard, and one answer is given.

The files are made by TensorFlow's converter, metadata is written with flatbuffers, and the truth is the bare
interpreter on what numpy makes of the pixels.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from click.testing import CliRunner
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from embedlite.convert.contract_decision import decide_contract
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.repair import add_metadata
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.report.command import drift_report
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.commands.embed import embed
from embedlite.runtime.commands.inspect import inspect
from embedlite.runtime.errors import EmbedliteWarning, RequestError
from embedlite.runtime.model.contract import InputOptions

from encoders import small_encoder
from ways_out import walks

# What a foreign .tflite is tried in is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (24, 24, 3)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    from skimage import data

    photo = data.astronaut()
    return np.stack([photo[at : at + 24, at : at + 24] for at in range(0, 480, 40)])


def convert(model: keras.Model, images: np.ndarray | None = None, kind: Any = None) -> bytes:
    function = tf.function(model.call, input_signature=[tf.TensorSpec((1, *SHAPE), tf.float32)])
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = kind
    with warnings.catch_warnings():
        # The converter's own.
        warnings.simplefilter("ignore", UserWarning)
        data: bytes = converter.convert()
    return data


@pytest.fixture(scope="module")
def files(pixels: np.ndarray) -> dict[str, bytes]:
    """One network, converted as it is and for pixels of -1 to 1 and 0-1."""
    model = small_encoder([layers.Flatten()])
    signed = np.concatenate([pixels / 127.5 - 1, -np.ones((1, *SHAPE)), np.ones((1, *SHAPE))])
    unit = (signed + 1) / 2
    return {
        "float": convert(model),
        "uint8": convert(model, signed, tf.uint8),
        "int8": convert(model, signed, tf.int8),
        "uint8 of 0-1": convert(model, unit, tf.uint8),
        "rounded inside": convert(model, signed, tf.float32),
    }


def metadata(mean: tuple[float, ...], std: tuple[float, ...], space: int = 1) -> bytes:
    """TFLITE_METADATA with one normalization; fields by the schema's numbers."""
    b = flatbuffers.Builder(256)

    def table(fields: dict[int, Any]) -> int:
        b.StartObject(8)
        for number, value in fields.items():
            if isinstance(value, tuple):
                b.PrependUint8Slot(number, value[0], 0)
            else:
                b.PrependUOffsetTRelativeSlot(number, value, 0)
        return b.EndObject()

    def vector(values: list[Any], put: Callable[[Any], None]) -> int:
        b.StartVector(4, len(values), 4)
        for value in reversed(values):
            put(value)
        return b.EndVector()

    limits = [vector(list(numbers), b.PrependFloat32) for numbers in (mean, std)]
    unit = table({0: (1,), 1: table({0: limits[0], 1: limits[1]})})
    content = table({0: (2,), 1: table({0: (space,)})})
    source = table({3: content, 4: vector([unit], b.PrependUOffsetTRelative)})
    graph = table({2: vector([source], b.PrependUOffsetTRelative)})
    b.Finish(table({3: vector([graph], b.PrependUOffsetTRelative)}), b"M001")
    return bytes(b.Output())


def written(path: Path, flatbuffer: bytes, described: bytes | None = None) -> Path:
    if described is not None:
        graph = Graph(flatbuffer)
        add_metadata(graph, "TFLITE_METADATA", described)
        flatbuffer = graph.to_bytes()
    path.write_bytes(flatbuffer)
    return path


def truth(path: Path, ready: np.ndarray) -> np.ndarray:
    """The bare interpreter's embeddings of what the float model takes."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for floats in ready.astype(np.float32):
        image = floats
        if source["dtype"] != np.float32:
            scale, zero_point = source["quantization"]
            limits = np.iinfo(source["dtype"])
            image = np.clip(np.round(floats / np.float32(scale)) + zero_point, limits.min, limits.max)
        interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
        interpreter.invoke()
        row = interpreter.get_tensor(target["index"])[0]
        scale, zero_point = target["quantization"]
        rows.append(row if row.dtype == np.float32 else (row.astype(np.float32) - zero_point) * np.float32(scale))
    return np.stack(rows)


def opened(path: Path, **more: Any) -> Encoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedliteWarning)
        return Encoder(path, threads=1, **more)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min())


@pytest.mark.parametrize(
    ("mean", "std"),
    [((127.5,), (127.5,)), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), ((0.0,), (1.0,))],
)
def test_metadata_says_what_pixels_become(
    mean: tuple[float, ...], std: tuple[float, ...], files: dict[str, bytes], pixels: np.ndarray, tmp_path: Path
) -> None:
    path = written(tmp_path / "plain.tflite", files["float"], metadata(mean, std))
    with opened(path) as encoder:
        np.testing.assert_allclose(encoder.contract.input.mean, mean, rtol=1e-6)
        assert encoder.contract.origins["mean"] == encoder.contract.origins["color_order"] == "metadata"
        assert encoder.contract.origins["resampler"] == "assumed"
        ready = (pixels - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(encoder.embed(pixels), truth(path, ready), rtol=0, atol=1e-4 * np.abs(ready).max())


def test_what_a_plain_file_is_taken_for_is_said_with_its_origins(files: dict[str, bytes], tmp_path: Path) -> None:
    path = written(tmp_path / "plain.tflite", files["float"], metadata((127.5,), (127.5,)))
    with pytest.warns(EmbedliteWarning, match=r"\(pixel - 127.5\) / 127.5 \(metadata\), rgb \(metadata\), bilinear \("):
        Encoder(path, threads=1).close()
    path = written(path, files["float"])
    with pytest.warns(EmbedliteWarning, match=r"\(pixel - 0\) / 255 \(assumed\), rgb \(assumed\)"):
        Encoder(path, threads=1).close()
    with pytest.warns(EmbedliteWarning, match=r"\(pixel - 0\) / 127.5 \(mean assumed, std given\)"):
        Encoder(path, threads=1, input_contract=InputOptions(std=(127.5,))).close()


@pytest.mark.parametrize("described", [None, ((127.5,), (127.5,)), ((0.0,), (1.0,))])
def test_a_uint8_input_takes_pixels_as_they_are(
    described: Any, files: dict[str, bytes], pixels: np.ndarray, tmp_path: Path
) -> None:
    """As MediaPipe hands them over; what they stand for is in the scale and zero point."""
    for name, (low, high) in {"uint8": (-1, 1), "uint8 of 0-1": (0, 1)}.items():
        if name == "uint8 of 0-1" and described == ((127.5,), (127.5,)):
            continue
        path = written(tmp_path / "plain.tflite", files[name], None if described is None else metadata(*described))
        with opened(path) as encoder:
            assert encoder.contract.origins["mean"] == "inferred"
            inputs = encoder.contract.input
            by_pixels = encoder.embed(pixels)
            floats = ((pixels - inputs.mean[0]) / inputs.std[0]).astype(np.float32)
            np.testing.assert_array_equal(by_pixels, encoder.embed(floats))
        ready = low + pixels / 255 * (high - low)
        assert np.abs(floats - ready).max() < 0.01
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[:1])
        interpreter.invoke()
        detail = interpreter.get_output_details()[0]
        raw = interpreter.get_tensor(detail["index"])[0]
        scale, zero_point = detail["quantization"] if raw.dtype != np.float32 else (1, 0)
        np.testing.assert_allclose(by_pixels[0], (raw.astype(np.float32) - zero_point) * np.float32(scale), rtol=1e-6)


@pytest.mark.parametrize("name", ["int8", "rounded inside"])
def test_integers_say_what_pixels_are(name: str, files: dict[str, bytes], pixels: np.ndarray, tmp_path: Path) -> None:
    path = written(tmp_path / "plain.tflite", files[name])
    with opened(path) as encoder:
        inputs = encoder.contract.input
        assert encoder.contract.origins["mean"] == encoder.contract.origins["std"] == "inferred"
        by_pixels = encoder.embed(pixels)
        floats = ((pixels - inputs.mean[0]) / inputs.std[0]).astype(np.float32)
        np.testing.assert_array_equal(by_pixels, encoder.embed(floats))
    assert cosine(by_pixels, truth(path, pixels / 127.5 - 1)) > 0.9999


@pytest.mark.parametrize("name", ["float", "uint8", "int8"])
@pytest.mark.parametrize("given", [((127.5,), (127.5,)), ((123.675, 116.28, 103.53), (128.0, 127.0, 126.0))])
def test_one_encoder_gives_one_answer_for_pixels_and_for_ready_floats(
    name: str, given: Any, files: dict[str, bytes], pixels: np.ndarray, tmp_path: Path
) -> None:
    """Pixels used to go into a uint8 input as they are, whatever mean and std said."""
    path = written(tmp_path / "plain.tflite", files[name])
    mean, std = given
    with opened(path, input_contract=InputContract(SHAPE, mean=mean, std=std)) as encoder:
        floats = ((pixels - np.array(mean, np.float32)) / np.array(std, np.float32)).astype(np.float32)
        found = encoder.embed(pixels)
        np.testing.assert_array_equal(found, encoder.embed(floats))
    np.testing.assert_allclose(found, truth(path, floats), rtol=0, atol=1e-5 if name == "float" else 1e-6)


@walks("contradict each other. Leave mean, std and colour order out, correct")
@pytest.mark.parametrize(
    ("name", "described", "given", "message"),
    [
        (
            "float",
            ((127.5,), (127.5,)),
            {"mean": (0.0,), "std": (255.0,)},
            r"\(the options: mean 0, std 255\) and \(its TFLite Metadata: mean 127.5",
        ),
        ("float", ((127.5,), (127.5,)), {"std": (255.0,)}, "options: std 255.*Metadata: mean 127.5, std 127.5"),
        ("float", ((127.5,), (127.5,)), {"color_order": "bgr"}, "options: colour order bgr.*colour order rgb"),
        (
            "uint8",
            None,
            {"mean": (0.0,), "std": (1.0,)},
            r"\(pixels become 0 to 255\).*scale 0.00784.* from -0.9961 to 1.004",
        ),
        ("int8", None, {"mean": (0.0,), "std": (255.0,)}, "options: mean 0, std 255 .*scale 0.00784"),
        ("uint8", ((127.5,), (1.0,)), {}, r"Metadata: mean 127.5, std 1, .*scale 0.00784"),
        ("int8", ((127.5,), (127.5,)), {"std": (1.0,)}, "options: std 1 .*Metadata: mean 127.5.* scale"),
    ],
)
def test_contradictions_are_one_error_that_shows_all(
    name: str, described: Any, given: dict[str, Any], message: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = written(tmp_path / "plain.tflite", files[name], None if described is None else metadata(*described))
    with pytest.raises(RequestError, match=f"{message}.* or insist with --accept-contract"):
        opened(path, input_contract=InputOptions(**given))
    with opened(path, input_contract=InputOptions(**given), accept_contract=True) as encoder:
        assert given.items() <= {**vars(encoder.contract.input)}.items()
    if given:
        with opened(path) as encoder:
            meant = encoder.contract.input
        with opened(path, input_contract=InputOptions(mean=meant.mean, std=meant.std)) as encoder:
            assert encoder.contract.input == meant


def test_metadata_that_cannot_be_true_is_left_out_and_that_is_said(files: dict[str, bytes], tmp_path: Path) -> None:
    for described in (metadata((0.0,), (0.0,)), metadata((1.0, 2.0), (1.0, 2.0)), b"0000XXXX" * 4):
        path = written(tmp_path / "plain.tflite", files["float"], described)
        with pytest.warns(EmbedliteWarning) as caught:
            Encoder(path, threads=1).close()
        assert any("left out of account" in str(item.message) for item in caught)


def test_a_uint8_input_without_scale_stands_for_itself(pixels: np.ndarray, tmp_path: Path) -> None:
    image = keras.Input(SHAPE, dtype="uint8")
    scaled = layers.Lambda(lambda x: tf.cast(x, tf.float32) / 255.0)(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(scaled))
    function = tf.function(model.call, input_signature=[tf.TensorSpec((1, *SHAPE), tf.uint8)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], model)
    path = written(tmp_path / "plain.tflite", converter.convert())
    with opened(path) as encoder:
        assert (encoder.contract.input.mean, encoder.contract.input.std) == ((0.0,), (1.0,))
        np.testing.assert_allclose(encoder.embed(pixels), pixels.mean(axis=(1, 2)) / 255, rtol=1e-5)
        np.testing.assert_array_equal(encoder.embed(pixels), encoder.embed(pixels.astype(np.float32)))


def test_every_command_hears_the_metadata(files: dict[str, bytes], pixels: np.ndarray, tmp_path: Path) -> None:
    path = written(tmp_path / "plain.tflite", files["float"], metadata((127.5,), (127.5,)))
    wanted = truth(path, pixels / 127.5 - 1)
    np.save(tmp_path / "pixels.npy", pixels)
    np.save(tmp_path / "wanted.npy", wanted)
    command = CliRunner()
    names = [str(tmp_path / name) for name in ("plain.tflite", "pixels.npy", "vectors.npz", "wanted.npy")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedliteWarning)
        done = command.invoke(embed, [*names[:2], "-o", names[2]], standalone_mode=False)
        assert done.exit_code == 0, done.exception
        np.testing.assert_allclose(np.load(names[2])["embeddings"], wanted, atol=1e-4)
        told = command.invoke(drift_report, [names[0], "--reference", names[3], "--data", names[1]])
        assert "PASS" in told.output, told.output
        refused = command.invoke(embed, [*names[:2], "-o", names[2], "--force", "--std", "1"], standalone_mode=False)
        assert isinstance(refused.exception, RequestError)
        insisted = [*names[:2], "-o", names[2], "--force", "--std", "1", "--accept-contract"]
        assert command.invoke(embed, insisted, standalone_mode=False).exception is None
        for arguments in ([*names[:1], "--reference", names[0], "--data", names[1], "--std", "1"],):
            assert isinstance(command.invoke(drift_report, arguments, standalone_mode=False).exception, RequestError)
    shown = command.invoke(inspect, names[:1], standalone_mode=False)
    assert "pixels are taken as (pixel - 127.5) / 127.5 (metadata), rgb (metadata)" in " ".join(shown.output.split())
    shown = command.invoke(inspect, [names[0], "--json", "-"], standalone_mode=False)
    assert json.loads(shown.output)["assumed"]["origins"]["std"] == "metadata"
    original = load_original(path, LoadOptions())
    decided = decide_contract("plain", SHAPE, InputOptions(), original.inputs, lower(original).scaling)
    assert (decided.contract.mean, decided.contract.std) == ((127.5,), (127.5,))
    assert decided.origins["mean"] == "metadata"


def test_an_export_shows_options_metadata_and_graph_where_they_contradict_each_other(tmp_path: Path) -> None:
    scaling = layers.ZeroPadding2D(1)(layers.Rescaling(1 / 127.5, offset=-1)(image := keras.Input(SHAPE)))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(scaling)))
    path = written(tmp_path / "plain.tflite", convert(model), metadata((127.5,), (127.5,)))
    original = load_original(path, LoadOptions())
    lowered = lower(original)
    all_three = r"--std 255 contradicts plain: it scales .* --mean 0 --std 1.* Metadata: mean 127.5, std 127.5"
    with pytest.raises(RequestError, match=all_three):
        decide_contract("plain", SHAPE, InputOptions(std=(255.0,)), original.inputs, lowered.scaling)
    with pytest.raises(RequestError, match=r"contradicts its graph: .* Metadata: mean 127.5"):
        decide_contract("plain", SHAPE, InputOptions(), original.inputs, lowered.scaling)
    decided = decide_contract("plain", SHAPE, InputOptions(), original.inputs, lowered.scaling, accept=True)
    assert decided.contract.std == (127.5,)
