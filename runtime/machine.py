"""This machine: processors to use, and the versions and processor that the last digits of a result depend on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import numpy as np

from .version import __version__


def available_threads(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The processors that this process may use: by its affinity, and in a container by the quota of its control group.

    Args:
        quota: Linux's file (cgroup v2): microseconds of processor time, or ``max``, and the period that they are for.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = quota.read_text().split()
        # Half a processor still needs a thread; of one and a half, a second thread would use the half.
        return min(processors, max(1, -(-int(share) // int(period))))
    except (OSError, ValueError):
        return processors


def describe_environment() -> dict[str, str]:
    """Versions of embedlite, numpy and Python, and the machine's architecture and processor."""
    return {
        "embedlite": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _processor(),
    }


_AT_HWCAP, _FPHP, _ASIMDHP = 16, 1 << 9, 1 << 10


def has_half_precision(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the processor has the half-precision arithmetic that XNNPACK uses: Armv8.2's, or AVX512-FP16.

    Args:
        cpuinfo: Linux's file, read on x86-64.

    Returns:
        None where nothing tells.
    """
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return machine == "arm64"
    if not sys.platform.startswith("linux"):
        return None
    if machine == "aarch64":
        # What the kernel offers; an emulator hands through its host's /proc/cpuinfo.
        try:
            import ctypes

            getauxval = ctypes.CDLL(None).getauxval
        except (ImportError, OSError, AttributeError):
            return None
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        offered = int(getauxval(_AT_HWCAP))
        return offered & (_FPHP | _ASIMDHP) == _FPHP | _ASIMDHP
    if machine in ("x86_64", "amd64"):
        try:
            lines = cpuinfo.read_text(errors="replace").splitlines()
        except OSError:
            return None
        return any("avx512_fp16" in line.split() for line in lines if line.startswith("flags"))
    return None


def half_precision_here() -> str:
    """What becomes on this machine of a file that may be computed in half precision, in half a sentence."""
    has = has_half_precision()
    if has is None:
        return "whether this processor has it, nothing here tells"
    if has:
        return "this processor has it, and may compute the file so"
    return "this processor does not have it, and computes the file in float32"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    # Arm kernels name the board under Model, not the processor.
    for wanted in ("model name", "Model", "Hardware"):
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == wanted:
                return value.strip()
    return platform.processor()
