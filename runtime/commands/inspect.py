"""``inspect-tflite``: what a file promises and what it is made of."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..check.golden import parse_golden
from ..drift import measure_drift
from ..drift.wording import decibels
from ..errors import EmbedliteWarning, RequestError, UnsupportedModelError
from ..machine import half_precision_here
from ..model.artifact import Artifact, read_artifact
from ..model.contract import InputContract
from ..model.flatbuffer import NPU_OPERATOR, ModelInfo, TensorInfo
from ..model.origin import describe_input
from ..model.plain import resolve_contract
from ..model.tflite_metadata import METADATA_NAME, read_metadata
from ..terminal import fit, line_width
from .options import Command, check_outputs, common_options, emit_result, run_command


@click.command(name="inspect-tflite", cls=Command, example="inspect-tflite model.int8.tflite")
@click.argument("model", type=click.Path(path_type=Path))
@common_options
def inspect(model: Path, json_path: str | None) -> None:
    """Print the contract, golden vectors, metadata, operators with versions, and tensors of MODEL (.tflite)."""
    check_outputs([model], json=json_path)
    result = _describe(model, read_artifact(model))
    emit_result(result, "\n".join(fit(_render(result), line_width())), json_path)


def _describe(path: Path, artifact: Artifact) -> dict[str, Any]:
    info = artifact.info
    operators = Counter((operator.name, operator.version) for operator in info.operators)
    runtime = info.metadata.get("min_runtime_version", b"").rstrip(b"\0").decode("ascii", "replace")
    return {
        "schema": 1,
        "path": str(path),
        "bytes": artifact.size,
        "sha256": artifact.sha256,
        "contract": artifact.contract.to_json() if artifact.contract else None,
        "assumed": _assumed(path, artifact),
        "golden": _golden(artifact),
        "tflite_metadata": _metadata(info),
        "min_runtime_version": runtime or None,
        "signatures": list(info.signatures),
        "inputs": [_tensor(tensor) for tensor in info.inputs],
        "outputs": [_tensor(tensor) for tensor in info.outputs],
        "operators": [
            {"name": name, "version": version, "count": count} for (name, version), count in sorted(operators.items())
        ],
    }


def _assumed(path: Path, artifact: Artifact) -> dict[str, Any] | None:
    """What a plain file's pixels are taken for where nothing is said of them; None where that cannot be said."""
    if artifact.contract is not None:
        return None
    with warnings.catch_warnings():
        # It is the answer here, and no aside.
        warnings.simplefilter("ignore", EmbedliteWarning)
        try:
            contract = resolve_contract(path, artifact, None)
        except UnsupportedModelError:
            return None
        except RequestError as error:
            return {"contradiction": str(error)}
    return {"input": contract.input.to_json(), "origins": dict(contract.origins)}


def _golden(artifact: Artifact) -> dict[str, Any] | None:
    if artifact.golden is None or artifact.contract is None:
        return None
    golden = parse_golden(artifact.golden, artifact.contract)
    drift, _ = measure_drift(golden.embeddings, golden.reference, k=None)
    return {
        "count": len(golden.embeddings),
        "bytes": len(artifact.golden),
        "made_by": golden.runtime,
        "pixels": list(golden.pixels.shape[1:]),
        "sqnr_db": drift.sqnr_db,
        "cosine_min": drift.cosine_min,
    }


def _metadata(info: ModelInfo) -> dict[str, Any] | None:
    data = info.metadata.get(METADATA_NAME)
    return None if data is None else asdict(read_metadata(data))


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "scale": list(tensor.scale),
        "zero_point": list(tensor.zero_point),
    }


def _render(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['path']}: {result['bytes']:,} bytes, sha256 {result['sha256']}"]
    for kind in ("inputs", "outputs"):
        for tensor in result[kind]:
            lines.append(f"{kind[:-1]:<8} {tensor['name']}: {tensor['dtype']} {tensor['shape']}" + _scale(tensor))
    lines.append(f"runtime  at least TensorFlow Lite {result['min_runtime_version'] or 'unknown'}")
    contract = result["contract"]
    if contract is None:
        lines.append(_render_assumed(result["assumed"]))
    else:
        lines.append("contract schema {schema}, mode {mode}".format(**contract))
        for name in ("input", "origins", "normalization", "calibration", "tools"):
            lines.append(f"  {name}: {json.dumps(contract[name], sort_keys=True)}")
        if (half := contract["half_precision"]) is not None:
            lines.append(f"  half precision, where the processor has it: {decibels(half['sqnr_db'])}, simulated")
            lines.append(f"    {half_precision_here()}")
    content = "pixels" if contract is None else InputContract.from_json(contract["input"]).content
    lines.append(_render_golden(result["golden"], content))
    if (metadata := result["tflite_metadata"]) is not None:
        lines.append(f"TFLite Metadata: {json.dumps(metadata)}")
    lines.append("operators")
    for operator in result["operators"]:
        note = " (compiled for an Arm Ethos-U NPU)" if operator["name"] == NPU_OPERATOR else ""
        lines.append(f"  {operator['count']:>4} x {operator['name']} version {operator['version']}{note}")
    return lines


def _render_assumed(assumed: dict[str, Any] | None) -> str:
    if assumed is None:
        return "contract none: mean, std, colour order and resampler are unknown"
    if "contradiction" in assumed:
        return f"contract none: {assumed['contradiction']}"
    contract = InputContract.from_json(assumed["input"])
    said = describe_input(contract, assumed["origins"])
    return f"contract none: without options, {contract.content} are taken as {said}"


def _render_golden(golden: dict[str, Any] | None, what: str) -> str:
    if golden is None:
        return "golden   none"
    shape = "x".join(map(str, golden["pixels"]))
    return (
        f"golden   {golden['count']} inputs of {shape} {what} by {golden['made_by']}, {golden['bytes']:,} bytes; "
        f"from the float encoder {decibels(golden['sqnr_db'])}"
    )


def _scale(tensor: dict[str, Any]) -> str:
    if not tensor["scale"]:
        return ""
    return f", scale {tensor['scale'][0]:.6g}, zero point {tensor['zero_point'][0]}"


def main() -> None:
    """The ``inspect-tflite`` program."""
    run_command(inspect)
