"""What Keras 2 may build from a configuration: its own layers, and functions that compute, by their names.

tf-keras imports whatever module a configuration names and takes any class or function of it. So every object is looked
up here, in lists of what Keras has publicly, and afterwards says the module in which Keras has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import ModelLoadError
from ..keras_3.known import TENSORFLOW_CALLS, Library

_HOMES = ("layers", "initializers", "regularizers", "constraints")
_READERS = ("DenseFeatures", "IntegerLookup", "StringLookup", "TextVectorization")
"""Layers that may read files, and that no image or signal goes through."""

_INSIDE = {
    "Functional": "tf_keras.src.engine.functional",
    "Model": "keras",
    "Sequential": "keras",
    "Policy": "keras.mixed_precision",
    **dict.fromkeys(TENSORFLOW_CALLS, "tf_keras.src.layers.core.tf_op_layer"),
    "CustomScaleLayer": "tf_keras.src.applications.inception_resnet_v2",
    "LayerScale": "tf_keras.src.applications.convnext",
    "StochasticDepth": "tf_keras.src.applications.convnext",
}
"""Classes that Keras writes and has no public layer for, with their modules."""

_VALUES = ("__tensor__", "__numpy__", "__bytes__", "__tuple__", "__ellipsis__", "TensorShape")
"""Wrapped constants, as which no class is looked up."""

_MODULES = ("keras", "tf_keras", "tensorflow", "builtins")

_PURE = re.compile(
    r"(compat\.v1\.)?("
    r"(math|nn|linalg|signal|bitwise|dtypes|image|random|__operators__)\.\w+"
    r"|abs|add|add_n|argmax|argmin|argsort|boolean_mask|broadcast_to|cast|clip_by_norm|clip_by_value|concat|constant"
    r"|convert_to_tensor|cumsum|divide|einsum|ensure_shape|equal|exp|expand_dims|eye|fill|floor|gather|gather_nd|greater"
    r"|greater_equal|identity|less|less_equal|linspace|logical_and|logical_not|logical_or|matmul|maximum|meshgrid|minimum"
    r"|multiply|negative|norm|not_equal|one_hot|ones|ones_like|pad|pow|range|rank|realdiv|reduce_all|reduce_any"
    r"|reduce_logsumexp|reduce_max|reduce_mean|reduce_min|reduce_prod|reduce_sum|repeat|reshape|reverse|roll|round"
    r"|scalar_mul|sequence_mask|shape|sigmoid|sign|sin|cos|tan|size|slice|sort|space_to_batch|split|sqrt|square|squeeze"
    r"|stack|stop_gradient|strided_slice|subtract|tanh|tensordot|tile|transpose|truediv|unstack|where|zeros|zeros_like"
    r"|keras\.backend\.\w+|keras\.activations\.\w+)"
)
"""Functions of TensorFlow's that compute; others of it read and write files, load models and run Python."""

_IMPURE = re.compile(r".*\.(fixed_unigram_candidate_sampler|(batch_)?set_(?!diag)\w+|clear_session)")
"""Those beside them that read a vocabulary's file, or change the settings of the process."""


@lru_cache(maxsize=1)
def _classes() -> dict[str, str]:
    """The classes that a configuration may name, with the module that Keras 2 has each in."""
    import tf_keras

    found = dict(_INSIDE)
    for home in _HOMES:
        module = getattr(tf_keras, home)
        names = (name for name in dir(module) if isinstance(getattr(module, name), type) and name not in _READERS)
        found |= {name: f"keras.{home}" for name in names if name not in found}
    return found


def _has_class(value: dict[str, Any]) -> bool:
    kind, module = str(value["class_name"]), value.get("module")
    if kind in _VALUES:
        return True
    if kind not in _classes():
        return False
    registered = value.get("registered_name")
    its_own = registered in (None, kind, f"Custom>{kind}")
    return its_own and (module is None or str(module).partition(".")[0] in _MODULES)


def _functions(home: str) -> set[str]:
    import tf_keras

    module = getattr(tf_keras, home)
    names = (name for name in dir(module) if not name.startswith("_") and name not in ("get", "serialize"))
    return {name for name in names if callable(getattr(module, name)) and name != "deserialize"}


def _has_activation(name: str) -> bool:
    return name in _functions("activations") or name in _classes() or name in ("silu", "leaky_relu", "log_softmax")


def _has_function(name: str, module: Any) -> bool:
    if str(module or "builtins").partition(".")[0] not in _MODULES:
        return False
    return any(name in _functions(home) for home in ("activations", *_HOMES[1:]))


KERAS_2 = Library(_has_class, _has_function, _has_activation, lambda name: False)


def harden(path: Path, config: dict[str, Any]) -> None:
    """Refuse calls of TensorFlow that do more than compute, and say of every object where Keras has it, in place.

    Args:
        path: the model file, for the message.
        config: a configuration whose needs are met.

    Raises:
        ModelLoadError: there is such a call.
    """
    for value in list(_objects(config)):
        # An optimizer and its losses are built from names as well, and mean nothing here.
        value.pop("compile_config", None)
        kind, settings = str(value.get("class_name")), value.get("config")
        if kind in TENSORFLOW_CALLS:
            symbol = str(settings.get("function") if isinstance(settings, dict) else None)
            if _IMPURE.fullmatch(symbol) or not _PURE.fullmatch(symbol):
                raise ModelLoadError(
                    f"{path} was refused: its layer {settings.get('name') if isinstance(settings, dict) else kind!r} "
                    f"calls tf.{symbol}, which is not among the functions that only compute. Build that part of layers "
                    "of Keras and save the model again."
                )
        for key, item in value.items():
            if isinstance(item, dict) and item.get("class_name") == "function" and isinstance(item.get("config"), str):
                # By its name alone, a function is looked for among Keras' own of that kind and those handed over.
                value[key] = item["config"]
        if "module" not in value or "class_name" not in value or kind in _VALUES:
            continue
        if _has_class(value):
            value.update(module=_classes()[kind], registered_name=None)
        else:
            # What was handed over is found by its registered name, before any module is.
            value["module"] = None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item)
