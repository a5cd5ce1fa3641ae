"""What verifying a file costs: the 512x512x3 six-block encoder on each runtime, against one bare inference there.

    python3 run.py bench verify

Verification opens the file in a process of its own and runs a few images and the edge frames. The bare inference is the
second one of an open interpreter, with the processors that verification gives it.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    from embedlite.convert import ExportOptions, export
    from embedlite.convert.verify.measure import collect_frames
    from embedlite.convert.verify.verdicts import judge
    from embedlite.runtime import InputContract
    from embedlite.runtime.backends.registry import BACKENDS
    from embedlite.runtime.check.timing import time_files
from embedlite.runtime.backends.interpreters import installed
from embedlite.runtime.check.probe import probe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SIZE, IMAGES = 512, 4
MODES = ("float32", "int8")


def main() -> None:
    """Measure and print."""
    from six_blocks import six_blocks

    images = np.random.default_rng(0).random((16, SIZE, SIZE, 3), np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_libraries():
            model = six_blocks((SIZE, SIZE, 3))
            model(images[:1])
            result = export(
                model, folder, quantize=MODES, calibration_data=images, options=ExportOptions(measure=False)
            )
            reference = lambda image: np.asarray(model(image[None]))[0]  # noqa: E731
            frames, _ = collect_frames(InputContract((SIZE, SIZE, 3)), None, reference, folder)
        print(f"{SIZE}x{SIZE}x3, {IMAGES} frames and {int(frames.edge.sum())} edge frames\n")
        print(f"{'file':<10}{'runtime':<18}{'seconds':>8}{'bare ms':>10}   verdict")
        rows = [*np.flatnonzero(~frames.edge)[:IMAGES].tolist(), *np.flatnonzero(frames.edge).tolist()]
        for file in result.files:
            total = 0.0
            for target in BACKENDS.values():
                if target.name == "ethos-u" or file.mode not in target.modes or not installed(target.package):
                    continue
                start = time.perf_counter()
                answer = probe(file.path, target.package, frames.ready, rows, threads=1, seconds=6)
                verdict = judge(answer, file.mode, frames.part(rows), None)
                took = time.perf_counter() - start
                total += took if target.name in ("litert", "tflite-runtime") else 0
                (bare,) = time_files([file.path], target.package, threads=1)
                milliseconds = (bare.latency_us or 0) / 1000
                print(f"{file.mode:<10}{target.package:<18}{took:>8.1f}{milliseconds:>10.0f}   {verdict.detail}")
            print(f"{file.mode:<10}{'LiteRT and tflite-runtime together':<26}{total:>.1f} s")


if __name__ == "__main__":
    main()
