"""Which file to ship where, from what was just measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...runtime.backends.table import BACKENDS, BY_PACKAGE
from ...runtime.drift.gates import DEFAULT_GATES, apply_gates
from ..modes import MIXED, is_mixed
from ..results import ExportedFile

NEARLY_AS_FAST = 1.25
"""A file this much slower than the fastest is still worth its smaller drift; so is one of which that is not certain."""


def recommend(
    files: Sequence[ExportedFile], timed_on: Mapping[str, Any], *, missed: bool = False, chosen: bool = False
) -> tuple[str, ...]:
    """One sentence for a CPU, one for an NPU and one for a microcontroller.

    Args:
        files: those that were not rejected.
        timed_on: the runtime that the latencies are from: :attr:`.results.MeasuredOn.runtime`.
        missed: whether no file keeps the limits.
        chosen: whether this is the one file that was chosen of several, so that nothing is said of what it is not for.
    """
    if not files:
        return (f"nothing to ship: {'no file keeps the limits' if missed else _NONE_RUNS}.",)
    said = (_for_cpu(files, timed_on), _for_npu(files), _for_microcontroller(files))
    if not chosen:
        return said
    return tuple(text for text in said if not text.endswith((_NEEDS_INT8, _NOT_TIMED)))


def of_a_cpu(timed_on: Mapping[str, Any]) -> bool:
    """Whether latencies are a CPU's, not an estimate for an NPU nor those of a microcontroller's reference kernels."""
    backend = BY_PACKAGE.get(timed_on["name"])
    return backend is None or backend.cpu


def _for_cpu(files: Sequence[ExportedFile], timed_on: Mapping[str, Any]) -> str:
    if not of_a_cpu(timed_on):
        return f"CPU: the latencies are {timed_on['name']}'s; {_NOT_TIMED}"
    usable = [file for file in files if _passes(file) and file.latency_us is not None]
    if not usable:
        if any(file.latency_us is not None for file in files):
            return "CPU: none of these files passes the default gates; see drift-report, and add calibration images."
        return "CPU: nothing was measured; run drift-report on the target."
    fastest = min(usable, key=lambda file: file.latency_us or 0)
    near = [file for file in usable if _least(file) <= NEARLY_AS_FAST * _most(fastest)]
    # Among files of nearly the same speed the smallest drift wins; without drift figures, the smallest file.
    best = max(near, key=lambda file: (_sqnr(file), -file.bytes))
    reason = f"{best.latency_us:,.0f} µs"
    if best is not fastest and _least(best) <= _most(fastest):
        reason += f", no slower than {fastest.mode} as far as could be measured"
    if best.drift is not None:
        reason += f", {_text_sqnr(best)}"
    refused = [verdict.runtime for verdict in best.verified if not verdict.ok]
    if refused:
        reason += f"; not on {', '.join(refused)}"
    for other in usable:
        if other.mode in ("int8", "dynamic") and other is not best and best.latency_us and other.latency_us:
            reason += f"; {other.mode}: {other.latency_us:,.0f} µs" + (f", {_text_sqnr(other)}" if other.drift else "")
    return f"CPU: ship {best.path.name} ({reason})."


def _least(file: ExportedFile) -> float:
    """The latency that repeated measurements do not rule out, at the low end."""
    return file.latency_low_us or file.latency_us or 0.0


def _most(file: ExportedFile) -> float:
    return file.latency_high_us or file.latency_us or 0.0


def _for_npu(files: Sequence[ExportedFile]) -> str:
    """Of the files with integer activations, the one of which an NPU runs most; 8 bits before 16."""
    if _first(files, _INTEGERS) is None:
        return f"NPU: {_missing(files)}"
    refused = [file for file in files if any(verdict.runtime == _NPU and not verdict.ok for verdict in file.verified)]
    best = _first([file for file in files if file not in refused], _INTEGERS, _left_by_npu)
    if best is None:
        return "NPU: its compiler takes none of these files."
    text = _integers(best, files)
    for verdict in best.verified:
        if verdict.npu_operators is not None and verdict.ok:
            left = sum((verdict.cpu_operators or {}).values())
            text += f"; Ethos-U runs {verdict.npu_operators} of {verdict.npu_operators + left} operators"
    return f"NPU: ship {text})."


def _for_microcontroller(files: Sequence[ExportedFile]) -> str:
    """Of the files that TFLite Micro runs, the first that passes the gates, the smallest kind first."""
    if _first(files, _INTEGERS) is None:
        return f"microcontroller: {_missing(files)}"
    refused = [file for file in files if any(verdict.runtime == _MICRO and not verdict.ok for verdict in file.verified)]
    best = _first([file for file in files if file not in refused], _INTEGERS)
    if best is None:
        return "microcontroller: TFLite Micro runs none of these files."
    text = _integers(best, files)
    if (arena := _arena(best)) is not None:
        text += f"; TFLite Micro needs an arena of {arena:,} bytes"
        # A mixed file or one of 16 bits may be worth its memory.
        for other in files:
            if other is not best and other not in refused and other.mode != "float32" and _passes(other):
                more = _arena(other)
                text += f"; {other.mode}: {more:,} bytes, {_text_sqnr(other)}" if more and other.drift else ""
    return f"microcontroller: ship {text})."


_INTEGERS = ("int8", MIXED, "int16x8")
_MICRO, _NPU = BACKENDS["micro"].package, BACKENDS["ethos-u"].package

_NONE_RUNS = "a required target runs none of these files"
_NOT_TIMED = "for a CPU's name --target litert first."
_NEEDS_INT8 = "needs an int8 file; pass --calibration-data and -q int8."


def _missing(files: Sequence[ExportedFile]) -> str:
    """Why there is no integer file to ship."""
    made = [file.mode for file in files if _mode(file) in _INTEGERS]
    return f"nothing to ship: {', '.join(made)} fails." if made else _NEEDS_INT8


def _first(
    files: Sequence[ExportedFile], modes: Sequence[str], cost: Callable[[ExportedFile], float] = lambda _: 0.0
) -> ExportedFile | None:
    """The best of the files of these modes: one that passes the gates, then the least cost, then the first mode."""
    able = [(_mode(file), file) for file in files if _mode(file) in modes and file.runs]
    ranked = [(not _passes(file), cost(file), modes.index(mode), number) for number, (mode, file) in enumerate(able)]
    return able[min(ranked)[-1]][1] if ranked else None


def _mode(file: ExportedFile) -> str:
    return MIXED if is_mixed(file.mode) else file.mode


def _left_by_npu(file: ExportedFile) -> float:
    """Operators that the NPU's compiler left to the CPU."""
    for verdict in file.verified:
        if verdict.cpu_operators is not None:
            return sum(verdict.cpu_operators.values())
    return 0.0


def _integers(best: ExportedFile, files: Sequence[ExportedFile]) -> str:
    """The file, what of it is not integers, its drift, and why it is not int8 or passes no gate."""
    text = f"{best.path.name} ("
    if is_mixed(best.mode):
        text += "integers but for the layers that the search left in another precision"
    else:
        text += (
            "8-bit integers throughout" if best.mode == "int8" else "8-bit weights and 16-bit activations throughout"
        )
        if best.float_operators:
            text += f" but for {', '.join(best.float_operators)} in float"
            normalization = best.contract["normalization"]
            if normalization["kind"] != "none" and normalization["placement"] == "graph":
                text += ", the normalization; --input-type int8 --output-type int8 leaves it to Encoder"
    if best.drift is not None:
        text += f"; {_text_sqnr(best)}"
    if not _passes(best):
        text += "; mind that it fails the default drift gates"
    elif any(file.mode == "int8" and not _passes(file) for file in files):
        text += "; int8 fails the default drift gates"
    return text


def _arena(file: ExportedFile) -> int | None:
    return next((verdict.arena_bytes for verdict in file.verified if verdict.arena_bytes is not None), None)


def _passes(file: ExportedFile) -> bool:
    if not file.runs:
        return False
    return file.drift is None or all(gate.passed for gate in apply_gates(asdict(file.drift), DEFAULT_GATES))


def _sqnr(file: ExportedFile) -> float:
    if file.drift is None:
        return 0.0
    return file.drift.sqnr_db if file.drift.sqnr_db is not None else float("inf")


def _text_sqnr(file: ExportedFile) -> str:
    assert file.drift is not None
    return "no drift" if file.drift.sqnr_db is None else f"{file.drift.sqnr_db:.1f} dB"
