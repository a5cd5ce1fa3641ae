"""What a user keeps beside a model: the functions that its Lambda layers name."""

import keras
import tensorflow as tf


def norm_original(x):
    """One row for every place of the map; minimum and maximum are those of the input."""
    e = tf.reshape(x, (-1, x.shape[-1]))
    return (e - tf.reduce_min(x)) / tf.reduce_max(x)


def norm(x):
    """Each channel by itself."""
    return (x - tf.reduce_min(x, axis=(0, 1, 2))) / tf.reduce_max(x, axis=(0, 1, 2))


def unit(x):
    """Length one, as keras.ops has it."""
    return keras.ops.normalize(x, axis=-1)


def unit_tf(x):
    """Length one, spelled out."""
    return x / tf.norm(x, axis=-1, keepdims=True)
