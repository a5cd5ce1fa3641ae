"""``--select coverage``: the calibration images that cover the embedding space best, and what that gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..calibration import Method, choose_ranges, collect_statistics, select_coverage, tensor_groups
from ..calibration.collect import collect_outputs
from ..calibration.select import covering_radius
from ..calibration.split import hold_out
from ..runtime.engine import Engine, list_images
from ..runtime.sources import Source
from .data import ExportData
from .lower import LoweredModel
from .prepare import prepare
from .request import Request
from .trial import Trial, only_float


def select_images(
    lowered: LoweredModel, data: ExportData, request: Request, engine: Engine
) -> tuple[ExportData, list[str]]:
    """Replace a pool of calibration images by the ``request.num_samples`` of them that cover it best.

    Returns:
        The data, and what was decided.
    """
    pool, count = data.calibration, request.num_samples
    if pool is None or count is None:
        return data, []
    # Rows are in the order of their content, so that the order of the images does not matter.
    listing = list_images(pool, engine)
    order = sorted(range(len(pool)), key=listing.digest)
    kept, held = ([order[i] for i in part] for part in hold_out(len(order), request.seed))
    if count >= len(kept):
        return data, [f"all {len(pool)} calibration images were used: {count} were asked for, so there was no choice."]
    embeddings = collect_outputs(
        lowered.flatbuffer, pool, engine.counted(kept, len(kept), "embedding the pool"), engine=engine
    )
    coverage = select_coverage(embeddings, count)
    random = np.random.default_rng(request.seed).choice(len(kept), count, replace=False).tolist()
    radius = covering_radius(embeddings, random)
    gain = ""
    if held:
        by_coverage, by_chance = (
            _int8_sqnr(lowered, pool, [kept[row] for row in rows], held, request, engine)
            for rows in (coverage.indices, random)
        )
        gain = (
            f" int8 by their minimum and maximum has {by_coverage:.1f} dB on {len(held)} other images, by as many at "
            f"random {by_chance:.1f} dB ({by_coverage - by_chance:+.1f})."
        )
    text = (
        f"{count} of {len(pool)} calibration images were chosen to cover the embedding space: no image is farther than "
        f"{coverage.radius:.3g} from a chosen one (at random: {radius:.3g}).{gain}"
    )
    chosen = sorted(kept[row] for row in coverage.indices)
    return replace(data, calibration=pool.subset(chosen)), [text]


def _int8_sqnr(
    lowered: LoweredModel,
    pool: Source,
    chosen: Sequence[int],
    held: Sequence[int],
    request: Request,
    engine: Engine,
) -> float:
    """What int8 gives on held-out images with the extremes of the chosen ones."""
    graph = prepare(lowered.flatbuffer)
    without = only_float(graph)
    statistics = collect_statistics(
        graph.flatbuffer, pool, histograms=False, engine=engine, without=without, indices=chosen
    )
    groups = tensor_groups(graph.flatbuffer, without)
    trial = Trial(graph, [pool.ready(index) for index in held], request.threads)
    return trial.sqnr(trial.errors(graph.flatbuffer, choose_ranges(statistics, groups, Method("minmax"))))
