"""Writing the files of an export: every name is checked before any work is done, and all are written or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...runtime.errors import OutputError
from ...runtime.files import check_names, check_writable, only_writer, write_files
from ..request import Request
from ..tune.checkpoint import check_checkpoint
from .names import OutputNames, rejected_path


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
    data = (request.calibration_data, request.test_data, request.golden_from, request.fine_tune_data)
    reads = (model, *data, request.custom_objects)
    preprocess = request.preprocess
    code = preprocess.rpartition(":")[0] if isinstance(preprocess, str) else None
    kept = {
        "--calibration-cache": request.calibration_cache,
        "--search-cache": request.search_cache,
        "--fine-tune-checkpoint": request.fine_tune_checkpoint,
    }
    # A cache is written under a name of its own first.
    kept |= {f"{name}, while it is written": f"{path}.tmp" for name, path in kept.items() if path is not None}
    named: dict[str, Path | str | None] = {**kept, "--json": json_path}
    names = OutputNames(request)
    check_names((*reads, code, request.measured), {**names.every(), **names.reserved(), **named})
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
    paths = list(OutputNames(request).every().values())
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the output folder {request.folder}: {error.strerror or error}. Name another one with -o."
        ) from error
    check_writable(paths, force=request.force)


def check_kept(request: Request) -> None:
    """Refuse what could not be kept on the way: that is written after minutes.

    Raises:
        OutputError: one cannot be written, or the checkpoint is another file.
    """
    kept = (request.search_cache, request.fine_tune_checkpoint)
    check_writable([Path(path) for path in kept if path is not None], force=True)
    if request.fine_tune_checkpoint is not None:
        check_checkpoint(Path(request.fine_tune_checkpoint))


def write_outputs(request: Request, contents: Mapping[Path, bytes]) -> None:
    """Write all files of an export, or none.

    Args:
        request: what was asked.
        contents: by paths of :meth:`OutputNames.every`; others were not checked, and are a mistake of the caller.

    Raises:
        OutputExistsError: another export wrote one of them since :func:`check_outputs`, and ``request.force`` is false.
        OutputError: the disk refused.
    """
    names = OutputNames(request)
    unknown = contents.keys() - set(names.every().values())
    assert not unknown, unknown
    request.folder.mkdir(parents=True, exist_ok=True)
    with only_writer(request.folder):
        check_outputs(request)
        write_files(contents)
        # With --force an earlier export may have left the other name of a file; it would contradict export.json.
        for path in map(names.file, request.names):
            for name in {path, rejected_path(path)} - contents.keys():
                name.unlink(missing_ok=True)
