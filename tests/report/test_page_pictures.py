"""The pages in Chromium: nothing lies on anything else or sticks out, and parts of the map can be shown alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedlite.report.command import drift_report
from embedlite.report.page import render_comparison, render_page
from embedlite.report.page.map import COLOURS, draw_map, project
from embedlite.report.page.pictures import small_images
from embedlite.report.several.choose import Candidate, Latency
from embedlite.report.several.comparison import Comparison
from embedlite.runtime.drift import measure
from embedlite.runtime.drift.gates import DEFAULT_GATES
from embedlite.runtime.drift.labelled.parts import Grouping
from embedlite.runtime.drift.report import Description, DriftReport, build_report
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.contract import InputContract

from browser import Page, assert_text_stands_out, open_browser
from tools import require

WIDTHS = (390, 800, 1400)
ROWS, CLASSES = 120, 14


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(require("chromium"), tmp_path_factory.mktemp("chromium")) as page:
        yield page


def vectors(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidate, reference and class of rows; the first classes have more rows than the last ones."""
    rng = np.random.default_rng(0)
    of = np.sort(rng.integers(0, CLASSES, ROWS) * rng.integers(0, 2, ROWS))
    reference = (rng.normal(size=(CLASSES, 8))[of] + rng.normal(size=(ROWS, 8)) / 4).astype(np.float32)
    return reference + noise * rng.normal(size=reference.shape).astype(np.float32), reference, of


def made(noise: float = 0.05) -> tuple[DriftReport, dict]:
    """A labelled report with its map and an image a row."""
    candidate, reference, of = vectors(noise)
    names = [f"photos/{row:04}.png" for row in range(ROWS)]
    facts = {"path": "a/path/to/an_encoder.int8.tflite", "kind": "stored"}
    grouping = Grouping("class", tuple(f"class {number}" for number in range(CLASSES)), of)
    described = Description(facts, facts, {"path": None}, names, labels=of, groupings=(grouping,))
    measurement = measure(Rows(candidate), Rows(reference), 10)
    report = build_report(measurement, described, DEFAULT_GATES)
    projection = project(measurement, names, np.asarray(grouping.names)[of])
    assert projection is not None
    pixels = np.random.default_rng(1).integers(0, 256, (ROWS, 20, 24, 3), np.uint8)
    opened = open_source(pixels, InputContract((20, 24, 3)))
    named = Source("images", names, opened.load, lambda _: b"", opened.contract, pixels=True)
    projection["images"] = small_images(named, projection["ids"])
    return report, projection


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one candidate, of several, and of a gallery."""
    folder = tmp_path_factory.mktemp("pages")
    report, projection = made()
    other, drawn = made(0.2)
    candidates = [
        Candidate("int8.tflite", "int8.tflite", report, None, 698_130, Latency(204.0, 200.0, 230.0, "A processor")),
        Candidate(
            "dynamic.tflite", "dynamic.tflite", other, None, 683_355, Latency(202.0, 200.0, 230.0, "A processor")
        ),
        Candidate("int16x8.tflite", "int16x8.tflite", report, None, 702_583, None),
    ]
    pictures = [(projection, {}), (drawn, {}), (projection, {})]
    contents = {
        "one": render_page(report, projection),
        "several": render_comparison(Comparison.of(candidates, []), pictures),
    }
    write_gallery(folder)
    for name, content in contents.items():
        (folder / f"{name}.html").write_bytes(content)
    return {name: folder / f"{name}.html" for name in (*contents, "gallery")}


def write_gallery(folder: Path) -> None:
    """The page about stored vectors, by the command."""
    candidate, reference, of = vectors(0.05)
    for name, rows in (("old.npz", reference), ("new.npz", candidate)):
        ids, labels = np.arange(ROWS).astype(str), of.astype(str)
        np.savez(folder / name, embeddings=rows, ids=ids, labels=labels, model_sha256=name[:1] * 64)
    stored = ["--gallery", str(folder / "old.npz"), "--candidate-vectors", str(folder / "new.npz"), "--quiet"]
    drift_report.main([*stored, "--html", str(folder / "gallery.html")], "drift-report", standalone_mode=False)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "several", "gallery"])
def test_nothing_lies_on_anything_else_or_sticks_out(
    pages: dict[str, Path], browser: Page, name: str, width: int
) -> None:
    browser.open(pages[name], width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('body *:not(svg *)')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width > 0 && !e.closest('.share') && (box.right > innerWidth + 0.5 || box.left < -0.5)
    }).map(e => e.outerHTML.slice(0, 80))"""
    assert browser.evaluate(outside) == []
    # Boxes of letters as tall as small letters; lines of one text stand below each other.
    overlapping = """(() => {
        const boxes = [];
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const node = walk.currentNode, text = node.textContent.trim();
            if (!text || node.parentElement.closest('style, title')) continue;
            const range = document.createRange();
            range.selectNodeContents(node);
            for (const box of range.getClientRects())
                if (box.width > 1 && box.height > 1) boxes.push([text, box]);
        }
        return boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([_, b]) => {
            const room = 0.3 * Math.min(a.height, b.height);
            return a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - room && b.top < a.bottom - room;
        }).map(([other]) => `${name} | ${other}`));
    })()"""
    assert browser.evaluate(overlapping) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_gallery_and_the_filters_are_legible(pages: dict[str, Path], browser: Page, dark: bool) -> None:
    for name in ("gallery", "one"):
        browser.open(pages[name], 800, dark=dark)
        assert_text_stands_out(browser, "h1, h2, p, th, td, small, .filters label, .filters .count")


def test_a_class_or_the_worst_can_be_shown_alone(pages: dict[str, Path], browser: Page) -> None:
    browser.open(pages["one"], 800)
    shown = "[...document.querySelectorAll('#map .row')].filter(e => getComputedStyle(e).display !== 'none')"
    labels = browser.evaluate("[...document.querySelectorAll('#map .filters label')].map(e => e.innerText)")
    assert labels[0].split() == ["all", str(ROWS)]
    assert [label.rsplit(maxsplit=1)[0] for label in labels[-2:]] == [f"{CLASSES - COLOURS} other classes", "worst"]
    assert browser.evaluate(f"{shown}.length") == ROWS
    colours = set()
    for place, label in enumerate(labels[1:], 1):
        browser.evaluate(f"document.querySelectorAll('#map .filters label')[{place}].click()")
        assert browser.evaluate(f"{shown}.length") == int(label.split()[-1])
        colours.add(browser.evaluate(f"getComputedStyle({shown}[0].querySelector('.reference')).fill"))
        name = label.rsplit(maxsplit=1)[0]
        titles = browser.evaluate(f"{shown}.map(e => e.querySelector('title').textContent)")
        assert not name.startswith("class") or all(f", {name}, " in title for title in titles)
    assert len(colours) == COLOURS + 1
    browser.evaluate("document.querySelectorAll('#map .filters label')[0].click()")
    assert browser.evaluate(f"{shown}.length") == ROWS


def test_an_image_appears_where_the_pointer_rests(pages: dict[str, Path], browser: Page) -> None:
    browser.open(pages["one"], 1400)
    seen = "[...document.querySelectorAll('#map image')].filter(e => getComputedStyle(e).display !== 'none').length"
    assert browser.evaluate(seen) == 0
    place = browser.evaluate(
        """(() => { const map = document.querySelector('#map'); map.scrollIntoView();
            const box = [...map.querySelectorAll('.row')].at(-1).querySelector('.candidate').getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2] })()"""
    )
    browser.move(*place)
    assert browser.evaluate(seen) == 1


def test_without_classes_there_is_the_map_and_its_worst() -> None:
    candidate, reference, _ = vectors(0.1)
    names = [f"{row}" for row in range(ROWS)]
    projection = project(measure(Rows(candidate), Rows(reference), None), names)
    assert projection is not None
    drawn = draw_map(projection, names[:3])
    assert [(one.kind, one.count) for one in drawn.filters] == [("all", ROWS), ("worst", 3)]
    assert not drawn.by_class
