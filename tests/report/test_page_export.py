"""The page's section on which file to ship, of a real export, as Chromium shows it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import Page, assert_text_stands_out, open_browser
from conftest import Digits, Run
from tools import require

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(require("chromium"), tmp_path_factory.mktemp("chromium")) as page:
        yield page


def enriched(digits: Digits) -> dict[str, Any]:
    """The example's export.json with intervals, judged files and a search."""
    value: dict[str, Any] = json.loads((digits.folder / "model.export.json").read_text())
    for file in value["files"]:
        latency, drift = file["latency_us"], file["drift"]
        file.update(latency_low_us=0.95 * latency, latency_high_us=1.1 * latency, dominated=file["mode"] == "int16x8")
        file["intervals"] = {"sqnr_db": [drift["sqnr_db"] - 0.8, drift["sqnr_db"] + 0.7]}
    tuned = next(file for file in value["files"] if file["mode"] == "int8")
    tuned["untuned"] = {"latency_us": 1.05 * tuned["latency_us"], "drift": {"sqnr_db": tuned["drift"]["sqnr_db"] - 2}}
    value["files"][0]["drift"]["sqnr_db"] = None
    value["files"][0]["intervals"] = {}
    value["measured_on"] = {"device": {"cpu": HOSTILE}, "runtime": {"name": "x", "version": "1"}, "threads": 2}
    value["search"] = {
        "target": "litert",
        "runtime": "ai-edge-litert",
        "threads": 2,
        "images": 40,
        "seconds": 31.2,
        "ended": "finished",
        "tried": [
            {"precision": {}, "latency_us": 200.0 + 5 * n, "sqnr_db": None if n == 19 else 39 + n / 4}
            for n in range(20)
        ],
        "sensitivity": [
            {
                "layer": f"block{n}{HOSTILE};fused",
                "operators": ["CONV_2D", "ADD"],
                "precision": "float",
                "sqnr_db": 39.0 + n / 10,
                "gained_db": (7 * n % 25) / 10 - 0.1,
                "latency_us": 215.0,
                "added_us": n - 1.0,
            }
            for n in range(25)
        ],
    }
    return value


@pytest.fixture(scope="module")
def saved(digits: Digits, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on the example's int8 file."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    sides = (digits.int8, "--reference", digits.float32, "--data", digits.test_images, "--num-samples", "40")
    done = run("drift-report", *sides, "--gate", "knn_overlap_cross=0", "--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture(scope="module")
def made(digits: Digits, run: Run, saved: Path) -> tuple[Path, dict[str, Any]]:
    value = enriched(digits)
    export, page = saved.with_name("model.export.json"), saved.with_name("report.html")
    export.write_text(json.dumps(value))
    done = run("drift-report", "--judge", saved, "--gate", "knn_overlap_cross=0", "--html", page, "--export", export)
    assert done.returncode == 0, done.stderr
    return page, value


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
def test_nothing_sticks_out_or_overlaps(made: tuple[Path, dict[str, Any]], browser: Page, width: int) -> None:
    browser.open(made[0], width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('#export *:not(svg *)')].filter(e => {
        const box = e.getBoundingClientRect(); return box.width > 0 && box.right > innerWidth + 0.5}).length"""
    assert browser.evaluate(outside) == 0
    assert browser.evaluate(OVERLAPS) == []


OVERLAPS = """(() => {const frame = document.querySelector('#tradeoff svg').getBoundingClientRect();
        const boxes = [...document.querySelectorAll('#tradeoff svg text')].map(
            e => [e.textContent, e.getBoundingClientRect()]);
        return boxes.flatMap(([name, a], i) => [
            ...(a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 ? [name] : []),
            ...boxes.slice(i + 1).filter(([_, b]) => a.left < b.right - 1 && b.left < a.right - 1 &&
                a.top < b.bottom - 3 && b.top < a.bottom - 3).map(([other]) => `${name} | ${other}`)])})()"""


@pytest.mark.parametrize("latencies", [[353, 344, 351, 388, 26254], [189, 219, 198, 173, 4910], [1, 1, 1, 1, 1]])
def test_values_of_an_axis_have_room(
    latencies: list[float], made: tuple[Path, dict[str, Any]], browser: Page, run: Run, saved: Path, tmp_path: Path
) -> None:
    """A value near the right edge stuck out of the picture, and two that are close stood upon each other."""
    files = [
        file | {"latency_us": us, "latency_low_us": 0.95 * us, "latency_high_us": 1.2 * us}
        for file, us in zip(made[1]["files"], latencies, strict=True)
    ]
    export, page = tmp_path / "model.export.json", tmp_path / "report.html"
    export.write_text(json.dumps(made[1] | {"files": files}))
    done = run("drift-report", "--judge", saved, "--gate", "knn_overlap_cross=0", "--html", page, "--export", export)
    assert done.returncode == 0, done.stderr
    browser.open(page, 360)
    assert browser.evaluate(OVERLAPS) == []


def test_points_stand_where_the_figures_are(made: tuple[Path, dict[str, Any]], browser: Page) -> None:
    page, value = made
    browser.open(page, 1200)
    dots = browser.evaluate(
        """[...document.querySelectorAll('#tradeoff circle:not(.tried):not(.ring)')].map(e => [
            e.querySelector('title').textContent, e.className.baseVal, +e.getAttribute('cx'), +e.getAttribute('cy')])"""
    )
    files = value["files"]
    assert [kind for _, kind, *_ in dots] == ["reference", "reference", "reference", "candidate", "dominated"]
    assert "identical" in dots[0][0]
    assert dots[0][3] == min(y for *_, y in dots)
    across = np.array([x for *_, x, _ in dots])
    logs = np.log([file["latency_us"] for file in files])
    # Each coordinate is written to a hundredth, and so are the two that the line is drawn through. A ratio of two
    # differences would have no bound: two files may be equally fast.
    share = (logs - logs[0]) / (logs[4] - logs[0])
    apart = np.abs(across - (across[0] + share * (across[4] - across[0])))
    assert (apart <= 0.005 * (1 + np.abs(1 - share) + np.abs(share)) + 1e-9).all()
    down = np.array([y for *_, y in dots[1:]])
    decibels = np.array([file["drift"]["sqnr_db"] for file in files[1:]])
    slope = (down[0] - down[1]) / (decibels[0] - decibels[1])
    np.testing.assert_allclose(down - down[0], slope * (decibels - decibels[0]), atol=0.05)
    assert browser.evaluate("document.querySelectorAll('#tradeoff circle.tried').length") == 21
    # The file that would be without fine-tuning, 2 dB below its own.
    (title, x, y) = browser.evaluate(
        """[...document.querySelectorAll('#tradeoff circle.tried')].map(e => [
            e.querySelector('title').textContent, +e.getAttribute('cx'), +e.getAttribute('cy')]).filter(
            ([title]) => title.includes('without fine-tuning'))[0]"""
    )
    assert title.startswith(f"4: {files[3]['path']} without fine-tuning (not written), ")
    assert x > across[3]
    np.testing.assert_allclose(y - down[2], -2 * slope, atol=0.05)
    assert browser.evaluate("document.querySelectorAll('#tradeoff polyline.frontier').length") == 1


def test_table_sentences_and_layers_say_what_the_export_says(made: tuple[Path, dict[str, Any]], browser: Page) -> None:
    page, value = made
    browser.open(page, 1200)
    rows = browser.evaluate(
        """[...document.querySelectorAll('#export > table:not(#sensitivity) tbody tr')].map(
            e => [e.className, e.innerText])"""
    )
    for (kind, text), file in zip(rows, value["files"], strict=True):
        assert (kind == "beside") is file["dominated"] is ("dominated" in text)
        assert ("this report's candidate" in text) is (file["mode"] == "int8")
        assert f"{file['bytes']:,}" in text
        assert f"{file['latency_us']:.0f}" in text
        low = file["intervals"].get("sqnr_db", [None])[0]
        assert "identical" in text if low is None else f"{low:.2f}" in text
        for verdict in file["verified"]:
            assert f"{'✓' if verdict['ok'] else '✗'} {verdict['runtime']} {verdict['version']}" in text
    words = browser.evaluate("document.querySelector('#export').innerText")
    assert all(sentence in words for sentence in value["ship"])
    bars = browser.evaluate(
        """[...document.querySelectorAll('#sensitivity tbody tr')].map(e => [
            e.querySelector('b').textContent, e.querySelector('i').getBoundingClientRect().width])"""
    )
    gains = sorted((layer["gained_db"] for layer in value["search"]["sensitivity"]), reverse=True)[:20]
    assert [text for text, _ in bars] == [f"{gain:+.2f}" for gain in gains]
    np.testing.assert_allclose([width / bars[0][1] for _, width in bars], np.array(gains) / gains[0], atol=0.01)


def test_hostile_names_stay_text_and_nothing_is_asked_of_the_network(
    made: tuple[Path, dict[str, Any]], browser: Page
) -> None:
    browser.requests.clear()
    browser.open(made[0], 800)
    assert [url for url in browser.requests if not url.startswith("data:")] == [made[0].as_uri()]
    assert browser.evaluate("document.querySelectorAll('#export img, script').length") == 0
    assert browser.evaluate("document.title").startswith("Pass")
    assert browser.evaluate("document.querySelector('#export').innerText").count(HOSTILE) == 21


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out(made: tuple[Path, dict[str, Any]], browser: Page, dark: bool) -> None:
    browser.open(made[0], 1200, dark=dark)
    assert_text_stands_out(browser, "#export :is(h2, h3, p, th, td, b, small, svg text)")


def test_an_export_without_the_newer_keys_is_shown(digits: Digits, run: Run, saved: Path, tmp_path: Path) -> None:
    """Also in a report that runs the file; and twice the same bytes."""
    old = json.loads((digits.folder / "model.export.json").read_text())
    for key in ("measured_on", "search"):
        old.pop(key, None)
    for file in old["files"]:
        for key in ("latency_low_us", "latency_high_us", "intervals", "dominated"):
            file.pop(key, None)
    old["files"][1]["drift"] = old["files"][2]["latency_us"] = None
    export = tmp_path / "export.json"
    export.write_text(json.dumps(old))
    sides = (digits.int8, "--reference", digits.float32, "--data", digits.test_images, "--num-samples", "40")
    for name in ("one.html", "other.html"):
        done = run(
            "drift-report", *sides, "--gate", "knn_overlap_cross=0", "--html", tmp_path / name, "--export", export
        )
        assert done.returncode == 0, done.stderr
    text = (tmp_path / "one.html").read_text()
    assert text == (tmp_path / "other.html").read_text()
    assert "not measured: 2" in text
    assert 'class="frontier"' not in text
    assert ">dominated" not in text
    assert 'id="sensitivity"' not in text


def other_files(value: dict[str, Any]) -> Any:
    return {**value, "files": [file for file in value["files"] if file["mode"] != "int8"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: "no json", "is not an export.json"),
        (lambda _: [1], "is not an export.json"),
        (lambda _: {"schema": 1}, "'files' is missing"),
        (lambda value: {**value, "schema": 99}, "schema 99"),
        (lambda value: {**value, "files": [{**value["files"][0], "latency_us": "fast"}]}, "'fast'"),
        (other_files, "is not the export of"),
    ],
    ids=["text", "list", "other object", "newer", "no number", "of other files"],
)
def test_another_file_is_refused(
    change: Callable[[dict[str, Any]], Any], said: str, digits: Digits, run: Run, saved: Path, tmp_path: Path
) -> None:
    export, page = tmp_path / "export.json", tmp_path / "page.html"
    export.write_text(json.dumps(change(json.loads((digits.folder / "model.export.json").read_text()))))
    done = run("drift-report", "--judge", saved, "--html", page, "--export", export)
    assert done.returncode == 2
    assert said in done.stderr
    assert not page.exists()


def test_unreadable_and_pageless_exports_are_refused(run: Run, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"schema": 1,')
    for arguments, said in (
        (("--export", saved), "--html"),
        (("--html", tmp_path / "p.html", "--export", tmp_path / "cut.json"), "cannot read"),
        (("--html", tmp_path / "p.html", "--export", tmp_path / "none.json"), "cannot read"),
    ):
        done = run("drift-report", "--judge", saved, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
