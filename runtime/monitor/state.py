"""A monitor's state: statistics with what they are about, as one JSON file that is whole at every moment."""

from __future__ import annotations

import json
import os
import secrets
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EmbedliteWarning, MonitorStateError, OutputError, UnreadableDataError
from ..files import check_writable, replace_file, sha256
from ..version import newer
from .distribution import SCORE_BINS, ReferenceDistribution, canonical_bytes
from .log_bins import quantiles
from .paired import DISTANCE_BINS, paired_layout, paired_metrics
from .references import PAIRED, UNPAIRED
from .sound import check_computes, check_names, check_sound, refuse_constant, refuse_twins
from .tallies import Statistics, whole
from .unpaired import unpaired_layout, unpaired_metrics

SCHEMA = 1
COUNTERS = ("inputs", "skipped", "failed")


@dataclass(eq=False)
class MonitorState:
    """What a monitor knows.

    Attributes:
        candidate: ``sha256`` and ``mode`` of the encoder's file.
        reference: ``kind`` (``model`` or ``distribution``) and ``sha256``, and the distribution itself.
        embedding_size: values in one embedding.
        statistics: of the compared inputs.
        device: the name it was given, or None.
        runtimes: interpreters that the encoder ran on, sorted.
        counters: ``inputs`` embedded; of those chosen to be compared, ``skipped`` for want of time and ``failed``
            because the reference did.
        series: a random name for all states that grew out of one empty one.
    """

    candidate: dict[str, Any]
    reference: dict[str, Any]
    embedding_size: int
    statistics: Statistics
    device: str | None = None
    runtimes: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    series: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def kind(self) -> str:
        """``model`` or ``distribution``."""
        kind: str = self.reference["kind"]
        return kind

    @property
    def subject(self) -> tuple[str, str]:
        """Hashes of model and reference: only states that agree in both can be merged."""
        return self.candidate["sha256"], self.reference["sha256"]

    def to_bytes(self) -> bytes:
        """The file's content."""
        body = {**vars(self), "statistics": self.statistics.to_json()}
        return canonical_bytes({"embedlite": "drift-monitor", "schema": SCHEMA, "sha256": _digest(body), **body})

    @classmethod
    def from_bytes(cls, data: bytes) -> MonitorState:
        """The state from a file's content.

        Raises:
            MonitorStateError: it was written by a newer version.
            KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError: it is none, or damaged.
        """
        value = json.loads(data, object_pairs_hook=refuse_twins, parse_constant=refuse_constant)
        if value["embedlite"] != "drift-monitor":
            raise ValueError(f"it is a {str(value['embedlite'])[:40]!r}")
        if whole(value["schema"]) > SCHEMA:
            raise MonitorStateError(f"it has schema {value['schema']}; {newer(None, SCHEMA)}")
        body = {name: value[name] for name in cls.__dataclass_fields__}
        if value["sha256"] != _digest(body):
            raise ValueError("its checksum is not the one that it was written with")
        size = whole(body["embedding_size"])
        kinds = {PAIRED: paired_layout, UNPAIRED: unpaired_layout}
        # Every value takes several bytes, so that a size that the file cannot hold never costs memory.
        if not 0 < size < len(data):
            raise ValueError(f"an embedding of {size} values")
        body["statistics"] = Statistics.from_json(kinds[body["reference"]["kind"]](size), body["statistics"])
        body["counters"] = {name: whole(body["counters"][name]) for name in COUNTERS}
        check_names(*(body[name] for name in ("candidate", "reference", "series", "device", "runtimes")))
        state = cls(**body)
        distribution = state.distribution()
        if distribution is not None and (distribution.size, distribution.fingerprint) != (size, state.subject[1]):
            raise ValueError("a reference of another size or checksum")
        check_sound(state.kind, state.statistics, state.counters, size)
        check_computes(state.metrics, state.quantiles)
        return state

    def distribution(self) -> ReferenceDistribution | None:
        """The reference of kind ``distribution``; None for a model."""
        return ReferenceDistribution.from_json(self.reference["distribution"]) if self.kind == UNPAIRED else None

    def metrics(self) -> dict[str, float | None]:
        """The metrics of the compared inputs; None without a value, infinite if unbounded."""
        distribution = self.distribution()
        if distribution is None:
            return paired_metrics(self.statistics)
        return unpaired_metrics(self.statistics, distribution)

    def quantiles(self) -> dict[str, list[dict[str, float]]]:
        """Quantiles of 1 - cosine, or of the z-scores, see :func:`embedlite.runtime.monitor.log_bins.quantiles`."""
        name, bins = ("cosine_distance", DISTANCE_BINS) if self.kind == PAIRED else ("score", SCORE_BINS)
        return {name: quantiles(bins, self.statistics.tables[name])}


def read_state(path: Path) -> MonitorState:
    """A state from its file.

    Raises:
        UnreadableDataError: it is not there, damaged, or something else.
        MonitorStateError: it was written by a newer version.
    """
    try:
        return MonitorState.from_bytes(path.read_bytes())
    except MonitorStateError as error:
        raise MonitorStateError(f"cannot read {path}: {error}") from error
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read {path}: {error.strerror or error}. Name the state files of DriftMonitor."
        ) from error
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise UnreadableDataError(
            f"{path} is not a state of DriftMonitor, or damaged ({type(error).__name__}: {error}). Fetch it again from "
            "the device, or leave it out."
        ) from error


def _hold(descriptor: int) -> None:
    """Lock an open file for this process alone.

    Raises:
        OSError: another process holds it.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class StateFile:
    """The file of a running monitor, held by it alone.

    Args:
        path: the state; a lock ``PATH.lock`` stands beside it.

    Raises:
        OutputError: it could not be written later.
        MonitorStateError: another monitor holds it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_writable([self.path], force=True)
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"cannot write {lock}: {error.strerror or error}. Choose another folder.") from error
        try:
            # The kernel lets go of it however the process ends.
            _hold(self._lock)
        except OSError as error:
            os.close(self._lock)
            raise MonitorStateError(
                f"{self.path} is in use by another monitor, and one would write over what the other counted. Give each "
                "process and each encoder a state file of its own; drift-fleet joins them."
            ) from error

    def resume(self, empty: MonitorState) -> MonitorState:
        """The state that the file holds, or the empty one if there is none or it cannot be read.

        An unreadable file is kept under another name and a warning says so: the service on the device goes on.

        Raises:
            MonitorStateError: it is of another model or reference, or was written by a newer version.
        """
        if not self.path.exists():
            return empty
        try:
            state = read_state(self.path)
        except UnreadableDataError as error:
            aside = self._free_name()
            self.path.rename(aside)
            warnings.warn(
                f"{error} It was kept as {aside}, and the monitor starts again.", EmbedliteWarning, stacklevel=4
            )
            return empty
        for name, found, wanted in zip(("model", "reference"), state.subject, empty.subject, strict=True):
            if found != wanted:
                raise MonitorStateError(
                    f"{self.path} holds statistics of another {name} (sha256 {found[:12]}, now {wanted[:12]}). Fetch "
                    "it for drift-fleet and name a new state file."
                )
        state.device = empty.device or state.device
        state.runtimes = sorted({*state.runtimes, *empty.runtimes})
        return state

    def write(self, data: bytes) -> None:
        """Replace the file's content, whole or not at all.

        Raises:
            OutputError: the disk refused.
        """
        replace_file(self.path, data)

    def close(self) -> None:
        """Let another monitor have it."""
        os.close(self._lock)

    def _free_name(self) -> Path:
        number = 1
        while True:
            name = self.path.with_name(f"{self.path.name}.damaged-{number}")
            if not name.exists():
                return name
            number += 1


def _digest(body: dict[str, Any]) -> str:
    return sha256(canonical_bytes(body))
