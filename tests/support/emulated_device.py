"""Devices with other processors, emulated: Debian's Python under qemu, with an interpreter and this project's wheel.

    python3 run.py device MACHINE RUNTIME [COMMAND ARGUMENT...]

runs one of the project's commands, or ``python``, on a device: aarch64 with ai-edge-litert or tflite-runtime, armv7l
with tflite-runtime. Without COMMAND the device is set up and described. Needs ``qemu-user-static``, and ``apt-get`` and
``dpkg-deb`` with Debian 12 as their source; no root. A device is set up once and kept in the user's cache folder.

Emulation is exact about integers and IEEE floats, and says nothing about speed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from foreign_packages import FetchError, install_wheels, unpack_debian
from project_wheel import build_wheel
from servers import ready_emulated

LAYOUT = 1
"""Raise it when a device's folder is built in another way, so that old ones are not used any more."""


@dataclass(frozen=True)
class Architecture:
    """What a device of one kind is made of.

    Attributes:
        machine: what ``uname -m`` says there.
        debian: Debian's name of it.
        emulator: the program that runs its programs.
        cpu: the processor that is emulated.
        packages: Debian packages, unpacked with all that they need.
        wheels: for each interpreter, what pip installs beside them.
    """

    machine: str
    debian: str
    emulator: str
    cpu: str
    packages: tuple[str, ...]
    wheels: dict[str, tuple[str, ...]]


ARCHITECTURES = {
    architecture.machine: architecture
    for architecture in (
        Architecture(
            machine="aarch64",
            debian="arm64",
            emulator="qemu-aarch64-static",
            # Without a processor named, or with `max`, qemu 7.2 computes garbage for int8.
            cpu="cortex-a72",
            packages=("python3.11", "libstdc++6"),
            wheels={
                # 2.2 and 2.3 crash in qemu 7.2.
                "ai-edge-litert": ("ai-edge-litert==2.1.6", "numpy==1.26.4", "click", "Pillow"),
                "tflite-runtime": ("tflite-runtime==2.14.0", "numpy==1.26.4", "click", "Pillow"),
            },
        ),
        Architecture(
            machine="armv7l",
            debian="armhf",
            emulator="qemu-arm-static",
            cpu="cortex-a15",
            # PyPI has no wheels of numpy and Pillow for it; Debian has both.
            packages=("python3.11", "libstdc++6", "python3-numpy", "python3-pil"),
            wheels={"tflite-runtime": ("--no-deps", "tflite-runtime==2.14.0", "click")},
        ),
    )
}


class MissingProgramError(Exception):
    """A program that the emulation needs is not installed."""


@dataclass(frozen=True)
class Device:
    """A device that was set up.

    Attributes:
        architecture: its kind.
        runtime: the interpreter package that is installed on it.
        folder: holds ``root`` and one ``site-packages`` for each interpreter.
        project: a folder in which the project's wheel is installed.
        ready: the words that run a script on it in a process that has imported everything; see :meth:`served`.
    """

    architecture: Architecture
    runtime: str
    folder: Path
    project: Path
    ready: tuple[str, ...] = ()

    @contextmanager
    def served(self) -> Iterator["Device"]:
        """The same device with a server on it: Python starts once, and each command is a fork of that."""
        with ready_emulated(self._python(), self._environment()) as words:
            yield replace(self, ready=tuple(words))

    @property
    def site_packages(self) -> Path:
        """Where the interpreter is installed, and for aarch64 numpy and Pillow too."""
        return self.folder / self.runtime

    def run(self, command: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of the project's commands, or ``python``, on the device; it sees this machine's files."""
        return self._run([*(self.ready or self._python())], command, arguments, cwd)

    def cold(self, command: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The same in a process that starts and imports everything itself, even if there is a server."""
        return self._run(self._python(), command, arguments, cwd)

    def _run(
        self, python: list[str], command: str, arguments: tuple[str | Path, ...], cwd: Path | None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python, *self._script(command), *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=self._environment(),
            timeout=300,
            check=False,
        )

    def execute(self, command: str, *arguments: str) -> int:
        """The same with this process's own input and output."""
        line = [*self._python(), *self._script(command), *arguments]
        return subprocess.run(line, env=self._environment(), check=False).returncode

    def _python(self) -> list[str]:
        root = self.folder / "root"
        return [
            self.architecture.emulator,
            "-cpu",
            self.architecture.cpu,
            "-L",
            f"{root}",
            f"{root}/usr/bin/python3.11",
        ]

    def _script(self, command: str) -> list[str]:
        return [] if command == "python" else [str(self.project / "bin" / command)]

    def _environment(self) -> dict[str, str]:
        """Nothing of this machine's Python may be found there."""
        path = os.pathsep.join([str(self.project), str(self.site_packages)])
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": path, "PYTHONNOUSERSITE": "1"}


def set_up(architecture: Architecture) -> Path:
    """The folder of a device, set up unless it is there.

    Raises:
        MissingProgramError: qemu, apt or dpkg is not installed.
        FetchError: Debian's packages cannot be had.
        RuntimeError: pip failed.
    """
    missing = [name for name in (architecture.emulator, "apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        raise MissingProgramError(f"{', '.join(missing)} is not installed. On Debian: apt-get install qemu-user-static")

    def build(folder: Path) -> None:
        (folder / "root").mkdir()
        versions = unpack_debian(architecture.packages, architecture.debian, folder / "root")
        for runtime, wheels in architecture.wheels.items():
            install_wheels(wheels, folder / runtime, architecture.machine)
            versions += "".join(f"{runtime}: {path.stem}\n" for path in sorted((folder / runtime).glob("*.dist-info")))
        (folder / "versions.txt").write_text(versions)

    return cached(f"{architecture.machine}-{_digest(architecture)}", build)


def same_interpreter(architecture: Architecture, runtime: str) -> Path:
    """A folder with the device's wheels for the machine that runs this, to compare with.

    Raises:
        RuntimeError: pip failed.
    """
    wheels = architecture.wheels[runtime]
    version = ".".join(str(part) for part in sys.version_info[:2])
    name = f"{runtime}-python{version}-{_digest(wheels)}"
    return cached(name, lambda folder: install_wheels(wheels, folder))


def _digest(value: object) -> str:
    return hashlib.sha256(repr((LAYOUT, value)).encode()).hexdigest()[:12]


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """A folder in the user's cache that ``build`` filled: whole, or not there at all.

    Several may ask at once: one builds and the others wait. What an interrupted build left is thrown away.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedlite" / "devices"
    folder, partial = cache / name, cache / f"{name}.partial"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        # The system frees the lock when the process ends, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            build(partial)
            partial.rename(folder)
    return folder


def describe(device: Device) -> str:
    """What was installed, and how large it is without Python's byte code."""
    files = [path for path in device.site_packages.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    size = sum(path.stat().st_size for path in files)
    return f"{(device.folder / 'versions.txt').read_text()}{device.site_packages}: {size:,} bytes"


def main(arguments: list[str]) -> int:
    """Set up a device and run a command on it."""
    machine, runtime, *command = arguments if len(arguments) > 1 else ["", ""]
    architecture = ARCHITECTURES.get(machine)
    if architecture is None or runtime not in architecture.wheels:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        folder = set_up(architecture)
    except (MissingProgramError, FetchError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="embedlite-wheel-") as name:
        project = Path(name) / "project"
        install_wheels(["--no-deps", str(build_wheel(Path(name)))], project)
        device = Device(architecture, runtime, folder, project)
        if command:
            return device.execute(*command)
        print(describe(device))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
