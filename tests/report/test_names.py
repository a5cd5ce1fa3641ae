"""Reports on encoders of other arrays say "input", and leave the user's own names alone."""

import json

import numpy as np
import pytest

from embedlite.report.outputs import render_junit
from embedlite.report.page import render_page
from embedlite.report.page.map import project
from embedlite.runtime.drift import measure
from embedlite.runtime.drift.labelled.parts import Grouping
from embedlite.runtime.drift.report import Description, DriftReport, build_report
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.drift.text import render_text
from embedlite.runtime.errors import DataError
from embedlite.runtime.model.contract import InputContract
from embedlite.runtime.model.words import reworded, wording

from drift_pairs import REFERENCE, ROWS, SIZE

IDS = [f"an image {row} of a photo" for row in range(ROWS)]
CLASSES = ("image", "photo")


def made() -> DriftReport:
    """A report on windows of a sensor, one class of which moved."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(ROWS, SIZE))
    labels = np.arange(ROWS) % 2
    candidate = reference + np.where(labels == 0, 0.01, 0.4)[:, None] * rng.normal(size=reference.shape)
    contract = {"input": InputContract((16, 6), kind="array").to_json(), "origins": {}}
    side = {"path": "my photo files/image net.tflite", "kind": "tflite", "sha256": "ab" * 32, "contract": contract}
    description = Description(
        side, REFERENCE, {"path": None}, IDS, {}, labels, None, [Grouping("class", CLASSES, labels)]
    )
    measurement = measure(Rows(candidate), Rows(reference), 5)
    found = build_report(measurement, description, {})
    page = render_page(found, project(measurement, IDS, np.asarray(CLASSES)[labels])).decode()
    for text in (render_text(found, 400, details=True), page, render_junit(found).decode()):
        assert "my photo files/image net.tflite" in text
    for text in (render_text(found, 400, details=True), page):
        assert found.worst[0].id in text
        assert f"{ROWS} inputs" in text
        assert " images" not in text
    assert "class photo (30 inputs)" in render_text(found, 400, details=False)
    assert ">photo<" in page
    return found


def test_class_and_file_names_are_not_sentences() -> None:
    found = made()
    again = DriftReport.from_json(json.loads(json.dumps(found.to_json())))
    assert again.noun == "input"
    assert render_text(again, 400, details=True) == render_text(found, 400, details=True)
    alone = measure(Rows(np.ones((1, SIZE))), Rows(np.ones((1, SIZE))), None)
    contract = {"contract": {"input": InputContract((16, 6), kind="array").to_json(), "origins": {}}}
    one = build_report(alone, Description({"path": "a", **contract}, REFERENCE, {}, ["x"]), {})
    assert one.doubt == "a single input was compared, and whether the candidate tells inputs apart takes several"
    assert one.judge({}).doubt == one.doubt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("64 images of my image files/a", "64 inputs of my image files/a"),
        ("An image's embedding; the layer 'an image head'", "An input's embedding; the layer 'an image head'"),
        ("image 'photo 3.npy' of image nets, a photo", "input 'photo 3.npy' of image nets, an input"),
    ],
)
def test_what_is_quoted_or_named_stays(text: str, said: str) -> None:
    names = ("my image files/a", "image nets")
    assert reworded(text, names) == said
    with pytest.raises(DataError) as caught, wording(lambda: False, *names):
        raise DataError(text)
    assert str(caught.value) == reworded(text, names)
    with pytest.raises(DataError, match=r"^64 images$"), wording(lambda: True):
        raise DataError("64 images")
