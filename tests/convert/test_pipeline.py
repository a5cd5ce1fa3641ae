"""The steps of an export one by one, on a graph that is written down: no model is loaded, no TensorFlow imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from graphs import SHAPE, pictures, written_encoder

from embedlite.calibration.engine import open_engine
from embedlite.convert.errors import ConversionError
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.convert.make.maker import Made, Maker
from embedlite.convert.make.recipe import FileRecipe, read_recipe
from embedlite.convert.options import Asked
from embedlite.convert.pipeline import Pipeline
from embedlite.convert.request import Request, check_request
from embedlite.convert.results import ExportedFile, NotMade, Verdict
from embedlite.convert.search.mixed import MixedFiles
from embedlite.convert.steps.calibrating import calibrate
from embedlite.convert.steps.choosing import failed_modes
from embedlite.convert.steps.converting import prepare_graph, settle_contract
from embedlite.convert.steps.opening import open_images
from embedlite.convert.steps.quantizing import make_files, make_modes
from embedlite.convert.verify.latency import Stopwatch
from embedlite.runtime import Encoder
from embedlite.runtime.check.timing import Timing
from embedlite.runtime.errors import InterpreterFailedError, RequestError

IMAGES = pictures(60)
OPENED = Original("written", SHAPE, flatbuffer=written_encoder(), batch=1, decisions=("it was written down.",))


def request(folder: Path, **options: Any) -> Request:
    given = {"quantize": ("float32", "int8"), "calibration_data": IMAGES, "measure": False, "threads": 1, **options}
    return check_request(Asked(output_dir=folder, **given), Path("written.tflite"), None)


class Prepared(SimpleNamespace):
    """The steps until files are made: request, decided, graph, calibrated, maker."""


def prepared(asked: Request) -> Prepared:
    lowered = lower(OPENED)
    decided = settle_contract(asked, OPENED, lowered, proof=None, recipe=None)
    with open_engine("local", 1) as engine:
        data = open_images(asked, "written", lowered, decided.contract, engine, proof=None)
        graph = prepare_graph(asked, lowered, data, proof=None, recipe=None)
        calibrated = calibrate(asked, graph, data, decided.contract, engine, recipe=None)
    maker = Maker(asked, decided.contract, decided.origins, graph, calibrated.plan, None)
    return Prepared(request=asked, decided=decided, data=data, graph=graph, calibrated=calibrated, maker=maker)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(request(tmp_path_factory.mktemp("out"), max_drift=("sqnr_db=90",), measure=True))


def test_a_run_writes_what_it_returns(tmp_path: Path) -> None:
    """Given two modes and nothing that runs them. Result: both files, export.json alike, all decisions."""
    asked = request(tmp_path, card=True)
    result = Pipeline(asked, {"path": "written.tflite", "sha256": None}).run(OPENED)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "written.card.md",
        "written.export.json",
        "written.float32.tflite",
        "written.int8.tflite",
    ]
    assert json.loads((tmp_path / "written.export.json").read_text()) == json.loads(json.dumps(result.to_json()))
    assert list(result.seconds) == ["converting", "calibrating", "quantizing"]
    # In the order of the steps, of which the opened model is the first and each mode's file one of the last.
    first, *_, last = [text for text in result.decisions if "written down" in text or text.startswith("int8 was")]
    assert (first, last[:8]) == ("it was written down.", "int8 was")


def test_a_recipe_makes_the_same_files_without_a_trial(tmp_path: Path) -> None:
    there, again = tmp_path / "there", tmp_path / "again"
    Pipeline(request(there), {"path": "written.tflite", "sha256": None}).run(OPENED)
    path = there / "written.export.json"
    recipe = read_recipe(path)
    asked = replace(request(again), recipe=str(path))
    result = Pipeline(asked, {"path": "written.tflite", "sha256": None}, recipe).run(OPENED)
    for mode in ("float32", "int8"):
        name = f"written.{mode}.tflite"
        assert (again / name).read_bytes() == (there / name).read_bytes()
    assert not [text for text in result.decisions if "corrected" in text]
    other = replace(OPENED, flatbuffer=written_encoder(seed=1))
    with pytest.raises(RequestError, match="made for another model"):
        Pipeline(replace(asked, force=True), {"path": "written.tflite", "sha256": None}, recipe).run(other)


def test_nothing_is_written_by_a_run_that_fails(tmp_path: Path) -> None:
    asked = request(tmp_path, normalization="frozen")
    with pytest.raises(RequestError, match="no min-max normalization"):
        Pipeline(asked, {"path": "written.tflite", "sha256": None}).run(OPENED)
    assert list(tmp_path.iterdir()) == []


def test_damaged_figures_are_told_before_anything_is_done(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    figures.write_text("{}")
    asked = replace(request(tmp_path, pareto=True, measure=True), measured=str(figures))
    with pytest.raises(Exception, match=r"figures\.json"):
        Pipeline(asked, {"path": "written.tflite", "sha256": None})


def test_a_file_is_made_twice_alike(steps: Prepared, tmp_path: Path) -> None:
    """A maker keeps nothing of what it made: order and repetition change neither bytes nor what is told."""
    first = steps.maker.make("int8")
    steps.maker.make("float32")
    second = steps.maker.make("int8")
    assert first == second
    assert [text[:8] for text in first.decisions] == ["int8 was"]
    path = tmp_path / "written.int8.tflite"
    path.write_bytes(first.data)
    with Encoder(path) as encoder:
        assert encoder.embed(IMAGES[:2]).shape == (2, 8)


def test_a_draft_is_not_corrected(steps: Prepared) -> None:
    made, (graph, _) = steps.maker.make("int8"), steps.maker.draft({})
    assert made.recipe.corrections
    assert steps.maker.correct({}) == made.graph != graph


class Refusing:
    """A maker that makes some modes only."""

    def __init__(self, made: Made, errors: dict[str, Exception]) -> None:
        self.made, self.errors = made, errors

    def make(self, mode: str, precision: Any = None) -> Made:
        if mode in self.errors:
            raise self.errors[mode]
        return replace(self.made, mode=mode, recipe=FileRecipe((), precision or {}), decisions=(f"{mode} was made.",))


@pytest.mark.parametrize("error", [ConversionError("no kernel"), InterpreterFailedError("no kernel")])
def test_a_mode_that_fails_costs_the_others_nothing(steps: Prepared, error: Exception) -> None:
    maker: Any = Refusing(steps.maker.make("float32"), {"int8": error})
    made, not_made = make_modes(["float32", "int8", "int16x8"], maker, {"int16x8": {"a": "float"}})
    assert [(item.mode, item.precision) for item in made] == [("float32", {}), ("int16x8", {"a": "float"})]
    assert not_made == (NotMade("int8", "no kernel"),)
    files = make_files(steps.request, steps.graph, None, maker, Stopwatch("litert", 1))
    assert files.decisions == ("float32 was made.",)
    with pytest.raises(type(error), match="no kernel"):
        make_modes(["int8"], maker, {})


def test_only_named_modes_fail(steps: Prepared) -> None:
    file = ExportedFile("int8", Path("x"), 1, "", {}, (), None, {}, None, None, None, None, ())
    crashed = replace(file, verified=(Verdict("ai-edge-litert", "2", False, "crashed"),))
    assert failed_modes(["int8"], [file], [NotMade("int16x8", "no kernel")]) == ()
    assert failed_modes(["int8", "int16x8"], [crashed], [NotMade("int16x8", "no kernel")]) == (
        "there is no int16x8 file: no kernel",
        "the int8 file fails on ai-edge-litert: crashed",
    )


class Steady(Stopwatch):
    """Takes the size of a file for its latency, so that a search finds the same everywhere."""

    def time(self, files: Sequence[bytes]) -> list[Timing]:
        base = len(files[0])
        return [replace(Timing(float(len(data))), relative=len(data) / base) for data in files]


class Stopped(Stopwatch):
    """Fails at once."""

    def time(self, files: Sequence[bytes]) -> list[Timing]:
        raise InterpreterFailedError("no interpreter")


def test_a_search_returns_files_figures_and_decisions(steps: Prepared) -> None:
    """Given a limit that int8 misses. Result: a file that keeps it, told once; the same search again finds the same."""
    made = [steps.maker.make("int8")]
    plan = steps.calibrated.plan
    asked = replace(steps.request, budget=steps.request.budget)
    found = [MixedFiles(asked, steps.graph, plan, steps.maker, Steady("litert", 1)).find(made) for _ in range(2)]
    assert found[0].report is not None
    assert [item.mode for item in found[0].files] == ["mixed"]
    assert replace(found[0].report, seconds=0) == replace(found[1].report or found[0].report, seconds=0)
    assert [item.data for item in found[0].files] == [item.data for item in found[1].files]
    assert found[0].judged.keys() == {"int8", *(item.mode for item in found[0].files)}
    assert all(item.decisions == () for item in found[0].files)
    assert found[0].decisions == found[1].decisions


def test_a_search_that_cannot_run_costs_only_itself(steps: Prepared) -> None:
    made = [steps.maker.make("int8")]
    found = MixedFiles(steps.request, steps.graph, steps.calibrated.plan, steps.maker, Stopped("litert", 1)).find(made)
    assert (found.files, found.report) == ((), None)
    assert list(found.judged) == ["int8"]
    assert found.decisions == ("the search for layers that should not be int8 ended early: no interpreter",)
