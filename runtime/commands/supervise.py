"""A command in a process of its own, whose end, however it comes, is one clear error.

Models are run by libraries in C++, which a damaged or hostile file can crash, and which may not end. So work is done
in a fork of the command, made before an interpreter or TensorFlow is imported, and the first process waits: it passes
signals on, reports a crash, and removes the temporary folder in which everything of the other one lies. Only on Linux,
where a fork is sure to work; elsewhere the command does its work itself.

The fork is a process group of its own: from a terminal the first process alone is interrupted, and passes that on once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from ..child_limits import STAGE, end_with_parent, is_first_to_say, read_stage, remove_made, why_it_ended
from ..errors import EXIT_INTERRUPTED, EmbedliteError, OutputError
from ..printable import one_line

_PASSED_ON = (
    (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT) if os.name == "posix" else ()
)
_PATIENCE = 10.0
"""Seconds from a signal that ends the command to the end of its process, which may hang in C++."""

_MOST_INTERRUPTS = 3


def in_own_process() -> None:
    """Return in a fork of this process alone; this one waits for it and leaves with its exit code.

    Raises:
        OutputError: there is no place for temporary files.
    """
    if sys.platform != "linux":
        return
    # From here on there is something to be removed.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        folder = Path(tempfile.mkdtemp(prefix="embedlite-"))
    except OSError as error:
        raise OutputError(
            f"cannot make a temporary folder in {tempfile.gettempdir()}: {error.strerror or error}. Free some space, "
            "or set TMPDIR to another one."
        ) from error
    wakes, waker = os.pipe()
    os.set_blocking(waker, False)
    ignored = {number for number in _PASSED_ON if signal.getsignal(number) == signal.SIG_IGN}
    # Else both processes would copy every page to look for garbage when they end.
    gc.freeze()
    child = os.fork()
    if child == 0:
        _begin(folder, wakes, waker)
        return
    with contextlib.suppress(OSError):  # the child does the same; who comes second may be refused
        os.setpgid(child, child)
    for number in (*_PASSED_ON, signal.SIGCHLD):
        if number not in ignored:
            signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    try:
        status, ended_by = _wait(child, wakes, folder)
        for number in _PASSED_ON:
            signal.signal(number, signal.SIG_IGN)
        sys.exit(_report(child, status, ended_by, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, *descriptors: int) -> None:
    """Make the fork what it is: in the temporary folder, a group of its own, ended with its parent."""
    os.setpgid(0, 0)
    for descriptor in descriptors:
        os.close(descriptor)
    end_with_parent()
    # A process in the background may write to its terminal, unless the terminal says otherwise.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    os.environ[STAGE] = str(folder)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def _wait(child: int, wakes: int, folder: Path) -> tuple[int, int]:
    """Wait for the child; its status as ``waitpid`` gives it, and the signal passed on that ended it by force, or 0."""
    until: float | None = None
    interrupts, killed, passed = 0, 0, 0
    while True:
        found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            continue
        if found:
            return status, passed if os.WIFSIGNALED(status) and os.WTERMSIG(status) == passed else killed
        left = None if until is None else max(0.0, until - time.monotonic())
        if left == 0.0:
            _signal(child, signal.SIGKILL)
            until = None
            continue
        ready, _, _ = select.select([wakes], [], [], left)
        for number in os.read(wakes, 64) if ready else b"":
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                interrupts, passed = interrupts + 1, number
                _signal(child, number)
                # A search that is interrupted once still writes what it has; loading has nothing to write.
                hurry = number != signal.SIGINT or interrupts >= _MOST_INTERRUPTS or read_stage(folder) is not None
                if hurry and until is None:
                    until, killed = time.monotonic() + _PATIENCE, number
            elif number == signal.SIGTSTP:
                _signal(child, signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGSTOP)
                _signal(child, signal.SIGCONT)


def _signal(child: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child, number)


def _report(child: int, status: int, ended_by: int, folder: Path) -> int:
    """The exit code, after one line about a child that did not leave by itself."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    _signal(child, signal.SIGKILL)  # what it started and left
    remove_made(folder)
    if ended_by:
        if is_first_to_say(folder):
            sys.stderr.write("interrupted: nothing was written.\n")
        return EXIT_INTERRUPTED if ended_by == signal.SIGINT else 128 + ended_by
    sys.stderr.write(f"error: {one_line(why_it_ended(os.WTERMSIG(status), child, folder))}\n")
    return EmbedliteError.exit_code
