"""``export-tflite``: an encoder as measured TFLite files."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.commands.options import (
    check_json_path,
    common_options,
    data_location,
    emit_result,
    engine_option,
    feature_option,
    input_options,
    run_command,
)
from ..runtime.errors import EXIT_BAD_ANSWER
from ..runtime.model.contract import InputOptions
from . import check_installed
from .load.options import LoadOptions, model_options
from .modes import MODES, TARGETS
from .quantize.correct import CORRECTIONS


def _shape(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    if value is None:
        return None
    parts = value.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is no height,width,channels such as 224,224,3", param=parameter)
    return (int(parts[0]), int(parts[1]), int(parts[2]))


@click.command(name="export-tflite")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output-dir", type=click.Path(path_type=Path), metavar="DIR", help="Default: beside the model.")
@click.option(
    "-q",
    "--quantize",
    "modes",
    multiple=True,
    metavar="MODE",
    help="float32, float16, dynamic, int8, int16x8, all; repeatable.",
)
@click.option("--calibration-data", type=data_location, metavar="PATH", help="Images that set int8 ranges.")
@click.option("--test-data", type=data_location, metavar="PATH", help="Images that drift is measured on.")
@click.option("--golden-from", type=data_location, metavar="PATH", help="Images stored in the file for --selftest.")
@feature_option
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that cannot be read, instead of refusing all.")
@click.option(
    "--num-samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use N calibration images.",
)
@click.option("--select", default="random", show_default=True, metavar="HOW", help="Which: random, coverage.")
@click.option(
    "--calibrate-method",
    default="auto",
    show_default=True,
    metavar="METHOD",
    help="How ranges are taken: minmax, percentile:99.99, mse, entropy, auto.",
)
@click.option(
    "--calibration-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keeps the statistics; a killed run takes up there.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random choice.")
@click.option("--input-shape", callback=_shape, metavar="H,W,C", help="For a model whose fixed shape is lost.")
@click.option(
    "--normalization",
    default="auto",
    show_default=True,
    metavar="PLACE",
    help="Where it is computed: auto, graph, runtime, frozen.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help=f"A runtime that must run the files: {', '.join(TARGETS)}; repeatable.",
)
@click.option("--c-array", is_flag=True, help="Write the file for microcontrollers as C, too.")
@click.option("--input-type", help="float32, uint8, int8; of the int8 file.  [default: float32]")
@click.option("--output-type", help="float32, uint8, int8; of the int8 file.  [default: float32]")
@click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    default=32,
    show_default=True,
    help="Of training: batch coupling is measured with it.",
)
@click.option(
    "--equalize/--no-equalize",
    default=True,
    help="Equalize convolutions for int8, and move offsets into biases, where it helps.",
)
@click.option(
    "--correct",
    multiple=True,
    metavar="NAME",
    help=f"Corrections that are kept where they help: {', '.join(CORRECTIONS)}, none; repeatable.  [default: all]",
)
@click.option("--pareto", is_flag=True, help="Compare every mode and what a search finds; say which to ship where.")
@click.option(
    "--max-drift",
    multiple=True,
    metavar="METRIC=VALUE",
    help="Write the fastest file that keeps this limit, for instance sqnr_db=30; repeatable.",
)
@click.option("--time-budget", type=float, metavar="SECONDS", help="End the search after this time.")
@click.option(
    "--search-cache", type=click.Path(path_type=Path), metavar="FILE", help="Keeps what was tried, for the next search."
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Latencies that embed-tflite --measure found on a device.",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An export.json: make its files again from its decisions, without a search.",
)
@engine_option
@click.option("--force", is_flag=True, help="Replace existing files.")
@model_options
@input_options
@common_options
def export_tflite(
    model: Path,
    output_dir: Path | None,
    modes: tuple[str, ...],
    calibration_data: Path | str | None,
    test_data: Path | str | None,
    golden_from: Path | str | None,
    feature: str | None,
    skip_unreadable: bool,
    num_samples: int | None,
    select: str,
    calibrate_method: str,
    calibration_cache: Path | None,
    seed: int,
    input_shape: tuple[int, int, int] | None,
    normalization: str,
    targets: tuple[str, ...],
    c_array: bool,
    input_type: str | None,
    output_type: str | None,
    batch_size: int,
    equalize: bool,
    correct: tuple[str, ...],
    pareto: bool,
    max_drift: tuple[str, ...],
    time_budget: float | None,
    search_cache: Path | None,
    measured: Path | None,
    recipe: Path | None,
    engine: str,
    force: bool,
    opening: LoadOptions,
    inputs: InputOptions,
    threads: int | None,
    json_path: str | None,
) -> int:
    """Export MODEL, normalization included, and measure what each file costs in drift and time.

    MODEL is a .keras, .h5 or .hdf5 file, a SavedModel folder (TensorFlow 2, or 1 with a signature), or a float .tflite.
    Writes STEM.MODE.tflite for each mode and STEM.export.json; prints a table and which file to ship where. Exit code 1
    says that a mode that was named could not be made or does not run, or that a required target does not run a file,
    or that none keeps --max-drift; it is then named .rejected.
    """
    check_installed()
    from . import export
    from .outcome.table import render_result

    folder = output_dir or model.parent
    written = [folder / f"{model.stem}.{kind}" for kind in (*(f"{mode}.tflite" for mode in MODES), "export.json")]
    check_json_path(
        json_path,
        *(model, calibration_data, test_data, golden_from, calibration_cache, opening.custom_objects),
        *(search_cache, measured, recipe),
        *written,
    )
    result = export(
        model,
        output_dir,
        quantize=modes,
        calibration_data=calibration_data,
        test_data=test_data,
        golden_from=golden_from,
        feature=feature,
        skip_unreadable=skip_unreadable,
        input_shape=input_shape,
        layer=opening.layer,
        output=opening.output,
        custom_objects=opening.custom_objects,
        replace_lambda=opening.replace_lambda,
        normalization=normalization,
        targets=targets,
        c_array=c_array,
        **vars(inputs),
        input_type=input_type,
        output_type=output_type,
        num_samples=num_samples,
        select=select,
        calibrate_method=calibrate_method,
        calibration_cache=calibration_cache,
        batch_size=batch_size,
        seed=seed,
        equalize=equalize,
        correct=correct,
        pareto=pareto,
        max_drift=max_drift,
        time_budget=time_budget,
        search_cache=search_cache,
        measured=measured,
        recipe=recipe,
        threads=threads,
        engine=engine,
        force=force,
    )
    emit_result(result.to_json(), render_result(result), json_path)
    return EXIT_BAD_ANSWER if result.failed_targets or result.failed_modes or result.missed else 0


def main() -> None:
    """The ``export-tflite`` program."""
    run_command(export_tflite)
