"""The search for layers that should not be int8, its limits, cache and recipe, as Python functions."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from embedlite.calibration import Ranges, collect_ranges
from embedlite.convert import Asked, export_asked
from embedlite.convert.errors import ConversionError
from embedlite.convert.graph.graph import Graph
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.make.recipe import read_recipe
from embedlite.convert.max_drift import METRICS, Budget, check_enough_images, limit_text, parse_budget
from embedlite.convert.modes import DYNAMIC, FLOAT, INT16
from embedlite.convert.normalization.prepare import FloatGraph, prepare
from embedlite.convert.outcome.table import render_result
from embedlite.convert.quantize.litert import quantize
from embedlite.convert.quantize.precision import Layer, by_operator, find_layers
from embedlite.convert.results import ExportedFile, ExportResult, Verdict
from embedlite.convert.search.pareto import mark_dominated
from embedlite.convert.search.search import PrecisionSearch
from embedlite.convert.search.trial_cache import SearchCache, fingerprint
from embedlite.convert.search.trials import SearchEndedError, Trials
from embedlite.convert.tune import train
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.backends.registry import BACKENDS
from embedlite.runtime.drift import Drift, measure_drift
from embedlite.runtime.drift.gates import apply_gates
from embedlite.runtime.errors import RequestError, UnreadableDataError
from embedlite.runtime.images.open import open_source

from encoders import small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (24, 24, 3)


def residual_encoder() -> Any:
    """Two branches that are added, so that an operator without weights stands between layers."""
    import keras

    keras.utils.set_random_seed(3)
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    y = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.Add()([x, y])
    x = layers.Conv2D(12, 3, strides=2, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.UnitNormalization()(layers.Dense(10, name="embedding")(x)), name="residual")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The residual encoder, saved."""
    path = tmp_path_factory.mktemp("model") / "residual.keras"
    residual_encoder().save(path)
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth random pictures, uint8."""
    rng = np.random.default_rng(5)
    coarse = rng.random((60, 4, 4, 3))
    return (np.kron(coarse, np.ones((1, 6, 6, 1))) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(images: np.ndarray) -> tuple[FloatGraph, Ranges]:
    graph = prepare(lower(from_keras(residual_encoder(), "residual", LoadOptions())).flatbuffer)
    return graph, collect_ranges(graph.flatbuffer, open_source(images, InputContract(SHAPE)))


def test_every_quantized_operator_belongs_to_one_layer(prepared: tuple[FloatGraph, Ranges]) -> None:
    """Given a residual network that ends in L2. Result: four layers, ADD with the later branch, no normalization."""
    graph, _ = prepared
    found = find_layers(graph.flatbuffer, graph.keep_float)
    assert [layer.operators for layer in found] == [
        ("CONV_2D",),
        ("CONV_2D", "ADD"),
        ("CONV_2D", "MEAN"),
        ("FULLY_CONNECTED",),
    ]
    written = [tensor for layer in found for tensor in layer.tensors]
    whole = Graph(graph.flatbuffer)
    every = [whole.tensor_name(int(operator.outputs[0])) for operator in whole.operators]
    assert sorted([*written, *graph.keep_float]) == sorted(every)


@pytest.mark.parametrize("kind", [FLOAT, DYNAMIC, INT16])
@pytest.mark.parametrize("place", range(4))
def test_only_the_named_layer_changes(
    prepared: tuple[FloatGraph, Ranges], images: np.ndarray, kind: str, place: int
) -> None:
    """Given one layer in another precision. Result: its weights and output have that type, all others stay int8."""
    graph, ranges = prepared
    found = find_layers(graph.flatbuffer, graph.keep_float)
    changed = quantize(
        graph.flatbuffer, "int8", ranges, graph.keep_float, precision=by_operator(found, {found[place].name: kind})
    )
    after = Graph(changed)
    types = [
        tuple(after.dtype(int(index)) for index in operator.inputs[:2])
        for operator in after.operators
        if after.operator_name(operator) in ("CONV_2D", "FULLY_CONNECTED")
    ]
    wanted = {FLOAT: ("float32", "float32"), DYNAMIC: ("float32", "int8"), INT16: ("int16", "int8")}[kind]
    assert [pair == wanted for pair in types] == [index == place for index in range(4)]
    assert [pair == ("int8", "int8") for pair in types] == [index != place for index in range(4)]


def test_float_everywhere_is_the_float_graph(prepared: tuple[FloatGraph, Ranges], images: np.ndarray) -> None:
    from embedlite.convert.graph.run import float_rows

    graph, ranges = prepared
    found = find_layers(graph.flatbuffer, graph.keep_float)
    precision = by_operator(found, {layer.name: FLOAT for layer in found})
    changed = quantize(graph.flatbuffer, "int8", ranges, graph.keep_float, precision=precision)
    ready = list(images[:8] / np.float32(255))
    np.testing.assert_allclose(float_rows(changed, ready, 1), float_rows(graph.flatbuffer, ready, 1), atol=1e-6)


# Limits


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sqnr=30", "expected NAME=VALUE"),
        ("sqnr_db", "expected NAME=VALUE"),
        ("sqnr_db=much", "not a finite number"),
        ("sqnr_db=nan", "not a finite number"),
        ("cka=0.9", "for information"),
        ("tar_loss=0.1", "expected NAME=VALUE"),
    ],
)
def test_unknown_limits_are_refused(text: str, told: str) -> None:
    with pytest.raises(RequestError, match=told) as error:
        parse_budget([text])
    assert "--max-drift" in str(error.value)


def test_limits_read_as_people_write_them() -> None:
    assert str(parse_budget(["sqnr_db=30", "max_abs=0.1"])) == "sqnr_db >= 30, max_abs <= 0.1"
    assert limit_text("knn_overlap_cross", 0.97) == "knn_overlap_cross >= 0.97"


@given(st.sampled_from([name for name in METRICS if name != "invalid"]), st.floats(-100, 100), st.floats(-100, 100))
def test_a_budget_is_kept_as_a_gate_is(name: str, value: float, limit: float) -> None:
    drift = Drift(**{**dict.fromkeys(Drift.__dataclass_fields__, 1.0), "count": 5, "invalid": 0, name: value})
    assert Budget({name: limit}).kept(drift) == apply_gates(vars(drift), {name: limit})[0].passed


@given(st.integers(0, 39))
def test_too_few_images_are_counted(count: int) -> None:
    with pytest.raises(RequestError, match=f"40 calibration images or more, and there are {count} "):
        check_enough_images(count)
    check_enough_images(40)


# Which files others make superfluous


def described(latency: float | None, sqnr: float | None, size: int, *runs: str) -> ExportedFile:
    drift = Drift(**{**dict.fromkeys(Drift.__dataclass_fields__, 0), "sqnr_db": sqnr})
    verified = tuple(Verdict(name, "1", True, "") for name in runs or ("ai-edge-litert",))
    return ExportedFile("int8", Path("x"), size, "", {}, (), drift, {}, latency, latency, latency, None, verified)


FILES = st.lists(
    st.builds(
        described,
        st.one_of(st.none(), st.floats(1, 1000)),
        st.one_of(st.none(), st.floats(0, 100)),
        st.integers(1000, 100000),
        st.sampled_from(["ai-edge-litert", "tflite-micro"]),
    ),
    min_size=1,
    max_size=8,
)


@given(FILES)
def test_some_file_is_never_dominated_and_the_best_of_its_runtime_never_is(files: list[ExportedFile]) -> None:
    marked = mark_dominated(files)
    timed = [file for file in marked if file.latency_us is not None]
    for file in timed:
        same = [other for other in timed if other.verified == file.verified and other is not file]
        if all(other.latency_us > file.latency_us * 1.04 for other in same):
            assert not file.dominated, "the fastest one"
        if all(other.bytes > file.bytes * 1.03 for other in same):
            assert not file.dominated, "the smallest one"


@pytest.mark.parametrize(
    ("one", "other", "dominated"),
    [
        (described(100, 40, 1000), described(100, 39, 1000), True),
        (described(102, 40, 1010), described(100, 39, 1000), True),
        (described(110, 40, 1000), described(100, 39, 1000), False),
        (described(100, 40, 1030), described(100, 39, 1000), False),
        (described(100, 40, 1000), described(100, 40, 1000), False),
        (described(50, 40, 1000), described(100, 40, 1000), True),
        (described(50, None, 1000), described(100, 40, 1000), True),
        (described(50, 40, 1000), described(100, None, 1000), False),
        (described(50, 40, 1000), described(None, 30, 1000), True),
        (described(50, 40, 1000), described(100, 30, 1000, "ai-edge-litert", "tflite-micro"), False),
    ],
)
def test_what_dominates(one: ExportedFile, other: ExportedFile, dominated: bool) -> None:
    assert [file.dominated for file in mark_dominated([one, other])] == [False, dominated]


# The cache of a search


@given(st.dictionaries(st.text(min_size=1), st.sampled_from([FLOAT, DYNAMIC, INT16])), st.floats(0, 1e9), st.booleans())
def test_the_cache_gives_back_what_it_was_given(precision: dict[str, str], error: float, runs: bool) -> None:
    import tempfile

    drift = Drift(**dict.fromkeys(Drift.__dataclass_fields__, 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "search.json")
        cache = SearchCache(path, fingerprint({"a": 1}))
        cache.remember_base(12.5)
        cache.remember(precision, np.array([error, math.inf]), drift, 100, 0.5 if runs else None)
        cache.save()
        again = SearchCache(path, fingerprint({"a": 1}))
        assert again.base_us == 12.5
        errors, found, size, relative = again.find(precision)
        assert (errors.tolist(), found, size, relative) == ([error, math.inf], drift, 100, 0.5 if runs else None)
        other = SearchCache(path, fingerprint({"a": 2}))
        assert other.base_us is None
        assert other.find(precision) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 2, "kind": "search cache", "searches": {}}'])
def test_another_file_is_no_search_cache(tmp_path: Path, content: str) -> None:
    path = tmp_path / "search.json"
    path.write_text(content)
    with pytest.raises(UnreadableDataError, match="is not a search cache of this version, or damaged"):
        SearchCache(path, "x")
    assert path.read_text() == content


# Whole exports


def compared(model: Any, folder: Path, images: np.ndarray, **options: Any) -> ExportResult:
    data = {"calibration_data": images[:48], "test_data": images[48:]}
    asked = {"calibrate_method": "minmax", "correct": ["none"], "threads": 1, **data, **options}
    return export_asked(model, Asked(output_dir=folder, **asked))


BOTH = ["float32", "int8"]


@pytest.fixture(scope="module")
def searched(model: Path, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportResult]:
    """Every mode, a search, and its cache."""
    folder = tmp_path_factory.mktemp("searched")
    result = compared(
        model,
        folder,
        images,
        pareto=True,
        search_cache=folder / "cache.json",
        quantize=["float32", "int8"],
    )
    return folder, result


def test_the_search_finds_less_drift_on_images_that_it_never_saw(
    searched: tuple[Path, ExportResult], images: np.ndarray
) -> None:
    folder, result = searched
    mixed = [file for file in result.files if file.mode.startswith("mixed")]
    assert mixed
    sqnr = {}
    with Encoder(folder / "residual.float32.tflite") as encoder:
        reference = encoder.embed(images[48:])
    for file in result.files[1:]:
        with Encoder(file.path) as encoder:
            found = measure_drift(encoder.embed(images[48:]), reference, k=None)[0].sqnr_db
            sqnr[file.mode] = math.inf if found is None else found
        assert file.contract["mode"] == ("int8" if file.mode == "int8" else "mixed")
    assert all(sqnr[file.mode] > sqnr["int8"] + 0.5 for file in mixed)
    latencies = [file.latency_us for file in result.files]
    assert all(latency is not None and latency > 0 for latency in latencies)
    assert all(file.latency_low_us <= file.latency_us <= file.latency_high_us for file in result.files)
    assert all(
        file.intervals["sqnr_db"][0] <= file.drift.sqnr_db <= file.intervals["sqnr_db"][1] for file in result.files
    )


def test_every_layer_has_its_sensitivity(searched: tuple[Path, ExportResult]) -> None:
    _, result = searched
    assert result.search is not None
    rows = result.search.sensitivity
    assert {(row.layer, row.precision) for row in rows} >= {
        (row.layer, kind) for row in rows for kind in BACKENDS["litert"].precisions
    }
    # The layer that the int8 file computes in float anyway is not tried.
    (kept,) = (
        text for text in result.decisions if text.startswith("the last layer (its weights in 8 bits) is computed")
    )
    assert len({row.layer for row in rows}) == 3, kept
    assert [row.gained_db for row in rows] == sorted((row.gained_db for row in rows), reverse=True)
    tried = {json.dumps(dict(item.precision), sort_keys=True): item for item in result.search.tried}
    for row in rows:
        same = tried[json.dumps({row.layer: row.precision})]
        assert (same.sqnr_db, same.latency_us) == (row.sqnr_db, row.latency_us)
        assert row.gained_db == pytest.approx(row.sqnr_db - tried["{}"].sqnr_db)
        assert row.added_us == pytest.approx(row.latency_us - tried["{}"].latency_us)
    assert result.search.ended == "finished"
    assert result.search.images == 48


def test_mixed_files_are_fine_tuned_by_their_own_names(
    model: Path,
    searched: tuple[Path, ExportResult],
    images: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the time is theirs; those that hold images of their own judge, because the others are trained on.

    Whatever comes of it is kept, and measured beside the file that would have been written without. What a search found
    whose images were others is of no use.
    """
    monkeypatch.setattr(train, "better", lambda *_: True)
    tuning = {"fine_tune": True, "fine_tune_time": 2.0, "search_cache": tmp_path / "cache.json"}
    shutil.copy(searched[0] / "cache.json", tmp_path)
    result = compared(model, tmp_path, images, pareto=True, quantize=BOTH, **tuning)
    mixed = [file.mode for file in result.files if file.mode.startswith("mixed")]
    assert mixed
    for mode in ("int8", *mixed):
        (told,) = [text for text in result.decisions if re.search(rf"\b{mode}\b.* fine-tun", text)]
        reports = [tuned for tuned in result.fine_tuning if tuned.mode == mode]
        kept = [tuned.sha256 for tuned in reports if tuned.kept]
        assert (" changed by fine-tuning" in told) == bool(kept), told
        assert reports or "no layer" in told or "none of its layers" in told
        recipe = json.loads((tmp_path / "residual.export.json").read_text())["recipe"]["files"][mode]
        assert recipe["tuned"] == (kept[0] if kept else None)
    assert result.search is not None
    assert {tuned.held_out for tuned in result.fine_tuning} == {result.search.images}
    searches = json.loads((tmp_path / "cache.json").read_text())["searches"].values()
    judged = [{len(tried["errors"]) for tried in search["tried"].values()} for search in searches]
    assert judged == [{48}, {result.search.images}]
    untuned = {file.mode: file.untuned for file in result.files if file.untuned is not None}
    assert "int8" in untuned
    table = render_result(result, 200, details=True).splitlines()
    for file in result.files:
        before = untuned.get(file.mode)
        assert (before is None) == (file.mode not in {tuned.mode for tuned in result.fine_tuning})
        if before is None:
            continue
        assert before.sha256 != file.sha256
        assert {verdict.runtime for verdict in before.verified} == {verdict.runtime for verdict in file.verified}
        assert before.latency_us is not None
        place = next(number for number, line in enumerate(table) if line.startswith(file.path.name))
        figures = table[place + 1].removeprefix("  not fine-tuned (not written)").split()
        assert figures[:2] == [f"{before.bytes:,}", f"{before.drift.sqnr_db:.1f}"]
        (said,) = [
            text
            for text in result.decisions
            if f"fine-tuning did to {file.mode}:" in text or f"tuning made {file.mode} worse:" in text
        ]
        assert f"{before.drift.sqnr_db:.1f} -> {file.drift.sqnr_db:.1f} dB" in said
        assert said.startswith("WARNING") == (file.drift.sqnr_db <= before.drift.sqnr_db - 0.3)
    written = json.loads((tmp_path / "residual.export.json").read_text())["files"]
    assert {file["mode"] for file in written if file["untuned"] is not None} == set(untuned)
    assert len(list(tmp_path.glob("*.tflite"))) == len(result.files)


def test_a_second_search_takes_everything_from_the_cache(
    model: Path, searched: tuple[Path, ExportResult], images: np.ndarray, tmp_path: Path
) -> None:
    folder, first = searched
    before = (folder / "cache.json").read_bytes()
    second = compared(
        model,
        tmp_path,
        images,
        pareto=True,
        search_cache=folder / "cache.json",
        quantize=["float32", "int8"],
    )
    assert (folder / "cache.json").read_bytes() == before
    assert second.search is not None
    assert first.search is not None
    assert replace(second.search, seconds=first.search.seconds) == first.search
    assert [file.sha256 for file in second.files] == [file.sha256 for file in first.files]


def test_a_file_that_images_do_not_prefer_is_not_written(
    model: Path,
    searched: tuple[Path, ExportResult],
    images: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given images that prefer nothing to int8. Result: int8 alone, and a line that says so."""
    monkeypatch.setattr("embedlite.convert.search.mixed.better", lambda *_: False)
    cache = searched[0] / "cache.json"
    result = compared(model, tmp_path, images, pareto=True, search_cache=cache, quantize=BOTH)
    assert [file.mode for file in result.files] == BOTH
    assert any("not clearly better than that, so it is not written" in text for text in result.decisions)
    assert not list(tmp_path.glob("*mixed*"))


def test_a_recipe_makes_the_same_files(
    model: Path, searched: tuple[Path, ExportResult], images: np.ndarray, tmp_path: Path
) -> None:
    folder, first = searched
    recipe = folder / "residual.export.json"
    again = compared(model, tmp_path, images, recipe=recipe)
    assert again.search is None
    assert [file.mode for file in again.files] == [file.mode for file in first.files]
    for one, other in zip(first.files, again.files, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert again.recipe == first.recipe
    assert not any("the recipe was made with" in decision for decision in again.decisions)


def test_other_versions_than_a_recipe_s_are_told(searched: tuple[Path, ExportResult]) -> None:
    recipe = read_recipe(searched[0] / "residual.export.json")
    assert recipe.explain_tools(recipe.tools) == []
    (told,) = recipe.explain_tools({**recipe.tools, "keras": "99"})
    assert f"keras {recipe.tools['keras']} (here 99)" in told
    assert "tensorflow" not in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mean": (10.0,)}, "was made with input"),
        ({"input_type": "int8"}, "was made with input_type null"),
        ({"equalize": False}, "was made with equalize true"),
    ],
)
def test_a_recipe_with_other_settings_is_refused(
    model: Path,
    searched: tuple[Path, ExportResult],
    images: np.ndarray,
    tmp_path: Path,
    change: dict[str, Any],
    told: str,
) -> None:
    with pytest.raises(RequestError, match=told):
        compared(model, tmp_path, images, recipe=searched[0] / "residual.export.json", **change)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_for_another_model_or_other_images_is_refused(
    model: Path, searched: tuple[Path, ExportResult], images: np.ndarray, tmp_path: Path
) -> None:
    recipe = searched[0] / "residual.export.json"
    with pytest.raises(RequestError, match="was made for another model: its float graph is"):
        compared(small_encoder([layers.Flatten()]), tmp_path, images, recipe=recipe)
    with pytest.raises(RequestError, match="was made with calibration images"):
        compared(model, tmp_path, images[::-1] // 2, recipe=recipe)
    assert list(tmp_path.iterdir()) == []


def test_time_that_is_up_ends_the_search_with_the_best_so_far(model: Path, images: np.ndarray, tmp_path: Path) -> None:
    result = compared(model, tmp_path, images, pareto=True, time_budget=1e-9, quantize=BOTH)
    assert result.search is not None
    assert result.search.ended == "time budget"
    assert [file.mode for file in result.files] == ["float32", "int8"]
    assert any("until its time was up" in decision for decision in result.decisions)


def test_a_budget_among_modes_without_int8_needs_no_search(images: np.ndarray, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    # Enough weights for dynamic to round them: a smaller layer stays float there, and either file keeps the limit.
    model = small_encoder([layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dense(64)])
    data = {"calibration_data": images[:48], "test_data": images[48:]}
    modes = ["float16", "dynamic"]
    result = export_asked(
        model, Asked(output_dir=tmp_path, **data, max_drift=["sqnr_db=60"], quantize=modes, threads=1)
    )
    assert (result.search, result.missed) == (None, ())
    assert [file.mode for file in result.files] == ["float16"]


# What trials do with files that cannot be made or do not run


def test_a_file_that_cannot_be_made_or_does_not_run_is_no_choice() -> None:
    drift = Drift(**dict.fromkeys(Drift.__dataclass_fields__, 1))
    judge: Any = SimpleNamespace(
        measure=lambda quantized: (np.array([float(len(quantized))]), drift),
        errors_of=lambda quantized: np.array([float(len(quantized))]),
    )

    def make(precision: dict[str, str]) -> tuple[bytes, bytes]:
        if "impossible" in precision:
            raise ConversionError("no kernel")
        return b"x" * (1 + len(precision)), b"broken" if "broken" in precision else b"file"

    class Clock:
        package = "ai-edge-litert"

        def time(self, files: list[bytes]) -> list[SimpleNamespace]:
            runs = [file != b"broken" for file in files]
            return [
                SimpleNamespace(latency_us=5.0 if run else None, relative=1.0 if run else None, error="")
                for run in runs
            ]

    clock: Any = Clock()
    trials = Trials(make, judge, clock, SearchCache(None, ""), None)
    tried = trials.try_all([{"impossible": FLOAT}, {"broken": FLOAT}, {"fine": FLOAT}], "trying")
    assert [item.precision for item in tried] == [{"fine": FLOAT}]
    assert [item.precision for item in trials.all] == [{}, {"fine": FLOAT}]
    assert trials.noise({"impossible": FLOAT}) == math.inf
    assert trials.noise({"one": FLOAT, "two": FLOAT}) == 3


def test_no_file_is_tried_when_the_time_is_up() -> None:
    drift = Drift(**dict.fromkeys(Drift.__dataclass_fields__, 1))
    judge: Any = SimpleNamespace(measure=lambda quantized: (np.ones(1), drift))
    clock: Any = SimpleNamespace(
        package="x", time=lambda files: [SimpleNamespace(latency_us=1.0, relative=1.0)] * len(files)
    )
    trials = Trials(lambda precision: (b"", b""), judge, clock, SearchCache(None, ""), -1)
    # The time is the search's: what is made before does not use it up.
    assert len(trials.try_all([{"a": FLOAT}], "trying")) == 1
    with trials.limited(), pytest.raises(SearchEndedError):
        trials.try_all([{"b": FLOAT}], "trying")
    assert len(trials.all) == 2


@pytest.mark.parametrize(("limit", "best", "reached"), [(5.0, "b", "b"), (8.0, "c", "b"), (1.0, None, "b")])
def test_what_was_tried_before_the_time_was_up_may_keep_the_limits(
    limit: float, best: str | None, reached: str
) -> None:
    """Time for each layer alone, and for nothing after that."""
    noises, latencies = {"a": 5.0, "b": 4.0, "c": 7.0}, {"a": 1.1, "b": 1.05, "c": 1.02}
    drift = Drift(**dict.fromkeys(Drift.__dataclass_fields__, 1))
    judge: Any = SimpleNamespace(
        measure=lambda quantized: (np.array([noises.get(quantized.decode(), 10.0)]), drift),
        errors_of=lambda quantized: np.array([1.0]),
    )

    class Clock:
        package = "ai-edge-litert"

        def time(self, files: list[bytes]) -> list[SimpleNamespace]:
            if len(files) > 1:
                time.sleep(0.3)
            names = [file.decode() for file in files]
            return [SimpleNamespace(latency_us=5.0, relative=latencies.get(name, 1.0), error="") for name in names]

    def make(precision: dict[str, str]) -> tuple[bytes, bytes]:
        name = "".join(precision).encode()
        return name, name

    clock: Any = Clock()
    trials = Trials(make, judge, clock, SearchCache(None, ""), 0.2)
    search = PrecisionSearch(
        [Layer(name, ("CONV_2D",), (name,)) for name in noises],
        [FLOAT],
        trials,
        lambda tried: tried.noise <= limit,
        lambda tried: tried.noise <= limit,
        math.inf,
    )
    found = search.run()
    assert found.ended == "time budget"
    assert (None if found.best is None else "".join(found.best.precision)) == best
    assert "".join(found.reached.precision) == reached


def test_a_graph_that_the_npu_does_not_time_is_exported_without_a_search(images: np.ndarray, tmp_path: Path) -> None:
    """A running sum, which stays float and which the Ethos-U leaves to the CPU."""
    inputs = layers.Input(SHAPE)
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    encoder = keras.Model(inputs, layers.Dense(16)(keras.ops.cumsum(layers.GlobalMaxPooling2D()(x), axis=1)))
    result = compared(encoder, tmp_path, images, quantize=["int8"], pareto=True, targets=["ethos-u"])
    assert result.search is None
    assert [file.mode for file in result.files] == ["int8"]
    assert any("no layers were searched" in text and "CUMSUM" in text for text in result.decisions)
