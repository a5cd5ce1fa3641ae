"""What a user keeps beside a model: layers of their own, rewritten by hand from TensorFlow 1 code."""

import keras
import tensorflow as tf


class BatchMinMax(keras.layers.Layer):
    """``e = e - min(e); z = e / max(e)``, with no axis, as it stood in the session's graph."""

    def call(self, e):
        e = e - tf.reduce_min(e)
        return e / tf.reduce_max(e)


class EmbeddingHead(keras.layers.Layer):
    """The embedding convolution over the whole map, the reshape, and the min-max."""

    def __init__(self, dimensions: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.dimensions = dimensions

    def build(self, input_shape) -> None:
        self.embedding = keras.layers.Conv2D(self.dimensions, input_shape[1:3], padding="valid", name="embedding")
        self.embedding.build(input_shape)
        super().build(input_shape)

    def raw(self, x):
        """The embedding before it is normalized."""
        return tf.reshape(self.embedding(x), (-1, self.dimensions))

    def call(self, x):
        e = self.raw(x)
        e = e - tf.reduce_min(e)
        return e / tf.reduce_max(e)

    def get_config(self):
        return {**super().get_config(), "dimensions": self.dimensions}


@keras.saving.register_keras_serializable(package="mine")
class RegisteredHead(EmbeddingHead):
    """The same, by a user who has read Keras' guide to saving."""
