"""S2 to S6 and the other endings, in Keras, as their users wrote and saved them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from photos import save_crops, save_reference

HERE = Path(__file__).parent
SIZE, CALIBRATION, TEST = 64, 40, 24
Blocks = tuple[tuple[int, tuple[int, ...]], ...]
"""For each block its filters, and the strides of its convolutions."""
SIX_BLOCKS: Blocks = (*((filters, (1, 1, 2)) for filters in (8, 32, 32, 64, 64)), (128, (1, 1)))
SIX_SHORT: Blocks = (*((filters, (2,)) for filters in (8, 32, 32, 64, 64)), (128, (1,)))
"""Where the ending is the point: what loads, traces and converts a model takes its time by the layer."""
FOUR_SHORT: Blocks = (*((filters, (2,)) for filters in (8, 32, 32)), (64, (1,)))
ANY_BATCH = (None, SIZE, SIZE, 3)
"""What ``fit`` builds a model for; a call builds it for the batch that it got."""


def body(blocks: Blocks) -> list[keras.Sequential]:
    """Blocks of {conv 3x3 -> BN -> ReLU}: twice and, but for the last, a strided one in place of pooling; or short."""
    momentum = 0.5  # Keras' 0.99 would need hundreds of steps to forget where the averages started.
    made = []
    for count, convolutions in blocks:
        block = keras.Sequential()
        for strides in convolutions:
            block.add(layers.Conv2D(count, 3, strides=strides, padding="same", use_bias=False))
            block.add(layers.BatchNormalization(momentum=momentum))
            block.add(layers.ReLU())
        made.append(block)
    return made


settled: dict[Blocks, list[list[np.ndarray]]] = {}
"""The weights of a body, once for all the seeds of a process."""


def settle(blocks: list[keras.Sequential], kind: Blocks, images: np.ndarray) -> None:
    """Give a built body weights as training leaves them: scales and shifts that differ, averages of real images.

    The shifts are mostly positive, so that a ReLU passes more than half of what it gets. Around zero, seventeen layers
    of random weights are chaotic: they amplify any rounding, 8-bit weights alone cost all but 14 dB, and no trained
    encoder is like that.
    """
    if kind not in settled:
        rng = np.random.default_rng(1)
        for layer in (layer for block in blocks for layer in block.layers):
            if isinstance(layer, layers.BatchNormalization):
                layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
                layer.beta.assign(rng.normal(1.0, 0.3, layer.beta.shape))
        for _ in range(10):
            x = images
            for block in blocks:
                x = block(x, training=True)
        settled[kind] = [block.get_weights() for block in blocks]
    for block, weights in zip(blocks, settled[kind], strict=True):
        block.set_weights(weights)


def embedding(size: int, dimensions: int) -> layers.Conv2D:
    """The embedding convolution, over a map of this size."""
    return layers.Conv2D(dimensions, size, padding="valid", name="embedding")


def positive(channels: int) -> layers.Conv2D:
    """A map whose channels have a minimum and a maximum well above zero, so that dividing by the maximum is safe."""
    return layers.Conv2D(channels, 1, activation="relu", bias_initializer=keras.initializers.Constant(4.0))


def s2(folder: Path) -> None:
    """Six blocks, nested, built by the first batch they saw; the plain embedding."""
    save_keras(folder, SIX_BLOCKS, [embedding(2, 128), layers.Flatten()])


def s2_open(folder: Path) -> None:
    """The same, but short, built for images of any size."""
    save_keras(folder, SIX_SHORT, [embedding(2, 128), layers.Flatten()], build=(None, None, None, 3))


def s2_minmax(folder: Path) -> None:
    """The same under the min-max of the TensorFlow 1 code, in a layer of the user's own."""
    from user_layers import BatchMinMax

    save_keras(folder, SIX_SHORT, [embedding(2, 128), layers.Flatten(), BatchMinMax()], raw=tf.identity)


def unbuilt(folder: Path) -> None:
    """S2 saved without ever having been called, so without weights."""
    keras.Sequential([*body(SIX_BLOCKS), embedding(2, 128), layers.Flatten()]).save(folder / "model.keras")


def s3(folder: Path) -> None:
    """Embedding convolution, reshape and min-max in one layer of the user's own."""
    from user_layers import EmbeddingHead

    head = EmbeddingHead(128)
    save_keras(folder, SIX_BLOCKS, [head], build=ANY_BATCH, raw=head.raw)


def s3_registered(folder: Path) -> None:
    """The same, but short, registered with Keras; as a SavedModel too."""
    from user_layers import RegisteredHead

    head = RegisteredHead(128)
    model = save_keras(folder, SIX_SHORT, [head], build=ANY_BATCH, raw=head.raw)
    model.export(folder / "exported", verbose=False)


def s4(folder: Path) -> None:
    """A Lambda over the whole map, one row for every place: (64, 48)."""
    from user_functions import norm_original

    save_s4(folder, norm_original)


def s4_bytecode(folder: Path) -> None:
    """The same with a function that has no name, which Keras stores as bytecode."""
    save_s4(folder, lambda x: (tf.reshape(x, (-1, 48)) - tf.reduce_min(x)) / tf.reduce_max(x))


def save_s4(folder: Path, function: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """S4 with this function."""
    ending = [embedding(1, 48), layers.Lambda(function, name="norm_original")]
    save_keras(folder, FOUR_SHORT, ending, raw=lambda x: tf.reshape(x, (-1, 48)))


def s5(folder: Path) -> None:
    """A Lambda over each channel, in the middle: a dense layer follows."""
    from user_functions import norm

    ending = [positive(16), layers.Lambda(norm, name="norm"), layers.Flatten(), layers.Dense(64)]
    save_keras(folder, FOUR_SHORT, ending)


def s6(folder: Path, pooling: Callable[[], layers.Layer]) -> None:
    """The same Lambda with pooling after it."""
    from user_functions import norm

    save_keras(folder, FOUR_SHORT, [positive(48), layers.Lambda(norm, name="norm"), pooling()])


def normalized(folder: Path, make: Callable[[], layers.Layer]) -> keras.Model:
    """One layer after the flattened embedding."""
    ending = [embedding(8, 64), layers.Flatten(), make()]
    return save_keras(folder, FOUR_SHORT, ending, build=ANY_BATCH, raw=tf.identity)


def by_function(folder: Path, name: str) -> None:
    """A Lambda of the user's after the flattened embedding."""
    import user_functions

    normalized(folder, lambda: layers.Lambda(getattr(user_functions, name), name=name))


def formats(folder: Path) -> None:
    """One model, of Keras' own layers, in every other format."""
    model = normalized(folder, layers.UnitNormalization)
    model.save(folder / "legacy.h5")
    model.export(folder / "exported", verbose=False)

    photo = tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, "photo")
    served = tf.function(lambda photo: {"vector": model(photo, training=False)}, input_signature=[photo])
    module = tf.Module()
    module.model = model
    tf.saved_model.save(module, str(folder / "signature"), signatures={"embed": served})

    # Built by a call on a batch of eight, so the SavedModel declares eight images and no other number.
    by_call = keras.Sequential([layers.Conv2D(8, SIZE), layers.Flatten()])
    by_call(np.zeros((8, SIZE, SIZE, 3), np.float32))
    by_call.save(folder / "eight.keras")
    by_call.export(folder / "eight", verbose=False)

    Path(folder, "float.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def save_keras(
    folder: Path,
    kind: Blocks,
    ending: list[layers.Layer],
    *,
    build: tuple[int | None, ...] | None = None,
    raw: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> keras.Model:
    """Build and save ``model.keras``, with its images, its answers and the user's own code.

    Args:
        folder: where to.
        kind: the blocks of the body.
        ending: the layers after it; the last is the normalization, if ``raw`` is given.
        build: the shape it is built for; without it, the first batch builds it.
        raw: the raw embedding from what reaches the normalization.
    """
    calibration, test = save_crops(folder, SIZE, CALIBRATION, TEST)
    blocks = body(kind)
    model = keras.Sequential([*blocks, *ending], name="encoder")
    if build is not None:
        model.build(build)
    model(calibration[:8])
    settle(blocks, kind, calibration)

    # Traced once, not for each size of a batch.
    @tf.function(input_signature=[tf.TensorSpec(ANY_BATCH, tf.float32)])
    def answer(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in model.layers[:-1]:
            x = layer(x, training=False)
        answers = {"embeddings": model.layers[-1](x)}
        return answers if raw is None else {**answers, "raw": raw(x)}

    save_reference(folder, calibration, test, answer)
    model.save(folder / "model.keras")
    for name in ("user_layers.py", "user_functions.py"):
        shutil.copy(HERE / name, folder)
    return model
