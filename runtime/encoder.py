"""The encoder on the device: one file in, float32 embeddings out."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .backends.interpreters import Runtime, find_runtime
from .embedding_map import GalleryMap, read_map
from .errors import EmptyBatchError, EncoderClosedError, ModelFileError, RequestError
from .input.shapes import check_images, check_one
from .input.values import InputValues
from .machine import available_threads
from .model.artifact import Artifact, read_artifact
from .model.contract import Contract, InputContract, InputOptions
from .model.plain import resolve_contract
from .session import Session

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


class Encoder:
    """An encoder file, opened.

    >>> with Encoder("model.int8.tflite") as encoder:          # doctest: +SKIP
    ...     vectors = encoder.embed(images)                    # (N, D) float32

    Integer arrays are pixels and go through the file's own contract (mean, std); float arrays are taken as
    model-ready. Where one input is not an image but another array (a window of sensor samples, a spectrogram), its
    values go through the contract whatever their dtype. What the file's tensors hold (float32, uint8, int8) does not
    matter to the caller. An encoder may be shared by threads. In a forked process it opens the file's interpreters
    again; a copy, and what another process unpickles, is the same file opened again, which must not have changed.

    Args:
        path: a ``.tflite`` file; its checksum is verified before an interpreter sees it.
        threads: processors to use; default all that this process may use.
        delegate: path of a TFLite delegate's shared library, such as ``libedgetpu.so.1``.
        delegate_options: what the delegate's own documentation says, as text.
        input_contract: for a plain ``.tflite`` that carries none: all of it, or what is said of it; the rest is taken
            from the file's TFLite Metadata or integers where these tell.
        accept_contract: take ``input_contract`` although the file contradicts it.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``; default the first of the first two that
            works.
        map: a file that ``drift-report --gallery OLD.npz --map FILE.npz`` wrote: every embedding is mapped into the
            space of that gallery.

    Raises:
        ModelFileError: not a TFLite file, damaged, from a newer version, or no encoder.
        InterpreterFailedError: the interpreter refused the file, or a file without a contract crashed it, never ended
            or answered NaN when it was first run in a process of its own.
        NoInterpreterError: no interpreter is installed.
        DelegateError: the delegate cannot be loaded, refuses the model or leaves all of it to the processor.
        RequestError: ``input_contract`` for a file that brings its own or contradicts it, or a delegate for
            ``tflite-micro``.
        DataError: ``map`` cannot be read, or is of another model.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        delegate: str | None = None,
        *,
        delegate_options: Mapping[str, str] | None = None,
        input_contract: InputContract | InputOptions | None = None,
        accept_contract: bool = False,
        runtime: str | None = None,
        map: str | Path | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise RequestError(f"threads is {threads}. Pass 1 or more, or nothing for all processors.")
        self._artifact = read_artifact(path)
        self._map_path = None if map is None else Path(map).absolute()
        self._mapping = None if map is None else self._read_map(map, path)
        self._contract = resolve_contract(path, self._artifact, input_contract, accept=accept_contract)
        self._runtime = find_runtime(runtime)
        if self._artifact.contract is None:
            # Not above: a file with a contract, as it is on a device, has no need of it.
            from .backends.trial import try_foreign

            try_foreign(path, self._artifact, self._runtime, delegate, delegate_options)
        self._threads = threads or available_threads()
        self._delegate, self._delegate_options = delegate, delegate_options
        self._path, self._given, self._accept = Path(path).absolute(), input_contract, accept_contract
        self._values = self._look_at_values()
        self._lock = threading.Lock()
        self._forked = False
        self._single: Session | None = self._open_session(self._threads)
        # What works on batches: one single-threaded session a processor, opened when there is work for it.
        self._executor: ThreadPoolExecutor | None = None
        self._idle: deque[Session] = deque()
        _OPEN.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        with self._lock:
            self._check_open()
        options = dict(self._delegate_options or {})
        return _open_again, (
            *(str(self._path), self._threads, self._delegate, options, self._given, self._accept, self._runtime.name),
            self._artifact.sha256,
            None if self._map_path is None else str(self._map_path),
        )

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
        if self._mapping is None:
            return self._contract.output_shape
        return (self._mapping.offset.size,)

    @property
    def embedding_size(self) -> int:
        """Number of values in one embedding."""
        return int(np.prod(self.embedding_shape, dtype=np.int64))

    def embed(self, inputs: Any) -> NDArray[np.float32]:
        """Embed a batch; the inputs are spread over the processors.

        Args:
            inputs: (N, H, W, C), or a list of (H, W, C) arrays, or an iterator of them; integers are pixels, floats
                are model-ready. For an encoder of other arrays (N, ...) likewise, whose values the contract scales
                whatever their dtype.

        Returns:
            (N, D) float32, normalized; (N, ...) for an encoder whose embedding has more axes.

        Raises:
            EmptyBatchError: there is no input.
            InputShapeError, InputTypeError: see :mod:`embedlite.runtime.input.shapes`.
            InputValueError: see :mod:`embedlite.runtime.input.values`.
            EncoderClosedError: the encoder is closed, or was closed by another thread.
        """
        images = check_images(inputs, self._contract.input)
        if not isinstance(images, Iterator):
            if len(images) == 1:
                return self._run_single(images[0], every_value=True)[None]
            result = np.empty((len(images), *self.embedding_shape), np.float32)
            for index, embedding in enumerate(self._map(images)):
                result[index] = embedding
            return result
        rows = list(self._map(images))
        if not rows:
            noun = self._contract.input.noun
            raise EmptyBatchError(f"the iterator gave no {noun}. Pass at least one; an iterator can be read only once.")
        return np.stack(rows)

    def embed_one(self, image: Any) -> NDArray[np.float32]:
        """Embed one input, with all threads working on it.

        Of a large float input only some rows, other ones each time, are searched for NaN beforehand; all of it is if
        the vector is not finite.

        Args:
            image: (H, W, C); integers are pixels, floats are model-ready. For an encoder of other arrays, of its shape.

        Returns:
            (D,) float32, normalized.

        Raises:
            InputError, EncoderClosedError: see :meth:`embed`.
        """
        return self._run_single(check_one(image, self._contract.input), every_value=False)

    def embed_ready(self, ready: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed one input that is model-ready: what the contract makes of it was done.

        Args:
            ready: float32 of the contract's shape.

        Returns:
            (D,) float32, normalized.

        Raises:
            InputError, EncoderClosedError: see :meth:`embed`.
        """
        return self._run_single(check_one(ready, self._contract.input), every_value=False, ready=True)

    def embed_iter(self, images: Iterable[Any], *, ready: bool = False) -> Iterator[NDArray[np.float32]]:
        """Embed inputs one after the other as they come, a few ahead, in order; memory stays bounded.

        Args:
            images: any iterable of what :meth:`embed_one` takes.
            ready: whether they are model-ready, as :meth:`embed_ready` takes them.

        Yields:
            (D,) float32 for each input.

        Raises:
            InputError, EncoderClosedError: see :meth:`embed`.
        """
        yield from self._map((check_one(image, self._contract.input) for image in images), ready=ready)

    def close(self) -> None:
        """Free the interpreters; using the encoder afterwards is an error.

        Inferences that are running end first; what other threads have not yet begun is not begun.
        """
        with self._lock:
            executor, self._executor, self._single = self._executor, None, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
            self._idle.clear()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _look_at_values(self) -> InputValues:
        return InputValues(self._path.name, self._contract.input, self._contract.calibration)

    def _read_map(self, path: str | Path, name: str | Path) -> GalleryMap:
        found = read_map(path)
        found.check_model(self._artifact.sha256, path, name)
        return found

    def _mapped(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        return embedding if self._mapping is None else self._mapping.apply(embedding.reshape(-1))

    def _leave_parent(self) -> None:
        """In a forked child: none of the parent's threads are here, and a lock that one of them held stays locked."""
        if self._single is not None:
            _abandon(self._single, *self._idle)
            self._single, self._forked = None, True
        self._executor, self._idle = None, deque()
        self._values = self._look_at_values()
        self._lock = threading.Lock()

    def _open_session(self, threads: int) -> Session:
        return Session(
            self._runtime,
            self._artifact,
            self._contract,
            self._values,
            threads=threads,
            delegate=self._delegate,
            delegate_options=self._delegate_options,
        )

    def _run_single(self, image: NDArray[Any], *, every_value: bool, ready: bool = False) -> NDArray[np.float32]:
        with self._lock:
            embedding = self._check_open().run(image, every_value=every_value, ready=ready)
        return self._mapped(embedding)

    def _map(self, images: Iterable[NDArray[Any]], *, ready: bool = False) -> Iterator[NDArray[np.float32]]:
        """Embed checked images in order, ``threads`` at a time, each on a single-threaded interpreter.

        One image a core is faster than all cores on one image: no kernel waits for the slowest thread. A delegate's
        device is one, however many processors there are, so with a delegate one interpreter does it all.
        """
        executor = self._open_executor()
        if executor is None:
            for image in images:
                yield self._run_single(image, every_value=True, ready=ready)
            return
        from concurrent.futures import CancelledError

        pending: deque[Future[NDArray[np.float32]]] = deque()
        process = os.getpid()
        try:
            for image in images:
                _check_process(process)
                try:
                    pending.append(executor.submit(self._work, image, ready))
                except RuntimeError:
                    # It was shut down meanwhile.
                    with self._lock:
                        self._check_open()
                    raise
                if len(pending) > 2 * self._threads:
                    yield pending.popleft().result()
            while pending:
                _check_process(process)
                yield pending.popleft().result()
        except CancelledError:
            with self._lock:
                self._check_open()
            raise
        finally:
            while pending:
                pending.popleft().cancel()

    def _open_executor(self) -> ThreadPoolExecutor | None:
        """What spreads a batch over processors, if anything does."""
        with self._lock:
            self._check_open()
            if self._executor is None and self._threads > 1 and self._delegate is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self._threads, "embedlite")
            return self._executor

    def _work(self, image: NDArray[Any], ready: bool) -> NDArray[np.float32]:
        """Embed an image on an idle session; no more are opened than the executor has threads."""
        try:
            session = self._idle.popleft()
        except IndexError:
            session = self._open_session(1)
        try:
            return self._mapped(session.run(image, every_value=True, ready=ready))
        finally:
            self._idle.append(session)

    def _check_open(self) -> Session:
        if self._forked:
            import logging

            logging.getLogger("embedlite").debug("%s is opened again after a fork", self._path)
            self._single, self._forked = self._open_session(self._threads), False
        if self._single is None:
            raise EncoderClosedError("this encoder was closed. Open the file again with Encoder(path).")
        return self._single


_OPEN: weakref.WeakSet[Encoder] = weakref.WeakSet()
"""The encoders of this process."""


def _after_fork() -> None:
    for encoder in list(_OPEN):
        encoder._leave_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork)


def _check_process(process: int) -> None:
    if os.getpid() != process:
        raise EncoderClosedError(
            "this iteration was begun before the process was forked, and its threads are in the other process. Begin "
            "it again in this one."
        )


def _abandon(*sessions: Session) -> None:
    """Never free these: an interpreter's destructor waits for threads that the fork did not bring along."""
    import ctypes

    for session in sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _open_again(
    path: str,
    threads: int,
    delegate: str | None,
    delegate_options: dict[str, str],
    input_contract: InputContract | InputOptions | None,
    accept_contract: bool,
    runtime: str,
    sha256: str,
    map: str | None,
) -> Encoder:
    """What a pickled encoder becomes where it is unpickled."""
    encoder = Encoder(
        path,
        threads,
        delegate,
        delegate_options=delegate_options or None,
        input_contract=input_contract,
        accept_contract=accept_contract,
        runtime=runtime,
        map=map,
    )
    if encoder.artifact.sha256 != sha256:
        encoder.close()
        raise ModelFileError(
            f"{path} is not the file that the encoder was made of: its SHA-256 is {encoder.artifact.sha256[:12]}…, and "
            f"{sha256[:12]}… was pickled. Bring that file there, or open this one with Encoder(path)."
        )
    return encoder
