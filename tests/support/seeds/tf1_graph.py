"""S1: the encoder as a TensorFlow 1 program has it: a graph, a session, variables and their moving averages."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from photos import save_crops, save_reference

v1 = tf.compat.v1

FILTERS = (8, 32, 32, 64, 64, 128)
DIMENSIONS = 128


def save(folder: Path, size: int, calibration: int = 40, test: int = 24) -> None:
    """Write the SavedModel ``model/`` for images of ``size``, a multiple of 32, and its images and answers.

    At 512 the map before the embedding is 16x16, and the embedding convolution with it.
    """
    calibration_images, test_images = save_crops(folder, size, calibration, test)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(0)
        images = v1.placeholder(tf.float32, (None, size, size, 3), "images")
        averages: list[tf.Operation] = []
        encoder(images, averages)
        raw = encoder(images)
        e = raw - tf.reduce_min(raw)
        z = tf.divide(e, tf.reduce_max(e), name="z")
        session.run(v1.global_variables_initializer())
        session.run(averages, {images: calibration_images})

        answers = {"embeddings": z, "raw": raw}
        save_reference(folder, calibration_images, test_images, lambda batch: session.run(answers, {images: batch}))
        v1.saved_model.simple_save(session, str(folder / "model"), {"images": images}, {"z": z})


def encoder(x: tf.Tensor, averages: list[tf.Operation] | None = None) -> tf.Tensor:
    """The raw embedding (N, 128). With ``averages``: in training form, and what stores its statistics is added."""
    with v1.variable_scope("encoder", reuse=v1.AUTO_REUSE):
        for block, filters in enumerate(FILTERS, 1):
            pooled = block < len(FILTERS)
            for index, strides in enumerate((1, 1, 2) if pooled else (1, 1), 1):
                with v1.variable_scope(f"block{block}/conv{index}"):
                    x = tf.nn.conv2d(x, kernel(x, (3, 3), filters), strides, "SAME")
                    x = tf.nn.relu(batch_norm(x, averages))
        with v1.variable_scope("embedding"):
            bias = v1.get_variable("bias", (DIMENSIONS,), initializer=v1.zeros_initializer(), use_resource=False)
            x = tf.nn.conv2d(x, kernel(x, x.shape[1:3], DIMENSIONS), 1, "VALID", name="embedding") + bias
        return tf.reshape(x, (-1, DIMENSIONS))


def kernel(x: tf.Tensor, size, filters: int) -> tf.Variable:
    """A convolution's weights; as in TensorFlow 1, no resource variable."""
    shape = (*size, x.shape[-1], filters)
    he = v1.variance_scaling_initializer(2.0, seed=int(np.prod(shape)))
    return v1.get_variable("kernel", shape, initializer=he, use_resource=False)


def batch_norm(x: tf.Tensor, averages: list[tf.Operation] | None) -> tf.Tensor:
    """Batch normalization; in training form the averages become those of this batch."""

    def variable(name: str, initializer: v1.keras.initializers.Initializer) -> tf.Variable:
        return v1.get_variable(name, (x.shape[-1],), initializer=initializer, use_resource=False)

    # Most activations pass the ReLU, as in a trained network. One with all of them centred on zero doubles rounding
    # errors every few layers, and then no two programs agree to 1e-5, not even TensorFlow with itself in double.
    gamma = variable("gamma", v1.random_uniform_initializer(0.5, 1.5, seed=x.shape[-1]))
    beta = variable("beta", v1.random_normal_initializer(1.0, 0.3, seed=x.shape[-1]))
    moving_mean = variable("moving_mean", v1.zeros_initializer())
    moving_variance = variable("moving_variance", v1.ones_initializer())
    if averages is None:
        return v1.nn.fused_batch_norm(x, gamma, beta, moving_mean, moving_variance, 1e-3, is_training=False)[0]
    result, mean, variance = v1.nn.fused_batch_norm(x, gamma, beta, epsilon=1e-3)
    averages += [v1.assign(moving_mean, mean), v1.assign(moving_variance, variance)]
    return result
