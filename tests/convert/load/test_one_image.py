"""SavedModels that take a fixed number of images at a time: the files take one, and give what that one alone gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from embedlite.convert.errors import ModelShapeError
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower

from rounding import decibels

BATCH, SHAPE = 6, (8, 8, 3)
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(BATCH, *SHAPE)).astype(np.float32)


class Encoder(tf.Module):
    """An encoder whose variable is loaded, not a constant."""

    def __init__(self, end: Callable[[Any], Any]) -> None:
        super().__init__()
        self.kernel = tf.Variable(KERNEL)
        self.end = end

    @tf.function(input_signature=[tf.TensorSpec((BATCH, *SHAPE), tf.float32, name="photos")])
    def embed(self, photos: Any) -> dict[str, Any]:
        return {"vectors": self.end(tf.nn.conv2d(photos, self.kernel, 2, "SAME"))}


def min_max(x: Any) -> Any:
    """Over the whole batch, as the first encoders of this kind did it."""
    x = tf.reduce_mean(x, (1, 2))
    return (x - tf.reduce_min(x)) / (tf.reduce_max(x) - tf.reduce_min(x))


ENDS: dict[str, Callable[[Any], Any]] = {
    "nothing fixed": lambda x: tf.reduce_mean(x, (1, 2)),
    "a constant shape": lambda x: tf.reshape(x, (BATCH, -1)),
    "a computed shape": lambda x: tf.reshape(x, (tf.shape(x)[0], 128)),
    "a repeated constant": lambda x: tf.reduce_sum(x, (1, 2)) * tf.fill((BATCH, 8), 0.5),
    "the whole batch": min_max,
    "rows": lambda x: tf.reshape(x, (-1, 8)),
}


def check(folder: Path, original: Callable[[Any], Any], *, said: str) -> None:
    loaded = load_original(folder)
    assert loaded.batch == 1
    (decision,) = [text for text in loaded.decisions if "at a time" in text]
    assert said in decision
    run = float_runner(lower(loaded).flatbuffer)
    for image in IMAGES[:2]:
        whole = np.asarray(original(tf.repeat(image[None], BATCH, axis=0)))
        wanted = whole[: len(whole) // BATCH]
        got = run(image).reshape(wanted.shape)
        assert decibels(got, wanted) > 95


@pytest.mark.parametrize("name", ENDS)
def test_one_image_gives_what_it_gives_alone(name: str, tmp_path: Path) -> None:
    module = Encoder(ENDS[name])
    tf.saved_model.save(module, str(tmp_path), module.embed)
    check(tmp_path, lambda x: module.embed(x)["vectors"], said="what it gives for that one alone.")


def test_a_normalization_of_the_whole_batch_is_one_of_the_image(tmp_path: Path) -> None:
    """TFLite's converter would take it for one of each row, and each row would be sqrt(batch) times as long."""
    module = Encoder(lambda x: tf.math.l2_normalize(tf.reduce_mean(x, (1, 2))))
    tf.saved_model.save(module, str(tmp_path), module.embed)
    loaded = load_original(tmp_path)
    assert "normalizes the embeddings of all together" in " ".join(loaded.decisions)
    run = float_runner(lower(loaded).flatbuffer)
    for image in IMAGES[:2]:
        vector = tf.reduce_mean(tf.nn.conv2d(image[None], KERNEL, 2, "SAME"), (1, 2)).numpy()
        np.testing.assert_allclose(run(image).reshape(1, -1), vector / np.linalg.norm(vector), atol=1e-6)


def test_where_the_number_cannot_be_changed_it_costs_time(tmp_path: Path) -> None:
    module = Encoder(lambda x: tf.stack([tf.reduce_mean(image, (0, 1)) for image in tf.unstack(x)]))
    tf.saved_model.save(module, str(tmp_path), module.embed)
    check(tmp_path, lambda x: module.embed(x)["vectors"], said="at the cost of 6")


def test_integers_are_tried_with_values_that_they_have(tmp_path: Path) -> None:
    """With zeros alone, what the whole batch adds up to would look like what one image does."""

    class Pixels(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((BATCH, *SHAPE), tf.uint8)])
        def embed(self, photos: Any) -> dict[str, Any]:
            values = tf.cast(photos, tf.float32)
            return {"vectors": tf.reduce_mean(values, (1, 2)) * tf.reduce_sum(values)}

    module = Pixels()
    tf.saved_model.save(module, str(tmp_path), module.embed)
    loaded = load_original(tmp_path)
    assert "at the cost of 6" in " ".join(loaded.decisions)
    image = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    wanted = np.asarray(module.embed(np.repeat(image[None], BATCH, 0))["vectors"])[0]
    np.testing.assert_allclose(float_runner(lower(loaded).flatbuffer)(image.astype(np.float32)), wanted, rtol=1e-5)


def test_a_number_of_rows_that_only_the_values_tell(tmp_path: Path) -> None:
    def end(x: Any) -> Any:
        rows = tf.stack([tf.reduce_mean(image, (0, 1)) for image in tf.unstack(x)])
        return tf.boolean_mask(rows, tf.reduce_sum(rows, 1) < 1e9)

    module = Encoder(end)
    tf.saved_model.save(module, str(tmp_path), module.embed)
    check(tmp_path, lambda x: module.embed(x)["vectors"], said="at the cost of 6")


def test_a_keras_model_built_by_a_call_and_saved_by_tensorflow(tmp_path: Path) -> None:
    class Tower(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.top = layers.LSTM(5), layers.Dense(4)

        def call(self, x):
            return tf.math.l2_normalize(self.top(self.steps(tf.reshape(x, (-1, 8, 24)))), -1)

    model = Tower()
    model(IMAGES)
    tf.saved_model.save(model, str(tmp_path))
    check(tmp_path, model, said="what it gives for that one alone.")


def test_a_graph_of_tensorflow_1(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (BATCH, *SHAPE))
        kernel = v1.get_variable("kernel", initializer=KERNEL, use_resource=False)
        vector = tf.reshape(tf.nn.conv2d(image, kernel, 2, "SAME"), (BATCH, 128))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "model"), {"image": image}, {"vector": vector})
    original = Encoder(ENDS["a constant shape"])
    check(tmp_path / "model", lambda x: original.embed(x)["vectors"], said="what it gives for that one alone.")


def test_a_batch_that_has_one_answer_is_refused(tmp_path: Path) -> None:
    module = Encoder(lambda x: tf.reduce_mean(x, (0, 1, 2))[None])
    tf.saved_model.save(module, str(tmp_path), module.embed)
    with pytest.raises(ModelShapeError, match=r"takes 6 images at a time and gives \(1, 8\).*open batch"):
        load_original(tmp_path)
