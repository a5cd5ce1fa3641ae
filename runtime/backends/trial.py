"""A ``.tflite`` that nobody vouches for runs first in a process of its own (``python -m`` and this module's name).

A file with a contract has a checksum. Of any other one a sound structure is known at most, and the interpreters trust
the rest: a crash, an inference without an end or NaN is found there, before this process opens the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import errors
from ..child import ask, serve
from ..errors import EmbedliteError, InterpreterFailedError
from ..model.artifact import Artifact
from .interpreters import Runtime, find_runtime, open_interpreter

TRIAL_SECONDS = 30
"""For one inference, and a second more for each megabyte of the file; a Raspberry Pi needs a tenth of that."""

MEMORY = 8 << 30
"""Bytes of address space that the process may have, or this many times the file's size if that is more."""

_MEMORY_GROWTH = 64

_sound: set[str] = set()


def try_foreign(
    path: str | Path,
    artifact: Artifact,
    runtime: Runtime,
    delegate: str | None = None,
    delegate_options: Mapping[str, str] | None = None,
) -> None:
    """Run a file without a contract once elsewhere; a file with one, or one that was tried before, is taken as it is.

    Raises:
        InterpreterFailedError: the interpreter refused the file, crashed, gave no answer in time, failed, or answered
            NaN or infinity. What it refused there is not opened here: another time the same bytes may crash it.
    """
    options = {"runtime": runtime.name, "delegate": delegate, "delegate_options": dict(delegate_options or {})}
    key = f"{artifact.sha256} {options}"
    if artifact.contract is not None or key in _sound:
        return
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        copy = Path(folder, "model.tflite")
        copy.write_bytes(artifact.flatbuffer)
        seconds = TRIAL_SECONDS + len(artifact.flatbuffer) // 1_000_000
        answer, failure = ask("backends.trial", {"model": str(copy), **options}, seconds)
    if answer is not None and answer.get("refused"):
        kind: type[EmbedliteError] = getattr(errors, answer["kind"])
        raise kind(answer["refused"])
    problem = failure or answer["problem"]
    if problem:
        raise InterpreterFailedError(
            f"{path} carries no contract, so it was first run in a process of its own, and there {runtime.name} "
            f"{runtime.version} {problem}. The file is damaged or hostile; get it again from where it was made."
        )
    _sound.add(key)


def _limit(size: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, max(MEMORY, _MEMORY_GROWTH * size))):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _answer(model: str, runtime: str, **options: Any) -> dict[str, Any]:
    data = Path(model).read_bytes()
    found = find_runtime(runtime)
    _limit(len(data))
    try:
        interpreter = open_interpreter(found, data, threads=1, **options)
    except EmbedliteError as error:
        return {"problem": "", "refused": str(error), "kind": type(error).__name__}
    try:
        random = np.random.default_rng(0)
        for detail in interpreter.get_input_details():
            dtype, shape = np.dtype(detail["dtype"]), tuple(detail["shape"])
            if dtype.kind == "f":
                frame = random.random(shape).astype(dtype)
            else:
                frame = random.integers(0, 127, shape).astype(dtype)
            interpreter.set_tensor(detail["index"], frame)
        interpreter.invoke()
        results = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    except MemoryError:
        return {"problem": "ran out of memory"}
    except Exception as error:  # whatever the interpreter raises is the answer
        lines = str(error).strip().splitlines()
        return {"problem": f"failed ({lines[0].rstrip('.') if lines else type(error).__name__})"}
    if not all(np.isfinite(result).all() for result in results if result.dtype.kind == "f"):
        return {"problem": "answered NaN or infinity for a frame of random values between 0 and 1"}
    return {"problem": ""}


if __name__ == "__main__":
    serve(_answer)
