"""This machine: processors to use, and the versions and processor that the last digits of a result depend on."""

from __future__ import annotations

import os
import platform
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
