"""Every model format opens, and what comes out is what the framework that saved it computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers, ops

from embedlite.convert import ExportOptions, export
from embedlite.convert.errors import CustomCodeError, ModelLoadError, ModelShapeError
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_runner
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.load import load_original
from embedlite.convert.load.custom_code import REPLACEMENTS
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime import Encoder
from embedlite.runtime.errors import RequestError
from embedlite.runtime.input.normalize import normalize
from embedlite.runtime.model.contract import NormalizationSpec

from conftest import Run

# What a foreign .tflite is tried in is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (16, 16, 3)
IMAGE = np.random.default_rng(0).random(SHAPE, np.float32)


def embed(path: Path, **options: object) -> np.ndarray:
    """The float TFLite graph's answer for one image, after the whole way from the file."""
    original = load_original(path, LoadOptions(**options))
    lowered = lower(original)
    wanted = lowered.reference(IMAGE)
    got = float_runner(lowered.flatbuffer)(IMAGE)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    return got


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of Keras 3 with much in them."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(1)
    image = keras.Input(SHAPE, name="image")
    inner_in = keras.Input((8, 8, 4))
    inner = keras.Model(inner_in, layers.Conv2D(6, 3, name="inside")(layers.ReLU()(inner_in)), name="backbone")
    x = inner(layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(image))
    vector = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(3, name="logits")(vector)
    keras.Model(image, logits, name="classifier").save(folder / "classifier.keras")
    keras.Model(image, [vector, logits]).save(folder / "list.keras")
    keras.Model(image, {"vector": vector, "logits": logits}).save(folder / "dict.keras")
    nested = keras.Sequential(
        [
            keras.Sequential([layers.Conv2D(4, 3, name="first"), layers.BatchNormalization()], name="block"),
            keras.Sequential([layers.Conv2D(5, 3, name="second"), layers.ReLU(name="active")], name="other"),
            layers.GlobalMaxPooling2D(name="top"),
            layers.Dense(2),
        ]
    )
    nested(IMAGE[None])
    nested.save(folder / "nested.keras")
    lambdas = keras.Model(image, layers.Lambda(ops.relu6, name="known")(layers.Lambda(_scaled, name="norm")(vector)))
    lambdas.save(folder / "lambda.keras")
    raw = keras.Model(image, vector)
    np.savez(folder / "wanted.npz", vector=raw(IMAGE[None]), logits=keras.Model(image, logits)(IMAGE[None]))
    return folder


def _scaled(x):
    return x / ops.max(ops.abs(x))


@pytest.mark.parametrize("name", ["list.keras", "dict.keras"])
def test_one_of_several_outputs(name: str, models: Path) -> None:
    with np.load(models / "wanted.npz") as wanted:
        outputs = {"pool": "vector", "logits": "logits"} if name == "list.keras" else {"vector": "vector"}
        for output, key in outputs.items():
            np.testing.assert_allclose(embed(models / name, output=output), wanted[key][0], atol=1e-5)
    with pytest.raises(ModelShapeError, match=r"2 outputs.*--output \w+ or --output \w+"):
        load_original(models / name)
    with pytest.raises(ModelShapeError, match="no output 'none'"):
        load_original(models / name, LoadOptions(output="none"))


def test_a_classifier_is_cut_at_a_layer(models: Path) -> None:
    with np.load(models / "wanted.npz") as wanted:
        np.testing.assert_allclose(embed(models / "classifier.keras", layer="pool"), wanted["vector"][0], atol=1e-5)
    with pytest.raises(ModelShapeError, match=r"no layer 'pol'.*pool"):
        load_original(models / "classifier.keras", LoadOptions(layer="pol"))
    original = load_original(models / "classifier.keras", LoadOptions(layer="inside"))
    with pytest.raises(ModelShapeError, match=r"\(1, 6, 6, 6\).*not an embedding.*--layer"):
        lower(original)


def test_nested_models_are_cut_inside(models: Path) -> None:
    model = keras.saving.load_model(models / "nested.keras")
    values = IMAGE[None]
    for member in model.layers[:2]:
        values = member(values)
    original = load_original(models / "nested.keras", LoadOptions(SHAPE, layer="active"))
    assert original.call is not None
    np.testing.assert_allclose(original.call(IMAGE[None]), values, atol=1e-5)
    pooled = np.asarray(values).max(axis=(1, 2))[0]
    np.testing.assert_allclose(embed(models / "nested.keras", input_shape=SHAPE, layer="top"), pooled, atol=1e-5)


def test_functions_that_keras_knows_need_no_code(models: Path, tmp_path: Path) -> None:
    with pytest.raises(CustomCodeError) as caught:
        load_original(models / "lambda.keras")
    assert "'norm' wants the function '_scaled'" in str(caught.value)
    trusted = tmp_path / "trusted.py"
    trusted.write_text(
        "from keras import ops\ndef _scaled(x):\n    return x / ops.max(ops.abs(x))\nrelu6 = ops.relu6\n"
    )
    with np.load(models / "wanted.npz") as wanted:
        vector = wanted["vector"][0]
    got = embed(models / "lambda.keras", custom_objects=trusted)
    np.testing.assert_allclose(got, np.clip(vector / np.abs(vector).max(), 0, 6), atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in REPLACEMENTS if not kind.startswith("preprocess-")])
def test_every_replacement_computes_what_its_name_says(kind: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(2)
    body = [keras.Input(SHAPE), layers.Conv2D(4, 3, strides=4, activation="relu")]
    keras.Sequential([*body, layers.Lambda(_scaled, name="norm"), layers.Flatten()]).save(tmp_path / "model.keras")
    raw = np.asarray(keras.Sequential(body)(IMAGE[None]))
    reach = {"batch": (0, 1, 2, 3), "channel": (0, 1, 2), "sample": (1, 2, 3)}
    spec = NormalizationSpec("l2", (3,), epsilon=1e-6, epsilon_mode="max")
    if kind != "l2":
        axis, _, divisor = kind.removeprefix("minmax-").partition(":")
        spec = NormalizationSpec("minmax", reach[axis], divisor or "shifted")
    weights = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"_scaled": _scaled}).get_weights()
    kernel = keras.Sequential(body)
    kernel.set_weights(weights)
    raw = np.asarray(kernel(IMAGE[None]))
    got = embed(tmp_path / "model.keras", replace_lambda=(f"norm={kind}",))
    np.testing.assert_allclose(got, normalize(raw, spec).ravel(), atol=1e-5)


CUSTOM = """
import keras
def wave(x):
    return keras.ops.sin(x)
class Plain(keras.layers.Layer):
    def call(self, x):
        return x * 2
@keras.saving.register_keras_serializable(package=PACKAGE)
class Registered(keras.layers.Layer):
    def call(self, x):
        return x + 1
"""


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_users_own_classes_and_functions(suffix: str, tmp_path: Path, run: Run) -> None:
    # Keras remembers a registered class as long as the process lives, so each test has a name of its own.
    package = f"mine{suffix[1:]}"
    (tmp_path / "mine.py").write_text(CUSTOM.replace("PACKAGE", repr(package)))
    code = (
        "import numpy as np, keras\nfrom keras import layers\nfrom mine import *\n"
        "own = [layers.Conv2D(3, 3, activation=wave), Plain(), Registered()]\n"
        "model = keras.Sequential([keras.Input((16, 16, 3)), *own, layers.GlobalAveragePooling2D()])\n"
        f"model.save('model{suffix}')\n"
        "np.save('wanted.npy', model(np.random.default_rng(0).random((16, 16, 3), np.float32)[None]))\n"
    )
    done = run("python", "-c", code, cwd=tmp_path, world="tensorflow")
    assert done.returncode == 0, done.stderr
    path = tmp_path / f"model{suffix}"
    with pytest.raises(CustomCodeError) as caught:
        load_original(path)
    for part in ("wants the function 'wave'", "custom class 'Plain'", f"custom class '{package}>Registered'"):
        assert part in str(caught.value)
    got = embed(path, custom_objects=tmp_path / "mine.py")
    np.testing.assert_allclose(got, np.load(tmp_path / "wanted.npy")[0], atol=1e-5)


def tflite(model: keras.Model) -> tf.lite.TFLiteConverter:
    return tf.lite.TFLiteConverter.from_keras_model(model)


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(6, 3, strides=2, activation="relu", name="features"),
            layers.Reshape((-1,)),
            layers.Dense(8),
            MinMaxNormalization(),
        ],
        name="encoder",
    )


def test_a_float_tflite_is_taken_as_it_is(encoder: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite(encoder).convert())
    before = {Graph(path.read_bytes()).operator_name(op) for op in Graph(path.read_bytes()).operators}
    assert before & {"SHAPE", "STRIDED_SLICE", "PACK"}, "the converter leaves the batch open"
    np.testing.assert_allclose(embed(path), np.asarray(encoder(IMAGE[None]))[0], atol=1e-5)
    result = export(path, tmp_path / "out", quantize=["float32"], options=ExportOptions(measure=False))
    with Encoder(result.files[0].path) as opened:
        np.testing.assert_allclose(opened.embed_one(IMAGE), np.asarray(encoder(IMAGE[None]))[0], atol=1e-5)
        names = {operator.name for operator in opened.artifact.info.operators}
        assert opened.contract.normalization.kind == "minmax"
    assert not names & {"SHAPE", "STRIDED_SLICE", "PACK"}


def test_our_own_float_file_brings_its_preprocessing(encoder: keras.Model, tmp_path: Path) -> None:
    export(encoder, tmp_path, quantize=["float32"], options=ExportOptions(mean=(10.0,), std=(50.0,), measure=False))
    again = export(
        tmp_path / "encoder.float32.tflite",
        tmp_path / "again",
        quantize=["dynamic"],
        options=ExportOptions(measure=False),
    )
    assert again.files[0].contract["input"]["mean"] == (10.0,)
    assert again.files[0].contract["input"]["std"] == (50.0,)
    otherwise = ExportOptions(mean=(0.0,), measure=False)
    with pytest.raises(RequestError, match=r"options: mean 0\) and .the file's own contract: mean 10, std 50"):
        export(tmp_path / "encoder.float32.tflite", tmp_path / "other", options=otherwise)
    otherwise = replace(otherwise, accept_contract=True)
    other = export(tmp_path / "encoder.float32.tflite", tmp_path / "other", options=otherwise)
    assert (other.files[0].contract["input"]["mean"], other.files[0].contract["input"]["std"]) == ((0.0,), (50.0,))


def test_a_tflite_is_cut_at_a_tensor(encoder: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite(encoder).convert())
    graph = Graph(path.read_bytes())
    dense = next(op for op in graph.operators if graph.operator_name(op) == "FULLY_CONNECTED")
    name = graph.tensor_name(int(dense.outputs[0]))
    raw = keras.Model(encoder.inputs[0], encoder.layers[-2].output)(IMAGE[None])
    np.testing.assert_allclose(embed(path, layer=name), np.asarray(raw)[0], atol=1e-5)
    with pytest.raises(ModelShapeError, match="Near ones"):
        load_original(path, LoadOptions(layer=name + "x"))


def test_a_quantized_tflite_is_refused(encoder: keras.Model, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), np.uint8)
    modes = ["dynamic", "int8", "int16x8"]
    result = export(encoder, tmp_path, quantize=modes, calibration_data=images, options=ExportOptions(measure=False))
    for file in result.files:
        with pytest.raises(ModelLoadError, match="already quantized"):
            load_original(file.path)
    export(
        encoder, tmp_path / "raw", quantize=["float32"], options=ExportOptions(normalization="runtime", measure=False)
    )
    with pytest.raises(ModelLoadError, match="would be lost"):
        load_original(tmp_path / "raw" / "encoder.float32.tflite")


@pytest.mark.parametrize("kind", ["STRING", "RESOURCE", "FLOAT64", "INT4"])
def test_text_states_and_wide_numbers_in_a_tflite_are_refused(kind: str, encoder: keras.Model, tmp_path: Path) -> None:
    """A KeyError before."""
    graph = Graph(tflite(encoder).convert())
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = "other", getattr(schema.TensorType, kind), [1], 0
    graph.subgraph.tensors.append(tensor)
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.to_bytes())
    with pytest.raises(
        ModelLoadError, match=f"tensor 'other' of {kind.lower()}, and an encoder computes with none but"
    ):
        load_original(path)


def test_a_tflite_from_before_2020_keeps_its_operators_in_the_old_field(encoder: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite(encoder).convert())
    graph = Graph(path.read_bytes())
    for code in graph.model.operatorCodes:
        code.builtinCode = 0
    old = tmp_path / "old.tflite"
    old.write_bytes(graph.to_bytes())
    np.testing.assert_array_equal(embed(old), embed(path))
    graph = Graph(load_original(old).flatbuffer)
    assert "CONV_2D" in [graph.operator_name(operator) for operator in graph.operators]


def test_weights_in_half_precision_are_widened(encoder: keras.Model, tmp_path: Path) -> None:
    half = export(encoder, tmp_path, quantize=["float16"], options=ExportOptions(measure=False)).files[0].path
    loaded = load_original(half)
    assert any("float16" in decision for decision in loaded.decisions)
    images = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), np.uint8)
    export(half, tmp_path / "again", quantize=["int8"], calibration_data=images, options=ExportOptions(measure=False))
    graph = Graph(loaded.flatbuffer)
    assert "DEQUANTIZE" not in [graph.operator_name(operator) for operator in graph.operators]
    with Encoder(half) as opened:
        np.testing.assert_allclose(embed(half), opened.embed(IMAGE[None])[0], atol=1e-6)


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(ModelLoadError, match=r"not of a format that is known.*\.keras"):
        load_original(tmp_path / "model.onnx")
    with pytest.raises(ModelLoadError, match="there is no"):
        load_original(tmp_path / "none.keras")


def test_runtime_placement_needs_a_normalization_at_the_end(tmp_path: Path) -> None:
    body = [keras.Input(SHAPE), layers.Conv2D(3, 3), MinMaxNormalization("channel"), layers.Flatten(), layers.Dense(4)]
    with pytest.raises(RequestError, match="does not end in a normalization"):
        export(
            keras.Sequential(body, name="inside"),
            tmp_path / "out",
            options=ExportOptions(normalization="runtime", measure=False),
        )
    assert not (tmp_path / "out").exists()


def check_alone(model: keras.Model, folder: Path, values: Any) -> None:
    """A SavedModel gives what its Keras model gives."""
    model.export(folder, verbose=False)
    lowered = lower(load_original(folder))
    wanted = np.asarray(model(values[None]), np.float32)[0]
    np.testing.assert_allclose(
        float_runner(lowered.flatbuffer)(values.astype(np.float32)), wanted, rtol=1e-4, atol=1e-5
    )


def test_pixels_as_integers_in_a_saved_model(tmp_path: Path) -> None:
    image = keras.Input((6, 5, 3), dtype="uint8")
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(image))))
    check_alone(model, tmp_path, np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8))


def test_a_spectrogram_computes_with_complex_numbers(tmp_path: Path) -> None:
    wave = keras.Input((800,))
    sound = layers.MelSpectrogram(fft_length=256, sequence_stride=160, num_mel_bins=8)(wave)
    model = keras.Model(wave, layers.Flatten()(sound))
    check_alone(model, tmp_path, np.random.default_rng(0).normal(size=800).astype(np.float32))


def test_what_stands_for_no_answer_is_not_a_weight(tmp_path: Path) -> None:
    """A median has a NaN for that; no training run diverged."""
    image = keras.Input((6, 5, 3))
    model = keras.Model(image, keras.ops.median(layers.Conv2D(4, 3)(image), (1, 2)))
    check_alone(model, tmp_path, np.random.default_rng(0).random((6, 5, 3), np.float32))


@keras.saving.register_keras_serializable("formats")
class Trained(keras.Model):
    """A tower with a head, or two images of it, in a class of its own."""

    def __init__(self, tower: keras.Model, **settings: Any) -> None:
        super().__init__(**settings)
        self.tower, self.head = tower, layers.Dense(2, name="head")

    def call(self, image):
        return self.head(self.tower(image))

    def get_config(self) -> dict[str, Any]:
        return {"tower": keras.saving.serialize_keras_object(self.tower)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Trained":
        return cls(keras.saving.deserialize_keras_object(config["tower"]))


def test_a_tower_in_a_class_of_its_own(tmp_path: Path) -> None:
    image = keras.Input((6, 5, 3))
    tower = keras.Model(image, layers.Dense(4)(layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(image))), name="tower")
    model, values = Trained(tower), np.random.default_rng(0).random((6, 5, 3), np.float32)
    model(values[None])
    original = from_keras(model, "model", LoadOptions(layer="tower"))
    assert "does not tell what it does before" in original.decisions[0]
    assert original.call is not None
    np.testing.assert_allclose(original.call(values[None]), tower(values[None]), atol=1e-6)
    with pytest.raises(ModelShapeError, match=r"own class Trained.*cannot be cut at 'head'"):
        from_keras(model, "model", LoadOptions(layer="head"))


def test_sizes_that_contradict_name_some_that_do_not(tmp_path: Path) -> None:
    image = keras.Input((None, 5, 3))
    model = keras.Model(image, layers.GlobalMaxPooling2D()(image))
    with pytest.raises(ModelShapeError, match=r"asked for.* instance --input-shape 6,5,3"):
        from_keras(model, "model", LoadOptions((6, 6, 3)))
    from_keras(model, "model", LoadOptions((6, 5, 3)))
