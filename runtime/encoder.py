"""The encoder on the device: one file in, float32 embeddings out."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact, read_artifact
from .contract import INPUT_DTYPES, Contract, InputContract, InputOptions, NormalizationSpec
from .errors import EmbedliteWarning, EncoderClosedError, InterpreterFailedError, RequestError, UnsupportedModelError
from .flatbuffer import ModelInfo, TensorInfo
from .interpreters import MICRO_RUNTIME, Runtime, available_threads, find_runtime, open_interpreter
from .normalize import normalize, normalize_quantized
from .preprocess import check_batch, check_one, dequantize, model_ready, quantize, to_pixels


class Encoder:
    """An encoder file, opened.

    >>> with Encoder("model.int8.tflite") as encoder:          # doctest: +SKIP
    ...     vectors = encoder.embed(images)                    # (N, D) float32

    Integer arrays are pixels and go through the file's own contract (mean, std); float arrays are taken as
    model-ready. What the file's tensors hold (float32, uint8, int8) does not matter to the caller. An encoder
    may be shared by threads.

    Args:
        path: a ``.tflite`` file; its checksum is verified before an interpreter sees it.
        threads: processors to use; default all that this process may use.
        delegate: path of a TFLite delegate's shared library.
        input_contract: replaces mean, std, colour order and resampler of a plain ``.tflite`` that carries none.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``; default the first of the first two that
            works.

    Raises:
        ModelFileError: not a TFLite file, damaged, from a newer version, or no encoder.
        NoInterpreterError: no interpreter is installed.
        RequestError: ``input_contract`` for a file that brings its own, or a delegate for ``tflite-micro``.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        delegate: str | None = None,
        *,
        input_contract: InputContract | None = None,
        runtime: str | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise RequestError(f"threads is {threads}. Pass 1 or more, or nothing for all processors.")
        self._artifact = read_artifact(path)
        self._contract = _resolve_contract(path, self._artifact, input_contract)
        self._runtime = find_runtime(runtime)
        self._threads = threads or available_threads()
        self._delegate = delegate
        self._lock = threading.Lock()
        self._single: _Session | None = _Session(self._runtime, self._artifact, self._contract, self._threads, delegate)
        self._idle: queue.SimpleQueue[_Session] = queue.SimpleQueue()
        self._executor: ThreadPoolExecutor | None = None

    @property
    def contract(self) -> Contract:
        """What the file promises; for a plain ``.tflite``, what was assumed."""
        return self._contract

    @property
    def artifact(self) -> Artifact:
        """The file as it was read and checked."""
        return self._artifact

    @property
    def runtime(self) -> Runtime:
        """The interpreter package that runs the file."""
        return self._runtime

    @property
    def arena_bytes(self) -> int | None:
        """Bytes of tensor arena that the file needs on TFLite Micro; None on the other interpreters."""
        with self._lock:
            return self._check_open().arena_bytes

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """Shape of one embedding, without the batch axis."""
        return self._contract.output_shape

    @property
    def embedding_size(self) -> int:
        """Number of values in one embedding."""
        return int(np.prod(self.embedding_shape, dtype=np.int64))

    def embed(self, inputs: Any) -> NDArray[np.float32]:
        """Embed a batch; the images are spread over the processors.

        Args:
            inputs: (N, H, W, C); integers are pixels, floats are model-ready.

        Returns:
            (N, D) float32, normalized; (N, ...) for an encoder whose embedding has more axes.

        Raises:
            InputShapeError, InputTypeError, InputValueError: see :mod:`embedlite.runtime.preprocess`.
        """
        batch = check_batch(inputs, self._contract.input)
        if len(batch) == 1:
            return self.embed_one(batch[0])[None]
        result = np.empty((len(batch), *self.embedding_shape), np.float32)
        for index, embedding in enumerate(self._map(batch)):
            result[index] = embedding
        return result

    def embed_one(self, image: Any) -> NDArray[np.float32]:
        """Embed one image, with all threads working on it.

        Args:
            image: (H, W, C); integers are pixels, floats are model-ready.

        Returns:
            (D,) float32, normalized.
        """
        checked = check_one(image, self._contract.input)
        with self._lock:
            return self._check_open().run(checked)

    def embed_iter(self, images: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
        """Embed images one after the other as they come, a few ahead, in order; memory stays bounded.

        Args:
            images: any iterable of (H, W, C) images.

        Yields:
            (D,) float32 for each image.
        """
        yield from self._map(check_one(image, self._contract.input) for image in images)

    def close(self) -> None:
        """Free the interpreters; using the encoder afterwards is an error."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=True)
                self._executor = None
            self._single = None
            self._idle = queue.SimpleQueue()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _map(self, images: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Embed checked images in order, ``threads`` at a time, each on a single-threaded interpreter.

        One image a core is faster than all cores on one image: no kernel waits for the slowest thread.
        """
        with self._lock:
            self._check_open()
            if self._threads > 1 and self._executor is None:
                self._executor = ThreadPoolExecutor(self._threads, "embedlite")
                for _ in range(self._threads):
                    self._idle.put(_Session(self._runtime, self._artifact, self._contract, 1, self._delegate))
            executor, idle = self._executor, self._idle
        if executor is None:
            for image in images:
                yield self.embed_one(image)
            return

        def work(image: NDArray[Any]) -> NDArray[np.float32]:
            session = idle.get()
            try:
                return session.run(image)
            finally:
                idle.put(session)

        pending: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            for image in images:
                pending.put(executor.submit(work, image))
                if pending.qsize() > 2 * self._threads:
                    yield pending.get().result()
            while not pending.empty():
                yield pending.get().result()
        finally:
            while not pending.empty():
                pending.get().cancel()

    def _check_open(self) -> _Session:
        if self._single is None:
            raise EncoderClosedError("this encoder was closed. Open the file again with Encoder(path).")
        return self._single


class _Session:
    """One interpreter with what it takes to feed it; not safe to share between threads."""

    def __init__(
        self, runtime: Runtime, artifact: Artifact, contract: Contract, threads: int, delegate: str | None
    ) -> None:
        self._runtime = runtime
        self._interpreter = open_interpreter(runtime, artifact.flatbuffer, threads=threads, delegate=delegate)
        self._contract = contract
        source, target = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        self._input_index, self._output_index = source["index"], target["index"]
        self._input_dtype = np.dtype(source["dtype"])
        self._input_scale, self._input_zero_point = source["quantization"]
        self._output_scale, self._output_zero_point = target["quantization"]

    @property
    def arena_bytes(self) -> int | None:
        """See :attr:`Encoder.arena_bytes`."""
        return self._interpreter.arena_bytes if self._runtime.name == MICRO_RUNTIME else None

    def run(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """The embedding of one checked image, shaped as the contract says."""
        try:
            self._interpreter.set_tensor(self._input_index, self._prepare(image)[None])
            self._interpreter.invoke()
            values = self._interpreter.get_tensor(self._output_index)
        except RuntimeError as error:
            raise InterpreterFailedError(
                f"{self._runtime.name} {self._runtime.version} failed while running the model: {str(error).strip()}. "
                "Update the interpreter, or export the model in another mode."
            ) from error
        spec = self._contract.normalization
        if spec.placement == "runtime" and values.dtype == np.float32:
            values = normalize(values, spec)
        elif spec.placement == "runtime":
            values = normalize_quantized(values, self._output_scale, self._output_zero_point, spec)
        elif values.dtype != np.float32:
            values = dequantize(values, self._output_scale, self._output_zero_point)
        return np.asarray(values, np.float32).reshape(self._contract.output_shape)

    def _prepare(self, image: NDArray[Any]) -> NDArray[Any]:
        if self._input_dtype == np.float32:
            return model_ready(image, self._contract.input)
        if self._input_dtype == np.uint8 and image.dtype.kind != "f":
            # A uint8 input holds raw pixels: its scale and zero point say the same as mean and std.
            return to_pixels(image)
        ready = model_ready(image, self._contract.input)
        return quantize(ready, self._input_scale, self._input_zero_point, self._input_dtype)


def _resolve_contract(path: str | Path, artifact: Artifact, given: InputContract | None) -> Contract:
    """The file's contract, or for a plain file one made from its tensors and what the caller gave."""
    info = artifact.info
    source, target = _image_input(path, info), info.outputs[0]
    shape = (source.shape[1], source.shape[2], source.shape[3])
    if artifact.contract is not None:
        if given is not None:
            raise RequestError(
                f"{path} carries its own input contract. Leave out mean, std, colour order and resampler."
            )
        return artifact.contract
    if given is None:
        given = InputContract(shape)
        warnings.warn(
            f"{path} carries no contract: pixels are taken as (pixel - 0) / 255, {given.color_order}, "
            f"{given.resampler}. Say otherwise with mean, std, color order and resampler.",
            EmbedliteWarning,
            stacklevel=3,
        )
    rows = target.shape[1:] if len(target.shape) > 1 and target.shape[0] == 1 else target.shape
    return Contract(
        input=replace(given, shape=shape, dtype=source.dtype),
        output_shape=rows,
        output_dtype=target.dtype,
        normalization=NormalizationSpec(),
        mode="unknown",
        calibration=None,
    )


def _image_input(path: str | Path, info: ModelInfo) -> TensorInfo:
    """The input tensor of an encoder: one image, and one output beside it."""
    if len(info.inputs) != 1 or len(info.outputs) != 1:
        raise UnsupportedModelError(
            f"{path} has {len(info.inputs)} inputs and {len(info.outputs)} outputs; an encoder has one of each."
        )
    source = info.inputs[0]
    if len(source.shape) != 4 or source.shape[0] != 1 or source.dtype not in INPUT_DTYPES:
        raise UnsupportedModelError(
            f"{path} takes {source.dtype} {source.shape}; an encoder takes one image, (1, height, width, channels) of "
            f"{', '.join(INPUT_DTYPES)}. Export it with export-tflite, which fixes the shape."
        )
    return source


def input_contract_from_options(path: str | Path, options: InputOptions) -> InputContract | None:
    """What the options ``--mean --std --color-order --resampler`` say of a plain file; None if none was given."""
    if options == InputOptions():
        return None
    source = _image_input(path, read_artifact(path).info)
    return options.for_shape((source.shape[1], source.shape[2], source.shape[3]))
