"""One export from the opened model to the written files: the steps in their order; what each does stands in ``steps/``.

A step returns what it made and what it decided on the user's behalf; nothing is written before the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..calibration.engine import open_engine
from ..runtime.check.figures import read_device_figures
from ..runtime.files import json_bytes
from ..runtime.progress import Stages
from .graph.run import give_back
from .load.original import Original
from .load.preprocess import Proof
from .make.maker import Maker
from .make.names import OutputNames
from .make.outputs import write_outputs
from .make.recipe import Recipe
from .outcome.card import render_card
from .request import Request
from .results import ExportResult
from .search.trial_cache import SearchCache
from .steps.calibrating import calibrate
from .steps.choosing import choose
from .steps.converting import convert_model, prepare_graph, settle_contract
from .steps.measuring import not_run, run_files
from .steps.opening import open_images
from .steps.quantizing import find_half, make_files
from .steps.telling import Steps, tell
from .steps.writing import contents
from .verify.latency import Stopwatch


class Pipeline:
    """One run."""

    def __init__(
        self,
        request: Request,
        source: dict[str, Any],
        recipe: Recipe | None = None,
        proof: Proof | None = None,
        stages: Stages | None = None,
    ) -> None:
        """Read what is small and may be damaged, before there is work that would be lost.

        Args:
            request: what was asked, checked.
            source: path and SHA-256 of the model.
            recipe: decisions of an earlier export, to be made again; None decides.
            proof: of the input contract by the caller's own function; None without.
            stages: what was timed before.

        Raises:
            DeviceFiguresError, UnreadableDataError: the device's figures or the search's cache are damaged.
        """
        self.request, self.source, self.recipe, self.proof = request, source, recipe, proof
        self.device = None if request.measured is None else read_device_figures(Path(request.measured))
        SearchCache(request.search_cache, "")
        self.stages = stages or Stages()

    def run(self, original: Original) -> ExportResult:
        """Make, measure and write everything.

        Args:
            original: the opened model.

        Raises:
            EmbedliteError: a step failed; nothing was written then.
        """
        request, recipe, proof, timed = self.request, self.recipe, self.proof, self.stages.time
        # A cluster that does not answer should say so before the model is converted.
        with open_engine(request.engine, request.threads) as engine:
            with timed("converting"):
                lowered = convert_model(request, original, Path(self.source["path"]))
            decided = settle_contract(request, original, lowered, proof=proof, recipe=recipe)
            contract = decided.contract
            data = open_images(request, original.name, lowered, contract, engine, proof=proof)
            graph = prepare_graph(request, lowered, data, proof=proof, recipe=recipe)
            give_back()
            with timed("calibrating"):
                calibrated = calibrate(request, graph, data, contract, engine, recipe=recipe)
        give_back()
        stopwatch = Stopwatch(request.timed_on, request.threads)
        with timed("quantizing"):
            half = find_half(request, graph, data.judging)
            maker = Maker(request, contract, decided.origins, graph, calibrated.plan, recipe, half, data.further)
            files = make_files(
                request, graph, calibrated.plan, maker, stopwatch, recipe=recipe, refused=calibrated.refused
            )
        give_back()
        if request.measure:
            with timed("measuring"):
                ran = run_files(request, contract, lowered, data, graph, files, stopwatch, recipe=recipe)
        else:
            ran = not_run(request, graph, files)
        give_back()
        chosen = choose(request, ran.measured.files, files, stopwatch, self.device)
        written = contents(request, ran.measured, chosen)
        steps = Steps(original, decided, data, graph, calibrated, half, files, ran, chosen, written)
        result = tell(request, self.source, steps, self.stages.seconds).worded(is_image=contract.is_image)
        names = OutputNames(request)
        card = {names.card: render_card(result, request.stem)} if request.card else {}
        write_outputs(request, {**written.by_path, **card, names.result: json_bytes(result.to_json())})
        return result
