"""``drift-report``: how far a candidate's embeddings are from a reference's, and whether that passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact, read_artifact
from .contract import InputContract, InputOptions
from .drift import DEFAULT_K
from .drift_sources import SourcesRequest, check_sources, find_sources
from .encoder import Encoder, input_contract_from_options
from .errors import RequestError
from .gates import parse_gates
from .keras_reference import embed_with_keras, is_keras_model
from .model_options import ModelOptions, model_options
from .report import build_report, render_report
from .sources import Source, open_source
from .stored import StoredEmbeddings, is_stored, load_embeddings, match_rows
from .terminal import (
    EXIT_BAD_ANSWER,
    check_json_path,
    common_options,
    emit_result,
    feature_option,
    input_options,
    progress,
    run_command,
)


@click.command(name="drift-report")
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="What the candidate should match.")
@click.option("--data", type=click.Path(path_type=Path), help="Images; not needed if both sides are stored.")
@click.option("--gate", "gates", multiple=True, metavar="NAME=VALUE", help="A limit; repeatable, replaces the default.")
@click.option("--k", default=DEFAULT_K, show_default=True, help="Neighbours that are compared.")
@click.option("--num-samples", type=click.IntRange(min=1), help="Use a random part of the data.  [default: all]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For --num-samples.")
@click.option("--ladder", is_flag=True, help="Show which step from the original to the candidate spends the drift.")
@click.option("--layers", is_flag=True, help="Show which layers of a quantized candidate make the drift.")
@feature_option
@model_options
@input_options
@common_options
def drift_report(
    candidate: Path,
    reference: Path,
    data: Path | None,
    gates: tuple[str, ...],
    k: int,
    num_samples: int | None,
    seed: int,
    ladder: bool,
    layers: bool,
    feature: str | None,
    opening: ModelOptions,
    inputs: InputOptions,
    threads: int | None,
    json_path: str | None,
) -> int:
    """Compare CANDIDATE with a reference on the same images and judge the difference.

    CANDIDATE is a .tflite file or stored embeddings (.npz, .npy). The reference is a Keras model or SavedModel
    (needs TensorFlow), a .tflite file, or stored embeddings. Exit code 1 says that a gate failed.
    """
    limits = parse_gates(gates)
    check_json_path(json_path, candidate, reference, data)
    if ladder or layers:
        check_sources(candidate, reference, ladder=ladder, layers=layers)
    contract = None
    if not is_stored(candidate):
        contract = input_contract_from_options(candidate, inputs)
    sides = _embed_sides(candidate, reference, data, feature, contract, num_samples, seed, threads, opening)
    report = build_report(sides.candidate, sides.reference, sides.ids, sides.description, limits, k=k)
    value, text = report.to_json(), render_report(report)
    if (ladder or layers) and data is not None:
        wanted = SourcesRequest(
            candidate=candidate,
            reference=reference,
            data=data,
            ids=sides.ids,
            top=sides.reference,
            ladder=ladder,
            layers=layers,
            input_contract=contract,
            opening=opening,
            feature=feature,
            k=k,
            threads=threads,
        )
        sources = find_sources(wanted)
        value, text = {**value, **sources.to_json()}, f"{text}\n\n{sources.render()}"
    emit_result(value, text, json_path)
    return 0 if report.passed else EXIT_BAD_ANSWER


@dataclass(frozen=True)
class _Sides:
    candidate: NDArray[np.float32]
    reference: NDArray[np.float32]
    ids: Sequence[str]
    description: dict[str, dict[str, Any]]


def _embed_sides(
    candidate: Path,
    reference: Path,
    data: Path | None,
    feature: str | None,
    contract: InputContract | None,
    num_samples: int | None,
    seed: int,
    threads: int | None,
    opening: ModelOptions,
) -> _Sides:
    if opening != ModelOptions() and not is_keras_model(reference):
        raise RequestError(
            f"--layer, --output, --custom-objects and --replace-lambda are for a Keras reference, and {reference} is "
            "none. Leave them out."
        )
    if is_stored(candidate):
        if not is_stored(reference):
            raise RequestError(
                f"{candidate} holds stored embeddings, so the reference must be stored too. Embed the same images with "
                f"{reference} first: embed-tflite."
            )
        if (data, num_samples, feature) != (None, None, None):
            raise RequestError(
                "both sides are stored embeddings, so there is nothing to embed. Leave out --data, --num-samples and "
                "--feature."
            )
        return _match(load_embeddings(candidate), {"path": str(candidate), "kind": "stored"}, reference, None)
    if data is None:
        raise RequestError("--data is missing: name the images that both models should embed.")
    with Encoder(candidate, threads, input_contract=contract) as encoder:
        source = open_source(data, encoder.contract.input, feature).sample(num_samples, seed)
        mine = StoredEmbeddings(_embed(encoder, source, "candidate"), source.ids, encoder.artifact.sha256)
        described = _describe_encoder(candidate, encoder)
        inputs = encoder.contract.input
    facts = {"path": str(data), "count": len(source), "fingerprint": source.fingerprint()}
    if is_stored(reference):
        return _match(mine, described, reference, facts)
    if is_keras_model(reference):
        theirs = embed_with_keras(reference, data, source.ids, inputs, opening, feature)
        other = {"path": str(reference), "kind": "keras"}
    else:
        # The reference sees what the candidate sees: the same contract makes the same floats.
        with Encoder(reference, threads, input_contract=_bare(reference, inputs)) as encoder:
            theirs = _embed_ready(encoder, source)
            other = _describe_encoder(reference, encoder)
            if encoder.contract.mode not in ("float32", "unknown"):
                click.echo(
                    f"note: the reference {reference} is itself quantized ({encoder.contract.mode}).",
                    err=True,
                )
    return _Sides(mine.embeddings, theirs, source.ids, {"candidate": described, "reference": other, "data": facts})


def _match(mine: StoredEmbeddings, described: dict[str, Any], reference: Path, facts: dict[str, Any] | None) -> _Sides:
    stored = load_embeddings(reference)
    candidate_rows, reference_rows, ids, trusted = match_rows(mine, stored)
    if trusted:
        click.echo("note: one side has no ids, so its rows were taken to be in the same order.", err=True)
    description = {
        "candidate": {**described, "model_sha256": mine.model_sha256 or None},
        "reference": {"path": str(reference), "kind": "stored", "model_sha256": stored.model_sha256 or None},
        "data": facts or {"path": None, "count": len(ids), "fingerprint": None},
    }
    description["data"]["matched_by"] = "order" if trusted else "id"
    return _Sides(candidate_rows, reference_rows, ids, description)


def _embed(encoder: Encoder, source: Source, label: str) -> NDArray[np.float32]:
    return np.stack(list(progress(encoder.embed_iter(source), len(source), label)))


def _embed_ready(encoder: Encoder, source: Source) -> NDArray[np.float32]:
    ready = (source.ready(index) for index in range(len(source)))
    return np.stack(list(progress(encoder.embed_iter(ready), len(source), "reference")))


def _bare(reference: Path, inputs: InputContract) -> InputContract | None:
    """The candidate's contract for a reference that has none, None for one that brings its own."""

    return None if read_artifact(reference).contract else inputs


def _describe_encoder(path: Path, encoder: Encoder) -> dict[str, Any]:
    artifact: Artifact = encoder.artifact
    return {
        "path": str(path),
        "kind": "tflite",
        "mode": encoder.contract.mode,
        "sha256": artifact.sha256,
        "runtime": f"{encoder.runtime.name} {encoder.runtime.version}",
    }


def main() -> None:
    """The ``drift-report`` program."""
    run_command(drift_report)
