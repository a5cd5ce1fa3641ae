"""What a model file takes and gives: by its own contract, or for a plain ``.tflite`` by its tensors and the caller."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from ..errors import EmbedliteWarning, RequestError, UnsupportedModelError
from .artifact import Artifact, read_artifact
from .contract import INPUT_DTYPES, Contract, InputContract, InputOptions, NormalizationSpec
from .flatbuffer import ModelInfo, TensorInfo


def resolve_contract(path: str | Path, artifact: Artifact, given: InputContract | None) -> Contract:
    """The file's contract, or for a plain file one made from its tensors and what the caller gave."""
    info = artifact.info
    source, target = _image_input(path, info), info.outputs[0]
    shape = (source.shape[1], source.shape[2], source.shape[3])
    if artifact.contract is not None:
        if given is not None:
            raise RequestError(
                f"{path} carries its own input contract. Leave out mean, std, colour order and resampler."
            )
        return artifact.contract
    if given is None:
        given = InputContract(shape)
        warnings.warn(
            f"{path} carries no contract: pixels are taken as (pixel - 0) / 255, {given.color_order}, "
            f"{given.reading}. Say otherwise with mean, std, color order and resampler.",
            EmbedliteWarning,
            stacklevel=3,
        )
    rows = target.shape[1:] if len(target.shape) > 1 and target.shape[0] == 1 else target.shape
    return Contract(
        input=replace(given, shape=shape, dtype=source.dtype),
        output_shape=rows,
        output_dtype=target.dtype,
        normalization=NormalizationSpec(),
        mode="unknown",
        calibration=None,
    )


def _image_input(path: str | Path, info: ModelInfo) -> TensorInfo:
    """The input tensor of an encoder: one image, and one output beside it."""
    if len(info.inputs) != 1 or len(info.outputs) != 1:
        raise UnsupportedModelError(
            f"{path} has {len(info.inputs)} inputs and {len(info.outputs)} outputs; an encoder has one of each."
        )
    source = info.inputs[0]
    if len(source.shape) != 4 or source.shape[0] != 1 or source.dtype not in INPUT_DTYPES:
        raise UnsupportedModelError(
            f"{path} takes {source.dtype} {source.shape}; an encoder takes one image, (1, height, width, channels) of "
            f"{', '.join(INPUT_DTYPES)}. Export it with export-tflite, which fixes the shape."
        )
    return source


def input_contract_from_options(path: str | Path, options: InputOptions) -> InputContract | None:
    """What the options of :class:`InputOptions` say of a plain file; None if none was given."""
    if options == InputOptions():
        return None
    source = _image_input(path, read_artifact(path).info)
    return options.for_shape((source.shape[1], source.shape[2], source.shape[3]))
