"""How far along a long work is, on stderr; silent when that is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


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


def progress(items: Iterable[_T], total: int, label: str) -> Iterator[_T]:
    """Yield ``items`` and say on stderr how far along they are, once it takes more than a second.

    Silent when stderr is no terminal.
    """
    terminal, shown = sys.stderr.isatty(), False
    started = last = time.monotonic()
    try:
        for number, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if terminal and now - started > 1 and (now - last > 0.2 or number == total):
                sys.stderr.write(f"\r{label}: {number}/{total}")
                last, shown = now, True
    finally:
        if shown:
            sys.stderr.write("\r\033[K")
