"""Where commands begin: a signal that ends one while Python still imports it is answered as later on, in one line.

What comes before is out of reach: in the first hundredths of a second Python itself answers Ctrl-C. So nothing is
imported here, nor in the packages on the way here, that takes time.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal imports enum, collections, …: half of the way here
import importlib
import os
import sys

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Sent by ``kill``, ``timeout``, service managers and containers; and where a terminal is closed."""


def start(module: str) -> None:
    """Import a command's module and run its ``main``."""
    for number in (signal.SIGINT, *ENDING):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, leave_at_once)
    importlib.import_module(module).main()


def leave_at_once(number: int, _: object) -> None:
    """A signal's handler before anything is begun; an exception could get lost in what is being imported."""
    try:
        os.write(sys.stderr.fileno(), b"interrupted: nothing was written.\n")
    finally:  # whoever may be there to read it
        os._exit(128 + number)


def embed_tflite() -> None:
    """``embed-tflite``."""
    start("embedlite.runtime.commands.embed")


def inspect_tflite() -> None:
    """``inspect-tflite``."""
    start("embedlite.runtime.commands.inspect")
