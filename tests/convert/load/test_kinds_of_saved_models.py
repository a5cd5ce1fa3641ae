"""Ordinary kinds of SavedModel beyond the plainest, which :mod:`test_saved_models` has: each comes in and agrees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.errors import ConversionError
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions

v1 = tf.compat.v1
IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")
FRAME = np.random.default_rng(0).random((8, 8, 3), np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
Reference = Callable[[Any], Any]


def pooled(x: Any, weights: Any = WEIGHTS) -> Any:
    return tf.matmul(tf.reduce_mean(x, (1, 2)), weights)


def module() -> tf.Module:
    own = tf.Module()
    own.weights = tf.Variable(WEIGHTS)
    own.embed = tf.function(lambda image: {"embedding": pooled(image, own.weights)}, input_signature=[IMAGE])
    return own


def several_endpoints(folder: Path) -> Reference:
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", lambda x: model(x, training=False), [IMAGE])
    archive.add_endpoint("twice", lambda x: 2 * model(x, training=False), [IMAGE])
    archive.write_out(folder, verbose=False)
    return model


def keras_2_after_training(folder: Path) -> Reference:
    keras_2 = pytest.importorskip("tf_keras").layers
    model = pytest.importorskip("tf_keras").Sequential(
        [keras_2.Input((8, 8, 3)), keras_2.Conv2D(4, 3), keras_2.Dropout(0.5), keras_2.GlobalAveragePooling2D()]
    )
    model.compile("adam", "mse")
    model.fit(FRAME[None], np.zeros((1, 4)), verbose=0)
    model.save(str(folder), save_format="tf")
    return lambda x: model(x, training=False)


def functions_in_functions(folder: Path) -> Reference:
    own = module()
    inner = tf.function(lambda x: pooled(x, own.weights), autograph=False)
    outer = tf.function(lambda x, y: tf.cond(y, lambda: inner(x), lambda: 2 * inner(x)), autograph=False)
    own.embed = tf.function(lambda image: {"z": outer(image, tf.shape(image)[1] > 4)}, input_signature=[IMAGE])
    tf.saved_model.save(own, str(folder), own.embed)
    return pooled


def loaded_and_saved_again(folder: Path) -> Reference:
    own = module()
    tf.saved_model.save(own, str(folder.parent / "first"), own.embed)
    loaded = tf.saved_model.load(str(folder.parent / "first"))
    tf.saved_model.save(loaded, str(folder), loaded.signatures["serving_default"])
    return pooled


def a_label_beside_the_embedding(folder: Path) -> Reference:
    own = module()
    labels = tf.lookup.KeyValueTensorInitializer([0, 1], ["cat", "dog"], tf.int64, tf.string)
    own.labels = tf.lookup.StaticHashTable(labels, "other")

    def embed(image: Any) -> dict[str, Any]:
        found = pooled(image, own.weights)
        return {"embedding": found, "label": own.labels.lookup(tf.argmax(found, -1))}

    own.embed = tf.function(embed, input_signature=[IMAGE])
    tf.saved_model.save(own, str(folder), own.embed)
    return pooled


def encoded_images_beside_decoded_ones(folder: Path) -> Reference:
    own = module()

    def decode(text: Any) -> Any:
        return tf.cast(tf.io.decode_png(text, 3), tf.float32)

    def embed(texts: Any) -> dict[str, Any]:
        kind = tf.TensorSpec((None, None, 3), tf.float32)
        return {"embedding": pooled(tf.map_fn(decode, texts, fn_output_signature=kind), own.weights)}

    own.encoded = tf.function(embed, input_signature=[tf.TensorSpec((None,), tf.string)])
    tf.saved_model.save(own, str(folder), {"serving_default": own.embed, "encoded": own.encoded})
    return pooled


def recurrent(folder: Path) -> Reference:
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Reshape((8, 24)), layers.LSTM(4)])
    model.export(folder, verbose=False)
    return model


def of_tensorflow_1(folder: Path, make: Callable[[Any], Any]) -> None:
    with v1.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3))
        z = make(image)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        signature = v1.saved_model.predict_signature_def({"image": image}, {"z": z})
        builder = v1.saved_model.Builder(str(folder))
        start = v1.tables_initializer()
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=start)
        builder.save()


def partitioned_variables(folder: Path) -> Reference:
    def make(image: Any) -> Any:
        shards = v1.fixed_size_partitioner(3)
        weights = v1.get_variable("w", (3, 4), initializer=v1.ones_initializer(), partitioner=shards)
        return pooled(image, tf.concat(list(weights), 0))

    of_tensorflow_1(folder, make)
    return lambda x: pooled(x, np.ones((3, 4), np.float32))


def tables_branches_and_loops(folder: Path) -> Reference:
    (folder.parent / "labels.txt").write_text("cat\ndog\n")

    def make(image: Any) -> Any:
        text = tf.lookup.TextFileInitializer(
            str(folder.parent / "labels.txt"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        tf.lookup.StaticVocabularyTable(text, 1).lookup(tf.constant(["cat"]))
        weights, quick = v1.get_variable("w", initializer=WEIGHTS), v1.placeholder_with_default(True, ())
        found = v1.cond(quick, lambda: pooled(image, weights), lambda: pooled(image, 2 * weights))
        return v1.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, 2 * x), [0, found])[1]

    of_tensorflow_1(folder, make)
    return lambda x: 8 * pooled(x)


KINDS = [
    *(several_endpoints, keras_2_after_training, functions_in_functions, loaded_and_saved_again),
    *(a_label_beside_the_embedding, encoded_images_beside_decoded_ones, recurrent, partitioned_variables),
    tables_branches_and_loops,
]


@pytest.mark.parametrize("save", KINDS)
def test_it_comes_in(save: Callable[[Path], Reference], tmp_path: Path) -> None:
    reference = save(tmp_path / "model")
    output = "embedding" if save is a_label_beside_the_embedding else None
    lowered = lower(load_original(tmp_path / "model", LoadOptions(output=output)))
    np.testing.assert_allclose(lowered.reference(FRAME), np.asarray(reference(FRAME[None]))[0], atol=1e-5)


def test_an_embedding_out_of_a_table_is_told(tmp_path: Path) -> None:
    own = tf.Module()
    places = tf.lookup.KeyValueTensorInitializer([0, 1], [0.5, 2.0], tf.int64, tf.float32)
    own.places = tf.lookup.StaticHashTable(places, 0.0)
    own.embed = tf.function(
        lambda image: {"z": own.places.lookup(tf.cast(pooled(image), tf.int64))}, input_signature=[IMAGE]
    )
    tf.saved_model.save(own, str(tmp_path / "model"), own.embed)
    with pytest.raises(ConversionError, match="looks its embedding up in a table"):
        lower(load_original(tmp_path / "model"))
