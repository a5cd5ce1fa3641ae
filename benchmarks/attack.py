"""Damaged and hostile files, as many as the time allows: no crash, no hang, no foreign exception, no other vector.

    python3 run.py bench attack --minutes 60 --seed 7
    python3 run.py bench attack --count 500 model.int8.tflite
    python3 run.py bench attack --count 40000 --plain 30000 --fork

Each FILE (default: small encoders exported here) is changed in many ways, with its contract and without one, and opened
and run by Encoder on LiteRT and on tflite-runtime, in a process that does one file after the other. A finding is a file
at which that process crashes, hangs or raises what is not ours, or, with a contract, answers another vector; it is kept
in --keep. The same seed and count make the same files. Exit code 1 says that there are findings. How far it is stands
on stderr, every minute.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from embedlite.runtime.backends.interpreters import installed
from embedlite.runtime.commands.options import quiet_libraries
from embedlite.runtime.model.artifact import MARKER, read_artifact

RUNTIMES = ("ai-edge-litert", "tflite-runtime")
"""What devices run, and what runs every mode."""

PLAIN = 4
"""Unless told otherwise one file in so many has no contract: its trial is a process of its own, and takes most of the
time."""

PATIENCE = 180.0
"""Seconds without a word after which the process hangs; a trial may take thirty."""

TELL = 60.0
"""Seconds between two words about how far it is."""

WORDS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)

WORKER = Path(__file__).with_name("attack_worker.py")


def main() -> int:
    """Attack and print what the files ended in."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--count", type=int, help="so many files, however long it takes")
    parser.add_argument("--plain", type=int, help="with --count: so many without a contract (default: a quarter)")
    parser.add_argument("--fork", action="store_true", help="trials are forked instead of started: many more an hour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("attack"), help="where findings are kept")
    asked = parser.parse_args()
    if asked.plain is not None and (asked.count is None or not 0 <= asked.plain <= asked.count):
        parser.error("--plain is a number of the files of --count")
    share = Fraction(1, PLAIN) if asked.plain is None else Fraction(asked.plain, asked.count)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as name:
        files = asked.files or export_small(Path(name))
        seeds = [Seed(path, Path(name), place) for place, path in enumerate(files)]
        workers = {runtime: Worker(runtime, fork=asked.fork) for runtime in RUNTIMES if installed(runtime)}
        end = None if asked.count is not None else time.monotonic() + 60 * asked.minutes
        counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        findings, told = 0, time.monotonic()
        for number, (seed, data, plain, how) in enumerate(mutants(seeds, asked.seed, share)):
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                print(f"{number:,} files, {findings} finding(s)", file=sys.stderr, flush=True)
            if number == asked.count or (end is not None and time.monotonic() > end):
                break
            path = Path(name, "mutant.tflite")
            path.write_bytes(data)
            for runtime, worker in workers.items():
                if not seed.runs_on(runtime):
                    continue
                found = worker.judge(seed.job(path, runtime, plain=plain))
                counts[runtime, "without contract" if plain else "with contract", found.partition(":")[0]] += 1
                if found.startswith("FINDING"):
                    findings += 1
                    asked.keep.mkdir(parents=True, exist_ok=True)
                    kept = asked.keep / f"{asked.seed}-{number}-{runtime}.tflite"
                    kept.write_bytes(data)
                    print(f"{kept}: {how} of {seed.path.name}: {found}", flush=True)
        for worker in workers.values():
            worker.close()
    for (runtime, kind, found), count in sorted(counts.items()):
        print(f"{runtime:<16} {kind:<17} {found:<40} {count:>8,}")
    print(f"{findings} finding(s) in {sum(counts.values()):,} runs of {number:,} files, seed {asked.seed}")
    return 1 if findings else 0


class Seed:
    """A sound file: its bytes, the same without a contract, pixels, and what each interpreter makes of them."""

    def __init__(self, path: Path, folder: Path, place: int) -> None:
        self.path, self._folder, self._place = path, folder, place
        self.data = path.read_bytes()
        artifact = read_artifact(path)
        self.bare = without_contract(artifact.flatbuffer)
        if artifact.contract is None:
            raise SystemExit(f"{path} has no contract. Name files that export-tflite wrote.")
        self.shape = artifact.contract.input.shape
        self._pixels = folder / f"pixels{place}.npy"
        np.save(self._pixels, np.random.default_rng(0).integers(0, 256, self.shape, np.uint8))

    def job(self, path: Path, runtime: str, *, plain: bool) -> dict[str, object]:
        """What the worker is told."""
        wanted = None if plain else str(self._wanted(runtime))
        return {"path": str(path), "pixels": str(self._pixels), "wanted": wanted, "shape": self.shape}

    def runs_on(self, runtime: str) -> bool:
        """Whether the sound file runs there; tflite-runtime lacks versions of operators."""
        return self._wanted(runtime).stat().st_size > 0

    def _wanted(self, runtime: str) -> Path:
        path = self._folder / f"wanted{self._place}.{runtime}.npy"
        if not path.exists():
            # Another process: the interpreters cannot all live in one.
            code = (
                "import sys, numpy as np\nfrom embedlite.runtime import Encoder\n"
                "np.save(sys.argv[3], Encoder(sys.argv[1], 1).embed_one(np.load(sys.argv[2])))"
            )
            command = [sys.executable, "-c", code, str(self.path), str(self._pixels), str(path)]
            environment = {**os.environ, "EMBEDLITE_RUNTIME": runtime}
            if subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode:
                path.write_bytes(b"")
        return path


class Worker:
    """A process that opens files with one interpreter; started again where one ends it."""

    def __init__(self, runtime: str, *, fork: bool = False) -> None:
        self._command = [sys.executable, str(WORKER), *(["--fork"] if fork else [])]
        self._environment = {**os.environ, "EMBEDLITE_RUNTIME": runtime}
        self._process: subprocess.Popen[str] | None = None

    def judge(self, job: dict[str, object]) -> str:
        """What a file ended in."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else ""
        if line:
            end: str = json.loads(line)
            return end
        self.close()
        return f"FINDING crash: code {process.returncode}" if ready else f"FINDING hang: nothing for {PATIENCE:g} s"

    def _start(self) -> "subprocess.Popen[str]":
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self._environment,
        )
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def mutants(seeds: list[Seed], seed: int, share: Fraction) -> Iterator[tuple[Seed, bytes, bool, str]]:
    """Changed files without end: the file it was, its bytes, whether without a contract, and how it was changed.

    The share of those without a contract is kept at every length.
    """
    rng = random.Random(seed)
    for number in itertools.count():
        source, plain = rng.choice(seeds), int((number + 1) * share) > int(number * share)
        data = bytearray(source.bare if plain else source.data)
        how = rng.choice(("bits", "word", "words near the front", "swap", "cut", "zeros", "doubled"))
        place = rng.randrange(len(data) - 8)
        if how == "bits":
            for _ in range(rng.choice((1, 1, 1, 2, 8))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how in ("word", "words near the front"):
            # Tables, and with them sizes, kinds and indices, are mostly at the ends of the flatbuffer.
            limit = len(data) if how == "word" else min(len(data), 4096)
            for _ in range(rng.choice((1, 1, 2))):
                place = 4 * rng.randrange((limit - 4) // 4)
                data[place : place + 4] = rng.choice(WORDS).to_bytes(4, "little")
        elif how == "swap":
            other, size = rng.randrange(len(data) - 8), rng.choice((4, 8))
            data[place : place + size], data[other : other + size] = (
                data[other : other + size],
                data[place : place + size],
            )
        elif how == "cut":
            del data[place:]
        elif how == "zeros":
            size = min(rng.choice((1, 4, 64, 1024)), len(data) - place)
            data[place : place + size] = bytes(size)
        else:
            data[place:place] = data[place : place + rng.choice((4, 64))]
        yield source, bytes(data), plain, how


def without_contract(flatbuffer: bytes) -> bytes:
    """The same model without the marks that say that a contract belongs to it."""
    from embedlite.convert.graph.graph import Graph

    graph = Graph(flatbuffer)
    graph.model.description = None
    graph.model.metadata = [
        entry for entry in graph.model.metadata or [] if entry.name not in (MARKER, MARKER.encode())
    ]
    return graph.to_bytes()


def export_small(folder: Path) -> list[Path]:
    """Small encoders of both kinds, for want of files."""
    with quiet_libraries():
        import keras
        from keras import layers

        from embedlite.convert import ExportOptions, export
        from embedlite.convert.layers import MinMaxNormalization

        keras.utils.set_random_seed(0)
        body = [layers.Conv2D(8, 3, strides=2, activation="relu"), layers.DepthwiseConv2D(3, activation="relu6")]
        tail = [layers.Conv2D(8, 3, strides=2), layers.Flatten(), layers.Dense(16), MinMaxNormalization()]
        model = keras.Sequential([keras.Input((24, 24, 3)), *body, *tail], name="small")
        images = np.random.default_rng(0).integers(0, 256, (16, 24, 24, 3), np.uint8)
        options = ExportOptions(measure=False)
        result = export(model, folder, quantize=["all"], calibration_data=images, options=options)
    return [file.path for file in result.files]


if __name__ == "__main__":
    sys.exit(main())
