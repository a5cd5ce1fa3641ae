"""Which images show the same thing: labels by id, from a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.arrays import load_npy, load_npz, texts
from ..runtime.errors import DataError, UnreadableDataError

SUFFIXES = (".csv", ".json", ".npz", ".npy")


def read_labels(path: Path, ids: Sequence[str]) -> NDArray[np.intp]:
    """One number a class for every id, (N,).

    Args:
        path: ``.csv`` with two columns, id and label (a first line ``id,label`` is skipped); ``.json``, an object of
            id to label; ``.npz`` with arrays ``ids`` and ``labels``; ``.npy``, a label for each row in the rows' order.
        ids: of the rows. The file may have more.

    Raises:
        UnreadableDataError: it is not there, or is none of these.
        DataError: an id has no label, or two; another number of labels than rows.
    """
    if path.suffix == ".npy":
        return codes(load_npy(path), len(ids), path)
    if path.suffix == ".npz":
        arrays = load_npz(path, ("ids", "labels"))
        if set(arrays) != {"ids", "labels"}:
            raise UnreadableDataError(
                f"{path} has {', '.join(sorted(arrays)) or 'neither'} of the arrays ids and labels; both are needed."
            )
        names = texts(arrays["ids"], path)
        entries = list(zip(names, texts(_flat(arrays["labels"], len(names), path), path), strict=True))
    elif path.suffix == ".csv":
        entries = _csv(path)
    elif path.suffix == ".json":
        entries = _json(path)
    else:
        raise UnreadableDataError(f"labels are read from {', '.join(SUFFIXES)}, not from {path}.")
    known = dict(entries)
    if len(known) != len(entries):
        names = [name for name, _ in entries]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(f"{path} labels {twice} twice. Every id needs one label.")
    missing = [name for name in ids if name not in known]
    if missing:
        raise DataError(
            f"{path} has no label for {len(missing)} of {len(ids)} images ({', '.join(missing[:3])}). Label every "
            "image that is compared; ids are the paths below the folder of images."
        )
    return codes(np.array([known[name] for name in ids]), len(ids), path)


def codes(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.intp]:
    """Labels of any type as numbers from 0, (N,).

    Raises:
        DataError: not one label a row, or all the same, or all different.
    """
    distinct, numbers = np.unique(_flat(labels, count, path), return_inverse=True)
    if not 1 < len(distinct) < count:
        raise DataError(
            f"{path} has {len(distinct)} different labels for {count} rows; deciding needs pairs of the same label and "
            "pairs of different ones. Leave the labels out, and nearest neighbours stand in for them."
        )
    classes: NDArray[np.intp] = numbers.astype(np.intp)
    return classes


def _flat(labels: NDArray[Any], count: int, path: Path) -> NDArray[Any]:
    if labels.shape != (count,):
        raise DataError(f"{path} has labels of shape {labels.shape}; expected one for each of {count} rows.")
    return labels


def _csv(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error
    for number, line in enumerate(lines, 1):
        if len(line) != 2:
            raise UnreadableDataError(f"{path}, line {number}: {len(line)} columns; expected two, id and label.")
    return [(name, label) for name, label in lines if (name, label) != ("id", "label")]


def _json(path: Path) -> list[tuple[str, str]]:
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(pairs, list) or not all(
        isinstance(pair, tuple) and isinstance(pair[1], (str, int)) for pair in pairs
    ):
        raise UnreadableDataError(f"{path} is no JSON object of id to label (text or whole number).")
    return [(name, str(label)) for name, label in pairs]


def _unreadable(path: Path, error: Exception) -> UnreadableDataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnreadableDataError(f"cannot read labels from {path}: {reason}.")
