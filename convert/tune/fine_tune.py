"""``--fine-tune``: a quantized file in, a better one out where held-out images say so, and what was done, in words."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...calibration import Ranges
from ...calibration.auto import better
from ...runtime.drift.wording import decibels, gained
from ...runtime.errors import InterpreterFailedError, RequestError
from ...runtime.images.source import Source
from ...runtime.model.flatbuffer import read_flatbuffer
from ...runtime.model.tensor_match import match_graphs
from ...runtime.progress import Line
from ...runtime.version import __version__
from ..errors import ConversionError
from ..graph.graph import Graph
from ..quantize.correct.paired_graph import PairedGraph
from ..quantize.folds import LEAST_TO_COMPARE
from ..quantize.plan import Int8Plan
from ..results import FineTuning
from .balance import SHARES, Balance
from .checkpoint import Checkpoint
from .images import Batches
from .narrow import Narrowing
from .network import Network
from .operators import UnsupportedError
from .parameters import Parameters
from .train import Errors, Run, Trained, Training

_MOST_BATCH, _LEAST_BATCH, _MOST_BYTES = 32, 2, 1 << 30
_COPIES = 6
"""Values that are in memory for each activation, roughly: it, what rounding makes of it, and the way back."""

_BALANCING = 0.3
"""Share of the time that balancing channels and choosing ranges may take."""

_STANDARD_ERRORS = 2.0
"""By how much a balance must be better, as of other changes that are none in float: five are tried."""

_MOST_IMAGES, _LEAST_IMAGES, _MOST_PIXELS = 128, 16, 4 << 20
"""Images that balancing looks at, and fewer of large ones."""

Remake = Callable[[bytes, Ranges], bytes]
"""Makes the quantized graph of another float graph with other ranges, corrected as the file is."""


@dataclass(frozen=True)
class _Start:
    """What training starts from.

    Attributes:
        graph: in integers.
        original: the float graph that it was made from.
        ranges: of its activations.
        balanced: whether its channels were balanced, which is a gain by itself.
        narrowed: whether it has other ranges, likewise.
        seconds: how long that took.
    """

    graph: bytes
    original: bytes
    ranges: Ranges
    balanced: bool = False
    narrowed: bool = False
    seconds: float = 0.0

    @property
    def gained(self) -> bool:
        """Whether it is better than the file that was given."""
        return self.balanced or self.narrowed


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
        """
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
        start = _Start(quantized, original, plan.ranges)
        if remake is not None:
            start = self._balanced(start, before, remake, batches.size, stopped)
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
            balanced=start.balanced,
            narrowed=start.narrowed,
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
        told = (_told(facts), *filter(None, [checkpoint.problem]))
        return Tuned(tuned if kept else quantized, facts, told)

    def _balanced(self, start: _Start, before: Errors, remake: Remake, size: int, stopped: list[int]) -> _Start:
        """The file with the balance and the ranges that held-out images find best, if it is clearly better."""
        trial, began = self._plan.trial, time.monotonic()
        assert trial is not None
        balance = Balance(start.graph, start.original, start.ranges)

        def over() -> bool:
            return bool(stopped) or time.monotonic() - began > _BALANCING * self._seconds

        best = (start, _score(before))
        tried = [best]

        def judge(candidate: _Start) -> None:
            nonlocal best
            try:
                made = replace(candidate, graph=remake(candidate.original, candidate.ranges))
                errors = trial.errors_of(made.graph)
            except (ConversionError, InterpreterFailedError):
                return
            tried.append((made, _score(errors)))
            if tried[-1][1] < best[1] and better(errors, before, _STANDARD_ERRORS):
                best = tried[-1]

        batches = list(self._looked_at(size))
        if balance.scales and self._measured(balance, batches, over):
            for share in SHARES:
                original, ranges = balance.balanced(share)
                judge(_Start(start.graph, original, ranges, balanced=True))
                if over():
                    break
        # Of the best channels, clearly better or not, and of those that were given.
        nearest = min(tried, key=lambda item: item[1])[0]
        for candidate in [nearest] if nearest is start else [nearest, start]:
            if over():
                break
            narrowing = Narrowing(candidate.graph, candidate.original, candidate.ranges)
            if self._measured(narrowing, batches, over):
                judge(replace(candidate, ranges=narrowing.narrowed(), narrowed=True))
        return replace(best[0], seconds=time.monotonic() - began)

    def _looked_at(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Batches of the images that balancing looks at."""
        fitting = self._plan.fitting
        assert fitting is not None
        count = min(len(fitting), max(_LEAST_IMAGES, min(_MOST_IMAGES, _MOST_PIXELS // fitting.ready(0).size)))
        for first in range(0, count, size):
            yield np.stack([fitting.ready(index) for index in range(first, min(first + size, count))])

    def _measured(
        self, what: Balance | Narrowing, batches: Sequence[NDArray[np.float32]], over: Callable[[], bool]
    ) -> bool:
        """Whether all batches were looked at in time."""
        for number, images in enumerate(batches):
            what.measure(images, self._seed + number)
            if over():
                return False
        return True

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
        start: _Start,
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


def _score(errors: Errors) -> float:
    return float(np.log(np.maximum(errors[:, 0], 1e-30)).mean())


def _left(quantized: bytes, mode: str, reason: str) -> Tuned:
    return Tuned(quantized, decisions=(f"{mode} was not fine-tuned: {reason}.",))


def _told(report: FineTuning) -> str:
    effort = f"{report.steps} steps in {report.seconds:.0f} s on {report.images} images"
    if report.resumed:
        effort = f"{report.steps} steps, {report.resumed} of them in an earlier run, on {report.images} images"
    if report.failures:
        count = f"{report.failures} of which ended in NaN and {'was' if report.failures == 1 else 'were'}"
        effort += f", {count} taken back, at a lower rate"
    ends = {"interrupted": ", interrupted", "time": ", fewer than were planned: the time was over"}
    effort += ends.get(report.ended, "")
    if not report.kept:
        return (
            f"{report.mode} was not fine-tuned: no clear gain on {report.held_out} held-out calibration images "
            f"({effort})."
        )
    names = {"balanced channels": report.balanced, "other ranges": report.narrowed}
    if before := " and ".join(name for name, is_so in names.items() if is_so):
        effort = f"{before}, and {effort}" if report.trained else f"{before} alone: {effort} gave no more"
    return (
        f"the weights of {report.mode} were changed by fine-tuning: {gained(report.sqnr_before, report.sqnr_after)} on "
        f"{report.held_out} calibration images held out for that ({effort}). Its weights in float are "
        f"{decibels(report.float_from_original)} from the original; drift is measured against the original."
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
