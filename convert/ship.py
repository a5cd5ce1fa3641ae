"""Which file to ship where, from what was just measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..runtime.drift.gates import DEFAULT_GATES, apply_gates
from .results import ExportedFile

NEARLY_AS_FAST = 1.25
"""A file this much slower than the fastest is still worth its smaller drift."""


def recommend(files: Sequence[ExportedFile]) -> tuple[str, ...]:
    """One sentence for a CPU and one for an NPU or microcontroller."""
    if not files:
        return ("nothing to ship: a required target runs none of these files.",)
    return (_for_cpu(files), _for_integer_only(files))


def _for_cpu(files: Sequence[ExportedFile]) -> str:
    usable = [file for file in files if _passes(file) and file.latency_us is not None]
    if not usable:
        if any(file.latency_us is not None for file in files):
            return "CPU: none of these files passes the default gates; see drift-report, and add calibration images."
        return "CPU: nothing was measured; run drift-report on the target."
    fastest = min(usable, key=lambda file: file.latency_us or 0)
    near = [file for file in usable if (file.latency_us or 0) <= NEARLY_AS_FAST * (fastest.latency_us or 0)]
    # Among files of nearly the same speed the smallest drift wins; without drift figures, the smallest file.
    best = max(near, key=lambda file: (_sqnr(file), -file.bytes))
    reason = f"{best.latency_us:,.0f} µs"
    if best.drift is not None:
        reason += f", {_text_sqnr(best)}"
    refused = [verdict.runtime for verdict in best.verified if not verdict.ok]
    if refused:
        reason += f"; not on {', '.join(refused)}"
    for other in usable:
        if other.mode in ("int8", "dynamic") and other is not best and best.latency_us and other.latency_us:
            reason += f"; {other.mode}: {other.latency_us:,.0f} µs" + (f", {_text_sqnr(other)}" if other.drift else "")
    return f"CPU: ship {best.path.name} ({reason})."


def _for_integer_only(files: Sequence[ExportedFile]) -> str:
    file = next((file for file in files if file.mode == "int8"), None)
    if file is None:
        return "NPU or microcontroller: needs an int8 file; pass --calibration-data and -q int8."
    text = f"NPU or microcontroller: ship {file.path.name} (8-bit integers throughout"
    if file.float_operators:
        text += f" but for {', '.join(file.float_operators)} in float"
        normalization = file.contract["normalization"]
        if normalization["kind"] != "none" and normalization["placement"] == "graph":
            text += ", the normalization; --input-type int8 --output-type int8 leaves it to Encoder"
    if file.drift is not None:
        text += f"; {_text_sqnr(file)}"
    text += _facts(file)
    text += ")." if _passes(file) else "), but mind that it fails the default drift gates."
    return text


def _facts(file: ExportedFile) -> str:
    """What the compiler and TFLite Micro said of the file."""
    text = ""
    for verdict in file.verified:
        if verdict.npu_operators is not None and verdict.ok:
            left = sum((verdict.cpu_operators or {}).values())
            text += f"; Ethos-U runs {verdict.npu_operators} of {verdict.npu_operators + left} operators"
        if verdict.arena_bytes is not None:
            text += f"; TFLite Micro needs an arena of {verdict.arena_bytes:,} bytes"
    return text


def _passes(file: ExportedFile) -> bool:
    if any(not verdict.ok for verdict in file.verified[:1]):
        return False
    return file.drift is None or all(gate.passed for gate in apply_gates(asdict(file.drift), DEFAULT_GATES))


def _sqnr(file: ExportedFile) -> float:
    if file.drift is None:
        return 0.0
    return file.drift.sqnr_db if file.drift.sqnr_db is not None else float("inf")


def _text_sqnr(file: ExportedFile) -> str:
    assert file.drift is not None
    return "no drift" if file.drift.sqnr_db is None else f"{file.drift.sqnr_db:.1f} dB"
