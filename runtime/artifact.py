"""The deployed file: a TFLite flatbuffer with its contract appended as an uncompressed zip.

Every interpreter ignores what follows the flatbuffer; Python's ``zipfile``, ``unzip -l`` and MediaPipe
find the zip from the end. A metadata entry inside the flatbuffer marks that a contract belongs to the
file, so a contract that was cut off is noticed instead of being taken for a plain file.

Tools that rewrite a flatbuffer, such as the NPU compiler Vela, drop the zip and keep the marker. For their files the
contract stands beside the model as ``FILE.tflite.embedlite.json``, a sidecar: the same JSON, with the length and
SHA-256 of the rewritten flatbuffer. A zip in the file wins, and a sidecar beside it is not read: the file alone
decides, wherever it is copied.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .contract import Contract
from .errors import DamagedModelError, ModelFileError, UnreadableDataError
from .files import sha256
from .flatbuffer import ModelInfo, read_flatbuffer

MARKER = "EMBEDLITE_CONTRACT"
"""Name of the flatbuffer's metadata entry that says: a contract belongs to this file."""

CONTRACT_NAME = "embedlite.json"

SIDECAR_SUFFIX = f".{CONTRACT_NAME}"
"""What a sidecar is called: the model's whole file name and this."""

_EARLIEST = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Artifact:
    """A model file that was checked.

    Attributes:
        flatbuffer: the bytes for the interpreter.
        info: what the flatbuffer says of itself.
        contract: from the file itself or from its sidecar; None for a plain ``.tflite`` from elsewhere.
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
        UnreadableDataError: there is no such file, or it or its sidecar cannot be read.
        NotTFLiteError: it is something else.
        DamagedModelError: its SHA-256 is not the contract's, its contract is missing or damaged, or, for a
            plain file, its structure is unsound. A contract in a sidecar is held to the same.
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
        return parse_artifact(data, lambda: _read_sidecar(path))
    except ModelFileError as error:
        raise type(error)(f"{path}: {error}") from error


def parse_artifact(data: bytes, read_sidecar: Callable[[], bytes | None] = lambda: None) -> Artifact:
    """Check the bytes of a ``.tflite`` file; see :func:`read_artifact`.

    Args:
        data: the whole file.
        read_sidecar: gives the bytes of the sidecar, or None; only asked if ``data`` holds no contract.
    """
    contract, flatbuffer = _split(data)
    if contract is not None:
        _check(flatbuffer, contract, "the model is damaged: its SHA-256 is {found}, but it was written as {expected}")
    elif (text := read_sidecar()) is not None:
        contract = _parse(text, f"beside the model ({SIDECAR_SUFFIX})")
        _check(
            flatbuffer,
            contract,
            f"the model and the contract beside it ({SIDECAR_SUFFIX}) are not of one export, or one of them is "
            "damaged: the model's SHA-256 is {found}, but the contract is of {expected}",
        )
    info = read_flatbuffer(flatbuffer)
    if contract is None and MARKER in info.metadata:
        raise DamagedModelError(
            "the model was exported with a contract, but the contract is missing: it is neither at the end of the file "
            f"nor beside it (the model's name with {SIDECAR_SUFFIX} behind it). The file was cut short or rewritten by "
            "another tool. Copy it again from where it was exported, with the contract if one is beside it there."
        )
    return Artifact(flatbuffer, info, contract, sha256(data), len(data))


def _read_sidecar(path: Path) -> bytes | None:
    beside = path.with_name(path.name + SIDECAR_SUFFIX)
    try:
        return beside.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read the contract {beside}: {error.strerror or error}. Copy it again from where the model was "
            "exported."
        ) from error


def _check(flatbuffer: bytes, contract: Contract, problem: str) -> None:
    found = sha256(flatbuffer)
    if len(flatbuffer) != contract.flatbuffer_bytes or found != contract.flatbuffer_sha256:
        said = problem.format(
            found=f"{found[:12]}… ({len(flatbuffer)} bytes)",
            expected=f"{str(contract.flatbuffer_sha256)[:12]}… ({contract.flatbuffer_bytes} bytes)",
        )
        raise DamagedModelError(
            f"{said}. It was not given to any interpreter. Copy it again from where it was exported."
        )


def append_contract(flatbuffer: bytes, contract: Contract) -> bytes:
    """The deployed file: ``flatbuffer`` with ``contract`` behind it, its checksum filled in.

    The same arguments give the same bytes: the zip's time stamps are fixed and nothing is compressed.
    """
    buffer = io.BytesIO(flatbuffer)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo(CONTRACT_NAME, _EARLIEST)
        entry.external_attr = 0o644 << 16
        archive.writestr(entry, sidecar(flatbuffer, contract))
    return buffer.getvalue()


def sidecar(flatbuffer: bytes, contract: Contract) -> bytes:
    """The content of ``FILE.tflite.embedlite.json`` for a model file that is ``flatbuffer`` and nothing more.

    Args:
        flatbuffer: what another tool made of an exported model; its input and output are still the contract's.
        contract: of the exported model; length and checksum are filled in anew.
    """
    contract = replace(contract, flatbuffer_bytes=len(flatbuffer), flatbuffer_sha256=sha256(flatbuffer))
    return json.dumps(contract.to_json(), indent=1, sort_keys=True, allow_nan=False).encode()


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
    return _parse(text, "at the end of the model"), data[:start]


def _parse(text: bytes, where: str) -> Contract:
    try:
        return Contract.from_json(json.loads(text))
    # ValueError: no JSON, no UTF-8, or a number of too many digits.
    except (ValueError, RecursionError) as error:
        raise DamagedModelError(
            f"the contract {where} is damaged ({error}). Copy the file again from where it was exported."
        ) from error
