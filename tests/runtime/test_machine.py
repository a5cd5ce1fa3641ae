"""What is known of this machine's processor."""

import platform
import sys
from pathlib import Path

import pytest

from embedlite.runtime.machine import half_precision_here, has_half_precision


def test_half_precision_is_told_by_the_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Arm the kernel is asked: tests/whole/test_device.py."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    found = tmp_path / "cpuinfo"
    for flags, has in (("fpu avx2 f16c", False), ("fpu avx512_fp16 avx2", True), ("avx512_fp16_not", False)):
        found.write_text(f"model name\t: some processor\nflags\t\t: {flags}\n")
        assert has_half_precision(found) is has
    assert has_half_precision(tmp_path / "missing") is None
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert has_half_precision() is None
    assert half_precision_here() == "whether this processor has it, nothing here tells"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert half_precision_here() == "this processor has it, and may compute the file so"
