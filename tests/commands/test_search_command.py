"""``export-tflite --pareto``, ``--max-drift`` and ``--recipe`` as a user types them."""

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from conftest import Run, error_line
from ways_out import walks


@pytest.fixture(scope="module")
def compared(small: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, str]:
    """The folder of a whole comparison, and what it printed."""
    folder = tmp_path_factory.mktemp("compared")
    done = run("export-tflite", small, "-o", folder, "--calibration-data", photos, "--pareto", "--threads", "1", "-v")
    assert done.returncode == 0, done.stderr
    assert all(re.fullmatch(r"[a-z ]+: \d+\.\d s", line) for line in done.stderr.splitlines()), done.stderr
    return folder, done.stdout


def test_the_comparison_has_every_mode_and_says_what_is_superfluous(compared: tuple[Path, str]) -> None:
    folder, text = compared
    value = json.loads((folder / "small.export.json").read_text())
    modes = [file["mode"] for file in value["files"]]
    assert modes[:5] == ["float32", "float16", "dynamic", "int8", "int16x8"]
    assert all(mode.startswith("mixed") for mode in modes[5:])
    assert {folder / file["path"] for file in value["files"]} == set(folder.glob("*.tflite"))
    assert all(file["dominated"] in (True, False) for file in value["files"])
    rows = {line.split()[0]: line for line in text.splitlines() if ".tflite " in line}
    for file in value["files"]:
        low, high = file["intervals"]["sqnr_db"]
        assert f"{file['drift']['sqnr_db']:.1f} ({low:.1f}-{high:.1f})" in rows[file["path"]]
        quartiles = f"({file['latency_low_us']:,.0f}-{file['latency_high_us']:,.0f})"
        assert f"{file['latency_us']:,.0f} {quartiles}" in rows[file["path"]]
    dominated = [file["mode"] for file in value["files"] if file["dominated"]]
    assert (f"dominated: {', '.join(dominated)}: " in " ".join(text.split())) == bool(dominated)
    assert "layers that cost most drift as int8" in text
    assert "CPU: ship small." in text
    assert "\x1b" not in text


@walks("was made with golden vectors of other images")
def test_a_recipe_makes_every_file_again(
    compared: tuple[Path, str], small: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    folder, _ = compared
    recipe = folder / "small.export.json"
    done = run("export-tflite", small, "-o", tmp_path, "--calibration-data", photos, "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    told = error_line(
        run(
            *("export-tflite", small, "-o", tmp_path / "other", "--calibration-data", photos, "--recipe", recipe),
            *("--golden-from", photos),
        )
    )
    assert "golden vectors of other images" in told
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").iterdir())
    made = sorted(path.name for path in folder.glob("*.tflite"))
    assert sorted(path.name for path in tmp_path.glob("*.tflite")) == made
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in made)


@walks(
    "--measured compares files by their latencies on a device, which has",
    "--measured is about files that a device has, and --max-drift makes",
)
def test_latencies_of_a_device_take_the_place_of_those_here(
    compared: tuple[Path, str], small: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    folder, _ = compared
    figures = tmp_path / "device.json"
    done = run("embed-tflite", folder, "--measure", figures, "--threads", "1")
    assert done.returncode == 0, done.stderr
    value = json.loads(figures.read_text())
    for place, file in enumerate(value["files"], 1):
        file |= {"low_us": 1000.0 * place, "latency_us": 2000.0 * place, "high_us": 3000.0 * place}
    value["device"]["cpu"] = "a slow board"
    figures.write_text(json.dumps(value))
    common = (
        "export-tflite",
        small,
        "--calibration-data",
        photos,
        "--pareto",
        "--recipe",
        folder / "small.export.json",
    )
    given = ("export-tflite", small, "-o", tmp_path / "none", "--calibration-data", photos, "--measured", figures)
    assert "Export with --pareto, measure that folder there, and repeat the command with --recipe" in error_line(
        run(*given)
    )
    assert "Leave --max-drift out, and name" in error_line(run(*given, "--pareto", "--max-drift", "sqnr_db=3"))
    # The fastest fails its golden vectors there, and another one crashes.
    value["files"][0]["selftest"]["verdict"] = "fail"
    value["files"][1] |= dict.fromkeys(("low_us", "latency_us", "high_us", "selftest")) | {"error": "crashed"}
    figures.write_text(json.dumps(value))
    done = run(*common, "-o", tmp_path / "again", "--measured", figures, "-v")
    assert done.returncode == 0, done.stderr
    assert "a slow board" in done.stdout
    result = json.loads((tmp_path / "again/small.export.json").read_text())
    assert result["measured_on"]["device"]["cpu"] == "a slow board"
    there = {file["path"]: (file["latency_us"], file["verified"][-1]) for file in result["files"]}
    assert len(there) == len(value["files"]) > 2
    for place, file in enumerate(value["files"]):
        latency, verdict = there[file["path"]]
        assert (latency, verdict["ok"]) == ((None, False) if place < 2 else (file["latency_us"], True))
        assert verdict["runtime"] == "device"
        assert (f"{file['path']} failed on the device" in " ".join(done.stdout.split())) == (place < 2)
        assert f"CPU: ship {file['path']}" not in done.stdout or place >= 2

    value["files"][0]["model_sha256"] = "0" * 64
    figures.write_text(json.dumps(value))
    told = error_line(run(*common, "-o", tmp_path / "other", "--measured", figures))
    assert "000000000000" in told
    assert not (tmp_path / "other").exists()


def test_the_fastest_file_within_the_budget_is_the_only_one_written(
    small: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    data = ("--calibration-data", photos, "--threads", "1", "--correct", "none")
    done = run("export-tflite", small, "-o", tmp_path, *data, "--max-drift", "sqnr_db=20", "--max-drift", "invalid=0")
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "small.export.json").read_text())
    (file,) = value["files"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file["path"], "small.export.json"])
    assert value["limits"] == {"sqnr_db": 20, "invalid": 0}
    assert value["missed"] == []
    assert file["drift"]["sqnr_db"] is None or file["drift"]["sqnr_db"] >= 20
    assert f"sqnr_db >= 20, invalid <= 0: ship {file['path']} (" in " ".join(done.stdout.split())
    assert "-q int8" not in done.stdout


@pytest.mark.parametrize(("mode", "written"), [("int8", True), ("float16", False)])
def test_c_source_is_of_the_file_that_was_chosen(
    small: Path, photos: Path, tmp_path: Path, run: Run, mode: str, written: bool
) -> None:
    # Only float16 is exact enough for the second limit, and float32 is not asked for.
    limit = {"int8": "sqnr_db=15", "float16": "sqnr_db=60"}[mode]
    data = ("--calibration-data", photos, "--threads", "1", "--correct", "none", "-q", "int8", "-q", mode)
    done = run(
        "export-tflite", small, "-o", tmp_path, *data, "--max-drift", limit, "--c-array", "--time-budget", "0.01"
    )
    assert done.returncode == 0, done.stderr
    (file,) = json.loads((tmp_path / "small.export.json").read_text())["files"]
    sources = sorted(path.stem for path in tmp_path.glob("*.c"))
    if written:
        assert sources == [file["path"].removesuffix(".tflite")]
    else:
        assert (file["mode"], sources) == ("float16", [])
        assert "WARNING: no C source was written: TFLite Micro runs no float16 file" in done.stdout


def test_a_budget_that_no_file_keeps_is_exit_code_1(small: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    data = ("--calibration-data", photos, "--threads", "1", "--correct", "none", "-q", "int8")
    done = run("export-tflite", small, "-o", tmp_path, *data, "--max-drift", "sqnr_db=500", "--time-budget", "1")
    assert done.returncode == 1, done.stderr
    value = json.loads((tmp_path / "small.export.json").read_text())
    (file,) = value["files"]
    assert file["path"].endswith(".tflite.rejected")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file["path"], "small.export.json"])
    text = " ".join(done.stdout.split())
    assert "FAILED: no file keeps sqnr_db >= 500; the best found is the " in text
    assert "where sqnr_db >= 500 is asked on calibration images" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max-drift", "sqnr=30"], "--max-drift sqnr=30: expected NAME=VALUE with NAME one of"),
        (["--max-drift", "cka=0.9"], "--max-drift cka=0.9: cka is for information"),
        (["--time-budget", "5"], "--time-budget is about a search"),
        (["--search-cache", "x.json"], "--search-cache is about a search"),
        (["--measured", "x.json"], "repeat the command with --recipe export.json and --measured"),
        (["--max-drift", "sqnr_db=3", "--measured", "x.json"], "Export with --pareto, measure that folder there"),
        (["--pareto", "--max-drift", "sqnr_db=3", "--measured", "x.json"], "Leave --max-drift out"),
        (["--pareto", "--search-cache", "no/folder/cache.json"], "no/folder"),
        (["--pareto", "--time-budget", "0"], "the time budget is 0 s"),
        (["--pareto", "--num-samples", "30"], "needs 40 calibration images or more, and there are 24"),
        (["--recipe", "nothing.json"], "cannot read the recipe nothing.json"),
        (["--recipe", "nothing.json", "-q", "int8"], "--recipe says which files to make"),
        (["--recipe", "nothing.json", "--max-drift", "sqnr_db=3"], "Leave one of them out"),
    ],
)
def test_bad_requests(small: Path, photos: Path, tmp_path: Path, run: Run, arguments: list[str], told: str) -> None:
    done = run("export-tflite", small, "-o", tmp_path / "out", "--calibration-data", photos, *arguments)
    assert told in error_line(done)
    assert not (tmp_path / "out").exists()


def test_a_comparison_without_calibration_images_is_refused(small: Path, tmp_path: Path, run: Run) -> None:
    assert "Pass --calibration-data" in error_line(run("export-tflite", small, "-o", tmp_path / "out", "--pareto"))


@pytest.mark.parametrize("content", ["", "{}", '{"recipe": null}', '{"recipe": {"files": {}}}'])
def test_another_file_is_no_recipe(small: Path, photos: Path, tmp_path: Path, run: Run, content: str) -> None:
    recipe = tmp_path / "other.json"
    recipe.write_text(content)
    done = run("export-tflite", small, "-o", tmp_path / "out", "--calibration-data", photos, "--recipe", recipe)
    assert "other.json holds no recipe" in error_line(done)


def test_an_interrupted_search_keeps_the_best_so_far(small: Path, photos: Path, tmp_path: Path) -> None:
    """Given Ctrl-C while layers are tried. Result: exit code 0 and files, and a word about it."""
    cache = tmp_path / "cache.json"
    command = [Path(sysconfig.get_path("scripts"), "export-tflite"), small, "-o", tmp_path / "out", "--pareto"]
    options = [
        "--calibration-data",
        photos,
        "--search-cache",
        cache,
        "-q",
        "float32",
        "-q",
        "int8",
        "--correct",
        "none",
    ]
    process = subprocess.Popen(
        [*map(str, command), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    # The cache appears with the first files that were tried.
    while not cache.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    # As a terminal does: to the command and to what runs the files for it.
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stdout + stderr
    value = json.loads((tmp_path / "out/small.export.json").read_text())
    assert value["search"]["ended"] == "interrupted"
    (search,) = json.loads(cache.read_text())["searches"].values()
    assert None not in [tried["relative"] for tried in search["tried"].values()]
    assert re.search(r"search: \d+ files in \d+ s on [^,]+, interrupted", " ".join(stdout.split()))


@pytest.mark.parametrize("target", ["micro", "ethos-u"])
def test_other_targets_have_their_own_latencies_and_precisions(
    small: Path, photos: Path, tmp_path: Path, run: Run, target: str
) -> None:
    data = ("--calibration-data", photos, "--correct", "none", "-q", "int8", "--target", target)
    done = run("export-tflite", small, "-o", tmp_path, *data, "--pareto")
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "small.export.json").read_text())
    assert value["search"]["target"] == target
    kinds = {row["precision"] for row in value["search"]["sensitivity"]}
    assert kinds == ({"float", "int16"} if target == "micro" else {"int16"})
    assert value["measured_on"]["runtime"]["name"] == {"micro": "tflite-micro", "ethos-u": "ethos-u-vela"}[target]
    assert all(file["latency_us"] > 0 for file in value["files"])
