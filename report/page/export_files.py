"""What a report needs of an export.json: its files with their figures, and what a search of the export found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.errors import DataError
from ...runtime.version import newer

SCHEMA = 1
"""The newest export.json that this version reads."""


@dataclass(frozen=True)
class FileSummary:
    """One exported file.

    Attributes:
        mode, name, bytes, sha256: what it is; the name is without a folder.
        latency_us, latency_low_us, latency_high_us: one inference, and the repetitions; None if not measured.
        compared: whether its drift was measured; without, the figures below are None.
        sqnr_db: against the original; None also for a file that is identical with it.
        neighbours: share of neighbours kept in the float gallery.
        intervals: 95 % intervals by metric.
        dominated: whether another file is better in every respect; None if nobody judged.
        arena_bytes: memory that TFLite Micro needs.
        passing, failing: runtimes that run the file and those that do not.
        untuned: latency and SQNR (None: no noise) of the file as it would be without fine-tuning; None if there is no
            such file, or one of the two was not measured.
    """

    mode: str
    name: str
    bytes: int
    sha256: str
    latency_us: float | None
    latency_low_us: float | None
    latency_high_us: float | None
    compared: bool
    sqnr_db: float | None
    neighbours: float | None
    intervals: Mapping[str, tuple[float | None, float | None]]
    dominated: bool | None
    arena_bytes: int | None
    passing: tuple[str, ...]
    failing: tuple[str, ...]
    untuned: tuple[float, float | None] | None = None

    @property
    def identical(self) -> bool:
        """Whether its embeddings are the original's, bit by bit."""
        return self.compared and self.sqnr_db is None


@dataclass(frozen=True)
class ExportSummary:
    """The part of an export.json that a page shows.

    Attributes:
        path: where it was read.
        files: the exported files, in its order.
        ship: which file to ship where, one sentence each.
        measured_on: device, runtime and threads of the latencies; None for the machine that exported.
        search: facts of the search for a mixed precision; None without one.
        tried: latency and SQNR (None: no noise) of each file that the search tried.
        sensitivity: what each layer gains and costs alone, as in the file, the largest gain first.
    """

    path: Path
    files: tuple[FileSummary, ...]
    ship: tuple[str, ...]
    measured_on: Mapping[str, Any] | None
    search: Mapping[str, Any] | None
    tried: tuple[tuple[float, float | None], ...]
    sensitivity: tuple[Mapping[str, Any], ...]

    @property
    def judged(self) -> bool:
        """Whether it was judged which files are dominated."""
        return any(file.dominated is not None for file in self.files)

    def check_candidate(self, sha256: str | None, name: str) -> None:
        """See that a report's candidate is one of the files.

        Raises:
            DataError: it is none of them.
        """
        if sha256 is None or sha256 not in {file.sha256 for file in self.files}:
            known = ", ".join(file.name for file in self.files)
            mine = "names no model" if sha256 is None else f"has SHA-256 {sha256[:16]}…"
            raise DataError(
                f"{self.path} is not the export of {name}: the candidate {mine}, and the export's files ({known}) have "
                "others. Pass the export.json that was written with the candidate, or leave out --export."
            )


def model_sha256(side: Mapping[str, Any]) -> str | None:
    """SHA-256 of the model behind a side of a report; None for stored embeddings that do not name theirs."""
    return side.get("model_sha256" if side["kind"] == "stored" else "sha256")


def read_export(path: Path) -> ExportSummary:
    """Read an export.json.

    Raises:
        DataError: it cannot be read, is not JSON, is not an export.json, or is of a newer embedlite.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"cannot read {path} as an export.json: {reason}. Make it with export-tflite.") from error
    if isinstance(value, dict) and isinstance(value.get("schema"), int) and value["schema"] > SCHEMA:
        raise DataError(f"{path} has schema {value['schema']}; {newer(None, SCHEMA)}")
    try:
        return _summary(path, value)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path} is not an export.json: {reason}. Pass the one that export-tflite wrote.") from error


def _summary(path: Path, value: Any) -> ExportSummary:
    if not isinstance(value, dict):
        raise TypeError(f"it holds {type(value).__name__} and not an object")
    search = value.get("search")
    layers = [
        {
            "layer": str(layer["layer"]),
            "operators": [str(name) for name in layer["operators"]],
            "precision": str(layer["precision"]),
            **{name: _number(layer[name]) for name in ("sqnr_db", "gained_db", "latency_us", "added_us")},
        }
        for layer in (search or {}).get("sensitivity", ())
    ]
    tried = [(_number(one["latency_us"]), _number(one["sqnr_db"])) for one in (search or {}).get("tried", ())]
    device = value.get("measured_on")
    return ExportSummary(
        path,
        tuple(_file(file) for file in value["files"]),
        tuple(str(sentence) for sentence in value["ship"]),
        None if device is None else {**device, "device": dict(device["device"]), "runtime": dict(device["runtime"])},
        None
        if search is None
        else {
            "seconds": _positive(search["seconds"]),
            **{name: search[name] for name in ("target", "runtime", "threads", "images", "ended")},
        },
        tuple((latency, sqnr) for latency, sqnr in tried if latency is not None),
        tuple(sorted(layers, key=lambda layer: -math.inf if layer["gained_db"] is None else -layer["gained_db"])),
    )


def _file(value: Mapping[str, Any]) -> FileSummary:
    drift, verdicts = value["drift"], value["verified"]
    arenas = [int(one["arena_bytes"]) for one in verdicts if one["arena_bytes"] is not None]
    dominated = value.get("dominated")
    return FileSummary(
        mode=str(value["mode"]),
        name=str(value["path"]),
        bytes=int(value["bytes"]),
        sha256=str(value["sha256"]),
        latency_us=_positive(value["latency_us"]),
        latency_low_us=_positive(value.get("latency_low_us")),
        latency_high_us=_positive(value.get("latency_high_us")),
        compared=drift is not None,
        sqnr_db=None if drift is None else _number(drift["sqnr_db"]),
        neighbours=None if drift is None else _number(drift["knn_overlap_cross"]),
        intervals={name: (_number(low), _number(high)) for name, (low, high) in (value.get("intervals") or {}).items()},
        dominated=None if dominated is None else bool(dominated),
        arena_bytes=max(arenas, default=None),
        passing=tuple(f"{one['runtime']} {one['version']}" for one in verdicts if one["ok"]),
        failing=tuple(f"{one['runtime']} {one['version']}: {one['detail']}" for one in verdicts if not one["ok"]),
        untuned=_untuned(value.get("untuned")),
    )


def _untuned(value: Mapping[str, Any] | None) -> tuple[float, float | None] | None:
    if value is None or value["drift"] is None:
        return None
    latency = _positive(value["latency_us"])
    return None if latency is None else (latency, _number(value["drift"]["sqnr_db"]))


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} stands where a number should")
    return float(value) if math.isfinite(value) else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    if number is not None and number <= 0:
        raise ValueError(f"{number:g} stands where a time above zero should")
    return number
