"""Files of Keras 2: read by tf-keras, or by Keras 3 as far as it can; no code of theirs runs."""

import base64
import marshal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from embedlite.convert.errors import CustomCodeError, ModelLoadError, ModelShapeError
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import keras_model, load_original
from embedlite.convert.load.archive import read_config, write_copy
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime.errors import ModelFileError

SHAPE = (16, 16, 3)
IMAGE = np.random.default_rng(0).random(SHAPE, np.float32)


def norm(e: Any) -> Any:
    e = e - tf.reduce_min(e)
    return e / tf.reduce_max(e)


def backbone(name: str = "backbone") -> tf_keras.Model:
    inside = layers.Input(SHAPE)
    x = layers.BatchNormalization(moving_mean_initializer="ones")(layers.Conv2D(8, 3, strides=2)(inside))
    return tf_keras.Model(inside, layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(x)), name=name)


def make(kind: str) -> tf_keras.Model:  # noqa: PLR0912 -- one branch a kind
    """A model of Keras 2."""
    image = layers.Input(SHAPE)
    rows = layers.Reshape((16, 48))(image)
    x = image
    if kind == "functional":
        x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
        x = layers.DepthwiseConv2D(3, padding="same", bias_initializer="ones")(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization(moving_mean_initializer="ones")(x))
        x = layers.Add()([x, layers.SeparableConv2D(8, 3, padding="same", activation="silu")(x)])
        x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    elif kind == "sequential":
        return tf_keras.Sequential(
            [layers.Conv2D(4, 3, input_shape=SHAPE), layers.LeakyReLU(0.1), layers.Flatten(), layers.Dense(3)]
        )
    elif kind == "transposed":
        x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(layers.Conv2D(4, 3)(x))
        x = layers.GlobalAveragePooling2D()(x)
    elif kind == "one_dimension":
        x = layers.SeparableConv1D(6, 3)(layers.DepthwiseConv1D(3)(layers.Conv1DTranspose(8, 3)(rows)))
        x = layers.GlobalAveragePooling1D()(x)
    elif kind == "augmented":
        x = layers.Rescaling(2.0)(layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(x)))
        x = layers.GlobalAveragePooling2D()(layers.LayerNormalization()(layers.Conv2D(4, 3)(x)))
    elif kind == "nested_sequential":
        return tf_keras.Sequential([backbone(), layers.Dense(5, name="embedding")])
    elif kind == "nested_functional":
        x = layers.Dense(5)(backbone()(x, training=False))
    elif kind == "nested_shared":
        shared = backbone()
        x = layers.Dense(5)(layers.Subtract()([shared(x), shared(layers.ReLU(0.5)(x))]))
    elif kind == "recurrent":
        x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.GRU(6, return_sequences=True)(rows))
        x = layers.SimpleRNN(5)(x)
    elif kind == "masked":
        x = layers.LSTM(5)(layers.Masking(0.0)(rows))
    elif kind == "attention":
        x = layers.Dense(12)(rows)
        x = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 6)(x, layers.Attention()([x, x])))
    elif kind == "operations":
        x = layers.Conv2D(4, 3)(tf.image.resize(x * 2.0 - tf.constant([1.0, 2.0, 3.0]), (9, 9)))
        x = tf.math.l2_normalize(layers.Dense(5)(tf.reduce_mean(x, (1, 2))), axis=1)[:, :4]
    elif kind == "two_axes":
        x = layers.GlobalAveragePooling2D()(layers.LayerNormalization(axis=[1, 2])(x))
    elif kind == "mixed":
        half = tf_keras.mixed_precision.Policy("mixed_float16")
        x = layers.Conv2D(8, 3, strides=2, dtype=half)(x)
        x = layers.Dense(5, dtype="float32")(layers.GlobalAveragePooling2D(dtype=half)(x))
    return tf_keras.Model(image, x)


KERAS_3_READS = (
    *("functional", "sequential", "transposed", "one_dimension", "augmented", "recurrent"),
    *("nested_sequential", "nested_functional", "nested_shared"),
)
ALL = (*KERAS_3_READS, "masked", "attention", "operations", "two_axes", "mixed")
RECURRENT = ("recurrent", "masked")


def save(model: tf_keras.Model, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that HDF5 is the older format
        model.save(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Each kind in both formats, and what Keras 2 computes."""
    folder, wanted = tmp_path_factory.mktemp("keras_2"), {}
    tf_keras.utils.set_random_seed(0)
    for kind in ALL:
        model = make(kind)
        wanted[kind] = np.asarray(model(IMAGE[None], training=False))
        for suffix in (".h5", ".keras"):
            save(model, folder / f"{kind}{suffix}")
    return folder, wanted


def embed(path: Path, **options: Any) -> np.ndarray:
    """The float TFLite graph's answer for one image, after the whole way from the file."""
    return np.asarray(float_runner(lower(load_original(path, LoadOptions(**options))).flatbuffer)(IMAGE))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_what_keras_2_wrote_computes_what_keras_2_computes(
    kind: str, suffix: str, files: tuple[Path, dict[str, np.ndarray]]
) -> None:
    folder, wanted = files
    original = load_original(folder / f"{kind}{suffix}")
    assert original.call is not None
    np.testing.assert_array_equal(np.asarray(original.call(IMAGE[None])), wanted[kind])


@pytest.mark.parametrize("kind", ["operations", "nested_shared", "attention", "mixed"])
def test_it_is_converted(kind: str, files: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, wanted = files
    np.testing.assert_allclose(embed(folder / f"{kind}.h5"), wanted[kind][0], atol=2e-3 if kind == "mixed" else 1e-5)


@pytest.fixture
def without_keras_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if tf-keras were not installed."""
    monkeypatch.setattr(keras_model, "is_installed", lambda: False)


@pytest.mark.parametrize("kind", KERAS_3_READS)
@pytest.mark.usefixtures("without_keras_2")
def test_keras_3_reads_hdf5_where_keras_2_is_missing(kind: str, files: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, wanted = files
    call = load_original(folder / f"{kind}.h5").call
    assert call is not None
    np.testing.assert_allclose(np.asarray(call(IMAGE[None])), wanted[kind], atol=1e-5)


@pytest.mark.parametrize("name", ["functional.keras", "sequential.keras", "operations.h5", "two_axes.h5"])
@pytest.mark.usefixtures("without_keras_2")
def test_what_keras_3_cannot_read_names_keras_2(name: str, files: tuple[Path, dict[str, np.ndarray]]) -> None:
    # Every other test here is the way out: with tf-keras the same files are read.
    with pytest.raises(ModelLoadError, match=r"pip install 'embedlite\[keras2\]'"):
        load_original(files[0] / name)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_lambdas_are_handed_over_or_replaced(suffix: str, tmp_path: Path) -> None:
    image = layers.Input(SHAPE)
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))
    x = layers.Lambda(lambda x: x * 2, name="twice")(layers.Lambda(norm, name="norm")(x))
    model = tf_keras.Model(image, x)
    path = save(model, tmp_path / f"model{suffix}")
    with pytest.raises(CustomCodeError) as caught:
        load_original(path)
    for part in ("'norm' wants a function that is stored", "'twice'", "defines norm, twice", "norm=KIND"):
        assert part in str(caught.value)
    trusted = tmp_path / "trusted.py"
    trusted.write_text("def twice(x):\n    return x * 2\n")
    got = embed(path, custom_objects=trusted, replace_lambda=("norm=minmax-batch",))
    np.testing.assert_allclose(got, np.asarray(model(IMAGE[None]))[0], atol=1e-5)


def test_classes_of_the_users_own(tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.py"
    trusted.write_text(
        "import tf_keras\nclass Twice(tf_keras.layers.Layer):\n    def call(self, x):\n        return x * 2\n"
        "def cube(x):\n    return x ** 3\n"
    )
    from runpy import run_path

    own = run_path(str(trusted))
    image = layers.Input(SHAPE)
    x = layers.Dense(4, activation=own["cube"])(layers.Flatten()(own["Twice"](name="mine")(image)))
    model = tf_keras.Model(image, x)
    for suffix in (".h5", ".keras"):
        path = save(model, tmp_path / f"model{suffix}")
        with pytest.raises(CustomCodeError, match=r"'mine' is of the custom class '(Custom>)?Twice'.*'cube'.*FILE\.py"):
            load_original(path)
        got = embed(path, custom_objects=trusted)
        np.testing.assert_allclose(got, np.asarray(model(IMAGE[None]))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_layer_ends_the_encoder(suffix: str, tmp_path: Path) -> None:
    tower, a, b = backbone("tower"), layers.Input(SHAPE, name="a"), layers.Input(SHAPE, name="b")
    path = save(tf_keras.Model([a, b], layers.Dense(1)(tower(a) - tower(b))), tmp_path / f"siamese{suffix}")
    with pytest.raises(ModelShapeError, match=r"has 2 inputs .*--layer tower"):
        load_original(path)
    np.testing.assert_allclose(embed(path, layer="tower"), np.asarray(tower(IMAGE[None]))[0], atol=1e-5)
    with pytest.raises(ModelShapeError, match=r"no layer 'towr'.*tower"):
        load_original(path, LoadOptions(layer="towr"))
    nested = make("nested_sequential")
    path = save(nested, tmp_path / f"nested{suffix}")
    inner = nested.layers[0].layers[-1].name
    np.testing.assert_allclose(embed(path, layer=inner), np.asarray(nested.layers[0](IMAGE[None]))[0], atol=1e-5)


def bytecode(witness: Path) -> str:
    """A function's code that creates a file when it is called, as Keras 2 stores it."""
    function = eval(f"lambda x, mask=None: (open({str(witness)!r}, 'w').close(), x)[1]")
    return base64.encodebytes(marshal.dumps(function.__code__)).decode()


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


def settings(config: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(item for item in objects(config) if item.get("class_name") == kind)


def in_function(config: dict[str, Any], code: str, folder: Path) -> None:
    settings(config, "Lambda")["config"].update(function=[code, None, None], function_type="lambda")


def in_shape(config: dict[str, Any], code: str, folder: Path) -> None:
    settings(config, "Lambda")["config"].update(output_shape=[code, None, None], output_shape_type="lambda")


def in_mask(config: dict[str, Any], code: str, folder: Path) -> None:
    settings(config, "Lambda")["config"].update(mask=[code, None, None], mask_type="lambda", mask_module=None)


def as_activation(config: dict[str, Any], code: str, folder: Path) -> None:
    value = {"class_name": "__lambda__", "config": {"value": [code, None, None]}}
    settings(config, "Dense")["config"]["activation"] = value


def as_residual_wrapper(config: dict[str, Any], code: str, folder: Path) -> None:
    wrapped = {"class_name": "LSTMCell", "config": {"units": 3}}
    cell = {"cell": wrapped, "residual_fn": [code, None, None], "residual_fn_type": "lambda", "residual_fn_module": ""}
    layer = settings(config, "Dense")
    layer.update(class_name="RNN", config={"cell": {"class_name": "ResidualWrapper", "config": cell}})


def as_module(config: dict[str, Any], code: str, folder: Path) -> None:
    layer = settings(config, "Dense")
    layer.update(module="canary_of_keras_2", class_name="Dense", registered_name="Dense")


def as_module_of_an_initializer(config: dict[str, Any], code: str, folder: Path) -> None:
    value = {"module": "canary_of_keras_2", "class_name": "Zeros", "config": {}, "registered_name": None}
    settings(config, "Dense")["config"]["bias_initializer"] = value


def as_type(config: dict[str, Any], code: str, folder: Path) -> None:
    value = {"class_name": "__typespec__", "spec_name": "x", "module": "canary_of_keras_2", "registered_name": None}
    settings(config, "InputLayer")["config"]["type_spec"] = {**value, "config": []}


def as_loss(config: dict[str, Any], code: str, folder: Path) -> None:
    value = {"module": "canary_of_keras_2", "class_name": "Adam", "config": {}, "registered_name": None}
    settings(config, "Functional")["compile_config"] = {"optimizer": value, "loss": "mse"}
    in_function(config, code, folder)


def as_call(config: dict[str, Any], code: str, folder: Path) -> None:
    layer = settings(config, "Dense")
    arguments = {"contents": str(folder / "witness")}
    layer.update(class_name="TFOpLambda", config={"name": "call", "function": "io.write_file"})
    layer["inbound_nodes"] = [[str(folder / "witness"), -1, arguments]]


ATTACKS: dict[str, Callable[[dict[str, Any], str, Path], None]] = {
    "the function of a Lambda": in_function,
    "the shape of a Lambda": in_shape,
    "the mask of a Lambda": in_mask,
    "an activation": as_activation,
    "a wrapper of a cell": as_residual_wrapper,
    "the module of a layer": as_module,
    "the module of an initializer": as_module_of_an_initializer,
    "the module of a type": as_type,
    "the module of an optimizer": as_loss,
    "a call of TensorFlow": as_call,
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a Lambda, and one in which it is nested."""
    folder = tmp_path_factory.mktemp("targets")
    image = layers.Input(SHAPE)
    x = layers.Dense(3)(layers.Flatten()(image))
    flat = tf_keras.Model(image, layers.Lambda(norm, name="scale")(x))
    outer = layers.Input(SHAPE)
    for name, model in {"flat": flat, "nested": tf_keras.Model(outer, layers.ReLU()(flat(outer)))}.items():
        for suffix in (".h5", ".keras"):
            save(model, folder / f"{name}{suffix}")
    return folder


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["flat.h5", "flat.keras", "nested.h5", "nested.keras"])
def test_nothing_of_a_file_runs(
    attack: str, name: str, targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    witness = tmp_path / "witness"
    (modules / "canary_of_keras_2.py").write_text(
        f"open({str(witness)!r}, 'w').close()\nDense = Zeros = Adam = x = int\n"
    )
    monkeypatch.syspath_prepend(modules)
    config = read_config(targets / name)
    ATTACKS[attack](config, bytecode(witness), tmp_path)
    path = write_copy(targets / name, config, tmp_path)
    trusted = tmp_path / "trusted.py"
    trusted.write_text("def scale(x):\n    return x * 2\n")
    refused = 0
    for options in (LoadOptions(), LoadOptions(custom_objects=trusted), LoadOptions(replace_lambda=("scale=l2",))):
        try:
            original = load_original(path, options)
            assert original.call is not None
            original.call(np.zeros((1, *SHAPE), np.float32))
        except ModelFileError:
            refused += 1
        assert not witness.exists(), options
    # Handed over or replaced, a Lambda is harmless whatever it held; all else is refused each time.
    assert refused == (1 if "Lambda" in attack or "optimizer" in attack else 3)


READS_A_FILE = {"vocab_file": "FILE", "num_true": 1, "num_sampled": 1, "unique": True, "range_max": 2}
CALLS: dict[str, dict[str, Any]] = {
    "io.read_file": {},
    "random.fixed_unigram_candidate_sampler": READS_A_FILE,
    "compat.v1.nn.fixed_unigram_candidate_sampler": READS_A_FILE,
    "keras.backend.set_epsilon": {},
    "keras.backend.clear_session": {},
    "random.set_seed": {},
}


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_calls_that_do_more_than_compute_are_refused(suffix: str, tmp_path: Path) -> None:
    image = layers.Input(SHAPE)
    classes = tf.cast(layers.Dense(1)(layers.Flatten()(image)), tf.int64)
    source = save(tf_keras.Model(image, tf.abs(classes)), tmp_path / f"source{suffix}")
    (tmp_path / "text").write_text("a,1.0\nb,2.0\n")
    (tmp_path / "model").mkdir()
    for symbol, arguments in CALLS.items():
        given = {key: str(tmp_path / "text") if value == "FILE" else value for key, value in arguments.items()}
        config = read_config(source)
        layer = next(item for item in objects(config) if item.get("config", {}).get("function") == "math.abs")
        layer["config"]["function"] = symbol
        layer["inbound_nodes"][0][3] = given
        with pytest.raises(ModelLoadError, match=f"calls tf.{symbol}, which is not among"):
            load_original(write_copy(source, config, tmp_path / "model"))


@pytest.mark.parametrize("name", ["flat.h5", "flat.keras"])
def test_the_planted_code_would_run_elsewhere(name: str, targets: Path, tmp_path: Path) -> None:
    """The control: the attack is a real one; for HDF5 even where safe mode is said to be on."""
    witness = tmp_path / "witness"
    config = read_config(targets / name)
    in_function(config, bytecode(witness), tmp_path)
    path = write_copy(targets / name, config, tmp_path)
    tf_keras.models.load_model(path, compile=False, safe_mode=name.endswith(".h5"))
    assert witness.exists()
