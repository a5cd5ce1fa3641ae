"""Compiling a file for an Arm Ethos-U NPU with Arm's own compiler, Vela.

Vela moves the operators that the NPU can run into custom operators named ``ethos-u`` and leaves the others as they
are, for the processor beside the NPU. It runs in a process of its own: it is C++ at heart and can crash.
"""

from __future__ import annotations

import csv
import importlib.metadata
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...runtime.errors import MissingPackageError, ModelFileError, OutputError
from ...runtime.model.artifact import read_artifact
from ...runtime.model.flatbuffer import NPU_OPERATOR, read_flatbuffer

VELA_SECONDS = 600
"""How long one compilation may take."""

_STEM = "network"

_REFUSED = re.compile(r"Error: (\w+) '.*' Does not have valid TFLite Semantics")


@dataclass(frozen=True)
class NpuCompilation:
    """What Vela made of one file.

    Latency and memory are Vela's estimates for its default configuration of the accelerator (clock, memories); they are
    None where it did not compile, or placed nothing on the NPU.

    Attributes:
        version: Vela's version.
        accelerator: what it compiled for.
        flatbuffer: the compiled model, without a contract; None if there is none.
        npu: operators of the file that run on the NPU, by TFLite name.
        cpu: operators of the compiled file that do not, by TFLite name.
        latency_us: estimated microseconds of one inference on the NPU, without the operators on the CPU.
        sram_bytes: SRAM that the tensors take.
        error: why there is no compiled file, in a few words; empty if there is one.
    """

    version: str
    accelerator: str
    flatbuffer: bytes | None = field(repr=False)
    npu: Mapping[str, int]
    cpu: Mapping[str, int]
    latency_us: float | None
    sram_bytes: int | None
    error: str


def compile_for_npu(model: Path, folder: Path, accelerator: str = "ethos-u55-128") -> NpuCompilation:
    """Compile a file with Vela. A refusal, a crash and a timeout are results, told by their ``error``.

    The operators are counted in the two flatbuffers and not taken from Vela's own listing, which calls every operator
    on the CPU "Passthrough" and counts a fused activation on the NPU, but not on the CPU, as an operator. What stands
    beside ``ethos-u`` in the compiled file is on the CPU; the file's other operators are on the NPU, or vanished in
    it, as a reshape may.

    Args:
        model: the ``.tflite``; its contract is taken off, as Vela would drop it.
        folder: an existing folder for Vela's working files; none of them is left there.
        accelerator: as Vela names it: ``ethos-u55-128``, ``ethos-u65-256``, ``ethos-u85-512`` …

    Raises:
        MissingPackageError: Vela is not installed.
        UnreadableDataError: the model cannot be read.
        OutputError: the folder cannot be written to.
    """
    try:
        version = importlib.metadata.version("ethos-u-vela")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError(
            "compiling for an Ethos-U NPU needs Vela, which is not installed. pip install ethos-u-vela"
        ) from error
    nothing = NpuCompilation(version, accelerator, None, {}, {}, None, None, "")
    try:
        artifact = read_artifact(model)
    except ModelFileError as error:
        return replace(nothing, error=str(error))
    try:
        with tempfile.TemporaryDirectory(prefix=".embedlite-", dir=folder) as work:
            before = Counter(operator.name for operator in artifact.info.operators)
            return _compile(artifact.flatbuffer, before, Path(work), nothing)
    except OSError as error:
        raise OutputError(
            f"cannot write Vela's working files to {folder}: {error.strerror or error}. Name a folder that exists and "
            "can be written to."
        ) from error


def _compile(flatbuffer: bytes, before: Counter[str], work: Path, nothing: NpuCompilation) -> NpuCompilation:
    (work / f"{_STEM}.tflite").write_bytes(flatbuffer)
    error = _run_vela(work, nothing.accelerator)
    compiled = work / f"{_STEM}_vela.tflite"
    if not error and not compiled.is_file():
        error = "it wrote no compiled file"
    if error:
        return replace(nothing, error=error)
    data = compiled.read_bytes()
    try:
        after = Counter(operator.name for operator in read_flatbuffer(data).operators)
    except ModelFileError as problem:
        return replace(nothing, error=str(problem))
    placed = after.pop(NPU_OPERATOR, 0) > 0
    latency_us, sram_bytes = _estimates(work) if placed else (None, None)
    return replace(
        nothing,
        flatbuffer=data,
        npu=dict(before - after) if placed else {},
        cpu=dict(after),
        latency_us=latency_us,
        sram_bytes=sram_bytes,
    )


def _run_vela(work: Path, accelerator: str) -> str:
    """Run Vela on the network in ``work``; what went wrong in a few words, or nothing."""
    command = [sys.executable, "-m", "ethosu.vela", f"{_STEM}.tflite", "--output-dir", "."]
    try:
        process = subprocess.run(
            [*command, "--accelerator-config", accelerator],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=work,
            timeout=VELA_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {VELA_SECONDS} s"
    if process.returncode < 0:
        return f"crashed with signal {-process.returncode}"
    if process.returncode > 0:
        return _reason(process.stdout + process.stderr) or f"ended with code {process.returncode}"
    return ""


def _reason(said: str) -> str:
    """What Vela said at last, in one line: of an operator that it refuses the kind and the rule, which come before."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for place, line in enumerate(lines):
        if (refused := _REFUSED.search(line)) is not None:
            return f"{refused[1]}: {'; '.join(rule.strip('-, ') for rule in lines[place + 1 : place + 3])}"
    return lines[-1] if lines else ""


def _estimates(work: Path) -> tuple[float | None, int | None]:
    """Microseconds per inference and bytes of SRAM, from the summary (seconds, KiB)."""
    for path in work.glob(f"{_STEM}_summary_*.csv"):
        with path.open(newline="") as file:
            row = next(csv.DictReader(file), {})
        seconds, kib = (_number(row.get(name)) for name in ("inference_time", "sram_memory_used"))
        return None if seconds is None else seconds * 1e6, None if kib is None else round(kib * 1024)
    return None, None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
