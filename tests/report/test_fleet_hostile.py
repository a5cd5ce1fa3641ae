"""States that somebody changed and sealed again: one error, or figures that add up; never a crash, never twice."""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import HOSTILE, places

from embedlite.report.fleet.command import render_fleet
from embedlite.report.fleet.fleet import join_fleet
from embedlite.runtime.errors import EmbedliteError, UnreadableDataError
from embedlite.runtime.files import json_bytes, sha256
from embedlite.runtime.monitor.distribution import ReferenceDistribution, canonical_bytes
from embedlite.runtime.monitor.paired import add_pair, paired_layout
from embedlite.runtime.monitor.references import DistributionReference
from embedlite.runtime.monitor.state import MonitorState
from embedlite.runtime.monitor.tallies import Statistics
from embedlite.runtime.monitor.unpaired import add_row

SIZE, ROWS = 4, 30
SEED, CHANGES = 20, 700


def states(kind: str) -> list[MonitorState]:
    """Two devices of one fleet."""
    rng = np.random.default_rng(0)
    home = rng.normal(size=(ROWS, SIZE)).astype(np.float32)
    found = []
    for name in ("attic", "barn"):
        rows = rng.normal(size=(ROWS, SIZE)).astype(np.float32)
        if kind == "model":
            statistics = Statistics(paired_layout(SIZE))
            reference: dict[str, Any] = {"kind": kind, "sha256": "cd" * 32}
            for pair in zip(rows, home, strict=True):
                add_pair(statistics, *pair)
        else:
            distribution = ReferenceDistribution.from_embeddings(home, "cd" * 32)
            beside = DistributionReference(distribution)
            statistics, reference = Statistics(beside.layout), beside.identity()
            for row in rows:
                add_row(statistics, row, distribution)
        counters = {"inputs": 40, "skipped": 3, "failed": 1}
        candidate = {"sha256": "ab" * 32, "mode": "int8"}
        found.append(MonitorState(candidate, reference, SIZE, statistics, name, ["ai-edge-litert 2"], counters))
    return found


def seal(value: dict[str, Any]) -> bytes:
    """The file's content with a checksum that is right."""
    body = {name: value[name] for name in MonitorState.__dataclass_fields__ if name in value}
    text = json.dumps(body, sort_keys=True, separators=(",", ":")) + "\n"
    return (json.dumps({**value, "sha256": sha256(text.encode("utf-8", "surrogatepass"))}) + "\n").encode(
        "utf-8", "surrogatepass"
    )


def judge(paths: list[Path]) -> str:
    """What the command would make of files: "" and a report that can be shown and written, or the error."""
    try:
        report = join_fleet(paths)
    except EmbedliteError as error:
        return str(error)
    assert render_fleet(report, 100, details=True)
    value = json.loads(json_bytes(report.to_json()))
    assert value["metrics"]["count"] == sum(device["counters"]["inputs"] > 0 for device in value["devices"]) * ROWS
    return ""


@pytest.mark.parametrize("kind", ["model", "distribution"])
def test_a_number_of_too_many_digits_among_the_worst_rows(kind: str, tmp_path: Path) -> None:
    paths = [tmp_path / "attic.json", tmp_path / "barn.json"]
    for path, state in zip(paths, states(kind), strict=True):
        path.write_bytes(state.to_bytes())
    value = json.loads(paths[0].read_bytes())
    row = value["statistics"]["worst"][0]
    for name in row:
        changed = copy.deepcopy(value)
        changed["statistics"]["worst"][0][name] = 10**400
        paths[0].write_bytes(seal(changed))
        assert "is not a state of DriftMonitor, or damaged" in judge(paths)


@pytest.mark.parametrize("kind", ["model", "distribution"])
def test_any_figure_that_was_changed_and_sealed_again(kind: str, tmp_path: Path) -> None:
    """Any value in a place, a value of another place there, a place left out, any number a little off."""
    paths = [tmp_path / "attic.json", tmp_path / "barn.json"]
    for path, state in zip(paths, states(kind), strict=True):
        path.write_bytes(state.to_bytes())
    assert judge(paths) == ""
    sound, rng, told = json.loads(paths[0].read_bytes()), random.Random(SEED), 0
    for _ in range(CHANGES):
        value = copy.deepcopy(sound)
        found = list(places(value))
        container, key = rng.choice(found)
        how = rng.randrange(4)
        if how == 0:
            del container[key]
        elif how == 1:
            other, place = rng.choice(found)
            container[key] = copy.deepcopy(other[place])
        elif how == 2 and isinstance(container[key], (int, float)):
            container[key] = container[key] + rng.choice((-1, 1, 1e6))
        else:
            container[key] = copy.deepcopy(rng.choice(HOSTILE))
        paths[0].write_bytes(seal(value))
        told += judge(paths) != ""
    assert told > CHANGES / 2


CONTRADICTIONS: dict[str, tuple[str, ...]] = {
    "more invalid rows than rows": ("statistics", "counts", "invalid"),
    "more rows than inputs": ("counters", "failed"),
    "counters that are out of order, there twice or zero": ("statistics", "tables", "cosine_distance"),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_a_contradiction_is_named(message: str, tmp_path: Path) -> None:
    state = states("model")[0]
    value = json.loads(state.to_bytes())
    *way, last = CONTRADICTIONS[message]
    place = value
    for name in way:
        place = place[name]
    place[last] = f"{place[last]} 1:1" if isinstance(place[last], str) else 39
    path = tmp_path / "attic.json"
    path.write_bytes(seal(value))
    with pytest.raises(UnreadableDataError, match=message):
        join_fleet([path])


def test_a_name_that_is_there_twice_and_numbers_that_are_none(tmp_path: Path) -> None:
    data = states("model")[0].to_bytes()
    path = tmp_path / "attic.json"
    for changed, message in (
        (data.replace(b'"inputs":40', b'"inputs":40,"inputs":41'), "'inputs' is there twice"),
        (data.replace(b'"inputs":40', b'"inputs":NaN'), "NaN is not a figure"),
        (data.replace(b'"inputs":40', b'"inputs":-Infinity'), "-Infinity is not a figure"),
    ):
        path.write_bytes(changed)
        with pytest.raises(UnreadableDataError, match=message):
            join_fleet([path])


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "attic.json"
    path.write_bytes(states("model")[0].to_bytes())
    (tmp_path / "link.json").symlink_to("attic.json")
    for twice in ([path, path], [path, tmp_path / "link.json"], [path, tmp_path / "." / "attic.json"]):
        assert "inputs would count twice" in judge(twice)


def test_the_same_rows_of_a_device_under_another_series_count_once(tmp_path: Path) -> None:
    paths = [tmp_path / "attic.json", tmp_path / "again.json", tmp_path / "barn.json"]
    one, other = states("model")
    for path, state in zip(paths, (one, replace(one, series="ab" * 16), other), strict=True):
        path.write_bytes(state.to_bytes())
    assert "inputs would count twice" in judge(paths)
    assert judge(paths[1:]) == ""


def test_what_is_sealed_is_what_is_written(tmp_path: Path) -> None:
    """This file's own seal is the one that monitors write."""
    data = states("model")[0].to_bytes()
    assert canonical_bytes(json.loads(seal(json.loads(data)))) == data
