"""Text from files on a terminal: names and messages may hold escape sequences, which are shown and not obeyed."""

from __future__ import annotations

import os
import re
import secrets
import sys

_STYLE = f"\ue000{secrets.token_hex(8)}"
"""What stands for the escape character of our own colours; no file can know it."""

# Control characters of ASCII and Latin-1, line and paragraph separators, marks that turn the direction of writing.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def one_line(name: str) -> str:
    """A name as it can stand in a line: every control character, line breaks too, as Python spells it."""
    return _CONTROLS.sub(lambda found: repr(found.group())[1:-1], name)


def printable(text: str) -> str:
    """Lines of text: control characters but line breaks and tabs as Python spells them."""
    shown = _CONTROLS.sub(lambda found: found.group() if found.group() in "\n\t" else repr(found.group())[1:-1], text)
    return shown.replace(_STYLE, "\x1b")


def styled(line: str) -> str:
    """A line whose escape sequences are our own, marked so that :func:`printable` lets them pass.

    Names in it went through :func:`one_line` before.
    """
    return line.replace("\x1b", _STYLE)


STYLES = {"good": "32", "bad": "1;31", "dim": "2", "strong": "1"}
"""Colours by what they say, as SGR parameters (ECMA-48, 8.3.117)."""


def coloured() -> bool:
    """Whether colours are wanted on stdout: it is a terminal that has them, and $NO_COLOR does not say otherwise."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str) -> str:
    """Text in one of the :data:`STYLES` where colours are wanted, for :func:`printable`; as it is elsewhere.

    It takes no more room than before, but its length is another: paint lines that are laid out already.
    """
    return styled(f"\x1b[{STYLES[style]}m{text}\x1b[0m") if coloured() else text
