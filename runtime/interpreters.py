"""Finding a TFLite interpreter and opening a model in it.

Two packages offer one: ``ai-edge-litert`` (maintained) and ``tflite-runtime`` (its ancestor, still on many
devices). Their classes are alike; what differs is what goes wrong, and that is handled here. A third, ``tflite-micro``,
is the interpreter of microcontrollers; it is there to check files for them and used only when it is asked for.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import micro
from .errors import InterpreterFailedError, NoInterpreterError, RequestError
from .flatbuffer import NPU_OPERATOR, read_flatbuffer

RUNTIMES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
"""Distribution name to module, in the order in which they are tried."""

MICRO_RUNTIME = "tflite-micro"
"""Never tried, only used by this name; :mod:`.micro` makes it look like the others."""

_INSTALL = {
    "ai-edge-litert": "pip install ai-edge-litert",
    "tflite-runtime": "pip install 'tflite-runtime==2.14.0' 'numpy<2'",
    MICRO_RUNTIME: "pip install tflite-micro",
}

RUNTIME_VARIABLE = "EMBEDLITE_RUNTIME"
"""Environment variable that names the one runtime to use instead of the first that works."""


@dataclass(frozen=True)
class Runtime:
    """An importable interpreter package: its distribution name, its version and its module."""

    name: str
    version: str
    module: Any


def find_runtime(name: str | None = None) -> Runtime:
    """The interpreter package to use.

    Args:
        name: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``; default is ``$EMBEDLITE_RUNTIME``, else the
            first of the first two that works.

    Raises:
        NoInterpreterError: it is not installed, or cannot work with the installed numpy.
        RequestError: the name is unknown.
    """
    name = name or os.environ.get(RUNTIME_VARIABLE)
    if name and name not in _INSTALL:
        raise RequestError(f"unknown runtime {name!r}. Use one of: {', '.join(_INSTALL)}.")
    problems = []
    for candidate in [name] if name else list(RUNTIMES):
        try:
            return _import_runtime(candidate)
        except ImportError as error:
            problems.append(f"{candidate}: {error}")
    raise NoInterpreterError(
        f"no TFLite interpreter can be used ({'; '.join(problems)}). "
        + (
            f"Install it: {_INSTALL[name]}."
            if name
            else f"Install one: {_INSTALL['ai-edge-litert']}, or on an older device: {_INSTALL['tflite-runtime']}."
        )
    )


def _import_runtime(name: str) -> Runtime:
    if name == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
        # It imports with numpy 2 and only dies inside Interpreter(), with a message about _ARRAY_API.
        importlib.metadata.version(name)
        raise ImportError(f"it was built for numpy 1 and numpy {np.__version__} is installed; pip install 'numpy<2'")
    if name == MICRO_RUNTIME:
        importlib.import_module("tflite_micro")
        return Runtime(name, importlib.metadata.version(name), micro)
    module = importlib.import_module(RUNTIMES[name])
    return Runtime(name, importlib.metadata.version(name), module)


def open_interpreter(
    runtime: Runtime,
    model: bytes,
    *,
    threads: int,
    delegate: str | None = None,
    keep_all_tensors: bool = False,
) -> Any:
    """An interpreter with its tensors allocated.

    Args:
        runtime: see :func:`find_runtime`.
        model: a flatbuffer that was checked (see :mod:`.artifact`); the interpreter trusts it blindly.
        threads: threads that one inference may use.
        delegate: path of a delegate's shared library.
        keep_all_tensors: keep every intermediate tensor readable after an inference.

    Raises:
        InterpreterFailedError: the interpreter or the delegate refused.
        RequestError: TFLite Micro was asked for what it does not have.
    """
    if runtime.name == MICRO_RUNTIME and (delegate is not None or keep_all_tensors):
        wanted = "delegates" if delegate is not None else "intermediate tensors to read"
        raise RequestError(
            f"{runtime.name} has no {wanted}. Use another interpreter: leave ${RUNTIME_VARIABLE} unset, or leave "
            "the delegate out."
        )
    options: dict[str, Any] = {"num_threads": threads}
    if keep_all_tensors:
        options["experimental_preserve_all_tensors"] = True
    if delegate is not None:
        try:
            # LiteRT's own Delegate object prints a traceback of its destructor when the library is not there.
            ctypes.CDLL(delegate)
            options["experimental_delegates"] = [runtime.module.load_delegate(delegate)]
        except (ValueError, OSError) as error:
            raise InterpreterFailedError(
                f"the delegate {delegate} could not be loaded ({str(error).strip() or 'no reason given'}). Check the "
                "path and that the device is attached, or leave the delegate out; nothing falls back silently."
            ) from error
    try:
        with warnings.catch_warnings():
            # LiteRT warns that keeping tensors is for debugging; calibration is what it is needed for here.
            warnings.simplefilter("ignore")
            interpreter = runtime.module.Interpreter(model_content=model, **options)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise InterpreterFailedError(
            f"{runtime.name} {runtime.version} refuses the model: {str(error).strip().rstrip('.')}. {_way_out(model)}"
        ) from error
    return interpreter


def _way_out(model: bytes) -> str:
    if any(operator.name == NPU_OPERATOR for operator in read_flatbuffer(model).operators):
        return (
            "The file was compiled for an Arm Ethos-U NPU: run it there, or use the .tflite that it was compiled from."
        )
    return "Update the interpreter, or export the model in another mode (float32 runs everywhere)."


def available_threads() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
