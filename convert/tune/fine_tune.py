"""``--fine-tune``: a quantized file in, a better one out where held-out images say so, and what was done, in words."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.drift.wording import decibels, gained
from ...runtime.errors import RequestError
from ...runtime.images.source import Source
from ...runtime.model.flatbuffer import read_flatbuffer
from ...runtime.model.tensor_match import match_graphs
from ...runtime.progress import Line
from ...runtime.version import __version__
from ..graph.graph import Graph
from ..quantize.correct.paired_graph import PairedGraph
from ..quantize.folds import LEAST_TO_COMPARE
from ..quantize.plan import Int8Plan
from ..results import FineTuning
from .checkpoint import Checkpoint
from .images import Batches
from .network import Network
from .operators import UnsupportedError
from .parameters import Parameters
from .starting import End, Remake, Start, Starting
from .train import Errors, Run, Trained, Training

_MOST_BATCH, _LEAST_BATCH, _MOST_BYTES = 32, 2, 1 << 30
_COPIES = 6
"""Values that are in memory for each activation, roughly: it, what rounding makes of it, and the way back."""


@dataclass(frozen=True)
class Tuned:
    """What came of it.

    Attributes:
        graph: float-in, float-out; the one that was given where nothing was kept.
        report: what was done, in figures; None where nothing was trained.
        decisions: the same in words.
    """

    graph: bytes
    report: FineTuning | None = None
    decisions: tuple[str, ...] = ()


class FineTuner:
    """Fine-tunes the files of one export."""

    def __init__(
        self,
        plan: Int8Plan,
        raw_name: str | None,
        further: Source | None,
        seconds: float,
        seed: int,
        *,
        flips: bool = False,
        checkpoint: str | Path | None = None,
        ends: Sequence[End] = (),
    ) -> None:
        """Prepare, without reading anything.

        Args:
            plan: what int8 was made from.
            raw_name: of the embedding before its normalization; None without one.
            further: images besides those for calibration.
            seconds: how long to train each file.
            seed: of what is drawn.
            flips: whether left and right may change places.
            checkpoint: a file that keeps the state of the training; None keeps nothing.
            ends: what may stay float at the end of an int8 file, the shortest first.
        """
        self._ends = ends
        self._plan, self._raw_name, self._further = plan, raw_name, further
        self._seconds, self._seed, self._flips, self._checkpoint = seconds, seed, flips, checkpoint

    def tune(self, quantized: bytes, mode: str, original: bytes, remake: Remake | None = None) -> Tuned:
        """Balance the channels of a quantized graph, and train its weights, biases and step sizes.

        Args:
            quantized: float-in, float-out, as it would be without.
            mode: ``int8`` or ``int16x8``.
            original: the float graph that it was made from.
            remake: see :data:`Remake`; None balances nothing.
        """
        try:
            with _noted_interrupt() as stopped:
                return self._tuned(quantized, mode, original, remake, stopped)
        except UnsupportedError as error:
            return _left(quantized, mode, f"there is no gradient for {error} here")

    def _tuned(self, quantized: bytes, mode: str, original: bytes, remake: Remake | None, stopped: list[int]) -> Tuned:
        plan = self._plan
        if plan.fitting is None or plan.trial is None:
            return _left(quantized, mode, "there are no calibration images, or too few to hold some of them out")
        count = len(plan.fitting) + len(plan.trial)
        if count < LEAST_TO_COMPARE:
            return _left(
                quantized,
                mode,
                f"{count} calibration images are too few to judge it by; {LEAST_TO_COMPARE} are enough",
            )
        try:
            paired = PairedGraph(quantized, original, [], None)
        except RequestError:
            return _left(quantized, mode, "none of its layers computes with integers")
        if not paired.layers:
            return _left(quantized, mode, "it has no layer with weights of its own in 8 bits")
        sources = [plan.fitting] if self._further is None else [plan.fitting, self._further]
        batches = Batches(sources, _batch_size(Network(quantized)), self._seed, flips=self._flips)
        began, before = time.monotonic(), plan.trial.errors_of(quantized)
        start = Start(quantized, original, plan.ranges, plan.choices.float_end)
        problem = ""
        if remake is not None:
            starting = Starting(plan, remake, self._ends, self._seconds, lambda: bool(stopped))
            start, problem = starting.found(start, before, batches.size, self._seed), starting.problem
            paired = PairedGraph(start.graph, start.original, [], None)
        parameters = Parameters(paired, start.original, start.ranges.limits)
        student, teacher = Network(parameters.quantized), Network(start.original)
        checkpoint = Checkpoint(self._checkpoint, mode, self._key(parameters.quantized, start.original, batches))
        answers = self._answers(parameters.quantized, start.original)
        training = Training(student, teacher, answers, parameters, batches)
        trained = self._train(training, parameters, checkpoint, mode, before, start, stopped)
        kept = start.gained or trained.best is not None
        found = trained.best or parameters.start
        tuned = parameters.file(found)
        # Balanced channels are the same function in float.
        in_float = start.original if trained.best is None else parameters.unrounded(found)
        facts = FineTuning(
            mode=mode,
            kept=kept,
            float_end=start.floats,
            centred=start.centred,
            balanced=start.balanced,
            reranged=start.reranged,
            trained=trained.best is not None,
            images=len(batches),
            held_out=len(plan.trial),
            steps=trained.steps,
            resumed=trained.resumed,
            seconds=round(time.monotonic() - began, 1),
            rate=trained.rate,
            seed=self._seed,
            ended=trained.ended,
            failures=trained.failures,
            sqnr_before=plan.trial.sqnr(before),
            sqnr_after=plan.trial.sqnr(trained.errors if kept else before),
            float_from_original=plan.trial.sqnr(plan.trial.errors_of(in_float)) if kept else None,
            sha256=hashlib.sha256(tuned).hexdigest(),
        )
        told = (_told(facts), *filter(None, [problem, checkpoint.problem, _unreadable(batches, mode)]))
        return Tuned(tuned if kept else quantized, facts, told)

    def _key(self, quantized: bytes, original: bytes, batches: Batches) -> str:
        """Fingerprint of all that the training depends on."""
        versions = "".join(f"{name} {importlib.metadata.version(name)}\n" for name in ("tensorflow", "numpy"))
        facts = f"{__version__} {self._seconds} {self._seed} {self._flips} {batches.fingerprint}\n{versions}".encode()
        parts = (quantized, original, facts)
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def _answers(self, quantized: bytes, original: bytes) -> list[tuple[int, int]]:
        """The embedding, and before its normalization where the file has that in integers."""
        info, true_info = read_flatbuffer(quantized), read_flatbuffer(original)
        pairs = [(info.wiring.outputs[0], true_info.wiring.outputs[0])]
        if self._raw_name is not None:
            raw = Graph(original).index_of(self._raw_name)
            tensors = match_graphs(info, true_info).tensors
            pairs += [(mine, true) for mine, true in tensors.items() if true == raw][-1:]
        return list(dict.fromkeys(pairs))

    def _train(
        self,
        training: Training,
        parameters: Parameters,
        checkpoint: Checkpoint,
        mode: str,
        before: Errors,
        start: Start,
        stopped: list[int],
    ) -> Trained:
        trial = self._plan.trial
        assert trial is not None
        line = Line(100, f"fine-tuning {mode}")

        def shown(share: float, now: Trained) -> None:
            gain = f" %, {gained(trial.sqnr(before), trial.sqnr(now.errors))}"
            line.show(int(100 * share), gain if start.gained or now.best is not None else " %, no gain yet")

        try:
            judge, seconds = trial.errors_of, self._seconds - start.seconds
            return Run(training, parameters, judge, seconds, lambda: bool(stopped), shown, checkpoint).train()
        finally:
            line.close()


def _left(quantized: bytes, mode: str, reason: str) -> Tuned:
    return Tuned(quantized, decisions=(f"{mode} was not fine-tuned: {reason}.",))


def _unreadable(batches: Batches, mode: str) -> str:
    found = batches.unreadable
    if not found:
        return ""
    return (
        f"WARNING: {len(found)} image(s) for fine-tuning turned out to be unusable while {mode} was trained, such as "
        f"{found[0]}; the next ones were taken instead."
    )


def _told(report: FineTuning) -> str:
    effort = f"{report.steps} steps in {report.seconds:.0f} s on {report.images} images"
    if report.resumed:
        effort = f"{report.steps} steps, {report.resumed} of them in an earlier run, on {report.images} images"
    if report.failures:
        count = f"{report.failures} of which ended in NaN and {'was' if report.failures == 1 else 'were'}"
        effort += f", {count} taken back, at a lower rate"
    ends = {
        "interrupted": ", interrupted",
        "time": ", fewer than were planned: the time was over",
        "building": ": building the first takes longer than the time that was left; give --fine-tune-time more",
    }
    effort += ends.get(report.ended, "")
    if not report.kept:
        return (
            f"{report.mode} was not fine-tuned: no clear gain on {report.held_out} held-out calibration images "
            f"({effort})."
        )
    names = {
        "an end in float": report.float_end,
        "centred attention": report.centred,
        "balanced channels": report.balanced,
        "other ranges": report.reranged,
    }
    if changed := [name for name, is_so in names.items() if is_so]:
        before = " and ".join([*([", ".join(changed[:-1])] if changed[1:] else []), changed[-1]])
        effort = f"{before}, and {effort}" if report.trained else f"{before} alone: no more came of {effort}"
    what, apart = f"{report.mode} was", "Drift"
    if report.weights_changed:
        what = f"the weights of {report.mode} were"
        apart = f"Its weights in float are {decibels(report.float_from_original)} from the original; drift"
    return (
        f"{what} changed by fine-tuning: {gained(report.sqnr_before, report.sqnr_after)} on {report.held_out} "
        f"calibration images held out for that ({effort}). {apart} is measured against the original."
    )


def _batch_size(network: Network) -> int:
    graph = network.graph
    outputs = [int(index) for operator in graph.operators for index in operator.outputs]
    values = sum(int(np.prod(graph.shape(index), dtype=np.int64)) for index in outputs)
    return int(np.clip(_MOST_BYTES // (4 * _COPIES * max(values, 1)), _LEAST_BATCH, _MOST_BATCH))


@contextlib.contextmanager
def _noted_interrupt() -> Iterator[list[int]]:
    """Within it the first Ctrl-C is only noted, and another is as usual: in the middle of a step it could surface
    in C++ and be told as something else."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def note(number: int, _: object) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
