"""Runs several candidates and one reference pass on the same images; what fails with one does not cost the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ...convert.load.options import is_keras_model
from ...runtime.drift import measure
from ...runtime.drift.compare import Measurement
from ...runtime.drift.report import DriftReport, build_report
from ...runtime.drift.stored import is_stored, load_embeddings
from ...runtime.encoder import Encoder
from ...runtime.errors import DataError, EmbedliteError, RequestError
from ...runtime.model.artifact import read_artifact
from ..sides import Judging, ReferencePasses, Request, Sides, open_sides
from .choose import Candidate, Latency
from .comparison import Comparison, short_names
from .paired import Draws, differences, draw_figures

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Opened:
    """A candidate that was looked at before anything runs.

    Attributes:
        size: values in one embedding.
        sha256: of the model.
        bytes: of the file.
    """

    size: int
    sha256: str | None
    bytes: int | None


def run_several(
    request: Request,
    paths: Sequence[Path],
    judging: Judging,
    latency: Callable[[str | None], Latency | None],
    look: Callable[[Sides, Measurement, DriftReport], _T],
) -> tuple[Comparison, list[_T | None]]:
    """Compare every candidate with the reference, and with each other.

    Args:
        request: what is compared; its candidate is replaced by each of ``paths``.
        paths: of the candidates.
        judging: gates and the rest.
        latency: of the model with that SHA-256.
        look: called for every candidate that did not fail, while its embeddings are there.

    Returns:
        What was found, and what ``look`` gave; None for those that failed.

    Raises:
        RequestError: candidates of different kinds, or one twice.
        DataError: candidates of different sizes, or the images changed meanwhile.
        EmbedliteError: the reference failed, or every candidate did: what the first failed with.
    """
    _check(paths)
    opened = {path: _open(path, request) for path in paths}
    _check_sizes(request, opened)
    passes = ReferencePasses()
    names = short_names([str(path) for path in paths])
    candidates: list[Candidate] = []
    drawn: list[Draws | None] = []
    looks: list[_T | None] = []
    errors: list[EmbedliteError] = []
    for path, name in zip(paths, names, strict=True):
        facts = opened[path]
        report, draws, seen = None, None, None
        try:
            if isinstance(facts, EmbedliteError):
                raise facts
            sides = open_sides(replace(request, candidate=path), passes)
            judging.check_labelled(labelled=sides.description.labels is not None)
            measurement = measure(
                sides.candidate, sides.reference, judging.k, queries=judging.queries, seed=request.seed
            )
            report = build_report(measurement, sides.description, judging.gates, far=judging.far)
            draws, seen = draw_figures(measurement, report), look(sides, measurement, report)
        except EmbedliteError as error:
            if passes.error is not None:
                raise
            errors.append(error)
            candidates.append(Candidate(str(path), name, None, str(error)))
        else:
            candidates.append(Candidate(str(path), name, report, None, facts.bytes, latency(facts.sha256)))
        drawn.append(draws)
        looks.append(seen)
    if len(errors) == len(paths):
        raise errors[0]
    _check_same_images([one.report for one in candidates if one.report is not None])
    return Comparison.of(candidates, differences(drawn)), looks


def _check(paths: Sequence[Path]) -> None:
    for place, path in enumerate(paths):
        if not path.exists():
            raise DataError(f"there is no candidate {path}. Check the path.")
        if any(path.samefile(other) for other in paths[:place]):
            raise RequestError(f"the candidate {path} is named twice. Name it once.")
    if len({is_stored(path) for path in paths}) > 1:
        vectors, file = (next(path for path in paths if is_stored(path) is kind) for kind in (True, False))
        raise RequestError(
            f"{vectors} holds stored embeddings and {file} is a model. Compare models with models, or embed the images "
            "with each of them first: embed-tflite."
        )


def _open(path: Path, request: Request) -> _Opened | EmbedliteError:
    try:
        if is_stored(path):
            stored = load_embeddings(path)
            return _Opened(stored.embeddings[0].size, stored.model_sha256 or None, None)
        with request.open(path) as encoder:
            return _Opened(encoder.embedding_size, encoder.artifact.sha256, path.stat().st_size)
    except EmbedliteError as error:
        return error


def _check_sizes(request: Request, opened: Mapping[Path, _Opened | EmbedliteError]) -> None:
    sizes = {path: facts.size for path, facts in opened.items() if isinstance(facts, _Opened)}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{path} {size}" for path, size in sizes.items())
        raise DataError(
            f"the candidates give embeddings of different sizes ({told} values). Compare encoders of the same size."
        )
    size = next(iter(sizes.values()), None)
    theirs = _size_of_reference(request)
    if size is not None and theirs is not None and size != theirs:
        raise DataError(
            f"the candidates give embeddings of {size} values, and the reference {request.reference} of {theirs}. "
            "Compare encoders of the same size."
        )


def _size_of_reference(request: Request) -> int | None:
    """Values in one of its embeddings; None where only running it would tell."""
    if is_stored(request.reference):
        return int(load_embeddings(request.reference).embeddings[0].size)
    if is_keras_model(request.reference) or read_artifact(request.reference).contract is None:
        return None
    with Encoder(request.reference, request.threads) as encoder:
        return encoder.embedding_size


def _check_same_images(reports: Sequence[DriftReport]) -> None:
    seen: set[Any] = {report.data.get("fingerprint") for report in reports}
    if len(seen) > 1:
        raise DataError(
            f"{reports[0].data['path']} changed while it was read. Run again once nothing is written there any more."
        )
