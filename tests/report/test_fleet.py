"""Many monitors' files as one report: exact, whatever the order; each error names its file."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

from embedlite.report.fleet.fleet import join_fleet
from embedlite.report.fleet.outliers import find_outliers, tail_probability
from embedlite.runtime import DriftMonitor, Encoder
from embedlite.runtime.drift.gates import DEFAULT_GATES
from embedlite.runtime.drift.stored import pack_embeddings
from embedlite.runtime.errors import EmptyDataError, MonitorStateError, RequestError
from embedlite.runtime.files import json_bytes
from embedlite.runtime.monitor.paired import add_pair, paired_layout
from embedlite.runtime.monitor.state import MonitorState, read_state
from embedlite.runtime.monitor.tallies import Statistics

from conftest import Digits, Run, error_line
from digit_vectors import digit_images, digit_vectors
from ways_out import walk, walks

DEVICES = ("attic", "barn", "cellar", "door")


@pytest.fixture(scope="module")
def images(digits: Digits) -> np.ndarray:
    return digit_images(digits, 200)


@pytest.fixture(scope="module")
def vectors(digits: Digits, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return digit_vectors(digits, images)


@pytest.fixture(scope="module")
def fleet(digits: Digits, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the states of four devices that saw 50 images each, ``whole.json`` of one that saw them all, and
    the same beside a distribution."""
    folder = tmp_path_factory.mktemp("fleet")
    with Encoder(digits.int8, threads=1) as encoder, Encoder(digits.float32, threads=1) as float32:
        home = folder / "home.npz"
        home.write_bytes(pack_embeddings(float32.embed(images), list(map(str, range(len(images)))), "ab" * 32))
        for prefix, reference in (("", digits.float32), ("crowd-", home)):
            for number, name in enumerate((*DEVICES, "whole")):
                seen = images if name == "whole" else images[number::4]
                with DriftMonitor(encoder, reference, every=1, budget=None, state=folder / f"{prefix}{name}.json") as m:
                    m.embed(seen)
    return folder


def paths(fleet: Path, prefix: str = "") -> list[Path]:
    return [fleet / f"{prefix}{name}.json" for name in DEVICES]


def store(
    path: Path, like: Path, pairs: tuple[np.ndarray, np.ndarray], device: str | None = None, inputs: int | None = None
) -> Path:
    """A state of its own series with these rows, of the same models as another one."""
    model = read_state(like)
    statistics = Statistics(paired_layout(model.embedding_size))
    for pair in zip(*pairs, strict=True):
        add_pair(statistics, *pair)
    counters = {"inputs": len(pairs[0]) if inputs is None else inputs, "skipped": 0, "failed": 0}
    state = MonitorState(
        model.candidate, model.reference, model.embedding_size, statistics, device, ["ai-edge-litert 0"], counters
    )
    path.write_bytes(state.to_bytes())
    return path


# Exact, and in no order


@pytest.mark.parametrize("prefix", ["", "crowd-"])
def test_a_fleet_is_what_one_device_would_have_seen(fleet: Path, prefix: str) -> None:
    joined, whole = (join_fleet(files) for files in (paths(fleet, prefix), [fleet / f"{prefix}whole.json"]))
    parts = [report.to_json() for report in (joined, whole)]
    for value in parts:
        del value["devices"]
    assert json_bytes(parts[0]) == json_bytes(parts[1])
    assert joined.state.counters["inputs"] == 200
    assert [device.name for device in joined.devices] == [f"{prefix}{name}" for name in DEVICES]


@pytest.mark.parametrize("prefix", ["", "crowd-"])
def test_the_order_of_the_files_does_not_show(fleet: Path, prefix: str) -> None:
    seen = {json_bytes(join_fleet(order).to_json()) for order in itertools.permutations(paths(fleet, prefix))}
    assert len(seen) == 1


def test_a_device_may_have_several_files(fleet: Path, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Its state was set aside, or it runs two processes; the name says that they belong together."""
    files = [
        store(tmp_path / f"{part}.json", fleet / "door.json", (vectors[0][part::2], vectors[1][part::2]), "door")
        for part in (0, 1)
    ]
    report = join_fleet(files)
    (device,) = report.devices
    assert (device.name, device.files) == ("door", tuple(map(str, files)))
    assert device.metrics == join_fleet([fleet / "whole.json"]).metrics


def test_devices_without_a_name_are_called_by_their_files(fleet: Path, tmp_path: Path) -> None:
    for name, folder in (("attic", "a"), ("barn", "b")):
        (tmp_path / folder).mkdir()
        shutil.copy(fleet / f"{name}.json", tmp_path / folder / "state.json")
    report = join_fleet([*tmp_path.glob("*/state.json"), fleet / "door.json"])
    assert {device.name for device in report.devices} == {
        f"{tmp_path}/a/state.json",
        f"{tmp_path}/b/state.json",
        "door",
    }


# The command


def test_the_command_says_what_the_fleet_saw(fleet: Path, run: Run, tmp_path: Path) -> None:
    done = run("drift-fleet", *paths(fleet), "--json", tmp_path / "fleet.json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("PASS: 4 device(s), 200 inputs, 200 compared with model ")
    table = {line.split()[0]: line for line in lines if line}
    for name, limit in DEFAULT_GATES.items():
        if not name.startswith("knn_"):
            assert re.search(rf"[<>]= {limit:g}  ok", table[name]), name
    for name in DEVICES:
        assert table[name].split()[1:6] == ["50", "0", "0", "50", "0"]
    report = json.loads((tmp_path / "fleet.json").read_text())
    assert (report["schema"], report["verdict"], report["outliers"]) == (1, "pass", [])
    assert report["metrics"]["count"] == 200
    assert [device["name"] for device in report["devices"]] == list(DEVICES)
    piped = run("drift-fleet", *reversed(paths(fleet)), "--json", "-")
    assert json.loads(piped.stdout) == report


def test_a_gate_that_fails_is_the_exit_code(fleet: Path, run: Run) -> None:
    done = run("drift-fleet", *paths(fleet), "--gate", "cosine_p1=0.999999", "--gate", "max_abs=0.5")
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL (cosine_p1): ")
    assert re.search(r"cosine_p1 .*>= 0\.999999  FAILED", done.stdout)
    assert re.search(r"max_abs .*<= 0\.5  ok", done.stdout)


def test_a_fleet_beside_a_distribution_has_its_own_gate(fleet: Path, run: Run) -> None:
    done = run("drift-fleet", *paths(fleet, "crowd-"))
    assert done.returncode == 0, done.stdout
    assert "compared with distribution" in done.stdout
    assert re.search(r"psi_excess .*<= 0\.25  ok", done.stdout)
    done = run("drift-fleet", *paths(fleet, "crowd-"), "--gate", "spread_ratio_min=1.5", "--gate", "psi_max=9")
    assert done.returncode == 1
    assert re.search(r"spread_ratio_min .*>= 1\.5  FAILED", done.stdout)
    assert re.search(r"psi_max .*<= 9  ok", done.stdout)


@pytest.mark.parametrize("gate", ["knn_overlap_cross=0.9", "psi_excess=1", "count=3", "cosine_p1", "cosine_p1=nan"])
def test_a_gate_that_these_files_cannot_tell_is_refused(gate: str, fleet: Path) -> None:
    with pytest.raises(RequestError, match=re.escape(gate.split("=", maxsplit=1)[0])):
        join_fleet(paths(fleet), [gate])


# Devices that stand out


def test_a_device_that_sends_the_vector_before_stands_out(
    fleet: Path, vectors: tuple[np.ndarray, np.ndarray], run: Run, tmp_path: Path
) -> None:
    """One in twenty has a fault that the fleet's own percentile hides: its vectors come one image late, sometimes."""
    mine, theirs = vectors
    files = [
        store(
            tmp_path / f"device{number:02d}.json", fleet / "door.json", (mine[number % 4 :: 4], theirs[number % 4 :: 4])
        )
        for number in range(19)
    ]
    late = mine[::4].copy()
    late[10:18] = late[9:17]
    files.append(store(tmp_path / "late.json", fleet / "door.json", (late, theirs[::4])))
    report = join_fleet(files)
    assert report.metrics["cosine_p1"] is not None
    assert report.metrics["cosine_p1"] > DEFAULT_GATES["cosine_p1"]
    assert [device.name for device in report.outliers] == ["late"]
    (why,) = report.outliers[0].outlier
    assert (why.what, why.value, why.others) == ("far", 8 / 50, 0.0)
    done = run("drift-fleet", *files)
    assert done.returncode == 1
    assert "FAIL (outlier late): " in done.stdout
    assert "\nlate is worse than the others: 16% of its inputs are off by " in done.stdout


def test_broken_vectors_of_one_device_stand_out(
    fleet: Path, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    mine, theirs = vectors
    files = [
        store(tmp_path / f"{number}.json", fleet / "door.json", (mine[number::4], theirs[number::4]))
        for number in range(3)
    ]
    broken = mine[3::4].copy()
    broken[::4] = np.nan
    files.append(store(tmp_path / "broken.json", fleet / "door.json", (broken, theirs[3::4])))
    report = join_fleet(files, ["invalid=20"])
    assert [device.name for device in report.outliers] == ["broken"]
    assert [why.what for why in report.outliers[0].outlier] == ["invalid"]


def test_a_device_whose_crowd_moved_stands_out(digits: Digits, fleet: Path, images: np.ndarray, tmp_path: Path) -> None:
    """Its camera sees the negative of everything."""
    with (
        Encoder(digits.int8, threads=1) as encoder,
        DriftMonitor(encoder, fleet / "home.npz", every=1, budget=None, state=tmp_path / "negative.json") as monitor,
    ):
        monitor.embed(255 - images)
    report = join_fleet([*paths(fleet, "crowd-"), tmp_path / "negative.json"])
    assert [device.name for device in report.outliers] == ["negative"]
    assert [why.what for why in report.outliers[0].outlier] == ["psi"]
    assert not report.passed


def test_drift_that_the_gate_allows_makes_no_outlier(
    fleet: Path, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Even of a device that drifts much more than the others, which do not drift at all."""
    mine, theirs = vectors
    files = [store(tmp_path / f"{number}.json", fleet / "door.json", (theirs, theirs)) for number in range(3)]
    files.append(store(tmp_path / "int8.json", fleet / "door.json", (mine, theirs)))
    assert join_fleet(files).outliers == []
    assert [device.name for device in join_fleet(files, ["cosine_p1=0.99999"]).outliers] == ["int8"]


@pytest.mark.parametrize(
    ("marked", "drawn", "all_marked", "rows"),
    [(5, 10, 20, 200), (30, 40, 60, 1000), (1, 1, 1, 2), (200, 1000, 5000, 100_000), (10, 10, 10, 1000)],
)
def test_the_tail_is_the_hypergeometric_one(marked: int, drawn: int, all_marked: int, rows: int) -> None:
    expected = hypergeom.sf(marked - 1, rows, all_marked, drawn)
    assert tail_probability(marked, drawn, all_marked, rows) == pytest.approx(expected, rel=1e-9)


def test_chance_alone_makes_no_outlier() -> None:
    """Two hundred fleets of twenty devices, all with 3 inputs in 100 that are far: one alarm in a thousand is meant."""
    rng = np.random.default_rng(0)
    layout, alarms = paired_layout(1), 0
    near, far = 100, 900
    for _ in range(200):
        devices = []
        for _ in range(20):
            statistics = Statistics(layout)
            statistics.counts["rows"] = rows = int(rng.integers(5, 300))
            marked = rng.binomial(rows, 0.03)
            statistics.tables["cosine_distance"][[near, far]] = rows - marked, marked
            devices.append(statistics)
        alarms += any(find_outliers(devices, None, 0.0))
    assert alarms <= 2


# What cannot be joined


@pytest.mark.parametrize(
    ("content", "message"),
    [
        walk(
            "). Fetch it again from the device, or leave it out",
            *(b"no state", "other.json is not a state of DriftMonitor, or damaged"),
        ),
        (None, "other.json is not a state of DriftMonitor, or damaged"),
        (b'{"embedlite": "drift-monitor", "schema": 9}', "other.json: it has schema 9; embedlite"),
        (b'{"embedlite": "reference-distribution", "schema": 1}', "other.json is not a state of DriftMonitor"),
    ],
)
def test_a_file_that_is_no_state_is_named(
    content: bytes | None, message: str, fleet: Path, run: Run, tmp_path: Path
) -> None:
    whole = (fleet / "door.json").read_bytes()
    (tmp_path / "other.json").write_bytes(whole[: len(whole) // 2] if content is None else content)
    command = ("drift-fleet", fleet / "attic.json")
    assert message in error_line(run(*command, tmp_path / "other.json"))
    (tmp_path / "other.json").write_bytes(whole)
    for right in (command, (*command, tmp_path / "other.json")):
        done = run(*right)
        assert done.returncode in (0, 1), done.stderr


def test_files_of_another_model_are_named(digits: Digits, fleet: Path, run: Run, tmp_path: Path) -> None:
    with (
        Encoder(digits.file("dynamic"), threads=1) as encoder,
        DriftMonitor(encoder, digits.float32, state=tmp_path / "other.json"),
    ):
        pass
    line = error_line(run("drift-fleet", *paths(fleet), tmp_path / "other.json"))
    assert "the files are of different models or references" in line
    assert "attic.json" in line
    assert "and 1 more" in line
    assert f"{tmp_path}/other.json" in line


@walks("inputs) grew out of one state, so inputs would count twice. Leave out")
def test_a_series_counts_once(digits: Digits, fleet: Path, run: Run, images: np.ndarray, tmp_path: Path) -> None:
    """A copy, and a later state of the same device: inputs would count twice."""
    shutil.copy(fleet / "door.json", tmp_path / "door.json")
    line = error_line(run("drift-fleet", fleet / "door.json", tmp_path / "door.json"))
    assert f"{fleet}/door.json (50 inputs)" in line
    assert f"{tmp_path}/door.json (50 inputs)" in line
    with (
        Encoder(digits.int8, threads=1) as encoder,
        DriftMonitor(encoder, digits.float32, every=1, budget=None, state=tmp_path / "door.json") as monitor,
    ):
        monitor.embed(images[:3])
    with pytest.raises(MonitorStateError, match=r"\(53 inputs\).* grew out of one state"):
        join_fleet([fleet / "door.json", tmp_path / "door.json"])
    with pytest.raises(MonitorStateError, match="grew out of one state"):
        join_fleet([fleet / "door.json", fleet / "door.json"])
    assert join_fleet([tmp_path / "door.json", fleet / "attic.json"]).state.counters["inputs"] == 53 + 50
    (tmp_path / "door.json").unlink()
    with (
        Encoder(digits.int8, threads=1) as encoder,
        DriftMonitor(encoder, digits.float32, every=1, budget=None, state=tmp_path / "door.json") as monitor,
    ):
        monitor.embed(images[:3])
    assert join_fleet([fleet / "door.json", tmp_path / "door.json"]).state.counters["inputs"] == 50 + 3


def test_nothing_compared_is_no_report(fleet: Path, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    empty = store(tmp_path / "door.json", fleet / "door.json", (vectors[0][:0], vectors[1][:0]), inputs=30)
    with pytest.raises(EmptyDataError, match="none of the 30 inputs of 1 device"):
        join_fleet([empty])
    # Beside others it tells that it is there.
    report = join_fleet([empty, fleet / "attic.json"])
    assert [device.metrics["count"] for device in report.devices] == [50, 0]


def test_no_files_and_a_file_that_is_missing(fleet: Path, run: Run) -> None:
    done = run("drift-fleet")
    assert done.returncode == 2
    assert "Missing argument 'FILES...'" in done.stderr
    assert "cannot read missing.json: No such file or directory" in error_line(run("drift-fleet", "missing.json"))
    assert "is named twice" in error_line(run("drift-fleet", fleet / "door.json", "--json", fleet / "door.json"))


def test_a_device_name_with_escape_sequences_is_one_harmless_line(
    fleet: Path, vectors: tuple[np.ndarray, np.ndarray], run: Run, tmp_path: Path
) -> None:
    evil = "\x1b[31mEVIL\x07\r\nfake: PASS"
    file = store(tmp_path / "evil.json", fleet / "attic.json", (vectors[0][:50], vectors[1][:50]), device=evil)
    done = run("drift-fleet", file)
    assert "\x1b" not in done.stdout
    assert any(line.startswith(r"\x1b[31mEVIL\x07\r\nfake: PASS ") for line in done.stdout.splitlines())
