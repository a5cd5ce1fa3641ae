"""How far along a long work is, on stderr: a line that changes on a terminal, and a line for each ended stage."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from .printable import one_line

_T = TypeVar("_T")

_LINES: ContextVar[bool] = ContextVar("lines", default=False)
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)


@contextlib.contextmanager
def telling(*, lines: bool, quiet: bool) -> Iterator[None]:
    """Decide what is told of the work inside.

    Args:
        lines: whether each stage leaves a line with its seconds, on a terminal and elsewhere.
        quiet: whether nothing at all is told.
    """
    tokens = _LINES.set(lines and not quiet), _QUIET.set(quiet)
    try:
        yield
    finally:
        _LINES.reset(tokens[0])
        _QUIET.reset(tokens[1])


def _on_terminal() -> bool:
    return sys.stderr.isatty() and not _QUIET.get()


class Stages:
    """How long the stages of a work took.

    Attributes:
        seconds: by name, in their order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add what is done inside to a stage, and tell of it as :func:`stage` does."""
        started = time.monotonic()
        try:
            with stage(name):
                yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Say on stderr what is being done while it lasts, for work that cannot be counted; silent without a terminal.

    Where lines are wanted (:func:`telling`), a stage that ends well leaves one with its seconds; a stage within another
    leaves none.
    """
    label = one_line(label)
    terminal, started, inside = _on_terminal(), time.monotonic(), _INSIDE.get()
    if terminal:
        sys.stderr.write(f"{label} ...")
        sys.stderr.flush()
    token = _INSIDE.set(True)
    try:
        yield
    except BaseException:
        inside = True
        raise
    finally:
        _INSIDE.reset(token)
        if terminal:
            sys.stderr.write("\r\033[K")
        if _LINES.get() and not inside:
            sys.stderr.write(f"{label}: {time.monotonic() - started:.1f} s\n")
        sys.stderr.flush()


class Line:
    """A line on stderr that says how far along a work is, once it takes more than a second.

    Silent when stderr is not a terminal, and where nothing is to be told.

    Attributes:
        total: how much there is to do.

    Args:
        total: see above.
        label: what is being done.
    """

    def __init__(self, total: int, label: str) -> None:
        self.total, self._label = total, one_line(label)
        self._terminal, self._shown = _on_terminal(), False
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
