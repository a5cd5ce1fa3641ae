"""What was decided on the user's behalf, in sentences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ...calibration.tensors import short_name
from ...runtime.drift import Drift
from ...runtime.drift.metrics import ranked_db
from ...runtime.drift.wording import decibels, gained
from ...runtime.images.source import Source
from ...runtime.model.flatbuffer import read_flatbuffer
from ..make.maker import Made
from ..modes import DYNAMIC, INT16, OLDER
from ..normalization.prepare import FloatGraph
from ..quantize.choices import NO_EQUALIZATION, PlanChoices
from ..quantize.folds import LEAST_IN_FOLDS
from ..quantize.litert import MISSING_IN_OLDER
from ..quantize.plan import Int8Plan
from ..quantize.trial import ReadyImages, Trial
from ..request import Request
from ..results import NEAR, BatchCoupling, Conditioning, ExportedFile

_MOST_JUDGING = 256
_LOST_DB = 0.3
"""What test images may lose by what calibration images chose, before it is said."""

_LOOKED_AT, _ALIKE = 64, 0.5
"""Test images whose embeddings are compared with the calibration images', and the share of their spread from which on
these are said to be alike."""

_LITTLE_DRIFT_DB = 40.0
_FIRM_STEPS = 50
_CAUSE = "the normalization decides it, whose divisor comes too near to zero: its ways out are below"
_DIVISORS = {
    ("minmax", "input"): "the maximum of its input",
    ("minmax", "shifted"): "the maximum of the shifted values",
    ("l2", "shifted"): "its length",
}


def explain_placement(request: Request, graph: FloatGraph, made: Sequence[Made]) -> list[str]:
    """Where the normalization went, and what was chosen for a target."""
    spec, decisions = graph.spec, []
    places = {item.mode: item.contract.normalization.placement for item in made}
    inside = [mode for mode, place in places.items() if place == "graph"]
    left = [mode for mode, place in places.items() if place == "runtime"]
    name = f"the normalization ({spec.kind}, axes {list(spec.axes)})"
    if spec.kind != "none" and inside:
        which = f" ({', '.join(inside)})" if left else ""
        decisions.append(f"{name} stays in the file as float operators{which}.")
    if left:
        decisions.append(
            f"{name} is left to Encoder ({', '.join(left)}): the file ends at the raw embedding, and an integer one is "
            "normalized in exact integer arithmetic."
        )
    if "ethos-u" in request.targets:
        decisions += [
            f"for ethos-u the int8 file takes {item.contract.input.dtype} and gives {item.contract.output_dtype}."
            for item in made
            if item.mode == "int8"
        ]
    return decisions + (_for_older(graph, places) if OLDER in request.targets else [])


def _for_older(graph: FloatGraph, modes: Collection[str]) -> list[str]:
    """What was done for tflite-runtime."""
    kinds, said = {operator.name for operator in read_flatbuffer(graph.flatbuffer).operators}, []
    if DYNAMIC in modes and "FULLY_CONNECTED" in kinds:
        said.append(
            f"for {OLDER} a dense layer's weights share one scale in the dynamic file: its interpreter knows no "
            "other, and the drift is somewhat larger."
        )
    for mode, precision in ((DYNAMIC, DYNAMIC), ("int16x8", INT16)):
        missing = sorted(kinds.intersection(MISSING_IN_OLDER[precision])) if mode in modes else []
        if missing:
            said.append(f"for {OLDER}, which lacks them there, {', '.join(missing)} stay float in the {mode} file.")
    return said


def explain_contradiction(
    request: Request,
    graph: FloatGraph,
    plan: Int8Plan | None,
    made: Sequence[Made],
    files: Sequence[ExportedFile],
    test: Source | None,
) -> list[str]:
    """Where the test images contradict what the calibration images chose for int8; they choose nothing."""
    mine = next((file.drift for file in files if file.mode == "int8"), None)
    if plan is None or test is None or mine is None or mine.sqnr_db is None or not plan.minmax.samples:
        return []
    (int8,) = (item for item in made if item.mode == "int8")
    chosen = replace(plan.choices, wide_equalized=False) != PlanChoices(NO_EQUALIZATION, False, "minmax", {})
    if not chosen and not int8.recipe.corrections:
        return []
    count = min(len(test), _MOST_JUDGING)
    trial = Trial(graph, ReadyImages(test, range(count)), request.threads)
    plain = trial.sqnr(trial.errors(graph.flatbuffer, plan.minmax))
    found = trial.sqnr(trial.errors_of(int8.graph))
    if ranked_db(plain) <= ranked_db(found) + _LOST_DB:
        return []
    return [
        f"WARNING: on {count} test images int8 with minimum and maximum alone is better: {decibels(plain)}, not "
        f"{decibels(found)}. --calibrate-method minmax --no-equalize --correct none undoes what was chosen."
    ]


def explain_alike(request: Request, graph: FloatGraph, plan: Int8Plan | None, test: Source | None) -> list[str]:
    """What is said where calibration images are of fewer kinds than test images, as with those of one class."""
    if plan is None or plan.trial is None or test is None or len(test) < LEAST_IN_FOLDS:
        return []
    others = Trial(graph, ReadyImages(test, range(min(len(test), _LOOKED_AT))), request.threads)
    share = plan.trial.spread / others.spread if others.spread > 0 else 1.0
    if share > _ALIKE:
        return []
    return [
        f"mind the calibration images: their embeddings vary {share:.0%} as much as those of the test images, as with "
        "images of one class. Ranges of them clip others: pass images of all kinds that the encoder will see."
    ]


def explain_fine_tuning(files: Sequence[ExportedFile]) -> list[str]:
    """What test images say of each file whose weights were trained; they choose nothing."""
    return [
        _on_test_images(file.mode, file.drift, file.untuned.drift)
        for file in files
        if file.untuned is not None and file.drift is not None and file.untuned.drift is not None
    ]


def _on_test_images(mode: str, now: Drift, before: Drift) -> str:
    gain = f"on {now.count} test images {gained(before.sqnr_db, now.sqnr_db)}"
    if ranked_db(now.sqnr_db) > ranked_db(before.sqnr_db) - _LOST_DB:
        return f"what fine-tuning did to {mode}: {gain}. The same command without --fine-tune writes the former file."
    return (
        f"WARNING: fine-tuning made {mode} worse: {gain}, although the calibration images that were held out for that "
        "gained. More images, and more like those (--fine-tune-data), may help; or leave --fine-tune out."
    )


def explain_conditioning(found: Sequence[Conditioning], files: Sequence[ExportedFile]) -> tuple[list[str], str]:
    """Which normalizations decide the drift of int8, with the ways out; and the end of a sentence that points there."""
    drift = next((file.drift for file in files if file.mode == "int8"), None)
    if drift is not None and (drift.sqnr_db is None or drift.sqnr_db >= _LITTLE_DRIFT_DB):
        return [], ""
    said = [_ill(item) for item in found if item.decides]
    return said, _CAUSE if said else ""


def _ill(found: Conditioning) -> str:
    by = _DIVISORS[found.kind, found.divisor]
    text = (
        f"WARNING: the normalization of {short_name(found.tensor)} divides by {by}, which comes within "
        f"{found.nearest:.2g} int8 steps of zero ({found.near:.1%} of the divisors on {found.images} images lie within "
        f"{NEAR}). One step ({found.step:.3g}) there moves a normalized value by up to {found.amplified:.3g} times "
        f"their average, and rounding costs {decibels(found.lost_db)} more behind the division than in front of it. "
        "Ways out: "
    )
    firm = (
        f"an epsilon of {_FIRM_STEPS} steps or more ({_FIRM_STEPS * found.step:.2g}) that is added to the divisor, and "
        "training with it"
    )
    if (found.kind, found.divisor) == ("minmax", "input"):
        text += (
            'the maximum of the shifted values as the divisor (MinMaxNormalization(divisor="shifted"); not where a '
            f"global maximum follows, which would be 1 throughout), or {firm}"
        )
    else:
        text += firm
    return (
        f"{text}; or float32, which rounds nothing there. 16-bit activations (-q int16x8) and a layer in float "
        "(--pareto) help as far as the noise of 8-bit weights allows, and the table says how far."
    )


def explain_coupling(coupling: BatchCoupling | None) -> list[str]:
    """Whether the batch matters, and the ways out."""
    if coupling is None:
        return ["the model takes one image at a time, so batch coupling could not be measured."]
    if not coupling.coupled:
        return []
    return [
        f"an image's embedding depends on its batch: in batches of {coupling.batch_size} the same images move by up to "
        f"{coupling.max_abs:.3g} from a batch of one, which is what a device has. Ways out: normalize each sample in "
        "the model and train it so; --normalization frozen; or embed the gallery one image at a time."
    ]


def explain_frozen(outside: float, moved: Drift, lowering: Drift) -> str:
    """What a frozen normalization is compared with, and what freezing costs.

    Args:
        outside: share of the held-out raw values beyond the constants.
        moved: of the frozen float graph from the original.
        lowering: of the float graph before freezing from the original.
    """
    return (
        f"drift of the files is measured against the float graph with the same constants: {outside:.2%} of the "
        f"held-out raw values lie outside them, and freezing alone moves the embeddings from the original's to "
        f"{decibels(moved.sqnr_db)} (the float graph before freezing: {decibels(lowering.sqnr_db)})."
    )


def explain_silent(files: Sequence[ExportedFile]) -> list[str]:
    """Which files make embeddings that say nothing, and whether they are left out of what is recommended."""
    return [
        f"WARNING: of the {file.mode} file's embeddings some say nothing: {file.silent}."
        + (" It is not recommended." if file.silent.mostly else "")
        for file in files
        if file.silent is not None and file.silent.any
    ]
