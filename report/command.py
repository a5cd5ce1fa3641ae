"""``drift-report``: how far a candidate's embeddings are from a reference's, and whether that passes."""

from __future__ import annotations

from pathlib import Path

import click

from ..calibration.engine import DASK, LOCAL
from ..convert.load.options import LoadOptions
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
from ..runtime.drift import DEFAULT_K
from ..runtime.drift.gates import parse_gates
from ..runtime.drift.stored import is_stored
from ..runtime.errors import EXIT_BAD_ANSWER, RequestError
from ..runtime.images.remote import data_location
from ..runtime.model.contract import InputOptions
from .candidates import check_asked, compare_candidates
from .gallery.run import GalleryRequest, answer_gallery
from .one_candidate import Wanted, compare_one
from .outputs import Found, Outputs, Pictured, read_saved, told_of_saved
from .page.export_files import ExportSummary, read_export
from .several.comparison import Comparison
from .sides import Judging, Request

_sides, _data, _judge = in_group("What to compare"), in_group("Images"), in_group("Judgement")
_gallery = in_group("A gallery that exists")
_causes, _outputs, _run = in_group("Causes"), in_group("Output"), in_group("Run")

_ANSWERS = (
    ("which threshold?", "The headline says whether the old one stays valid, or which one to set and what it costs."),
    ("which class suffers?", "--labels: each class beside the others; --group: cameras or sites likewise."),
    ("embed the gallery again?", "--gallery OLD.npz --candidate-vectors NEW.npz weighs keeping and mapping, too."),
    ("my int8 is bad: why?", "--layers, --ladder: which layers and steps spend the drift; docs/int8-is-bad.md."),
    ("which file to ship?", "Name several candidates, with --export or --measured for their latencies."),
    ("what can I show?", "--html FILE: one page with figures and pictures, to pass on."),
)


@click.command(
    name="drift-report",
    cls=Command,
    example="drift-report model.int8.tflite --reference model.float32.tflite --data test",
    stages=True,
    answers=_ANSWERS,
)
@click.argument("candidates", metavar="CANDIDATE...", nargs=-1, type=click.Path(path_type=Path))
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
@_gallery("--gallery", type=click.Path(path_type=Path), metavar="OLD.npz", help="Must it be embedded again?")
@_gallery(
    "--candidate-vectors",
    type=click.Path(path_type=Path),
    metavar="NEW.npz",
    help="What the new model makes of images of the gallery, all or some hundreds.",
)
@_gallery(
    "--map",
    "map_file",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Write the map of new vectors into the gallery, for Encoder(path, map=FILE.npz).",
)
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
@_outputs(
    "--export",
    type=click.Path(path_type=Path),
    metavar="EXPORT.json",
    help="Show its files on the page; of several candidates, take their latencies.",
)
@_judge(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="DEVICE.json",
    help="Latencies of several candidates, of embed-tflite --measure.",
)
@engine_option
@_run("--workers-apart", is_flag=True, help="Report what differing workers of --engine make of the images.")
@feature_option
@options_of(LoadOptions, "opening", leave_out=("input_shape",))
@options_of(InputOptions, "inputs")
@options_of(ContractOptions, "trust")
@threads_option
@common_options
def drift_report(
    candidates: tuple[Path, ...],
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
    gallery: Path | None,
    candidate_vectors: Path | None,
    map_file: Path | None,
    ladder: bool,
    float_file: Path | None,
    layers: bool,
    junit: Path | None,
    html: Path | None,
    export: Path | None,
    measured: Path | None,
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
    (needs TensorFlow), a .tflite file, or stored embeddings. Of several candidates the report says which to ship. Exit
    code 1 says that a gate failed.

    With --gallery and --candidate-vectors, and no CANDIDATE: say whether a stored gallery must be embedded again for
    another model. Exit code 1 says that it must.
    """
    judging = Judging(parse_gates(gates), DEFAULT_K if k is None else k, queries, far)
    single = candidates[0] if len(candidates) == 1 else None
    files = (reference, data, labels, clusters, judge, candidate_model, reference_model, export, float_file, measured)
    outputs = Outputs(json_path, junit, html)
    outputs.check(*candidates, *files, *groups, gallery, candidate_vectors, map_file=map_file)
    _check_far(far)
    if gallery is not None or candidate_vectors is not None or map_file is not None:
        about_others = (
            *candidates,
            reference,
            data,
            judge,
            float_file,
            measured,
            export,
            junit,
            num_samples,
            feature,
        )
        options = opening != LoadOptions() or inputs != InputOptions() or trust != ContractOptions()
        if any(value is not None for value in about_others) or ladder or layers or groups or gates or options:
            raise RequestError(
                "--gallery compares two files of stored embeddings. Leave out everything but --candidate-vectors, "
                "--map, --reference-model, --candidate-model, --labels, --clusters, --k, --queries, --far, --seed, "
                "--html and --json."
            )
        if gallery is None or candidate_vectors is None:
            missing = "--gallery OLD.npz" if gallery is None else "--candidate-vectors NEW.npz"
            raise RequestError(
                f"{missing} is missing: name the stored gallery and what the new model makes of its images."
            )
        asked = GalleryRequest(
            gallery,
            candidate_vectors,
            gallery_model=reference_model,
            model=candidate_model,
            labels=labels,
            clusters=clusters,
            k=judging.k,
            queries=queries,
            far=far,
            seed=seed,
            wants_map=map_file is not None,
        )
        answer, packed = answer_gallery(asked)
        outputs.write_answer(answer, {} if map_file is None or packed is None else {map_file: packed})
        return 0 if answer.kept else EXIT_BAD_ANSWER
    if measured is not None and len(candidates) < 2:
        raise RequestError("--measured says which of several candidates to ship. Name several, or leave it out.")
    if export is not None and html is None and len(candidates) < 2:
        raise RequestError("--export shows its files on the page. Add --html FILE, or leave out --export.")
    exported = None if export is None else read_export(export)
    _check_engine(engine, data, workers_apart=workers_apart)
    if judge is not None:
        values = (reference, data, labels, clusters, far, k, queries, num_samples, feature)
        named = (candidate_model, reference_model, float_file)
        options = opening != LoadOptions() or inputs != InputOptions() or trust != ContractOptions()
        if (
            any(value is not None for value in (*values, *named))
            or (ladder or layers or options)
            or (groups or candidates)
        ):
            raise RequestError(
                "--judge applies gates to a saved report and runs nothing. Leave out everything but --gate, "
                "--export and the outputs."
            )
        return _judge_saved(judge, judging, outputs, exported)
    if not candidates or reference is None:
        missing = "--reference" if candidates else "CANDIDATE"
        raise RequestError(f"{missing} is missing: name what to compare, or a saved report with --judge.")
    judging.check_labelled(labelled=labels is not None or is_stored(reference))
    request = Request(
        candidates[0],
        reference,
        data,
        feature=feature,
        num_samples=num_samples,
        seed=seed,
        threads=threads,
        contract=inputs,
        accept_contract=trust.accept_contract,
        opening=opening,
        labels=labels,
        clusters=clusters,
        groups=groups,
        candidate_model=candidate_model,
        reference_model=reference_model,
    )
    if single is None:
        about_one = {"ladder": ladder, "layers": layers, "float": float_file, "workers_apart": workers_apart}
        check_asked(**about_one, candidate_model=candidate_model, preprocess=trust.preprocess)
        passed = compare_candidates(
            request, candidates, judging, outputs, engine=engine, export=exported, measured=measured
        )
        return 0 if passed else EXIT_BAD_ANSWER
    wanted = Wanted(
        engine,
        trust,
        float_file=float_file,
        ladder=ladder,
        layers=layers,
        workers_apart=workers_apart,
        pictures=html is not None,
        export=exported,
    )
    found = compare_one(request, judging, wanted)
    outputs.write(found)
    return 0 if found.report.passed else EXIT_BAD_ANSWER


def _judge_saved(path: Path, judging: Judging, outputs: Outputs, export: ExportSummary | None) -> int:
    """Apply gates to a saved report, of one candidate or of several."""
    with told_of_saved(path):
        saved = read_saved(path)
        if isinstance(saved, Comparison):
            judging.check_labelled(labelled=any(report.retrieval is not None for report in saved.reports))
            comparison = saved.judge(judging.gates)
            outputs.write_several(comparison, [Pictured() for _ in comparison.candidates], export)
            return 0 if comparison.passed else EXIT_BAD_ANSWER
        judging.check_labelled(labelled=saved.retrieval is not None)
        found = Found(saved.judge(judging.gates)).with_export(export)
        outputs.write(found)
        return 0 if found.report.passed else EXIT_BAD_ANSWER


def _check_far(far: float | None) -> None:
    if far is not None and not 0 < far < 1:
        raise RequestError(f"--far {far:g}: a false accept rate is above 0 and below 1, for instance 0.001.")


def _check_engine(engine: str, data: Path | str | None, *, workers_apart: bool) -> None:
    if engine != LOCAL and data is None:
        raise RequestError(f"--engine {engine} is for images, and none are given. Leave it out.")
    if workers_apart and engine in (LOCAL, DASK):
        raise RequestError(
            f"--workers-apart is for a cluster, and --engine {engine} runs on this machine alone. Name a scheduler, "
            "such as --engine tcp://host:8786."
        )


def main() -> None:
    """The ``drift-report`` program."""
    run_command(drift_report, runs_models=True)
