"""What an export answers: the content of export.json as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..calibration import Assessment
from ..runtime.drift import Drift
from ..runtime.sources import Skipped
from .coupling import BatchCoupling

SCHEMA = 1


@dataclass(frozen=True)
class Verdict:
    """One interpreter's answer about one file.

    Attributes:
        runtime: ``ai-edge-litert``, ``tflite-runtime``, ``tflite-micro`` or ``ethos-u-vela``.
        version: its version.
        ok: whether it runs the file and agrees with the float graph within the mode's bounds.
        detail: what was found, in a few words.
        arena_bytes: memory that TFLite Micro needs for the file; None for the others.
        npu_operators: operators that the compiler placed on the NPU; None for interpreters.
        cpu_operators: name to count of those it left to the CPU; None for interpreters.
    """

    runtime: str
    version: str
    ok: bool
    detail: str
    arena_bytes: int | None = None
    npu_operators: int | None = None
    cpu_operators: Mapping[str, int] | None = None


@dataclass(frozen=True)
class ExportedFile:
    """One written file.

    Attributes:
        mode: ``float32``, ``float16``, ``dynamic``, ``int8`` or ``int16x8``.
        path: where it is.
        bytes: its size.
        sha256: of the whole file.
        contract: the content of its ``embedlite.json``.
        float_operators: of a file with integer activations, the operators that still compute in float, once each.
        drift: against the Keras model on images that set no ranges; None without such images.
        latency_us: median microseconds per inference on this machine; None if nothing was measured.
        verified: one verdict per interpreter that was tried.
    """

    mode: str
    path: Path
    bytes: int
    sha256: str
    contract: Mapping[str, Any]
    float_operators: tuple[str, ...]
    drift: Drift | None
    latency_us: float | None
    verified: tuple[Verdict, ...]


@dataclass(frozen=True)
class NormalizationReport:
    """What became of the normalization.

    Attributes:
        kind: of the one that ends the encoder: ``minmax``, ``l2`` or ``none``.
        asked: what was asked for: ``auto``, ``graph``, ``runtime`` or ``frozen``.
        outside: for ``frozen``, the share of held-out raw values beyond the constants; else None.
        from_original: for ``frozen``, the drift of the frozen float encoder from the original on held-out images.
    """

    kind: str
    asked: str
    outside: float | None = None
    from_original: Drift | None = None


@dataclass(frozen=True)
class ExportResult:
    """A finished export.

    Attributes:
        source: path and SHA-256 of the model, and the data that were used.
        normalization: where it was placed, and for ``frozen`` what that costs; see :class:`NormalizationReport`.
        batch_coupling: how far the same images move between batches; None if that could not be measured.
        calibration: whether the calibration images are enough; None where no ranges were needed.
        not_checked: runtimes that are not installed here, so that no file was run on them.
        failed_targets: one sentence for each file that a required target does not run; their files end in
            ``.rejected``.
        skipped: images that ``skip_unreadable`` left out, each with the reason.
        files: the written files, float32 first.
        decisions: what was decided on the user's behalf, one sentence each.
        ship: which file to ship where, one sentence each.
        schema: the format of export.json.
    """

    source: Mapping[str, Any]
    normalization: NormalizationReport
    batch_coupling: BatchCoupling | None
    calibration: Assessment | None
    not_checked: tuple[str, ...]
    failed_targets: tuple[str, ...]
    skipped: tuple[Skipped, ...]
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
