"""Commands that are ended at random moments: nothing half written, and after Ctrl-C and SIGTERM nothing left behind.

    python3 run.py bench signals --times 12 --seed 7
    python3 run.py bench signals --times 2 --command inspect --command embed

Each command runs once to its end, to know how long it takes; then it is ended by SIGKILL, by SIGTERM and by Ctrl-C's
signal, so many times each, at moments from its start to its end. A finding is a file in the folder of results that is
not one of a whole run, or not of its size, the name of a temporary file, a traceback, or, after the last two signals,
anything in the temporary folder. Exit code 1 says that there are findings.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from embedlite.runtime import DriftMonitor, Encoder
from embedlite.runtime.commands.options import quiet_libraries

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

STARTS = 0.2
"""Seconds that Python takes at most to come to the first line of a command."""

PATIENCE = 120.0
"""Seconds that a command may take to end after a signal."""

COMMANDS = {
    "export": ("export-tflite", "model.keras", "-o", "out", "--calibration-data", "images.npy", "-q", "all"),
    "embed": ("embed-tflite", "model.tflite", "images.npy", "-o", "out/vectors.npz"),
    "fleet": ("drift-fleet", "monitors/a.json", "monitors/b.json", "--json", "out/fleet.json"),
    "inspect": ("inspect-tflite", "model.tflite", "--json", "out/inspected.json"),
    "report": (
        *("drift-report", "model.tflite", "--reference", "model.keras", "--data", "images.npy"),
        *("--json", "out/report.json", "--html", "out/report.html"),
    ),
}


def main() -> int:
    """End commands and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=12, help="for each command and signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=sorted(COMMANDS), help="default: all of them")
    asked = parser.parse_args()
    # What a shell starts in the background ignores it, and so would what is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(asked.seed)
    findings = 0
    with tempfile.TemporaryDirectory(prefix="embedlite-") as name:
        folder = Path(name)
        prepare(folder)
        for command in asked.command or COMMANDS:
            seconds, whole = run_whole(folder, COMMANDS[command])
            for number in SIGNALS:
                ends: collections.Counter[int] = collections.Counter()
                for _ in range(asked.times):
                    moment = rng.random() * seconds
                    code, found = run_and_end(folder, COMMANDS[command], number, moment, whole)
                    ends[code] += 1
                    findings += len(found)
                    for finding in found:
                        print(f"{command}, {number.name} after {moment:.2f} s: {finding}", flush=True)
                codes = ", ".join(f"{code}: {count}" for code, count in sorted(ends.items()))
                print(f"{command:<8} {seconds:5.1f} s  {number.name:<8} exit codes {codes}", flush=True)
    print(f"{findings} finding(s), seed {asked.seed}")
    return 1 if findings else 0


def prepare(folder: Path) -> None:
    """A small encoder, its file, images and what two monitors saw."""
    with quiet_libraries():
        import keras
        from keras import layers

        from embedlite.convert import ExportOptions, export

        body = [layers.Conv2D(8, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(16)]
        model = keras.Sequential([keras.Input((24, 24, 3)), *body], name="small")
        model.save(folder / "model.keras")
        made = export(model, folder / "made", quantize=["float32"], options=ExportOptions(measure=False))
    shutil.copy(made.files[0].path, folder / "model.tflite")
    images = np.random.default_rng(0).integers(0, 256, (32, 24, 24, 3), np.uint8)
    np.save(folder / "images.npy", images)
    (folder / "monitors").mkdir()
    for place, name in enumerate(("a", "b")):
        state = folder / "monitors" / f"{name}.json"
        with (
            Encoder(folder / "model.tflite", 1) as encoder,
            DriftMonitor(encoder, folder / "model.tflite", every=1, budget=None, state=state) as monitor,
        ):
            for image in images[place::2]:
                monitor.embed_one(image)


def start(folder: Path, command: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """The command in a folder with nothing of another run."""
    for name in ("out", "tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    program = Path(sys.executable).with_name(command[0])
    return subprocess.Popen(
        [program, *command[1:]],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("wb"),
    )


def sizes(folder: Path) -> dict[str, int]:
    """The files of a folder with their sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def run_whole(folder: Path, command: tuple[str, ...]) -> tuple[float, dict[str, int]]:
    """Seconds of a run, and its results.

    Raises:
        SystemExit: it fails.
    """
    begun = time.monotonic()
    code = start(folder, command).wait()
    if code not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with code {code}.")
    return time.monotonic() - begun, sizes(folder / "out")


def run_and_end(
    folder: Path, command: tuple[str, ...], number: signal.Signals, moment: float, whole: dict[str, int]
) -> tuple[int, list[str]]:
    """The exit code of a run that a signal met, and what is wrong afterwards."""
    process = start(folder, command)
    time.sleep(moment)
    process.send_signal(number)
    found = []
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
        found.append(f"did not end within {PATIENCE:g} s")
    if number == signal.SIGKILL:
        time.sleep(0.5)  # its own process ends with it, and may be at a system call
    for name, size in sizes(folder / "out").items():
        if name not in whole:
            # A result that was being written has a temporary name, which only SIGKILL may leave.
            if number != signal.SIGKILL or not name.rpartition("/")[2].startswith("."):
                found.append(f"left {name} among the results")
        elif not name.endswith((".json", ".html")) and size != whole[name]:
            found.append(f"{name} has {size:,} bytes, and {whole[name]:,} after a whole run")
    # In its first moments Python itself answers Ctrl-C, before a command can.
    if b"Traceback" in (folder / "stderr").read_bytes() and not (moment < STARTS and code in (1, -number)):
        found.append("printed a traceback")
    left = sorted(path.name for path in (folder / "tmp").iterdir())
    if left and number != signal.SIGKILL:
        found.append(f"left {', '.join(left)} in the temporary folder")
    return code, found


if __name__ == "__main__":
    sys.exit(main())
