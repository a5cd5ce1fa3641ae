"""Which images show the same thing, or belong together: one text for each image, by its id, from a file or folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.arrays import load_npy, load_npz, text_array
from ..runtime.errors import DataError, UnreadableDataError

SUFFIXES = (".csv", ".json", ".npz", ".npy")

_IDS = ("id", "ids", "image", "image_id", "file", "filename", "file_name", "name", "path")
_LABELS = ("label", "labels", "class", "class_name", "category", "target", "group", "value")
_SHOWN = 3


def read_labels(path: Path, ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.intp]:
    """One number a class for every id, (N,).

    Args:
        path: see :func:`read_texts`.
        ids: of the rows. The file may have more.

    Raises:
        UnreadableDataError: it is not there, or cannot be read.
        DataError: an id has no label, or several; all labels are the same, or all different.
    """
    return codes(read_texts(path, ids), len(ids), path)


def read_texts(path: Path, ids: Sequence[str] | NDArray[np.str_], what: str = "label") -> NDArray[Any]:
    """One text for every id, (N,).

    An id is looked up as it stands; then by as much of the path's end as agrees, at least the file's name; then by
    that without the suffix.

    Args:
        path: a folder of folders, one a class; ``.csv`` with two columns, id and label, or with a first line that names
            them among others; ``.json``, an object of id to label or a list of objects with both; ``.npz`` with arrays
            ``ids`` and ``labels``; ``.npy``, a label for each row in the rows' order.
        ids: of the rows. The file may have more.
        what: what the texts are called in messages.

    Raises:
        UnreadableDataError: it is not there, or is none of these.
        DataError: an id has no text, or more than one could be meant; another number of texts than rows.
    """
    if path.suffix == ".npy" and not path.is_dir():
        return _flat(load_npy(path), len(ids), path)
    names, labels = _read(path, ids, what)
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(again):
        raise DataError(f"{path} labels {ordered[again[0]]} twice. Every id needs one {what}.")
    wanted = np.asarray(ids, str)
    places = np.minimum(np.searchsorted(ordered, wanted), max(len(ordered) - 1, 0))
    if len(ordered) and (ordered[places] == wanted).all():
        found: NDArray[Any] = labels[order[places]]
        return found
    known = {str(name): place for place, name in enumerate(names)}
    return labels[[known[name] for name in _matched(known, wanted.tolist(), path, what)]]


def _read(path: Path, ids: Sequence[str] | NDArray[np.str_], what: str) -> tuple[NDArray[np.str_], NDArray[Any]]:
    """Ids and texts of a file or folder, as they stand in it."""
    if path.suffix == ".npz" and not path.is_dir():
        arrays = load_npz(path, ("ids", "labels"))
        if set(arrays) != {"ids", "labels"}:
            raise UnreadableDataError(
                f"{path} has {', '.join(sorted(arrays)) or 'neither'} of the arrays ids and labels; both are needed."
            )
        names = text_array(arrays["ids"], path)
        labels = _flat(arrays["labels"], len(names), path)
        return names, labels if labels.dtype.kind in "iub" else text_array(labels, path)
    if path.is_dir():
        entries = _folder(path)
    elif path.suffix == ".csv":
        entries = _csv(path, ids)
    elif path.suffix == ".json":
        entries = _json(path)
    else:
        raise UnreadableDataError(
            f"{what}s are read from {', '.join(SUFFIXES)} or a folder of folders, one for each {what}, not from {path}."
        )
    return np.array([name for name, _ in entries], str), np.array([label for _, label in entries], str)


def codes(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.intp]:
    """Labels of any type as numbers from 0, (N,).

    Raises:
        DataError: not one label a row, or all the same, or all different.
    """
    distinct, numbers = np.unique(_flat(labels, count, path), return_inverse=True)
    if not 1 < len(distinct) < count:
        what = "the same label" if len(distinct) < 2 else "a label of its own"
        raise DataError(
            f"{path} has {what} for each of {count} rows; deciding needs pairs of the same label and "
            "pairs of different ones. Leave the labels out, and nearest neighbours stand in for them."
        )
    classes: NDArray[np.intp] = numbers.astype(np.intp)
    return classes


def _matched(known: Collection[str], ids: Sequence[str], path: Path, what: str) -> list[str]:
    """The entry that is meant by every id."""
    found = {name: name for name in ids if name in known}
    missing = [name for name in ids if name not in found]
    for key in (_parts, _stem_parts):
        if missing:
            tails: dict[tuple[str, ...], list[str]] = {}
            for entry in known:
                parts = key(entry)
                for start in range(len(parts)):
                    tails.setdefault(parts[start:], []).append(entry)
            found |= {name: meant for name in missing if (meant := _longest(name, key(name), tails, path, what))}
            missing = [name for name in missing if name not in found]
    if missing:
        named = f" It labels {', '.join(sorted(known)[:_SHOWN])}." if known else ""
        raise DataError(
            f"{path} has no {what} for {len(missing)} of {len(ids)} images ({', '.join(missing[:_SHOWN])}).{named} "
            f"Give every image that is compared a {what}; ids are the paths below the folder of images."
        )
    asked: dict[str, str] = {}
    for name in ids:
        if asked.setdefault(found[name], name) != name:
            raise DataError(
                f"{path} has one {what}, for {found[name]}, that two images may mean: {asked[found[name]]} and {name}. "
                "Write the images' paths below their folder into it."
            )
    return [found[name] for name in ids]


def _longest(
    name: str, parts: tuple[str, ...], tails: dict[tuple[str, ...], list[str]], path: Path, what: str
) -> str | None:
    """The entry that agrees with most of an id's end."""
    for start in range(len(parts)):
        entries = tails.get(parts[start:], ())
        if len(entries) > 1:
            raise DataError(
                f"{path} has {len(entries)} {what}s that the image {name} may mean: {', '.join(entries[:_SHOWN])}. "
                "Write the images' paths below their folder into it."
            )
        if entries:
            return str(entries[0])
    return None


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _stem_parts(name: str) -> tuple[str, ...]:
    parts = _parts(name)
    return (*parts[:-1], PurePosixPath(parts[-1]).stem) if parts else ()


def _flat(labels: NDArray[Any], count: int, path: Path) -> NDArray[Any]:
    if labels.shape != (count,):
        raise DataError(f"{path} has labels of shape {labels.shape}; expected one for each of {count} rows.")
    return labels


def _folder(path: Path) -> list[tuple[str, str]]:
    try:
        files = sorted(file for file in path.glob("*/**/*") if file.is_file())
    except OSError as error:
        raise _unreadable(path, error) from error
    names = [file.relative_to(path) for file in files]
    if not names:
        raise UnreadableDataError(
            f"{path} has no folders with images in them. Name a folder that has one folder for each label."
        )
    return [(name.as_posix(), name.parts[0]) for name in names]


def _csv(path: Path, ids: Sequence[str] | NDArray[np.str_]) -> list[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, line) for number, line in enumerate(csv.reader(file, strict=True), 1) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error
    columns, width = (0, 1), 2
    if lines:
        head = [name.strip().lower() for name in lines[0][1]]
        places = [next((head.index(name) for name in names if name in head), None) for names in (_IDS, _LABELS)]
        # An image may be called "name" as well; then the line is a label like all others.
        if None not in places and lines[0][1][places[0] or 0] not in set(map(str, ids)):
            columns, width = (places[0] or 0, places[1] or 0), len(head)
            lines = lines[1:]
    for number, line in lines:
        if len(line) != width:
            expected = "two, id and label" if width == 2 else f"{width} as in the first line"
            hint = (
                ""
                if width != 2 or number > 1
                else " If there are more, the first line has to name them (such as id,label,split)."
            )
            raise UnreadableDataError(f"{path}, line {number}: {len(line)} columns; expected {expected}.{hint}")
    return [(line[columns[0]], line[columns[1]]) for _, line in lines]


def _json(path: Path) -> list[tuple[str, str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    pairs = list(found) if isinstance(found, _Pairs) else _objects(found)
    if pairs is None or not all(isinstance(name, str) and _is_label(label) for name, label in pairs):
        raise UnreadableDataError(
            f"{path} is not a JSON object of id to label (text or whole number), nor a list of objects with both."
        )
    return [(name, str(label)) for name, label in pairs]


class _Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object with whatever its keys repeat."""


def _objects(found: Any) -> list[tuple[Any, Any]] | None:
    """Ids and labels of a list of objects."""
    if not isinstance(found, list):
        return None
    pairs = []
    for entry in found:
        if not isinstance(entry, _Pairs):
            return None
        values = {key.lower(): value for key, value in entry}
        keys = [next((key for key in names if key in values), None) for names in (_IDS, _LABELS)]
        if keys[0] is None or keys[1] is None:
            return None
        pairs.append((str(values[keys[0]]), values[keys[1]]))
    return pairs


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _unreadable(path: Path, error: Exception) -> UnreadableDataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnreadableDataError(
        f"cannot read labels from {path}: {reason}. Pass a folder of one folder a label, CSV lines of id,label, a JSON "
        'object {"id": "label"}, or an .npz with ids and labels.'
    )
