"""What ``embed-tflite --measure`` found on a device, as an object and as the JSON file that is carried home."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DeviceFiguresError, UnreadableDataError
from ..files import finite_json
from ..version import newer

SCHEMA = 1
"""The newest schema that this version reads, and the one it writes."""

_KEYS = ("device", "runtime", "threads", "files")


@dataclass(frozen=True)
class DeviceRuntime:
    """What ran the files.

    Attributes:
        name: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``.
        version: its version.
        delegate: the delegate's library, as it was named; None without one.
    """

    name: str
    version: str
    delegate: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" + (f" with {self.delegate}" if self.delegate else "")


@dataclass(frozen=True)
class FileFigures:
    """What was found of one file.

    Attributes:
        path: its name.
        mode: how it was quantized.
        model_sha256: SHA-256 of the whole file, the same as ``Encoder.artifact.sha256`` and as in export.json.
        latency_us: median microseconds per inference; None if the file could not be timed.
        low_us: what a part of the rounds gave that gave least.
        high_us: what a part gave that gave most.
        arena_bytes: memory that TFLite Micro needs; None for the others.
        selftest: :meth:`embedlite.runtime.check.selftest.Selftest.to_json`; None without golden vectors, or if the file
            did not run.
        error: why the file could not be run or timed; None if it could.
    """

    path: str
    mode: str
    model_sha256: str
    latency_us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    arena_bytes: int | None = None
    selftest: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the file ran and, if it has golden vectors, computes here what it did at the export."""
        return self.error is None and (self.selftest is None or self.selftest["verdict"] == "pass")

    @classmethod
    def from_json(cls, value: Any) -> FileFigures:
        """The figures from their JSON object.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: it is none.
        """
        figures = cls(**{name: value[name] for name in cls.__dataclass_fields__})
        for name in ("path", "mode", "model_sha256"):
            _check(isinstance(value[name], str) and value[name], name, value[name], "no text")
        _check(re.fullmatch("[0-9a-f]{64}", figures.model_sha256), "model_sha256", figures.model_sha256, "no SHA-256")
        _check(figures.error is None or isinstance(figures.error, str), "error", figures.error, "no text")
        named = {name: value[name] for name in ("low_us", "latency_us", "high_us")}
        latencies = list(named.values())
        if figures.error is not None:
            _check(latencies == [None] * 3, "latency_us", latencies, "given for a file that could not be run")
        else:
            for name, latency in named.items():
                sound = type(latency) in (int, float) and math.isfinite(latency) and latency > 0
                _check(sound, name, latency, "no number of microseconds")
            _check(latencies == sorted(latencies), "latency_us", latencies, "not between low_us and high_us")
        arena, verdict = figures.arena_bytes, figures.selftest
        _check(arena is None or (type(arena) is int and arena > 0), "arena_bytes", arena, "no number of bytes")
        _check(verdict is None or verdict["verdict"] in ("pass", "fail"), "selftest", verdict, "no self-test")
        return figures


@dataclass(frozen=True)
class DeviceFigures:
    """What was found on a device.

    Attributes:
        device: :func:`embedlite.runtime.machine.describe_environment`.
        runtime: what ran the files.
        threads: processors that one inference might use.
        files: what was found of each, in the order of their names.
    """

    device: Mapping[str, str]
    runtime: DeviceRuntime
    threads: int
    files: tuple[FileFigures, ...]

    @property
    def passed(self) -> bool:
        """Whether every file did."""
        return all(file.passed for file in self.files)

    def of(self, model_sha256: str) -> FileFigures | None:
        """The figures of a file by its SHA-256; None if it was not measured. Of equal files, the first."""
        return next((file for file in self.files if file.model_sha256 == model_sha256), None)

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        finite: dict[str, Any] = finite_json({"schema": SCHEMA, **asdict(self)})
        return finite

    @classmethod
    def from_json(cls, value: Any) -> DeviceFigures:
        """The figures from their JSON object.

        Raises:
            DeviceFiguresError: they were written by a newer version.
            AttributeError, KeyError, TypeError, ValueError, OverflowError: they are none.
        """
        if not isinstance(value, dict) or not {"schema", *_KEYS} <= value.keys():
            received = f"an object with {', '.join(map(str, value))}" if isinstance(value, dict) else repr(value)
            raise ValueError(f"it is {received[:120]}; expected one with schema, {', '.join(_KEYS)}")
        schema, device = value["schema"], dict(value["device"])
        _check(type(schema) is int and schema > 0, "schema", schema, "no version")
        if schema > SCHEMA:
            raise DeviceFiguresError(f"it has schema {schema}; {newer(device.get('embedlite'), SCHEMA)}")
        texts = [text for pair in device.items() for text in pair]
        _check(all(isinstance(text, str) for text in texts), "device", device, "no description of a device")
        runtime = DeviceRuntime(**{name: value["runtime"][name] for name in ("name", "version", "delegate")})
        threads = value["threads"]
        named = all(isinstance(text, str) for text in (runtime.name, runtime.version, runtime.delegate or ""))
        _check(named, "runtime", value["runtime"], "no interpreter")
        _check(type(threads) is int and threads > 0, "threads", threads, "no number of processors")
        _check(isinstance(value["files"], list) and value["files"], "files", value["files"], "no list of files")
        return cls(device, runtime, threads, tuple(FileFigures.from_json(file) for file in value["files"]))


def read_device_figures(path: str | Path) -> DeviceFigures:
    """The figures from the file that ``embed-tflite --measure`` wrote.

    Raises:
        UnreadableDataError: it is not there, cut short, or something else.
        DeviceFiguresError: it was written by a newer version.
    """
    try:
        return DeviceFigures.from_json(json.loads(Path(path).read_bytes(), parse_constant=_no_constant))
    except DeviceFiguresError as error:
        raise DeviceFiguresError(f"cannot read {path}: {error}") from error
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read {path}: {error.strerror or error}. Name the file that embed-tflite --measure wrote on the "
            "device."
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnreadableDataError(
            f"{path} holds no figures of a device, or is damaged ({type(error).__name__}: {error}). Name the file that "
            "embed-tflite --measure wrote, or copy it again from the device."
        ) from error


def another_model(path: str | Path, figures: DeviceFigures, name: str, model_sha256: str) -> DeviceFiguresError:
    """The error that a device's figures are not of a file that is here: to be raised where :meth:`DeviceFigures.of`
    finds nothing.

    Args:
        path: where the figures were read.
        figures: what was read there.
        name: of the file here.
        model_sha256: its SHA-256.
    """
    there = next((file.model_sha256 for file in figures.files if file.path == name), None)
    found = (
        f"has no figures of {name}, only of {', '.join(file.path for file in figures.files)}"
        if there is None
        else f"is of another {name}: its SHA-256 there is {there[:12]}…"
    )
    return DeviceFiguresError(
        f"{path} {found}; the {name} here is {model_sha256[:12]}…. Copy the files of this export to the device, run "
        "embed-tflite FOLDER --measure FILE.json there, and name that file."
    )


def _check(sound: object, name: str, value: object, problem: str) -> None:
    if not sound:
        raise ValueError(f"{name} is {str(value)[:80]}, {problem}")


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")
