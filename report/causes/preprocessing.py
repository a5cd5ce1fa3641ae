"""Preprocessing told apart from quantization, by vectors that the user's own pipeline made.

Both sides of an ordinary report see the same pixels, so that it cannot show that these are others than in training.
Stored vectors can: the float file, fed through the candidate's contract, answers otherwise than they say. Which other
contract would bring them together is tried on some images.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...convert.contract_search import as_options, explain
from ...runtime.drift import measure_drift
from ...runtime.drift.metrics import ranked_db
from ...runtime.drift.report import DriftReport
from ...runtime.drift.rows import Rows
from ...runtime.drift.wording import decibels
from ...runtime.encoder import Encoder
from ...runtime.errors import EmbedliteError, EmbedliteWarning, RequestError
from ...runtime.images.open import Data, open_source
from ...runtime.images.source import Source
from ...runtime.model.artifact import read_artifact
from ...runtime.model.contract import InputContract
from ...runtime.printable import one_line
from ...runtime.progress import stage
from ...runtime.terminal import fit
from .ladder import Ladder, render_ladder, step_between, with_shares

_MOST, _LEAST = 16, 4
_MOST_BYTES = 16 << 20
"""Contracts are tried on so many images, fewer where they are large."""

_SAME_DB = 60.0
"""The float file that is so near to the vectors is fed as in training."""

_JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")

_IDENTICAL_DB = 160.0
"""Stands for no difference at all."""


@dataclass(frozen=True)
class Preprocessing:
    """What the drift from stored vectors is made of.

    Attributes:
        images: number of images that it was measured on.
        float_file: the float file, if it was at hand.
        preprocessing_db: SQNR of the float file against the vectors (of the candidate, if there is not a float file).
        quantization_db: SQNR of the candidate against the float file; None without one, or if it is the candidate.
        options: what would change the contract to the one that explains most; empty if none is better.
        found_db: SQNR of the float file with that contract against the vectors.
        steps: what was changed, each with the SQNR so far.
        tried: number of contracts that were tried.
        no_decoder: whether there are JPEG files, and TensorFlow's decoder could not be tried.
        ladder: both parts and each of the steps as steps of one ladder; None if that was not asked for.
    """

    images: int
    float_file: str | None
    preprocessing_db: float
    quantization_db: float | None
    options: str
    found_db: float
    steps: tuple[tuple[str, float], ...]
    tried: int
    no_decoder: bool = False
    ladder: Ladder | None = None

    @property
    def blamed(self) -> bool:
        """Whether preprocessing spends more than quantization, and another contract would save most of it."""
        less = self.quantization_db is None or self.preprocessing_db < self.quantization_db
        return less and bool(self.options) and self.found_db > self.preprocessing_db + 3

    def to_json(self) -> dict[str, Any]:
        """The key ``preprocessing`` of the drift report."""
        steps = [{"options": options, "sqnr_db": found} for options, found in self.steps]
        own = {name: value for name, value in vars(self).items() if name != "ladder"}
        return {**own, "steps": steps}

    def render(self, width: int) -> str:
        """As text, no line longer than ``width``."""
        model = "candidate" if self.float_file is None else "float file"
        lines = [f"preprocessing and quantization, on {self.images} images"]
        lines.append(f"  {_text(self.preprocessing_db):>9}  preprocessing: the {model} against the vectors")
        if self.quantization_db is not None:
            lines.append(f"  {_text(self.quantization_db):>9}  quantization: the candidate against the float file")
        lines += [f"  {_text(found):>9}  with {options}" for options, found in self.steps]
        if not self.options and self.tried > 1:
            lines.append(f"  none of {self.tried - 1} other ways to read and scale the images is nearer to the vectors")
        if self.no_decoder:
            lines.append("  not tried: TensorFlow's JPEG decoder, which needs: pip install 'embedlite[tfjpeg]'")
        text = "\n".join(fit(map(one_line, lines), width))
        return text if self.ladder is None else f"{text}\n\n{render_ladder(self.ladder, width)}"


def tell_apart(
    candidate: Path,
    data: Data,
    ids: Sequence[str],
    sides: tuple[Rows, Rows],
    *,
    float_file: Path | None = None,
    contract: InputContract | None = None,
    feature: str | None = None,
    threads: int | None = None,
    ladder: bool = False,
) -> Preprocessing:
    """Measure both parts of the drift on some of the images, and look for a contract that explains the first.

    Args:
        candidate: a ``.tflite``.
        data: the images.
        ids: of the rows.
        sides: the candidate's rows and the stored ones, paired.
        float_file: of the same export; default the one beside the candidate, if it is there.
        contract: of a plain candidate.
        feature: which part of ``data`` holds the images.
        threads: processors to use; default all.
        ladder: whether to count all that is found as steps of a ladder.

    Raises:
        RequestError: ``float_file`` is not a float file of this encoder.
    """
    with warnings.catch_warnings(), stage("telling preprocessing from quantization"):
        # Other scalings are tried on purpose, and the folder was told of before.
        warnings.simplefilter("ignore", EmbedliteWarning)
        with Encoder(candidate, threads, input_contract=contract, accept_contract=True) as encoder:
            base, mode = replace(encoder.contract.input, dtype="float32"), encoder.contract.mode
            shape = encoder.embedding_shape
        chosen = float_file or _beside(candidate, mode)
        path = chosen or candidate
        # Every scaling is tried by floats, so that what a plain file takes of pixels does not matter.
        with Encoder(path, threads, input_contract=_of_plain(path, base), accept_contract=True) as encoder:
            fits = (encoder.contract.input.shape, encoder.embedding_shape) == (base.shape, shape)
            if float_file is not None and not (fits and encoder.contract.mode in ("float32", "unknown")):
                raise RequestError(
                    f"--float {float_file} is not the float32 file of {candidate}: it is {encoder.contract.mode} and "
                    f"takes {encoder.contract.input.shape}. Name the float32 file of the same export."
                )
            rows = _few(open_source(data, base, feature), ids)
            mine, wanted = (side.take(rows) for side in sides)
            names = [str(ids[row]) for row in rows]

            @functools.cache
            def embed(tried: InputContract) -> NDArray[np.float32]:
                source = open_source(data, tried, feature)
                place = {name: index for index, name in enumerate(source.ids)}
                found = list(encoder.embed_iter(source.ready(place[name]) for name in names))
                return np.stack(found).reshape(len(names), -1)

            def score(tried: InputContract) -> float:
                try:
                    return _sqnr(embed(tried), wanted)
                except EmbedliteError:
                    # Such as a decoder that is not installed.
                    return -np.inf

            own = embed(base)
            now = _sqnr(own, wanted)
            quantized = None if chosen is None or chosen == candidate else _sqnr(mine, own)
            files = ("candidate" if chosen is None else "float .tflite", "" if quantized is None else mode)

            def climbed(reached: Sequence[InputContract]) -> Ladder | None:
                if not ladder:
                    return None
                return _climb(wanted, embed, (base, *reached), files, mine)

            if now >= _SAME_DB:
                return Preprocessing(len(rows), _name(chosen), now, quantized, "", now, (), 1, ladder=climbed(()))
            found = explain(base, score)
            return Preprocessing(
                len(rows),
                _name(chosen),
                now,
                quantized,
                as_options(found.contract, base),
                found.decibels,
                found.steps,
                found.tried,
                find_spec("simplejpeg") is None and any(name.lower().endswith(_JPEGS) for name in names),
                climbed(found.reached),
            )


def _climb(
    wanted: NDArray[Any],
    embed: Callable[[InputContract], NDArray[Any]],
    reached: Sequence[InputContract],
    files: tuple[str, str],
    mine: NDArray[Any],
) -> Ladder:
    """From the vectors by the contract that explains most, each step back to the file's own, and to the candidate.

    Args:
        wanted: the vectors.
        embed: the float file, fed by a contract.
        reached: the file's contract, and those that were reached from it.
        files: what to call the file that is fed, and the candidate's mode; empty if it is that file.
        mine: the candidate's answers.
    """
    best, fed = reached[-1], files[0]
    options = as_options(best, reached[0])
    rows = [wanted, embed(best)]
    steps = [step_between(f"the vectors → {fed}" + (f" with {options}" if options else ""), rows[-2], rows[-1], wanted)]
    for one, other in zip(reached[:0:-1], reached[-2::-1], strict=True):
        rows.append(embed(other))
        kind = "JPEG decoder" if one.jpeg_decoder != other.jpeg_decoder else "preprocessing"
        steps.append(
            step_between(f"{kind}: {as_options(one, other)} → {as_options(other, one)}", rows[-2], rows[-1], wanted)
        )
    if files[1]:
        steps.append(step_between(f"{fed} → {files[1]}", rows[-1], mine, wanted))
    return Ladder(with_shares([replace(step, on_the_way=True) for step in steps]), len(wanted))


def with_preprocessing(report: DriftReport, found: Preprocessing) -> DriftReport:
    """The report with this part, and advice that names it if it is what spends the drift."""
    advice = report.advice
    if found.blamed:
        action, _, figures = advice.headline.partition(": ")
        said = f"preprocessing, not quantization: with {found.options} it is {_text(found.found_db, 0)}"
        again = "the file is fed otherwise than the vectors were made: export again with these options."
        advice = replace(advice, headline=f"{action}: {said}; {figures}", why=(*advice.why, again))
    elif found.quantization_db is not None and found.quantization_db < found.preprocessing_db:
        figures = f"{_text(found.quantization_db)} against the float file, which is {_text(found.preprocessing_db)}"
        advice = replace(advice, why=(*advice.why, f"quantization, not preprocessing: {figures} from the vectors."))
    return replace(report, advice=advice, preprocessing=found.to_json())


def _few(source: Source, ids: Sequence[str]) -> NDArray[np.intp]:
    """Some rows spread over all."""
    place = {name: index for index, name in enumerate(source.ids)}
    rows = np.unique(np.linspace(0, len(ids) - 1, min(_MOST, len(ids))).round().astype(np.intp))
    sizes = np.cumsum([source.stored(place[str(ids[row])])[0] for row in rows])
    return rows[: max(_LEAST, int((sizes <= _MOST_BYTES).sum()))]


def _sqnr(rows: NDArray[Any], wanted: NDArray[Any]) -> float:
    drift, _ = measure_drift(rows, wanted, k=None)
    return min(ranked_db(drift.sqnr_db), _IDENTICAL_DB)


def _text(found: float, digits: int = 1) -> str:
    """What :func:`_sqnr` found."""
    return decibels(None if found >= _IDENTICAL_DB else found, digits)


def _beside(candidate: Path, mode: str) -> Path | None:
    """The float32 file of the same export."""
    if mode == "float32":
        return candidate
    path = candidate.with_name(f"{candidate.name.rsplit('.', 2)[0]}.float32.tflite")
    return path if path.is_file() else None


def _of_plain(path: Path, contract: InputContract) -> InputContract | None:
    return contract if read_artifact(path).contract is None else None


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
