"""``drift-report`` of one candidate: both sides, the report, and where its drift comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..calibration.engine import open_engine
from ..convert.load.preprocess import prove
from ..convert.options import ContractOptions
from ..runtime.drift import measure
from ..runtime.drift.report import build_report
from ..runtime.drift.stored import is_stored
from ..runtime.encoder import Encoder
from ..runtime.errors import RequestError
from ..runtime.model.contract import InputOptions
from ..runtime.model.plain import input_contract_from_options
from .causes.causes import SourcesRequest, check_sources, find_sources
from .causes.preprocessing import tell_apart, with_preprocessing
from .outputs import Found, Pictured
from .page.export_files import ExportSummary
from .sides import Judging, Request, Sides, open_sides, sha256_of
from .workers import measure_others, render_others


@dataclass(frozen=True)
class Wanted:
    """What else is asked of one candidate, see the command; ``pictures`` are for the page."""

    engine: str
    trust: ContractOptions
    float_file: Path | None
    ladder: bool
    layers: bool
    workers_apart: bool
    pictures: bool
    export: ExportSummary | None


def compare_one(request: Request, inputs: InputOptions, judging: Judging, wanted: Wanted) -> Found:
    """Compare a candidate with the reference and judge the difference.

    Raises:
        EmbedliteError: options that do not fit, and what opening and running both sides raises.
    """
    candidate, reference = request.candidate, request.reference
    _check_float(candidate, reference, wanted.float_file)
    if wanted.ladder or wanted.layers:
        check_sources(candidate, reference, ladder=wanted.ladder, layers=wanted.layers)
    contract = None if is_stored(candidate) else input_contract_from_options(candidate, inputs)
    if wanted.export is not None and contract is not None:
        wanted.export.check_candidate(sha256_of(candidate), str(candidate))
    request = replace(request, contract=contract)
    proved = _proved(request, wanted.trust)
    with open_engine(wanted.engine, request.threads, apart=wanted.workers_apart) as opened:
        sides = open_sides(replace(request, engine=None if opened.workers == () else opened))
        judging.check_labelled(labelled=sides.description.labels is not None)
        measurement = measure(sides.candidate, sides.reference, judging.k, queries=judging.queries, seed=request.seed)
        others = measure_others(opened, candidate, contract, sides, measurement) if wanted.workers_apart else None
    found = Found(build_report(measurement, sides.description, judging.gates, far=judging.far))
    if others is not None:
        found = found.with_more(render_others(others), other_workers=[other.to_json() for other in others])
    if wanted.pictures:
        found = replace(found, pictured=Pictured.of(sides, measurement, found.report))
    if proved:
        found = found.with_more("\n".join(proved))
    found = _told_apart(found, request, sides, wanted.float_file, far=opened.far)
    return _with_sources(found, request, sides, judging, wanted).with_export(wanted.export)


def _with_sources(found: Found, request: Request, sides: Sides, judging: Judging, wanted: Wanted) -> Found:
    if not (wanted.ladder or wanted.layers) or request.data is None or sides.top is None:
        return found
    sources = find_sources(
        SourcesRequest(
            candidate=request.candidate,
            reference=request.reference,
            data=request.data,
            ids=[str(name) for name in sides.description.ids],
            top=sides.top,
            ladder=wanted.ladder,
            layers=wanted.layers,
            input_contract=request.contract,
            opening=request.opening,
            feature=request.feature,
            k=judging.k,
            threads=request.threads,
        )
    )
    return found.with_more(sources.render(), **sources.to_json())


def _check_float(candidate: Path, reference: Path, float_file: Path | None) -> None:
    if float_file is not None and not (is_stored(reference) and not is_stored(candidate)):
        raise RequestError(
            "--float tells preprocessing from quantization, for a .tflite candidate and stored vectors as --reference. "
            "Leave it out."
        )


def _proved(request: Request, trust: ContractOptions) -> list[str]:
    """What the user's own preprocessing says of the candidate's contract.

    Raises:
        RequestError: the contract does something else, and that was not accepted.
    """
    if trust.preprocess is None:
        return []
    if is_stored(request.candidate):
        raise RequestError("--preprocess is held against a file's contract, and CANDIDATE is vectors. Leave it out.")
    with Encoder(request.candidate, request.threads, input_contract=request.contract) as encoder:
        contract = replace(encoder.contract.input, dtype="float32")
        proof = prove(trust.preprocess, [request.data], contract, InputOptions(), fixed=True)

        def embed(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
            return encoder.embed(np.stack(images)).reshape(len(images), -1)

        return proof.judge(embed, accept=trust.accept_contract)


def _told_apart(found: Found, request: Request, sides: Sides, float_file: Path | None, *, far: bool) -> Found:
    """With preprocessing told from quantization, where the reference is vectors that somebody's pipeline made."""
    if far or request.data is None or not is_stored(request.reference) or is_stored(request.candidate):
        return found
    told = tell_apart(
        request.candidate,
        request.data,
        [str(name) for name in sides.description.ids],
        (sides.candidate, sides.reference),
        float_file=float_file,
        contract=request.contract,
        feature=request.feature,
        threads=request.threads,
    )
    return replace(found.with_more(told.render()), report=with_preprocessing(found.report, told))
