"""What an export prints: what to ship first, in lines that fit any terminal; the rest with details."""

import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from embedlite.convert.outcome.recommend import recommend
from embedlite.convert.outcome.table import render_result
from embedlite.convert.results import (
    ExportedFile,
    ExportResult,
    MeasuredOn,
    NormalizationReport,
    NotMade,
    Untuned,
    Verdict,
)
from embedlite.runtime.drift.metrics import Drift
from embedlite.runtime.model.contract import InputOptions

GOOD = Drift(100, 0, 0.9999, 0.999, 0.99, 40.0, 0.1, 0.01, 0.01, 0, 1.0, 0.95, 0.96, 0.99, 0.01, 10)
FLOATS = ("REDUCE_MIN", "SUB", "REDUCE_MAX", "MAXIMUM", "DIV")
RUNS = {"ai-edge-litert": "2.3.0", "tflite-runtime": "2.14.0", "tflite-micro": "1", "ethos-u-vela": "5.2"}
WARNED = "WARNING: on 64 test images int8 with minimum and maximum alone is better: 40.1 dB, not 38.9 dB."
DECIDED = "ranges are minimum and maximum: of 11 sets of ranges that were tried none was clearly better on 200 images."


def exported(mode: str, *, fails: bool = False, dominated: bool | None = None) -> ExportedFile:
    """A file of an encoder with a long name."""
    verdicts = [
        Verdict(
            name,
            version,
            not (fails and name == "tflite-runtime"),
            "answers zeros" if fails and name == "tflite-runtime" else "",
            arena_bytes=33_760 if name == "tflite-micro" else None,
            npu_operators=20 if name == "ethos-u-vela" else None,
            cpu_operators={"DIV": 7} if name == "ethos-u-vela" else None,
        )
        for name, version in RUNS.items()
    ]
    contract: dict[str, Any] = {
        "input": asdict(InputOptions().for_shape((32, 32, 1))),
        "origins": {},
        "normalization": {"kind": "minmax", "placement": "graph"},
        "half_precision": {"sqnr_db": 38.25} if mode == "float32" else None,
    }
    intervals = {"sqnr_db": (39.5, 40.5), "knn_overlap_cross": (0.951, 0.969)}
    path = Path(f"face_encoder_v2.{mode}.tflite")
    figures = (GOOD, intervals, 1234.0, 1200.0, 1300.0, dominated)
    return ExportedFile(mode, path, 2_578_316, "0" * 64, contract, FLOATS, *figures, tuple(verdicts))


def result(*files: ExportedFile, **more: Any) -> ExportResult:
    """An export of these files."""
    found = recommend(files, {"name": "ai-edge-litert"})
    on = MeasuredOn({"cpu": "A processor"}, {"name": "ai-edge-litert", "version": "2.3.0"}, 2)
    whole: dict[str, Any] = {
        "source": {"path": "m.keras", "sha256": "0" * 64},
        "options": {},
        "normalization": NormalizationReport("minmax", "auto"),
        "seconds": {"loading the model": 1.25, "converting": 2.5},
        "files": files,
        "decisions": (DECIDED, WARNED),
        "ship": found.ship,
        "why": found.why,
        "measured_on": on,
        "recipe": {},
    }
    whole |= dict.fromkeys(("batch_coupling", "calibration", "search", "limits", "fine_tuning"))
    empty = ("conditioning", "missed", "not_checked", "failed_targets", "not_made", "failed_modes", "skipped")
    return ExportResult(**{**whole, **dict.fromkeys(empty, ()), **more})


FILES = (exported("float32"), exported("dynamic", fails=True), exported("int8"), exported("int16x8"))


@pytest.mark.parametrize("width", [40, 80, 100, 120])
@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("compared", [False, True])
def test_it_fits_and_says_first_what_to_ship(width: int, details: bool, compared: bool) -> None:
    figures = {field.name: getattr(FILES[2], field.name) for field in fields(Untuned)}
    untuned = Untuned(**figures | {"drift": replace(GOOD, sqnr_db=37.5)})
    files = [replace(file, untuned=untuned if file.mode == "int8" else None) for file in FILES]
    files = [replace(file, dominated=file.mode == "int8") for file in files] if compared else files
    lines = render_result(result(*files, not_made=(NotMade("float16", "why"),)), width, details=details).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("CPU: ship face_encoder_v2.")
    text = " ".join(" ".join(lines).split())
    for file in files:
        assert file.path.name in text
    assert re.search(r"in half precision .*?38\.2", text)
    assert re.search(r"int8\.tflite .* not fine-tuned \(not written\) .*?37\.5.* face_encoder_v2\.int16x8", text)
    assert "dynamic on tflite-runtime 2.14.0: answers zeros" in text
    assert "float16 was not made: why" in text
    assert WARNED in text
    assert (DECIDED in text) == details
    assert ("--input-type int8 --output-type int8 leaves it to Encoder" in text) == details
    assert ("stages: loading the model 1.2 s, converting 2.5 s" in text) == details
    assert ("1 decision was made for you: -v shows them" in text) == (not details)


def test_columns_leave_by_their_importance() -> None:
    heads = {
        width: next(
            line.split("  ")
            for line in render_result(result(*FILES), width, details=False).splitlines()
            if line.startswith("file ")
        )
        for width in (80, 100, 120, 200)
    }
    titles = {width: [title.strip() for title in head if title.strip()] for width, head in heads.items()}
    assert titles[200][1:] == [
        *("mode", "bytes", "smaller", "SQNR dB", "cosine p1", "neighbours", "µs"),
        *("litert", "tflite-runtime", "micro", "ethos-u"),
    ]
    assert all(set(titles[less]) < set(titles[more]) for less, more in ((80, 100), (100, 120), (120, 200)))
    assert set(titles[80]) >= {"file", "SQNR dB", "neighbours", "µs"}


def test_a_failure_stands_with_what_to_ship() -> None:
    text = render_result(result(*FILES, failed_targets=("micro does not run it",)), 100, details=False)
    first, _ = text.split("\n\n", maxsplit=1)
    assert first.splitlines()[-1] == "FAILED: micro does not run it"
    assert not re.search(r"\x1b|\ue000", text)
