"""TFLite Micro behind the methods that this package uses of a TFLite interpreter.

It is the interpreter of microcontrollers, here as the PyPI package ``tflite-micro``: reference kernels, one thread,
no delegates, and all memory from one arena of fixed size. What differs from its relatives is handled here:

- The arena's size has to be given. An interpreter is opened in an ample one (memory that is never touched costs
  nothing); what the model really needs is in the allocator's report, see :attr:`Interpreter.arena_bytes`. Arenas much
  too small are never tried: the C++ code can crash in them instead of refusing.
- What is wrong with a model is printed from C++ to stderr and nowhere else. It is caught there for the error.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InterpreterFailedError
from ..model.flatbuffer import ModelInfo, TensorInfo, read_flatbuffer

_STDERR = 2
_LOCK = threading.Lock()
_LARGEST_ITEM = 8
_LARGEST_ARENA = 1 << 34
_ALIGNMENT = 16


class Interpreter:
    """One model in TFLite Micro; tensors are numbered by their position among the inputs or the outputs.

    Args:
        model_content: a flatbuffer that was checked.
        num_threads: accepted for the likeness with other interpreters; it always runs on one thread.
        arena_size: bytes of the arena; default ample.

    Raises:
        RuntimeError: the model cannot be allocated, with what TFLite Micro printed about it.
    """

    def __init__(self, model_content: bytes, num_threads: int = 1, *, arena_size: int | None = None) -> None:
        self._model, self._info = model_content, read_flatbuffer(model_content)
        self._arena_bytes: int | None = None
        ample = _ample_arena(model_content, self._info)
        *growing, last = (arena_size,) if arena_size else (ample, 4 * ample, 16 * ample)
        for size in growing:
            with contextlib.suppress(_ArenaTooSmallError):
                self._arena_size, self._interpreter = size, _open(self._model, self._info, size)
                return
        self._arena_size, self._interpreter = last, _open(self._model, self._info, last)

    def allocate_tensors(self) -> None:
        """Nothing: TFLite Micro allocates when it opens a model."""

    def get_input_details(self) -> list[dict[str, Any]]:
        """As in TFLite: ``name``, ``index``, ``shape``, ``dtype`` and ``quantization`` (scale, zero point)."""
        get = self._interpreter.get_input_details
        return [_details(get(index), index, tensor) for index, tensor in enumerate(self._info.inputs)]

    def get_output_details(self) -> list[dict[str, Any]]:
        """As :meth:`get_input_details`."""
        get = self._interpreter.get_output_details
        return [_details(get(index), index, tensor) for index, tensor in enumerate(self._info.outputs)]

    def set_tensor(self, index: int, value: NDArray[Any]) -> None:
        """Set an input, by its position; ValueError if shape or dtype are others than the model's."""
        self._interpreter.set_input(value, index)

    def invoke(self) -> None:
        """Run the model.

        Raises:
            RuntimeError: it failed, with what TFLite Micro printed about it.
        """
        with _errors_from_stderr():
            self._interpreter.invoke()

    def get_tensor(self, index: int) -> NDArray[Any]:
        """A copy of an output, by its position."""
        return np.array(self._interpreter.get_output(index))

    @property
    def arena_bytes(self) -> int:
        """The smallest arena in which the model was seen to allocate, in bytes.

        It is what the allocator reports it used, proved by opening the model in an arena of that size. It holds for
        this package on this machine, whose pointers have 64 bits: structures are smaller on a 32-bit
        microcontroller, but optimized kernels may ask for scratch memory of their own.
        """
        if self._arena_bytes is None:
            size = self._reported_bytes()
            while size < self._arena_size:
                with contextlib.suppress(RuntimeError):
                    _open(self._model, self._info, size)
                    break
                # Temporary memory while allocating may exceed what is in use afterwards.
                size += max(size // 100 // _ALIGNMENT, 1) * _ALIGNMENT
            self._arena_bytes = min(size, self._arena_size)
        return self._arena_bytes

    def _reported_bytes(self) -> int:
        with _caught_stderr() as caught:
            self._interpreter.print_allocations()
        match = re.search(r"Arena allocation total (\d+) bytes", caught.text)
        if match is None:
            raise InterpreterFailedError(
                f"the allocation report of the installed tflite-micro names no total ({caught.text[:200]!r})."
            )
        return int(match[1])


class _ArenaTooSmallError(RuntimeError):
    """The arena was exhausted."""


class _Caught:
    text = ""


@contextlib.contextmanager
def _caught_stderr() -> Iterator[_Caught]:
    """Collect what C++ prints to stderr; one thread at a time, because the descriptor is the process's."""
    caught = _Caught()
    with _LOCK:
        memory, kept = os.memfd_create("embedlite-stderr"), os.dup(_STDERR)
        os.dup2(memory, _STDERR)
        try:
            yield caught
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            with os.fdopen(memory, "rb") as file:
                file.seek(0)
                caught.text = file.read().decode(errors="replace")


@contextlib.contextmanager
def _errors_from_stderr() -> Iterator[None]:
    """Put what was printed into the RuntimeError if there is one; print it after all if not."""
    caught = None
    try:
        with _caught_stderr() as caught:
            yield
    except RuntimeError as error:
        lines = [line.strip().rstrip(".") for line in caught.text.splitlines()] if caught else []
        text = "; ".join(dict.fromkeys(line for line in lines if line)) or str(error)
        raise (_ArenaTooSmallError if "missing: " in text else RuntimeError)(text) from error
    if caught.text:
        os.write(_STDERR, caught.text.encode())


def _open(model: bytes, info: ModelInfo, arena_size: int) -> Any:
    # Not at the top: a device that runs another interpreter has no tflite-micro.
    from tflite_micro import runtime

    try:
        with _errors_from_stderr():
            return runtime.Interpreter.from_bytes(model, arena_size=arena_size)
    except MemoryError as error:
        raise RuntimeError(f"there is no memory for an arena of {arena_size} bytes") from error
    except _ArenaTooSmallError:
        raise
    except RuntimeError as error:
        raise RuntimeError(_reason(info) + str(error)) from error


def _ample_arena(model: bytes, info: ModelInfo) -> int:
    """More than models are known to need: all activations at once at eight bytes a value, and room for the rest."""
    values = sum(max(0, math.prod(tensor.shape)) for tensor in info.tensors if not tensor.constant)
    size = min((1 << 20) + len(model) + _LARGEST_ITEM * values, _LARGEST_ARENA)
    # The allocator takes from both ends; an end that is not aligned would count as used.
    return size // _ALIGNMENT * _ALIGNMENT


def _reason(info: ModelInfo) -> str:
    """Why the file's mode cannot be allocated, to stand before what was printed; empty if the mode is not why."""
    activations = {tensor.dtype for tensor in info.tensors if not tensor.constant}
    weights = {tensor.dtype for tensor in info.tensors if tensor.constant}
    if "float16" in weights:
        return "TFLite Micro cannot allocate float16 weights: "
    if "int8" in weights and not activations & {"int8", "int16"}:
        return "TFLite Micro cannot allocate a dynamic file (int8 weights between float activations): "
    return ""


def _details(details: dict[str, Any], index: int, tensor: TensorInfo) -> dict[str, Any]:
    scales = details["quantization_parameters"]["scales"]
    zero_points = details["quantization_parameters"]["zero_points"]
    return {
        "name": tensor.name,
        "index": index,
        "shape": details["shape"],
        "dtype": details["dtype"],
        "quantization": (float(scales[0]), int(zero_points[0])) if len(scales) else (0.0, 0),
    }
