"""Text that fits a terminal: how wide it is, sentences in lines, and tables that leave out what has no room.

Words are not cut but where a single one, such as a path, is longer than a line; it is then broken, at a slash if it has
one.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .printable import paint

PIPED = 100
"""Columns where nobody says how many there are: a pipe or a file."""

LEAST, MOST = 40, 120
"""Lines are not made shorter than the one nor longer than the other, however wide the terminal is."""

_GAP = 2


def line_width() -> int:
    """Columns for a line on stdout: the terminal's, or :data:`PIPED` at most."""
    if sys.stdout.isatty():
        return max(LEAST, min(MOST, shutil.get_terminal_size((80, 24)).columns))
    return max(LEAST, min(PIPED, shutil.get_terminal_size((PIPED, 24)).columns))


def wrap(text: str, width: int, *, first: str = "", rest: str | None = None) -> list[str]:
    """A sentence in lines of at most ``width`` characters.

    Args:
        text: one paragraph; its spaces are where it may be broken.
        width: of a line.
        first: what the first line begins with.
        rest: what the others begin with; default as many spaces.
    """
    rest = " " * len(first) if rest is None else rest
    lines, line = [], first
    empty = True
    for word in text.split():
        room = width - len(line) - (0 if empty else 1)
        if len(word) > room and not empty:
            lines.append(line)
            line, empty, room = rest, True, width - len(rest)
        for part in _pieces(word, max(1, room)):
            if not empty and part is not word:
                lines.append(line)
                line, empty = rest, True
            line += part if empty else f" {part}"
            empty = False
    return [*lines, line.rstrip()]


def fit(lines: Iterable[str], width: int) -> list[str]:
    """Lines of which those that are longer than ``width`` go on in further ones, set in by two more."""
    found = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip(" ")))
        found += [line] if len(line) <= width else wrap(line, width, first=indent, rest=f"{indent}  ")
    return found


def _pieces(word: str, room: int) -> Iterator[str]:
    """The word, or parts of one that is longer than a line, ended at slashes where there are any."""
    while len(word) > room:
        slash = word.rfind("/", 1, room)
        cut = slash + 1 if slash > 0 else room
        yield word[:cut]
        word = word[cut:]
    yield word


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: above it.
        importance: columns of the least importance are left out first where there is no room; 0 is never.
        left: whether its cells begin in line, as text does, instead of ending in line, as figures do.
    """

    title: str
    importance: int = 0
    left: bool = False


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int,
    indent: str = "",
    *,
    dim: Sequence[bool] = (),
) -> list[str]:
    """A table's lines, none longer than ``width``.

    Columns without any text are left out. If the rest has no room, columns are left out by their importance (the larger
    the number, the earlier), and if what is never left out has none either, every row begins with its first cell on a
    line of its own.

    Args:
        columns: the first is what a row is about.
        rows: one text a column.
        width: of a line.
        indent: in front of every line.
        dim: which rows are grey where colours are wanted; default none.
    """
    kept = [place for place, column in enumerate(columns) if not place or any(row[place] for row in rows)]
    room = width - len(indent)

    def widths(places: Sequence[int]) -> list[int]:
        return [max(len(columns[place].title), *(len(row[place]) for row in rows), 0) for place in places]

    def needed(places: Sequence[int]) -> int:
        return sum(widths(places)) + _GAP * (len(places) - 1)

    while needed(kept) > room:
        least = max(kept[1:], key=lambda place: columns[place].importance, default=0)
        if columns[least].importance == 0:
            break
        kept.remove(least)
    shades = dim or [False] * len(rows)
    if needed(kept) <= room:
        lines = [
            indent + _row([row[place] for place in kept], widths(kept), [columns[place].left for place in kept])
            for row in ([column.title for column in columns], *rows)
        ]
        return [lines[0], *(_shaded(line, grey) for line, grey in zip(lines[1:], shades, strict=True))]
    stacked = [_stacked(columns, row, width, indent) for row in rows]
    return [_shaded(line, grey) for lines, grey in zip(stacked, shades, strict=True) for line in lines]


def _shaded(line: str, grey: bool) -> str:
    return paint(line, "dim") if grey else line


def _row(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    return (
        (" " * _GAP)
        .join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        )
        .rstrip()
    )


def _stacked(columns: Sequence[Column], row: Sequence[str], width: int, indent: str) -> list[str]:
    """A row's first cell on a line of its own, and its figures with their titles in the lines after it."""
    lines = wrap(row[0], width, first=indent)
    told = [f"{column.title} {cell}".strip() for column, cell in zip(columns[1:], row[1:], strict=True) if cell]
    # A title and its figure stay together where a line holds them.
    room = width - len(indent) - 3
    joined = ", ".join(text.replace(" ", "\0") if len(text) <= room else text for text in told)
    return lines + ([line.replace("\0", " ") for line in wrap(joined, width, first=f"{indent}  ")] if told else [])


def join_lines(*parts: Sequence[str]) -> str:
    """Paragraphs with an empty line between them; empty ones are left out."""
    return "\n\n".join("\n".join(part) for part in parts if part)
