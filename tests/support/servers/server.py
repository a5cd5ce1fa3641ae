"""Forks for every command it is asked for: ``server.py WORLD DESCRIPTOR EXECUTABLE``.

DESCRIPTOR is a listening socket; EXECUTABLE is ``sys.executable`` of what it forks, so that a command's own processes
are served as well.

It runs nothing itself: the threads of a library that had worked before a fork would be missing after it. (OpenBLAS, the
only one that has threads as soon as it is imported, sees to that itself.) It ends when its stdin is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import Any, NoReturn

from client import READ_BY_ALL, circumstances

PRELOADED = {
    "tensorflow": (
        # First: it sets variables that TensorFlow reads.
        "embedlite.convert",
        "tensorflow",
        "keras",
        "h5py",
        "litert_quantizer",
        "PIL.Image",
        "embedlite.convert.command",
        "embedlite.convert.pipeline",
    ),
    "device": (
        "numpy",
        "click",
        "PIL.Image",
        "embedlite.runtime",
        "embedlite.runtime.commands.embed",
        "embedlite.runtime.commands.inspect",
        "embedlite.report.command",
        "embedlite.report.fleet.command",
    ),
    "vela": ("ethosu.vela.vela",),
}

READ_BY_TENSORFLOW = ("TF_", "KERAS_", "ONEDNN_", "DNNL_")

_SECONDS_TO_ASK = 300


class Server:
    """Waits for commands, for their ends, and for whoever asked to go away."""

    def __init__(self, world: str, listener: socket.socket) -> None:
        self.world = world
        self.listener = listener
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, self.stop)
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.running: dict[int, socket.socket] = {}
        self.circumstances = circumstances()
        self.started_with = dict(os.environ)
        self.set_by_imports: dict[str, str] | None = None

    def serve(self) -> None:
        """Until stdin is closed."""
        while True:
            for key, _ in self.selector.select():
                # What an event of the same round ended is no longer waited for.
                if self.selector.get_map().get(key.fd) is key:
                    key.data()

    def stop(self) -> NoReturn:
        """End what runs, and the server."""
        for child in self.running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        sys.exit(0)

    def accept(self) -> None:
        """Fork for the next command, or say that Python has to run it."""
        connection, _ = self.listener.accept()
        asked = _receive(connection)
        if asked is None:
            connection.close()
            return
        request, streams = asked
        if self.set_by_imports is None:
            self.set_by_imports = _import(self.world)
        could = _could_inherit(request["circumstances"], self.circumstances) and _could_have_imported(
            self.world, request["environment"], self.started_with, {**self.started_with, **self.set_by_imports}
        )
        child = _fork() if could else None
        if child == 0:
            self.selector.close()
            for other in (self.listener, connection, *self.running.values()):
                other.close()
            _become(request, streams, self.set_by_imports)
        for stream in streams:
            os.close(stream)
        if child is None:
            _answer(connection, "cold")
            return
        self.running[child] = connection
        process = os.pidfd_open(child)
        self.selector.register(process, selectors.EVENT_READ, functools.partial(self.ended, child, process))
        self.selector.register(connection, selectors.EVENT_READ, functools.partial(self.left, child))

    def ended(self, child: int, process: int) -> None:
        """A command ended: whoever asked is told how."""
        _, status = os.waitpid(child, 0)
        self.selector.unregister(process)
        os.close(process)
        connection = self.running.pop(child)
        if connection.fileno() in self.selector.get_map():
            self.selector.unregister(connection)
        _answer(connection, str(os.waitstatus_to_exitcode(status)))

    def left(self, child: int) -> None:
        """Whoever asked is gone, as after a timeout."""
        self.selector.unregister(self.running[child])
        os.kill(child, signal.SIGKILL)


def _answer(connection: socket.socket, answer: str) -> None:
    """Whoever asked may be gone."""
    with connection, contextlib.suppress(OSError):
        connection.send(answer.encode())


def _fork() -> int | None:
    """None if the system has no room for another process."""
    with warnings.catch_warnings():
        # Python 3.12 sees the threads of OpenBLAS.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return os.fork()
        except OSError:
            return None


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """A request and the three streams that came with it; None if whoever asked left before it was whole."""
    connection.settimeout(_SECONDS_TO_ASK)
    streams: list[int] = []
    try:
        # The streams come with the first byte.
        head, streams, _, _ = socket.recv_fds(connection, 8, 3)
        head = _read(connection, 8, head)
        data = _read(connection, int.from_bytes(head, "big"), b"")
        if len(streams) == 3:
            connection.settimeout(None)
            return json.loads(data), streams
    except OSError:
        pass
    for stream in streams:
        os.close(stream)
    return None


def _read(connection: socket.socket, length: int, data: bytes) -> bytes:
    """Read on up to a length; a socket may give less than it was asked for.

    Raises:
        ConnectionError: there is no more.
    """
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def _could_inherit(wanted: dict[str, str], here: dict[str, str]) -> bool:
    """Whether a fork can be given what a command inherits: signals ignored or blocked can be added, nothing else.

    What starts a process of its own from one of the commands ignores SIGTTOU, as these do, and blocks what ends it.
    """
    signals = dict.fromkeys(("SigIgn", "SigBlk"), "")
    added = all(int(here[name], 16) & ~int(wanted[name], 16) == 0 for name in signals)
    return added and {**wanted, **signals} == {**here, **signals}


def _signals_in(mask: str) -> list[int]:
    """The signals of a mask of /proc that can be ignored or blocked."""
    fixed = (signal.SIGKILL, signal.SIGSTOP)
    return [number for number in signal.valid_signals() if int(mask, 16) >> number - 1 & 1 and number not in fixed]


def _could_have_imported(
    world: str, environment: dict[str, str], before: dict[str, str], after: dict[str, str]
) -> bool:
    """Whether the imports found the variables that they read as this command would show them.

    A command may have them as the server had them before its imports, or as these left them (whoever started it has
    imported the same). The two differ: OpenCV puts itself in front of $LD_LIBRARY_PATH each time.
    """
    read = READ_BY_ALL + (READ_BY_TENSORFLOW if world == "tensorflow" else ())
    names = {name for name in {*environment, *before, *after} if name.startswith(read)}
    return all(environment.get(name) in (before.get(name), after.get(name)) for name in names)


def _import(world: str) -> dict[str, str]:
    """Import all; returns the environment variables that imports set, as a process of its own would have them set."""
    before = dict(os.environ)
    for name in PRELOADED[world]:
        importlib.import_module(name)
    # The garbage collector of a child does not touch, and so copy, what is there already.
    gc.collect()
    gc.freeze()
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def _become(request: dict[str, Any], streams: list[int], set_by_imports: dict[str, str]) -> NoReturn:
    """Be the command, and end as it ends."""
    # A server that is killed takes with it what it runs: nobody else waits for that. (1 is PR_SET_PDEATHSIG.)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number in _signals_in(request["circumstances"]["SigIgn"]):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _signals_in(request["circumstances"]["SigBlk"]))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update({**set_by_imports, **request["environment"]})
    sys.stdin = sys.__stdin__ = open(0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(  # noqa: SIM115
        1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False
    )
    sys.stderr = sys.__stderr__ = open(  # noqa: SIM115
        2, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1, closefd=False
    )
    sys.executable = sys.argv[3]
    sys.modules.pop("client")
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    try:
        _run(*request["arguments"])
    except SystemExit as end:
        _leave(end.code)
        raise
    _leave(0)
    sys.exit(0)


def _leave(code: object) -> None:
    """End here unless there is something to be said: Python would copy every page of the imports to take them down."""
    if code is None or isinstance(code, int):
        with contextlib.suppress(OSError, ValueError):
            # In this order Python does it, too.
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit((code or 0) & 0xFF)


def _run(what: str, *rest: str) -> None:
    """What stands on Python's command line."""
    if what == "-m":
        sys.argv = list(rest)
        sys.path[0] = str(Path.cwd())
        if not hasattr(sys.modules.get(rest[0]), "__path__"):
            sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        program = types.ModuleType("__main__")
        sys.modules["__main__"] = program
        exec(compile(rest[0], "<string>", "exec"), program.__dict__)
    else:
        sys.argv = [what, *rest]
        sys.path[0] = str(Path(what).parent)
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    Server(sys.argv[1], socket.socket(fileno=int(sys.argv[2]))).serve()
