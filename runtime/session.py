"""One interpreter, with the buffers that feed it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.interpreters import Runtime, open_interpreter
from .errors import InterpreterFailedError
from .input.preprocess import PixelScaler, as_float32, dequantize, quantize, scaled, to_pixels
from .input.values import InputValues
from .model.artifact import Artifact
from .model.contract import Contract

_UINT16 = np.dtype(np.uint16)


class Session:
    """An open interpreter and its buffers; not safe to share between threads.

    Args:
        runtime: see :func:`embedlite.runtime.backends.interpreters.find_runtime`.
        artifact: the file, checked.
        contract: the file's own, or what was assumed of a plain one.
        values: what looks at the inputs' values; shared by the sessions of an encoder.
        threads: threads that one inference may use.
        delegate: path of a delegate's shared library.
        delegate_options: for the delegate.
    """

    def __init__(
        self,
        runtime: Runtime,
        artifact: Artifact,
        contract: Contract,
        values: InputValues,
        *,
        threads: int,
        delegate: str | None,
        delegate_options: Mapping[str, str] | None,
    ) -> None:
        self._runtime, self._contract, self._values = runtime, contract, values
        self._interpreter = open_interpreter(
            runtime, artifact.flatbuffer, threads=threads, delegate=delegate, delegate_options=delegate_options
        )
        source, target = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        self._input_index, self._output_index = source["index"], target["index"]
        self._dtype = np.dtype(source["dtype"])
        self._takes_floats = self._dtype == np.float32
        self._input_scale, self._input_zero_point = source["quantization"]
        if not self._input_scale > 0:
            # Integers that stand for themselves.
            self._input_scale, self._input_zero_point = 1.0, 0
        self._output_scale, self._output_zero_point = target["quantization"]
        shape = contract.input.shape
        self._is_image = contract.input.is_image
        self._scale_pixels = PixelScaler(contract.input, shape[1] if self._is_image else 1)
        # Batch axis included, as the interpreter wants it. Untouched until it is needed, it costs no memory.
        self._floats = np.empty((1, *shape), np.float32)
        self._integers = np.empty((1, *shape), np.uint8)
        self._output_shape = contract.output_shape
        self._output_size = math.prod(contract.output_shape) * contract.normalization.copies
        self._answers_floats = np.dtype(target["dtype"]) == np.float32
        self._finished = contract.normalization.placement != "runtime" and self._answers_floats
        # What five operations on floats do to a pixel, one on bytes may do, or none.
        self._as_it_is = self._is_image and self._dtype == np.uint8 and self._quantizes_to(0)
        self._shifted = self._is_image and self._dtype == np.int8 and self._quantizes_to(128)

    @property
    def arena_bytes(self) -> int | None:
        """See :attr:`.encoder.Encoder.arena_bytes`."""
        return getattr(self._interpreter, "arena_bytes", None)

    def run(self, image: NDArray[Any], *, every_value: bool, ready: bool = False) -> NDArray[np.float32]:
        """The embedding of one input, shaped as the contract says; an array that no later call touches.

        Args:
            image: of the contract's shape, checked by :func:`embedlite.runtime.input.shapes.check_one`.
            every_value: look at every value of a large input, and not only at some rows of it.
            ready: whether floats are model-ready, whatever the input is.

        Raises:
            InputValueError: NaN or infinity among floats, or of an image integers outside 0-255.
            InterpreterFailedError: the interpreter gave up.
        """
        tensor = self._prepare(image, every_value, ready)
        try:
            self._interpreter.set_tensor(self._input_index, tensor)
            self._interpreter.invoke()
            values = self._interpreter.get_tensor(self._output_index)
        except (RuntimeError, ValueError, IndexError) as error:
            raise InterpreterFailedError(
                f"{self._runtime.name} {self._runtime.version} failed while running the model: {str(error).strip()}. "
                "Update the interpreter, or export the model in another mode."
            ) from error
        if values.size != self._output_size:
            raise InterpreterFailedError(
                f"{self._runtime.name} {self._runtime.version} answered {values.size:,} values, where the file "
                f"declares the shape {self._output_shape}. The file is damaged; get it again from where it was made."
            )
        # A sum of squares is quick, and finite unless a value is not or all are huge.
        if self._answers_floats and not math.isfinite(np.vdot(values, values)):
            self._values.explain_non_finite(image, values)
        if self._finished:
            embedding: NDArray[np.float32] = values.reshape(self._output_shape)
            return embedding
        return self._finish(values).reshape(self._output_shape)

    def _finish(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """What the file leaves to be done: the normalization, or one multiplication."""
        spec = self._contract.normalization
        if spec.placement == "runtime":
            from .input.normalize import normalize, normalize_quantized

            if self._answers_floats:
                return normalize(values, spec)
            return normalize_quantized(values, self._output_scale, self._output_zero_point, spec)
        return dequantize(values, self._output_scale, self._output_zero_point)

    def _prepare(self, image: NDArray[Any], every_value: bool, is_ready: bool) -> NDArray[Any]:
        """The input tensor's content, batch axis included; often one of the buffers."""
        if image.dtype.kind == "f" or not self._is_image:
            ready = as_float32(image) if self._is_image or is_ready else scaled(image, self._contract.input)
            # What is rounded to eight bits leaves no NaN in the vector to be found afterwards.
            self._values.check_floats(ready, every_value=every_value or not self._takes_floats)
            if self._takes_floats:
                return ready[None]
            return self._quantize(ready[None])
        if image.dtype == _UINT16:
            self._values.check_wide(image)
        pixels = to_pixels(image)
        self._values.check_pixels(pixels)
        if self._as_it_is:
            # Its scale and zero point say the same as mean and std.
            return pixels[None]
        if self._shifted:
            return np.bitwise_xor(pixels, np.uint8(128), out=self._integers[0])[None].view(np.int8)
        self._scale_pixels(pixels, self._floats[0])
        return self._floats if self._takes_floats else self._quantize(self._floats)

    def _quantize(self, values: NDArray[np.float32]) -> NDArray[Any]:
        return quantize(values, self._input_scale, self._input_zero_point, self._dtype, out=self._floats)

    def _quantizes_to(self, less: int) -> bool:
        """Whether every pixel becomes itself less so much."""
        channels = self._contract.input.shape[2]
        levels = np.arange(256, dtype=np.uint8).repeat(channels).reshape(256, 1, channels)
        ready = PixelScaler(self._contract.input, 1)(levels, np.empty(levels.shape, np.float32))
        quantized = quantize(ready, self._input_scale, self._input_zero_point, self._dtype)
        return bool((quantized.astype(np.int16) == levels.astype(np.int16) - less).all())
