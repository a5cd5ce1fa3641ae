"""From a Keras model to the float TFLite graph: the one time that TensorFlow's converter runs.

The model is traced with a fixed batch of one, its variables are frozen into constants, and the frozen function is
saved and converted. Freezing first is what makes it fast: a SavedModel with variables takes three times as long to
write and convert, and ``from_concrete_functions`` would leave the variables out of the file altogether.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConversionError, ModelShapeError
from .graph import Graph
from .load import LoadedModel

INPUT_NAME = "image"
OUTPUT_NAME = "embedding"


@dataclass(frozen=True)
class LoweredModel:
    """The float graph, and the original it was made from.

    Attributes:
        flatbuffer: a TFLite file with batch 1, one signature, input ``image`` and output ``embedding``.
        reference: the Keras model at batch 1: (H, W, C) float32 to the output without the batch axis.
    """

    flatbuffer: bytes
    reference: Callable[[NDArray[np.float32]], NDArray[np.float32]]


def lower(loaded: LoadedModel) -> LoweredModel:
    """Convert a loaded Keras model.

    Raises:
        ConversionError: TensorFlow cannot express the model in TFLite's own operators.
        ModelShapeError: its output is no embedding.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    traced, spec = trace(loaded)
    frozen = convert_variables_to_constants_v2(traced)
    signature = tf.function(lambda image: {OUTPUT_NAME: frozen(image)[0]}, autograph=False).get_concrete_function(spec)
    module = tf.Module()
    module.frozen = frozen
    # Gradients (swish has one of its own) are of no use on a device, and saving them fails on a frozen function.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        try:
            tf.saved_model.save(module, folder, {"serving_default": signature}, options)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            flatbuffer = bytes(converter.convert())
        except Exception as error:
            # ConverterError derives from Exception directly, and its first line is the useful one.
            reason = str(error).strip().splitlines()
            raise ConversionError(
                f"TensorFlow cannot convert the model: {reason[0] if reason else type(error).__name__}. "
                "Replace the operation that is named there by one that TFLite has; -v shows all that TensorFlow says."
            ) from error
    _check_graph(flatbuffer)
    return LoweredModel(flatbuffer, keras_reference(traced))


def _check_graph(flatbuffer: bytes) -> None:
    """Refuse what is no plain feed-forward graph: loops, branches and state, as recurrent layers have them."""
    graph = Graph(flatbuffer)
    stateful = [graph.tensor_name(i) for i, tensor in enumerate(graph.subgraph.tensors) if tensor.isVariable]
    if len(graph.model.subgraphs) > 1 or stateful:
        raise ConversionError(
            "the model has loops, branches or state (a recurrent layer, for instance), and an image encoder here is "
            "one feed-forward graph. Export the part of it that is."
        )


def trace(loaded: LoadedModel) -> tuple[Any, Any]:
    """The model as a concrete function of one image, and that image's TensorSpec.

    Raises:
        ModelShapeError: the output is no vector or list of vectors of floats, or the model refuses the shape.
    """
    import tensorflow as tf

    spec = tf.TensorSpec((1, *loaded.input_shape), tf.float32, name=INPUT_NAME)
    function = tf.function(lambda image: loaded.model(image, training=False), autograph=False)
    try:
        traced = function.get_concrete_function(spec)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        reason = str(error).strip().splitlines()
        raise ModelShapeError(
            f"the model cannot be called on one float image of shape {loaded.input_shape}: {reason[0]}. "
            "Check --input-shape."
        ) from error
    outputs = tf.nest.flatten(traced.structured_outputs)
    if len(outputs) != 1:
        raise ModelShapeError(
            f"the model has {len(outputs)} outputs; an encoder gives one embedding. Save a keras.Model with one output."
        )
    shape = outputs[0].shape.as_list()
    if len(shape) not in (2, 3) or None in shape or outputs[0].dtype != tf.float32:
        raise ModelShapeError(
            f"the model's output is {outputs[0].dtype.name} of shape {tuple(shape)}, which is no embedding: expected "
            "float32 (1, D) or (1, rows, D). Flatten or pool it in the model"
            + (", and give its layers the dtype float32." if outputs[0].dtype != tf.float32 else ".")
        )
    return traced, spec


def keras_reference(traced: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A traced model as a plain function on one (H, W, C) float32 image."""
    import tensorflow as tf

    def embed(image: NDArray[np.float32]) -> NDArray[np.float32]:
        values = tf.nest.flatten(traced(tf.constant(image[None])))[0].numpy()
        return np.asarray(values[0] if values.shape[0] == 1 else values, np.float32)

    return embed
