"""Statistics on disk: one ``.npz`` that needs nothing but numpy to read; the format is in docs/calibration.md.

The same statistics are the same bytes, wherever and in whatever order they were collected.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.arrays import load_npz
from ..runtime.errors import UnreadableDataError
from ..runtime.files import write_file
from .bins import BINS
from .statistics import EXTREMES, Extreme, Statistics, TensorStatistics

SCHEMA = 1
_ENDS = ("lowest", "highest")


def save_statistics(path: str | Path, statistics: Statistics) -> None:
    """Write statistics to a ``.npz``, whole or not at all.

    Raises:
        OutputError: the disk refused.
    """
    write_arrays(Path(path), {"kind": "statistics"}, pack_statistics("", statistics))


def load_statistics(path: str | Path) -> Statistics:
    """Statistics from a file that :func:`save_statistics` wrote.

    Raises:
        UnreadableDataError: it is not there, cut short, or no such file.
    """
    path = Path(path)
    _, arrays = read_arrays(path, "statistics")
    return unpack_statistics(path, "", arrays)


def holds_statistics(path: Path) -> bool:
    """Whether a file says of itself that it holds statistics; images in a ``.npz`` do not."""
    return path.suffix == ".npz" and path.is_file() and "header" in load_npz(path, names={"header"})


def write_arrays(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a header and arrays as one ``.npz``; nothing in it depends on the time of day."""
    facts = {"embedlite": "calibration", "schema": SCHEMA, "arrays": sorted(arrays), **header}
    text = json.dumps(facts, sort_keys=True)
    file = io.BytesIO()
    np.savez_compressed(file, header=pack_texts([text]), **arrays)
    write_file(path, file.getvalue())


def read_arrays(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of such a file.

    Raises:
        UnreadableDataError: it is not there, cut short, of a newer version, or something else.
    """
    arrays = load_npz(path)
    try:
        header = json.loads(unpack_texts(arrays.pop("header"))[0])
        found = (header["embedlite"], header["schema"], header["kind"])
    except (KeyError, ValueError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise UnreadableDataError(
            f"{path} holds no calibration {kind} ({type(error).__name__}: {error}). Name a file that embedlite wrote, "
            "or remove it."
        ) from error
    if found != ("calibration", SCHEMA, kind):
        raise UnreadableDataError(
            f"{path} holds calibration {found[2]} of schema {found[1]}; expected {kind} of schema {SCHEMA}. Name "
            "another file, or collect it again with this version."
        )
    # A damaged directory may have lost entries.
    if header.get("arrays") != sorted(arrays):
        raise UnreadableDataError(f"{path} is damaged: it lacks some of its arrays. Remove it and collect it again.")
    return header, arrays


def pack_statistics(prefix: str, statistics: Statistics) -> dict[str, NDArray[Any]]:
    """Statistics as arrays whose names begin with ``prefix``."""
    tensors = [statistics.tensors[name] for name in sorted(statistics.tensors)]
    facts = {
        "model": statistics.model,
        "input": dict(statistics.input),
        "samples": statistics.samples,
        "images": f"{statistics.images:064x}",
    }
    arrays: dict[str, NDArray[Any]] = {
        "facts": pack_texts([json.dumps(facts, sort_keys=True)]),
        "tensors": pack_texts(sorted(statistics.tensors)),
    }
    for end in _ENDS:
        rows: list[tuple[Extreme, ...]] = [getattr(tensor, end) for tensor in tensors]
        values = np.full((len(rows), EXTREMES), np.nan, np.float32)
        for place, row in enumerate(rows):
            values[place, : len(row)] = [value for value, _ in row]
        arrays[end] = values
        arrays[f"{end}_ids"] = pack_texts([name for row in rows for _, name in row])
    counted = [tensor.counts for tensor in tensors if tensor.counts is not None]
    if counted:
        table = np.stack(counted)
        tensor, key = np.nonzero(table)
        arrays |= {
            "bin_tensor": tensor.astype(np.uint32),
            "bin_key": key.astype(np.uint16),
            "bin_count": table[tensor, key],
        }
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def unpack_statistics(path: Path, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """Statistics from the arrays whose names begin with ``prefix``.

    Raises:
        UnreadableDataError: an array is missing or makes no sense.
    """
    try:
        facts = json.loads(unpack_texts(arrays[f"{prefix}facts"])[0])
        names = unpack_texts(arrays[f"{prefix}tensors"])
        ends = {end: _extremes(arrays[f"{prefix}{end}"], unpack_texts(arrays[f"{prefix}{end}_ids"])) for end in _ENDS}
        counts: list[NDArray[np.int64] | None] = [None] * len(names)
        if f"{prefix}bin_count" in arrays:
            table = np.zeros((len(names), BINS), np.int64)
            table[arrays[f"{prefix}bin_tensor"], arrays[f"{prefix}bin_key"]] = arrays[f"{prefix}bin_count"]
            counts = list(table)
        tensors = {
            name: TensorStatistics(lowest, highest, counted)
            for name, lowest, highest, counted in zip(names, ends["lowest"], ends["highest"], counts, strict=True)
        }
        return Statistics(facts["model"], facts["input"], tensors, facts["samples"], int(facts["images"], 16))
    except (KeyError, ValueError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise UnreadableDataError(
            f"{path} is damaged ({type(error).__name__}: {error}). Remove it and collect the statistics again."
        ) from error


def _extremes(values: NDArray[np.float32], names: list[str]) -> list[tuple[Extreme, ...]]:
    rows, given = [], iter(names)
    for row in values:
        kept = row[~np.isnan(row)].tolist()
        if not kept:
            raise ValueError("a tensor without extremes")
        rows.append(tuple((value, next(given, "")) for value in kept))
    return rows


def pack_texts(items: list[str]) -> NDArray[np.uint8]:
    """Texts in one array: UTF-8 with a zero byte after each: file names may have any length, and need not be UTF-8."""
    return np.frombuffer("".join(f"{item}\0" for item in items).encode(errors="surrogateescape"), np.uint8)


def unpack_texts(array: NDArray[Any]) -> list[str]:
    """The texts of :func:`pack_texts`."""
    return array.tobytes().decode(errors="surrogateescape").split("\0")[:-1]
