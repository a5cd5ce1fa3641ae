"""The model card of an export: what the files are, take and give, on what they were measured, and where they end.

Everything in it is in export.json. Sections as in Mitchell et al., Model Cards for Model Reporting, 2019, as far as an
export knows of them; what only the people who trained the model know is left for them, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.drift.wording import IDENTICAL, UNMEASURED, decibels, gained
from ...runtime.model.words import word
from ...runtime.version import __version__
from ..results import ExportedFile, ExportResult, FineTuning

_METRICS = ("sqnr_db", "cosine_p1", "knn_overlap_cross")
_PLACES = {
    "graph": "computed in the file",
    "runtime": "left to `embedlite.runtime.Encoder`; the file itself ends at the raw embedding",
    "frozen": "with constants from the calibration images in place of each image's own",
}


def render_card(result: ExportResult, stem: str) -> bytes:
    """The card as Markdown, UTF-8.

    Args:
        result: of the export.
        stem: what the files' names begin with.
    """
    files = result.files
    contract = files[0].contract if files else {}
    sections = {
        "What it is": _what(result, contract),
        "What it takes and gives": _contract(files) if files else ["No file was made."],
        "Which file to ship": [f"- {sentence}" for sentence in (*result.ship, *result.why)]
        or ["Nothing is recommended."],
        "Data": _data(result),
        "Drift": _drift(files),
        "Latency and runtimes": _latency(result),
        "Limits": _limits(result),
    }
    lines = [f"# Model card: {stem}", ""]
    for title, text in sections.items():
        lines += [f"## {title}", "", *text, ""]
    lines += [f"Made by embedlite {__version__} from {stem}.export.json, which has every figure.", ""]
    is_image = contract.get("input", {}).get("kind", "image") == "image"
    return word("\n".join(lines), result.names, is_image=is_image).encode()


def _what(result: ExportResult, contract: Mapping[str, Any]) -> list[str]:
    source = Path(str(result.source["path"])).name
    digest = result.source["sha256"]
    made = f"`{source}`" + ("" if digest is None else f" (SHA-256 `{digest}`)")
    size = " × ".join(map(str, contract.get("output_shape", ())))
    changed = [
        line
        for tuned in result.fine_tuning
        if tuned.kept
        for line in (
            "",
            f"The {tuned.mode} file was fine-tuned: {_changed(tuned)}{_apart(tuned)}{_brought(result, tuned.mode)}",
        )
    ]
    return [
        f"An encoder: images in, embeddings of {size or 'unknown'} values out. Exported from {made} to TensorFlow "
        "Lite.",
        *changed,
    ]


def _changed(tuned: FineTuning) -> str:
    trained = f"weights were trained further on {tuned.images} unlabelled images to answer as the model does."
    changes = {
        "more of the end is computed in float": tuned.float_end,
        "the values of its attentions were centred, which changes nothing in float": tuned.centred,
        "channels were given other factors, which change nothing in float and suit 8 bits better": tuned.balanced,
        "activations were given other ranges": tuned.reranged,
        trained: tuned.trained,
    }
    text = ", and its ".join(change for change, is_so in changes.items() if is_so)
    return text if tuned.trained else f"{text}."


def _apart(tuned: FineTuning) -> str:
    if not tuned.weights_changed:
        return ""
    return f" In float its weights are {decibels(tuned.float_from_original)} from the model's."


def _brought(result: ExportResult, mode: str) -> str:
    """What test images say of it, the file as it would be without beside."""
    drifts = [
        (file.untuned.drift, file.drift) for file in result.files if file.mode == mode and file.untuned is not None
    ]
    return "".join(
        f" On {after.count} test images it is {gained(before.sqnr_db, after.sqnr_db)}, with the model's weights first."
        for before, after in drifts
        if before is not None and after is not None
    )


def _contract(files: Sequence[ExportedFile]) -> list[str]:
    contract = files[0].contract
    given = contract["input"]
    placed = {file.path.name: file.contract["normalization"] for file in files}
    texts = {name: _placed(spec) for name, spec in placed.items()}
    alike = len(set(texts.values())) == 1
    placement = next(iter(texts.values())) if alike else "; ".join(f"`{name}`: {text}" for name, text in texts.items())
    shape, scaled = " × ".join(map(str, given["shape"])), f"{_values(given['mean'])}) / {_values(given['std'])}"
    image = {
        "image": f"{shape}, colour order {given.get('color_order')}",
        "values": f"(pixel − {scaled}, pixels being 0 to 255",
        "resampler": given.get("resampler"),
    }
    facts = {
        **(image if given["kind"] == "image" else {"input": shape, "values": f"(value − {scaled}"}),
        **{
            name.replace("_", " "): str(given[name])
            for name in ("fit", "jpeg_decoder", "exif", "gray")
            if given.get(name) is not None
        },
        "embedding": " × ".join(map(str, contract["output_shape"])),
        "normalization": placement,
    }
    return [
        *_table(("part", "contract"), list(facts.items())),
        "",
        "Vectors are comparable only with those of images that were prepared in the same way.",
    ]


def _placed(spec: Mapping[str, Any]) -> str:
    return "none" if spec["kind"] == "none" else f"{spec['kind']}, {_PLACES[spec['placement']]}"


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _data(result: ExportResult) -> list[str]:
    named = {"calibration_data": "Calibration", "test_data": "Test"}
    lines = [
        f"- {title}: `{Path(str(result.options[name])).name}`"
        for name, title in named.items()
        if result.options.get(name)
    ]
    assessed = result.calibration
    if assessed is not None:
        lines.append(f"- Calibration images: {assessed.samples}. Verdict: {assessed.verdict}: {assessed.reason}")
    counts = {file.drift.count for file in result.files if file.drift is not None}
    lines += [f"- Drift was measured on {count} images that set no ranges." for count in sorted(counts)]
    if result.skipped:
        lines.append(f"- Left out as unreadable: {len(result.skipped)} images.")
    return [
        *(lines or ["- None was used here."]),
        "- What the encoder was trained on, export.json does not say: add it here.",
    ]


def _drift(files: Sequence[ExportedFile]) -> list[str]:
    measured = [file for file in files if file.drift is not None]
    if not measured:
        return ["Not measured: no images were given to measure it on (`--test-data`)."]
    rows = [
        (
            f"`{file.path.name}`",
            *(_figure(name, getattr(file.drift, name), file.intervals.get(name)) for name in _METRICS),
        )
        for file in measured
    ]
    return [
        "Against the original model, with 95 % intervals.",
        "",
        *_table(
            ("file", "signal to noise, dB", "1st percentile of the cosine", "neighbours kept, float gallery"), rows
        ),
    ]


def _figure(name: str, value: float | None, interval: tuple[float, float] | None) -> str:
    def text(number: float) -> str:
        return {"sqnr_db": decibels(number, unit=""), "cosine_p1": f"{number:.5f}"}.get(name, f"{number:.1%}")

    if value is None:
        return IDENTICAL if name == "sqnr_db" else UNMEASURED
    return text(value) + ("" if interval is None else f" ({text(interval[0])} to {text(interval[1])})")


def _latency(result: ExportResult) -> list[str]:
    rows = [
        (
            f"`{file.path.name}`",
            f"{file.bytes:,}",
            UNMEASURED if file.latency_us is None else f"{file.latency_us:,.0f}",
            ", ".join(_verdict(verdict.runtime, verdict.version, verdict.ok) for verdict in file.verified) or "not run",
        )
        for file in result.files
    ]
    on = result.measured_on
    where = (
        []
        if on is None
        else [
            f"Latency on {on.device.get('cpu') or 'an unknown processor'} ({on.device.get('machine', 'unknown')}), "
            f"{on.runtime['name']} {on.runtime['version']}, {on.threads} threads.",
            "",
        ]
    )
    return [*where, *_table(("file", "bytes", "µs per image", "runs on"), rows)]


def _verdict(runtime: str, version: str, ok: bool) -> str:
    return f"{'✓' if ok else '✗'} {runtime} {version}".rstrip()


def _limits(result: ExportResult) -> list[str]:
    lines = [*result.missed, *result.failed_targets, *result.failed_modes]
    lines += [f"{entry.mode} could not be made: {entry.reason}" for entry in result.not_made]
    if result.not_checked:
        lines.append(f"Not run on {', '.join(result.not_checked)}, which were not installed.")
    coupling = result.batch_coupling
    if coupling is not None and coupling.coupled:
        lines.append(
            f"An image's embedding depends on the other images of its batch: in batches of {coupling.batch_size} the "
            f"original moves it by up to {coupling.max_abs:.3g}; these files have batches of one."
        )
    if result.normalization.outside is not None:
        lines.append(f"{result.normalization.outside:.2%} of held-out raw values lie beyond the frozen constants.")
    lines += [
        "The drift says how far the vectors moved on these images, and nothing of how good the original is.",
        "Intended use, what it was not made for, and whom it may fail, export.json does not know: add them here.",
    ]
    decided = [f"- {decision}" for decision in result.decisions]
    return [*(f"- {line}" for line in lines), *(["", "Decided by the export:", "", *decided] if decided else [])]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in cells)]
