"""The model card: written with the files, and made of nothing that export.json does not say."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, export
from embedlite.convert.layers import MinMaxNormalization
from embedlite.convert.outcome.card import render_card
from embedlite.convert.results import BatchCoupling, ExportResult, NotMade
from embedlite.runtime.errors import OutputExistsError

from encoders import small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SECTIONS = [
    "What it is",
    "What it takes and gives",
    "Which file to ship",
    "Data",
    "Drift",
    "Latency and runtimes",
    "Limits",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    folder = tmp_path_factory.mktemp("card")
    images = np.random.default_rng(0).integers(0, 256, (40, 24, 24, 3), np.uint8)
    np.save(folder / "calibration.npy", images[:30])
    np.save(folder / "test.npy", images[30:])
    small_encoder([MinMaxNormalization(), layers.Flatten()]).save(folder / "small.keras")
    return export(
        folder / "small.keras",
        quantize=["float32", "int8"],
        calibration_data=folder / "calibration.npy",
        test_data=folder / "test.npy",
        options=ExportOptions(std=(127.5,), mean=(127.5,), card=True, correct=("none",), equalize=False),
    )


def card_of(result: ExportResult) -> str:
    return render_card(result, "small").decode()


def test_the_card_is_written_and_says_what_export_json_says(exported: ExportResult) -> None:
    folder = exported.files[0].path.parent
    card = (folder / "small.card.md").read_text("utf-8")
    value = json.loads((folder / "small.export.json").read_text())
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS
    assert value["source"]["sha256"] in card
    assert "(pixel − 127.5) / 127.5" in card
    assert "24 × 24 × 3, colour order rgb" in card
    assert "Drift was measured on 10 images" in card
    for file in value["files"]:
        low, high = file["intervals"]["sqnr_db"]
        assert f"| `{file['path']}` | {file['drift']['sqnr_db']:.1f} ({low:.1f} to {high:.1f}) |" in card
        assert f"| `{file['path']}` | {file['bytes']:,} | {file['latency_us']:,.0f} |" in card
        for verdict in file["verified"]:
            assert f"{'✓' if verdict['ok'] else '✗'} {verdict['runtime']} {verdict['version']}" in card
    for sentence in value["ship"]:
        assert f"- {sentence}" in card
    for decision in value["decisions"]:
        assert f"- {decision}" in card
    # It is made to be shown: where the files lay is nobody's business.
    assert str(folder) not in card


def test_every_table_has_as_many_cells_in_each_row(exported: ExportResult) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", card_of(exported), re.MULTILINE):
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_what_was_not_measured_is_said(exported: ExportResult) -> None:
    bare = dataclasses.replace(
        exported,
        files=tuple(
            dataclasses.replace(file, drift=None, intervals={}, latency_us=None, verified=()) for file in exported.files
        ),
        measured_on=None,
        calibration=None,
        options={},
        not_made=(NotMade("int16x8", "no | kernel"),),
        not_checked=("tflite-micro",),
        batch_coupling=BatchCoupling(32, True, 0.25, 0.9, 0.8),
    )
    card = card_of(bare)
    assert "Not measured: no images were given" in card
    assert "- None was used here." in card
    assert "| – | not run |" in card
    assert "int16x8 could not be made: no | kernel" in card
    assert "Not run on tflite-micro" in card
    assert "moves it by up to 0.25" in card
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS


def test_a_card_is_kept_unless_it_may_be_replaced(exported: ExportResult, tmp_path: Path) -> None:
    (tmp_path / "small.card.md").write_text("mine")
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8)
    model = exported.files[0].path.parent / "small.keras"
    with pytest.raises(OutputExistsError, match=r"small\.card\.md exists and was kept"):
        export(model, tmp_path, test_data=images, options=ExportOptions(card=True, measure=False))
    assert (tmp_path / "small.card.md").read_text() == "mine"
