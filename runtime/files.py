"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import OutputError, OutputExistsError


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def check_writable(paths: Sequence[Path], *, force: bool) -> None:
    """Refuse before any work is done what could not be written afterwards.

    Raises:
        OutputExistsError: a path exists and ``force`` is false.
        OutputError: a parent folder is missing, is no folder, or cannot be written to.
    """
    for path in paths:
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder. Name a file.")
        if path.exists() and not force:
            raise OutputExistsError(f"{path} exists and was kept. Pass --force to replace it, or name another output.")
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.parent}. Create it first.")
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
                pass
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}. Choose a folder that can be written to."
            ) from error


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files so that either all of them appear, whole, or none does.

    Each is written under a temporary name beside its destination and flushed to the disk; only when
    all are there are they renamed. An error or an interrupt before the renames leaves nothing behind.

    Raises:
        OutputError: the disk refused (full, read-only, no permission).
    """
    staged: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path, data in contents.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
            staged.append((Path(name), path))
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner can read; a result is an ordinary file.
            Path(name).chmod(0o666 & ~_umask())
        for temporary, path in staged:
            temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Nothing was written; free some space or choose "
            "another folder, and run the command again."
        ) from error
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write one file whole or not at all; see :func:`write_files`."""
    write_files({path: data})


def json_bytes(value: Any) -> bytes:
    """``value`` as UTF-8 JSON, indented, with every NaN and infinity turned into null."""
    return (json.dumps(finite_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def finite_json(value: Any) -> Any:
    """A copy of a JSON value in which every number without a JSON spelling is null."""
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
