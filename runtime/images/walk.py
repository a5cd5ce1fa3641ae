"""The files of a folder, linked folders included, and what in it is not a file that can be read."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UnreadableDataError

_MOST_NAMED = 3


def walk(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The files in a folder and below it.

    Links to folders are followed. A folder that several names lead to is read once, by a name without a link if it has
    one, so that a link to a folder above ends nowhere. Names that begin with a dot are passed over.

    Returns:
        The files' names, relative to the folder, with slashes; and what was left out with its kind, by name.

    Raises:
        UnreadableDataError: a folder cannot be looked into.
    """
    names: list[str] = []
    left: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, "")]
    while waiting:
        links: list[tuple[Path, str]] = []
        for start, prefix in waiting:
            stack = [(start, prefix)]
            while stack:
                place, inside = stack.pop()
                if _is_new(place, seen):
                    stack += _look_into(place, inside, names, left, links)
                else:
                    left[inside.rstrip("/")] = "folders that are read already, by another name"
        # After all others, so that names without a link come first.
        waiting = sorted(links)
    return names, left


def _look_into(
    folder: Path, prefix: str, names: list[str], left: dict[str, str], links: list[tuple[Path, str]]
) -> list[tuple[Path, str]]:
    """Sort what a folder holds into files, what is left out, and links to folders; returns the folders in it."""
    folders: list[tuple[Path, str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = prefix + entry.name
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append((folder / entry.name, f"{name}/"))
                elif entry.is_file():
                    names.append(name)
                else:
                    left[name] = irregular(Path(entry.path)) or "special files"
    except OSError as error:
        raise UnreadableDataError(
            f"cannot look into {error.filename}: {error.strerror}. Make it readable, or move it away."
        ) from error
    return sorted(folders, reverse=True)


def irregular(path: Path) -> str | None:
    """What kind of thing a path is, in the plural, if it is neither a file that has an end nor a folder; else None."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "links that lead nowhere"
    kinds = {stat.S_ISFIFO: "named pipes", stat.S_ISSOCK: "sockets", stat.S_ISCHR: "devices", stat.S_ISBLK: "devices"}
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), None)


def describe(left: Mapping[str, str]) -> str:
    """What was left out by kind, with some names: ``other kinds: 2 (a.txt, b.csv); named pipes: 1 (c.png)``."""
    counts = Counter(left.values())
    return "; ".join(f"{kind}: {counts[kind]} ({_some([n for n in left if left[n] == kind])})" for kind in counts)


def _some(names: Sequence[str]) -> str:
    more = ["…"] if len(names) > _MOST_NAMED else []
    return ", ".join([*sorted(names)[:_MOST_NAMED], *more])


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    found = folder.stat()
    key = (found.st_dev, found.st_ino)
    new = key not in seen
    seen.add(key)
    return new
