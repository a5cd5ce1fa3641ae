"""The images of an export: opened, held against the contract, chosen, and enough of them."""

from __future__ import annotations

from dataclasses import replace

from ...calibration.engine import Engine
from ...runtime.model.contract import InputContract
from ..data import ExportData, check_searchable, open_data, select_images
from ..load.lower import LoweredModel
from ..load.preprocess import Proof
from ..request import Request
from ..verify.doubt_contract import doubt_contract


def open_images(
    request: Request, name: str, lowered: LoweredModel, contract: InputContract, engine: Engine, *, proof: Proof | None
) -> ExportData:
    """Open the images, and ask the model whether they reach it as it was trained.

    Args:
        request: where they are, how many, and which.
        name: the model, for messages.
        lowered: the float graph, whose embeddings doubt the contract and cover the pool.
        contract: of the input.
        engine: what embeds the pool.
        proof: of the contract by the caller's own function; where it holds nothing is doubted.

    Raises:
        DataError: the images cannot be read.
        RequestError: they contradict the contract, or are too few for a search.
    """
    data = open_data(request, contract)
    images = None if proof is not None and proof.holds else data.judging
    doubts = doubt_contract(name, lowered, images, contract, accept=request.accept_contract)
    chosen: list[str] = []
    opened = data.decisions
    if request.select == "coverage":
        data, chosen = select_images(lowered, data, request, engine)
    if request.searching:
        check_searchable(data)
    return replace(data, decisions=(*doubts, *opened, *lowered.decisions, *chosen))
