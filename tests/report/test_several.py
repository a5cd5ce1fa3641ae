"""Several candidates at once: paired differences by plain arithmetic, what is shipped, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import embedlite.report.sides as sides_module
from embedlite.report.command import drift_report
from embedlite.report.several.choose import Candidate, Latency, choose
from embedlite.report.several.comparison import short_names
from embedlite.report.several.paired import differences, draw_figures
from embedlite.runtime.drift import measure
from embedlite.runtime.drift.intervals import draw
from embedlite.runtime.drift.report import DriftReport, build_report
from embedlite.runtime.drift.rows import Rows
from embedlite.runtime.errors import DataError, EmbedliteError, RequestError

from browser import Page, open_browser
from conftest import Digits
from drift_pairs import describe
from tools import require

ROWS, SIZE = 150, 16
NOISES = {"good": 0.02, "twin": 0.02, "poor": 0.15}


def vectors(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A candidate's rows, the reference's, and labels: four classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 4
    reference = (rng.normal(size=(4, SIZE))[labels] + 0.6 * rng.normal(size=(ROWS, SIZE))).astype(np.float32)
    noise = np.random.default_rng(list(NOISES).index(name) + 1).normal(size=reference.shape)
    return reference + np.float32(NOISES[name]) * noise.astype(np.float32), reference, labels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three candidates and a reference, stored."""
    names = [f"{row:03d}.png" for row in range(ROWS)]
    for name in NOISES:
        candidate, reference, labels = vectors(name)
        np.savez(
            tmp_path / f"{name}.npz", embeddings=candidate, ids=names, model_sha256=f"{len(name) + ord(name[0]):064x}"
        )
        np.savez(tmp_path / "home.npz", embeddings=reference, ids=names)
    (tmp_path / "labels.csv").write_text(
        "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def reported(*arguments: str) -> int:
    """The exit code of drift-report, run here."""
    return int(drift_report.main(list(arguments), "drift-report", standalone_mode=False))


LOOSE = ("--gate", "sqnr_db=10", "--gate", "cosine_p1=0.9")


def saved(path: str = "a.json") -> dict:
    return json.loads(Path(path).read_text())


@pytest.mark.parametrize("labelled", [False, True], ids=["without labels", "with labels"])
def test_differences_are_paired_and_as_plain_arithmetic_has_them(labelled: bool) -> None:
    made = []
    for name in NOISES:
        candidate, reference, labels = vectors(name)
        measurement = measure(Rows(candidate), Rows(reference), 10)
        report = build_report(measurement, describe(ROWS, labels if labelled else None), {})
        made.append((measurement, report, draw_figures(measurement, report)))
    found = {(one.first, one.second): one for one in differences([draws for _, _, draws in made])}
    assert found.keys() == {(0, 1), (0, 2), (1, 2)}
    weights = draw(ROWS)
    decided = 3 if labelled else 1
    # Two-sided, for three pairs of candidates and what decides: Bonferroni.
    times = {3: 2.7729, 1: 2.3940}[decided]
    kept = [measurement.neighbours.kept_cross[:, -1] for measurement, _, _ in made]
    noise = [measurement.noise for measurement, _, _ in made]
    for (first, second), one in found.items():
        value, (low, high) = one.figures["knn_overlap_cross"]
        np.testing.assert_allclose(value, (kept[first] - kept[second]).mean(), atol=1e-12)
        means = [[(row * (kept[place])).sum() / row.sum() for row in weights] for place in (first, second)]
        spread = np.std(np.subtract(*means))
        np.testing.assert_allclose((value - low, high - value), times * spread, rtol=1e-3)
        # On the same images, the difference is surer than either figure.
        assert spread < np.hypot(np.std(means[0]), np.std(means[1]))
        ratio = [np.log10([(row * noise[place]).sum() for row in weights]) for place in (first, second)]
        _, (low, high) = one.figures["sqnr_db"]
        np.testing.assert_allclose((high - low) / 2, times * np.std(10 * (ratio[1] - ratio[0])), rtol=1e-3)
    assert found[0, 1].equal
    if not labelled:
        assert not found[0, 2].equal
        assert not found[1, 2].equal
    else:
        losses = [report.retrieval.figures["recall_at_1"].cross_loss for _, report, _ in made]
        np.testing.assert_allclose(found[0, 2].figures["recall_at_1_drop"][0], losses[0] - losses[2])


def test_the_same_vectors_are_equal_and_so_many_images_say_how_surely() -> None:
    candidate, reference, _ = vectors("good")
    measurement = measure(Rows(candidate), Rows(reference), 10)
    draws = draw_figures(measurement, build_report(measurement, describe(ROWS), {}))
    (found,) = differences([draws, None, draws])
    assert (found.first, found.second, found.equal) == (0, 2, True)
    value, (low, high) = found.figures["knn_overlap_cross"]
    assert value == 0
    assert -0.03 < low < 0 < high < 0.03
    assert found.figures["sqnr_db"] == (0, (0, 0))


def test_it_says_which_to_ship_and_what_the_others_cost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("good.npz", "poor.npz", "twin.npz", "--reference", "home.npz", "--gate", "knn_overlap_cross=0.5", *LOOSE)
    assert reported(*asked, "--json", "a.json", "--junit", "a.xml", "--html", "a.html") == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines())
    value = saved()
    assert value["verdict"] == "pass"
    assert value["ship"] in ("good.npz", "twin.npz")
    assert text.startswith(f"ship {value['ship']}")
    assert "the smallest that finds as much as the best (neighbours kept " in " ".join(text.split())
    other = {"good.npz": "twin.npz", "twin.npz": "good.npz"}[value["ship"]]
    assert f"  - {other}: equal to {value['ship']}" in text
    assert "  - poor.npz: neighbours kept" in text
    assert [(pair["first"], pair["second"], pair["equal"]) for pair in value["differences"]] == [
        (0, 1, False),
        (0, 2, True),
        (1, 2, False),
    ]
    for one in value["candidates"]:
        assert DriftReport.from_json(one["report"]).candidate["path"] == one["path"]
    suites = ElementTree.parse("a.xml").getroot()
    assert (len(suites), suites.get("failures")) == (3, "0")
    assert reported("--judge", "a.json", *asked[5:]) == 0
    assert capsys.readouterr().out == text
    assert reported("--judge", "a.json", "--gate", "sqnr_db=30", "--html", "b.html") == 1
    assert "  - poor.npz: fails cosine_p1 0.97" in capsys.readouterr().out
    assert reported("--judge", "a.json", "--gate", "sqnr_db=90") == 1
    assert capsys.readouterr().out.startswith("ship none of these: no candidate holds its gates")


def test_a_candidate_that_fails_does_not_cost_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:3000])
    with np.load("twin.npz") as archive:
        np.savez("fewer.npz", embeddings=archive["embeddings"][1:], ids=archive["ids"][1:])
    asked = ("cut.npz", "good.npz", "fewer.npz", "--reference", "home.npz")
    assert reported(*asked, "--json", "a.json", "--junit", "a.xml", "--html", "a.html") == 1
    text = capsys.readouterr().out
    assert text.startswith("ship good.npz")
    assert ": the only one that holds its gates" in text
    assert "  - cut.npz: failed: " in text
    assert "1 only in the reference" in text
    value = saved()
    assert [one["error"] is None for one in value["candidates"]] == [False, True, False]
    assert value["candidates"][0]["report"] is None
    assert ElementTree.parse("a.xml").getroot().get("errors") == "2"
    assert reported("--judge", "a.json") == 1
    with pytest.raises(EmbedliteError, match=r"cut\.npz"):
        reported("cut.npz", "fewer.npz", "--reference", "home.npz")


def test_labels_decide_where_there_are_any(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("good.npz", "poor.npz", "--reference", "home.npz", "--labels", "labels.csv", "--json", "a.json")
    reported(*asked, "--gate", "knn_overlap_cross=0.5", "--gate", "recall_at_1_drop=0.5")
    text = capsys.readouterr().out
    assert "recall@1 loss" in text
    (pair,) = saved()["differences"]
    assert {"recall_at_1_drop", "map_drop", "eer_rise"} <= pair["figures"].keys()


def test_what_cannot_be_asked_is_one_error(folder: Path) -> None:
    with np.load("good.npz") as archive:
        np.savez("narrow.npz", embeddings=archive["embeddings"][:, :8], ids=archive["ids"])
    (folder / "model.tflite").write_bytes(b"no model")
    (folder / "device.json").write_text("{}")
    two = ("good.npz", "twin.npz", "--reference", "home.npz")
    for arguments, error, message in (
        (("good.npz", "narrow.npz", *two[2:]), DataError, r"different sizes \(good.npz 16, narrow.npz 8 values\)"),
        (("good.npz", "no.npz", *two[2:]), DataError, "there is no candidate no.npz"),
        (("good.npz", "./good.npz", *two[2:]), RequestError, "named twice"),
        (("good.npz", "model.tflite", *two[2:]), RequestError, "Compare models with models"),
        (("narrow.npz", "good.npz"), RequestError, "--reference is missing"),
        ((*two, "--candidate-model", "model.tflite"), RequestError, "--candidate-model is about one candidate"),
        ((*two, "--ladder"), RequestError, "--ladder is about one candidate"),
        ((*two, "--gate", "map_drop=0.1"), RequestError, "there are none"),
        ((*two, "--measured", "device.json"), EmbedliteError, "holds no figures of a device"),
        (("good.npz", *two[2:], "--measured", "device.json"), RequestError, "which of several candidates"),
    ):
        with pytest.raises(error, match=message):
            reported(*arguments)


def test_the_reference_runs_once_and_a_damaged_file_costs_nothing(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    original = sides_module._run_reference

    def spy(*arguments: object) -> object:
        runs.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(sides_module, "_run_reference", spy)
    damaged = tmp_path / "damaged.tflite"
    content = bytearray(digits.int8.read_bytes())
    content[5000] ^= 1
    damaged.write_bytes(content)
    files = [str(path) for path in (digits.int8, damaged, digits.file("dynamic"))]
    export = str(digits.folder / "model.export.json")
    shared = ("--reference", str(digits.float32), "--data", str(digits.test_images), "--num-samples", "60")
    assert reported(*files, *shared, "--export", export, "--json", str(tmp_path / "a.json")) == 1
    assert len(runs) == 1
    value = saved(str(tmp_path / "a.json"))
    known = {file["sha256"]: file["latency_us"] for file in json.loads(Path(export).read_text())["files"]}
    for one in value["candidates"]:
        if one["error"] is None:
            assert one["latency"]["median"] == known[one["report"]["candidate"]["sha256"]]
            assert one["bytes"] == Path(one["path"]).stat().st_size
    assert "SHA-256" in value["candidates"][1]["error"]
    assert "µs" in capsys.readouterr().out
    # The same figures as of that file alone.
    reported(files[0], *shared, "--json", str(tmp_path / "b.json"))
    assert saved(str(tmp_path / "b.json"))["metrics"] == value["candidates"][0]["report"]["metrics"]


def candidate(name: str, latency: float | None = None, *, size: int = 1000, **metrics: float) -> Candidate:
    """One with these figures, and latencies that hardly vary."""
    rows, reference, _ = vectors("good")
    measurement = measure(Rows(rows), Rows(reference), 10)
    report = build_report(measurement, describe(ROWS), {})
    told = {**report.metrics, **metrics}
    made = DriftReport.from_json({**report.to_json(), "metrics": told}).judge({"knn_overlap_cross": 0.9})
    known = None if latency is None else Latency(latency, 0.99 * latency, 1.01 * latency, "here")
    return Candidate(name, name, made, None, size, known)


@pytest.mark.parametrize(
    ("candidates", "ship", "why"),
    [
        ([("a", 100.0, 0.95), ("b", 90.0, 0.92)], "a", "finds most of those that are nearly as fast"),
        (
            [("a", 300.0, 0.99), ("b", 90.0, 0.92), ("c", 95.0, 0.93)],
            "c",
            "finds most of those that are nearly as fast",
        ),
        ([("a", 100.0, 0.95), ("b", 90.0, 0.8)], "a", "the only one"),
        ([("a", None, 0.95), ("b", None, 0.99)], "b", "finds most"),
        ([("a", 100.0, 0.95), ("b", None, 0.99)], "a", "finds most of those"),
        ([("a", 100.0, 0.5), ("b", 90.0, 0.8)], None, "no candidate holds its gates"),
    ],
)
def test_the_choice_follows_from_gates_figures_and_latencies(
    candidates: list[tuple[str, float | None, float]], ship: str | None, why: str
) -> None:
    given = [candidate(name, latency, knn_overlap_cross=kept) for name, latency, kept in candidates]
    choice = choose(given, [])
    assert (None if choice.ship is None else given[choice.ship].name) == ship
    assert why in choice.headline
    assert len(choice.lines) == len(given) - (ship is not None)


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names(["a/x.tflite", "b/y.tflite"]) == ["x.tflite", "y.tflite"]
    assert short_names(["a/c/x.tflite", "b/c/x.tflite"]) == ["a/c/x.tflite", "b/c/x.tflite"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(require("chromium"), tmp_path_factory.mktemp("chromium")) as page:
        yield page


def test_the_page_shows_them_side_by_side_and_one_report_at_a_time(
    folder: Path, browser: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    reported("good.npz", "poor.npz", "twin.npz", "--reference", "home.npz", "--html", "a.html", "--json", "a.json")
    capsys.readouterr()
    ship = saved()["ship"]
    shown = "[...document.querySelectorAll('.panel')].map(e => e.getBoundingClientRect().height > 0)"
    for width in (390, 800, 1400):
        browser.open(folder / "a.html", width)
        outside = """[...document.querySelectorAll('body *:not(svg *)')].filter(e => {
            const box = e.getBoundingClientRect(); return box.width > 0 && box.right > innerWidth + 0.5}).length"""
        assert browser.evaluate(outside) == 0
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    rows = browser.evaluate("[...document.querySelectorAll('#candidates tbody tr')].map(e => e.innerText)")
    assert [row.split()[0] for row in rows] == ["good.npz", "poor.npz", "twin.npz"]
    assert [("ship this one" in row) for row in rows] == [name == ship for name in ("good.npz", "poor.npz", "twin.npz")]
    assert browser.evaluate(shown) == [name == ship for name in ("good.npz", "poor.npz", "twin.npz")]
    browser.evaluate("document.querySelector('label[for=tab-2]').click()")
    assert browser.evaluate(shown) == [False, True, False]
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)
    browser.open(folder / "a.html", 800, media="print")
    assert browser.evaluate(shown) == [True, True, True]
    assert browser.requests[-1].startswith("file:")
    assert "<script" not in (folder / "a.html").read_text()
