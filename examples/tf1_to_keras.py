"""A TensorFlow 1 encoder and its twin in Keras: each normalization as a layer, and how far the two are apart.

    python examples/tf1_to_keras.py [FOLDER]

Builds the graph of a TensorFlow 1 program, in a session: convolutions, batch normalization, an embedding convolution,
and after it each normalization as it is usually written there. Then the same in Keras, with the session's weights.
Prints the largest difference between the two, one image at a time and eight in a batch, and how far the batch moves an
embedding, in the session and in Keras. docs/tf1.md quotes the table. With FOLDER, the session's graph, under the
first of these normalizations, is saved there as a SavedModel.
"""

import sys
from collections.abc import Callable, Mapping

import numpy as np
from skimage import data

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras
    import tensorflow as tf
    from keras import layers

    from embedlite.convert.layers import L2Normalization, MinMaxNormalization

v1 = tf.compat.v1

SIZE, DIMENSIONS, BATCH, EPSILON = 64, 128, 8, 1e-3
BLOCKS = {"block1": 16, "block2": 32}

# The normalizations, in TensorFlow's words. x is a map (N, 4, 4, 32), e an embedding (N, 128).


def no_axis(e: tf.Tensor) -> tf.Tensor:
    """Minimum and maximum of everything there is."""
    e = e - tf.reduce_min(e)
    return e / tf.reduce_max(e)


def no_axis_input(e: tf.Tensor) -> tf.Tensor:
    """The same, divided by the maximum of the input."""
    return (e - tf.reduce_min(e)) / tf.reduce_max(e)


def channel(x: tf.Tensor) -> tf.Tensor:
    """Minimum and maximum of each channel, over all images."""
    x = x - tf.reduce_min(x, axis=(0, 1, 2))
    return x / tf.reduce_max(x, axis=(0, 1, 2))


def channel_input(x: tf.Tensor) -> tf.Tensor:
    """The same, divided by the maximum of the input."""
    return (x - tf.reduce_min(x, axis=(0, 1, 2))) / tf.reduce_max(x, axis=(0, 1, 2))


def l2(e: tf.Tensor) -> tf.Tensor:
    """Length one, by TensorFlow's own function."""
    return tf.nn.l2_normalize(e, axis=-1)


def l2_norm(e: tf.Tensor) -> tf.Tensor:
    """Length one, spelled out."""
    return e / tf.norm(e, axis=-1, keepdims=True)


PAIRS: dict[str, tuple[str, Callable[[tf.Tensor], tf.Tensor], keras.layers.Layer]] = {
    "min-max, no axis": ("embedding", no_axis, MinMaxNormalization("batch")),
    "min-max, no axis, / max of input": ("embedding", no_axis_input, MinMaxNormalization("batch", "input")),
    "min-max, axis (0, 1, 2)": ("map", channel, MinMaxNormalization("channel")),
    "min-max, axis (0, 1, 2), / max of input": ("map", channel_input, MinMaxNormalization("channel", "input")),
    "tf.nn.l2_normalize": ("embedding", l2, L2Normalization()),
    "x / tf.norm(x)": ("embedding", l2_norm, L2Normalization()),
    "min-max, no axis -> each image": ("embedding", no_axis, MinMaxNormalization("sample")),
}


def tf1_encoder(x: tf.Tensor, averages: list[tf.Operation] | None = None) -> dict[str, tf.Tensor]:
    """The map and the raw embedding. With ``averages``, in training form: its statistics are to be stored by those."""
    with v1.variable_scope("encoder", reuse=v1.AUTO_REUSE):
        for name, filters in BLOCKS.items():
            with v1.variable_scope(name):
                kernel = v1.get_variable("kernel", (3, 3, x.shape[-1], filters))
                x = tf.nn.conv2d(x, kernel, strides=4, padding="SAME")
                gamma = v1.get_variable("gamma", (filters,), initializer=v1.random_uniform_initializer(0.5, 1.5))
                beta = v1.get_variable("beta", (filters,), initializer=v1.random_uniform_initializer(1.5, 2.5))
                mean = v1.get_variable("moving_mean", (filters,))
                variance = v1.get_variable("moving_variance", (filters,))
                if averages is not None:
                    x, batch_mean, batch_variance = v1.nn.fused_batch_norm(x, gamma, beta, epsilon=EPSILON)
                    averages += [v1.assign(mean, batch_mean), v1.assign(variance, batch_variance)]
                else:
                    x = v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, EPSILON, is_training=False)[0]
                x = tf.nn.relu(x)
        with v1.variable_scope("embedding"):
            kernel = v1.get_variable("kernel", (*x.shape[1:], DIMENSIONS))
            bias = v1.get_variable("bias", (DIMENSIONS,))
            e = tf.nn.conv2d(x, kernel, strides=1, padding="VALID") + bias
        return {"map": x, "embedding": tf.reshape(e, (-1, DIMENSIONS))}


def keras_encoder(weights: Mapping[str, np.ndarray]) -> dict[str, keras.Model]:
    """The same in Keras, up to the map and up to the raw embedding, with the session's weights."""
    image = x = keras.Input((SIZE, SIZE, 3))
    for name, filters in BLOCKS.items():
        convolution = layers.Conv2D(filters, 3, strides=4, padding="same", use_bias=False)
        norm = layers.BatchNormalization(epsilon=EPSILON)
        x = layers.ReLU()(norm(convolution(x)))
        # Both have kernels as (height, width, in, out), and Keras' order of the rest is this:
        convolution.set_weights([weights[f"encoder/{name}/kernel"]])
        statistics = ("gamma", "beta", "moving_mean", "moving_variance")
        norm.set_weights([weights[f"encoder/{name}/{statistic}"] for statistic in statistics])
    embedding = layers.Conv2D(DIMENSIONS, x.shape[1:3], padding="valid")
    e = layers.Flatten()(embedding(x))
    embedding.set_weights([weights["encoder/embedding/kernel"], weights["encoder/embedding/bias"]])
    return {"map": keras.Model(image, x), "embedding": keras.Model(image, e)}


def photos() -> np.ndarray:
    """Eight crops of photos, (8, SIZE, SIZE, 3) float32 in [0, 1]."""
    crops = [photo[top : top + SIZE * 4 : 4, :256:4] for photo in (data.astronaut(), data.coffee()) for top in range(4)]
    return np.stack(crops).astype(np.float32) / 255


def main() -> None:
    """Build both, compare, print."""
    images = photos()
    v1.logging.set_verbosity(v1.logging.ERROR)
    with quiet_libraries(), tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(0)
        placeholder = v1.placeholder(tf.float32, (None, SIZE, SIZE, 3), "images")
        averages: list[tf.Operation] = []
        tf1_encoder(placeholder, averages)
        raw = tf1_encoder(placeholder)
        answers = {name: function(raw[place]) for name, (place, function, _) in PAIRS.items()}
        session.run(v1.global_variables_initializer())
        session.run(averages, {placeholder: images})
        weights = {variable.op.name: session.run(variable) for variable in v1.global_variables()}
        original = {
            name: (
                np.concatenate([session.run(answer, {placeholder: image[None]}) for image in images]),
                session.run(answer, {placeholder: images}),
            )
            for name, answer in answers.items()
        }
        if len(sys.argv) > 1:
            outputs = {"z": answers["min-max, no axis"]}
            v1.saved_model.simple_save(session, sys.argv[1], {"images": placeholder}, outputs)
    twin = keras_encoder(weights)
    titles = ("one image", "in eight", "TF1 moves", "Keras moves")
    print(f"{'TensorFlow 1':41}{'Keras':40}{''.join(f'{title:>13}' for title in titles)}")
    for name, (place, _, layer) in PAIRS.items():
        model = keras.Sequential([twin[place], layer])
        single, batch = original[name]
        twin_single = np.concatenate([model(image[None]) for image in images])
        twin_batch = np.asarray(model(images))
        differences = f"{furthest(single, twin_single):13.1e}{furthest(batch, twin_batch):13.1e}"
        moves = f"{furthest(single, batch):13.3f}{furthest(twin_single, twin_batch):13.3f}"
        print(f"{name:41}{spelling(layer):40}{differences}{moves}")


def furthest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between two arrays."""
    return float(np.abs(a - b).max())


def spelling(layer: keras.layers.Layer) -> str:
    """The layer as one writes it."""
    if isinstance(layer, L2Normalization):
        return "L2Normalization()"
    divisor = "" if layer.divisor == "shifted" else f', "{layer.divisor}"'
    return f'MinMaxNormalization("{layer.axis}"{divisor})'


if __name__ == "__main__":
    main()
