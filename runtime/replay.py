"""The self-test of a file in a process of its own: ``python -m embedlite.runtime.replay``.

An interpreter or a delegate that crashes on the file ends that process alone (:mod:`.child`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .child import ask, serve
from .encoder import Encoder
from .errors import DelegateLoadError, EmbedliteError, NoInterpreterError, RequestError
from .selftest import selftest
from .timing import noise_frame

_PROCESS_SECONDS = 900.0

_NOT_THE_FILE = {error.__name__: error for error in (DelegateLoadError, NoInterpreterError, RequestError)}
"""Errors that say nothing of the file: no other would fare better."""


@dataclass(frozen=True)
class Replay:
    """What became of a file.

    Attributes:
        selftest: :meth:`.selftest.Selftest.to_json`; None without golden vectors, or if the file did not run.
        error: why it did not run; empty if it did.
    """

    selftest: Mapping[str, Any] | None
    error: str = ""


def replay(
    model: Path,
    runtime: str,
    *,
    threads: int,
    delegate: str | None = None,
    delegate_options: Mapping[str, str] | None = None,
) -> Replay:
    """Run a file on noise, and its golden vectors if it has any. A crash is an answer.

    Args:
        model: a ``.tflite`` with a contract.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``.
        threads: processors to use.
        delegate: path of a delegate's shared library.
        delegate_options: for the delegate.

    Raises:
        DelegateLoadError, NoInterpreterError, RequestError: what was asked for would work with no file.
    """
    request = {"model": str(model), "runtime": runtime, "threads": threads, "delegate": delegate}
    answer, failure = ask("replay", {**request, "delegate_options": dict(delegate_options or {})}, _PROCESS_SECONDS)
    if failure:
        return Replay(
            None,
            f"{runtime} {importlib.metadata.version(runtime)} {failure}, running {model.name}. Update the interpreter, "
            "or export the model in another mode.",
        )
    if (kind := answer.get("kind")) in _NOT_THE_FILE:
        raise _NOT_THE_FILE[kind](answer["error"])
    return Replay(answer.get("selftest"), answer.get("error", ""))


def main() -> None:
    """Serve one request."""
    serve(_answer)


def _answer(
    model: str, runtime: str, threads: int, delegate: str | None, delegate_options: Mapping[str, str]
) -> dict[str, Any]:
    try:
        with Encoder(model, threads, delegate, delegate_options=delegate_options, runtime=runtime) as encoder:
            encoder.embed_one(noise_frame(encoder))
            return {"selftest": None if encoder.artifact.golden is None else selftest(encoder).to_json()}
    except EmbedliteError as error:
        return {"error": str(error), "kind": type(error).__name__}


if __name__ == "__main__":
    main()
