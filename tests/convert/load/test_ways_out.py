"""What an error of loading tells to do is done here, literally, and gives a file that equals the original."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import saved_model_pb2

from embedlite.convert import ExportOptions, export
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import archive, load_original
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime import Encoder
from embedlite.runtime.errors import EmbedliteError

from encoders import PLAIN
from ways_out import walks

pytestmark = [
    # What a foreign .tflite is tried in is a fork.
    pytest.mark.usefixtures("served"),
    pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]

SHAPE = (6, 5, 3)
IMAGE = np.random.default_rng(0).random(SHAPE, np.float32)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(EmbedliteError) as caught:
        lower(load_original(path, LoadOptions(**options)))
    return str(caught.value)


def equals(path: Path, model: Callable[[Any], Any], image: Any = IMAGE, **options: Any) -> None:
    """What is exported of a file gives what the original gives."""
    got = float_runner(lower(load_original(path, LoadOptions(**options))).flatbuffer)(image)
    np.testing.assert_allclose(got, np.asarray(model(image[None]))[0], atol=1e-5)


def encoder(shape: tuple[int | None, ...] = SHAPE, end: Any = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(shape, name="photo")
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3, name="features")(image))
    x = layers.Dense(4, name="embedding")(x)
    return keras.Model(image, x if end is None else end(x), name="tower")


def member(path: Path, name: str, content: bytes | None) -> None:
    """Change a member of an archive, or take it out."""
    with zipfile.ZipFile(path) as source:
        members = {item: source.read(item) for item in source.namelist()}
    members.pop(name)
    with zipfile.ZipFile(path, "w") as target:
        for item, value in {**members, **({} if content is None else {name: content})}.items():
            target.writestr(item, value)


def saved(path: Path, model: keras.Model | None = None) -> keras.Model:
    model = model or encoder()
    model.save(path)
    return model


@walks("--custom-objects and --replace-lambda are for Keras files", "--signature is for SavedModels")
def test_options_of_another_format(tmp_path: Path) -> None:
    model = saved(tmp_path / "model.keras")
    model.export(tmp_path / "model", verbose=False)
    refused(tmp_path / "model", replace_lambda=("norm=l2",))
    refused(tmp_path / "model.keras", signature="embed")
    equals(tmp_path / "model", model)
    equals(tmp_path / "model.keras", model)


@walks("an encoder takes one image, (1, height, width, channels)", "takes one input at a time, batch 1. ")
def test_a_file_that_takes_two_images(tmp_path: Path) -> None:
    model = saved(tmp_path / "model.keras")
    for batch in (2, 1):
        images = keras.Input(SHAPE, batch_size=batch)
        converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(images, model(images)))
        (tmp_path / f"{batch}.tflite").write_bytes(converter.convert())
    with pytest.raises(EmbedliteError, match="with export-tflite"):
        Encoder(tmp_path / "2.tflite")
    refused(tmp_path / "2.tflite")
    equals(tmp_path / "1.tflite", model)
    export(tmp_path / "model.keras", tmp_path, quantize=["float32"], options=ExportOptions(measure=False))
    with Encoder(tmp_path / "model.float32.tflite") as found:
        pixels = (IMAGE * 255).astype(np.uint8)
        expected = np.asarray(model(pixels[None].astype(np.float32) / 255))[0]
        np.testing.assert_allclose(found.embed(pixels[None])[0].ravel(), expected, atol=1e-5)


@walks(
    "its configuration is not JSON",
    "it declares a configuration of",
    "holds no weights, only",
    "was written by Keras",
    "holds no model, only",
)
def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    for name, content in (
        ("config.json", b"{"),
        ("config.json", b" " * 200_000),
        ("model.weights.h5", None),
    ):
        model = saved(path)
        member(path, name, content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive, "LARGEST_CONFIG", 100_000)
            refused(path)
        model.save(path)
        equals(path, model)
    member(path, "metadata.json", json.dumps({"keras_version": "99.0.0"}).encode())
    refused(path)
    model.export(tmp_path / "folder", verbose=False)
    equals(tmp_path / "folder", model)
    model.save_weights(tmp_path / "model.weights.h5")
    refused(tmp_path / "model.weights.h5")
    other = encoder()
    other.load_weights(tmp_path / "model.weights.h5")
    saved(tmp_path / "again.keras", other)
    equals(tmp_path / "again.keras", model)


@walks(
    "--custom-objects: there is no file",
    "It should only define classes and functions",
    "Use LAYER=KIND",
    "Name it once",
    "has no Lambda layer",
    "put a known layer in a Lambda's place",
)
def test_lambdas(tmp_path: Path) -> None:
    model = encoder(end=layers.Lambda(lambda y: keras.ops.normalize(y, -1), name="norm"))
    plain = saved(tmp_path / "plain.keras")
    model.save(tmp_path / "model.keras")
    path, code = tmp_path / "model.keras", tmp_path / "code.py"
    code.write_text("raise ValueError\n")
    said = [
        refused(path),
        refused(path, custom_objects=tmp_path / "none.py"),
        refused(path, custom_objects=code),
        refused(path, replace_lambda=("norm",)),
        refused(path, replace_lambda=("norm=l2", "norm=l2")),
        refused(tmp_path / "plain.keras", replace_lambda=("norm=l2",)),
        refused(path, replace_lambda=("nrm=l2",)),
    ]
    assert "Its Lambda layers are: norm." in said[-1]
    equals(path, model, replace_lambda=("norm=l2",))
    equals(tmp_path / "plain.keras", plain)
    code.write_text("import keras\n\ndef norm(x):\n    return keras.ops.normalize(x, -1)\n")
    equals(path, model, custom_objects=code)


@walks("or build the model from layers of Keras")
def test_functions_in_bytecode(tmp_path: Path) -> None:
    """Lambdas that are no layer, in every format; of the two of one cell each is asked for by a name of its own."""
    import tf_keras

    code = tmp_path / "code.py"
    code.write_text(
        "import keras\n\ndef twice(x):\n    return 2 * x\n\ndef cell(x):\n    return keras.ops.tanh(x) / 2\n\n"
        "def cell_2(x):\n    return keras.ops.sigmoid(2 * x)\n"
    )
    for library, suffix in ((keras, "keras"), (keras, "h5"), (tf_keras, "keras"), (tf_keras, "h5")):
        library.utils.set_random_seed(0)
        rows = library.Input(SHAPE[1:])
        twice = library.layers.Dense(4, activation=lambda x: 2 * x, name="twice")(rows)
        model = library.Model(rows, library.layers.Flatten()(twice))
        model.save(tmp_path / f"twice.{suffix}")
        refused(tmp_path / f"twice.{suffix}")
        equals(tmp_path / f"twice.{suffix}", model, IMAGE[0], custom_objects=code)
    rows = keras.Input(SHAPE[1:])
    cell = layers.LSTMCell(4, lambda x: keras.ops.tanh(x) / 2, lambda x: keras.ops.sigmoid(2 * x), name="cell")
    model = keras.Model(rows, layers.RNN(cell)(rows))
    model.save(tmp_path / "cell.keras")
    assert "defines cell, cell_2;" in refused(tmp_path / "cell.keras")
    equals(tmp_path / "cell.keras", model, IMAGE[0], custom_objects=code)


@walks("Save one that takes them as floats")
def test_integers(tmp_path: Path) -> None:
    words = keras.Input((5,), dtype="int32")
    model = saved(tmp_path / "words.keras", keras.Model(words, layers.Flatten()(layers.Embedding(9, 3)(words))))
    said = refused(tmp_path / "words.keras")
    x = keras.Input((5,))
    assert "keras.Input((5,)), keras.Model(x, model(keras.ops.cast(x, 'int32')))" in said
    saved(tmp_path / "floats.keras", keras.Model(x, model(keras.ops.cast(x, "int32"))))
    equals(tmp_path / "floats.keras", model, np.float32([1, 0, 8, 3, 3]))


@walks("Keras drops them when it reads HDF5")
def test_several_axes(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    model = keras.Model(image, layers.Dense(4)(layers.Flatten()(layers.LayerNormalization([1, 2, 3])(image))))
    model.save(tmp_path / "model.h5")
    refused(tmp_path / "model.h5")
    model.save(tmp_path / "model.keras")
    equals(tmp_path / "model.keras", model)


@walks("between its layers, and Keras cannot read such calls")
def test_functions_between_layers(tmp_path: Path) -> None:
    model = encoder(end=lambda x: keras.ops.normalize(x[:, 1:] * 2.0, -1))
    model.save(tmp_path / "model.h5")
    said = refused(tmp_path / "model.h5")
    assert "(GetItem, Normalize)" in said
    model.save(tmp_path / "model.keras")
    equals(tmp_path / "model.keras", model)


@walks(
    "an encoder takes one. Name that one with --input",
    "has no output that needs the input",
    "outputs of the input {}; an encoder gives one embedding. Choose one",
)
def test_several_inputs(tmp_path: Path) -> None:
    tower = encoder()
    first, second = keras.Input(SHAPE, name="first"), keras.Input(SHAPE, name="second")
    saved(tmp_path / "pair.keras", keras.Model([first, second], layers.Dot(1)([tower(first), tower(second)])))
    said = [refused(tmp_path / "pair.keras"), refused(tmp_path / "pair.keras", input="first")]
    for text in said:
        layer = re.search(r"--layer (\w+)", text)
        assert layer is not None
        equals(tmp_path / "pair.keras", tower, layer=layer[1])
    label = keras.Input((2,), name="label")
    vector = tower(first)
    saved(tmp_path / "label.keras", keras.Model([first, label], [vector, layers.Dense(2)(vector) * label]))
    assert "--input" in refused(tmp_path / "label.keras")
    equals(tmp_path / "label.keras", tower, input="first")
    outputs = {"vector": vector, "double": vector * 2, "loss": layers.Dense(2)(vector) * label}
    saved(tmp_path / "two.keras", keras.Model([first, label], outputs))
    assert "Choose one: --output vector or --output double" in refused(tmp_path / "two.keras", input="first")
    for output, factor in (("vector", 1), ("double", 2)):
        equals(tmp_path / "two.keras", lambda x, factor=factor: tower(x) * factor, input="first", output=output)


@walks("or end it at another layer with --layer", "outputs; an encoder gives one embedding. Choose one")
def test_outputs(tmp_path: Path) -> None:
    model = encoder()
    saved(tmp_path / "map.keras", keras.Model(model.inputs, model.get_layer("features").output))
    refused(tmp_path / "map.keras")
    saved(tmp_path / "whole.keras", model)
    equals(tmp_path / "whole.keras", model, layer="embedding")

    class Two(keras.Model):
        """A class of one's own; its outputs have no names, or those of a dict."""

        def __init__(self, name: str, give: Callable[[Any, Any], Any]) -> None:
            super().__init__(name=name)
            self.give = give

        def call(self, image):
            vector = model(image)
            return self.give(vector, vector * 2)

    for two in (Two("pair", lambda x, y: (x, [y])), Two("named", lambda x, y: {"vector": x, "double": y})):
        two(IMAGE[None])
        with pytest.raises(EmbedliteError) as caught:
            lower(from_keras(two, two.name, LoadOptions(SHAPE)))
        names = re.findall(r"--output (\w+)", str(caught.value))
        assert names == {"pair": ["output_0", "output_1"], "named": ["double", "vector"]}[two.name]
        for name in names:
            got = float_runner(lower(from_keras(two, two.name, LoadOptions(SHAPE, output=name))).flatbuffer)(IMAGE)
            wanted = np.asarray(model(IMAGE[None]))[0] * (2 if name in ("output_1", "double") else 1)
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        with pytest.raises(EmbedliteError, match=r"has no output 'other'\. Its outputs are: "):
            lower(from_keras(two, two.name, LoadOptions(SHAPE, output="other")))


@walks("Check --input-shape, and that the model takes a batch of one")
def test_calls() -> None:
    """Of a class of one's own, which says nothing of its input."""

    class Own(keras.Model):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.rows, self.tower = rows, encoder()

        def call(self, image):
            return self.tower(keras.ops.reshape(image, (self.rows, *SHAPE)))

    one, two = Own(1), Own(2)
    one(IMAGE[None])
    two(np.stack([IMAGE, IMAGE]))
    for model, shape in ((one, (7, *SHAPE[1:])), (two, SHAPE)):
        with pytest.raises(EmbedliteError):
            lower(from_keras(model, "own", LoadOptions(shape)))
    got = float_runner(lower(from_keras(one, "own", LoadOptions(SHAPE))).flatbuffer)(IMAGE)
    np.testing.assert_allclose(got, np.asarray(one(IMAGE[None]))[0], atol=1e-5)


@walks(
    "for instance --input-shape 224,224,3",
    "and a device needs it fixed",
    "Pass sizes that fit",
    "Leave --input-shape out",
)
def test_sizes(tmp_path: Path) -> None:
    model = saved(tmp_path / "open.keras", encoder((None, None, 3)))
    signal = keras.Input((None, 6))
    array = saved(
        tmp_path / "array.keras", keras.Model(signal, layers.GlobalMaxPooling1D()(layers.Conv1D(4, 3)(signal)))
    )
    fixed = saved(tmp_path / "fixed.keras")
    said = [
        refused(tmp_path / "open.keras"),
        refused(tmp_path / "array.keras"),
        refused(tmp_path / "open.keras", input_shape=(6, 5, 1)),
        refused(tmp_path / "fixed.keras", input_shape=(7, 5, 3)),
    ]
    rng = np.random.default_rng(0)
    for text, (path, original) in zip(said, [("open", model), ("array", array), ("open", model)], strict=False):
        shape = re.search(r"--input-shape ([\d,]*\d)", text)
        assert shape is not None
        named = tuple(int(size) for size in shape[1].split(","))
        equals(tmp_path / f"{path}.keras", original, rng.random(named, np.float32), input_shape=named)
    equals(tmp_path / "fixed.keras", fixed)


@walks("cannot make constants of the model's variables")
def test_variables(tmp_path: Path) -> None:
    """Keras 3's dropout in a recurrent layer changes a variable, which a SavedModel has for good."""
    signal = keras.Input((5, 3))
    model = keras.Model(signal, layers.GRU(4, dropout=0.5)(signal))
    model.export(tmp_path / "folder", verbose=False)
    refused(tmp_path / "folder")
    model.save(tmp_path / "model.keras")
    equals(tmp_path / "model.keras", model, IMAGE[0])
    # Keras exports what follows a layer that crops as in training.
    image = keras.Input(SHAPE)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(2, 1)(layers.CenterCrop(5, 5)(image)))
    cropped = keras.Model(image, layers.GlobalMaxPooling2D()(x))
    cropped.export(tmp_path / "cropped", verbose=False)
    assert "write(s) to them, as in training" in refused(tmp_path / "cropped")
    cropped.save(tmp_path / "cropped.keras")
    equals(tmp_path / "cropped.keras", lambda given: cropped(given, training=False))


@walks(
    "does not keep its layers' names",
    "needs other inputs than",
    "has no signature, so nothing says",
    "has no graph for serving",
    "has several signatures, and none is called {}. Choose one",
    "inputs; an encoder takes one. Choose one, if the output needs no other",
)
def test_saved_models(tmp_path: Path) -> None:
    model = encoder()
    model.export(tmp_path / "model", verbose=False)
    refused(tmp_path / "model", layer="pool")
    saved(tmp_path / "part.keras", keras.Model(model.inputs, model.get_layer("pool").output))
    equals(tmp_path / "part.keras", keras.Model(model.input, model.get_layer("pool").output))

    image, label = tf.TensorSpec((None, *SHAPE), name="image"), tf.TensorSpec((None, 4), name="label")
    both = tf.function(lambda image, label: {"z": model(image) * label}, input_signature=[image, label])
    alone = tf.function(lambda image: {"z": model(image)}, input_signature=[image])
    tf.saved_model.save(model, tmp_path / "both", {"serving_default": both})
    refused(tmp_path / "both", input="image")
    tf.saved_model.save(model, tmp_path / "alone", {"serving_default": both, "embed": alone})
    equals(tmp_path / "alone", model, signature="embed")

    either = tf.function(lambda image, label: {"z": model(image)}, input_signature=[image, label])
    tf.saved_model.save(model, tmp_path / "several", {"one": alone, "either": either})
    assert "Choose one: --signature either or --signature one" in refused(tmp_path / "several")
    equals(tmp_path / "several", model, signature="one")
    said = refused(tmp_path / "several", signature="either")
    assert "--input image or --input label" in said
    equals(tmp_path / "several", model, signature="either", input="image")

    def change(edit: Callable[[Any], None]) -> None:
        path = tmp_path / "model" / "saved_model.pb"
        content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        edit(content.meta_graphs[0])
        path.write_bytes(content.SerializeToString())
        refused(tmp_path / "model")

    change(lambda graph: graph.signature_def.clear())
    change(lambda graph: graph.meta_info_def.tags.remove("serve"))
    model.export(tmp_path / "again", verbose=False)
    equals(tmp_path / "again", model)
    tf.saved_model.save(model, tmp_path / "signed", signatures=alone)
    equals(tmp_path / "signed", model)
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, *SHAPE))
        v1.saved_model.simple_save(session, str(tmp_path / "simple"), {"image": x}, {"embedding": x[:, 0, 0]})
    equals(tmp_path / "simple", lambda values: values[:, 0, 0])


@walks("cannot be loaded by tf-keras")
def test_keras_2(tmp_path: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input(SHAPE)
    model = tf_keras.Model(image, tf_keras.layers.Dense(4, name="top")(tf_keras.layers.GlobalMaxPooling2D()(image)))
    path = tmp_path / "model.keras"
    model.save(path)
    with zipfile.ZipFile(path) as file:
        config = file.read("config.json")
    member(path, "config.json", config.replace(b'"units": 4', b'"units": -4'))
    refused(path)
    model.export(str(tmp_path / "folder"))
    equals(tmp_path / "folder", model)


@walks(
    "so it is not a SavedModel. Pass the path of a model", "is not of a format that is known here. Pass the path of a"
)
def test_formats(tmp_path: Path) -> None:
    model = saved(tmp_path / "model.keras")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    said = [refused(tmp_path / "empty"), refused(tmp_path / "model.onnx")]
    assert all(text.endswith(".keras, .h5 or .hdf5, a SavedModel folder, or a float .tflite.") for text in said)
    for name in ("model.h5", "model.hdf5"):
        model.save(tmp_path / name)
    model.export(tmp_path / "folder", verbose=False)
    (tmp_path / "model.tflite").write_bytes(lower(load_original(tmp_path / "model.keras")).flatbuffer)
    for name in ("model.keras", "model.h5", "model.hdf5", "folder", "model.tflite"):
        equals(tmp_path / name, model)


@walks("Save it again with model.save('model.keras'), or export it as a")
def test_what_keras_cannot_load(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    model = saved(path)
    with zipfile.ZipFile(path) as file:
        config = file.read("config.json")
    member(path, "config.json", config.replace(b'"units": 4', b'"units": -4'))
    refused(path)
    model.save(path)
    equals(path, model)
    model.export(tmp_path / "folder", verbose=False)
    equals(tmp_path / "folder", model)


@walks(
    "Pass the float32 file or the Keras model; what quantization took",
    "is none of its weights. Pass the float32 file or the Keras model",
    "ends at the raw embedding; its normalization is left to Encoder and",
)
def test_tflite_files(tmp_path: Path) -> None:
    model = saved(tmp_path / "model.keras", encoder(end=layers.UnitNormalization()))
    (tmp_path / "float32.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    export(
        model,
        tmp_path,
        quantize=["int8"],
        calibration_data=np.stack([IMAGE, IMAGE[::-1], IMAGE / 2]),
        options=ExportOptions(measure=False, **PLAIN),
    )
    half = encoder(end=lambda x: keras.ops.cast(keras.ops.cast(x, "float16"), "float32"))
    saved(tmp_path / "half.keras", half)
    (tmp_path / "half.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(half).convert())
    options = ExportOptions(normalization="runtime", measure=False)
    export(model, tmp_path / "raw", quantize=["float32"], options=options)
    for name in ("tower.int8.tflite", "half.tflite", "raw/tower.float32.tflite"):
        refused(tmp_path / name)
    equals(tmp_path / "float32.tflite", model)
    equals(tmp_path / "model.keras", model)
    # Its own rounding to eleven bits is not taken over.
    whole = keras.Model(half.inputs[0], half.get_layer("embedding").output)
    got = float_runner(lower(load_original(tmp_path / "half.keras", LoadOptions())).flatbuffer)(IMAGE)
    wanted = np.asarray(whole(IMAGE[None]))[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5 + 2**-11 * np.abs(wanted).max())


@walks("Export it where it was quantized, with model.export('folder'), or save it before")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_attention_that_keras_quantized(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    row = keras.Input(SHAPE[1:])
    hidden = layers.MultiHeadAttention(2, 4)(row, row)
    model = keras.Model(row, layers.Dense(4)(layers.Flatten()(hidden)))
    saved(tmp_path / "before.keras", model)
    equals(tmp_path / "before.keras", model, IMAGE[0])
    model.quantize("int8")
    for name in ("after.keras", "after.h5"):
        model.save(tmp_path / name)
        refused(tmp_path / name)
    model.export(tmp_path / "after", verbose=False)
    equals(tmp_path / "after", model, IMAGE[0])
    # Of layers without parts Keras writes it.
    dense = keras.Sequential([keras.Input(SHAPE), layers.GlobalAveragePooling2D(), layers.Dense(4), layers.Dense(3)])
    dense.quantize("int8")
    for name in ("dense.keras", "dense.h5"):
        dense.save(tmp_path / name)
        equals(tmp_path / name, dense)
