"""The files that an export writes besides the modes' own: C source, and what the NPU's compiler made."""

from __future__ import annotations

from pathlib import Path

from ...runtime.errors import OutputError, RequestError
from ...runtime.files import check_writable
from ...runtime.model.artifact import SIDECAR_SUFFIX
from ..modes import TARGETS
from ..request import Request
from .c_source import c_names

REJECTED = ".rejected"
"""Added to the name of a file that a required target does not run."""


def check_outputs(request: Request) -> None:
    """Refuse what could not be written at the end.

    Raises:
        RequestError: C source was asked for, and no file that a microcontroller runs.
        OutputExistsError: a file is there and ``request.force`` is false.
        OutputError: the folder cannot be made or written to.
    """
    own = [request.path(mode) for mode in request.names]
    paths = [*own, *map(rejected_path, own), *_extra_paths(request), request.result_path]
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the output folder {request.folder}: {error.strerror or error}. Name another one with -o."
        ) from error
    check_writable(paths, force=request.force)


def rejected_path(path: Path) -> Path:
    """What a file is called that a required target does not run: a name that no tool takes for a model's."""
    return path.with_name(path.name + REJECTED)


def c_mode(request: Request) -> str:
    """The mode that is written as C: the smallest that a microcontroller runs."""
    return next(mode for mode in ("int8", "int16x8", "float32") if mode in request.modes)


def npu_paths(request: Request, mode: str) -> tuple[Path, Path]:
    """The file that the NPU's compiler made, and the contract beside it."""
    compiled = request.folder / f"{request.stem}.{mode}.vela.tflite"
    return compiled, compiled.with_name(f"{compiled.name}{SIDECAR_SUFFIX}")


def _extra_paths(request: Request) -> list[Path]:
    paths = []
    if request.c_array:
        if not set(request.modes).intersection(TARGETS["micro"].modes):
            raise RequestError(
                f"--c-array is for microcontrollers, which run {', '.join(TARGETS['micro'].modes)} files, but "
                f"{', '.join(request.modes)} was asked for. Add -q int8."
            )
        sources = request.names if request.chooses_one else (c_mode(request),)
        paths += [request.folder / name for mode in sources for name in c_names(f"{request.stem}.{mode}")]
    if "ethos-u" in request.targets:
        modes = [mode for mode in request.modes if mode in TARGETS["ethos-u"].modes]
        paths += [path for mode in modes for path in npu_paths(request, mode)]
    return paths
