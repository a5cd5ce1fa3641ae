"""``drift-report --gallery`` on a gallery of a million vectors with labels: wall time, processor time and peak memory.

    python3 run.py bench gallery [VECTORS]      default: 1,000,000 of 128 values; some minutes on two cores

A thousand classes; the new vectors are the old ones turned, with noise, once in the gallery's order and once in another
one. The command runs in a process of its own. The peak is Linux's ru_maxrss; mapped pages of the files count as long as
they are mapped.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZE, CLASSES = 128, 1000


def write(folder: Path, count: int) -> None:
    """Old vectors, new ones in two orders, and labels."""
    from embedlite.runtime.drift.stored import pack_embeddings
    from embedlite.runtime.model.contract import InputContract

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    old = rng.standard_normal((CLASSES, SIZE), np.float32)[labels]
    old += rng.standard_normal((count, SIZE), np.float32)
    names = np.array([f"{number:07d}.jpg" for number in range(count)])
    turn, _ = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))
    new = old @ turn.astype(np.float32)
    new += np.float32(0.1) * rng.standard_normal((count, SIZE), np.float32)
    contract = InputContract((224, 224, 3))
    (folder / "old.npz").write_bytes(pack_embeddings(old, names, "0d" * 32, contract))
    (folder / "labels.csv").write_text("".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True)))
    for order, places in (("the same", slice(None)), ("another", rng.permutation(count))):
        (folder / f"{order}.npz").write_bytes(pack_embeddings(new[places], names[places], "ee" * 32, contract))


CODE = """
import json, resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
"""A process with one child, because the system tells the peak of all ended children."""


def main() -> None:
    """Write the files in a process of their own, run the command on them, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        subprocess.run([sys.executable, __file__, "--write", name, str(count)], check=True)
        print(f"{count:,} x {SIZE} vectors on either side, {CLASSES:,} classes\n")
        print(f"{'order':<10}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}  answer")
        for order in ("the same", "another"):
            command = ["drift-report", "--gallery", "old.npz", "--candidate-vectors", f"{order}.npz"]
            more = ["--labels", "labels.csv", "--map", f"{order}.map.npz", "--json", f"{order}.json", "--quiet"]
            done = subprocess.run(
                [sys.executable, "-c", CODE, *command, *more], cwd=name, capture_output=True, text=True, check=True
            )
            code, wall, spent, kibibytes = json.loads(done.stdout)
            if code not in (0, 1):
                sys.exit(done.stderr)
            answer = json.loads((Path(name) / f"{order}.json").read_text())["answer"]
            print(f"{order:<10}{wall:>8.0f}{spent:>8.0f}{kibibytes * 1.024 / 1e3:>9.0f}  {answer}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
