"""Processes that stand ready: what a command imports first is imported once, and every command is a fork of that.

Importing TensorFlow and Keras takes longer than most commands work. A server imports them, runs nothing, and forks for
each command, which then is a process of its own with argv, streams, folder, environment and exit code as if the shell
had started it. There are several servers, because tflite-runtime must not see TensorFlow.

:mod:`servers.client` takes the place of the Python executable; :mod:`servers.server` is the other end. What is lost is
what only a fresh process has: warnings during imports, what an import costs, a hash seed of its own, a terminal, and
signals but the one that kills. Tests of those start processes of their own (``run.cold``).
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

WORLDS = ("tensorflow", "device", "vela")

CONNECTION_LOST = 250
"""Exit code of a client whose server ended while the command ran; no command of the project has it."""

_HERE = Path(__file__).resolve().parent
_SECONDS_TO_STOP = 10


@dataclass(frozen=True)
class ReadyPython:
    """What takes the place of the Python executable."""

    folder: Path
    python: str

    @property
    def executable(self) -> Path:
        """A program for ``sys.executable``: serves the project's commands and modules; Python runs the rest."""
        return self.folder / "auto"

    def of(self, world: str) -> list[str]:
        """The words that run a script, ``-m`` or ``-c`` in a server's world; ``auto`` chooses it by the command."""
        return [self.python, "-IS", str(_HERE / "client.py"), self.python, str(self.folder), world]

    def log(self) -> str:
        """The last lines that the servers wrote themselves, which is only what went wrong."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{path.stem}: {path.read_text(errors='replace')[-3000:]}" for path in logs)


@contextmanager
def ready_python() -> Iterator[ReadyPython]:
    """Start the servers; they import when first asked."""
    with TemporaryDirectory(prefix="embedlite-servers-") as name:
        ready = ReadyPython(Path(name), sys.executable)
        ready.executable.write_text(f'#!/bin/sh\nexec {shlex.join(ready.of("auto"))} "$@"\n')
        ready.executable.chmod(0o755)
        servers = {world: _start(ready, world, [ready.python], str(ready.executable)) for world in WORLDS}
        try:
            yield ready
        finally:
            _stop_all(ready, servers)


@contextmanager
def ready_emulated(python: Sequence[str], environment: dict[str, str]) -> Iterator[list[str]]:
    """The same for another machine's Python in an emulator, which also keeps what it translated: the world ``device``.

    Args:
        python: the words that start it, its own path last.
        environment: its variables; commands must have those that a library reads once.

    Yields:
        The words that run a script, ``-m`` or ``-c`` there.
    """
    with TemporaryDirectory(prefix="embedlite-servers-") as name:
        ready = ReadyPython(Path(name), sys.executable)
        ready.executable.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
        ready.executable.chmod(0o755)
        server = _start(ready, "device", python, python[-1], environment)
        try:
            yield [ready.python, "-IS", str(_HERE / "client.py"), str(ready.executable), name, "device"]
        finally:
            _stop_all(ready, {"device": server})


def _stop_all(ready: ReadyPython, servers: dict[str, subprocess.Popen[bytes]]) -> None:
    ended = [world for world, server in servers.items() if server.poll() is not None]
    if ended:
        # Not an error: what they would have run, Python ran.
        sys.stderr.write(f"servers of commands that ended before they were told to: {ended}\n{ready.log()}\n")
    for server in servers.values():
        _stop(server)


def _start(
    ready: ReadyPython, world: str, python: Sequence[str], executable: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        (ready.folder / f"{world}.log").open("wb") as log,
    ):
        listener.bind(str(ready.folder / world))
        listener.listen(64)
        return subprocess.Popen(
            [*python, str(_HERE / "server.py"), world, str(listener.fileno()), executable],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[listener.fileno()],
            # Ctrl-C in the terminal is for pytest, which then stops the servers.
            start_new_session=True,
        )


def _stop(server: subprocess.Popen[bytes]) -> None:
    """A server ends what it runs, and then itself, when nobody holds the other end of its stdin any more."""
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        # What it runs is in its group.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
