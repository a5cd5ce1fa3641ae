"""Replaying a file's golden vectors here: whether this interpreter, delegate and device compute what the export did.

Three comparisons, of which the first two decide:

1. What each pixel value becomes for the model, with the table that was stored: preprocessing is a subtraction and a
   division, so nothing but the last bits may differ.
2. The embeddings with this very file's own, as they were at the export. A float file computes the same sums in another
   order; one that processors may compute in half precision is held to the limit of a quantized file where it misses its
   own. A quantized file is rounded differently by another interpreter, and is then about as far from the float
   encoder as it was at the export, on any side of it: so at most twice that far from its own stored vector, 6 dB
   (triangle inequality). That is judged for each input, because quantization costs some more than others.
3. The embeddings with the float encoder's: what the file costs on these inputs, for information.

``python -m embedlite.runtime.check.selftest`` does it in a process of its own, which is all that an interpreter or a
delegate that crashes on the file ends (:mod:`embedlite.runtime.child`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..child import ask, serve
from ..drift import Drift, measure_drift
from ..drift.silent import Silent, count_silent
from ..drift.wording import IDENTICAL, UNMEASURED, decibels
from ..encoder import Encoder
from ..errors import DelegateLoadError, EmbedliteError, NoInterpreterError, RequestError
from ..machine import half_precision_here
from ..model.contract import Contract
from ..terminal import fit
from .golden import Golden, golden_frames, parse_golden, pixel_table
from .timing import noise_frame

PIXEL_TOLERANCE = 1e-6
"""Of the table of pixel values, relative to its largest: two roundings of float32."""

FLOAT_TOLERANCE = 1e-4
"""Of float32 and float16 files, relative to the largest value: only the order of additions differs."""

DOUBLE_DB = 20 * float(np.log10(2))
"""Twice the distance, in decibels."""

LEAST_DB, MOST_DB = 10.0, 40.0
"""The limit of a quantized file stays within these: vectors of another model reach some 3 dB, and a file may by chance
be nearer to the float encoder than two interpreters are to each other.
"""


@dataclass(frozen=True)
class Check:
    """One comparison that decides.

    Attributes:
        name: ``pixels_relative``, ``embeddings_relative`` (at most) or ``embeddings_sqnr_db`` (at least; of the input
            that is nearest to its limit, or furthest beyond).
        value: what was found; None if nothing differs at all (SQNR).
        limit: what it must keep.
        passed: whether it does.
    """

    name: str
    value: float | None
    limit: float
    passed: bool


@dataclass(frozen=True)
class Selftest:
    """What a replay found.

    Attributes:
        count: inputs that were replayed.
        made_by: interpreter that made the golden vectors, with its version.
        checks: see the module's text.
        own: drift from the file's own golden vectors.
        reference: drift from the float encoder's embeddings.
        exported: the drift from the float encoder that the file had at the export.
        silent: which golden vectors say nothing, so that replaying them proves nothing.
    """

    count: int
    made_by: str
    checks: tuple[Check, ...]
    own: Drift
    reference: Drift
    exported: Drift
    silent: Silent

    @property
    def passed(self) -> bool:
        """Whether every check passed and every embedding is sound."""
        return self.own.invalid == 0 and not self.silent.any and all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {"verdict": "pass" if self.passed else "fail", **asdict(self)}


def selftest(encoder: Encoder) -> Selftest:
    """Replay the golden vectors of an opened file.

    Raises:
        RequestError: the file carries none.
        DamagedModelError: they do not fit the contract.
        InterpreterFailedError: the interpreter fails.
    """
    contract, packed = encoder.contract, encoder.artifact.golden
    if packed is None:
        raise RequestError(
            "the file carries no golden vectors, so there is nothing to replay: it comes from elsewhere, was rewritten "
            "by another tool or was exported without running it. Export it with export-tflite."
        )
    golden = parse_golden(packed, contract)
    embeddings = encoder.embed(golden_frames(golden.pixels, contract.input))
    own, reference, exported = (
        measure_drift(candidate, stored, k=None)[0]
        for candidate, stored in (
            (embeddings, golden.embeddings),
            (embeddings, golden.reference),
            (golden.embeddings, golden.reference),
        )
    )
    pixels = np.abs(pixel_table(contract.input) - golden.ready).max() / max(np.abs(golden.ready).max(), 1e-30)
    checks = [Check("pixels_relative", float(pixels), PIXEL_TOLERANCE, bool(pixels <= PIXEL_TOLERANCE))]
    checks.append(_check_embeddings(contract, embeddings, golden, own))
    silent = count_silent(golden.embeddings)
    return Selftest(len(embeddings), golden.runtime, tuple(checks), own, reference, exported, silent)


def _check_embeddings(contract: Contract, embeddings: NDArray[np.float32], golden: Golden, own: Drift) -> Check:
    if contract.mode not in ("float32", "float16"):
        return _check_quantized(embeddings, golden)
    distance = np.inf if own.max_abs is None else own.max_abs / max(float(np.abs(golden.embeddings).max()), 1e-30)
    half = contract.half_precision
    if half is not None and not distance <= FLOAT_TOLERANCE:
        limit, found = quantized_limit(half["sqnr_db"]), -np.inf if own.invalid else own.sqnr_db
        return Check("embeddings_sqnr_db", found, limit, found is None or found >= limit)
    return Check("embeddings_relative", float(distance), FLOAT_TOLERANCE, bool(distance <= FLOAT_TOLERANCE))


def _check_quantized(embeddings: NDArray[np.float32], golden: Golden) -> Check:
    """The input whose embedding keeps its limit by least."""
    checks = []
    for row in range(len(embeddings)):
        stored = golden.embeddings[row : row + 1]
        found = measure_drift(embeddings[row : row + 1], stored, k=None)[0]
        limit = quantized_limit(measure_drift(stored, golden.reference[row : row + 1], k=None)[0].sqnr_db)
        value = -np.inf if found.invalid else found.sqnr_db
        checks.append(Check("embeddings_sqnr_db", value, limit, value is None or value >= limit))
    return min(checks, key=lambda check: np.inf if check.value is None else check.value - check.limit)


def quantized_limit(exported_db: float | None) -> float:
    """How near a quantized file must come to its own golden vectors, in decibels.

    Args:
        exported_db: how near it was to the float encoder at the export, on the same input; None for no difference at
            all.
    """
    return MOST_DB if exported_db is None else float(np.clip(exported_db - DOUBLE_DB, LEAST_DB, MOST_DB))


def render_selftest(result: Selftest, model: str, runs_on: str, width: int, *, half: bool = False) -> str:
    """The result as text.

    Args:
        result: what was found.
        model: what to call the file.
        runs_on: interpreter, version and delegate.
        width: of a line.
        half: whether the file may be computed in half precision.
    """
    head = f"{'PASS' if result.passed else 'FAIL'}: {model} replays {result.count} golden vectors on {runs_on}"
    lines = [head, f"  golden vectors made by {result.made_by}"]
    lines += [f"  half precision: {half_precision_here()}"] if half else []
    words = {
        "pixels_relative": ("preprocessing", "<=", "of the largest value"),
        "embeddings_relative": ("embeddings", "<=", "of the largest value"),
        "embeddings_sqnr_db": ("embeddings", ">=", "dB"),
    }
    for check in result.checks:
        what, sign, unit = words[check.name]
        found = IDENTICAL if not check.value else f"{check.value:.3g}"
        verdict = "ok" if check.passed else "FAILED"
        lines.append(f"  {what:<14} {found:<14} {sign} {check.limit:.3g} {unit}  {verdict}")
    if result.silent.any:
        lines.append(f"  golden vectors that say nothing: {result.silent}  FAILED")
    if result.own.invalid:
        lines.append(f"  {result.own.invalid} embedding(s) are not finite, or zero or constant where they were not")
    if result.own.cosine_min is not None:
        lines.append(f"  worst cosine to the golden vectors {result.own.cosine_min:.6f}")
    lines.append(f"  from the float encoder {_told(result.reference)}, at the export {_told(result.exported)}")
    if not result.passed:
        lines.append(
            "This interpreter, delegate or device does not compute what the export did. Try without the delegate, "
            "empty its cache, compare the file's checksum, or export in another mode."
        )
    return "\n".join(fit(lines, width))


def _told(drift: Drift) -> str:
    return UNMEASURED if drift.cosine_min is None else decibels(drift.sqnr_db)


_PROCESS_SECONDS = 900.0

_NOT_THE_FILE = {error.__name__: error for error in (DelegateLoadError, NoInterpreterError, RequestError)}
"""Errors that say nothing of the file: no other would fare better."""


@dataclass(frozen=True)
class Replay:
    """What became of a file.

    Attributes:
        selftest: :meth:`Selftest.to_json`; None without golden vectors, or if the file did not run.
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
    answer, failure = ask(
        "check.selftest", {**request, "delegate_options": dict(delegate_options or {})}, _PROCESS_SECONDS
    )
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
