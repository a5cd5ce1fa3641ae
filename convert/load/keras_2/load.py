"""Loading a file of Keras 2 by tf-keras; nothing runs that is not Keras', ours, or handed over by the user."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ....runtime.errors import ModelLimitError
from ...errors import ModelLoadError
from ..archive import write_copy
from ..bounds.variables import as_many_as_stored
from ..custom_code import REPLACEMENTS, Need, bring_code, find_needs
from ..foreign import reason
from .known import KERAS_2, harden


def is_installed() -> bool:
    """Whether tf-keras can be imported."""
    return importlib.util.find_spec("tf_keras") is not None


def load_keras_2(path: Path, config: dict[str, Any], offered: Mapping[str, Any], replaced: Mapping[str, str]) -> Any:
    """The ``tf_keras.Model`` of a file of Keras 2.

    Args:
        path: the file, which was looked into.
        config: its configuration; it is edited.
        offered: the user's classes and functions, by name.
        replaced: layer name to the kind of layer that takes a Lambda's place.

    Raises:
        CustomCodeError: it needs code that nobody handed over.
        ModelLoadError: Keras 2 cannot build it, or it calls functions that do more than compute.
    """
    import tf_keras
    from tf_keras.src.saving.serialization_lib import SafeModeScope

    needs = find_needs(config, KERAS_2)
    custom = bring_code(path, needs, offered, replaced, KERAS_2)
    for need in needs:
        if need.kind == "Lambda":
            custom |= _name_function(need, custom, replaced.get(need.layer))
    harden(path, config)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder, warnings.catch_warnings(), SafeModeScope(True):
        # tf-keras' advice on how the model might have been written comes too late here.
        warnings.simplefilter("ignore")
        try:
            copy = write_copy(path, config, Path(folder))
            with as_many_as_stored(path):
                return tf_keras.models.load_model(copy, custom_objects=custom, compile=False)
        except ModelLimitError:
            raise
        except Exception as error:
            # Keras has no error classes of its own for this: ValueError, TypeError and others, each with pages of text.
            raise ModelLoadError(
                f"{path} cannot be loaded by tf-keras {tf_keras.__version__}: {reason(error)}. Load it where it "
                "was made, and export it as a SavedModel: model.export('folder')."
            ) from error


def _name_function(need: Need, custom: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """Make a Lambda ask for a function by name, in the form that Keras 2 reads; and that function, by its name."""
    name = need.wanted[0] if kind is None else f"embedlite>{need.layer}"
    function = custom[name] if kind is None else _as_function(kind)
    kept = {key: need.item[key] for key in ("name", "trainable", "dtype") if key in need.item}
    arguments = {} if kind else need.item.get("arguments") or {}
    need.item.clear()
    need.item.update(
        **kept,
        arguments=arguments,
        function=name,
        function_type="function",
        module=None,
        output_shape=None,
        output_shape_type="raw",
        output_shape_module=None,
    )
    return {name: function}


def _as_function(kind: str) -> Callable[[Any], Any]:
    """One of our layers, which are Keras 3's, as a function of a tensor."""
    from ... import layers

    name, settings = REPLACEMENTS[kind]
    layer = getattr(layers, name).from_config(dict(settings))

    def call(inputs: Any) -> Any:
        return layer(inputs)

    return call
