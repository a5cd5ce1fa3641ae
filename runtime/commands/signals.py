"""Signals that end a command as Ctrl-C does: it cleans up, says so and leaves with a code of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Sent by ``kill``, ``timeout``, service managers and containers; and where a terminal is closed."""


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
    """Raise :class:`Terminated` for the signals in :data:`ENDING`; one that the caller ignores stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, handler)


def _end(number: int, _: Any) -> NoReturn:
    # A second one must not interrupt the cleaning up.
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Terminated(number)
