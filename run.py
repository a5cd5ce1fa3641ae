"""Everything from nothing: makes an environment in .venv from this project's own files, then works in it.

    python3 run.py demo [FOLDER]     train, export, embed and report on scikit-learn's digits (default: out/)
    python3 run.py windows [FOLDER]  the same for windows of a motion sensor (default: out/windows/)
    python3 run.py check [ARGUMENT…] ruff, mypy and the tests that start neither TensorFlow nor another world
    python3 run.py test [ARGUMENT…]  ruff, mypy and all tests; arguments go to pytest
    python3 run.py bench NAME        one of benchmarks/NAME.py
    python3 run.py docs              the documentation as a site, in out/site/
    python3 run.py build             wheel and source archive of what is committed, checked, in dist/
    python3 run.py device MACHINE RUNTIME [COMMAND…]  set up an emulated device and run a command there, for instance
                                     aarch64 ai-edge-litert inspect-tflite out/model.int8.tflite

Needs Python 3.10 to 3.13 and nothing else; $PYTHON names another one than the Python that runs this.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
PACKAGES = ("runtime", "calibration", "convert", "report")
# One file of tests stays in one process, which makes what its tests share once.
WORKERS = ("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
MINIMUM, MAXIMUM = (3, 10), (3, 13)


def main() -> int:
    """Dispatch on the first argument."""
    task, *arguments = sys.argv[1:] or ["help"]
    if task == "demo":
        return in_environment("examples/digits.py", *(arguments or ["out"]))
    if task == "windows":
        return in_environment("examples/windows.py", *(arguments or ["out/windows"]))
    if task == "check":
        return style() or in_environment("-m", "pytest", *WORKERS, "--quick", *arguments)
    if task == "test":
        return style() or test(arguments)
    if task == "bench" and arguments:
        return in_environment(f"benchmarks/{arguments[0]}.py", *arguments[1:])
    if task == "docs":
        return in_environment("-m", "mkdocs", "build", "--quiet", "-f", "site/mkdocs.yml")
    if task == "build":
        return build()
    if task == "device":
        return in_environment("tests/support/emulated_device.py", *arguments)
    print(__doc__)
    return 0 if task in ("help", "-h", "--help") else 2


def style() -> int:
    """Style and types: the first that fails ends it."""
    packages = [part for name in PACKAGES for part in ("-p", f"embedlite.{name}")]
    for command in (
        ("-m", "ruff", "check", "."),
        ("-m", "ruff", "format", "--check", "."),
        ("-m", "mypy", *packages),
    ):
        code = in_environment(*command)
        if code:
            return code
    return 0


def test(arguments: list[str]) -> int:
    """All tests; ``--digits FOLDER`` says where the example is already."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--digits")
    known, arguments = parser.parse_known_args(arguments)
    if known.digits is not None:
        return in_environment("-m", "pytest", *WORKERS, f"--digits={known.digits}", *arguments)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        # Made once for all of pytest's workers: each would train the example for itself.
        shared = (*WORKERS, f"--digits={folder}")
        return in_environment("examples/digits.py", folder) or in_environment("-m", "pytest", *shared, *arguments)


def build() -> int:
    """What PyPI takes. Built from a copy of the commit, because setuptools takes up what earlier builds left."""
    commit = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        with tarfile.open(fileobj=io.BytesIO(commit)) as archive:
            archive.extractall(folder)
        code = in_environment("-m", "build", "--outdir", str(dist), folder)
    return code or in_environment("-m", "twine", "check", "--strict", *(str(path) for path in sorted(dist.iterdir())))


def in_environment(*command: str) -> int:
    """Run Python in the environment, from the project's root."""
    prepare()
    path = os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", "")])
    return subprocess.run([PYTHON, *command], cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


def prepare() -> None:
    """Make the environment, unless it stands and what it was made from has not changed."""
    stamp = ENVIRONMENT / "embedlite.stamp"
    sources = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    # A strict editable install links the files that it finds, so a new file needs a new install.
    wanted = hashlib.sha256(
        b"".join([(ROOT / "setup.cfg").read_bytes(), *(str(path).encode() for path in sources)])
    ).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"setting up {ENVIRONMENT} (some minutes, about 3 GB the first time) ...", flush=True)
    if not PYTHON.exists():
        interpreter = os.environ.get("PYTHON", sys.executable)
        version = subprocess.run(
            [interpreter, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
        ).stdout.split()
        if not MINIMUM <= (int(version[0]), int(version[1])) <= MAXIMUM:
            sys.exit(
                f"Python {'.'.join(version)} cannot run TensorFlow 2.21 and its companions; use 3.10 to 3.13, "
                "for instance PYTHON=python3.11 python3 run.py demo"
            )
        subprocess.run([interpreter, "-m", "venv", ENVIRONMENT], check=True)
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    subprocess.run([*pip, "--upgrade", "pip"], cwd=ROOT, check=True)
    subprocess.run([*pip, "--editable", ".[dev]"], cwd=ROOT, check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    sys.exit(main())
