"""``--search-cache``: what searches for precisions tried, so that a later one, or one after a kill, takes up there.

A JSON file with one entry for each search, by the fingerprint of all that its figures depend on: the float graph, the
ranges, the held-out images, the target, its version, the threads and the machine. Latencies are never the same twice;
with the cache the same search decides by the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift import Drift
from ...runtime.errors import UnreadableDataError
from ...runtime.files import check_writable, replace_file
from ..modes import Precision

_SCHEMA = 1

Known = tuple[NDArray[np.float64], Drift, int, float | None]


def fingerprint(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what a search depends on, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class SearchCache:
    """The entry of one search in a cache file."""

    def __init__(self, path: str | Path | None, key: str) -> None:
        """Open the file, or begin one.

        Args:
            path: where it is; None keeps nothing.
            key: from :func:`fingerprint`.

        Raises:
            UnreadableDataError: the file is not such a cache, or damaged.
            OutputError: it could not be written there.
        """
        self._path, self._key = None if path is None else Path(path), key
        self._searches: dict[str, Any] = {}
        if self._path is not None:
            check_writable([self._path], force=True)
            if self._path.exists():
                self._searches = _read(self._path)
        self._mine: dict[str, Any] = self._searches.setdefault(key, {"base_us": None, "tried": {}})

    @property
    def base_us(self) -> float | None:
        """Latency of the int8 file, in microseconds; None if it was not measured yet."""
        found: float | None = self._mine["base_us"]
        return found

    def remember_base(self, latency_us: float) -> None:
        """Keep the latency of the int8 file."""
        self._mine["base_us"] = latency_us

    def find(self, precision: Precision) -> Known | None:
        """Errors, drift, bytes and relative latency of a file that was tried before."""
        found = self._mine["tried"].get(_name(precision))
        if found is None:
            return None
        errors = np.array([math.inf if error is None else error for error in found["errors"]])
        return errors, Drift(**found["drift"]), found["bytes"], found["relative"]

    def remember(
        self, precision: Precision, errors: NDArray[np.float64], drift: Drift, size: int, relative: float | None
    ) -> None:
        """Keep what was measured of a file."""
        self._mine["tried"][_name(precision)] = {
            "errors": [error if math.isfinite(error) else None for error in errors.tolist()],
            "drift": asdict(drift),
            "bytes": size,
            "relative": relative,
        }

    def save(self) -> None:
        """Write the file, whole."""
        if self._path is not None:
            content = {"schema": _SCHEMA, "kind": "search cache", "searches": self._searches}
            replace_file(self._path, json.dumps(content).encode())


def _name(precision: Precision) -> str:
    return json.dumps(precision, sort_keys=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != _SCHEMA or content["kind"] != "search cache":
            raise ValueError(f"schema {content['schema']}")
        searches: dict[str, Any] = content["searches"]
        for search in searches.values():
            for tried in search["tried"].values():
                Drift(**tried["drift"])
                np.array(tried["errors"], np.float64)
                _ = tried["bytes"], tried["relative"], search["base_us"]
    except OSError as error:
        raise UnreadableDataError(f"cannot read the search cache {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableDataError(
            f"{path} is not a search cache of this version, or damaged ({type(error).__name__}: {error}). Remove it, "
            "or name another file."
        ) from error
    return searches
