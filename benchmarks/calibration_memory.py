"""Peak memory of calibrating with histograms, on few and on many images of one mapped ``.npy``.

Each run is a process of its own that imports no TensorFlow; the figure is Linux's VmHWM, in which mapped pages of the
file count as long as they are mapped.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FEW, MANY, LIMIT = 100, 2000, 50
"""Images, and the MB that may lie between."""


def measure_memory() -> None:
    """Write the images, run the processes and print."""
    from calibration_graph import SHAPE, encoder, float_graph

    flatbuffer, without = float_graph(encoder())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "graph.tflite").write_bytes(flatbuffer)
        (folder / "without.json").write_text(json.dumps(sorted(without)))
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (MANY, *SHAPE))
        first = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
        for index in range(MANY):
            images[index] = np.roll(first, index, axis=0)
        del images
        print(f"{SHAPE[0]}x{SHAPE[1]}x{SHAPE[2]} uint8 in a mapped .npy, all threads\n")
        print(f"{'images':>8}{'peak MB':>10}")
        peaks = []
        for count in (FEW, MANY):
            command = [sys.executable, __file__, str(folder), str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout))
            print(f"{count:>8}{peaks[-1]:>10.1f}", flush=True)
        print(f"\n{peaks[1] - peaks[0]:.1f} MB apart; the limit is {LIMIT}")


def peak(folder: Path, count: int) -> float:
    """Calibrate on the first images and return this process's peak in MB."""
    from embedlite.calibration import collect_statistics
    from embedlite.runtime import InputContract
    from embedlite.runtime.images.open import open_source

    shape = np.load(folder / "images.npy", mmap_mode="r").shape[1:]
    source = open_source(folder / "images.npy", InputContract(shape))
    without = json.loads((folder / "without.json").read_text())
    collect_statistics((folder / "graph.tflite").read_bytes(), source, without=without, indices=range(count))
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    print(peak(Path(sys.argv[1]), int(sys.argv[2])))
