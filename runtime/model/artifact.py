"""The deployed file: a TFLite flatbuffer with its contract appended as an uncompressed zip.

Every interpreter ignores what follows the flatbuffer; Python's ``zipfile``, ``unzip -l`` and MediaPipe
find the zip from the end. A metadata entry inside the flatbuffer marks that a contract belongs to the
file, so a contract that was cut off is noticed instead of being taken for a plain file; so does the description.

Contract and flatbuffer hold each other: the contract has the SHA-256 of the flatbuffer, the marker that of what the
contract says of the vectors (:func:`embedlite.runtime.model.contract.binding`). The zip's own CRC covers the rest of
the contract. All this finds damage, not forgery: there is no secret in it.

Tools that rewrite a flatbuffer, such as the NPU compiler Vela, drop the zip and keep the marker. For their files the
contract stands beside the model as ``FILE.tflite.embedlite.json``, a sidecar: the same JSON, with the length and
SHA-256 of the rewritten flatbuffer, and without golden vectors. A zip in the file wins, and a sidecar beside it is not
read: the file alone decides, wherever it is copied.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import DamagedModelError, ModelFileError, UnreadableDataError
from ..files import sha256
from .contract import Contract, binding
from .flatbuffer import ModelInfo, read_flatbuffer

MARKER = "EMBEDLITE_CONTRACT"
"""Name of the flatbuffer's metadata entry that says: a contract belongs to this file. It holds the binding."""

DESCRIPTION = "embedlite"
"""The flatbuffer's description; it says the same, so that one damaged byte cannot unmark a file."""

CONTRACT_NAME = "embedlite.json"

GOLDEN_NAME = "golden.npz"

SIDECAR_SUFFIX = f".{CONTRACT_NAME}"
"""What a sidecar is called: the model's whole file name and this."""


@dataclass(frozen=True)
class Artifact:
    """A model file that was checked.

    Attributes:
        flatbuffer: the bytes for the interpreter.
        info: what the flatbuffer says of itself.
        contract: from the file itself or from its sidecar; None for a plain ``.tflite`` from elsewhere.
        golden: the golden vectors as they stand in the file; None where there are none.
        sha256: SHA-256 of the whole file.
        size: length of the whole file in bytes.
    """

    flatbuffer: bytes
    info: ModelInfo
    contract: Contract | None
    golden: bytes | None
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
        with path.open("rb") as file:
            # A pipe is read once, from its start to its end.
            return _read(file if file.seekable() else io.BytesIO(file.read()), lambda: _read_sidecar(path))
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read the model {path}: {error.strerror or error}. Pass the path of a .tflite file."
        ) from error
    except ModelFileError as error:
        raise type(error)(f"{path}: {error}") from error


def parse_artifact(data: bytes, read_sidecar: Callable[[], bytes | None] = lambda: None) -> Artifact:
    """Check the bytes of a ``.tflite`` file; see :func:`read_artifact`.

    Args:
        data: the whole file.
        read_sidecar: gives the bytes of the sidecar, or None; only asked if ``data`` holds no contract.
    """
    return _read(io.BytesIO(data), read_sidecar)


def _read(file: BinaryIO, read_sidecar: Callable[[], bytes | None]) -> Artifact:
    """Read the flatbuffer once and hash every byte once: of a large file that is most of what opening it costs."""
    appended = _find_contract(file)
    sealed, length, golden = (None, -1, None) if appended is None else appended
    file.seek(0)
    flatbuffer = file.read(length)
    digest = hashlib.sha256(flatbuffer)
    checksum = digest.hexdigest()
    if sealed is not None:
        _check(
            flatbuffer,
            checksum,
            sealed,
            "the model is damaged: its SHA-256 is {found}, but it was written as {expected}",
        )
        _check_golden(golden, sealed.contract.golden_sha256)
    elif (text := read_sidecar()) is not None:
        sealed = _parse(text, f"beside the model ({SIDECAR_SUFFIX})")
        _check(
            flatbuffer,
            checksum,
            sealed,
            f"the model and the contract beside it ({SIDECAR_SUFFIX}) are not of one export, or one of them is "
            "damaged: the model's SHA-256 is {found}, but the contract is of {expected}",
        )
    info = read_flatbuffer(flatbuffer)
    marker = info.metadata.get(MARKER)
    if sealed is None:
        if marker is not None or info.description == DESCRIPTION:
            raise DamagedModelError(
                "the model was exported with a contract, but the contract is missing: it is neither at the end of the "
                f"file nor beside it (the model's name with {SIDECAR_SUFFIX} after it). The file was cut short or "
                "rewritten by another tool. Copy it again from where it was exported, with the contract if one is "
                "beside it there."
            )
        return Artifact(flatbuffer, info, None, None, checksum, len(flatbuffer))
    if marker is not None and marker != sealed.binding:
        raise DamagedModelError(
            "the contract is not the one that the model was exported with: its input, output, normalization or mode "
            "was changed. Copy the file again from where it was exported, or export the model again."
        )
    rest = file.read()
    digest.update(rest)
    return Artifact(flatbuffer, info, sealed.contract, golden, digest.hexdigest(), len(flatbuffer) + len(rest))


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


class _Sealed(NamedTuple):
    """A contract as it was read, and the binding that its text has."""

    contract: Contract
    binding: bytes


def _check(flatbuffer: bytes, found: str, sealed: _Sealed, problem: str) -> None:
    contract = sealed.contract
    if len(flatbuffer) != contract.flatbuffer_bytes or found != contract.flatbuffer_sha256:
        said = problem.format(
            found=f"{found[:12]}… ({len(flatbuffer)} bytes)",
            expected=f"{str(contract.flatbuffer_sha256)[:12]}… ({contract.flatbuffer_bytes} bytes)",
        )
        raise DamagedModelError(
            f"{said}. It was not given to any interpreter. Copy it again from where it was exported."
        )


def _check_golden(golden: bytes | None, expected: str) -> None:
    found = "" if golden is None else sha256(golden)
    if found != expected:
        raise DamagedModelError(
            f"the golden vectors in the model ({GOLDEN_NAME}) are damaged: their SHA-256 is {found[:12] or 'missing'}, "
            f"but the contract says {expected[:12] or 'that there are none'}. Copy the file again from where it was "
            "exported."
        )


def append_contract(flatbuffer: bytes, contract: Contract, golden: bytes | None = None) -> bytes:
    """The deployed file: ``flatbuffer`` with ``contract`` after it, its checksums filled in, and golden vectors.

    The same arguments give the same bytes: the zip's time stamps are fixed and nothing is compressed.
    """
    from .appended_zip import append_zip

    contents = {CONTRACT_NAME: _seal(flatbuffer, contract, "" if golden is None else sha256(golden))}
    if golden is not None:
        contents[GOLDEN_NAME] = golden
    return append_zip(flatbuffer, contents)


def sidecar(flatbuffer: bytes, contract: Contract) -> bytes:
    """The content of ``FILE.tflite.embedlite.json`` for a model file that is ``flatbuffer`` and nothing more.

    Args:
        flatbuffer: what another tool made of an exported model; its input and output are still the contract's.
        contract: of the exported model; length and checksum are filled in again.
    """
    return _seal(flatbuffer, contract, "")


def _seal(flatbuffer: bytes, contract: Contract, golden_sha256: str) -> bytes:
    contract = replace(
        contract,
        flatbuffer_bytes=len(flatbuffer),
        flatbuffer_sha256=sha256(flatbuffer),
        golden_sha256=golden_sha256,
    )
    return json.dumps(contract.to_json(), indent=1, sort_keys=True, allow_nan=False).encode()


def _find_contract(file: BinaryIO) -> tuple[_Sealed, int, bytes | None] | None:
    """The contract, the length of what is before it and the golden vectors, if a zip with a contract ends the file."""
    from .appended_zip import read_zip

    found = read_zip(file, CONTRACT_NAME, GOLDEN_NAME)
    if found is None:
        return None
    entries, start = found
    return _parse(entries[CONTRACT_NAME], "at the end of the model"), start, entries.get(GOLDEN_NAME)


def _parse(text: bytes, where: str) -> _Sealed:
    try:
        value = json.loads(text)
        return _Sealed(Contract.from_json(value), binding(value))
    # ValueError: no JSON, no UTF-8, or a number of too many digits.
    except (ValueError, RecursionError) as error:
        raise DamagedModelError(
            f"the contract {where} is damaged ({error}). Copy the file again from where it was exported."
        ) from error
