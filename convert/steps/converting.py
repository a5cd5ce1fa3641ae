"""The float graph of the opened model, the input contract that goes with it, and both made ready for every mode."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...runtime.child_limits import bounded
from ...runtime.files import sha256
from ...runtime.model.contract import InputOptions
from ...runtime.options import part
from ..contract_decision import Decided, decide_contract
from ..data import ExportData
from ..errors import ConversionError
from ..graph.run import float_rows, give_back
from ..load.lower import LoweredModel, lower
from ..load.original import Original
from ..load.preprocess import Proof
from ..make.maker import tool_versions
from ..make.recipe import Recipe, deciding_options
from ..normalization.prepare import FloatGraph, prepare_lowered
from ..request import Request, check_raw_pixels


def convert_model(request: Request, original: Original, path: Path) -> LoweredModel:
    """The float graph, and a first answer of the original: after both a model is known to end.

    Args:
        request: the time limit.
        original: the opened model.
        path: of the model, for the message.
    """
    with bounded("converting the model", path, request.time_limit):
        lowered = lower(original)
        give_back()
        if original.call is not None:
            lowered.reference(np.zeros(original.input_shape, np.float32))
        if lowered.unroll is not None and any(mode != "float32" for mode in request.modes):
            try:
                lowered.unroll()
            except ConversionError:
                # Of float32 there is a file all the same.
                return replace(lowered, unroll=None)
    return lowered


def settle_contract(
    request: Request, original: Original, lowered: LoweredModel, *, proof: Proof | None, recipe: Recipe | None
) -> Decided:
    """What the files will say of their input, held against what the model itself does to it.

    Args:
        request: what the caller says.
        original: what the model file says of itself.
        lowered: what the graph does.
        proof: of a contract by the caller's own function; it decides then.
        recipe: made with such a contract, or refused.

    Raises:
        RequestError: see :func:`embedlite.convert.contract_decision.decide_contract`; ``uint8`` input cannot say it; or
            the recipe was made with another one.
    """
    if proof is not None:
        decided = Decided(proof.contract, proof.origins, ())
    else:
        decided = decide_contract(
            original.name,
            original.input_shape,
            part(request, InputOptions),
            original.inputs,
            lowered.scaling,
            accept=request.accept_contract,
        )
    if request.input_type == "uint8":
        check_raw_pixels(decided.contract)
    if recipe is not None:
        recipe.check_options(deciding_options(request, decided.contract), str(request.recipe))
    return decided


def prepare_graph(
    request: Request, lowered: LoweredModel, data: ExportData, *, proof: Proof | None, recipe: Recipe | None
) -> FloatGraph:
    """The float graph with its normalization proved on images and guarded, or frozen.

    Args:
        request: where the normalization goes.
        lowered: the float graph as the converter left it.
        data: the images; without calibration images recognition is proved without any.
        proof: of the contract by the caller's own function, to be judged by what both make of the embedding.
        recipe: made for this graph, or refused.

    Raises:
        RequestError: the proof does not hold, or the recipe was made for another graph.
    """
    proved: list[str] = []
    if proof is not None:
        embed = functools.partial(float_rows, lowered.flatbuffer, threads=request.threads)
        proved = proof.judge(embed, accept=request.accept_contract)
    graph = prepare_lowered(lowered, data.calibration, request.modes, request.normalization)
    tools: list[str] = []
    if recipe is not None:
        recipe.check_graph(sha256(graph.flatbuffer), str(request.recipe))
        tools = recipe.explain_tools(tool_versions())
    return replace(graph, decisions=(*proved, *graph.decisions, *tools))
