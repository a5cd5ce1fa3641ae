"""The zip after a flatbuffer: every interpreter ignores it, Python's ``zipfile`` and ``unzip`` open it.

Imported when a file is opened or written, and not before: ``zipfile`` takes a good part of the time that importing the
rest of what an encoder needs takes.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

from ..errors import DamagedModelError

_EARLIEST = (1980, 1, 1, 0, 0, 0)

# What zipfile lets through for damaged archives: it has no common class.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, ValueError, OSError, NotImplementedError, RuntimeError, OverflowError),
    *(IndexError, struct.error),
)


def append_zip(flatbuffer: bytes, contents: Mapping[str, bytes]) -> bytes:
    """``flatbuffer`` with a zip after it.

    Time stamps are fixed and nothing is compressed, so the same contents give the same bytes.

    Args:
        flatbuffer: what comes first.
        contents: of the entries, by name, in their order.
    """
    buffer = io.BytesIO(flatbuffer)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def read_zip(file: BinaryIO, needed: str, *others: str) -> tuple[dict[str, bytes], int] | None:
    """Entries of the zip that ends the file, by name, and the length of what is before it.

    Args:
        file: the whole file.
        needed: the entry without which a zip is none of ours.
        others: entries to read where they are there.

    Returns:
        None if the file does not end with a zip that has the needed entry.

    Raises:
        DamagedModelError: there is a zip, and it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if needed not in names:
                return None
            if len(set(names)) < len(names):
                raise zipfile.BadZipFile("two entries of one name")
            start = min(entry.header_offset for entry in archive.infolist())
            return {name: _read_stored(archive, name) for name in (needed, *others) if name in names}, start
    except _ZIP_ERRORS as error:
        if _ends_with_zip(file):
            raise DamagedModelError(
                f"the contract at the end of the model is damaged ({error}). "
                "Copy the file again from where it was exported."
            ) from error
        return None


def _ends_with_zip(file: BinaryIO) -> bool:
    """Whether the last record of a zip without comment is where it would be."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 22, 0))
    return file.read(4) == b"PK\x05\x06"


def _read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry's content; a compressed one is not ours, and might unpack to any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{name} is compressed")
    return archive.read(name)
