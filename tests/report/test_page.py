"""The report's page: what Chromium shows of it, at a phone's width, in the dark, on paper, and what is in its file."""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedlite.report.page import render_page
from embedlite.report.page.map import POINTS, project
from embedlite.report.page.pictures import thumbnails
from embedlite.report.page.plot import Scale, round_step
from embedlite.runtime.drift import measure
from embedlite.runtime.drift.gates import DEFAULT_GATES
from embedlite.runtime.drift.report import Description, DriftReport, build_report
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.errors import UnreadableDataError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.contract import InputContract

from browser import Page, assert_text_stands_out, luminance, open_browser
from conftest import Digits, Run
from tools import require


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(require("chromium"), tmp_path_factory.mktemp("chromium")) as page:
        yield page


def asked(digits: Digits) -> tuple[str | Path, ...]:
    """A report with everything on it and a gate that fails."""
    sides = (digits.int8, "--reference", digits.float32, "--data", digits.test_images)
    return (*sides, "--num-samples", "120", "--gate", "bias_max_sigma=0.001", "--ladder", "--layers")


@pytest.fixture(scope="module")
def made(digits: Digits, run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DriftReport]:
    """The page of the example's int8 file with everything on it, and the same report as JSON."""
    folder = tmp_path_factory.mktemp("page")
    page, saved = folder / "report.html", folder / "report.json"
    done = run("drift-report", *asked(digits), "--html", page, "--json", saved)
    assert done.returncode == 1, done.stdout + done.stderr
    return page, DriftReport.from_json(json.loads(saved.read_text()))


def compared(candidate: np.ndarray, reference: np.ndarray, ids: list[str] | None = None) -> tuple[DriftReport, dict]:
    """A report on rows in memory, with its map."""
    names = ids or [f"{index}.png" for index in range(len(reference))]
    facts = {"path": "a", "kind": "stored"}
    measurement = measure(Rows(candidate), Rows(reference), min(10, len(reference) - 1))
    report = build_report(measurement, Description(facts, facts, {"path": None}, names), DEFAULT_GATES)
    return report, project(measurement, names)


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
def test_nothing_sticks_out_at_any_width(made: tuple[Path, DriftReport], browser: Page, width: int) -> None:
    browser.open(made[0], width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('body *:not(svg *)')].filter(e => {
        const box = e.getBoundingClientRect(); return box.width > 0 && box.right > innerWidth + 0.5}).length"""
    assert browser.evaluate(outside) == 0


def test_letters_are_legible_and_inside_their_picture_on_a_phone(made: tuple[Path, DriftReport], browser: Page) -> None:
    browser.open(made[0], 360)
    heights = browser.evaluate("[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)")
    assert len(heights) > 40
    assert min(heights) > 0
    sizes = browser.evaluate(
        """[...document.querySelectorAll('figure svg')].map(e =>
            10.5 * e.getBoundingClientRect().width / e.viewBox.baseVal.width)"""
    )
    assert len(sizes) == 5
    assert min(sizes) >= 8
    outside = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text, circle, rect, line')].filter(e => {
            const box = e.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
                box.bottom > frame.bottom + 1}).map(e => e.outerHTML)})"""
    assert browser.evaluate(outside) == []


def test_axis_labels_do_not_overlap(made: tuple[Path, DriftReport], browser: Page) -> None:
    browser.open(made[0], 360)
    overlaps = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
        const boxes = [...svg.querySelectorAll('text:not(.limit):not(.mark)')].map(
            e => [e.textContent, e.getBoundingClientRect()]);
        return boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([_, b]) =>
            a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3
        ).map(([other]) => `${name} | ${other}`))})"""
    assert browser.evaluate(overlaps) == []


def test_the_page_says_what_the_report_says(made: tuple[Path, DriftReport], browser: Page) -> None:
    page, report = made
    browser.open(page, 1200)
    text = browser.evaluate("document.body.innerText")
    assert "✗ FAIL" in text
    assert (
        browser.evaluate("document.querySelector('h1').innerText")
        == {
            "ship": "Ship as is",
            "ship-with-threshold": "Ship with another threshold",
            "re-embed-gallery": "Re-embed the gallery",
            "do-not-ship": "Do not ship",
        }[report.advice.action]
    )
    rows = browser.evaluate("[...document.querySelectorAll('#gates tbody tr')].map(e => [e.className, e.innerText])")
    assert len(rows) == len(report.gates)
    for (kind, words), gate in zip(rows, report.gates, strict=True):
        assert gate.name in words
        assert (kind == "ok") is gate.passed
        assert ("✓ ok" if gate.passed else "✗ failed") in words
        if gate.name == "sqnr_db":
            assert f"{gate.value:.2f}" in words
    for row in report.worst:
        assert f"{row.cosine:.6f}" in text
    for fact in (report.candidate["sha256"], report.reference["sha256"], report.data["fingerprint"]):
        assert fact in text
    assert report.ladder is not None
    assert report.layers is not None
    for step in report.ladder:
        assert step["step"] in text
    assert browser.evaluate("document.querySelectorAll('#layer-table tbody tr').length") == min(12, len(report.layers))


def test_the_pictures_show_the_figures(made: tuple[Path, DriftReport], browser: Page) -> None:
    """Lengths and places on the screen against the numbers of the report."""
    page, report = made
    browser.open(page, 1200)
    box = "e => {const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]}"

    def boxes(selector: str) -> np.ndarray:
        return np.array(browser.evaluate(f"[...document.querySelectorAll({selector!r})].map({box})"))

    bars = boxes("#histogram rect")
    counts = np.array([count for count in report.histogram["counts"] if count])
    assert len(bars) == len(counts)
    # Heights are logarithms of the counts above one half.
    logs = np.log10(counts / 0.5)
    np.testing.assert_allclose(bars[:, 3] / logs, bars[0, 3] / logs[0], rtol=0.02)

    shifts = np.array(report.dimensions["bias_sigma"])
    bars = boxes("#dimensions rect")
    largest = np.abs(shifts).argmax()
    seen = np.abs(shifts) > 0.05 * np.abs(shifts).max()
    np.testing.assert_allclose(
        (bars[:, 3] / bars[largest, 3])[seen], (np.abs(shifts) / np.abs(shifts).max())[seen], atol=0.02
    )
    middle = bars[largest, 1] if shifts[largest] < 0 else bars[largest, 1] + bars[largest, 3]
    np.testing.assert_allclose((bars[:, 1] + bars[:, 3])[seen & (shifts > 0)], middle, atol=0.2)
    kinds = browser.evaluate("[...document.querySelectorAll('#dimensions rect')].map(e => e.className.baseVal)")
    assert [kind == "bad" for kind in kinds] == (np.abs(shifts) > 0.001).tolist()

    assert report.neighbours is not None
    for side, kind in (("self", "own"), ("cross", "candidate")):
        dots = boxes(f"#overlap circle.{kind}")
        heights = -(dots[:, 1] - dots[0, 1])
        values = np.array(report.neighbours[side]) - report.neighbours[side][0]
        np.testing.assert_allclose(heights / heights[-1], values / values[-1], atol=0.02)

    assert len(boxes("#map circle.reference")) == len(boxes("#map circle.candidate")) == report.metrics["count"]
    assert len(boxes("#map circle.ring")) == len(report.worst)


def test_the_worst_images_are_seen(made: tuple[Path, DriftReport], browser: Page) -> None:
    page, report = made
    browser.open(page, 1200)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('#worst img')].map(e => [e.alt, e.naturalWidth, e.naturalHeight])"
    )
    assert [name for name, *_ in sizes] == [
        name for row in report.worst for name in (row.id, *row.reference_neighbours, *row.candidate_neighbours)
    ]
    assert {tuple(size) for _, *size in sizes} == {(32, 32)}
    framed = browser.evaluate("[...document.querySelectorAll('#worst .other img')].map(e => e.alt)")
    assert framed == [
        name
        for row in report.worst
        for mine, theirs in (
            (row.reference_neighbours, row.candidate_neighbours),
            (row.candidate_neighbours, row.reference_neighbours),
        )
        for name in mine
        if name not in theirs
    ]


def test_it_asks_nothing_of_the_network_and_runs_no_script(made: tuple[Path, DriftReport], browser: Page) -> None:
    page, _ = made
    browser.requests.clear()
    browser.open(page, 800)
    assert {url.split(":", 1)[0] for url in browser.requests} == {"file", "data"}
    assert [url for url in browser.requests if url.startswith("file")] == [page.as_uri()]
    assert browser.messages == []
    text = page.read_text()
    assert "<script" not in text
    assert not re.search(r"""(src|href|url)\s*[=(]\s*(?!"data:)""", text)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_in_both_modes(made: tuple[Path, DriftReport], browser: Page, dark: bool) -> None:
    browser.open(made[0], 1200, dark=dark)
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) < 0.1) is dark
    assert_text_stands_out(browser, "h1, h2, p, th, td, small, figcaption, svg text, .verdict")


def test_it_prints_in_dark_ink_on_several_pages(made: tuple[Path, DriftReport], browser: Page) -> None:
    browser.open(made[0], 1200, dark=True, media="print")
    assert luminance(browser.evaluate("getComputedStyle(document.body).color")) < 0.1
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    content = b"".join(_inflated(part) for part in re.findall(rb"stream\r?\n(.*?)endstream", printed, re.DOTALL))
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 2
    assert content.count(b" Tj") + content.count(b"] TJ") > 100


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(stream)
    except zlib.error:
        return b""


def test_the_same_request_gives_the_same_bytes(digits: Digits, run: Run, tmp_path: Path) -> None:
    """In two processes that have nothing in common, so that no order of a set is the same by chance."""
    pages = [tmp_path / name for name in ("one.html", "other.html")]
    for page in pages:
        done = run.cold(
            *("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images),
            *("--num-samples", "100", "--html", page),
        )
        assert done.returncode == 0, done.stderr
    assert pages[0].read_bytes() == pages[1].read_bytes()


@pytest.mark.parametrize("package", ["jinja2", "PIL"])
def test_a_missing_package_is_told_before_the_work(
    package: str, made: tuple[Path, DriftReport], run: Run, tmp_path: Path
) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from embedlite.report.command import main; main()"
    arguments = ("--judge", made[0].with_suffix(".json"), "--html", tmp_path / "page.html")
    done = run("python", "-c", code, *arguments)
    assert done.returncode == 2
    assert "pip install 'embedlite[report]'" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
    # Whatever else is asked for needs neither.
    assert run("python", "-c", code, *arguments[:2], "--json", tmp_path / "judged.json").returncode == 0


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (("--html", "report.json"), "named twice"),
        (("--html", "page.html", "--junit", "page.html"), "named twice"),
        (("--html", "page.html", "--json", "page.html"), "named twice"),
        (("--html", "nowhere/page.html"), "no folder"),
        (("--html", "."), "is a folder"),
    ],
)
def test_a_page_that_cannot_be_written_is_told_before_the_work(
    others: tuple[str, ...], said: str, made: tuple[Path, DriftReport], run: Run, tmp_path: Path
) -> None:
    saved = tmp_path / "report.json"
    saved.write_bytes(made[0].with_suffix(".json").read_bytes())
    done = run("drift-report", "--judge", "report.json", *others, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert saved.read_bytes() == made[0].with_suffix(".json").read_bytes()


def test_the_page_travels_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"embedlite/report/page/{name}" for name in ("page.py", "template.html", "style.css")} <= set(names)


def test_an_image_that_has_gone_leaves_a_page_without_it(digits: Digits) -> None:
    """The figures were computed; a thumbnail is not a reason to lose them."""
    source = open_source(digits.test_images, InputContract((32, 32, 1)))
    source = source.subset(range(30))
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(30, 4)).astype(np.float32)
    report, _ = compared(reference + np.float32(0.1), reference, list(source.ids))
    lost = report.worst[0].id

    def load(index: int) -> np.ndarray:
        if source.ids[index] == lost:
            raise UnreadableDataError(f"{lost} is gone.")
        return source.load(index)

    pictures = thumbnails(Source("images", source.ids, load, lambda _: b"", source.contract, pixels=True), report)
    shown = {name for row in report.worst for name in (row.id, *row.reference_neighbours, *row.candidate_neighbours)}
    assert set(pictures) == shown - {lost}
    assert f">{lost}</span>" in render_page(report, None, pictures).decode()


@pytest.mark.parametrize(("channels", "order"), [(1, ""), (3, "rgb"), (3, "bgr"), (4, "")])
@pytest.mark.parametrize("floats", [False, True], ids=["pixels", "floats"])
def test_thumbnails_show_the_images(channels: int, floats: bool, order: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 10, channels), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    contract = InputContract((8, 10, channels), color_order=order)
    source = open_source(images / np.float32(255) - np.float32(0.5) if floats else images, contract)
    rows = rng.normal(size=(12, 4)).astype(np.float32)
    report, _ = compared(rows + np.float32(0.1), rows, list(source.ids))
    for name, png in thumbnails(source, report).items():
        shown = np.asarray(Image.open(io.BytesIO(png)))
        image = images[int(name)]
        if order == "bgr":
            image = image[..., ::-1]
        expected = image[..., 0] if channels == 1 else image
        assert shown.shape == expected.shape
        assert np.abs(shown.astype(float) - expected).max() <= 1


def test_a_saved_report_becomes_a_page(made: tuple[Path, DriftReport], run: Run, tmp_path: Path) -> None:
    page = tmp_path / "judged.html"
    done = run("drift-report", "--judge", made[0].with_suffix(".json"), "--html", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "✓ pass" in text
    assert 'id="map"' not in text
    assert 'id="histogram"' in text
    assert "<img" not in text


def test_ids_are_text_and_never_markup(browser: Page, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(40, 8)).astype(np.float32)
    names = [f'<img src=x onerror="document.title=1">&amp;{index}' for index in range(40)]
    report, projection = compared(reference + np.float32(0.01), reference, names)
    report = replace(report, candidate={"path": "</title><script>document.title='owned'</script>", "kind": "stored"})
    path = tmp_path / "hostile.html"
    path.write_bytes(render_page(report, projection, {}))
    browser.open(path, 360)
    assert browser.evaluate("document.querySelectorAll('script, #worst img').length") == 0
    assert report.worst[0].id in browser.evaluate("document.body.innerText")
    assert "owned" in browser.evaluate("document.title")
    assert browser.evaluate("document.title").startswith(("Fail", "Pass"))
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360


def test_workers_apart_fit_on_a_phone(browser: Page, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    report, _ = compared(rows, rows + np.float32(0.01))
    drift = {"sqnr_db": 40.123, "cosine_min": 0.5, "knn_overlap_cross": 0.9, "max_abs": 0.25}
    same = {"sqnr_db": None, "cosine_min": 1.0, "knn_overlap_cross": 1.0, "max_abs": 0.0}
    others = [
        {"environment": {}, "different": "<script>" + "tflite-runtime 2.14, " * 9, "workers": 3, "drift": drift},
        {"environment": {}, "different": "Pillow 10", "workers": 1, "drift": same},
    ]
    path = tmp_path / "apart.html"
    # As a saved report has it.
    saved = DriftReport.from_json(json.loads(json.dumps(replace(report, other_workers=others).to_json())))
    path.write_bytes(render_page(saved))
    browser.open(path, 320)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 320
    rows_shown = browser.evaluate("[...document.querySelectorAll('#workers tbody tr')].map(e => e.innerText)")
    assert len(rows_shown) == 2
    assert "<script>tflite-runtime 2.14" in rows_shown[0]
    for words in ("40.12", "0.500000", "90.0%", "0.25"):
        assert words in rows_shown[0]
    assert "identical" in rows_shown[1]
    path.write_bytes(render_page(replace(report, other_workers=[])))
    browser.open(path, 320)
    assert "every worker of the cluster is like this machine" in browser.evaluate("document.body.innerText")
    path.write_bytes(render_page(report))
    browser.open(path, 320)
    assert browser.evaluate("document.querySelector('#workers')") is None


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        (np.eye(4), np.eye(4)),
        (np.full((12, 3), np.nan), np.random.default_rng(0).normal(size=(12, 3))),
        (np.zeros((12, 3)), np.random.default_rng(0).normal(size=(12, 3))),
        (np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1).normal(size=(2, 3))),
        (np.random.default_rng(0).normal(size=(30, 1)), np.random.default_rng(1).normal(size=(30, 1))),
        (-np.random.default_rng(0).normal(size=(30, 6)), np.random.default_rng(0).normal(size=(30, 6))),
        (1e30 * np.random.default_rng(0).normal(size=(30, 6)), np.random.default_rng(0).normal(size=(30, 6))),
        (np.random.default_rng(0).normal(size=(1500, 600)), np.random.default_rng(1).normal(size=(1500, 600))),
    ],
    ids=["identical", "all NaN", "all zero", "two rows", "one dimension", "opposite", "huge", "more than can be drawn"],
)
def test_any_rows_give_a_page(candidate: np.ndarray, reference: np.ndarray, browser: Page, tmp_path: Path) -> None:
    report, projection = compared(candidate.astype(np.float32), reference.astype(np.float32))
    path = tmp_path / "page.html"
    path.write_bytes(render_page(report, projection))
    browser.open(path, 360)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    text = browser.evaluate("document.body.innerText")
    assert {"pass": "✓ PASS", "fail": "✗ FAIL", "undecided": "? UNDECIDED"}[report.verdict] in text
    assert "None" not in text
    assert "nan" not in re.sub(r"[^ ]*nan[a-z]+", "", text)


def test_the_map_is_the_plane_in_which_the_reference_varies_most() -> None:
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    reference = (rng.normal(size=(300, 7)) * [5, 3, 1, 1, 1, 1, 1]).astype(np.float32)
    candidate = reference + rng.normal(size=reference.shape).astype(np.float32) / 10
    _, projection = compared(candidate, reference)
    fitted = PCA(2).fit(reference)
    drawn = np.array(projection["reference"])
    signs = np.sign((drawn * fitted.transform(reference)).sum(axis=0))
    np.testing.assert_allclose(drawn * signs, fitted.transform(reference), atol=1e-4)
    np.testing.assert_allclose(np.array(projection["candidate"]) * signs, fitted.transform(candidate), atol=1e-4)
    np.testing.assert_allclose(projection["explained"], fitted.explained_variance_ratio_, rtol=1e-5)


def test_of_many_rows_the_worst_are_always_drawn() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5 * POINTS, 4)).astype(np.float32)
    candidate = reference.copy()
    candidate[[7, 1234]] *= -1
    report, projection = compared(candidate, reference)
    assert {"7.png", "1234.png"} <= {row.id for row in report.worst} & set(projection["ids"])
    assert POINTS <= len(projection["ids"]) <= POINTS + len(report.worst)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_are_round_and_within_a_linear_axis(low: float, width: float, wanted: int) -> None:
    scale = Scale(low, low + width)
    if not scale.high - scale.low > 1e-9 * abs(low):
        return
    ticks = scale.ticks(wanted)
    slack = 1e-6 * width
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)
    assert 1 <= len(ticks) + 1 <= 3 * wanted
    steps = np.diff(ticks)
    if len(steps):
        np.testing.assert_allclose(steps, steps[0], rtol=1e-3, atol=1e-9)


@given(st.floats(1e-9, 1e9))
def test_round_steps_are_just_large_enough(smallest: float) -> None:
    step = round_step(smallest)
    assert smallest * (1 - 1e-6) <= step <= 2.5 * smallest * (1 + 1e-6)
    assert float(f"{step:e}".split("e", maxsplit=1)[0]) in (1, 2, 5)


@given(st.floats(1e-9, 1e3), st.floats(1.01, 1e6), st.floats(0, 1e9))
def test_a_value_stands_within_its_axis_in_order(low: float, ratio: float, value: float) -> None:
    for logarithmic in (False, True):
        scale = Scale(low, low * ratio, logarithmic)
        assert scale.share(low) == 0
        assert scale.share(low * ratio) == pytest.approx(1)
        assert 0 <= scale.share(value) <= scale.share(value * 1.5) <= 1
