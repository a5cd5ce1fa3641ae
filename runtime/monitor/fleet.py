"""Many monitors' files as one: each device once, sums exact, the devices that stand out by name."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EmptyDataError, MonitorStateError
from ..files import finite_json
from .gates import FleetGate, apply_limits
from .outliers import Outlier, find_outliers
from .state import COUNTERS, MonitorState, read_state

SCHEMA = 1


@dataclass(frozen=True)
class Device:
    """One device: all series that it saved under its name."""

    name: str
    files: tuple[str, ...]
    state: MonitorState
    metrics: dict[str, float | None]
    outlier: tuple[Outlier, ...] = ()


@dataclass(frozen=True)
class FleetReport:
    """The fleet; ``superseded`` names the files that hold an earlier state, or a copy, of another one."""

    state: MonitorState
    metrics: dict[str, float | None]
    gates: tuple[FleetGate, ...]
    devices: tuple[Device, ...]
    superseded: tuple[str, ...]

    @property
    def outliers(self) -> list[Device]:
        """Devices that are worse than the others."""
        return [device for device in self.devices if device.outlier]

    @property
    def passed(self) -> bool:
        """Whether every gate holds and no device stands out."""
        return all(gate.passed for gate in self.gates) and not self.outliers

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object; the order of the files does not change it."""
        reference = {name: self.state.reference[name] for name in ("kind", "sha256")}
        value = {
            "schema": SCHEMA,
            "verdict": "pass" if self.passed else "fail",
            "candidate": self.state.candidate,
            "reference": reference,
            "runtimes": self.state.runtimes,
            "counters": self.state.counters,
            "metrics": self.metrics,
            "quantiles": self.state.quantiles(),
            "gates": [asdict(gate) for gate in self.gates],
            "outliers": [device.name for device in self.outliers],
            "devices": [_device_json(device) for device in self.devices],
            "superseded": list(self.superseded),
            "statistics": self.state.statistics.to_json(),
        }
        finite: dict[str, Any] = finite_json(value)
        return finite


def join_fleet(paths: Sequence[Path], gates: Sequence[str] = ()) -> FleetReport:
    """Read, check, merge and judge.

    Args:
        paths: state files of :class:`DriftMonitor`, in any order.
        gates: ``NAME=VALUE`` texts, see :mod:`.gates`.

    Raises:
        UnreadableDataError: a file is no state, or damaged.
        MonitorStateError: they are of different models or references, or one state lives on in two devices.
        EmptyDataError: no input was compared.
        RequestError: a gate that these files cannot tell.
    """
    states = {path: read_state(path) for path in sorted(set(paths))}
    _check_one_subject(states)
    newest, superseded = _newest_of_each_series(states)
    names = _names(list(newest), newest)
    devices = []
    for name in sorted(set(names.values())):
        files = [path for path in newest if names[path] == name]
        merged = functools.reduce(_merge, (newest[path] for path in files))
        devices.append(Device(name, tuple(map(str, files)), merged, merged.metrics()))
    total = functools.reduce(_merge, (device.state for device in devices))
    if not total.statistics.counts["rows"]:
        raise EmptyDataError(
            f"none of the {total.counters['inputs']} inputs of {len(devices)} device(s) was compared yet. Wait, or let "
            "the monitors compare more (every, budget)."
        )
    found = find_outliers([device.state.statistics for device in devices], total.distribution())
    judged = tuple(replace(device, outlier=tuple(why)) for device, why in zip(devices, found, strict=True))
    metrics = total.metrics()
    return FleetReport(total, metrics, apply_limits(metrics, total.kind, gates), judged, tuple(superseded))


def _check_one_subject(states: dict[Path, MonitorState]) -> None:
    groups: dict[tuple[str, str], list[Path]] = {}
    for path, state in states.items():
        groups.setdefault(state.subject, []).append(path)
    if len(groups) > 1:
        listed = "; ".join(
            f"model {model[:12]} with reference {reference[:12]}: {', '.join(map(str, files[:3]))}"
            + (f" and {len(files) - 3} more" if len(files) > 3 else "")
            for (model, reference), files in groups.items()
        )
        raise MonitorStateError(
            f"the files are of different models or references ({listed}). Join each group by itself."
        )


def _newest_of_each_series(states: dict[Path, MonitorState]) -> tuple[dict[Path, MonitorState], list[str]]:
    """A device's file that was fetched twice counts once: the later one holds all that the earlier one does."""
    series: dict[str, list[Path]] = {}
    for path, state in states.items():
        series.setdefault(state.series, []).append(path)
    newest, superseded = {}, []
    for paths in series.values():
        ordered = sorted(paths, key=lambda path: states[path].sequence)
        for path, following in itertools.pairwise(ordered):
            if not _continues(states[following], states[path]):
                raise MonitorStateError(
                    f"{path} and {following} grew out of one state, but neither holds the other's inputs: it was "
                    "copied to a second device, or brought back from a backup. Leave out one of them; on the device, "
                    "remove the copied state."
                )
            superseded.append(str(path))
        newest[ordered[-1]] = states[ordered[-1]]
    return dict(sorted(newest.items())), sorted(superseded)


def _continues(later: MonitorState, earlier: MonitorState) -> bool:
    if later.sequence == earlier.sequence:
        return later.to_bytes() == earlier.to_bytes()
    grown = all(later.counters[name] >= earlier.counters[name] for name in COUNTERS)
    return grown and later.statistics.may_continue(earlier.statistics)


def _names(paths: list[Path], states: dict[Path, MonitorState]) -> dict[Path, str]:
    """The device's own name, or that of its file; of two unnamed files that are called alike the whole path."""
    stems = [path.stem for path in paths if states[path].device is None]
    names = {}
    for path in paths:
        alone = stems.count(path.stem) == 1
        names[path] = states[path].device or (path.stem if alone else str(path))
    return names


def _merge(one: MonitorState, other: MonitorState) -> MonitorState:
    return replace(
        one,
        statistics=one.statistics.merge(other.statistics),
        counters={name: count + other.counters[name] for name, count in one.counters.items()},
        runtimes=sorted({*one.runtimes, *other.runtimes}),
    )


def _device_json(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "files": list(device.files),
        "runtimes": device.state.runtimes,
        "counters": device.state.counters,
        "metrics": device.metrics,
        "outlier": [asdict(why) for why in device.outlier],
    }
