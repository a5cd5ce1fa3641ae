"""The files that an export writes besides the modes' own: C source, and what the NPU's compiler made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...runtime.backends.table import BACKENDS
from ...runtime.errors import OutputError, RequestError
from ...runtime.files import check_names, check_writable, only_writer, write_files
from ...runtime.model.artifact import SIDECAR_SUFFIX
from ..request import Request
from .c_header import header_name
from .c_source import c_names

REJECTED = ".rejected"
"""Added to the name of a file that a required target does not run."""


def written(request: Request) -> dict[str, Path]:
    """Every file that an export may write, by what it is.

    Raises:
        RequestError: C source was asked for, and no file that a microcontroller runs.
    """
    own = {f"the {mode} file": request.path(mode) for mode in request.names}
    own |= {f"{name} where it is rejected": rejected_path(path) for name, path in own.items()}
    return {**own, **_extra_paths(request), "export.json": request.result_path}


def check_written(request: Request, model: Path | None, json_path: str | None) -> None:
    """Refuse names of which two are the same file.

    Args:
        request: what was asked.
        model: its path; None in memory.
        json_path: of ``--json``.

    Raises:
        RequestError: one would be written twice, or over what is read.
        OutputError: ``--json`` cannot be written.
    """
    reads = (model, request.calibration_data, request.test_data, request.golden_from, request.custom_objects)
    kept = {"--calibration-cache": request.calibration_cache, "--search-cache": request.search_cache}
    # A cache is written under a name of its own first.
    kept |= {f"{name}, while it is written": f"{path}.tmp" for name, path in kept.items() if path is not None}
    named: dict[str, Path | str | None] = {**kept, "--json": json_path}
    check_names((*reads, request.measured), {**written(request), **named})
    # export.json may take the place of the recipe that it is made from.
    check_names((request.recipe,), named)
    if json_path is not None and json_path != "-":
        folder = Path(json_path).absolute().parent
        # The output folder may not be there yet; it is made before anything is written.
        if folder.exists() or folder != request.folder.absolute():
            check_writable([Path(json_path)], force=True)


def check_outputs(request: Request) -> None:
    """Refuse what could not be written at the end.

    Raises:
        OutputExistsError: a file is there and ``request.force`` is false.
        OutputError: the folder cannot be made or written to.
    """
    paths = list(written(request).values())
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the output folder {request.folder}: {error.strerror or error}. Name another one with -o."
        ) from error
    check_writable(paths, force=request.force)


def write_outputs(request: Request, contents: Mapping[Path, bytes]) -> None:
    """Write all files of an export, or none.

    Raises:
        OutputExistsError: another export wrote one of them since :func:`check_outputs`, and ``request.force`` is false.
        OutputError: the disk refused.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    with only_writer(request.folder):
        check_outputs(request)
        write_files(contents)
        # With --force an earlier export may have left the other name of a file; it would contradict export.json.
        for path in map(request.path, request.names):
            for name in {path, rejected_path(path)} - contents.keys():
                name.unlink(missing_ok=True)


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


def _extra_paths(request: Request) -> dict[str, Path]:
    paths = {"the model card": request.card_path} if request.card else {}
    if request.c_array:
        if not set(request.modes).intersection(BACKENDS["micro"].modes):
            raise RequestError(
                f"--c-array is for microcontrollers, which run {', '.join(BACKENDS['micro'].modes)} files, but "
                f"{', '.join(request.modes)} was asked for. Add -q int8."
            )
        sources = request.names if request.chooses_one else (c_mode(request),)
        for mode in sources:
            for name in c_names(f"{request.stem}.{mode}"):
                paths[f"the C source {name}"] = request.folder / name
    if request.c_header:
        names = (header_name(f"{request.stem}.{mode}") for mode in request.names)
        paths |= {f"the C header {name}": request.folder / name for name in names}
    if "ethos-u" in request.targets:
        for mode in request.modes:
            if mode in BACKENDS["ethos-u"].modes:
                compiled, beside = npu_paths(request, mode)
                paths |= {f"the compiled {mode} file": compiled, f"the contract of the compiled {mode} file": beside}
    return paths
