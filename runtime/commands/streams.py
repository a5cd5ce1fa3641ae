"""Standard output and error of a command that may be closed, full, or read by somebody who has left."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import OutputError

_RESULTS, _MESSAGES = 1, 2
_closed: set[int] = set()


def check_stdout() -> None:
    """Refuse to print a result that was asked for on standard output, where there is none.

    Raises:
        OutputError: the caller closed it. What is printed besides a result may go nowhere then.
    """
    if _RESULTS in _closed:
        raise no_output("it is closed")


class _Stream(io.RawIOBase):
    """A file descriptor whose reader may leave: what is written then goes nowhere.

    Args:
        descriptor: written to; stays open.
        results: whether what cannot be written is an error, as it is of results and not of messages.
    """

    def __init__(self, descriptor: int, *, results: bool) -> None:
        self._descriptor, self._results = descriptor, results

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write all of it, or nothing further where nobody reads."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BrokenPipeError:
            pass
        except OSError as error:
            if self._results:
                raise no_output(error.strerror or str(error)) from error
        return len(data)


def no_output(reason: str) -> OutputError:
    """The error for a result that standard output does not take."""
    return OutputError(
        f"cannot write to standard output: {reason}. Send it elsewhere, or give --quiet and --json FILE."
    )


def text_stream(descriptor: int, *, results: bool, encoding: str | None = None) -> io.TextIOWrapper:
    """A text stream on a descriptor; a file name need not be UTF-8, and what cannot be spelled is shown escaped."""
    raw: Any = _Stream(descriptor, results=results)
    return io.TextIOWrapper(raw, encoding or "utf-8", "backslashreplace", write_through=True)


def is_closed(descriptor: int) -> bool:
    """Whether a descriptor is not open."""
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def own_streams() -> Iterator[None]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that fail with an error of ours, or not at all.

    What the caller closed is opened on nothing: the next file that is opened would get its number, and libraries in
    C++ would print into that.
    """
    for descriptor in (0, _RESULTS, _MESSAGES):
        if is_closed(descriptor):
            _closed.add(descriptor)
            _open_on_nothing(descriptor)
    before = sys.stdout, sys.stderr
    for stream in before:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    encodings = [getattr(stream, "encoding", None) for stream in before]
    sys.stdout = text_stream(_RESULTS, results=True, encoding=encodings[0])
    sys.stderr = text_stream(_MESSAGES, results=False, encoding=encodings[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _open_on_nothing(descriptor: int) -> None:
    found = os.open(os.devnull, os.O_RDWR)
    if found != descriptor:
        os.dup2(found, descriptor)
        os.close(found)
