"""Many monitors' files as one: each series once, sums exact, the devices that stand out by name."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.drift.gates import AT_MOST, DEFAULT_GATES, Gate, apply_gates, parse_gates
from ...runtime.errors import EmptyDataError, MonitorStateError
from ...runtime.monitor import paired, unpaired
from ...runtime.monitor.references import PAIRED
from ...runtime.monitor.state import MonitorState, read_state
from .outliers import Outlier, find_outliers

SCHEMA = 1

_UNPAIRED_GATEABLE = ("invalid", *(name for name in unpaired.METRICS if name != "score_p99_reference"))


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
    """The fleet, judged."""

    state: MonitorState
    metrics: dict[str, float | None]
    gates: tuple[Gate, ...]
    devices: tuple[Device, ...]

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
        return {
            "schema": SCHEMA,
            "verdict": "pass" if self.passed else "fail",
            "candidate": self.state.candidate,
            "reference": {name: self.state.reference[name] for name in ("kind", "sha256")},
            "runtimes": self.state.runtimes,
            "counters": self.state.counters,
            "metrics": self.metrics,
            "quantiles": self.state.quantiles(),
            "gates": [asdict(gate) for gate in self.gates],
            "outliers": [device.name for device in self.outliers],
            "devices": [_device_json(device) for device in self.devices],
            "statistics": self.state.statistics.to_json(),
        }


def join_fleet(paths: Sequence[Path], gates: Sequence[str] = ()) -> FleetReport:
    """Read, check, merge and judge.

    Args:
        paths: state files of :class:`DriftMonitor`, in any order.
        gates: ``NAME=VALUE`` texts.

    Raises:
        UnreadableDataError: a file is not a state, or damaged.
        MonitorStateError: they are of different models or references, or one series is there twice.
        EmptyDataError: no input was compared.
        RequestError: a gate that these files cannot tell.
    """
    states = [(path, read_state(path)) for path in sorted(paths)]
    _check_one_subject(states)
    _check_each_once(states)
    limits, at_most = _limits(states[0][1].kind, gates)
    devices = []
    for name, files in sorted(_by_device(states).items()):
        merged = functools.reduce(merge_states, (state for _, state in files))
        devices.append(Device(name, tuple(str(path) for path, _ in files), merged, merged.metrics()))
    total = functools.reduce(merge_states, (device.state for device in devices))
    metrics = total.metrics()
    if not metrics["count"]:
        raise EmptyDataError(
            f"none of the {total.counters['inputs']} inputs of {len(devices)} device(s) was compared yet. Wait, or let "
            "the monitors compare more (every, budget)."
        )
    allowed = 1 - limits.get("cosine_p1", DEFAULT_GATES["cosine_p1"])
    found = find_outliers([device.state.statistics for device in devices], total.distribution(), allowed)
    judged = tuple(replace(device, outlier=tuple(why)) for device, why in zip(devices, found, strict=True))
    return FleetReport(total, metrics, apply_gates(metrics, limits, at_most=at_most), judged)


def merge_states(one: MonitorState, other: MonitorState) -> MonitorState:
    """Both together, under the first one's name and series; both of one subject."""
    return replace(
        one,
        statistics=one.statistics.merge(other.statistics),
        counters={name: count + other.counters[name] for name, count in one.counters.items()},
        runtimes=sorted({*one.runtimes, *other.runtimes}),
    )


def _limits(kind: str, texts: Sequence[str]) -> tuple[dict[str, float], frozenset[str]]:
    """The limits that apply, and which of the metrics they bound from above.

    Beside a model they are the drift report's, as far as its metrics can be told here.
    """
    if kind == PAIRED:
        names = ("invalid", *paired.METRICS)
        limits = {name: limit for name, limit in DEFAULT_GATES.items() if name in names}
        return {**limits, **parse_gates(texts, names)}, AT_MOST
    limits = {"invalid": DEFAULT_GATES["invalid"], **unpaired.GATES}
    upper = frozenset(_UNPAIRED_GATEABLE) - {"spread_ratio_min"}
    return {**limits, **parse_gates(texts, _UNPAIRED_GATEABLE)}, upper


_Files = Sequence[tuple[Path, MonitorState]]


def _check_one_subject(states: _Files) -> None:
    groups: dict[tuple[str, str], list[str]] = {}
    for path, state in states:
        groups.setdefault(state.subject, []).append(str(path))
    if len(groups) > 1:
        listed = "; ".join(
            f"model {model[:12]} with reference {reference[:12]}: {', '.join(files[:3])}"
            + (f" and {len(files) - 3} more" if len(files) > 3 else "")
            for (model, reference), files in groups.items()
        )
        raise MonitorStateError(
            f"the files are of different models or references ({listed}). Join each group by itself."
        )


def _check_each_once(states: _Files) -> None:
    """A later file of a series holds all that an earlier one does, and a copy the same: both would count twice.

    A device that saw the very same rows twice, under two names of the series, is a copy as well.
    """
    first: dict[str, tuple[Path, MonitorState]] = {}
    for path, state in states:
        names = [state.series]
        if state.device is not None and state.statistics.counts["rows"]:
            names.append(json.dumps([state.device, state.statistics.to_json()], sort_keys=True))
        for other, there in [first.setdefault(name, (path, state)) for name in names]:
            if there is state:
                continue
            raise MonitorStateError(
                f"{other} ({there.counters['inputs']} inputs) and {path} ({state.counters['inputs']} inputs) grew out "
                "of one state, so inputs would count twice. Leave out the earlier one; if the state was copied to a "
                "second device, remove it there."
            )


def _by_device(states: _Files) -> Mapping[str, list[tuple[Path, MonitorState]]]:
    """By the device's own name, or that of its file; of two unnamed files that are called alike the whole path."""
    stems = [path.stem for path, state in states if state.device is None]
    devices: dict[str, list[tuple[Path, MonitorState]]] = {}
    for path, state in states:
        name = state.device or (path.stem if stems.count(path.stem) == 1 else str(path))
        devices.setdefault(name, []).append((path, state))
    return devices


def _device_json(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "files": list(device.files),
        "runtimes": device.state.runtimes,
        "counters": device.state.counters,
        "metrics": device.metrics,
        "outlier": [asdict(why) for why in device.outlier],
    }
