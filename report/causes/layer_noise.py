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

That error has three parts. With g(x) the float operator's answer with the candidate's weights and biases in place of
its own, and g'(x) the same without what the candidate's output cannot hold::

    q(x) - f(x) = (g(x) - f(x)) + (g'(x) - g(x)) + (q(x) - g'(x))
                   weights         clipping         rounding

Each is carried to the embedding alone, too, and its noise power there, divided by the sum of the three, is its part.

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
from ...runtime.machine import available_threads
from ...runtime.model.artifact import Artifact, read_artifact
from ...runtime.model.flatbuffer import ModelInfo
from ...runtime.printable import one_line
from ...runtime.progress import progress
from ...runtime.terminal import Column, fit, table, wrap
from .help import Made, Noise, what_helps
from .pair import SMALL, GraphPair, Run, Values

PARTS = ("weights", "clipping", "rounding")
"""Of a layer's noise: stored weights and biases, an output that its type cannot hold, and the steps of activations."""

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
    open: Callable[[], tuple[Run, Run, Run | None]]
    power: _Power = field(default_factory=_Power)
    parts: tuple[_Power, ...] = field(default_factory=lambda: tuple(_Power() for _ in PARTS))


class _Measurement:
    """One pair of files; holds what the steps share."""

    def __init__(self, candidate: Artifact, reference: Artifact, threads: int) -> None:
        self._mine, self._other = candidate.info, reference.info
        self._made = _made(candidate)
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
        together = self._whole.db
        helps = what_helps([_noise(layer) for layer in layers], together, self._made)
        return LayerReport(layers, count, together, sqnr_db(self._whole.signal, total), self._pair.match.lost, helps)

    def _describe(self, step: _Step, total: float) -> LayerDrift:
        sqnr = self._flow[step.writes[0]].db
        before = [db for index in step.reads if (db := self._flow[index].db) is not None]
        drop = min(before) - sqnr if before and sqnr is not None else None
        share = step.power.noise / total if 0 < total < math.inf else None
        shape = self._mine.tensors[step.writes[0]].shape
        rescaled = step.writes[0] in self._pair.gains
        noise = sum(power.noise for power in step.parts)
        parts = [power.noise / noise if 0 < noise < math.inf else None for power in step.parts]
        return LayerDrift(step.name, step.operator, shape, sqnr, drop, rescaled, step.power.db, share, *parts)

    def _find_steps(self) -> list[_Step]:
        info, tensors = self._mine, self._pair.match.tensors
        steps = []
        source = info.wiring.inputs[0]
        if info.inputs[0].dtype != "float32":
            # The caller rounds the image then, and no operator does.
            identity: tuple[Run, Run, None] = (list, list, None)
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
            steps.append(_Step(name, kind, inputs, writes, targets, partial(self._open, place, inputs, writes)))
        return steps

    def _open(self, place: int, reads: tuple[int, ...], writes: tuple[int, ...]) -> tuple[Run, Run, Run | None]:
        return *self._pair.operator(place, reads, writes), self._pair.with_small_weights(place, reads, writes)

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
            runs = step.open()
            after = self._pair.after(step.targets)
            for values, embedding in zip(floats, embeddings, strict=True):
                whole, parts = self._errors(step, runs, values)
                moved = self._moved(step, whole, values, after)
                step.power.add(embedding, moved)
                for power, part in zip(step.parts, parts, strict=True):
                    if all(error is mine for error, mine in zip(part, whole, strict=True)):
                        power.add(embedding, moved)
                    elif any(error.any() for error in part):
                        power.add(embedding, self._moved(step, part, values, after))

    def _moved(
        self, step: _Step, errors: Sequence[Values], values: Mapping[int, Values], after: Callable[..., Values]
    ) -> Values:
        """The embedding with an error added to what an operator writes."""
        return after({**values, **{index: values[index] + e for index, e in zip(step.targets, errors, strict=True)}})

    def _errors(
        self, step: _Step, runs: tuple[Run, Run, Run | None], values: Mapping[int, Values]
    ) -> tuple[list[Values], list[list[Values]]]:
        """What a quantized operator makes too much, for each of its outputs; and that in :data:`PARTS`."""
        pair, tensors = self._pair, self._pair.match.tensors
        if step.operator == "INPUT":
            (source,) = step.writes
            right = weighted = [values[tensors[source]]]
            answers = [pair.stored(source, right[0])]
        else:
            run, run_float, run_weights = runs
            inputs = [pair.stored(index, values[tensors[index]]) for index in step.reads]
            real = [pair.real(index, value) for index, value in zip(step.reads, inputs, strict=True)]
            answers, right = run(inputs), run_float(real)
            weighted = right if run_weights is None else run_weights(real)
        answers = [pair.real(index, answer) for index, answer in zip(step.writes, answers, strict=True)]
        held = [pair.clipped(index, value) for index, value in zip(step.writes, weighted, strict=True)]
        stages = [right, weighted, held, answers]
        whole = [answer - true for answer, true in zip(answers, right, strict=True)]
        parts = [
            [later - earlier for later, earlier in zip(*stage, strict=True)]
            for stage in zip(stages[1:], stages[:-1], strict=True)
        ]
        if not any(error.any() for part in parts[:2] for error in part):
            parts[2] = whole
        return whole, parts


def _made(candidate: Artifact) -> Made:
    contract = candidate.contract
    if contract is None:
        return Made()
    calibration = contract.calibration or {}
    return Made(contract.mode, calibration.get("method"), calibration.get("samples"))


def _noise(layer: LayerDrift) -> Noise:
    parts = ((layer.share or 0) * (getattr(layer, part) or 0) for part in PARTS)
    named = dict(zip(PARTS, parts, strict=True))
    return Noise(layer_name(layer.name), **named, is_input=layer.operator == "INPUT")


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
        weights: of this operator's noise, the part of its stored weights and biases, 0 to 1; None if it makes none.
        clipping: the part of values beyond what its output can hold, likewise.
        rounding: the part of the steps of its output, likewise; with 8-bit weights alone, those of its input.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    sqnr_db: float | None
    drop_db: float | None
    rescaled: bool
    alone_db: float | None
    share: float | None
    weights: float | None = None
    clipping: float | None = None
    rounding: float | None = None


@dataclass(frozen=True)
class LayerReport:
    """The layers in the order of the graph.

    Attributes:
        layers: see :class:`LayerDrift`.
        images: how many were run.
        together_db: signal-to-noise ratio of the embedding with all operators quantized.
        sum_db: what it would be if the noise of all operators, each alone, added up.
        lost: operators on quantized values that have no counterpart in the float graph and are not judged.
        helps: what would, in one sentence; None where there is too little noise.
    """

    layers: tuple[LayerDrift, ...]
    images: int
    together_db: float | None
    sum_db: float | None
    lost: int
    helps: str | None = None

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
        Column("mostly", 1, left=True),
        Column("alone dB"),
        Column("SQNR dB", 2),
        Column("drop dB", 3),
    ]
    rows = [
        [
            one_line(layer_name(layer.name)) + (" *" if layer.rescaled else ""),
            layer.operator,
            UNMEASURED if layer.share is None else f"{layer.share:.1%}",
            _mostly(layer),
            *(decibels(value, unit="") for value in (layer.alone_db, layer.sqnr_db)),
            fixed(layer.drop_db, 1),
        ]
        for layer in shown
    ]
    lines = wrap(f"layers by their share of the noise in the embedding, {report.images} {noun}s", width)
    lines += table(columns, rows, width, "  ")
    if others := ranked[SHOWN_LAYERS:]:
        lines.append(f"  {len(others)} others: {sum(layer.share or 0 for layer in others):.1%}")
    notes = [_split(report)] if any(layer.weights is not None for layer in ranked) else []
    notes += [
        f"all together {decibels(report.together_db)}; if their noise added up it would be {decibels(report.sum_db)}"
    ]
    if any(layer.rescaled for layer in shown):
        notes.append("* equalized: compared after its channels were brought back to the scale of the float model")
    if report.lost:
        notes.append(f"{report.lost} operator(s) have no counterpart in the reference and are not judged")
    if report.helps is not None:
        notes.append(f"what would help: {report.helps}")
    return "\n".join([*lines, *fit(notes, width)])


def _mostly(layer: LayerDrift) -> str:
    """The largest part of a layer's noise."""
    parts = [(value, part) for part in PARTS if (value := getattr(layer, part)) is not None]
    return "{1} {0:.0%}".format(*max(parts)) if parts else ""


def _split(report: LayerReport) -> str:
    """The parts of the noise of all layers."""
    layers = [_noise(layer) for layer in report.layers]
    parts = sorted(((sum(getattr(layer, part) for layer in layers), part) for part in PARTS), reverse=True)
    said = {"weights": "rounded weights", "clipping": "clipped values", "rounding": "rounded activations"}
    return "of the noise of all: " + ", ".join(f"{value:.1%} {said[part]}" for value, part in parts)


def layer_name(name: str) -> str:
    """The converter joins the names of fused layers with semicolons; the first says which it is."""
    return name.split(";", maxsplit=1)[0]
