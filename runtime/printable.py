"""Text from files on a terminal: names and messages may hold escape sequences, which are shown and not obeyed."""

from __future__ import annotations

import re
import secrets

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
