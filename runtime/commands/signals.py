"""Signals that end a command as Ctrl-C does: it cleans up, says so and leaves with a code of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from .start import ENDING, leave_at_once


class Terminated(KeyboardInterrupt):
    """The command was told to end by another signal than Ctrl-C's.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise :class:`Terminated` for signals that end a command; one that the caller ignores stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGINT)}
    ours = {
        number: signal.default_int_handler if number == signal.SIGINT else _end
        for number, handler in before.items()
        if handler in (signal.SIG_DFL, leave_at_once)
    }
    try:
        for number, handler in ours.items():
            signal.signal(number, handler)
        yield
    finally:
        for number in ours:
            # What is said from here on is said by the caller, and files may have been written.
            signal.signal(number, signal.SIG_IGN if before[number] == leave_at_once else before[number])


def _end(number: int, _: Any) -> NoReturn:
    # A second one must not interrupt the cleaning up.
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Terminated(number)
