"""Where a drift comes from: the ladder and the layers, for the options ``--ladder`` and ``--layers``."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...convert.load.options import LoadOptions, is_keras_model
from ...runtime.drift import DEFAULT_K
from ...runtime.drift.stored import is_stored
from ...runtime.encoder import Encoder
from ...runtime.errors import EmbedliteWarning, RequestError
from ...runtime.images.open import open_source
from ...runtime.model.artifact import read_artifact
from ...runtime.model.contract import Contract, InputContract
from ...runtime.progress import stage
from .ladder import LADDER_IMAGES, TRAINING_BATCH, Ladder, LadderRequest, climb, has_float_ends, render_ladder
from .ladder_files import PartsRequest, make_parts
from .layer_noise import LAYER_IMAGES, LayerReport, is_quantized, measure_layers, render_layers


@dataclass(frozen=True)
class SourcesRequest:
    """Two models and the images that they were compared on.

    Attributes:
        candidate: a ``.tflite``.
        reference: a ``.tflite``, Keras model or SavedModel.
        data: the images.
        ids: which of them, in this order.
        top: what the reference made of them: (N, ...) float32, finite.
        ladder: whether to climb the ladder.
        layers: whether to judge the layers.
        input_contract: the preprocessing of a candidate that carries none.
        opening: what the user says of a Keras reference.
        feature: which part of ``data`` holds the images.
        k: neighbours to compare.
        threads: processors to use; default all.
    """

    candidate: Path
    reference: Path
    data: Path | str
    ids: Sequence[str]
    top: NDArray[np.float32]
    ladder: bool
    layers: bool
    input_contract: InputContract | None = None
    opening: LoadOptions | None = None
    feature: str | None = None
    k: int = DEFAULT_K
    threads: int | None = None


@dataclass(frozen=True)
class DriftSources:
    """What was found; None for what was not asked for."""

    ladder: Ladder | None
    layers: LayerReport | None

    def to_json(self) -> dict[str, Any]:
        """The keys ``ladder`` and ``layers`` of the drift report."""
        return {
            "ladder": None if self.ladder is None else self.ladder.to_json(),
            "layers": None if self.layers is None else self.layers.to_json(),
        }

    def render(self, width: int, noun: str = "image") -> str:
        """Both tables as text, no line longer than ``width``; an input is called ``noun``."""
        tables = [] if self.ladder is None else [render_ladder(self.ladder, width, noun)]
        tables += [] if self.layers is None else [render_layers(self.layers, width, noun)]
        return "\n\n".join(tables)


def check_sources(candidate: Path, reference: Path, *, ladder: bool, layers: bool) -> None:
    """Refuse, before anything is run, what has no ladder or no layers.

    Raises:
        RequestError: stored embeddings (but as the reference of a ladder), a quantized reference, or for layers a float
            candidate, or one with a frozen normalization against the original.
    """
    options = " and ".join(name for name, wanted in (("--ladder", ladder), ("--layers", layers)) if wanted)
    for path in (candidate, reference):
        if is_stored(path) and (path == candidate or layers):
            raise RequestError(
                f"{options} run both models, and {path} holds stored embeddings. Name the model files and --data."
            )
    if is_stored(reference):
        return
    keras = is_keras_model(reference)
    if not keras and is_quantized(read_artifact(reference).info):
        raise RequestError(
            f"{options} need a float reference, and {reference} is quantized. Name the float32 file of the same "
            "export, or the original."
        )
    artifact = read_artifact(candidate)
    if layers and not is_quantized(artifact.info):
        raise RequestError(f"--layers needs a quantized candidate, and {candidate} is float throughout. Leave it out.")
    if layers and keras and artifact.contract and artifact.contract.normalization.placement == "frozen":
        raise RequestError(
            f"--layers: {candidate} has a frozen normalization, which the original has not, so that their layers "
            "differ by design. Name the float32 file of the same export."
        )


def find_sources(request: SourcesRequest) -> DriftSources:
    """Run what was asked for.

    Raises:
        RequestError: see :func:`check_sources`; or the two models do not belong together.
        KerasReferenceError: the original could not be converted.
    """
    check_sources(request.candidate, request.reference, ladder=request.ladder, layers=request.layers)
    contract = _contract(request)
    source = open_source(request.data, contract.input, request.feature)
    place = {name: index for index, name in enumerate(source.ids)}
    source = source.subset([place[name] for name in request.ids])
    few = source.sample(LADDER_IMAGES, seed=0)
    keras = is_keras_model(request.reference)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as name:
        folder = Path(name)
        wanted = PartsRequest(
            folder=folder,
            model=request.reference if keras else None,
            opening=request.opening or LoadOptions(),
            candidate=request.candidate if request.ladder and has_float_ends(contract) else None,
            data=request.data,
            feature=request.feature,
            ids=few.ids,
            contract=contract.input,
            batch_size=TRAINING_BATCH if request.ladder and keras else None,
            resize=request.ladder and contract.input.is_image,
        )
        float_file = request.reference
        with stage("preparing"):
            parts = make_parts(wanted) if keras or request.ladder else None
        if parts is not None and keras:
            float_file = parts.path("float.tflite")
        ladder = layers = None
        if parts is not None and request.ladder:
            row = {name: index for index, name in enumerate(request.ids)}
            top = request.top[[row[name] for name in few.ids]]
            steps = LadderRequest(
                candidate=request.candidate,
                reference=request.reference,
                float_file=float_file,
                data=request.data,
                source=few,
                contract=contract,
                top=top,
                feature=request.feature,
                k=request.k,
                threads=request.threads,
            )
            ladder = climb(steps, parts, folder)
        if request.layers:
            sample = source.sample(LAYER_IMAGES, seed=0)
            images = (sample.ready(index) for index in range(len(sample)))
            layers = measure_layers(request.candidate, float_file, images, threads=request.threads)
    return DriftSources(ladder, layers)


def _contract(request: SourcesRequest) -> Contract:
    with warnings.catch_warnings():
        # What is assumed of a plain file was said when it was embedded.
        warnings.simplefilter("ignore", EmbedliteWarning)
        opened = Encoder(request.candidate, 1, input_contract=request.input_contract, accept_contract=True)
        with opened as encoder:
            return encoder.contract
