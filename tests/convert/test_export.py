"""``embedlite.convert.export``: what the files are and what they compute."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from tensorflow.compiler.mlir.lite.python import wrap_converter

from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import L2Normalization, MinMaxNormalization
from embedlite.convert.modes import MODES
from embedlite.runtime import Encoder
from embedlite.runtime.backends.registry import BACKENDS
from embedlite.runtime.errors import OutputExistsError, RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.artifact import read_artifact

from conftest import Digits
from encoders import PLAIN, small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

ENDINGS = {
    "min-max per sample": lambda: [MinMaxNormalization(), layers.Flatten()],
    # ReLU first: where a channel's maximum is near zero, dividing by it blows up any error.
    "min-max per channel, input": lambda: [layers.ReLU(), MinMaxNormalization("channel", "input"), layers.Flatten()],
    "min-max over the batch, epsilon": lambda: [MinMaxNormalization("batch", epsilon=1e-3), layers.Flatten()],
    "min-max in the middle": lambda: [MinMaxNormalization("channel"), layers.Flatten(), layers.Dense(8)],
    "L2": lambda: [layers.Flatten(), L2Normalization()],
    "UnitNormalization": lambda: [layers.GlobalAveragePooling2D(), layers.UnitNormalization()],
    "LayerNormalization": lambda: [layers.Flatten(), layers.LayerNormalization()],
    "none": lambda: [layers.Flatten()],
}


def images_of(photos: Path) -> np.ndarray:
    from embedlite.runtime import InputContract

    return np.stack(list(open_source(photos, InputContract((24, 24, 3)))))


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_mode_agrees_with_keras_on_images_that_set_no_ranges(ending: str, photos: Path, tmp_path: Path) -> None:
    model = small_encoder(ENDINGS[ending]())
    images = images_of(photos)
    result = export(
        model,
        tmp_path,
        quantize=["all"],
        calibration_data=images[:30],
        test_data=images[30:],
        options=ExportOptions(std=(255.0,)),
    )
    wanted = np.concatenate([np.asarray(model(image[None] / np.float32(255))) for image in images[30:]])
    # The smallest signal-to-noise ratio that a working file of each mode has on these encoders.
    floor = {"float32": 100, "float16": 50, "dynamic": 25, "int8": 20, "int16x8": 25}
    for file in result.files:
        with Encoder(file.path) as encoder:
            got = encoder.embed(images[30:])
        noise = float(((got - wanted) ** 2).sum())
        assert 10 * np.log10(float((wanted**2).sum()) / max(noise, 1e-30)) > floor[file.mode], file.mode
        assert file.drift is not None
        assert file.drift.invalid == 0
        verdicts = {verdict.runtime: verdict for verdict in file.verified}
        assert set(verdicts) == {target.package for target in BACKENDS.values() if file.mode in target.modes}
        for runtime in set(verdicts) - {"tflite-runtime"}:
            assert verdicts[runtime].ok, verdicts
        if (ending, file.mode) == ("min-max in the middle", "dynamic"):
            # A dense layer with per-channel weights came to TensorFlow Lite after tflite-runtime's last release.
            assert not verdicts["tflite-runtime"].ok
            assert "FULLY_CONNECTED" in verdicts["tflite-runtime"].detail
        else:
            assert verdicts["tflite-runtime"].ok, verdicts


@pytest.mark.parametrize("ending", ["min-max per sample", "min-max per channel, input", "L2", "UnitNormalization"])
def test_a_flat_embedding_gives_zeros_in_every_file(ending: str, photos: Path, tmp_path: Path) -> None:
    model = small_encoder(ENDINGS[ending]())
    # An untrained encoder has no offsets, and is given none by corrections: a black image is zero in every tensor, the
    # raw embedding included.
    images, black = images_of(photos), np.zeros((24, 24, 3), np.uint8)
    options = ExportOptions(measure=False, correct=("none",))
    result = export(model, tmp_path, quantize=["all"], calibration_data=images[:20], options=options)
    for file in result.files:
        with Encoder(file.path) as encoder:
            np.testing.assert_array_equal(encoder.embed_one(black), np.zeros(encoder.embedding_shape))
            assert np.any(encoder.embed_one(images[40]))


def test_float32_matches_keras_to_five_digits_on_the_held_out_digits(digits: Digits) -> None:
    model = keras.saving.load_model(digits.model)
    with Encoder(digits.float32) as encoder:
        source = open_source(digits.test_images, encoder.contract.input)
        ready = np.stack([source.ready(index) for index in range(len(source))])
        got = encoder.embed(ready)
    wanted = np.asarray(model(ready))
    assert np.abs(got - wanted).max() <= 1e-5


@pytest.fixture(scope="module")
def exported(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export of a small encoder in all modes, from a file, with the photos."""
    folder = tmp_path_factory.mktemp("exported")
    small_encoder(ENDINGS["min-max per sample"]()).save(folder / "small.keras")
    export(folder / "small.keras", quantize=["all"], calibration_data=photos, options=ExportOptions(measure=False))
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_files_have_one_signature_fixed_batch_and_no_shape_operators(exported: Path, mode: str) -> None:
    info = read_artifact(exported / f"small.{mode}.tflite").info
    assert info.signatures == ("serving_default",)
    assert (info.inputs[0].name, info.inputs[0].shape) == ("image", (1, 24, 24, 3))
    assert (info.outputs[0].name, info.outputs[0].shape) == ("embedding", (1, 256))
    assert not {operator.name for operator in info.operators} & {"SHAPE", "STRIDED_SLICE", "PACK"}


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_inside_the_flatbuffer_and_versions_are_raised(exported: Path, mode: str) -> None:
    artifact = read_artifact(exported / f"small.{mode}.tflite")
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(artifact.flatbuffer, 0)
    assert all(buffer.offset == 0 and buffer.size == 0 for buffer in model.buffers)
    versions = {operator.name: operator.version for operator in artifact.info.operators}
    assert versions["CONV_2D"] == {"float32": 1, "float16": 1, "dynamic": 5, "int8": 3, "int16x8": 4}[mode]
    assert "CONVERSION_METADATA" not in artifact.info.metadata
    runtime = artifact.info.metadata["min_runtime_version"].rstrip(b"\0")
    # DIV and MAXIMUM date from 1.6 and 1.14; per-channel hybrid convolutions from 2.4, those of int16 from 2.3.
    assert runtime == {"dynamic": b"2.4.0", "float16": b"1.15.0", "int16x8": b"2.3.0"}.get(mode, b"1.14.0")


def test_int8_is_int8_up_to_the_float_island(exported: Path) -> None:
    graph = Graph(read_artifact(exported / "small.int8.tflite").flatbuffer)
    names = [graph.operator_name(operator) for operator in graph.operators]
    assert names[0] == "QUANTIZE"
    island = names.index("DEQUANTIZE")
    assert set(names[1:island]) == {"CONV_2D"}
    assert set(names[island + 1 :]) == {"REDUCE_MIN", "SUB", "REDUCE_MAX", "MAXIMUM", "DIV", "RESHAPE"}


def test_the_same_input_gives_the_same_bytes(exported: Path, photos: Path, tmp_path: Path) -> None:
    export(
        exported / "small.keras",
        tmp_path,
        quantize=["all"],
        calibration_data=photos,
        options=ExportOptions(measure=False),
    )
    for mode in MODES:
        name = f"small.{mode}.tflite"
        assert (tmp_path / name).read_bytes() == (exported / name).read_bytes(), mode


def test_the_order_of_the_calibration_images_does_not_matter(photos: Path, tmp_path: Path) -> None:
    images = images_of(photos)
    model = small_encoder(ENDINGS["L2"]())
    contents = []
    for name, order in (("a", images), ("b", images[::-1])):
        test = images[:4]
        export(
            model,
            tmp_path / name,
            quantize=["int8"],
            calibration_data=order,
            test_data=test,
            options=ExportOptions(measure=False),
        )
        contents.append(read_artifact(tmp_path / name / "small.int8.tflite").flatbuffer)
    assert contents[0] == contents[1]


@pytest.fixture(scope="module")
def plain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, np.ndarray, Path]:
    """An encoder without a normalization, images, and its int8 file with float ends."""
    model, images = small_encoder([layers.Flatten()]), images_of(photos)
    options = ExportOptions(measure=False, **PLAIN)
    folder = tmp_path_factory.mktemp("plain")
    result = export(model, folder, quantize=["int8"], calibration_data=images, options=options)
    return model, images, result.files[0].path


@pytest.mark.parametrize("output_type", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("input_type", ["float32", "uint8", "int8"])
def test_input_and_output_types_change_the_file_but_not_the_embedding(
    input_type: str, output_type: str, plain: tuple[keras.Model, np.ndarray, Path], tmp_path: Path
) -> None:
    model, images, with_float_ends = plain
    typed = export(
        model,
        tmp_path,
        quantize=["int8"],
        calibration_data=images,
        options=ExportOptions(input_type=input_type, output_type=output_type, measure=False, **PLAIN),
    )
    info = read_artifact(typed.files[0].path).info
    assert (info.inputs[0].dtype, info.outputs[0].dtype) == (input_type, output_type)
    if input_type == "uint8":
        # Raw pixels: the scale is 1/std, the zero point the mean.
        assert info.inputs[0].zero_point == (0,)
        assert info.inputs[0].scale[0] == pytest.approx(1 / 255, rel=1e-6)
    with Encoder(with_float_ends) as first, Encoder(typed.files[0].path) as second:
        np.testing.assert_allclose(second.embed(images[:8]), first.embed(images[:8]), rtol=1e-5, atol=1e-6)
        ready = images[:8] / np.float32(255)
        np.testing.assert_allclose(second.embed(ready), first.embed(images[:8]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ending", ["min-max per sample", "min-max per channel, input", "L2"])
def test_an_integer_output_leaves_the_normalization_to_the_runtime(ending: str, photos: Path, tmp_path: Path) -> None:
    model, images = small_encoder(ENDINGS[ending]()), images_of(photos)
    files = []
    for name, types in (("graph", {}), ("runtime", {"input_type": "int8", "output_type": "int8"})):
        result = export_asked(
            model,
            Asked(
                output_dir=tmp_path / name,
                quantize=["int8"],
                calibration_data=images[:30],
                test_data=images[30:],
                **types,
            ),
        )
        assert all(verdict.ok for verdict in result.files[0].verified), result.files[0].verified
        files.append(result.files[0])
    names = {operator.name for operator in read_artifact(files[1].path).info.operators}
    assert names <= {"CONV_2D", "RESHAPE", "RELU"}
    assert files[1].contract["normalization"]["placement"] == "runtime"
    with Encoder(files[0].path) as graph, Encoder(files[1].path) as runtime:
        # The same integers, normalized by float operators in the file and by integer arithmetic after it.
        np.testing.assert_allclose(runtime.embed(images[30:]), graph.embed(images[30:]), atol=1e-5)


def test_every_pixel_value_has_an_int8_step_of_its_own(exported: Path) -> None:
    graph = Graph(read_artifact(exported / "small.int8.tflite").flatbuffer)
    quantization = graph.tensor(int(graph.operators[0].outputs[0])).quantization
    assert float(quantization.scale[0]) == pytest.approx(1 / 255, rel=1e-6)
    assert int(quantization.zeroPoint[0]) == -128


def test_a_model_built_by_a_first_call_needs_its_shape_only_if_it_is_lost(tmp_path: Path, photos: Path) -> None:
    body = keras.Sequential([layers.Conv2D(4, 3, strides=2), layers.ReLU()])
    model = keras.Sequential([body, layers.GlobalMaxPooling2D(), MinMaxNormalization()], name="called")
    model(np.zeros((1, 24, 24, 3), np.float32))
    model.save(tmp_path / "called.keras")
    result = export(tmp_path / "called.keras", options=ExportOptions(input_shape=(24, 24, 3), measure=False))
    images = images_of(photos)[:3]
    with Encoder(result.files[0].path) as encoder:
        got = encoder.embed(images)
    np.testing.assert_allclose(got, np.asarray(model(images / np.float32(255))), atol=1e-5)


@pytest.mark.parametrize("activation", ["swish", "gelu", "hard_swish", "leaky_relu", "elu", "tanh"])
def test_every_usual_activation_converts(activation: str, photos: Path, tmp_path: Path) -> None:
    """Swish has a gradient of its own, which TensorFlow cannot save with a frozen function."""
    keras.utils.set_random_seed(0)
    body = [layers.Conv2D(8, 3, strides=2, activation=activation), layers.GlobalAveragePooling2D(), layers.Dense(8)]
    model = keras.Sequential([keras.Input((24, 24, 3)), *body, L2Normalization()], name="activated")
    images = images_of(photos)
    options = ExportOptions(measure=False, **PLAIN)
    result = export(model, tmp_path, calibration_data=images, options=options)
    wanted = np.asarray(model(images[:4] / np.float32(255)))
    for file, tolerance in zip(result.files, (1e-5, 0.1), strict=True):
        with Encoder(file.path) as encoder:
            np.testing.assert_allclose(encoder.embed(images[:4]), wanted, atol=tolerance)


def test_images_that_are_alike_are_not_the_files_fault(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3), np.uint8)
    alike = np.full((12, 24, 24, 3), 90, np.uint8)
    result = export(small_encoder(ENDINGS["L2"]()), tmp_path, calibration_data=images, test_data=alike)
    assert all(verdict.ok for file in result.files for verdict in file.verified)


def test_export_json_says_what_the_result_says(exported: Path) -> None:
    value = json.loads((exported / "small.export.json").read_text())
    assert value["schema"] == 1
    assert [file["mode"] for file in value["files"]] == list(MODES)
    for file in value["files"]:
        artifact = read_artifact(exported / file["path"])
        assert (file["bytes"], file["sha256"]) == (artifact.size, artifact.sha256)
        assert artifact.contract is not None
        assert file["contract"] == json.loads(json.dumps(artifact.contract.to_json()))
        assert file["drift"] is None
        assert file["verified"] == []


def test_only_one_conversion_runs(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = wrap_converter.wrapped_convert

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(wrap_converter, "wrapped_convert", counted)
    images = np.zeros((6, 24, 24, 3), np.uint8)
    images[1:] = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3))
    export(
        exported / "small.keras",
        tmp_path,
        quantize=["all"],
        calibration_data=images,
        options=ExportOptions(measure=False),
    )
    assert len(calls) == 1


def test_an_iterable_calibrates_as_its_array_does(exported: Path, tmp_path: Path, photos: Path) -> None:
    images = images_of(photos)

    def representative_dataset():
        for image in images:
            yield [image[None]]

    files = []
    for name, data in (("array", images), ("function", representative_dataset), ("dicts", [{"a": 1, "b": images}])):
        feature = "b" if name == "dicts" else None
        result = export(
            exported / "small.keras",
            tmp_path / name,
            quantize=["int8"],
            calibration_data=data,
            options=ExportOptions(feature=feature, **PLAIN),
        )
        assert result.skipped == ()
        files.append(result.files[0])
    assert files[0].sha256 == files[1].sha256 == files[2].sha256
    assert files[0].drift == files[1].drift == files[2].drift


def test_existing_files_are_kept_unless_forced(exported: Path) -> None:
    before = (exported / "small.float32.tflite").read_bytes()
    with pytest.raises(OutputExistsError, match="--force"):
        export(exported / "small.keras", quantize=["float32"], options=ExportOptions(measure=False))
    assert (exported / "small.float32.tflite").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": ["int4"]}, "float32, float16, dynamic, int8, int16x8, all"),
        ({"quantize": ["int8"]}, "--calibration-data"),
        ({"quantize": ["float32"], "input_type": "uint8"}, "-q int8"),
        ({"mean": (1.0, 2.0)}, "3 channel"),
        ({"std": (0.0,)}, "greater than zero"),
        ({"color_order": "gray"}, "rgb, bgr"),
        ({"resampler": "best"}, "bilinear"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_requests_that_cannot_be_met_say_why(exported: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        export_asked(exported / "small.keras", Asked(output_dir=tmp_path, **options))
    assert list(tmp_path.iterdir()) == []


def test_uint8_input_needs_one_whole_mean(exported: Path, tmp_path: Path, photos: Path) -> None:
    with pytest.raises(RequestError, match="whole mean"):
        export(
            exported / "small.keras",
            tmp_path,
            calibration_data=photos,
            options=ExportOptions(mean=(127.5,), input_type="uint8"),
        )
    assert list(tmp_path.iterdir()) == []
