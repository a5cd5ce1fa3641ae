"""How long files take on a target: measured on its interpreter here, or estimated by the NPU's compiler."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...runtime.backends.registry import BACKENDS, BY_PACKAGE
from ...runtime.check.timing import Timing, time_files
from ...runtime.errors import InterpreterFailedError
from ...runtime.machine import available_threads
from .vela import compile_for_npu


class Stopwatch:
    """Compares files with one of them, the base."""

    def __init__(self, target: str, threads: int | None) -> None:
        """Prepare, without running anything.

        Args:
            target: one of :data:`embedlite.runtime.backends.registry.BACKENDS`.
            threads: processors that one inference may use; default all.
        """
        self.package = BACKENDS[target].package
        self.threads = threads or available_threads()

    def time(self, files: Sequence[bytes]) -> list[Timing]:
        """A timing for each file, relative to the first; one that does not run has an ``error`` and no latency."""
        with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
            paths = [Path(folder, f"{place}.tflite") for place in range(len(files))]
            for path, data in zip(paths, files, strict=True):
                path.write_bytes(data)
            if not BY_PACKAGE[self.package].module:
                timings = [_estimate(path, Path(folder)) for path in paths]
                return [_relative(timing, timings[0]) for timing in timings]
            try:
                return time_files(paths, self.package, threads=self.threads)
            except InterpreterFailedError as error:
                if len(files) == 1:
                    return [Timing(None, error=str(error))]
            # One of them brought the process down: each is timed beside the base alone.
            return [self._beside(paths[0], path) for path in paths]

    def _beside(self, base: Path, path: Path) -> Timing:
        """A file's timing beside the base's; by itself where the base is what does not run."""
        try:
            return time_files([base, path], self.package, threads=self.threads)[1]
        except InterpreterFailedError:
            pass
        try:
            return replace(time_files([path], self.package, threads=self.threads)[0], relative=None)
        except InterpreterFailedError as error:
            return Timing(None, error=str(error))


def _estimate(path: Path, folder: Path) -> Timing:
    compiled = compile_for_npu(path, folder)
    if compiled.latency_us is None or compiled.cpu:
        left = f"the NPU leaves {', '.join(compiled.cpu)} to the CPU, whose time its compiler does not estimate"
        return Timing(None, error=compiled.error or left)
    return Timing(compiled.latency_us, compiled.latency_us, compiled.latency_us)


def _relative(timing: Timing, base: Timing) -> Timing:
    if timing.latency_us is None or base.latency_us is None:
        return timing
    ratio = timing.latency_us / base.latency_us if base.latency_us else math.inf
    return Timing(timing.latency_us, timing.low_us, timing.high_us, ratio)
