"""How far along a long work is, on stderr; silent when that is not a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


class Stages:
    """How long the stages of a work took.

    Attributes:
        seconds: by name, in their order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add what is done inside to a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Say on stderr what is being done while it lasts; for work that cannot be counted. Silent without a terminal."""
    terminal = sys.stderr.isatty()
    if terminal:
        sys.stderr.write(f"{label} ...")
    try:
        yield
    finally:
        if terminal:
            sys.stderr.write("\r\033[K")


class Line:
    """A line on stderr that says how far along a work is, once it takes more than a second.

    Silent when stderr is not a terminal.

    Attributes:
        total: how much there is to do.

    Args:
        total: see above.
        label: what is being done.
    """

    def __init__(self, total: int, label: str) -> None:
        self.total, self._label = total, label
        self._terminal, self._shown = sys.stderr.isatty(), False
        self._started = self._last = time.monotonic()

    def show(self, number: int, more: str = "") -> None:
        """So much is done; ``more`` is put after it."""
        now = time.monotonic()
        if self._terminal and now - self._started > 1 and (now - self._last > 0.2 or number == self.total):
            sys.stderr.write(f"\r{self._label}: {number}/{self.total}{more}\033[K")
            self._last, self._shown = now, True

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\033[K")
        self._shown = False


def progress(items: Iterable[_T], total: int, label: str) -> Iterator[_T]:
    """Yield ``items`` and say on stderr how far along they are; see :class:`Line`."""
    line = Line(total, label)
    try:
        for number, item in enumerate(items, 1):
            yield item
            line.show(number)
    finally:
        line.close()
