"""Models that answer differently each time they are called: random layers, and such as count, on at inference."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ConversionError
from .graph_def import nodes_of

_CALLS = 5
"""A random flip leaves an image as it is half of the time."""

_CHANGING = re.compile(r"Random|RngReadAndSkip|Multinomial|Assign\w*VariableOp|ResourceScatter")
_SCOPES = re.compile(
    r"(stateless|stateful)_\w+|random_(uniform|normal|gamma|shuffle)\w*|cond|while|StatefulPartitionedCall"
)
_RANDOM_LAYERS = re.compile(
    r"(Spatial|Gaussian|Alpha)?Dropout([123]D)?|GaussianNoise|Random[A-Z]\w*|StochasticDepth|RandAugment|AugMix|MixUp|CutMix"
)


def changing_layers(traced: Any) -> tuple[str, ...]:
    """The layers of a traced model that draw random numbers or write to variables, in its order."""
    nodes = nodes_of(traced.graph.as_graph_def())
    return tuple(dict.fromkeys(_layer(node.name) for node in nodes if _CHANGING.search(node.op)))


def _layer(operation: str) -> str:
    """The layer that an operation is of: the innermost scope that is not TensorFlow's own, or itself."""
    scopes = [name for name in operation.split("/")[:-1] if not _SCOPES.fullmatch(name)]
    return scopes[-1] if scopes else operation


def is_still(traced: Any, spec: Any) -> bool:
    """Whether a traced model answers the same to the same input, a few times over."""
    import tensorflow as tf

    values = np.random.default_rng(0).random(spec.shape.as_list(), np.float32)

    def answers_alike(image: Any) -> bool:
        first = np.asarray(traced(image))
        return all(np.array_equal(first, np.asarray(traced(image)), equal_nan=True) for _ in range(_CALLS - 1))

    # Values up to 1 are all zero to a model that takes integers, and others may be too large for what takes those.
    return all(answers_alike(tf.constant(scale * values)) for scale in (1, 255))


def quieten(model: Any) -> Callable[[], tuple[str, ...]]:
    """A function that has the random layers of a Keras model do what they do at inference, and returns their names."""

    def still() -> tuple[str, ...]:
        found = [layer for layer in model._flatten_layers() if _RANDOM_LAYERS.fullmatch(type(layer).__name__)]
        for layer in found:
            layer.call = functools.partial(_at_inference, layer.call)
        return tuple(layer.name for layer in found)

    return still


def _at_inference(call: Callable[..., Any], inputs: Any, **settings: Any) -> Any:
    return call(inputs, **{**settings, "training": False})


def not_still(name: str, layers: tuple[str, ...], *, keras: bool) -> ConversionError:
    """The error for a model that changes; ``keras``: it is one of Keras, whose own layers were taken out."""
    save = (
        "Save the Keras model itself, model.save('model.keras'), and pass that file: such layers of Keras are taken "
        "out there, and recurrent ones with stateful=True have to be built without it. "
    )
    return ConversionError(
        f"{name} gives another embedding each time it is called: {', '.join(layers)} draw(s) random numbers or "
        f"change(s) variables at inference, as in training. {'' if keras else save}Layers of your own have to ask for "
        "training, and what is not a Keras model has to be saved without such operations."
    )
