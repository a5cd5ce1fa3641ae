"""What workers of another architecture, interpreter or Pillow make of the same file and the same images.

A cluster's worker whose last digits may differ is refused, because a result must not depend on who computed what. Set
apart, it embeds *all* images by itself, and how far its embeddings are from this machine's is a result of its own: the
drift between two devices, of which no model is the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.engine import Engine
from ..runtime.drift import Drift, Measurement, measure
from ..runtime.drift.rows import Rows
from ..runtime.drift.wording import UNMEASURED, decibels, fixed
from ..runtime.files import finite_json
from ..runtime.model.contract import InputContract
from ..runtime.printable import one_line
from ..runtime.terminal import Column, table, wrap
from .embedding import embed_far
from .sides import Sides, empty_rows


@dataclass(frozen=True)
class OtherWorkers:
    """Workers of one kind.

    Attributes:
        environment: what they are.
        different: those entries of it that are not this machine's, in words.
        workers: how many.
        drift: of the candidate as they run it, from the candidate as the report's rows have it.
    """

    environment: dict[str, str]
    different: str
    workers: int
    drift: Drift

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        value: dict[str, Any] = finite_json(
            {
                "environment": self.environment,
                "different": self.different,
                "workers": self.workers,
                "drift": asdict(self.drift),
            }
        )
        return value


def measure_others(
    engine: Engine, candidate: Path, contract: InputContract | None, sides: Sides, measurement: Measurement
) -> list[OtherWorkers]:
    """Have every kind of workers that was set apart embed the report's images with its candidate.

    Args:
        engine: opened with ``apart``.
        candidate: the ``.tflite``.
        contract: the preprocessing of a candidate that carries none.
        sides: what the report compares.
        measurement: of these; rows that are invalid there are left out here.

    Raises:
        EmbedliteError: see :func:`embedlite.report.embedding.embed_far`.
    """
    if not engine.others or sides.source is None:
        return []
    place = {name: index for index, name in enumerate(sides.source.ids)}
    source = sides.source.subset([place[str(name)] for name in sides.description.ids])
    valid = np.flatnonzero(measurement.valid)
    found = []
    for other in engine.others:
        rows = empty_rows(len(source), (measurement.candidate.size,))
        embed_far(other, candidate, source, rows, contract=contract, ready=False, label=_differences(other, engine))
        drift = measure(Rows(rows).only(valid), measurement.candidate, measurement.drift.k).drift
        workers = len(other.workers or ())
        found.append(OtherWorkers(dict(other.environment), _differences(other, engine), workers, drift))
    return found


def render_others(others: Sequence[OtherWorkers], width: int) -> str:
    """A table for people, no line longer than ``width``."""
    if not others:
        return "workers that differ from this machine: none"
    columns = [
        Column("they have", left=True),
        Column("workers", 2),
        Column("SQNR dB"),
        Column("cosine min", 1),
        Column("neighbours", 1),
        Column("largest difference"),
    ]
    rows = [
        [
            one_line(other.different),
            f"{other.workers}",
            UNMEASURED if other.drift.max_abs is None else decibels(other.drift.sqnr_db, 2, ""),
            fixed(other.drift.cosine_min, 6),
            fixed(other.drift.knn_overlap_cross, 4),
            fixed(other.drift.max_abs, 6),
        ]
        for other in others
    ]
    head = "workers that differ from this machine: their embeddings by the candidate against the ones above"
    return "\n".join([*wrap(head, width, rest="  "), *table(columns, rows, width, "  ")])


def _differences(other: Engine, engine: Engine) -> str:
    return ", ".join(
        value if key == "interpreter" else f"{key} {value}"
        for key, value in other.environment.items()
        if value != engine.environment[key]
    )
