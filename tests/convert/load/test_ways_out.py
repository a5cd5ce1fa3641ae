"""What an error tells to do is done here, literally, and gives a file that equals the original.

The table is held against the source: every error of the room that names an option or a call is in it.
"""

import ast
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import saved_model_pb2

import embedlite.convert.load as room
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import archive, load_original
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime.errors import EmbedliteError

SHAPE = (6, 5, 3)
IMAGE = np.random.default_rng(0).random(SHAPE, np.float32)

_ERRORS = ("ModelLoadError", "ModelShapeError", "ConversionError", "CustomCodeError", "RequestError")
_NAMES_A_WAY = re.compile(r"--[a-z]|model\.\w+\(|keras\.Model\(|stateful=|saved_model\.")
_OF_OTHERS = ("preprocess.py", "resizing.py", "scaling.py")
"""Modules about the input's preprocessing, whose errors are of another table: their ways out are tested beside them."""


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


def options_of_another_format(folder: Path) -> list[str]:
    model = saved(folder / "model.keras")
    model.export(folder / "model", verbose=False)
    said = [refused(folder / "model", replace_lambda=("norm=l2",)), refused(folder / "model.keras", signature="embed")]
    equals(folder / "model", model)
    equals(folder / "model.keras", model)
    return said


def archives(folder: Path) -> list[str]:
    said = []
    path = folder / "model.keras"
    for name, content in (
        ("config.json", b"{"),
        ("config.json", b" " * 200_000),
        ("model.weights.h5", None),
    ):
        model = saved(path)
        member(path, name, content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive, "LARGEST_CONFIG", 100_000)
            said.append(refused(path))
        model.save(path)
        equals(path, model)
    member(path, "metadata.json", json.dumps({"keras_version": "99.0.0"}).encode())
    said.append(refused(path))
    model.export(folder / "folder", verbose=False)
    equals(folder / "folder", model)
    model.save_weights(folder / "model.weights.h5")
    said.append(refused(folder / "model.weights.h5"))
    other = encoder()
    other.load_weights(folder / "model.weights.h5")
    saved(folder / "again.keras", other)
    equals(folder / "again.keras", model)
    return said


def lambdas(folder: Path) -> list[str]:
    model = encoder(end=layers.Lambda(lambda y: keras.ops.normalize(y, -1), name="norm"))
    plain = saved(folder / "plain.keras")
    model.save(folder / "model.keras")
    path, code = folder / "model.keras", folder / "code.py"
    code.write_text("raise ValueError\n")
    said = [
        refused(path),
        refused(path, custom_objects=folder / "none.py"),
        refused(path, custom_objects=code),
        refused(path, replace_lambda=("norm",)),
        refused(path, replace_lambda=("norm=l2", "norm=l2")),
        refused(folder / "plain.keras", replace_lambda=("norm=l2",)),
        refused(path, replace_lambda=("nrm=l2",)),
    ]
    assert "Its Lambda layers are: norm." in said[-1]
    equals(path, model, replace_lambda=("norm=l2",))
    equals(folder / "plain.keras", plain)
    code.write_text("import keras\n\ndef norm(x):\n    return keras.ops.normalize(x, -1)\n")
    equals(path, model, custom_objects=code)
    return said


def functions_in_bytecode(folder: Path) -> list[str]:
    """Lambdas that are no layer, in every format; of the two of one cell each is asked for by a name of its own."""
    import tf_keras

    code, said = folder / "code.py", []
    code.write_text(
        "import keras\n\ndef twice(x):\n    return 2 * x\n\ndef cell(x):\n    return keras.ops.tanh(x) / 2\n\n"
        "def cell_2(x):\n    return keras.ops.sigmoid(2 * x)\n"
    )
    for library, suffix in ((keras, "keras"), (keras, "h5"), (tf_keras, "keras"), (tf_keras, "h5")):
        library.utils.set_random_seed(0)
        rows = library.Input(SHAPE[1:])
        twice = library.layers.Dense(4, activation=lambda x: 2 * x, name="twice")(rows)
        model = library.Model(rows, library.layers.Flatten()(twice))
        model.save(folder / f"twice.{suffix}")
        said.append(refused(folder / f"twice.{suffix}"))
        equals(folder / f"twice.{suffix}", model, IMAGE[0], custom_objects=code)
    rows = keras.Input(SHAPE[1:])
    cell = layers.LSTMCell(4, lambda x: keras.ops.tanh(x) / 2, lambda x: keras.ops.sigmoid(2 * x), name="cell")
    model = keras.Model(rows, layers.RNN(cell)(rows))
    model.save(folder / "cell.keras")
    said.append(refused(folder / "cell.keras"))
    assert "defines cell, cell_2;" in said[-1]
    equals(folder / "cell.keras", model, IMAGE[0], custom_objects=code)
    return said


def integers(folder: Path) -> list[str]:
    words = keras.Input((5,), dtype="int32")
    model = saved(folder / "words.keras", keras.Model(words, layers.Flatten()(layers.Embedding(9, 3)(words))))
    said = refused(folder / "words.keras")
    x = keras.Input((5,))
    assert "keras.Input((5,)), keras.Model(x, model(keras.ops.cast(x, 'int32')))" in said
    saved(folder / "floats.keras", keras.Model(x, model(keras.ops.cast(x, "int32"))))
    equals(folder / "floats.keras", model, np.float32([1, 0, 8, 3, 3]))
    return [said]


def several_axes(folder: Path) -> list[str]:
    image = keras.Input(SHAPE)
    model = keras.Model(image, layers.Dense(4)(layers.Flatten()(layers.LayerNormalization([1, 2, 3])(image))))
    model.save(folder / "model.h5")
    said = refused(folder / "model.h5")
    model.save(folder / "model.keras")
    equals(folder / "model.keras", model)
    return [said]


def functions_between_layers(folder: Path) -> list[str]:
    model = encoder(end=lambda x: keras.ops.normalize(x[:, 1:] * 2.0, -1))
    model.save(folder / "model.h5")
    said = refused(folder / "model.h5")
    assert "(GetItem, Normalize)" in said
    model.save(folder / "model.keras")
    equals(folder / "model.keras", model)
    return [said]


def several_inputs(folder: Path) -> list[str]:
    tower = encoder()
    first, second = keras.Input(SHAPE, name="first"), keras.Input(SHAPE, name="second")
    saved(folder / "pair.keras", keras.Model([first, second], layers.Dot(1)([tower(first), tower(second)])))
    said = [refused(folder / "pair.keras"), refused(folder / "pair.keras", input="first")]
    for text in said:
        layer = re.search(r"--layer (\w+)", text)
        assert layer is not None
        equals(folder / "pair.keras", tower, layer=layer[1])
    label = keras.Input((2,), name="label")
    vector = tower(first)
    saved(folder / "label.keras", keras.Model([first, label], [vector, layers.Dense(2)(vector) * label]))
    assert "--input" in refused(folder / "label.keras")
    equals(folder / "label.keras", tower, input="first")
    return said


def outputs(folder: Path) -> list[str]:
    model = encoder()
    saved(folder / "map.keras", keras.Model(model.inputs, model.get_layer("features").output))
    said = [refused(folder / "map.keras")]
    saved(folder / "whole.keras", model)
    equals(folder / "whole.keras", model, layer="embedding")

    class Two(keras.Model):
        def call(self, image):
            return model(image), model(image)

    two = Two()
    two(IMAGE[None])
    with pytest.raises(EmbedliteError) as caught:
        lower(from_keras(two, "two", LoadOptions(SHAPE)))
    assert "2 outputs" in str(caught.value)
    return said


def sizes(folder: Path) -> list[str]:
    model = saved(folder / "open.keras", encoder((None, None, 3)))
    signal = keras.Input((None, 6))
    array = saved(folder / "array.keras", keras.Model(signal, layers.GlobalMaxPooling1D()(layers.Conv1D(4, 3)(signal))))
    fixed = saved(folder / "fixed.keras")
    said = [
        refused(folder / "open.keras"),
        refused(folder / "array.keras"),
        refused(folder / "open.keras", input_shape=(6, 5, 1)),
        refused(folder / "fixed.keras", input_shape=(7, 5, 3)),
    ]
    rng = np.random.default_rng(0)
    for text, (path, original) in zip(said, [("open", model), ("array", array), ("open", model)], strict=False):
        shape = re.search(r"--input-shape ([\d,]*\d)", text)
        assert shape is not None
        named = tuple(int(size) for size in shape[1].split(","))
        equals(folder / f"{path}.keras", original, rng.random(named, np.float32), input_shape=named)
    equals(folder / "fixed.keras", fixed)
    return said


def variables(folder: Path) -> list[str]:
    """Keras 3's dropout in a recurrent layer changes a variable, which a SavedModel has for good."""
    signal = keras.Input((5, 3))
    model = keras.Model(signal, layers.GRU(4, dropout=0.5)(signal))
    model.export(folder / "folder", verbose=False)
    said = refused(folder / "folder")
    model.save(folder / "model.keras")
    equals(folder / "model.keras", model, IMAGE[0])
    # Keras exports what follows a layer that crops as in training.
    image = keras.Input(SHAPE)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(2, 1)(layers.CenterCrop(5, 5)(image)))
    cropped = keras.Model(image, layers.GlobalMaxPooling2D()(x))
    cropped.export(folder / "cropped", verbose=False)
    said += refused(folder / "cropped")
    assert "write(s) to them, as in training" in said
    cropped.save(folder / "cropped.keras")
    equals(folder / "cropped.keras", lambda given: cropped(given, training=False))
    return [said]


def saved_models(folder: Path) -> list[str]:
    model = encoder()
    model.export(folder / "model", verbose=False)
    said = [refused(folder / "model", layer="pool")]
    saved(folder / "part.keras", keras.Model(model.inputs, model.get_layer("pool").output))
    equals(folder / "part.keras", keras.Model(model.input, model.get_layer("pool").output))

    image, label = tf.TensorSpec((None, *SHAPE), name="image"), tf.TensorSpec((None, 4), name="label")
    both = tf.function(lambda image, label: {"z": model(image) * label}, input_signature=[image, label])
    alone = tf.function(lambda image: {"z": model(image)}, input_signature=[image])
    tf.saved_model.save(model, folder / "both", {"serving_default": both})
    said.append(refused(folder / "both", input="image"))
    tf.saved_model.save(model, folder / "alone", {"serving_default": both, "embed": alone})
    equals(folder / "alone", model, signature="embed")

    def change(edit: Callable[[Any], None]) -> str:
        path = folder / "model" / "saved_model.pb"
        content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        edit(content.meta_graphs[0])
        path.write_bytes(content.SerializeToString())
        return refused(folder / "model")

    said.append(change(lambda graph: graph.signature_def.clear()))
    said.append(change(lambda graph: graph.meta_info_def.tags.remove("serve")))
    model.export(folder / "again", verbose=False)
    equals(folder / "again", model)
    tf.saved_model.save(model, folder / "signed", signatures=alone)
    equals(folder / "signed", model)
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, *SHAPE))
        v1.saved_model.simple_save(session, str(folder / "simple"), {"image": x}, {"embedding": x[:, 0, 0]})
    equals(folder / "simple", lambda values: values[:, 0, 0])
    return said


def keras_2(folder: Path) -> list[str]:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input(SHAPE)
    model = tf_keras.Model(image, tf_keras.layers.Dense(4, name="top")(tf_keras.layers.GlobalMaxPooling2D()(image)))
    path = folder / "model.keras"
    model.save(path)
    with zipfile.ZipFile(path) as file:
        config = file.read("config.json")
    member(path, "config.json", config.replace(b'"units": 4', b'"units": -4'))
    said = refused(path)
    model.export(str(folder / "folder"))
    equals(folder / "folder", model)
    return [said]


WALKS: dict[Callable[[Path], list[str]], tuple[str, ...]] = {
    options_of_another_format: (
        "--custom-objects and --replace-lambda are for Keras files",
        "--signature is for SavedModels",
    ),
    archives: (
        "its configuration is not JSON",
        "it declares a configuration of",
        "holds no weights, only",
        "was written by Keras",
        "holds no model, only",
    ),
    lambdas: (
        "--custom-objects: there is no file",
        "It should only define classes and functions",
        "Use LAYER=KIND",
        "Name it once",
        "has no Lambda layer",
        "put a known layer in a Lambda's place",
    ),
    functions_between_layers: ("between its layers, and Keras cannot read such calls",),
    functions_in_bytecode: ("or build the model from layers of Keras",),
    integers: ("Save one that takes them as floats",),
    several_axes: ("Keras drops them when it reads HDF5",),
    several_inputs: ("an encoder takes one. Name that one with --input", "has no output that needs the input"),
    outputs: ("or end it at another layer with --layer",),
    sizes: (
        "for instance --input-shape 224,224,3",
        "and a device needs it fixed",
        "Pass sizes that fit",
        "Leave --input-shape out",
    ),
    variables: ("cannot make constants of the model's variables",),
    saved_models: (
        "does not keep its layers' names",
        "needs other inputs than",
        "has no signature, so nothing says",
        "has no graph for serving",
    ),
    keras_2: ("cannot be loaded by tf-keras",),
}

ELSEWHERE = {
    "cannot be exported where Keras runs on": "test_early.py",
    "with stateful=False": "test_recurrent.py",
    "the model has {} outputs": "test_formats.py",
}
"""What is walked beside the rest of its kind."""


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__)
def test_what_the_error_says_is_done_and_gives_the_original(walk: Callable[[Path], list[str]], tmp_path: Path) -> None:
    said = "\n".join(walk(tmp_path))
    for phrase in WALKS[walk]:
        assert phrase in said


def template(node: ast.AST) -> str:
    """A message as it stands in the source, ``{}`` for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.IfExp):
        return f"{template(node.body)} {template(node.orelse)}"
    return "{}"


def messages(module: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the text of every error, and of what functions called ``..._message`` return."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ERRORS and node.args:
            yield node.lineno, template(node.args[0])
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_message"):
            for item in ast.walk(node):
                if isinstance(item, ast.Return) and item.value is not None:
                    yield item.lineno, template(item.value)


def test_no_error_that_names_a_way_out_is_missing_here() -> None:
    folder = Path(str(room.__file__)).parent
    phrases = [*(phrase for walk in WALKS for phrase in WALKS[walk]), *ELSEWHERE]
    found, unknown = set(), []
    for path in sorted(folder.rglob("*.py")):
        for line, text in [] if path.name in _OF_OTHERS else messages(ast.parse(path.read_text(encoding="utf-8"))):
            known = {phrase for phrase in phrases if phrase in text}
            found |= known
            if _NAMES_A_WAY.search(text) and not known:
                unknown.append(f"{path.name}:{line}: {text}")
    assert not unknown, "walk what these say to do, in WALKS:\n" + "\n".join(unknown)
    assert set(phrases) == found, "no error says this any more"
    assert all((Path(__file__).parent / name).is_file() for name in ELSEWHERE.values())
