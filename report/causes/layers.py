"""Which layers of a quantized encoder make its drift.

Two questions are asked of every operator on quantized values.

How good is its output, as it comes in the running file? The signal-to-quantization-noise ratio of the tensor, over all
images and elements, c being the candidate's values, dequantized, and f the float graph's::

    sqnr_db = 10 log10( sum f^2 / sum (c - f)^2 )
    drop_db = the lowest sqnr_db among its inputs - its own

A low ratio need not be this operator's doing, and what it loses need not reach the embedding. So, second: what happens
to the embedding if this operator alone is quantized? It is given the float graph's own values, x, in the candidate's
numbers. Its answer q(x) is compared with what the float operator makes of the very same numbers, f(x): the difference
q(x) - f(x) is its own error, from its weights and from the range and step of its output, and from nothing before it.
That error is added to the float graph's own tensor, and the float operators after it carry it to the embedding::

    alone_db = 10 log10( sum e^2 / sum (e' - e)^2 )        e, e' the embeddings without and with the error
    share    = sum (e' - e)^2 of this operator / the same summed over all operators

Both runs use the interpreter that is installed, on graphs cut out of the two files; nothing is simulated. Errors of
several operators need not add up to the whole: see :attr:`.layer_report.LayerReport.sum_db`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.metrics import sqnr_db
from ...runtime.drift.wording import UNMEASURED, decibels, fixed
from ...runtime.errors import RequestError
from ...runtime.files import finite_json
from ...runtime.layout import Column, fit, table, wrap
from ...runtime.machine import available_threads
from ...runtime.model.artifact import Artifact, read_artifact
from ...runtime.model.flatbuffer import ModelInfo
from ...runtime.printable import one_line
from ...runtime.progress import progress
from .pair import SMALL, GraphPair, Run, Values

LAYER_IMAGES = 32
"""Images that layers are measured on: each has thousands of values, so that few images are enough."""


def measure_layers(
    candidate: Path, reference: Path, images: Iterable[NDArray[np.float32]], *, threads: int | None = None
) -> LayerReport:
    """Measure every operator of a quantized file against the float file that it was made from.

    Args:
        candidate: a quantized ``.tflite``.
        reference: the float ``.tflite``.
        images: model-ready (H, W, C) float32; read once, a part at a time, so that memory stays bounded.
        threads: processors that one inference may use.

    Raises:
        RequestError: the two do not belong together, or there are no images.
        InterpreterFailedError: the interpreter cannot run a part of a file.
    """
    mine, other = read_artifact(candidate), read_artifact(reference)
    return _Measurement(mine, other, threads or available_threads()).report(iter(images))


def is_quantized(info: ModelInfo) -> bool:
    """Whether a file computes with, or stores, anything but float32."""
    return any(tensor.dtype in SMALL for tensor in info.tensors)


@dataclass
class _Power:
    """Sums of squares: of a signal, and of what is added to it."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, true: Values, other: Values) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self.signal += float(np.square(true, dtype=np.float64).sum())
            noise = float(np.square(other.astype(np.float64) - true).sum())
        # NaN in place of a value is not a value, however close its neighbours are.
        self.noise += noise if math.isfinite(noise) else math.inf

    @property
    def db(self) -> float | None:
        return sqnr_db(self.signal, self.noise)


@dataclass
class _Step:
    """An operator that is judged: how to run it, its float counterpart, and what lies after that."""

    name: str
    operator: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    targets: tuple[int, ...]
    open: Callable[[], tuple[Run, Run]]
    power: _Power = field(default_factory=_Power)


class _Measurement:
    """One pair of files; holds what the steps share."""

    def __init__(self, candidate: Artifact, reference: Artifact, threads: int) -> None:
        self._mine, self._other = candidate.info, reference.info
        self._pair = GraphPair(candidate, reference, threads)
        self._flow = {index: _Power() for index in self._pair.match.tensors}
        self._whole = _Power()
        self._steps = self._find_steps()

    def report(self, images: Iterator[NDArray[np.float32]]) -> LayerReport:
        size, count = self._pair.chunk_size(), 0
        while chunk := list(islice(images, size)):
            self._add(chunk)
            count += len(chunk)
        if count == 0:
            raise RequestError("--layers: there are no images to measure layers on. Pass at least one.")
        total = sum(step.power.noise for step in self._steps)
        layers = tuple(self._describe(step, total) for step in self._steps)
        return LayerReport(layers, count, self._whole.db, sqnr_db(self._whole.signal, total), self._pair.match.lost)

    def _describe(self, step: _Step, total: float) -> LayerDrift:
        sqnr = self._flow[step.writes[0]].db
        before = [db for index in step.reads if (db := self._flow[index].db) is not None]
        drop = min(before) - sqnr if before and sqnr is not None else None
        share = step.power.noise / total if 0 < total < math.inf else None
        shape = self._mine.tensors[step.writes[0]].shape
        rescaled = step.writes[0] in self._pair.gains
        return LayerDrift(step.name, step.operator, shape, sqnr, drop, rescaled, step.power.db, share)

    def _find_steps(self) -> list[_Step]:
        info, tensors = self._mine, self._pair.match.tensors
        steps = []
        source = info.wiring.inputs[0]
        if info.inputs[0].dtype != "float32":
            # The caller rounds the image then, and no operator does.
            identity: tuple[Run, Run] = (list, list)
            name = self._other.inputs[0].name
            steps.append(_Step(name, "INPUT", (), (source,), (tensors[source],), lambda: identity))
        for place, (reads, writes) in enumerate(info.wiring.operators):
            kind = info.operators[place].name
            inputs = tuple(index for index in reads if index in self._pair.mine)
            if not inputs or kind == "DEQUANTIZE" or not all(index in tensors for index in (*inputs, *writes)):
                continue
            if not self._pair.is_small(place):
                continue
            targets = tuple(tensors[index] for index in writes)
            name = self._other.tensors[targets[0]].name
            steps.append(
                _Step(name, kind, inputs, writes, targets, partial(self._pair.operator, place, inputs, writes))
            )
        return steps

    def _add(self, images: Sequence[NDArray[np.float32]]) -> None:
        """Run some images through everything."""
        floats, mine = self._pair.all_values(images)
        embeddings = [self._pair.embedding(values) for values in floats]
        for values, stored in zip(floats, mine, strict=True):
            for index, power in self._flow.items():
                power.add(values[self._pair.match.tensors[index]], self._pair.real(index, stored[index]))
        result = self._pair.output
        after = self._pair.after((self._pair.match.tensors[result],))
        for values, stored, embedding in zip(floats, mine, embeddings, strict=True):
            changed = {self._pair.match.tensors[result]: self._pair.real(result, stored[result])}
            self._whole.add(embedding, after({**values, **changed}))
        del mine
        for step in progress(self._steps, len(self._steps), "layers"):
            run, run_float = step.open()
            after = self._pair.after(step.targets)
            for values, embedding in zip(floats, embeddings, strict=True):
                step.power.add(embedding, after({**values, **self._with_error(step, run, run_float, values)}))

    def _with_error(self, step: _Step, run: Run, run_float: Run, values: Mapping[int, Values]) -> dict[int, Values]:
        """The float graph's outputs of an operator with the error that it makes when it is quantized."""
        tensors = self._pair.match.tensors
        if step.operator == "INPUT":
            (source,) = step.writes
            return {step.targets[0]: self._pair.real(source, self._pair.stored(source, values[tensors[source]]))}
        inputs = [self._pair.stored(index, values[tensors[index]]) for index in step.reads]
        answers = run(inputs)
        right = run_float([self._pair.real(index, value) for index, value in zip(step.reads, inputs, strict=True)])
        return {
            target: values[target] + (self._pair.real(index, answer) - true)
            for index, target, answer, true in zip(step.writes, step.targets, answers, right, strict=True)
        }


SHOWN_LAYERS = 10
"""Rows of the table; the other layers are counted."""


@dataclass(frozen=True)
class LayerDrift:
    """One operator on quantized values; decibels are None where there is no noise at all.

    Attributes:
        name: of its output in the float graph.
        operator: ``CONV_2D`` and so on.
        shape: of its output, batch axis included.
        sqnr_db: of its output in the running file.
        drop_db: by how much that is less than of its worst input; None also where the inputs are exact.
        rescaled: whether the file holds the tensor in another scale in each channel (equalization), which was removed.
        alone_db: of the embedding if this operator alone is quantized.
        share: of the noise in the embedding that all operators make, each alone; None if none makes any.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    sqnr_db: float | None
    drop_db: float | None
    rescaled: bool
    alone_db: float | None
    share: float | None


@dataclass(frozen=True)
class LayerReport:
    """The layers in the order of the graph.

    Attributes:
        layers: see :class:`LayerDrift`.
        images: how many were run.
        together_db: signal-to-noise ratio of the embedding with all operators quantized.
        sum_db: what it would be if the noise of all operators, each alone, added up.
        lost: operators on quantized values that have no counterpart in the float graph and are not judged.
    """

    layers: tuple[LayerDrift, ...]
    images: int
    together_db: float | None
    sum_db: float | None
    lost: int

    def ranked(self) -> list[LayerDrift]:
        """The layers by their share of the noise, the largest first."""
        return sorted(self.layers, key=lambda layer: -(layer.share or 0))

    def to_json(self) -> list[dict[str, Any]]:
        """The layers as JSON objects, in the order of the graph."""
        layers: list[dict[str, Any]] = finite_json([asdict(layer) for layer in self.layers])
        return layers


def render_layers(report: LayerReport, width: int, noun: str = "image") -> str:
    """The layers that hurt most as a table, the worst first, no line longer than ``width``."""
    ranked = report.ranked()
    shown = ranked[:SHOWN_LAYERS]
    columns = [
        Column("layer", left=True),
        Column("operator", 1, left=True),
        Column("share"),
        Column("alone dB"),
        Column("SQNR dB", 2),
        Column("drop dB", 3),
    ]
    rows = [
        [
            one_line(layer_name(layer.name)) + (" *" if layer.rescaled else ""),
            layer.operator,
            UNMEASURED if layer.share is None else f"{layer.share:.1%}",
            *(decibels(value, unit="") for value in (layer.alone_db, layer.sqnr_db)),
            fixed(layer.drop_db, 1),
        ]
        for layer in shown
    ]
    lines = wrap(f"layers by their share of the noise in the embedding, {report.images} {noun}s", width)
    lines += table(columns, rows, width, "  ")
    if others := ranked[SHOWN_LAYERS:]:
        lines.append(f"  {len(others)} others: {sum(layer.share or 0 for layer in others):.1%}")
    notes = [
        f"all together {decibels(report.together_db)}; if their noise added up it would be {decibels(report.sum_db)}"
    ]
    if any(layer.rescaled for layer in shown):
        notes.append("* equalized: compared after its channels were brought back to the scale of the float model")
    if report.lost:
        notes.append(f"{report.lost} operator(s) have no counterpart in the reference and are not judged")
    return "\n".join([*lines, *fit(notes, width)])


def layer_name(name: str) -> str:
    """The converter joins the names of fused layers with semicolons; the first says which it is."""
    return name.split(";", maxsplit=1)[0]
