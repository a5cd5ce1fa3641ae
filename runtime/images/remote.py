"""Data that fsspec reaches: buckets, web servers, archives. Credentials are left to fsspec and its file systems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import EmptyDataError, MissingPackageError, UnreadableDataError

_CHAINED = "::"

GLOB_CHARACTERS = frozenset("*?[")


def is_url(data: object) -> bool:
    """Whether data are named by a URL such as ``s3://bucket/folder`` or ``zip://*.png::https://host/pool.zip``."""
    return isinstance(data, str) and ("://" in data or _CHAINED in data)


def data_location(text: str) -> Path | str:
    """Where images are, from a command's text: a path, or a URL as text, because a path makes one slash of two."""
    return text if is_url(text) else Path(text)


class RemoteFile:
    """A file of an fsspec file system; pickled it is the file system's address and a path.

    Args:
        fs: the file system.
        path: within it.
        spelling: what to call it in a message.
    """

    def __init__(self, fs: Any, path: str, spelling: str) -> None:
        self._fs, self._path, self._spelling = fs, path, spelling

    def __str__(self) -> str:
        return self._spelling

    def __reduce__(self) -> Any:
        return RemoteFile, (self._fs, self._path, self._spelling)

    @property
    def name(self) -> str:
        """Its last part."""
        return self._path.rpartition("/")[2]

    def open(self, mode: Any) -> Any:
        """The file, opened for reading; whole blocks of it are fetched ahead."""
        with explained(self._spelling):
            return self._fs.open(self._path, mode)

    def read_range(self, begin: int, end: int) -> bytes:
        """Some of its bytes, fetched alone.

        Raises:
            UnreadableDataError: they cannot be.
        """
        with explained(self._spelling):
            return bytes(self._fs.cat_file(self._path, start=begin, end=end))


class RemoteFolder:
    """A folder, bucket, archive or web page with links; see :class:`embedlite.runtime.images.folder.Folder`.

    Args:
        fs: the file system.
        path: of the folder within it.
        spelling: what the user called it.
    """

    def __init__(self, fs: Any, path: str, spelling: str) -> None:
        self._fs, self._path, self._spelling = fs, path.rstrip("/"), spelling

    def __reduce__(self) -> Any:
        return RemoteFolder, (self._fs, self._path, self._spelling)

    def read(self, name: str) -> bytes:
        """See :meth:`embedlite.runtime.images.folder.Folder.read`."""
        with explained(self.spell(name)):
            return bytes(self._fs.cat_file(self._inside(name)))

    def spell(self, name: str) -> str:
        """See :meth:`embedlite.runtime.images.folder.Folder.spell`."""
        return f"{name} in {self._spelling}"

    def file(self, name: str) -> RemoteFile:
        """See :meth:`embedlite.runtime.images.folder.Folder.file`."""
        return RemoteFile(self._fs, self._inside(name), self.spell(name))

    def _inside(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name


def list_url(url: str, suffixes: tuple[str, ...]) -> tuple[RemoteFolder, list[str]]:
    """The folder that a URL names and the files in it, below it too, sorted by name.

    Args:
        url: of a folder, or of one file with one of the suffixes, or with ``*``, ``?`` or ``[`` in it.
        suffixes: of files.

    Raises:
        MissingPackageError: fsspec, or what it needs for this kind of URL, is not installed.
        UnreadableDataError: it cannot be reached, or is not there.
        EmptyDataError: nothing matches.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingPackageError(
            f"{url} is read with fsspec, which is not installed. Run: pip install 'embedlite[dask]'."
        ) from error
    with explained(url):
        fs, path = url_to_fs(url)
        path = str(path)
        if GLOB_CHARACTERS.intersection(path):
            folder = fixed_part(path)
            found = [name for name in fs.glob(path) if not name.endswith("/")]
        elif path.lower().endswith(suffixes):
            folder = path.rpartition("/")[0]
            fs.info(path)
            found = [path]
        else:
            folder = path.rstrip("/")
            found = _files_below(fs, path)
    prefix = len(folder) + 1 if folder else 0
    names = sorted(name[prefix:] for name in found)
    if not names:
        raise EmptyDataError(f"there is nothing at {url}. Check the address, or put images there.")
    return RemoteFolder(fs, folder, url), names


def fixed_part(pattern: str) -> str:
    """The folder of a glob pattern that every match is in."""
    parts = pattern.split("/")
    first = next(place for place, part in enumerate(parts) if GLOB_CHARACTERS.intersection(part))
    return "/".join(parts[:first])


def _files_below(fs: Any, path: str) -> list[str]:
    found = [str(name) for name in fs.find(path)]
    if not found:
        # Of a bucket that does not exist some file systems list nothing, and only this says why.
        fs.ls(path, refresh=True) if path else None
    return [name for name in found if not name.endswith("/")]


@contextlib.contextmanager
def explained(spelling: str) -> Iterator[None]:
    """Turn what file systems raise, which have no common class, into one error.

    Raises:
        UnreadableDataError, MissingPackageError: with the reason.
    """
    try:
        yield
    except (UnreadableDataError, MissingPackageError, EmptyDataError):
        raise
    except ImportError as error:
        raise MissingPackageError(
            f"reading {spelling} needs a package that is not installed ({error}). Install it, for s3:// s3fs, for "
            "gs:// gcsfs, for https:// aiohttp."
        ) from error
    except Exception as error:
        kind = type(error).__name__
        if isinstance(error, FileNotFoundError):
            advice = "It is not there: check the address."
        elif isinstance(error, PermissionError) or "Credential" in kind:
            advice = (
                "Credentials are missing or do not permit it: give them as the file system expects them (for s3:// the "
                "AWS environment variables or configuration files), on every worker."
            )
        else:
            advice = "Check the address and the connection."
        raise UnreadableDataError(f"cannot read {spelling} ({kind}: {error}). {advice}") from error
