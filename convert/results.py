"""What an export answers: the content of export.json as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..calibration import Assessment
from ..runtime.drift import Drift
from ..runtime.drift.intervals import Interval
from ..runtime.drift.silent import Silent
from ..runtime.drift.wording import decibels
from ..runtime.images.source import Skipped
from ..runtime.model.words import names_of, reworded

SCHEMA = 1


DEVICE = "device"
"""Runtime of a verdict that was read from a device's own figures."""


@dataclass(frozen=True)
class Verdict:
    """One interpreter's answer about one file.

    Attributes:
        runtime: ``ai-edge-litert``, ``tflite-runtime``, ``tflite-micro`` or ``ethos-u-vela``; :data:`DEVICE` for what
            a device said of itself.
        version: its version.
        ok: whether it runs the file and agrees with the float graph within the mode's bounds.
        detail: what was found, in a few words.
        arena_bytes: memory that TFLite Micro needs for the file; None for the others.
        npu_operators: operators that the compiler placed on the NPU; None for interpreters.
        cpu_operators: name to count of those it left to the CPU; None for interpreters.
    """

    runtime: str
    version: str
    ok: bool
    detail: str
    arena_bytes: int | None = None
    npu_operators: int | None = None
    cpu_operators: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Untuned:
    """What a fine-tuned file would be without, measured in the same way; it is not written.

    Attributes:
        bytes: its size.
        sha256: of the whole file, as the same command without fine-tuning writes it.
        drift: like that of :class:`ExportedFile`, and so are the others.
        intervals: of its metrics.
        latency_us: here; None where latencies are a device's, which never had this file.
        latency_low_us: where the machine was quiet.
        latency_high_us: where it was busy.
        verified: one verdict per interpreter that was tried.
    """

    bytes: int
    sha256: str
    drift: Drift | None
    intervals: Mapping[str, Interval]
    latency_us: float | None
    latency_low_us: float | None
    latency_high_us: float | None
    verified: tuple[Verdict, ...]


@dataclass(frozen=True)
class ExportedFile:
    """One written file.

    Attributes:
        mode: ``float32``, ``float16``, ``dynamic``, ``int8`` or ``int16x8``; ``mixed``, ``mixed1`` ... where a search
            left layers of an int8 file in another precision.
        path: where it is.
        bytes: its size.
        sha256: of the whole file.
        contract: the content of its ``embedlite.json``.
        float_operators: of a file with integer activations, the operators that still compute in float, once each.
        drift: against the Keras model on images that set no ranges; None without such images.
        intervals: 95 % intervals of those metrics that have one, by name.
        latency_us: median microseconds per inference, on what :attr:`ExportResult.measured_on` says; None if it was not
            measured, or the file does not run there.
        latency_low_us: what a part of the rounds gave that gave least.
        latency_high_us: what a part gave that gave most; far apart on a busy machine only.
        dominated: whether another file that runs wherever this one does is as good in drift, latency and size and
            better in one; None if that was not asked.
        verified: one verdict per interpreter that was tried.
        silent: which embeddings of the images that drift is measured on say nothing; None without such images.
        untuned: the same file without fine-tuning; None of one whose weights are the model's.
    """

    mode: str
    path: Path
    bytes: int
    sha256: str
    contract: Mapping[str, Any]
    float_operators: tuple[str, ...]
    drift: Drift | None
    intervals: Mapping[str, Interval]
    latency_us: float | None
    latency_low_us: float | None
    latency_high_us: float | None
    dominated: bool | None
    verified: tuple[Verdict, ...]
    silent: Silent | None = None
    untuned: Untuned | None = None

    @property
    def sqnr_text(self) -> str:
        """Its SQNR in a sentence."""
        return "drift not measured" if self.drift is None else decibels(self.drift.sqnr_db)

    @property
    def runs(self) -> bool:
        """Whether the first interpreter that was tried runs it, and the device that was measured, if one was."""
        return all(verdict.ok for place, verdict in enumerate(self.verified) if place == 0 or verdict.runtime == DEVICE)


@dataclass(frozen=True)
class TriedFile:
    """One file that a search tried; it was not corrected.

    Attributes:
        precision: of the layers that are not int8, by the tensor that the layer's first operator writes.
        latency_us: on the target.
        sqnr_db: on the calibration images, against the float graph; None if they are identical.
    """

    precision: Mapping[str, str]
    latency_us: float
    sqnr_db: float | None


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer does to drift and latency: the int8 file, uncorrected, with this layer alone in another precision.

    Attributes:
        layer: the tensor that its first operator writes.
        operators: kinds of its operators.
        precision: ``float``, ``dynamic`` (8-bit weights between float activations) or ``int16`` (16-bit activations).
        sqnr_db: on the calibration images.
        gained_db: over the int8 file.
        latency_us: on the target.
        added_us: to the int8 file's.
    """

    layer: str
    operators: tuple[str, ...]
    precision: str
    sqnr_db: float | None
    gained_db: float | None
    latency_us: float
    added_us: float


@dataclass(frozen=True)
class SearchReport:
    """What a search for layers that should not be int8 tried.

    Attributes:
        target: what it was made for.
        runtime: the package that stood for it.
        threads: processors that one inference might use.
        images: calibration images that judged, those first that set no ranges.
        seconds: how long it took.
        ended: ``finished``, ``time budget`` or ``interrupted``.
        tried: every file that runs on the target, the int8 file first.
        sensitivity: each layer alone in each precision, the largest gain first.
    """

    target: str
    runtime: str
    threads: int
    images: int
    seconds: float
    ended: str
    tried: tuple[TriedFile, ...]
    sensitivity: tuple[LayerSensitivity, ...]


@dataclass(frozen=True)
class MeasuredOn:
    """What the latencies were measured on.

    Attributes:
        device: its description, as in a drift report.
        runtime: name and version of what ran the files.
        threads: processors that one inference might use.
    """

    device: Mapping[str, str]
    runtime: Mapping[str, str | None]
    threads: int


@dataclass(frozen=True)
class NotMade:
    """A mode that was asked for and has no file.

    Attributes:
        mode: its name.
        reason: why not, one sentence.
    """

    mode: str
    reason: str


@dataclass(frozen=True)
class NormalizationReport:
    """What became of the normalization.

    Attributes:
        kind: of the one that ends the encoder: ``minmax``, ``l2`` or ``none``.
        asked: what was asked for: ``auto``, ``graph``, ``runtime`` or ``frozen``.
        outside: for ``frozen``, the share of held-out raw values beyond the constants; else None.
        from_original: for ``frozen``, the drift of the frozen float encoder from the original on held-out images.
    """

    kind: str
    asked: str
    outside: float | None = None
    from_original: Drift | None = None


@dataclass(frozen=True)
class Conditioning:
    """What a normalization makes of the rounding of its input, measured on calibration images.

    Attributes:
        tensor: the raw tensor that it normalizes.
        kind: ``minmax`` or ``l2``.
        divisor: of ``minmax``: the maximum of the ``shifted`` values, or of the ``input``.
        images: how many were looked at.
        step: the step size that int8 has in the raw tensor.
        nearest: how near a divisor comes to zero, in these steps.
        near: share of the divisors within :data:`NEAR` steps of zero.
        amplified: how far one step in the raw tensor moves a normalized value at most, by their root mean square;
            of divisors that are exactly zero nothing is known.
        lost_db: how much nearer to its rounded self the raw tensor is than the normalized one, in dB; None if rounding
            changes nothing.
        near_noise: share of the normalized values' noise that divisors within :data:`NEAR` steps of zero make.
    """

    tensor: str
    kind: str
    divisor: str
    images: int
    step: float
    nearest: float
    near: float
    amplified: float
    lost_db: float | None
    near_noise: float

    @property
    def decides(self) -> bool:
        """Whether divisors near zero make most of what int8 costs."""
        return self.lost_db is not None and self.lost_db >= MUCH_LOST_DB and self.near_noise >= 0.5


NEAR = 5
"""Steps within which a divisor is near zero: a rounding there moves what is divided by a tenth and more."""

MUCH_LOST_DB = 10.0
"""Noise ten times as large behind a normalization as in front of it."""


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning did to one file.

    Attributes:
        mode: its mode.
        kept: whether its weights are in the file; if not, the file is as it would be without.
        float_end: whether more of its end is computed in float than without, before the training.
        centred: whether the values of its attentions were centred before the training.
        balanced: whether its channels were balanced before the training.
        reranged: whether its activations were given other ranges before the training.
        trained: whether the training brought more.
        images: how many were trained on.
        held_out: calibration images that judged the file, none of which was trained on.
        steps: of the training.
        resumed: how many of them an earlier run had made.
        seconds: how long this run took.
        rate: steps of a weight that one step of the training moves it by, at most.
        seed: of what was drawn.
        ended: ``finished``, ``time`` (before all planned steps were made), ``building`` (no time was left to
            build the first), ``interrupted`` or ``failed``.
        failures: how often the loss was not a number and the training stepped back to a lower rate.
        sqnr_before: of the file on the held-out images, against the float graph.
        sqnr_after: likewise, of what was kept.
        float_from_original: SQNR of the float graph with the new weights; None where they were not kept.
        sha256: of the graph that the file was made from.
    """

    mode: str
    kept: bool
    float_end: bool
    centred: bool
    balanced: bool
    reranged: bool
    trained: bool
    images: int
    held_out: int
    steps: int
    resumed: int
    seconds: float
    rate: float
    seed: int
    ended: str
    failures: int
    sqnr_before: float | None
    sqnr_after: float | None
    float_from_original: float | None
    sha256: str

    @property
    def weights_changed(self) -> bool:
        """Whether the weights are others in float, and not only the ranges or what is computed in float."""
        return self.kept and (self.centred or self.balanced or self.trained)


@dataclass(frozen=True)
class ExportResult:
    """A finished export.

    Attributes:
        source: path and SHA-256 of the model.
        options: the options that were given, by name; arrays and the like are named by their type only.
        normalization: where it was placed, and for ``frozen`` what that costs; see :class:`NormalizationReport`.
        conditioning: of each normalization that is computed from a tensor with int8 ranges; empty without images.
        batch_coupling: how far the same images move between batches; None if that could not be measured.
        calibration: whether the calibration images are enough; None where no ranges were needed.
        fine_tuning: what it did to each file that it trained.
        measured_on: what the latencies were measured on; None where there are none.
        search: what was tried for layers that should not be int8; None if nothing was.
        limits: what ``max_drift`` asked for, by metric; None if it did not.
        missed: why no file keeps these limits, one sentence each; empty if one does.
        recipe: what the same files can be made from again.
        not_checked: runtimes that are not installed here, so that no file was run on them.
        failed_targets: one sentence for each file that a required target does not run; their files end in
            ``.rejected``.
        not_made: modes that could not be made; they cost the others nothing.
        failed_modes: one sentence for each mode that was named and has no file, or one that does not run.
        seconds: how long each stage took, by its name.
        skipped: images that ``skip_unreadable`` left out, each with the reason.
        files: the written files, float32 first.
        decisions: what was decided on the user's behalf, one sentence each.
        ship: which file to ship where, one sentence each.
        why: what else there is to know of these files and of those that were not chosen.
        schema: the format of export.json.
    """

    source: Mapping[str, Any]
    options: Mapping[str, Any]
    normalization: NormalizationReport
    conditioning: tuple[Conditioning, ...]
    batch_coupling: BatchCoupling | None
    calibration: Assessment | None
    fine_tuning: tuple[FineTuning, ...]
    measured_on: MeasuredOn | None
    search: SearchReport | None
    limits: Mapping[str, float] | None
    missed: tuple[str, ...]
    recipe: Mapping[str, Any]
    not_checked: tuple[str, ...]
    failed_targets: tuple[str, ...]
    not_made: tuple[NotMade, ...]
    failed_modes: tuple[str, ...]
    seconds: Mapping[str, float]
    skipped: tuple[Skipped, ...]
    files: tuple[ExportedFile, ...]
    decisions: tuple[str, ...]
    ship: tuple[str, ...]
    why: tuple[str, ...]
    schema: int = SCHEMA

    @property
    def names(self) -> tuple[str, ...]:
        """Files and folders that the user named, and what was made of them."""
        return names_of(self.source["path"], *self.options.values(), *(file.path for file in self.files))

    def worded(self, *, is_image: bool) -> ExportResult:
        """The result; of an encoder of other arrays with nothing said of images in its sentences."""
        if is_image:
            return self
        names = self.names

        def suited(text: str) -> str:
            return reworded(text, names)

        fields = ("missed", "failed_targets", "failed_modes", "decisions", "ship", "why")
        said: dict[str, Any] = {name: tuple(map(suited, getattr(self, name))) for name in fields}
        found = self.calibration
        return replace(
            self,
            **said,
            calibration=None if found is None else replace(found, reason=suited(found.reason)),
            not_made=tuple(replace(item, reason=suited(item.reason)) for item in self.not_made),
            files=tuple(
                replace(file, verified=tuple(replace(one, detail=suited(one.detail)) for one in file.verified))
                for file in self.files
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object that scripts rely on; paths are relative to export.json."""
        value = asdict(self)
        for file in value["files"]:
            file["path"] = Path(file["path"]).name
        return {"schema": self.schema, **{key: item for key, item in value.items() if key != "schema"}}


@dataclass(frozen=True)
class BatchCoupling:
    """How far the same images move between a batch of one and a larger batch.

    Attributes:
        batch_size: images in the larger batch.
        coupled: whether they move by more than rounding.
        max_abs: largest difference of a value.
        cosine_mean: mean cosine of the rows; None if a row is zero throughout.
        cosine_min: smallest cosine.
    """

    batch_size: int
    coupled: bool
    max_abs: float
    cosine_mean: float | None
    cosine_min: float | None
