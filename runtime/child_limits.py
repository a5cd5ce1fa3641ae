"""What a model file from elsewhere may take while it is loaded: memory, time, open files, size of what is written.

The size of a tensor is bounded wherever a model is read. The rest holds in a command's own process
(:mod:`.commands.supervise` and what it starts), and is lifted once the model is loaded. A caller's process in Python is
the caller's: that is not limited there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ModelLimitError

STAGE = "EMBEDLITE_PROCESS"
"""The environment variable that says that this process is a command's own, and where its temporary folder is."""

_STAGE_FILE, _MADE_FILE, _SAID_FILE = "stage.json", "made", "said"

MEMORY = 8 << 30
"""Bytes of addresses for loading, besides those the process has; MobileNetV2 at 224x224 pixels takes 3.1 GiB in all."""

MEMORY_GROWTH = 32
"""How many times the model's own size may come on top of that."""

_THREAD = 256 << 20
"""Addresses that a thread reserves, and need not use: stack and arena. TensorFlow starts some for each processor."""

_OPEN_FILES = 512
_LARGEST_FILE = 4 << 30

LARGEST_TENSOR = 1 << 28
"""Values of one tensor: 1 GiB of float32, four times the largest one of VGG19 at 1024x1024 pixels."""

TIME_LIMIT = 900
"""Seconds; the largest networks of keras.applications are loaded and converted in one or two minutes."""


def own_folder() -> Path | None:
    """The temporary folder of a command's own process; None in any other process."""
    folder = os.environ.get(STAGE)
    return None if folder is None else Path(folder)


def chatter_of(process: int, folder: Path) -> Path:
    """The file to which libraries print in a process."""
    return folder / f"chatter.{process}"


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent does, even by SIGKILL."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


@contextlib.contextmanager
def bounded(doing: str, model: Path, seconds: float) -> Iterator[None]:
    """Bound what is done inside, in a command's own process; elsewhere nothing is bounded.

    Out of time, the process is ended by SIGALRM, and who waits for it says so; out of memory, by an error here or by a
    library in C++.

    Args:
        doing: what, for the message.
        model: the file or folder; a larger one may take more.
        seconds: at most.

    Raises:
        ModelLimitError: out of memory, and Python noticed.
    """
    folder = own_folder()
    if folder is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource

    size = _size(model)
    memory = _address_space() + MEMORY + MEMORY_GROWTH * size + 2 * _THREAD * (os.cpu_count() or 1)
    said = {"doing": doing, "seconds": seconds, "bytes": memory}
    wanted = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_NOFILE: _open_files() + _OPEN_FILES,
        resource.RLIMIT_FSIZE: _LARGEST_FILE + 4 * size,
        resource.RLIMIT_CORE: 0,
    }
    before = {kind: resource.getrlimit(kind) for kind in wanted}
    file = folder / _STAGE_FILE
    file.write_text(json.dumps(said))
    # The system's own action for it: it ends a loop in C++, too.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        for kind, limit in wanted.items():
            soft, hard = before[kind]
            resource.setrlimit(kind, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
        yield
    except MemoryError as error:
        raise ModelLimitError(_out_of_memory(said)) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)
        file.unlink(missing_ok=True)


def why_it_ended(number: int, process: int, folder: Path | None) -> str:
    """Why a process of ours ended by a signal, as the sentences of an error.

    Args:
        number: the signal.
        process: its id, by which what its libraries printed is found.
        folder: the command's temporary folder.
    """
    said = None if folder is None else read_stage(folder)
    if folder is not None:
        (folder / _STAGE_FILE).unlink(missing_ok=True)
    during = "" if said is None else f" while {said['doing']}"
    if number == signal.SIGALRM and said is not None:
        return (
            f"{said['doing']} took longer than {said['seconds']:g} s and was ended. If the model is large and you "
            "trust it, allow more with --time-limit."
        )
    if said is not None and folder is not None and _ran_out(chatter_of(process, folder)):
        return _out_of_memory(said)
    if number == signal.SIGKILL:
        return f"the system ended the process that did the work{during} (SIGKILL), as it does where memory runs out."
    return (
        f"the process that did the work crashed{during} ({signal.Signals(number).name}). The model is damaged or "
        "hostile, or a library that runs it has a bug: run again with -vv, which shows what the libraries print."
    )


def _out_of_memory(said: dict[str, Any]) -> str:
    return (
        f"memory ran out while {said['doing']}, which may take {said['bytes'] / 2**30:.1f} GiB of addresses. The model "
        "asks for more than its file makes believe: it is damaged or hostile; get it again from where it was made."
    )


_MEMORY_WORDS = (b"bad_alloc", b"out of memory", b"allocate memory", b"temporarily unavailable")


def _ran_out(chatter: Path) -> bool:
    """Whether the last words of libraries were of memory."""
    try:
        with chatter.open("rb") as file:
            file.seek(max(0, chatter.stat().st_size - 4000))
            words = file.read().lower()
    except OSError:
        return False
    return any(word in words for word in _MEMORY_WORDS)


def note_made(made: Path) -> None:
    """Remember a folder that was made for results; left empty, it goes if this process is ended by force."""
    folder = own_folder()
    if folder is not None:
        (folder / _MADE_FILE).write_bytes(os.fsencode(made.absolute()))


def remove_made(folder: Path) -> None:
    """Remove the folder that a process of this temporary folder noted, if it is empty."""
    with contextlib.suppress(OSError):
        Path(os.fsdecode((folder / _MADE_FILE).read_bytes())).rmdir()


def is_first_to_say(folder: Path) -> bool:
    """Whether the interrupt is still to be told; the process that works and the one that waits may both come to it."""
    try:
        (folder / _SAID_FILE).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def read_stage(folder: Path) -> dict[str, Any] | None:
    """What a command's process is doing within bounds: ``doing``, ``seconds``, ``bytes``; None outside."""
    try:
        found = json.loads((folder / _STAGE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _size(model: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    if model.is_dir():
        return sum(item.stat().st_size for item in model.rglob("*") if item.is_file())
    return model.stat().st_size if model.exists() else 0


def _address_space() -> int:
    """Bytes that this process has reserved already; 0 where nothing tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _open_files() -> int:
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return 64
