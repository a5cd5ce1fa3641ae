"""The deployed file: a TFLite flatbuffer with its contract appended as an uncompressed zip.

Every interpreter ignores what follows the flatbuffer; Python's ``zipfile``, ``unzip -l`` and MediaPipe
find the zip from the end. A metadata entry inside the flatbuffer marks that a contract belongs to the
file, so a contract that was cut off is noticed instead of being taken for a plain file.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from .contract import Contract
from .errors import DamagedModelError, ModelFileError, UnreadableDataError
from .files import sha256
from .flatbuffer import ModelInfo, read_flatbuffer

MARKER = "EMBEDLITE_CONTRACT"
"""Name of the flatbuffer's metadata entry that says: a contract belongs to this file."""

CONTRACT_NAME = "embedlite.json"

_EARLIEST = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Artifact:
    """A model file that was checked.

    Attributes:
        flatbuffer: the bytes for the interpreter.
        info: what the flatbuffer says of itself.
        contract: None for a plain ``.tflite`` from elsewhere.
        sha256: SHA-256 of the whole file.
        size: length of the whole file in bytes.
    """

    flatbuffer: bytes
    info: ModelInfo
    contract: Contract | None
    sha256: str
    size: int


def read_artifact(path: str | Path) -> Artifact:
    """Read a ``.tflite`` file and check it before any interpreter sees it.

    Raises:
        UnreadableDataError: there is no such file, or it cannot be read.
        NotTFLiteError: it is something else.
        DamagedModelError: its SHA-256 is not the contract's, its contract is missing or damaged, or, for a
            plain file, its structure is unsound.
        NewerContractError: the contract was written by a newer version.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read the model {path}: {error.strerror or error}. Pass the path of a .tflite file."
        ) from error
    try:
        return parse_artifact(data)
    except ModelFileError as error:
        raise type(error)(f"{path}: {error}") from error


def parse_artifact(data: bytes) -> Artifact:
    """Check the bytes of a ``.tflite`` file; see :func:`read_artifact`."""
    contract, flatbuffer = _split(data)
    if contract is not None:
        found = sha256(flatbuffer)
        if len(flatbuffer) != contract.flatbuffer_bytes or found != contract.flatbuffer_sha256:
            raise DamagedModelError(
                f"the model is damaged: its SHA-256 is {found[:12]}… ({len(flatbuffer)} bytes), but it was written "
                f"as {contract.flatbuffer_sha256[:12]}… ({contract.flatbuffer_bytes} bytes). It was not given to any "
                "interpreter. Copy it again from where it was exported."
            )
    info = read_flatbuffer(flatbuffer)
    if contract is None and MARKER in info.metadata:
        raise DamagedModelError(
            "the model was exported with a contract, but the contract is missing from the end of the file: it was "
            "cut short or rewritten by another tool. Copy it again from where it was exported."
        )
    return Artifact(flatbuffer, info, contract, sha256(data), len(data))


def append_contract(flatbuffer: bytes, contract: Contract) -> bytes:
    """The deployed file: ``flatbuffer`` with ``contract`` behind it, its checksum filled in.

    The same arguments give the same bytes: the zip's time stamps are fixed and nothing is compressed.
    """
    contract = replace(contract, flatbuffer_bytes=len(flatbuffer), flatbuffer_sha256=sha256(flatbuffer))
    buffer = io.BytesIO(flatbuffer)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo(CONTRACT_NAME, _EARLIEST)
        entry.external_attr = 0o644 << 16
        archive.writestr(entry, json.dumps(contract.to_json(), indent=1, sort_keys=True, allow_nan=False))
    return buffer.getvalue()


def _split(data: bytes) -> tuple[Contract | None, bytes]:
    """The contract, if a zip with one ends the data, and the flatbuffer in front of it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if CONTRACT_NAME not in archive.namelist():
                return None, data
            start = min(entry.header_offset for entry in entries)
            text = archive.read(CONTRACT_NAME)
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        if data[-22:-18] == b"PK\x05\x06":
            raise DamagedModelError(
                f"the contract at the end of the model is damaged ({error}). "
                "Copy the file again from where it was exported."
            ) from error
        return None, data
    try:
        return Contract.from_json(json.loads(text)), data[:start]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DamagedModelError(
            f"the contract at the end of the model is damaged ({error}). "
            "Copy the file again from where it was exported."
        ) from error
