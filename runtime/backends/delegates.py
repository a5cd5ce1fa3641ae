"""Delegates: shared libraries that run a model's operators somewhere else, such as on an accelerator."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from ..errors import DelegateError, DelegateLoadError
from ..model.flatbuffer import read_flatbuffer

_FUNCTIONS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
"""What a library has to export; see TensorFlow Lite's ``external_delegate_interface.h``."""


def load_delegate(runtime: Any, path: str, options: Mapping[str, str] | None) -> Any:
    """A delegate from its shared library.

    Args:
        runtime: the :class:`embedlite.runtime.backends.interpreters.Runtime` that will use it.
        path: the library, by its path or by a name that the system's loader finds.
        options: what the delegate's own documentation says.

    Raises:
        DelegateLoadError: the library is not there or no delegate, or it refuses, for instance without its device.
    """
    try:
        # Looked at first: the interpreters' own classes print tracebacks of their destructors when this fails.
        library = ctypes.CDLL(path)
        missing = [name for name in _FUNCTIONS if not hasattr(library, name)]
        if missing:
            raise DelegateLoadError(
                f"{path} is not a TFLite delegate: it exports no {missing[0]}. Pass the delegate's own library, such "
                "as libedgetpu.so.1."
            )
        return runtime.module.load_delegate(path, dict(options or {}))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise DelegateLoadError(
            f"the delegate {path} could not be loaded ({reason}). Check the path, the delegate's options and that the "
            "device is attached, or leave the delegate out; nothing falls back silently."
        ) from error


def refuse_idle_delegate(interpreter: Any, model: bytes, path: str) -> None:
    """Refuse a delegate that took no operator: all would run on the processor, and nobody would know.

    Args:
        interpreter: opened with the delegate, tensors not yet allocated.
        model: the flatbuffer.
        path: the delegate's library.

    Raises:
        DelegateError: it took none.
    """
    # A delegate that takes operators adds one node for every group of them; the others stay listed.
    operators = len(read_flatbuffer(model).operators)
    if len(interpreter._get_ops_details()) <= operators:
        raise DelegateError(
            f"the delegate {path} took none of the model's {operators} operators: all of them would run on the "
            "processor. Compile or export the model as the delegate's documentation asks (most take int8 models "
            "only), or leave the delegate out."
        )
