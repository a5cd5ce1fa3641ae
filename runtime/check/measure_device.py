"""Measuring files on the device that is to run them: ``embed-tflite --measure``.

Each file first runs alone, in a process of its own, with its golden vectors: a crash names the file. Those that ran are
timed together, in turns. Who gets no figure there, because one of them takes the process with it or a delegate's device
serves one file at a time, is timed once more alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..backends.interpreters import find_runtime
from ..drift.wording import UNMEASURED
from ..errors import EmptyDataError, InterpreterFailedError, UnreadableDataError, UnsupportedModelError
from ..machine import available_threads, describe_environment
from ..model.artifact import read_artifact
from ..progress import progress, stage
from ..terminal import Column, fit, join_lines, table
from .figures import DeviceFigures, DeviceRuntime, FileFigures
from .selftest import replay
from .timing import Timing, time_files


@dataclass(frozen=True)
class RunOptions:
    """How files are run.

    Attributes:
        runtime: the interpreter's package.
        threads: processors that one inference may use.
        delegate: path of a delegate's shared library.
        delegate_options: for the delegate.
    """

    runtime: str
    threads: int
    delegate: str | None
    delegate_options: Mapping[str, str]


def find_models(path: Path) -> list[Path]:
    """The files to measure: a file, or all ``*.tflite`` of a folder by name.

    Raises:
        EmptyDataError: the folder holds none.
        UnreadableDataError: it cannot be read.
    """
    if not path.is_dir():
        return [path]
    try:
        models = sorted(item for item in path.iterdir() if item.suffix == ".tflite" and item.is_file())
    except OSError as error:
        raise UnreadableDataError(f"cannot read the folder {path}: {error.strerror or error}.") from error
    if not models:
        raise EmptyDataError(
            f"the folder {path} holds no .tflite file. Copy the files of the export there, or name their folder."
        )
    return models


def measure_device(
    models: Sequence[Path],
    *,
    threads: int | None = None,
    delegate: str | None = None,
    delegate_options: Mapping[str, str] | None = None,
) -> DeviceFigures:
    """Replay and time files on this machine's interpreter. Crashes and failures are figures, told by their ``error``.

    Args:
        models: ``.tflite`` files with a contract.
        threads: processors that one inference may use; default all that this process may use.
        delegate: path of a delegate's shared library.
        delegate_options: for the delegate.

    Raises:
        ModelFileError, UnreadableDataError: a file is damaged, no encoder, or carries no contract; nothing was run.
        NoInterpreterError: no interpreter is installed.
        DelegateLoadError: the delegate cannot be loaded.
        RequestError: a delegate for TFLite Micro, or options without a delegate.
    """
    found = [_identify(path) for path in models]
    runtime = find_runtime()
    options = RunOptions(runtime.name, threads or available_threads(), delegate, delegate_options or {})
    for place, path in enumerate(progress(models, len(models), "self-test")):
        replayed = replay(path, **vars(options))
        found[place] = replace(found[place], selftest=replayed.selftest, error=replayed.error or None)
    sound = [place for place, figures in enumerate(found) if figures.error is None]
    with stage(f"timing {_counted(len(sound), 'file')}"):
        for place, timing in zip(sound, _time([models[place] for place in sound], options), strict=True):
            found[place] = replace(
                found[place],
                latency_us=timing.latency_us,
                low_us=timing.low_us,
                high_us=timing.high_us,
                arena_bytes=timing.arena_bytes,
                error=timing.error or None,
            )
    return DeviceFigures(
        describe_environment(), DeviceRuntime(runtime.name, runtime.version, delegate), options.threads, tuple(found)
    )


def _identify(path: Path) -> FileFigures:
    artifact = read_artifact(path)
    if artifact.contract is None:
        raise UnsupportedModelError(
            f"{path} carries no contract, so it is not a file of an export, and no table could use its figures. Leave "
            "it out of the folder, or make files of it with export-tflite, which reads a float .tflite too."
        )
    return FileFigures(path.name, artifact.contract.mode, artifact.sha256)


def _time(models: Sequence[Path], options: RunOptions) -> list[Timing]:
    if len(models) < 2:
        return [_time_alone(path, options) for path in models]
    try:
        timings = time_files(models, **vars(options))
    except InterpreterFailedError as error:
        timings = [Timing(None, error=str(error))] * len(models)
    return [
        _time_alone(path, options) if timing.error else timing for path, timing in zip(models, timings, strict=True)
    ]


def _time_alone(path: Path, options: RunOptions) -> Timing:
    try:
        (timing,) = time_files([path], **vars(options))
    except InterpreterFailedError as error:
        return Timing(None, error=str(error))
    return timing


def render_figures(figures: DeviceFigures, path: Path, width: int) -> str:
    """The figures as text, without a line break at its end.

    Args:
        figures: what was found.
        path: the file that they were written to.
        width: of a line.
    """
    files, threads = _counted(len(figures.files), "file"), _counted(figures.threads, "thread")
    place = figures.device["cpu"] or figures.device["machine"]
    columns = [
        Column("file", left=True),
        Column("mode", 2, left=True),
        Column("µs"),
        Column("repeated", 1, left=True),
        Column("self-test", left=True),
    ]
    head = fit([f"{path}: {files} on {figures.runtime}, {threads}, {place}"], width)
    problems = fit((text for file in figures.files for text in _problems(file)), width)
    return join_lines(head, table(columns, [_row(file) for file in figures.files], width), problems)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _row(file: FileFigures) -> tuple[str, str, str, str, str]:
    if file.latency_us is None:
        latency = quartiles = UNMEASURED
    else:
        latency, quartiles = f"{file.latency_us:,.0f}", f"{file.low_us:,.0f} to {file.high_us:,.0f}"
    if file.selftest is not None:
        verdict = "pass" if file.selftest["verdict"] == "pass" else "FAIL"
    else:
        verdict = "no golden vectors" if file.error is None else "did not run"
    return file.path, file.mode, latency, quartiles, verdict


def _problems(file: FileFigures) -> list[str]:
    problems = [] if file.error is None else [f"{file.path}: {file.error}"]
    if file.selftest is not None and file.selftest["verdict"] != "pass":
        problems.append(
            f"{file.path} does not compute here what it did at the export: embed-tflite --selftest shows how far off."
        )
    return problems
