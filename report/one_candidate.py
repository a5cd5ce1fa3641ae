"""``drift-report`` of one candidate: both sides, the report, and where its drift comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..calibration.engine import open_engine
from ..convert.load.preprocess import Proof, prove
from ..convert.options import ContractOptions
from ..runtime.drift import measure
from ..runtime.drift.compare import Measurement
from ..runtime.drift.report import Description, DriftReport, build_report
from ..runtime.drift.silent import count_silent
from ..runtime.drift.stored import is_stored
from ..runtime.errors import RequestError
from ..runtime.model.artifact import read_artifact
from ..runtime.model.contract import InputContract, InputOptions
from ..runtime.printable import one_line
from ..runtime.terminal import fit, line_width
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


def compare_one(request: Request, judging: Judging, wanted: Wanted) -> Found:
    """Compare a candidate with the reference and judge the difference.

    Raises:
        EmbedliteError: options that do not fit, and what opening and running both sides raises.
    """
    candidate, reference = request.candidate, request.reference
    _check_float(candidate, reference, wanted.float_file)
    if wanted.ladder or wanted.layers:
        check_sources(candidate, reference, ladder=wanted.ladder, layers=wanted.layers)
    if wanted.export is not None and not is_stored(candidate) and request.contract != InputOptions():
        wanted.export.check_candidate(sha256_of(candidate), str(candidate))
    proof, proved = _proved(request, wanted.trust)
    with open_engine(wanted.engine, request.threads, apart=wanted.workers_apart) as opened:
        sides = open_sides(replace(request, engine=None if opened.workers == () else opened))
        judging.check_labelled(labelled=sides.description.labels is not None)
        measurement = measure(sides.candidate, sides.reference, judging.k, queries=judging.queries, seed=request.seed)
        contract = _of_plain(candidate, sides)
        others = measure_others(opened, candidate, contract, sides, measurement) if wanted.workers_apart else None
    found = Found(_proved_report(measurement, sides, judging, proof))
    if others is not None:
        found = found.with_more(
            render_others(others, line_width()), other_workers=[other.to_json() for other in others]
        )
    if wanted.pictures:
        found = replace(found, pictured=Pictured.of(sides, measurement, found.report))
    if proved:
        found = found.with_more("\n".join(fit(map(one_line, proved), line_width())))
    found = _told_apart(found, request, sides, wanted, far=opened.far)
    return _with_sources(found, request, sides, judging, wanted).with_export(wanted.export)


def _with_sources(found: Found, request: Request, sides: Sides, judging: Judging, wanted: Wanted) -> Found:
    if (
        not (wanted.ladder or wanted.layers)
        or request.data is None
        or sides.top is None
        or is_stored(request.reference)
    ):
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
            input_contract=_of_plain(request.candidate, sides),
            opening=request.opening,
            feature=request.feature,
            k=judging.k,
            threads=request.threads,
        )
    )
    return found.with_more(sources.render(line_width(), found.report.noun), **sources.to_json())


def _check_float(candidate: Path, reference: Path, float_file: Path | None) -> None:
    if float_file is not None and not (is_stored(reference) and not is_stored(candidate)):
        raise RequestError(
            "--float tells preprocessing from quantization, for a .tflite candidate and stored vectors as --reference. "
            "Leave it out."
        )


def _of_plain(candidate: Path, sides: Sides) -> InputContract | None:
    """The contract that was made up for a candidate that carries none."""
    if sides.contract is None or read_artifact(candidate).contract is not None:
        return None
    return sides.contract.input


def _proved_report(measurement: Measurement, sides: Sides, judging: Judging, proof: Proof | None) -> DriftReport:
    description = _with_proof(sides.description, proof)
    report = build_report(measurement, description, judging.gates, far=judging.far)
    silent = {"candidate": asdict(count_silent(sides.candidate)), "reference": asdict(count_silent(sides.reference))}
    return replace(report, silent=silent, preprocess=None if proof is None else proof.to_json())


def _with_proof(description: Description, proof: Proof | None) -> Description:
    """What is known of the candidate, with the origins that a proof gives the parts of its contract."""
    contract = description.candidate.get("contract")
    if proof is None or contract is None or not proof.holds:
        return description
    known = {name: origin for name, origin in proof.origins.items() if origin == "proved"}
    proved = {**contract, "origins": {**contract["origins"], **known}}
    return replace(description, candidate={**description.candidate, "contract": proved})


def _proved(request: Request, trust: ContractOptions) -> tuple[Proof | None, list[str]]:
    """What the user's own preprocessing says of the candidate's contract, and that in words.

    Raises:
        RequestError: the contract does something else, and that was not accepted.
    """
    if trust.preprocess is None:
        return None, []
    if is_stored(request.candidate):
        raise RequestError("--preprocess is held against a file's contract, and CANDIDATE is vectors. Leave it out.")
    with request.open(request.candidate) as encoder:
        contract = replace(encoder.contract.input, dtype="float32")
        if not contract.is_image:
            taken = f"{request.candidate} takes arrays of {contract.shape}"
            raise RequestError(f"--preprocess is for images, and {taken}. Leave it out.")
        proof = prove(trust.preprocess, [request.data], contract, InputOptions(), fixed=True)

        def embed(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
            return encoder.embed(np.stack(images)).reshape(len(images), -1)

        return proof, proof.judge(embed, accept=trust.accept_contract)


def _told_apart(found: Found, request: Request, sides: Sides, wanted: Wanted, *, far: bool) -> Found:
    """With preprocessing told from quantization, where the reference is vectors that somebody's pipeline made."""
    if (far and not wanted.ladder) or request.data is None or not is_stored(request.reference):
        return found
    if is_stored(request.candidate):
        return found
    if sides.source is None or not sides.source.contract.is_image:
        # What is looked for are ways to read pictures.
        return found
    told = tell_apart(
        request.candidate,
        request.data,
        [str(name) for name in sides.description.ids],
        (sides.candidate, sides.reference),
        float_file=wanted.float_file,
        contract=_of_plain(request.candidate, sides),
        feature=request.feature,
        threads=request.threads,
        ladder=wanted.ladder,
    )
    keys = {} if told.ladder is None else {"ladder": told.ladder.to_json(), "layers": None}
    more = found.with_more(told.render(line_width()), **keys)
    return replace(more, report=with_preprocessing(more.report, told))
