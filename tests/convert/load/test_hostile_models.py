"""Model files that are damaged, hostile, or no encoders: one clear error each, and no code of theirs ever runs."""

import base64
import io
import json
import marshal
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.errors import CustomCodeError, ModelLoadError, ModelShapeError
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime.errors import EmbedliteError, ModelFileError, RequestError

from conftest import Run, error_line


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a Lambda in it, as ``.keras`` and as ``.h5``."""
    folder = tmp_path_factory.mktemp("good")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Lambda(_named, name="scale", output_shape=(144,)),
        ]
    )
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    plain = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten()])
    plain.save(folder / "plain.keras")
    plain.save(folder / "plain.h5")
    return folder


def _named(x):
    return x * 2


def _loss(wanted, found):
    return found - wanted


def edit(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a Keras file with another configuration."""
    if source.suffix == ".h5":
        shutil.copy(source, target)
        with h5py.File(target, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config)
            file.attrs["model_config"] = json.dumps(config)
        return target
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            new.writestr(entry.filename, content)
    return target


def layer(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in config["config"]["layers"] if item["config"].get("name") == name)


def bytecode(witness: Path) -> str:
    """A function's code that creates a file when it is called, as Keras stores it."""
    function = eval(f"lambda x, mask=None: (open({str(witness)!r}, 'w').close(), x)[1]")
    return base64.encodebytes(marshal.dumps(function.__code__)).decode()


PLACES = ("function", "output_shape", "mask", "keras 2 function", "keras 2 output_shape", "arguments")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("place", PLACES)
def test_bytecode_never_runs(place: str, suffix: str, good: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    code = bytecode(witness)
    new = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}

    def plant(config: dict[str, Any]) -> None:
        settings = layer(config, "scale")["config"]
        if place == "keras 2 function":
            settings.update(function=[code, None, None], function_type="lambda", module="__main__")
        elif place == "keras 2 output_shape":
            settings.update(output_shape=[code, None, None], output_shape_type="lambda", output_shape_module="x")
        elif place == "arguments":
            settings["arguments"] = {"y": new}
        else:
            settings[place] = new

    path = edit(good / f"model{suffix}", tmp_path / f"model{suffix}", plant)
    trusted = tmp_path / "trusted.py"
    trusted.write_text("def _named(x):\n    return x * 2\ndef scale(x):\n    return x * 2\n")
    for options in (
        LoadOptions(),
        LoadOptions(custom_objects=trusted),
        LoadOptions(replace_lambda=("scale=l2",)),
    ):
        try:
            original = load_original(path, options)
            lowered = lower(original)
            lowered.reference(np.zeros((8, 8, 3), np.float32))
        except EmbedliteError:
            pass
        assert not witness.exists(), options
    with pytest.raises(CustomCodeError, match="'scale' wants"):
        load_original(path)


def test_the_planted_bytecode_would_run_where_safe_mode_is_off(good: Path, tmp_path: Path) -> None:
    """The control: the attack is a real one."""
    code = {"class_name": "__lambda__", "config": {"code": bytecode(tmp_path / "witness")}}
    code["config"].update(defaults=None, closure=None)

    def plant(config: dict[str, Any]) -> None:
        layer(config, "scale")["config"]["function"] = code

    path = edit(good / "model.keras", tmp_path / "model.keras", plant)
    keras.saving.load_model(path, compile=False, safe_mode=False)(np.zeros((1, 8, 8, 3), np.float32))
    assert (tmp_path / "witness").exists()


DANGEROUS = {
    "a function of the system": {
        "module": "os",
        "class_name": "system",
        "config": {"name": "x"},
        "registered_name": None,
    },
    "a builtin": {"module": "builtins", "class_name": "eval", "config": {"name": "x"}, "registered_name": None},
    "a download": {
        "module": "keras.utils",
        "class_name": "function",
        "config": "get_file",
        "registered_name": "function",
    },
    "a switch": {
        "module": "keras.config",
        "class_name": "function",
        "config": "enable_unsafe_deserialization",
        "registered_name": "function",
    },
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_objects_of_other_modules_are_refused(name: str, good: Path, tmp_path: Path) -> None:
    def named(config: dict[str, Any]) -> None:
        conv = next(item for item in config["config"]["layers"] if item["class_name"] == "Conv2D")
        conv["config"]["activation"] = DANGEROUS[name]

    path = edit(good / "plain.keras", tmp_path / "model.keras", named)
    with pytest.raises(ModelFileError):
        load_original(path)


def zip_with(path: Path, source: Path, name: str, content: bytes = b"x") -> Path:
    shutil.copy(source, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)
    return path


@pytest.mark.parametrize("member", ["/etc/cron.d/job", "../../job", "a/../../job", "C:\\job", "..\\job"])
def test_members_that_lead_out_of_the_archive(member: str, good: Path, tmp_path: Path) -> None:
    path = zip_with(tmp_path / "model.keras", good / "plain.keras", member)
    with pytest.raises(ModelLoadError, match="would be unpacked outside"):
        load_original(path)


def test_an_absurd_declared_size(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    data = bytearray((good / "plain.keras").read_bytes())
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 24, 0xF0000000)
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match="would unpack to"):
        load_original(path)


def test_a_bomb_of_zeros(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    shutil.copy(good / "plain.keras", path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", b"\0" * (200 << 20))
    with pytest.raises(ModelLoadError, match="would unpack to"):
        load_original(path)


CONFIGS = {
    "a list": b"[1, 2]",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe{}",
    "too deep": b"[" * 100_000,
    "empty": b"",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_configuration(name: str, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(good / "plain.keras") as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, CONFIGS[name] if entry.filename == "config.json" else old.read(entry))
    with pytest.raises(ModelLoadError, match="damaged"):
        load_original(path)


def external_link(file: h5py.File) -> None:
    file["layers/link"] = h5py.ExternalLink("/etc/passwd", "/")


def external_dataset(file: h5py.File) -> None:
    file.create_dataset("outside", (16,), "u1", external=[("/etc/passwd", 0, 16)])


def virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(4,))
    file.create_virtual_dataset("virtual", layout)


def huge_dataset(file: h5py.File) -> None:
    file.create_dataset("huge", (1 << 40,), "f4", chunks=(1 << 20,))


PLANTS = {
    "points to the other file": external_link,
    "takes its values from another file": external_dataset,
    "from another file": virtual_dataset,
    "declares": huge_dataset,
}


@pytest.mark.parametrize("message", PLANTS)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_weights_that_reach_elsewhere(message: str, suffix: str, good: Path, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".h5":
        shutil.copy(good / "plain.h5", path)
        with h5py.File(path, "r+") as file:
            PLANTS[message](file)
    else:
        with zipfile.ZipFile(good / "plain.keras") as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename.endswith(".h5"):
                    buffer = io.BytesIO(content)
                    with h5py.File(buffer, "r+") as file:
                        PLANTS[message](file)
                    content = buffer.getvalue()
                new.writestr(entry.filename, content)
    with pytest.raises(ModelLoadError, match=message):
        load_original(path)


def soft_link_through_external(file: h5py.File) -> None:
    file["zz"] = h5py.ExternalLink("/etc/passwd", "/x")
    file["a"] = h5py.SoftLink("/zz/y")


def double_links(file: h5py.File) -> None:
    """Forty groups, each of which holds the next one twice: 2^40 ways."""
    group = file.create_group("zz")
    for _ in range(40):
        below = group.create_group("a")
        group["b"] = below
        group = below


def named_type(file: h5py.File) -> None:
    file["type"] = np.dtype("f4")


def empty_array(file: h5py.File) -> None:
    file["empty"] = h5py.Empty("f4")


def many_large_arrays(file: h5py.File) -> None:
    for index in range(40):
        file.create_dataset(f"large {index}", (15 << 20,), "f4", chunks=(1 << 20,))


STRANGE = {
    "points to '/zz/y'": soft_link_through_external,
    "under another name": double_links,
    "'type' is neither a group nor an array": named_type,
    "'empty' is neither a group nor an array": empty_array,
    "up to its array 'large": many_large_arrays,
}


@pytest.mark.parametrize("message", STRANGE)
def test_what_keras_never_writes_into_hdf5(message: str, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    shutil.copy(good / "plain.h5", path)
    with h5py.File(path, "r+") as file:
        STRANGE[message](file)
    with pytest.raises(ModelLoadError, match=message):
        load_original(path)


def test_an_attribute_larger_than_any_configuration(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    shutil.copy(good / "plain.h5", path)
    with h5py.File(path, "r+", libver="latest") as file:
        file.create_group("large").attrs["large"] = np.zeros(17 << 20, np.float32)
    with pytest.raises(ModelLoadError, match="attributes, or one of more than"):
        load_original(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_an_input_that_no_machine_holds(suffix: str, good: Path, tmp_path: Path) -> None:
    def grow(config: dict[str, Any]) -> None:
        inputs = config["config"]["layers"][0]["config"]
        inputs["batch_shape" if "batch_shape" in inputs else "batch_input_shape"] = [None, 60_000, 60_000, 3]

    path = edit(good / f"plain{suffix}", tmp_path / f"model{suffix}", grow)
    with pytest.raises(ModelShapeError, match="more than 134,217,728 values"):
        load_original(path)


def as_function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def as_class(module: str, name: str) -> dict[str, Any]:
    """Keras takes a function where a class is named, too."""
    return {"module": module, "class_name": name, "config": {}, "registered_name": None}


def in_activation(config: dict[str, Any], item: dict[str, Any]) -> None:
    next(item for item in config["config"]["layers"] if item["class_name"] == "Conv2D")["config"]["activation"] = item


def in_layer(config: dict[str, Any], item: dict[str, Any]) -> None:
    """The reader of HDF5 calls a function with the layer's settings."""
    config["config"]["layers"].append({key: item[key] for key in ("class_name", "config", "module")})


def in_lambda(config: dict[str, Any], item: dict[str, Any]) -> None:
    """Beside the function of a Lambda, which Keras has."""
    settings = {"name": "abs", "function": as_function("keras.ops", "abs"), "arguments": {}, "dtype": item}
    config["config"]["layers"].append({**as_class("keras.layers", "Lambda"), "config": settings})


def in_call_of_lambda(config: dict[str, Any], item: dict[str, Any]) -> None:
    settings = {"name": "abs", "function": as_function("keras.ops", "abs"), "arguments": {}}
    item = {**as_class("keras.layers", "Lambda"), "config": settings, "inbound_nodes": [{"kwargs": {"y": item}}]}
    config["config"]["layers"].append(item)


FUNCTIONS = (
    ("keras.utils", "get_file"),
    ("keras.utils", "set_random_seed"),
    ("keras.utils", "model_to_dot"),
    ("keras.datasets.mnist", "load_data"),
    ("keras.config", "set_floatx"),
    ("keras._legacy.backend", "eval"),
)


@pytest.mark.parametrize("plant", [in_activation, in_layer, in_lambda, in_call_of_lambda])
@pytest.mark.parametrize("form", [as_function, as_class])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_functions_of_keras_that_do_more_than_compute_are_refused(
    plant: Callable[..., None], form: Callable[..., dict[str, Any]], suffix: str, good: Path, tmp_path: Path
) -> None:
    for module, name in FUNCTIONS:
        item = form(module, name)
        path = edit(good / f"plain{suffix}", tmp_path / f"model{suffix}", lambda config, item=item: plant(config, item))
        with pytest.raises(CustomCodeError, match=name):
            load_original(path)


def test_objects_that_keras_makes_of_a_type_are_refused(good: Path, tmp_path: Path) -> None:
    kind = {"class_name": "__typespec__", "spec_name": "Config", "module": "keras.utils", "registered_name": None}
    path = edit(good / "plain.keras", tmp_path / "model.keras", lambda c: in_activation(c, {**kind, "config": []}))
    with pytest.raises(CustomCodeError, match="__typespec__"):
        load_original(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_how_a_model_inside_was_trained_is_not_read(suffix: str, tmp_path: Path) -> None:
    """Keras leaves the model uncompiled, and compiles those within it all the same, with what the file names."""
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten()])
    inner.compile("adam", _loss)
    model = keras.Sequential([keras.Input((8, 8, 3)), inner, layers.Dense(3)])
    model.save(tmp_path / f"model{suffix}")
    lowered = lower(load_original(tmp_path / f"model{suffix}"))
    image = np.random.default_rng(0).random((8, 8, 3), np.float32)
    np.testing.assert_allclose(lowered.reference(image), model(image[None])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("layer", "place", "size"), [("conv", 0, 108), ("conv", 1, 4), ("norm", 1, 4), ("slope", 0, 4)]
)
def test_weights_that_are_no_numbers_are_told_at_the_export(
    layer: str, place: int, size: int, broken: float, tmp_path: Path
) -> None:
    """Infinite ones made files, or ended the process in a library."""
    body = [layers.Conv2D(4, 3, name="conv"), layers.ReLU(), layers.BatchNormalization(name="norm")]
    tail = [layers.PReLU(shared_axes=(1, 2), name="slope"), layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *body, *tail])
    weights = model.get_layer(layer).get_weights()
    weights[place].flat[1] = broken
    model.get_layer(layer).set_weights(weights)
    what = "NaN" if np.isnan(broken) else "infinite"
    with pytest.raises(ModelLoadError, match=rf"1 of the {size} weights in .*{layer}.* are {what}"):
        lower(from_keras(model, "model", LoadOptions()))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelLoadError, match=rf"1 of the {size} weights in .*{layer}.* are {what}"):
        lower(load_original(tmp_path / "model.keras"))


def test_an_infinite_mask_before_a_softmax_is_no_weight() -> None:
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    rows = keras.Input((4, 4, 3))
    scores = keras.ops.softmax(keras.ops.mean(rows, axis=-1) + mask)
    model = keras.Model(rows, keras.ops.reshape(scores, (-1, 16)))
    lowered = lower(from_keras(model, "model", LoadOptions()))
    image = np.random.default_rng(0).random((4, 4, 3), np.float32)
    found = float_runner(lowered.flatbuffer)(image)
    np.testing.assert_allclose(found, model(image[None])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_links_in_a_circle_end(kind: str, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    shutil.copy(good / "plain.h5", path)
    with h5py.File(path, "r+") as file:
        file["circle"] = h5py.SoftLink("/") if kind == "soft" else file["/"]
    with pytest.raises(ModelLoadError):
        load_original(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short(suffix: str, share: float, good: Path, tmp_path: Path) -> None:
    data = (good / f"plain{suffix}").read_bytes()
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelLoadError, match="not a complete"):
        load_original(path)


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.zeros(3)
    with pytest.raises(ModelLoadError, match="weights alone"):
        load_original(tmp_path / "weights.h5")


def save_signature(folder: Path, shapes: list[tuple[int | None, ...]], dtype: tf.DType = tf.float32) -> Path:
    """A SavedModel whose signature takes tensors of these shapes and gives their sums."""
    specs = [tf.TensorSpec(shape, dtype, f"x{index}") for index, shape in enumerate(shapes)]

    def served(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        if dtype == tf.string:
            return {"z": tf.strings.length(inputs[0])}
        return {"z": sum(tf.cast(tf.reduce_mean(x, axis=(1, 2)), tf.float32) for x in inputs)}

    module = tf.Module()
    module.served = tf.function(served, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.served)
    return folder


IMAGE = (None, 8, 8, 3)
SIGNATURES: dict[str, tuple[list[tuple[int | None, ...]], tf.DType, type[Exception], str]] = {
    "two inputs": ([IMAGE, IMAGE], tf.float32, ModelShapeError, "2 inputs"),
    "text": ([(None,)], tf.string, ModelShapeError, "takes text"),
    "numbers of words": ([(None, 4, 4)], tf.int32, ModelShapeError, "takes int32"),
    "an open size": ([(None, None, None, 3)], tf.float32, ModelShapeError, "--input-shape"),
    "five axes": ([(None, 2, 2, 2, 2, 2)], tf.float32, ModelShapeError, "takes inputs of shape"),
    "an open length": ([(None, None, 6)], tf.float32, ModelShapeError, "--input-shape 128,6"),
    "a million images": ([(1_000_000, 8, 8, 3)], tf.float32, ModelShapeError, "1000000 images at a time"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_that_are_no_encoders(name: str, tmp_path: Path) -> None:
    shapes, dtype, error, message = SIGNATURES[name]
    folder = save_signature(tmp_path / "model", shapes, dtype)
    with pytest.raises(error, match=message):
        load_original(folder)


def test_an_open_size_is_filled_in(tmp_path: Path) -> None:
    folder = save_signature(tmp_path / "model", [(None, None, None, 3)])
    lowered = lower(load_original(folder, LoadOptions((6, 5, 3))))
    image = np.random.default_rng(0).random((6, 5, 3), np.float32)
    np.testing.assert_allclose(lowered.reference(image), image.mean(axis=(0, 1)), rtol=1e-5)


def rewrite(folder: Path, change: Callable[[Any], None]) -> None:
    """Edit the protocol buffer of a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    change(model.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())


def custom_operator(graph: Any) -> None:
    # In every function: which one comes first differs, and those that no signature needs are not judged.
    for function in graph.graph_def.library.function:
        function.node_def.add(name="custom", op="MyCustomOp")


def python_operator(graph: Any) -> None:
    for function in graph.graph_def.library.function:
        function.node_def.add(name="python", op="EagerPyFunc")


def no_signature(graph: Any) -> None:
    graph.signature_def.clear()


def no_tag(graph: Any) -> None:
    del graph.meta_info_def.tags[:]


EDITS = {"MyCustomOp": custom_operator, "EagerPyFunc": python_operator, "no signature": no_signature, "'serve'": no_tag}


@pytest.mark.parametrize("message", EDITS)
def test_saved_models_that_cannot_be_used(message: str, tmp_path: Path) -> None:
    folder = save_signature(tmp_path / "model", [IMAGE])
    rewrite(folder, EDITS[message])
    with pytest.raises(ModelLoadError, match=message):
        load_original(folder)


def test_damaged_folders(good: Path, tmp_path: Path) -> None:
    module = tf.Module()
    module.weight = tf.Variable(tf.ones((3,)))
    spec = tf.TensorSpec(IMAGE, tf.float32, "x")
    module.served = tf.function(lambda x: {"z": tf.reduce_mean(x, axis=(1, 2)) * module.weight}, input_signature=[spec])
    whole = tmp_path / "whole"
    tf.saved_model.save(module, str(whole), signatures=module.served)
    assert load_original(whole).input_shape == (8, 8, 3)
    shutil.copytree(whole, tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "variables")
    shutil.copytree(whole, tmp_path / "cut")
    data = (whole / "saved_model.pb").read_bytes()
    (tmp_path / "cut" / "saved_model.pb").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "saved_model.pbtxt").write_text("")
    for name, message in {
        "without": "copy the whole folder",
        "cut": "cut short",
        "empty": "not a SavedModel",
        "text": "not a SavedModel",
    }.items():
        with pytest.raises(ModelLoadError, match=message):
            load_original(tmp_path / name)


def test_options_that_a_format_cannot_have(good: Path, tmp_path: Path) -> None:
    folder = save_signature(tmp_path / "model", [IMAGE])
    with pytest.raises(RequestError, match="for Keras files"):
        load_original(folder, LoadOptions(replace_lambda=("scale=l2",)))
    with pytest.raises(ModelShapeError, match="--layer cannot cut"):
        load_original(folder, LoadOptions(layer="z"))
    with pytest.raises(RequestError, match="Use LAYER=KIND"):
        load_original(good / "model.keras", LoadOptions(replace_lambda=("scale=softmax",)))
    with pytest.raises(RequestError, match="Its Lambda layers are: scale"):
        load_original(good / "model.keras", LoadOptions(replace_lambda=("scala=l2",)))
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(RequestError, match="ZeroDivisionError"):
        load_original(good / "model.keras", LoadOptions(custom_objects=broken))
    with pytest.raises(RequestError, match="there is no file"):
        load_original(good / "model.keras", LoadOptions(custom_objects=tmp_path / "none.py"))


def test_the_command_says_it_in_one_line_and_writes_nothing(good: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    message = error_line(run("export-tflite", good / "model.h5", "-o", out))
    assert "--custom-objects FILE.py" in message
    assert "--replace-lambda scale=KIND" in message
    assert "'_named'" in message
    assert not out.exists()
    folder = save_signature(tmp_path / "model", [IMAGE, IMAGE])
    assert "2 inputs" in error_line(run("export-tflite", folder, "-o", out))
    assert not out.exists()
