"""Finding a TFLite interpreter and opening a model in it.

Two packages offer one: ``ai-edge-litert`` (maintained) and ``tflite-runtime`` (its ancestor, still on many
devices). Their classes are alike; what differs is what goes wrong, and that is handled here. A third, ``tflite-micro``,
is the interpreter of microcontrollers; it is there to check files for them and used only when it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import (
    DelegateError,
    InterpreterFailedError,
    MissingOperatorError,
    NoInterpreterError,
    RequestError,
)
from ..model.flatbuffer import NPU_OPERATOR, read_flatbuffer
from ..model.operators import OPERATOR_NAMES, first_runtime
from .delegates import load_delegate, refuse_idle_delegate
from .registry import INTERPRETERS, Backend

RUNTIME_VARIABLE = "EMBEDLITE_RUNTIME"
"""Environment variable that names the one runtime to use instead of the first that works."""


@dataclass(frozen=True)
class Runtime:
    """An importable interpreter package: its distribution name and its module."""

    name: str
    module: Any

    @functools.cached_property
    def version(self) -> str:
        """Its version. Reading it takes some milliseconds, which opening a model need not wait for."""
        from importlib.metadata import version

        return version(self.name)


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
    if name and name not in INTERPRETERS:
        raise RequestError(f"unknown runtime {name!r}. Use one of: {', '.join(INTERPRETERS)}.")
    problems = []
    usual = [backend for backend in INTERPRETERS.values() if backend.automatic]
    for backend in [INTERPRETERS[name]] if name else usual:
        try:
            return _import_runtime(backend)
        except ImportError as error:
            problems.append(f"{backend.package}: {error}")
    raise NoInterpreterError(
        f"no TFLite interpreter can be used ({'; '.join(problems)}). "
        + (
            f"Install it: {INTERPRETERS[name].install}."
            if name
            else f"Install one: {', or on an older device: '.join(backend.install for backend in usual)}."
        )
    )


def _import_runtime(backend: Backend) -> Runtime:
    if backend.numpy_below is not None and int(np.__version__.split(".")[0]) >= backend.numpy_below:
        if importlib.util.find_spec(backend.imports) is None:
            raise ImportError(f"No module named {backend.imports!r}")
        built = backend.numpy_below - 1
        raise ImportError(
            f"it was built for numpy {built} and numpy {np.__version__} is installed; pip install "
            f"'numpy<{backend.numpy_below}'"
        )
    importlib.import_module(backend.imports)
    return Runtime(backend.package, importlib.import_module(backend.module))


def open_interpreter(
    runtime: Runtime,
    model: bytes,
    *,
    threads: int,
    delegate: str | None = None,
    delegate_options: Mapping[str, str] | None = None,
    keep_all_tensors: bool = False,
) -> Any:
    """An interpreter with its tensors allocated.

    Args:
        runtime: see :func:`find_runtime`.
        model: a flatbuffer that was checked (see :mod:`embedlite.runtime.model.artifact`); the interpreter trusts it
            blindly.
        threads: threads that one inference may use.
        delegate: path of a delegate's shared library.
        delegate_options: for the delegate.
        keep_all_tensors: keep every intermediate tensor readable after an inference.

    Raises:
        MissingOperatorError: the interpreter lacks an operator that the model needs.
        DelegateError: the delegate cannot be loaded, refused the model, or took none of its operators.
        InterpreterFailedError: the interpreter refused the model for another reason.
        RequestError: TFLite Micro was asked for what it does not have, or options are given without a delegate.
    """
    if INTERPRETERS[runtime.name].plain and (delegate is not None or keep_all_tensors):
        wanted = "delegates" if delegate is not None else "intermediate tensors to read"
        raise RequestError(f"{runtime.name} has no {wanted}. Use another interpreter: leave ${RUNTIME_VARIABLE} unset.")
    options: dict[str, Any] = {"num_threads": threads}
    if keep_all_tensors:
        options["experimental_preserve_all_tensors"] = True
    if delegate is not None:
        options["experimental_delegates"] = [load_delegate(runtime, delegate, delegate_options)]
    elif delegate_options:
        raise RequestError(f"there are delegate options ({', '.join(delegate_options)}) but no delegate. Name one.")
    try:
        with warnings.catch_warnings():
            # LiteRT warns that keeping tensors is for debugging; calibration is what it is needed for here.
            warnings.simplefilter("ignore")
            interpreter = runtime.module.Interpreter(model_content=model, **options)
            if delegate is not None:
                # Before allocate_tensors, which hands to XNNPACK what is left.
                refuse_idle_delegate(interpreter, model, delegate)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise _refusal(runtime, model, delegate, str(error).strip().rstrip(".")) from error
    return interpreter


def _refusal(runtime: Runtime, model: bytes, delegate: str | None, reason: str) -> InterpreterFailedError:
    """Why an interpreter did not open a model, from what its C++ code said."""
    missing = _missing_operator(reason)
    if missing is not None and f"CUSTOM:{missing[0]}" != NPU_OPERATOR:
        return _missing_operator_error(runtime, model, *missing)
    if delegate is not None:
        return DelegateError(
            f"the delegate {delegate} refuses the model on {runtime.name} {runtime.version}: {reason}. Compile or "
            "export the model as the delegate's documentation asks, or leave the delegate out; nothing falls back "
            "silently."
        )
    return InterpreterFailedError(
        f"{runtime.name} {runtime.version} refuses the model: {reason}. {_way_out(model, reason)}"
    )


def _missing_operator(reason: str) -> tuple[str, int] | None:
    """Name and version of the operator that was not found; version 0 for a custom one, or if it was not said."""
    if match := re.search(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'", reason):
        return match[1], int(match[2])
    # The operators of TensorFlow itself, called Flex, have a message of their own.
    if match := re.search(r"unresolved custom op: ([^\s.]+)|Select TensorFlow op.*\((Flex\w+)\)", reason, re.DOTALL):
        return match[1] or match[2], 0
    if match := re.search(r"Op builtin_code out of range: (\d+)", reason):
        number = int(match[1])
        return (OPERATOR_NAMES[number] if number < len(OPERATOR_NAMES) else f"number {number}"), 1
    return None


def _missing_operator_error(runtime: Runtime, model: bytes, name: str, version: int) -> MissingOperatorError:
    installed = f"{runtime.name} {runtime.version}"
    if version == 0:
        return MissingOperatorError(
            f"{installed} lacks the custom operator {name}: no interpreter has it unless it was built with it, or a "
            "delegate brings it. Pass that delegate, or export the model without the operator."
        )
    needed = read_flatbuffer(model).metadata.get("min_runtime_version", b"").rstrip(b"\0").decode("ascii", "replace")
    first = first_runtime(name, version) or needed
    has_it = (
        f"TensorFlow Lite has it since {first}, and so has every ai-edge-litert: pip install ai-edge-litert"
        if first
        else "It is not known which release has it; the newest may: pip install --upgrade ai-edge-litert"
    )
    return MissingOperatorError(
        f"{installed} lacks {name} version {version}, which the model needs. {has_it}, or export the model in another "
        "mode (float32 runs everywhere)."
    )


def _way_out(model: bytes, reason: str) -> str:
    if any(operator.name == NPU_OPERATOR for operator in read_flatbuffer(model).operators):
        return (
            "The file was compiled for an Arm Ethos-U NPU: run it there, or use the .tflite that it was compiled from."
        )
    if missing := re.search(r"Didn't find op for builtin opcode '(\w+)'", reason):
        return f"It has no kernel for {missing[1]}: build the model without it, or run the file on another runtime."
    return "Update the interpreter, or export the model in another mode."


def installed_runtimes() -> list[str]:
    """The interpreter packages that are installed, in the order of preference."""
    return [name for name in INTERPRETERS if installed(name)]


def installed(name: str) -> bool:
    """Whether a package is installed, by the name pip knows it by."""
    return package_version(name) is not None


def package_version(name: str) -> str | None:
    """A package's version, by the name pip knows it by; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
