"""Which file to ship where, from what was just measured.

A file that fails the drift gates is recommended nowhere: what it fails stands in its place, and what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...runtime.backends.registry import BACKENDS, BY_PACKAGE
from ...runtime.drift.metrics import ranked_db
from ..max_drift import Budget, missed_text, required_of_shipped
from ..modes import MIXED, is_mixed
from ..quantize.floating.end import AVERAGING, LAYERS
from ..results import ExportedFile

NEARLY_AS_FAST = 1.25
"""A file this much slower than the fastest is still worth its smaller drift; so is one of which that is not certain."""


@dataclass(frozen=True)
class Recommended:
    """What to ship.

    Attributes:
        ship: one sentence for a CPU, one for an NPU and one for a microcontroller.
        why: what else there is to know of it and of the files that were not chosen, a sentence a place.
    """

    ship: tuple[str, ...]
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Said:
    """Of one place; ``more`` is what :attr:`Recommended.why` says of it."""

    place: str
    line: str
    more: tuple[str, ...] = ()


def recommend(
    files: Sequence[ExportedFile],
    timed_on: Mapping[str, Any],
    *,
    missed: bool = False,
    chosen: bool = False,
    budget: Budget | None = None,
    cause: str = "",
) -> Recommended:
    """Which of the files to ship where.

    Args:
        files: those that were not rejected.
        timed_on: the runtime that the latencies are from: :attr:`.results.MeasuredOn.runtime`.
        missed: whether no file keeps the limits.
        chosen: whether this is the one file that was chosen of several, so that nothing is said of what it is not for.
        budget: the limits that were asked for; the default gates hold besides.
        cause: why rounded files fail, where that is known; where to read of it, as the end of a sentence.
    """
    if not files:
        return Recommended((f"nothing to ship: {'no file keeps the limits' if missed else _NONE_RUNS}.",))
    if all(_says_nothing(file) for file in files):
        silent = f"{files[0].mode}: {files[0].silent}"
        return Recommended((f"nothing to ship: the embeddings say nothing of the images ({silent}).",))
    if all(file.drift is not None and file.drift.count == 1 for file in files):
        return Recommended(("nothing to ship: drift was measured on one image, which says nothing of others.",))
    shelf = _Shelf(tuple(files), required_of_shipped(budget), cause)
    said = [_for_cpu(shelf, timed_on), _for_npu(shelf), _for_microcontroller(shelf)]
    if chosen:
        said = [one for one in said if not one.line.endswith((_NEEDS_INT8, _NOT_TIMED))]
    return Recommended(
        tuple(f"{one.place}: {one.line}" for one in said),
        tuple(f"{one.place}: {'; '.join(one.more)}." for one in said if one.more),
    )


def of_a_cpu(timed_on: Mapping[str, Any]) -> bool:
    """Whether latencies are a CPU's, not an estimate for an NPU nor those of a microcontroller's reference kernels."""
    backend = BY_PACKAGE.get(timed_on["name"])
    return backend is None or backend.cpu


def _says_nothing(file: ExportedFile) -> bool:
    return file.silent is not None and file.silent.mostly


@dataclass(frozen=True)
class _Shelf:
    """What there is to choose from."""

    files: tuple[ExportedFile, ...]
    required: Budget
    cause: str

    def passes(self, file: ExportedFile) -> bool:
        kept = file.drift is None or self.required.kept(file.drift)
        return file.runs and kept and not _says_nothing(file)

    def failing(self, files: Sequence[ExportedFile]) -> str:
        """What these files, none of which passes, fail."""
        return f"nothing to ship: {'; '.join(map(self._failure, files))}"

    def _failure(self, file: ExportedFile) -> str:
        broken = next((verdict for verdict in file.verified if not verdict.ok), None)
        if not file.runs and broken is not None:
            return f"{file.mode} fails on {broken.runtime}"
        if _says_nothing(file):
            return f"{file.mode}'s embeddings say nothing ({file.silent})"
        missed = () if file.drift is None else self.required.missed(file.drift)
        return f"{file.mode} has {missed_text(missed)}" if missed else f"{file.mode} was not timed"

    def has(self, *modes: str) -> bool:
        return any(_mode(file) in modes for file in self.files)


def _for_cpu(shelf: _Shelf, timed_on: Mapping[str, Any]) -> _Said:
    if not of_a_cpu(timed_on):
        return _Said(_CPU, f"the latencies are {timed_on['name']}'s; {_NOT_TIMED}")
    timed = [file for file in shelf.files if file.latency_us is not None and file.runs]
    usable = [file for file in timed if shelf.passes(file)]
    if not usable:
        if not timed and all(file.runs for file in shelf.files):
            return _Said(_CPU, "nothing was measured; run drift-report on the target.")
        rounded = [file for file in timed if file.mode not in ("float32", "float16")]
        advice = (
            "float32 fails as well, so rounding is not the cause: drift-report --ladder tells where the drift begins"
            if any(file.mode == "float32" and not shelf.passes(file) for file in shelf.files)
            else f"Instead: -q float32, which rounds nothing{_and(shelf.cause if rounded else '')}"
        )
        return _Said(_CPU, f"{shelf.failing(timed or shelf.files)}. {advice}.")
    fastest = min(usable, key=lambda file: file.latency_us or 0)
    near = [file for file in usable if _least(file) <= NEARLY_AS_FAST * _most(fastest)]
    # Among files of nearly the same speed the smallest drift wins; without drift figures, the smallest file.
    best = max(near, key=lambda file: (0.0 if file.drift is None else ranked_db(file.drift.sqnr_db), -file.bytes))
    refused = [verdict.runtime for verdict in best.verified if not verdict.ok]
    figures = _timed(best) + (f"; not on {', '.join(refused)}" if refused else "")
    more = []
    if best is not fastest and _least(best) <= _most(fastest):
        more.append(f"{best.mode} is no slower than {fastest.mode} as far as could be measured")
    more += [f"{other.mode}: {_timed(other)}" for other in usable if other.mode in _ROUNDED and other is not best]
    return _Said(_CPU, f"ship {best.path.name} ({figures}).", tuple(more))


def _timed(file: ExportedFile) -> str:
    return f"{file.latency_us:,.0f} µs" + ("" if file.drift is None else f", {file.sqnr_text}")


def _least(file: ExportedFile) -> float:
    """The latency that repeated measurements do not rule out, at the low end."""
    return file.latency_low_us or file.latency_us or 0.0


def _most(file: ExportedFile) -> float:
    return file.latency_high_us or file.latency_us or 0.0


def _for_npu(shelf: _Shelf) -> _Said:
    """Of the files with integer activations, the one of which an NPU runs most; 8 bits before 16."""
    best, nothing = _best(shelf, "ethos-u", "its compiler takes none of these files.", _left_by_npu)
    if best is None:
        return _Said(_NPU, nothing)
    figures = _drift(best, shelf)
    for verdict in best.verified:
        if verdict.npu_operators is not None and verdict.ok:
            left = sum((verdict.cpu_operators or {}).values())
            figures.append(f"Ethos-U runs {verdict.npu_operators} of {verdict.npu_operators + left} operators")
    return _Said(_NPU, _ship(best, figures), _integers(best))


def _for_microcontroller(shelf: _Shelf) -> _Said:
    """Of the files that TFLite Micro runs, the first that passes the gates, the smallest kind first."""
    best, nothing = _best(shelf, "micro", "TFLite Micro runs none of these files.")
    if best is None:
        return _Said(_MICRO, nothing)
    figures, more = _drift(best, shelf), list(_integers(best))
    if (arena := _arena(best)) is not None:
        figures.append(f"an arena of {arena:,} bytes")
        # A mixed file or one of 16 bits may be worth its memory.
        for other in shelf.files:
            if other is not best and _taken(other, "micro") and other.mode != "float32" and shelf.passes(other):
                memory = _arena(other)
                more += [f"{other.mode}: {memory:,} bytes, {other.sqnr_text}"] if memory and other.drift else []
    return _Said(_MICRO, _ship(best, figures), tuple(more))


def _ship(best: ExportedFile, figures: Sequence[str]) -> str:
    return f"ship {best.path.name}" + (f" ({'; '.join(figures)})." if figures else ".")


def _drift(best: ExportedFile, shelf: _Shelf) -> list[str]:
    """What is said first of a file of integers: its drift, and why it is not int8."""
    fails = any(file.mode == "int8" and file.runs and not shelf.passes(file) for file in shelf.files)
    return [*([] if best.drift is None else [best.sqnr_text]), *(["int8 fails the drift gates"] if fails else [])]


def _best(
    shelf: _Shelf, place: str, refusal: str, cost: Callable[[ExportedFile], float] = lambda _: 0.0
) -> tuple[ExportedFile | None, str]:
    """The best of the integer files for a place: the least cost, then the first mode; or None, and what is to be said.

    Args:
        shelf: the files.
        place: its row among the backends.
        refusal: what is said where the place takes none of them.
        cost: what is to be low.
    """
    made = [file for file in shelf.files if _mode(file) in _INTEGERS]
    if not made:
        return None, _NEEDS_INT8
    running = [file for file in made if file.runs]
    if not running:
        return None, f"{shelf.failing(made)}. {_instead(shelf, place)}"
    taken = [file for file in running if _taken(file, place)]
    if not taken:
        return None, refusal
    passing = [file for file in taken if shelf.passes(file)]
    if not passing:
        return None, f"{shelf.failing(taken)}. {_instead(shelf, place)}"
    return min(passing, key=lambda file: (cost(file), _INTEGERS.index(_mode(file)))), ""


def _taken(file: ExportedFile, place: str) -> bool:
    return all(verdict.ok for verdict in file.verified if verdict.runtime == BACKENDS[place].package)


def _instead(shelf: _Shelf, place: str) -> str:
    """What to do where all files for a place fail the gates, those first that cost least."""
    ways = [] if shelf.has("int16x8") else ["-q int16x8, which rounds activations to 16 bits"]
    if not shelf.has(MIXED):
        ways.append(f"--pareto --target {place}, which looks for the layers that must not be rounded so")
    ways.append("more calibration images")
    return f"Instead: {'; '.join(ways)}{_and(shelf.cause or _WHERE)}."


def _and(text: str) -> str:
    return f"; {text}" if text else ""


_CPU, _NPU, _MICRO = "CPU", "NPU", "microcontroller"
_ROUNDED = ("int8", "dynamic")
_INTEGERS = ("int8", MIXED, "int16x8")
_NONE_RUNS = "a required target runs none of these files"
_NOT_TIMED = "for a CPU's name --target litert first."
_WHERE = "drift-report --layers tells which layers make the drift"
_NEEDS_INT8 = "needs an int8 file, which -q int8 makes with --calibration-data."


def _mode(file: ExportedFile) -> str:
    return MIXED if is_mixed(file.mode) else file.mode


def _left_by_npu(file: ExportedFile) -> float:
    """Operators that the NPU's compiler left to the CPU, but for those of an end that need not be float."""
    for verdict in file.verified:
        if verdict.cpu_operators is not None:
            # A layer's weights are made float by an operator of their own.
            end = [*_float_end(file), *(["DEQUANTIZE"] if set(_float_end(file)).intersection(LAYERS) else [])]
            free = [*end, *(["RESHAPE"] if end else [])]
            return sum(verdict.cpu_operators.values()) - sum(kind in verdict.cpu_operators for kind in free)
    return 0.0


def _float_end(file: ExportedFile) -> list[str]:
    """What an int8 file computes in float because it is free on a CPU; integers do it where they are asked for."""
    return [kind for kind in file.float_operators if file.mode == "int8" and kind in (*LAYERS, *AVERAGING)]


def _integers(best: ExportedFile) -> tuple[str, ...]:
    """How much of the file is integers, and what makes the rest so."""
    if is_mixed(best.mode):
        return ("integers but for the layers that the search left in another precision",)
    kind = "8-bit integers throughout" if best.mode == "int8" else "8-bit weights and 16-bit activations throughout"
    if not best.float_operators:
        return (kind,)
    text = f"{kind} but for {', '.join(best.float_operators)} in float"
    normalization = best.contract["normalization"]
    if normalization["kind"] == "none" or normalization["placement"] != "graph":
        return (text,)
    if _float_end(best):
        return (
            f"{text}, where a CPU loses no time by it, and the normalization",
            "--input-type int8 --output-type int8 has that in integers and leaves the normalization to Encoder",
        )
    return (f"{text}, the normalization", "--input-type int8 --output-type int8 leaves it to Encoder")


def _arena(file: ExportedFile) -> int | None:
    return next((verdict.arena_bytes for verdict in file.verified if verdict.arena_bytes is not None), None)
