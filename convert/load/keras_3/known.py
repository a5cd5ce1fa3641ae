"""What a version of Keras finds by itself, and what of Keras 3 a configuration may name.

Keras takes a function as well where a class is named, and whatever it has under any public name: what downloads, writes
files or changes its settings, too. So names are looked up here first.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

TENSORFLOW_CALLS = ("TFOpLambda", "SlicingOpLambda")
"""Layers of Keras 2 that are a call of TensorFlow, which they store by its name."""

_HARMLESS_UTILS = {"normalize", "to_categorical"}
"""Functions of ``keras.utils`` that compute; others of it download, unpack and write files."""

_WRAPPERS = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__"}
"""What Keras writes tensors, slices and the like as; ``__lambda__`` is bytecode, and ``__typespec__`` names a class."""

_HOMES = ("layers", "initializers", "regularizers", "constraints", "dtype_policies", "mixed_precision")
_UNNAMED = {"Functional", "TensorShape", "CustomScaleLayer", "LayerScale", "StochasticDepth", *TENSORFLOW_CALLS}
"""Classes that Keras writes and exports nowhere."""


@dataclass(frozen=True)
class Library:
    """What a version of Keras finds by itself, so that nobody has to hand it over.

    Attributes:
        has_class: whether it has the class that an object of a configuration names.
        has_function: whether it has a function of this name, in the module that goes with it.
        has_activation: whether it has an activation that is stored by its name alone.
        registered: whether a class of this registered name was handed to it.
    """

    has_class: Callable[[dict[str, Any]], bool]
    has_function: Callable[[str, Any], bool]
    has_activation: Callable[[str], bool]
    registered: Callable[[str], bool]


def _may_be_keras_class(value: dict[str, Any]) -> bool:
    """Whether an object that says where its class is says that Keras 3 has it, or is of one of our layers."""
    kind, module = str(value["class_name"]), value.get("module")
    if kind.startswith("__"):
        return kind in _WRAPPERS
    its_name = str(value.get("registered_name") or kind)
    return its_name.startswith("embedlite>") or str(module).partition(".")[0] == "keras"


def _has_keras_class(value: dict[str, Any]) -> bool:
    """Whether Keras 3, or our layers, have the class of an object."""
    kind, module = str(value["class_name"]), value.get("module")
    if kind in _WRAPPERS:
        return True
    its_name = str(value.get("registered_name") or kind)
    if its_name.startswith("embedlite>"):
        return _registered(its_name)
    if module is None and "registered_name" not in value:
        # The older format names no modules: what Keras does not know by this name is the user's.
        return _is_keras_class(kind)
    return _may_be_keras_class(value) and all(isinstance(found, type) for found in _taken_for(kind, str(module)))


def _taken_for(kind: str, module: str) -> list[Any]:
    """What the readers of Keras 3's formats take for the class of a name: functions, too, and HDF5's calls them.

    A name that none of them knows is an error of theirs.
    """
    from keras.src import api_export, layers

    places = (api_export.get_symbol_from_name(f"{module}.{kind}"), getattr(sys.modules.get(module), kind, None))
    return [found for found in (*places, getattr(layers, kind, None)) if found is not None]


def _is_keras_class(name: str) -> bool:
    import keras

    if name == "Functional":
        return True  # what keras.Model becomes when it is made of layers' outputs; it has no public name
    homes = (keras, keras.layers, keras.initializers, keras.regularizers, keras.constraints, keras.dtype_policies)
    return any(isinstance(getattr(home, name, None), type) for home in homes)


def _is_keras_function(name: str, module: Any) -> bool:
    """Whether Keras finds a function by itself: where its module says, or, for ``builtins``, among its own kinds."""
    import keras

    if module in (None, "builtins"):
        return any(callable(getattr(home, name, None)) for home in (keras.activations, keras.initializers))
    if module == "keras.utils":
        return name in _HARMLESS_UTILS
    home = {"keras.ops": keras.ops, "keras.activations": keras.activations}.get(str(module))
    return callable(getattr(home, name, None))


def _registered(name: str) -> bool:
    import keras

    return keras.saving.get_registered_object(name) is not None


KERAS_3 = Library(_has_keras_class, _is_keras_function, lambda name: True, _registered)
"""Keras 3 and our layers; a name that Keras does not know as an activation is an error of its own."""


@lru_cache
def public(package: str, home: str = "") -> frozenset[str]:
    """The names that a package's folder exports, read from its text: importing it takes TensorFlow's seconds."""
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    try:
        text = Path(places[0], home, "__init__.py").read_text(encoding="utf-8")
    except (IndexError, OSError):
        return frozenset()
    found = (node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom))
    return frozenset(alias.asname or alias.name for node in found for alias in node.names)


def unopened(package: str) -> Library:
    """What ``keras`` or ``tf_keras`` has, told without importing it; rather too much than too little."""

    def has_class(value: dict[str, Any]) -> bool:
        if package == "keras" and ("module" in value or "registered_name" in value):
            return _may_be_keras_class(value)
        kind = str(value["class_name"])
        known = kind.startswith(("__", "embedlite>")) or kind in _UNNAMED
        return known or any(kind in public(package, home) for home in ("", *_HOMES))

    def has_function(name: str, module: Any) -> bool:
        return any(name in public(package, home) for home in (*_HOMES, "activations", "ops", "utils"))

    return Library(has_class, has_function, lambda name: True, lambda name: False)
