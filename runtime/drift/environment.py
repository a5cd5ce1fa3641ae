"""What computed a report: versions and processor, because the last digits depend on them."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

from ..version import __version__


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
