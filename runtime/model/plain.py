"""What a model file takes and gives: by its own contract, or for a plain ``.tflite`` by what it and the caller tell.

A plain file may say itself what pixels become: in TFLite Metadata, as MediaPipe and Android's libraries read it, or by
the scale and zero point of an integer input, whose 256 levels are the 256 values of a pixel. What is given goes before
the metadata, the metadata before the levels, and these before what is usual; where they contradict each other, the
caller has to insist.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DamagedModelError, EmbedliteWarning, RequestError, UnsupportedModelError
from .artifact import Artifact
from .contract import COLOR_ORDERS, INPUT_DTYPES, MOST_AXES, Contract, InputContract, InputOptions, NormalizationSpec
from .flatbuffer import ModelInfo, TensorInfo
from .origin import (
    PARTS,
    Statement,
    assumed_parts,
    contract_of,
    describe_input,
    ends,
    same_scaling,
    statement,
)
from .tflite_metadata import METADATA_NAME, read_metadata

_USUAL: tuple[tuple[float, float], ...] = ((0.0, 255.0), (127.5, 127.5), (0.0, 1.0))
"""Mean and std of 0-1, -1 to 1 and 0-255."""

_RAW = ((0.0,), (1.0,))

_FITS, _CONTRADICTS = 0.93, 0.6
"""Of two ranges the common part over both together: from here on one is the other; below, they cannot both be right."""


def resolve_contract(
    path: str | Path, artifact: Artifact, given: InputContract | InputOptions | None, *, accept: bool = False
) -> Contract:
    """The file's contract, or for a plain file one made of what it says of itself and what the caller gave.

    Args:
        path: of the file, for messages.
        artifact: the file.
        given: a whole contract, or parts of one.
        accept: take what is given although the file contradicts it, and its metadata although its tensors do.

    Raises:
        RequestError: something was given for a file that brings its own contract, or sources contradict each other.
        UnsupportedModelError: the file is not an encoder: one input of one to four axes after the batch, one output.
    """
    info = artifact.info
    source, target = _one_input(path, info), info.outputs[0]
    if artifact.contract is not None:
        if given not in (None, InputOptions()):
            raise RequestError(
                f"{path} carries its own input contract. Leave out mean, std, colour order and resampler."
            )
        return artifact.contract
    contract, origins = _plain_input(path, info, source, given, accept=accept)
    rows = target.shape[1:] if len(target.shape) > 1 and target.shape[0] == 1 else target.shape
    return Contract(
        input=contract,
        output_shape=rows,
        output_dtype=target.dtype,
        normalization=NormalizationSpec(),
        mode="unknown",
        calibration=None,
        origins=origins,
    )


def metadata_statement(path: str | Path, info: ModelInfo, channels: int) -> Statement | None:
    """What a file's TFLite Metadata says of its pixels; None if it has none, or none that can be true."""
    data = info.metadata.get(METADATA_NAME)
    if data is None:
        return None
    try:
        found = read_metadata(data)
    except DamagedModelError as error:
        warnings.warn(f"{path}: {error} It is left out of account.", EmbedliteWarning, stacklevel=4)
        return None
    said: dict[str, Any] = {}
    if found.mean or found.std:
        try:
            InputContract((1, 1, channels), mean=found.mean, std=found.std)
            said |= {"mean": found.mean, "std": found.std}
        except RequestError as error:
            warnings.warn(
                f"{path}: its TFLite Metadata is left out of account, because in it {error}",
                EmbedliteWarning,
                stacklevel=4,
            )
    order = {"rgb": "rgb", "grayscale": "gray"}.get(found.color_space)
    if order in COLOR_ORDERS.get(channels, ()):
        said["color_order"] = order
    return statement("its TFLite Metadata", "metadata", **said) if said else None


def _plain_input(
    path: str | Path,
    info: ModelInfo,
    source: TensorInfo,
    given: InputContract | InputOptions | None,
    *,
    accept: bool,
) -> tuple[InputContract, dict[str, str]]:
    shape = source.shape[1:]
    parts = {} if given is None else {name: getattr(given, name) for name in PARTS}
    said = statement("the options", "given", **{name: value for name, value in parts.items() if value is not None})
    contract, origins = contract_of(shape, said)
    if not contract.is_image:
        if "assumed" in (origins["mean"], origins["std"]):
            warnings.warn(
                f"{path} carries no contract: values are taken as {describe_input(contract, origins)}. Say otherwise "
                "with mean and std.",
                EmbedliteWarning,
                stacklevel=4,
            )
        return replace(contract, dtype=source.dtype), origins
    stated, levels = metadata_statement(path, info, shape[2]), _levels(info, source)
    if stated is not None and levels is not None and levels.raw and (stated.options.mean, stated.options.std) == _RAW:
        # Of integers this says that nothing is to be done to pixels.
        stated = replace(stated, options=replace(stated.options, mean=None, std=None))
    inferred = None if levels is None else levels.inferred(shape)
    contract, origins = contract_of(shape, said, stated, inferred)
    problem = _contradiction(shape, said, stated, levels, contract)
    if problem and not accept:
        raise RequestError(
            f"{path}: {problem} contradict each other. Leave mean, std and colour order out, correct them, or insist "
            "with --accept-contract (accept_contract=True)."
        )
    if problem:
        warnings.warn(f"{path}: {problem} contradict each other; accepted.", EmbedliteWarning, stacklevel=4)
    elif (
        levels is not None and levels.raw and inferred is not None and "given" not in (origins["mean"], origins["std"])
    ):
        by_levels, its_origins = contract_of(shape, said, inferred, stated)
        if levels.off(contract) <= 2:
            # MediaPipe hands pixels over as they are, and so far rounding alone would tell.
            contract, origins = by_levels, its_origins
    if assumed_parts(origins) or any(origins[name] != "given" for name in ("mean", "std")):
        doubt = "" if levels is None or origins["mean"] != "inferred" else levels.doubt()
        warnings.warn(
            f"{path} carries no contract: pixels are taken as {describe_input(contract, origins)}.{doubt} Say "
            "otherwise with mean, std, color order and resampler.",
            EmbedliteWarning,
            stacklevel=4,
        )
    return replace(contract, dtype=source.dtype), origins


@dataclass(frozen=True)
class _Levels:
    """The 256 levels that a file's input has, or is rounded to by its first operator.

    Attributes:
        scale, zero_point: of the quantization.
        lowest: the lowest level, 0 or -128.
        direct: whether the input tensor itself has them.
        text: what to call them.
    """

    scale: float
    zero_point: int
    lowest: int
    direct: bool
    text: str

    @property
    def raw(self) -> bool:
        """Whether a pixel can be handed over as it is."""
        return self.direct and self.lowest == 0

    @property
    def low(self) -> float:
        """What the lowest level stands for."""
        return (self.lowest - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """What the highest level stands for."""
        return (self.lowest + 255 - self.zero_point) * self.scale

    def overlap(self, contract: InputContract) -> float:
        """The part that the levels' range and the range of pixels have in common, of both together."""
        found = ends(contract)
        low, high = float(found.min()), float(found.max())
        common = min(high, self.high) - max(low, self.low)
        return max(common, 0.0) / (max(high, self.high) - min(low, self.low))

    def off(self, contract: InputContract) -> float:
        """By how many levels a pixel that is handed over as it is may differ from what a contract makes of it."""
        by_contract = ends(contract) / self.scale + self.zero_point - self.lowest
        return float(np.abs(by_contract - np.array([[0.0], [255.0]])).max())

    def inferred(self, shape: tuple[int, ...]) -> Statement | None:
        """What mean and std the levels speak for."""
        # Six digits: 1 / float32(1 / 255) is 255.
        own = (float(self.zero_point - self.lowest), float(f"{1 / self.scale:.6g}"))
        fitting = [(self.overlap(_scaled(shape, *usual)), usual) for usual in _USUAL]
        overlap, usual = max(fitting)
        if not self.direct and overlap < _FITS:
            return None
        if not self.raw and overlap >= _FITS:
            own = usual
        return statement(self.text, "inferred", mean=(own[0],), std=(own[1],))

    def doubt(self) -> str:
        """What there is to say against them, as a sentence with a space in front; empty for nothing."""
        if not self.direct or max(self.overlap(_scaled((1, 1, 1), *usual)) for usual in _USUAL) > 0.8:
            return ""
        return (
            f" Its levels stand for {self.low:.4g} to {self.high:.4g}, which is none of 0 to 1, -1 to 1 and 0 to 255, "
            "so that mean and std of the training are needed."
        )


def _scaled(shape: tuple[int, ...], mean: float, std: float) -> InputContract:
    return InputContract(shape, mean=(mean,), std=(std,))


def _levels(info: ModelInfo, source: TensorInfo) -> _Levels | None:
    tensor, direct = source, True
    if source.dtype == "float32":
        place = info.wiring.inputs[0]
        readers = [index for index, (reads, _) in enumerate(info.wiring.operators) if place in reads]
        if len(readers) != 1 or info.operators[readers[0]].name != "QUANTIZE":
            return None
        tensor, direct = info.tensors[info.wiring.operators[readers[0]][1][0]], False
    if tensor.dtype not in ("uint8", "int8"):
        return None
    scale, zero_point = (tensor.scale[0], tensor.zero_point[0]) if tensor.scale and tensor.zero_point else (1.0, 0)
    if not (math.isfinite(scale) and scale > 0):
        scale, zero_point = 1.0, 0
    whose = f"its {tensor.dtype} input" if direct else f"the {tensor.dtype} that its input is rounded to"
    text = f"{whose}: scale {scale:.4g}, zero point {zero_point}"
    return _Levels(scale, zero_point, 0 if tensor.dtype == "uint8" else -128, direct, text)


def _contradiction(
    shape: tuple[int, ...],
    said: Statement,
    stated: Statement | None,
    levels: _Levels | None,
    contract: InputContract,
) -> str:
    """What the sources say where they cannot all be right; empty if they can."""
    told = [one for one in (said, stated) if one is not None and one.tells]
    orders = {one.options.color_order for one in told} - {None}
    scaled = any(one.options.mean or one.options.std for one in told)
    apart = stated is not None and bool(stated.options.mean)
    apart = apart and not same_scaling(contract, contract_of(shape, stated)[0])
    beyond = levels is not None and scaled and levels.overlap(contract) < _CONTRADICTS
    if len(orders) < 2 and not apart and not beyond:
        return ""
    words = [str(one) for one in told]
    if levels is not None:
        words.append(f"{levels.text} and values from {levels.low:.4g} to {levels.high:.4g}")
        low, high = float(ends(contract).min()), float(ends(contract).max())
        words[0] += f" (pixels become {low:.4g} to {high:.4g})"
    return " and ".join([", ".join(f"({word})" for word in words[:-1]), f"({words[-1]})"])


def _one_input(path: str | Path, info: ModelInfo) -> TensorInfo:
    """The input tensor of an encoder: one image or other array, and one output beside it."""
    if len(info.inputs) != 1 or len(info.outputs) != 1:
        raise UnsupportedModelError(
            f"{path} has {len(info.inputs)} inputs and {len(info.outputs)} outputs; an encoder has one of each."
        )
    source = info.inputs[0]
    axes = len(source.shape) - 1
    if not 1 <= axes <= MOST_AXES or source.shape[0] != 1 or source.dtype not in INPUT_DTYPES:
        raise UnsupportedModelError(
            f"{path} takes {source.dtype} {source.shape}; an encoder takes one image, (1, height, width, channels), or "
            f"one other array of one to four axes after a batch of 1, of {', '.join(INPUT_DTYPES)}. Export the model "
            "that it was made from with export-tflite, whose files do."
        )
    return source
