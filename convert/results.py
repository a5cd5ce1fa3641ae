"""What an export answers: the content of export.json as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runtime.drift import Drift

SCHEMA = 1


@dataclass(frozen=True)
class Verdict:
    """One interpreter's answer about one file.

    Attributes:
        runtime: ``ai-edge-litert`` or ``tflite-runtime``.
        version: its version; empty if it did not get so far.
        ok: whether it runs the file and agrees with the float graph within the mode's bounds.
        detail: what was found, in a few words.
    """

    runtime: str
    version: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class ExportedFile:
    """One written file.

    Attributes:
        mode: ``float32``, ``float16``, ``dynamic`` or ``int8``.
        path: where it is.
        bytes: its size.
        sha256: of the whole file.
        contract: the content of its ``embedlite.json``.
        drift: against the Keras model on images that set no ranges; None without such images.
        latency_us: median microseconds per inference on this machine; None if nothing was measured.
        verified: one verdict per interpreter that was tried.
    """

    mode: str
    path: Path
    bytes: int
    sha256: str
    contract: Mapping[str, Any]
    drift: Drift | None
    latency_us: float | None
    verified: tuple[Verdict, ...]


@dataclass(frozen=True)
class ExportResult:
    """A finished export.

    Attributes:
        source: path and SHA-256 of the model, and the data that were used.
        files: the written files, float32 first.
        decisions: what was decided on the user's behalf, one sentence each.
        ship: which file to ship where, one sentence each.
        schema: the format of export.json.
    """

    source: Mapping[str, Any]
    files: tuple[ExportedFile, ...]
    decisions: tuple[str, ...]
    ship: tuple[str, ...]
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The JSON object that scripts rely on; paths are relative to export.json."""
        value = asdict(self)
        for file in value["files"]:
            file["path"] = Path(file["path"]).name
        return {"schema": self.schema, **{key: item for key, item in value.items() if key != "schema"}}
