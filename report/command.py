"""``drift-report``: how far a candidate's embeddings are from a reference's, and whether that passes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from ..calibration.engine import DASK, LOCAL, open_engine
from ..convert.load.options import LoadOptions
from ..convert.load.preprocess import prove
from ..convert.options import ContractOptions
from ..runtime.commands.options import (
    Command,
    common_options,
    engine_option,
    feature_option,
    in_group,
    options_of,
    run_command,
    threads_option,
)
from ..runtime.drift import DEFAULT_K, measure
from ..runtime.drift.compare import Measurement
from ..runtime.drift.gates import parse_gates
from ..runtime.drift.metrics import METRICS
from ..runtime.drift.report import DriftReport, build_report
from ..runtime.drift.stored import is_stored
from ..runtime.encoder import Encoder
from ..runtime.errors import EXIT_BAD_ANSWER, DataError, RequestError
from ..runtime.images.remote import data_location
from ..runtime.model.contract import InputOptions
from ..runtime.model.plain import input_contract_from_options
from .causes.causes import SourcesRequest, check_sources, find_sources
from .causes.preprocessing import tell_apart, with_preprocessing
from .outputs import Found, Outputs
from .page.export_files import model_sha256, read_export
from .sides import Request, Sides, open_sides, sha256_of
from .workers import measure_others, render_others

_sides, _data, _judge = in_group("What to compare"), in_group("Images"), in_group("Judgement")
_causes, _outputs, _run = in_group("Causes"), in_group("Output"), in_group("Run")


@click.command(
    name="drift-report",
    cls=Command,
    example="drift-report model.int8.tflite --reference model.float32.tflite --data test",
)
@click.argument("candidate", type=click.Path(path_type=Path), required=False)
@_sides("--reference", type=click.Path(path_type=Path), help="What the candidate should match.")
@_data("--data", type=data_location, metavar="PATH", help="Images; not needed if both sides are stored.")
@_data(
    "--labels",
    type=click.Path(path_type=Path),
    help="What each image shows: a folder of class folders, .csv, .json, .npz or .npy.",
)
@_data(
    "--clusters",
    type=click.Path(path_type=Path),
    help="Which images belong together, like --labels: crops of one photo. Intervals draw them together.",
)
@_data(
    "--group",
    "groups",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Who pays: groups of images, like --labels, such as camera.csv; repeatable.",
)
@_judge("--far", type=float, help="False accept rate of the verification threshold.  [default: 0.001]")
@_judge("--gate", "gates", multiple=True, metavar="NAME=VALUE", help="A limit; repeatable, replaces the default.")
@_judge("--judge", type=click.Path(path_type=Path), metavar="REPORT.json", help="Apply gates to saved numbers.")
@_judge("--k", type=int, help=f"Neighbours that are compared.  [default: {DEFAULT_K}]")
@_judge(
    "--queries",
    type=click.IntRange(min=1),
    help="Rows that search for neighbours, a random part.  [default: all up to 20000, else 2000]",
)
@_data("--num-samples", type=click.IntRange(min=1), help="Use a random part of the data.  [default: all]")
@_run("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For random parts.")
@_sides("--candidate-model", type=click.Path(path_type=Path), help="What a stored candidate must be made by.")
@_sides("--reference-model", type=click.Path(path_type=Path), help="What a stored reference must be made by.")
@_causes("--ladder", is_flag=True, help="Show which step from the original to the candidate spends the drift.")
@_causes(
    "--float",
    "float_file",
    type=click.Path(path_type=Path),
    help="The candidate's float32 file, which tells preprocessing from quantization.  [default: the one beside it]",
)
@_causes("--layers", is_flag=True, help="Show which layers of a quantized candidate make the drift.")
@_outputs("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write one test case a gate.")
@_outputs("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with pictures.")
@_outputs("--export", type=click.Path(path_type=Path), metavar="EXPORT.json", help="Show its files on the page.")
@engine_option
@_run("--workers-apart", is_flag=True, help="Report what differing workers of --engine make of the images.")
@feature_option
@options_of(LoadOptions, "opening", leave_out=("input_shape",))
@options_of(InputOptions, "inputs")
@options_of(ContractOptions, "trust")
@threads_option
@common_options
def drift_report(
    candidate: Path | None,
    reference: Path | None,
    data: Path | str | None,
    labels: Path | None,
    clusters: Path | None,
    groups: tuple[Path, ...],
    far: float | None,
    gates: tuple[str, ...],
    judge: Path | None,
    k: int | None,
    queries: int | None,
    num_samples: int | None,
    seed: int,
    candidate_model: Path | None,
    reference_model: Path | None,
    ladder: bool,
    float_file: Path | None,
    layers: bool,
    junit: Path | None,
    html: Path | None,
    export: Path | None,
    engine: str,
    workers_apart: bool,
    feature: str | None,
    opening: LoadOptions,
    inputs: InputOptions,
    trust: ContractOptions,
    threads: int | None,
    json_path: str | None,
) -> int:
    """Compare CANDIDATE with a reference on the same images and judge the difference.

    CANDIDATE is a .tflite file or stored embeddings (.npz, .npy). The reference is a Keras model or SavedModel
    (needs TensorFlow), a .tflite file, or stored embeddings. Exit code 1 says that a gate failed.
    """
    limits = parse_gates(gates)
    files = (candidate, reference, data, labels, clusters, judge, candidate_model, reference_model, export, float_file)
    read = (*files, *groups)
    outputs = Outputs(json_path, junit, html)
    outputs.check(*read)
    _check_far(far)
    if export is not None and html is None:
        raise RequestError("--export shows its files on the page. Add --html FILE, or leave out --export.")
    exported = None if export is None else read_export(export)
    _check_engine(engine, data, workers_apart=workers_apart)
    if judge is not None:
        given = (*read[:5], far, k, queries, num_samples, feature, candidate_model, reference_model, float_file)
        if (
            any(item is not None for item in given)
            or ladder
            or layers
            or groups
            or opening != LoadOptions()
            or inputs != InputOptions()
            or trust != ContractOptions()
        ):
            raise RequestError(
                "--judge applies gates to a saved report and runs nothing. Leave out everything but --gate, "
                "--export and the outputs."
            )
        saved = _saved(judge)
        _check_labelled(limits, labelled=saved.retrieval is not None)
        found = Found(saved.judge(limits))
    else:
        if candidate is None or reference is None:
            missing = "CANDIDATE" if candidate is None else "--reference"
            raise RequestError(f"{missing} is missing: name what to compare, or a saved report with --judge.")
        _check_float(candidate, reference, float_file)
        _check_labelled(limits, labelled=labels is not None or is_stored(reference))
        if ladder or layers:
            check_sources(candidate, reference, ladder=ladder, layers=layers)
        contract = None if is_stored(candidate) else input_contract_from_options(candidate, inputs)
        if exported is not None and contract is not None:
            exported.check_candidate(sha256_of(candidate), str(candidate))
        request = Request(
            candidate,
            reference,
            data,
            feature=feature,
            num_samples=num_samples,
            seed=seed,
            threads=threads,
            contract=contract,
            opening=opening,
            labels=labels,
            clusters=clusters,
            groups=groups,
            candidate_model=candidate_model,
            reference_model=reference_model,
        )
        proved = _proved(request, trust)
        with open_engine(engine, threads, apart=workers_apart) as opened:
            sides = open_sides(replace(request, engine=None if opened.workers == () else opened))
            _check_labelled(limits, labelled=sides.description.labels is not None)
            measurement = measure(
                sides.candidate, sides.reference, DEFAULT_K if k is None else k, queries=queries, seed=seed
            )
            others = measure_others(opened, candidate, contract, sides, measurement) if workers_apart else None
        found = Found(build_report(measurement, sides.description, limits, far=far))
        if others is not None:
            found = found.with_more(render_others(others), other_workers=[other.to_json() for other in others])
        if html is not None:
            found = _with_pictures(found, sides, measurement)
        found = _told_apart(
            found.with_more("\n".join(proved)) if proved else found, request, sides, float_file, far=opened.far
        )
        if (ladder or layers) and data is not None and sides.top is not None:
            wanted = SourcesRequest(
                candidate=candidate,
                reference=reference,
                data=data,
                ids=[str(name) for name in sides.description.ids],
                top=sides.top,
                ladder=ladder,
                layers=layers,
                input_contract=contract,
                opening=opening,
                feature=feature,
                k=DEFAULT_K if k is None else k,
                threads=threads,
            )
            sources = find_sources(wanted)
            found = found.with_more(sources.render(), **sources.to_json())
    if exported is not None:
        exported.check_candidate(model_sha256(found.report.candidate), str(found.report.candidate["path"]))
        found = replace(found, export=exported)
    outputs.write(found)
    return 0 if found.report.passed else EXIT_BAD_ANSWER


def _check_labelled(limits: Mapping[str, float], *, labelled: bool) -> None:
    asked = [name for name in limits if METRICS[name].source == "retrieval"]
    if asked and not labelled:
        raise RequestError(
            f"--gate {asked[0]} is about retrieval by labels, and there are none. Add --labels when the images are "
            "compared, or leave it out."
        )


def _check_far(far: float | None) -> None:
    if far is not None and not 0 < far < 1:
        raise RequestError(f"--far {far:g}: a false accept rate is above 0 and below 1, for instance 0.001.")


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


def _check_engine(engine: str, data: Path | str | None, *, workers_apart: bool) -> None:
    if engine != LOCAL and data is None:
        raise RequestError(f"--engine {engine} is for images, and none are given. Leave it out.")
    if workers_apart and engine in (LOCAL, DASK):
        raise RequestError(
            f"--workers-apart is for a cluster, and --engine {engine} runs on this machine alone. Name a scheduler, "
            "such as --engine tcp://host:8786."
        )


def _with_pictures(found: Found, sides: Sides, measurement: Measurement) -> Found:
    from .page.pictures import project, thumbnails

    return replace(
        found,
        projection=project(measurement, sides.description.ids),
        thumbnails={} if sides.source is None else thumbnails(sides.source, found.report),
    )


def _saved(path: Path) -> DriftReport:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"cannot read {path} as a saved report: {reason}. Make it with drift-report --json.") from error
    try:
        return DriftReport.from_json(value)
    except DataError as error:
        raise DataError(f"cannot judge {path}: {error}") from error


def main() -> None:
    """The ``drift-report`` program."""
    run_command(drift_report, runs_models=True)
