"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import signal
import threading
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import EmbedliteWarning, OutputError, OutputExistsError, RequestError


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def check_writable(paths: Sequence[Path], *, force: bool) -> None:
    """Refuse before any work is done what could not be written afterwards.

    Raises:
        OutputExistsError: a path exists and ``force`` is false.
        OutputError: a parent folder is missing, is not a folder, or cannot be written to.
    """
    for path in paths:
        try:
            _check_destination(path, force=force)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}. Choose a folder that can be written to."
            ) from error


def _check_destination(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder. Name a file.")
    if _is_special(path):
        return
    if path.exists() and not force:
        raise OutputExistsError(f"{path} exists and was kept. Pass --force to replace it, or name another output.")
    folder = _target(path).parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}. Create it first.")
    # Not above: it imports much that an encoder, which writes nothing, does not need.
    import tempfile

    with tempfile.TemporaryFile(dir=folder):
        pass


_OPENED = ("/dev/fd", "/dev/stdout", "/dev/stderr", "/proc")
"""What these lead to may be a plain file; but somebody has it open, and would not see what takes its name."""


def _is_special(path: Path) -> bool:
    """A device or a pipe, such as /dev/null: it is written to, never replaced."""
    return path.exists() and (not path.is_file() or any(path.absolute().is_relative_to(place) for place in _OPENED))


def _target(path: Path) -> Path:
    """Where a path leads through links.

    Raises:
        OutputError: in a circle.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OutputError(f"cannot write {path}: it is a link that leads back to itself. Name another output.")
    return target


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process writes a set of files into a folder, and keep others waiting meanwhile.

    A folder that cannot be locked (Windows, some network file systems) is written to without.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_names(reads: Sequence[Any], writes: Mapping[str, Path | str | None]) -> None:
    """Refuse before any work is done that one file would be written twice, or over what is read.

    Args:
        reads: what is read; those that are not paths of this machine (URLs, arrays, None) are passed over. Of a folder
            the files are read, and of a model the contract beside it.
        writes: what is written, by what it is called in the message; None and ``-`` (stdout) are not files.

    Raises:
        RequestError: two names are the same file, by whatever path or link, or on a disk that ignores case; or one is
            the folder of another.
    """
    written = {name: Path(path) for name, path in writes.items() if path is not None and path != "-"}
    outputs = [(name, path) for name, path in written.items() if not _is_special(path)]
    inputs = [Path(path) for path in reads if isinstance(path, (str, os.PathLike))]
    inputs += [path.with_name(f"{path.name}{_BESIDE}") for path in inputs if path.name]
    read_as = {_identity(read) for read in inputs}
    taken: dict[Any, str] = {}
    folded: dict[str, tuple[str, Path]] = {}
    for name, path in outputs:
        other = taken.setdefault(_identity(path), name)
        if other != name:
            raise RequestError(
                f"{path} is named twice, as {other} and as {name}, and one use would destroy the other. Name another "
                "output."
            )
        # Of names that are taken such a disk has told by itself that they are the same.
        if not path.exists():
            other, like = folded.setdefault(_folded(path), (name, path))
            if other != name:
                raise RequestError(
                    f"{path} ({name}) and {like} ({other}) differ only in how their letters are written, and many "
                    "disks take them for one file. Name another output."
                )
        if _identity(path) in read_as or any(_holds(read, path) for read in inputs):
            raise RequestError(f"{path} is named twice: it is read, and {name} would replace it. Name another output.")
    files = {_real(path): name for name, path in outputs if not path.is_dir()}
    for name, path in outputs:
        for folder in _real(path).parents:
            if folder in files:
                raise RequestError(
                    f"{folder} is named twice, as {files[folder]} and as the folder of {name}. Name another output."
                )


_BESIDE = ".embedlite.json"
"""Added to a model's name: a contract that lies beside it."""

_REPORTS = (".json", ".xml", ".html", ".npz", ".h", ".c")
"""Suffixes of what commands write; such a file in a folder of images is an earlier result, and may be replaced."""


def _identity(path: Path) -> Any:
    """What two paths of one file have in common: for what exists the file itself, else where the path leads."""
    try:
        found = path.stat()
    except OSError:
        return _real(path)
    return found.st_dev, found.st_ino


def _folded(path: Path) -> str:
    """A path as disks see it that ignore case and how accents are composed."""
    return unicodedata.normalize("NFC", str(_real(path)).casefold())


def _real(path: Path) -> Path:
    """Where a path leads; one that leads back to itself is refused where it is written."""
    return Path(os.path.realpath(path))


def _holds(folder: Path, path: Path) -> bool:
    """Whether a file is one of those that are read of a folder."""
    return (
        folder.is_dir()
        and path.is_file()
        and path.suffix.lower() not in _REPORTS
        and path.resolve().is_relative_to(folder.resolve())
    )


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files so that either all of them appear, whole, or none does.

    Each is written under a temporary name beside its destination and flushed to the disk; only when
    all are there are they renamed. An error or an interrupt before the renames leaves nothing behind. Of a link, the
    file to which it leads is replaced; a pipe or a device is written through. Both are said.

    Raises:
        OutputError: the disk refused (full, read-only, no permission), or a destination is a folder.
    """
    staged: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path in contents:
            # A rename over a folder would fail only after others had succeeded.
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path, data in contents.items():
            if not _is_special(path):
                target = _target(path)
                temporary = target.parent / f".embedlite-{secrets.token_hex(8)}.tmp"
                staged.append((temporary, target))
                _write_flushed(temporary, data, "xb")
        with _uninterrupted():
            for temporary, path in staged:
                temporary.replace(path)
                _written.add(path)
        for path, data in contents.items():
            if _is_special(path):
                path.write_bytes(data)
        for path in contents:
            _say_where(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Nothing was written; free some space or choose "
            "another folder, and run the command again."
        ) from error
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


_written: set[Path] = set()


def has_written() -> bool:
    """Whether this process has written results; caches and the state of monitors are none."""
    return bool(_written)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a signal that ends this process wait, so that of several files all are renamed or none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        for one in came[:1]:
            signal.raise_signal(one)


def _say_where(path: Path) -> None:
    """Say where something was written that stands elsewhere than its name does."""
    if _is_special(path):
        said = f"{path} is a pipe or device, so it was written through and not replaced."
    elif path.is_symlink():
        said = f"{path} is a link, so the file to which it leads was replaced: {_target(path)}."
    else:
        return
    warnings.warn(said, EmbedliteWarning, stacklevel=4)


def write_file(path: Path, data: bytes) -> None:
    """Write one file whole or not at all; see :func:`write_files`."""
    write_files({path: data})


def replace_file(path: Path, data: bytes) -> None:
    """Replace, whole or not at all, a file that one process writes again and again.

    The temporary name is always ``PATH.tmp``: however often the power fails in between, one such file is left at most,
    and the next write takes it over.

    Raises:
        OutputError: the disk refused.
    """
    target = _target(path)
    temporary = target.with_name(target.name + ".tmp")
    try:
        with only_writer(target.parent):
            _write_flushed(temporary, data, "wb")
            temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. What it held before is still there; free some space, or "
            "choose another folder."
        ) from error


def _write_flushed(path: Path, data: bytes, mode: str) -> None:
    with path.open(mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def json_bytes(value: Any) -> bytes:
    """``value`` as UTF-8 JSON, indented, with every NaN and infinity turned into null."""
    text = json.dumps(finite_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 has surrogates; a backslash escape of them is JSON's own spelling.
    return text.encode(errors="backslashreplace")


def finite_json(value: Any) -> Any:
    """A copy of a JSON value in which every number without a JSON spelling is null."""
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
