"""What is written besides the modes' files and export.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runtime.model.artifact import sidecar
from ..make.c_header import c_headers
from ..make.c_source import c_source
from ..make.names import OutputNames
from ..request import Request
from ..verify.measure import Measured
from .choosing import Chosen


@dataclass(frozen=True)
class Contents:
    """The files of an export but for those that tell of them.

    Attributes:
        by_path: what is written where.
        decisions: what was decided on the user's behalf.
    """

    by_path: dict[Path, bytes]
    decisions: tuple[str, ...]


def contents(request: Request, measured: Measured, chosen: Chosen) -> Contents:
    """The chosen files, their C source and headers, and what the NPU's compiler made of them.

    Args:
        request: what is asked for besides the files.
        measured: the files, and what was compiled.
        chosen: which of them are written, under which names.
    """
    made, names = {item.mode: item for item in measured.made}, OutputNames(request)
    written = {file.path: made[file.mode].data for file in chosen.files}
    for file in chosen.shipped:
        item = made[file.mode]
        if item.mode == chosen.written_as_c:
            flatbuffer = item.data[: item.contract.flatbuffer_bytes]
            arena = next((v.arena_bytes for v in file.verified if v.arena_bytes is not None), None)
            sources = c_source(f"{request.stem}.{item.mode}", flatbuffer, item.contract, arena)
            written |= {request.folder / name: content for name, content in sources.items()}
        compiled = measured.compiled.get(item.mode)
        if "ethos-u" in request.targets and compiled is not None and compiled.flatbuffer is not None:
            target, beside = names.compiled(item.mode)
            written |= {target: compiled.flatbuffer, beside: sidecar(compiled.flatbuffer, item.contract)}
    without: list[str] = []
    if request.c_header:
        headers, without = c_headers({file.path: made[file.mode].data for file in chosen.shipped})
        written |= headers
    return Contents(written, tuple(without))
