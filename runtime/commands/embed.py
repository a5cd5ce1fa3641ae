"""``embed-tflite``: embeddings of images, made on the device."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from ..drift.silent import count_silent
from ..drift.stored import pack_embeddings
from ..encoder import Encoder
from ..errors import EXIT_BAD_ANSWER, EmptyDataError
from ..files import check_writable, json_bytes, write_file
from ..images.open import open_source
from ..images.source import Readable
from ..model.contract import InputOptions
from ..model.origin import describe_input
from ..model.words import wording
from ..printable import one_line
from ..progress import progress
from ..terminal import fit, line_width
from .options import (
    Command,
    GroupedOption,
    accept_option,
    check_outputs,
    common_options,
    emit_result,
    feature_option,
    in_group,
    options_of,
    run_command,
    threads_option,
)


def _options(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` texts as a dictionary; a value may hold further equals signs."""
    pairs = [value.partition("=") for value in values]
    for key, equals, value in pairs:
        if not (key and equals):
            raise click.BadParameter(f"{key + equals + value!r} is not of the form KEY=VALUE", param=parameter)
    return {key: value for key, _, value in pairs}


_output, _instead, _run = in_group("Output"), in_group("Instead of embedding"), in_group("Run")


@click.command(name="embed-tflite", cls=Command, example="embed-tflite model.int8.tflite test -o vectors.npz")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path), required=False)
@_output(
    "-o", "--output-file", "output", type=click.Path(path_type=Path), metavar="FILE.npz", help="Where the vectors go."
)
@_instead("--selftest", "replay", is_flag=True, help="Replay the file's golden vectors on this device instead.")
@_instead(
    "--measure",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Measure the files of MODEL on this device instead.",
)
@_output("--force", is_flag=True, help="Replace an existing output.")
@_run("--delegate", metavar="LIB.so", help="A TFLite delegate, for instance libedgetpu.so.1.")
@_run(
    "--delegate-option",
    "delegate_options",
    multiple=True,
    callback=_options,
    metavar="KEY=VALUE",
    help="For the delegate, as its documentation says; repeatable.",
)
@feature_option
@click.option(
    "--skip-unreadable",
    is_flag=True,
    cls=GroupedOption,
    group="Images",
    help="Leave out images that cannot be used, instead of stopping at the first.",
)
@options_of(InputOptions, "inputs")
@accept_option
@threads_option
@common_options
def embed(
    model: Path,
    data: Path | None,
    output: Path | None,
    replay: bool,
    measure: Path | None,
    force: bool,
    delegate: str | None,
    delegate_options: dict[str, str],
    feature: str | None,
    skip_unreadable: bool,
    inputs: InputOptions,
    accept_contract: bool,
    threads: int | None,
    json_path: str | None,
) -> int:
    """Embed DATA with MODEL (.tflite) and store the vectors with their ids.

    DATA is a folder of images, an image, an array (.npy, .npz) of shape (N, H, W, C), or a .tfrecord; for an encoder of
    other arrays a folder of .npy files, an array (N, ...), a .tfrecord or .parquet.

    With --selftest, and neither DATA nor -o: embed the inputs that the export packed into the file, and compare the
    vectors with those that it packed beside them. Exit code 1 says that they differ.

    With --measure, likewise: time MODEL, or every .tflite of the folder MODEL, on this device, replay their golden
    vectors, and write what was found to FILE.json. Exit code 1 says that a file failed.
    """
    if replay or measure is not None:
        images = data is not None or output is not None or feature is not None or skip_unreadable
        if images or accept_contract or inputs != InputOptions():
            raise click.UsageError(
                f"{'--selftest' if replay else '--measure'} needs nothing but MODEL: leave out DATA, -o and what "
                "describes the input"
            )
        if measure is None:
            return _selftest(model, threads, delegate, delegate_options, json_path)
        if replay:
            raise click.UsageError("--measure replays the golden vectors too: leave out --selftest")
        return _measure(model, measure, force, threads, delegate, delegate_options, json_path)
    if data is None or output is None:
        raise click.UsageError("DATA and -o FILE.npz are needed: what to embed, and where the vectors go")
    if output.suffix != ".npz":
        raise click.UsageError(f"-o {output}: the output holds vectors with ids, so its name ends in .npz")
    check_writable([output], force=force)
    check_outputs([model, data], json=json_path, output_file=output)
    opened = Encoder(
        model,
        threads,
        delegate,
        delegate_options=delegate_options,
        input_contract=inputs,
        accept_contract=accept_contract,
    )
    with opened as encoder, wording(lambda: encoder.contract.input.is_image, model, data, output):
        source = open_source(data, encoder.contract.input, feature)
        readable = Readable(source) if skip_unreadable else source
        rows = list(progress(encoder.embed_iter(readable), len(source), "embedding"))
        ids, skipped = (readable.ids, readable.skipped) if isinstance(readable, Readable) else (source.ids, [])
        if not rows:
            raise EmptyDataError(
                f"{data} has no image that can be used. The first of {len(skipped)}: {skipped[0].reason}"
            )
        embeddings = np.stack(rows)
        silent = count_silent(embeddings)
        write_file(output, pack_embeddings(embeddings, ids, encoder.artifact.sha256, encoder.contract.input))
        result = {
            "schema": 1,
            "model": {"path": str(model), "sha256": encoder.artifact.sha256},
            "runtime": {"name": encoder.runtime.name, "version": encoder.runtime.version},
            "output": str(output),
            "count": len(embeddings),
            "embedding_shape": list(encoder.embedding_shape),
            "contract": {"input": encoder.contract.input.to_json(), "origins": dict(encoder.contract.origins)},
            "silent": asdict(silent),
            "skipped": [asdict(image) for image in skipped],
        }
        shape = "x".join(str(size) for size in embeddings.shape)
        taken = encoder.contract.input
        said = [
            f"{output}: {shape} float32, by {encoder.runtime.name} {encoder.runtime.version}",
            f"contract: {taken.content} become {describe_input(taken, encoder.contract.origins)}",
        ]
        if silent.any:
            place = "" if silent.first is None else f", the first for {ids[silent.first]}"
            said.append(f"vectors that say nothing: {silent}{place}")
        if skipped:
            named = ", ".join(image.id for image in skipped[:3]) + (", …" if len(skipped) > 3 else "")
            said.append(f"{len(skipped)} of {len(source)} {taken.noun}s cannot be used and were left out: {named}")
    emit_result(result, "\n".join(fit(map(one_line, said), line_width())), json_path)
    return 0


def _selftest(
    model: Path, threads: int | None, delegate: str | None, delegate_options: dict[str, str], json_path: str | None
) -> int:
    # Not what every start of the command waits for; nor is what measures.
    from ..check.selftest import render_selftest, selftest

    check_outputs([model], json=json_path)
    with Encoder(model, threads, delegate, delegate_options=delegate_options) as encoder:
        found = selftest(encoder)
        runtime = encoder.runtime
        result = {
            "schema": 1,
            "model": {"path": str(model), "sha256": encoder.artifact.sha256},
            "runtime": {"name": runtime.name, "version": runtime.version},
            "delegate": delegate,
            **found.to_json(),
        }
        # A delegate has rules of its own.
        half = encoder.contract.half_precision is not None and delegate is None
    runs_on = f"{runtime.name} {runtime.version}" + (f" with {delegate}" if delegate else "")
    emit_result(result, render_selftest(found, str(model), runs_on, line_width(), half=half), json_path)
    return 0 if found.passed else EXIT_BAD_ANSWER


def _measure(
    model: Path,
    output: Path,
    force: bool,
    threads: int | None,
    delegate: str | None,
    delegate_options: dict[str, str],
    json_path: str | None,
) -> int:
    from ..check.measure_device import find_models, measure_device, render_figures

    if output.suffix != ".json":
        raise click.UsageError(f"--measure {output}: the figures are JSON, so the name of their file ends in .json")
    check_writable([output], force=force)
    models = find_models(model)
    check_outputs([model, *models], json=json_path, measure=output)
    figures = measure_device(models, threads=threads, delegate=delegate, delegate_options=delegate_options)
    write_file(output, json_bytes(figures.to_json()))
    emit_result(figures.to_json(), render_figures(figures, output, line_width()), json_path)
    return 0 if figures.passed else EXIT_BAD_ANSWER


def main() -> None:
    """The ``embed-tflite`` program."""
    run_command(embed, runs_models=True)
