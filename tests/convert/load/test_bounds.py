"""Models that ask for more than any machine has: refused before memory is, by what they say of themselves."""

import copy
import json
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from graphs import FloatGraph
from keras import layers
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from embedlite.convert.load import load_original
from embedlite.convert.load.bounds import variables
from embedlite.convert.load.bounds.graph import check_whole
from embedlite.convert.load.lower import trace
from embedlite.convert.load.options import LoadOptions
from embedlite.report import reference
from embedlite.runtime.errors import ModelFileError, ModelLimitError
from embedlite.runtime.model.contract import InputContract

from conftest import Run, error_line

IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")
SECONDS = 20
MEGABYTES = 600


@pytest.fixture(autouse=True)
def _quick_and_small() -> Iterator[None]:
    """Nothing here may take long, or memory."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - begun < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES << 10


def test_the_shape_of_a_weight_is_known_before_there_is_one() -> None:
    """Keras says it of all that its layers make; of another function its values are described."""
    seen = list[tuple[int, ...]]()

    def create(next_creator: Callable[..., Any], **settings: Any) -> Any:
        told = variables._made_by_keras(settings["initial_value"])
        made = next_creator(**settings)
        assert told == tuple(made.shape)
        seen.append(told)
        return made

    with tf.variable_creator_scope(create):
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.SeparableConv2D(4, 3),
                layers.BatchNormalization(),
                layers.Reshape((6, 24)),
                layers.GRU(5),
                layers.Dense(7, kernel_initializer="identity"),
            ]
        )
    # Depthwise, pointwise and bias; four of the normalization; three of the GRU; two of the dense layer.
    assert len(seen) >= 12
    assert {(3, 3, 3, 1), (1, 1, 3, 4), (24, 15), (5, 7)} <= set(seen)
    assert variables._made_by_keras(lambda: tf.zeros((2, 3))) is None
    assert variables._shape_of(lambda: tf.zeros((2, 3)), None) == [2, 3]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small model in both formats of Keras."""
    folder = tmp_path_factory.mktemp("good")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.UpSampling2D(2, name="larger"),
            layers.ZeroPadding2D(1, name="edge"),
            layers.Flatten(),
            layers.RepeatVector(2, name="repeat"),
            layers.Reshape((-1,), name="flat"),
            layers.Dense(4, name="dense"),
        ]
    )
    for suffix in (".keras", ".h5"):
        model.save(folder / f"model{suffix}")
    return folder


def with_config(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy with another configuration, which is changed in place, or is what ``change`` returns."""
    if source.suffix == ".h5":
        import h5py

        target.write_bytes(source.read_bytes())
        with h5py.File(target, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            config = change(config) or config
            del file.attrs["model_config"]
            text = config if isinstance(config, str) else json.dumps(config)
            file.attrs["model_config"] = text
        return target
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content: Any = old.read(entry)
            if entry.filename == "config.json":
                config = json.loads(content)
                config = change(config) or config
                content = config if isinstance(config, str) else json.dumps(config)
            new.writestr(entry.filename, content)
    return target


def settings(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        item["config"] for item in config["config"]["layers"] if item["config"].get("name") == name
    )
    return found


SIZES: dict[str, tuple[str, str, Any]] = {
    "units 1000000000": ("dense", "units", 10**9),
    "filters 1000000000": ("conv", "filters", 10**9),
    r"kernel_size \[100000, 100000\]": ("conv", "kernel_size", [10**5, 10**5]),
    r"size \[1000000, 1000000\]": ("larger", "size", [10**6, 10**6]),
    r"padding \[\[1000000, 1000000\]": ("edge", "padding", [[10**6, 10**6], [10**6, 10**6]]),
    "n 1000000000": ("repeat", "n", 10**9),
    r"target_shape \[1000000, 1000000\]": ("flat", "target_shape", [10**6, 10**6]),
    "n 1000": ("repeat", "n", 10**400),
}


@pytest.mark.parametrize("message", SIZES)
def test_settings_that_no_encoder_has(message: str, good: Path, tmp_path: Path) -> None:
    layer, key, value = SIZES[message]
    for suffix in (".keras", ".h5"):
        path = with_config(
            good / f"model{suffix}", tmp_path / f"m{suffix}", lambda c: settings(c, layer).update({key: value})
        )
        with pytest.raises(ModelLimitError, match=rf"its layer '{layer}' has {message}.*at most 268,435,456 values"):
            load_original(path)


PRODUCTS: dict[str, tuple[str, str, Any]] = {
    # Each by itself is a number that an encoder may have.
    "weights up to .*of shape": ("dense", "units", 10**7),
    "weights up to 'kernel', of shape \\(300, 300, 3, 400\\)": ("conv", "kernel_size", [300, 300]),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("message", PRODUCTS)
def test_weights_that_the_file_cannot_hold(message: str, suffix: str, good: Path, tmp_path: Path) -> None:
    layer, key, value = PRODUCTS[message]

    def grow(config: dict[str, Any]) -> None:
        settings(config, layer)[key] = value
        if layer == "conv":
            settings(config, layer).update(filters=400, padding="same")

    path = with_config(good / f"model{suffix}", tmp_path / f"m{suffix}", grow)
    with pytest.raises(ModelLimitError, match=message):
        load_original(path)


def test_results_that_are_too_large_are_found_before_anything_runs(good: Path, tmp_path: Path) -> None:
    def grow(config: dict[str, Any]) -> None:
        settings(config, "larger")["size"] = [3000, 3000]
        layers = config["config"]["layers"]
        pooled = {**copy.deepcopy(layers[4]), "class_name": "GlobalAveragePooling2D"}
        pooled["config"] = {"name": "pooled"}
        layers[4:] = [pooled]

    path = with_config(good / "model.keras", tmp_path / "m.keras", grow)
    with pytest.raises(ModelLimitError, match=r"larger.*1 x 18000 x 6 x 3000 x 4.*268,435,456"):
        trace(load_original(path))


def nested(config: dict[str, Any], times: int) -> str:
    """Models within models, written without recursion."""
    head, tail = json.dumps({**config, "config": {"name": "m", "layers": ["@"]}}).split('"@"')
    return head * times + json.dumps(config) + tail * times


def test_models_within_models(good: Path, tmp_path: Path) -> None:
    for times in (100, 10_000):
        path = with_config(good / "model.keras", tmp_path / "m.keras", lambda c, n=times: nested(c, n))
        with pytest.raises(ModelFileError, match=r"more than 200 deep|not JSON"):
            load_original(path)


def test_a_hundred_thousand_layers(good: Path, tmp_path: Path) -> None:
    def many(config: dict[str, Any]) -> None:
        config["config"]["layers"] += [{"class_name": "ReLU"}] * 100_000

    path = with_config(good / "model.keras", tmp_path / "m.keras", many)
    with pytest.raises(ModelLimitError, match=r"makes 100,0\d\d layers and parts of layers.*at most 50,000"):
        load_original(path)


def test_models_that_call_each_other_twice(tmp_path: Path) -> None:
    """Twenty models, each with the one before twice: a million layers in a file of some kilobytes."""
    inner = keras.Sequential([keras.Input((4,)), layers.ReLU()])
    image = keras.Input((4,))
    model = keras.Model(image, inner(inner(image)))
    model.save(tmp_path / "model.keras")

    def double(config: dict[str, Any]) -> None:
        for _ in range(14):
            inside = copy.deepcopy(config)
            place = next(item for item in config["config"]["layers"] if item["class_name"] != "InputLayer")
            place.update(class_name=inside["class_name"], config=inside["config"])

    path = with_config(tmp_path / "model.keras", tmp_path / "deep.keras", double)
    with pytest.raises(ModelLimitError, match="as often as it is called"):
        load_original(path)


def test_what_is_ordinary_passes(tmp_path: Path) -> None:
    """An input of 1024x1024, as many weights as VGG19 has, and a layer of several inputs are no matter here."""
    image = keras.Input((1024, 1024, 3))
    x = layers.Conv2D(64, 3, padding="same")(image)
    x = layers.Add()([x, x, x])
    x = layers.GlobalAveragePooling2D()(layers.ZeroPadding2D(200)(x))
    model = keras.Model(image, layers.Dense(8)(x))
    model.save(tmp_path / "model.keras")
    original = load_original(tmp_path / "model.keras")
    trace(original)
    assert original.input_shape == (1024, 1024, 3)


def saved(folder: Path, embed: Callable[[Any], Any]) -> Path:
    own = tf.Module()
    own.embed = tf.function(embed, input_signature=[IMAGE], autograph=False)
    tf.saved_model.save(own, str(folder), own.embed)
    return folder


def pooled(image: Any) -> Any:
    return tf.reduce_mean(image, (1, 2))


def plus(values: Any) -> Callable[[Any], Any]:
    return lambda image: {"z": pooled(image) + tf.reduce_sum(values())}


def looped(steps: int, inner: int = 1) -> Callable[[Any], Any]:
    def body(i: Any, x: Any) -> Any:
        if inner > 1:
            x = tf.while_loop(lambda j, y: j < inner, lambda j, y: (j + 1, y * 0.5), (0, x))[1]
        return i + 1, x * 0.5

    return lambda image: {"z": tf.while_loop(lambda i, x: i < steps, body, (0, pooled(image)))[1]}


@tf.function
def python_loop(image: Any) -> Any:
    x = pooled(image)
    for _ in tf.range(2 * 10**8):  # its step is one of the loop's values
        x = x * 0.5
    return {"z": x}


ASKED: dict[str, Callable[[Any], Any]] = {
    r"Fill .*100000 x 100000": plus(lambda: tf.zeros((100_000, 100_000))),
    r"BroadcastTo .*1000000 x 1000000": plus(lambda: tf.broadcast_to(1.0, (10**6, 10**6))),
    r"Tile .*1000000 x 1000000": plus(lambda: tf.tile([[1.0]], (10**6, 10**6))),
    r"Pad .*2000001 x 2000002": plus(lambda: tf.pad([[1.0, 2.0]], ((10**6, 10**6), (10**6, 10**6)))),
    r"OneHot .*1000000000": plus(lambda: tf.one_hot([1], 10**9)),
    r"Range .*2000000000": plus(lambda: tf.cast(tf.range(2 * 10**9), tf.float32)),
    r"ResizeBilinear .*100000 x 100000": lambda image: {"z": pooled(tf.image.resize(image, (100_000, 100_000)))},
    "1,000,000,000 rounds of loops": looped(10**9),
    "100,010,000 rounds of loops": looped(10**4, 10**4),
    "200,000,000 rounds of loops": python_loop,
}


@pytest.mark.parametrize("message", ASKED)
def test_saved_models_that_ask_for_too_much(message: str, tmp_path: Path) -> None:
    saved(tmp_path / "model", ASKED[message])
    with pytest.raises(ModelLimitError, match=message):
        load_original(tmp_path / "model")


def edit(folder: Path, change: Callable[[Any], None]) -> Path:
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(model.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def test_functions_that_call_each_other_twice() -> None:
    """Thirty functions, each of which calls the one before twice: a billion operators in a kilobyte."""
    graph = graph_pb2.GraphDef()
    for level in range(30):
        function = graph.library.function.add()
        function.signature.name = f"f{level}"
        for name in "ab":
            node = function.node_def.add(name=name, op="PartitionedCall" if level else "NoOp")
            if level:
                node.attr["f"].func.name = f"f{level - 1}"
    with pytest.raises(ModelLimitError, match="it runs 2,147,483,646 operators for one input"):
        check_whole("model", graph)


def test_constants_and_variables_that_claim_more_than_is_stored(tmp_path: Path) -> None:
    def constant(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                if node.op == "Const" and node.attr["value"].tensor.dtype == tf.float32.as_datatype_enum:
                    tensor = node.attr["value"].tensor
                    tensor.tensor_shape.dim.add(size=10**10)

    edit(saved(tmp_path / "constant", lambda image: {"z": pooled(image) * 2.5}), constant)
    with pytest.raises(ModelLimitError, match=r"Const .*of size 10000000000"):
        load_original(tmp_path / "constant")
    own = tf.Module()
    own.weight = tf.Variable(np.ones(3, np.float32))
    own.embed = tf.function(lambda image: {"z": pooled(image) * own.weight}, input_signature=[IMAGE], autograph=False)
    tf.saved_model.save(own, str(tmp_path / "variable"), own.embed)
    load_original(tmp_path / "variable")
    data = next((tmp_path / "variable" / "variables").glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:4])
    with pytest.raises(ModelLimitError, match="bytes, and the files beside their index hold 4"):
        load_original(tmp_path / "variable")


def test_every_door_says_it_in_one_line_and_leaves_nothing(good: Path, tmp_path: Path, run: Run) -> None:
    hostile = [
        with_config(
            good / f"model{suffix}", tmp_path / f"m{suffix}", lambda c: settings(c, "dense").update(units=10**9)
        )
        for suffix in (".keras", ".h5")
    ]
    hostile.append(saved(tmp_path / "saved", ASKED["1,000,000,000 rounds of loops"]))
    request = {"data": "", "feature": None, "ids": [], "contract": InputContract((8, 8, 3)).to_json()}
    request |= {"opening": LoadOptions().to_json(), "result": str(tmp_path / "result.npy")}
    for path in hostile:
        with pytest.raises(ModelLimitError, match="was refused: "):
            reference._embed({**request, "model": str(path)})
    message = error_line(run("export-tflite", hostile[0], "-o", tmp_path / "out"))
    assert "units 1000000000, and at most 268,435,456" in message
    graph = FloatGraph((8, 8, 3)).dense("weights", np.ones((4, 192), np.float32), np.zeros(4, np.float32))
    model = schema.ModelT.InitFromPackedBuf(graph.to_bytes(), 0)
    model.subgraphs[0].tensors[-1].shape = [1, 10**9, 100]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "huge.tflite").write_bytes(builder.Output())
    np.save(tmp_path / "data.npy", np.zeros((2, 8, 8, 3), np.uint8))
    data, out = tmp_path / "data.npy", tmp_path / "out.npz"
    for command in (
        ("inspect-tflite", tmp_path / "huge.tflite"),
        ("embed-tflite", tmp_path / "huge.tflite", data, "-o", out),
        ("drift-report", tmp_path / "huge.tflite", "--reference", tmp_path / "huge.tflite", "--data", data),
        ("export-tflite", tmp_path / "huge.tflite", "-o", tmp_path / "out"),
    ):
        assert "1 x 1000000000 x 100, and at most 268,435,456" in error_line(run(*command))
    assert not out.exists()
    assert not (tmp_path / "out").exists()
