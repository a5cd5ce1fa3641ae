"""``export-tflite`` as a user types it: the result, the errors, and what is left behind."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import TRIES_NOTHING, Digits, Run, error_line


def test_the_table_names_every_file_and_the_ones_to_ship(small: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    # In a process that imports TensorFlow itself, which has to be silent, too.
    done = run.cold("export-tflite", small, "-o", tmp_path, "-q", "all", "--calibration-data", photos, "-v")
    assert done.returncode == 0, done.stderr
    stages = ["loading the model", "converting", "calibrating", "quantizing", "measuring"]
    assert [re.sub(r": \d+\.\d s$", "", line) for line in done.stderr.splitlines()] == stages
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert re.match(r"CPU: ship small\.\w+\.tflite \(.*µs.*dB", lines[0])
    assert lines[1].startswith("NPU: ship small.int8.tflite (")
    assert lines[2].startswith("microcontroller: ship small.int8.tflite (")
    modes = ["float32", "float16", "dynamic", "int8", "int16x8"]
    table = lines[lines.index("") + 1 :]
    rows = [line.split()[0] for line in table[:7]]
    # Beneath the float16 file: what it costs where it is computed in half precision.
    assert rows == [
        "file",
        "small.float32.tflite",
        "small.float16.tflite",
        "in",
        *(f"small.{m}.tflite" for m in modes[2:]),
    ]
    text = " ".join(done.stdout.split())
    assert re.search(r"int16x8 is for NPUs and microcontrollers: .* \d+ times slower", text)
    assert "12 of the 60 calibration images set no ranges" in text
    assert re.search(r"stages: loading the model .* converting \d+\.\d s, .* measuring \d+\.\d s$", text)
    result = json.loads((tmp_path / "small.export.json").read_text())
    assert {file["mode"]: [one["runtime"] for one in file["verified"] if one["ok"]] for file in result["files"]} == {
        mode: ["ai-edge-litert", "tflite-runtime"]
        + ["tflite-micro"] * (mode not in ("float16", "dynamic"))
        + ["ethos-u-vela"] * (mode in ("int8", "int16x8"))
        for mode in modes
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"small.{mode}.tflite" for mode in modes), "small.export.json"]
    )


def test_json_to_stdout_is_only_json_and_the_same_as_the_file(small: Path, tmp_path: Path, run: Run) -> None:
    done = run("export-tflite", small, "-o", tmp_path, "--json", "-", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    assert value == json.loads((tmp_path / "small.export.json").read_text())
    assert value["files"][0]["latency_us"] > 0
    assert value["files"][0]["drift"] is None


def test_default_modes_depend_on_calibration_data(small: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    for name, arguments, modes in (
        ("a", [], ["float32"]),
        ("b", ["--calibration-data", photos, *TRIES_NOTHING], ["float32", "int8"]),
    ):
        done = run("export-tflite", small, "-o", tmp_path / name, *arguments)
        assert done.returncode == 0, done.stderr
        assert sorted(tmp_path.joinpath(name).glob("*.tflite")) == [
            tmp_path / name / f"small.{mode}.tflite" for mode in modes
        ]


@pytest.fixture
def bad(tmp_path: Path, small: Path, photos: Path) -> Path:
    """A folder of things that are wrong."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "cut.keras").write_bytes(small.read_bytes()[:-500])
    (folder / "text.keras").write_text("not a model")
    (folder / "folder").mkdir()
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "photo.png").write_text("not a photo")
    (folder / "cut").mkdir()
    whole = next(iter(photos.iterdir())).read_bytes()
    (folder / "cut" / "photo.png").write_bytes(whole[: len(whole) // 2])
    images = np.zeros((6, 24, 24, 3), np.float32)
    np.save(folder / "shape.npy", images[:, :20])
    np.save(folder / "dtype.npy", images.astype(np.int8))
    images[4, 3, 2, 1] = np.nan
    np.save(folder / "nan.npy", images)
    return folder


ERRORS = {
    "no such model": (["missing.keras"], "there is no"),
    "a folder that is not a model": (["folder"], "is a folder without saved_model.pb"),
    "a truncated model": (["cut.keras"], "not a complete .keras file"),
    "a text file": (["text.keras"], "not a complete .keras file"),
    "an unknown mode": (["MODEL", "-q", "int4"], "unknown --quantize 'int4'"),
    "int8 without data": (["MODEL", "-q", "int8"], "int8 needs calibration data"),
    "an empty folder": (["MODEL", "--calibration-data", "empty"], "there are no images"),
    "no such folder": (["MODEL", "--calibration-data", "nowhere"], "there is no"),
    "a text file called png": (["MODEL", "--calibration-data", "texts"], "photo.png: its content is not an image"),
    "a truncated png": (["MODEL", "--calibration-data", "cut"], "photo.png"),
    "another shape": (["MODEL", "--calibration-data", "shape.npy"], "(6, 20, 24, 3)"),
    "int8 arrays": (["MODEL", "--calibration-data", "dtype.npy"], "dtype int8"),
    "NaN": (["MODEL", "--calibration-data", "nan.npy"], "image '4' has 1 value(s) that are NaN"),
    "a bad shape option": (["MODEL", "--input-shape", "24x24"], "224,224,3"),
    "another input shape": (["MODEL", "--input-shape", "32,32,3"], "takes (24, 24, 3)"),
    "an output folder that cannot be": (["MODEL", "-o", "/proc/embedlite"], "cannot make the output folder"),
    "an output folder that is a file": (["MODEL", "-o", "text.keras"], "cannot make the output folder"),
    "a json file over the model": (["MODEL", "--json", "MODEL"], "named twice"),
    "a json file in no folder": (["MODEL", "--json", "nowhere/x.json"], "there is no folder"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_gets_one_clear_error_and_nothing_is_written(
    name: str, bad: Path, small: Path, tmp_path: Path, run: Run
) -> None:
    arguments, message = ERRORS[name]
    before = sorted(bad.rglob("*"))
    arguments = [str(small) if argument == "MODEL" else argument for argument in arguments]
    if "-o" not in arguments:
        arguments += ["-o", str(tmp_path / "out")]
    assert message in error_line(run("export-tflite", *arguments, cwd=bad))
    assert sorted(bad.rglob("*")) == before
    assert not list((tmp_path / "out").glob("*"))


def test_images_of_any_size_and_mode_calibrate(small: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8))
    for mode in ("L", "RGB", "RGBA", "P", "1", "CMYK"):
        rgb.convert(mode).save(folder / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    Image.fromarray(rng.integers(0, 65536, (33, 20), np.uint16)).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "rotated.jpg", exif=exif)
    done = run("export-tflite", small, "-o", tmp_path, "--calibration-data", folder, *TRIES_NOTHING)
    assert done.returncode == 0, done.stderr


def pick_out(photos: Path, count: int, folder: Path) -> Path:
    """A folder of some photos."""
    folder.mkdir()
    for path in sorted(photos.iterdir())[:count]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_unreadable_images_are_left_out_and_named(small: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    folder = pick_out(photos, 10, tmp_path / "images")
    for name in ("b0.png", "b1.png", "b2.png", "b3.png"):
        (folder / name).write_text("not a photo")
    images = np.random.default_rng(0).random((6, 24, 24, 3)).astype(np.float32)
    images[3, 5] = np.nan
    np.save(tmp_path / "test.npy", images)
    data = ("--calibration-data", folder, "--test-data", tmp_path / "test.npy", "-o", tmp_path / "out", *TRIES_NOTHING)
    # Which of them is read first depends on which images are held out.
    assert re.search(
        r"cannot read the image .*/b[0-3]\.png", error_line(run("export-tflite", small, *data, "-q", "int8"))
    )
    assert not (tmp_path / "out").exists()
    done = run("export-tflite", small, *data, "-q", "int8", "--skip-unreadable")
    assert done.returncode == 0, done.stderr
    assert "5 image(s) that cannot be used were left out: b0.png, b1.png, b2.png and 2 more" in done.stdout
    value = json.loads((tmp_path / "out" / "small.export.json").read_text())
    assert list(value)[list(value).index("files") - 1] == "skipped"
    assert [image["id"] for image in value["skipped"]] == ["b0.png", "b1.png", "b2.png", "b3.png", "3"]
    assert [set(image) for image in value["skipped"]] == [{"id", "reason"}] * 5
    assert "its content is not an image" in value["skipped"][0]["reason"]
    assert "NaN" in value["skipped"][4]["reason"]
    assert value["files"][0]["contract"]["calibration"]["samples"] == 10
    assert value["files"][0]["drift"]["count"] == 5


def test_nothing_readable_is_an_error(small: Path, bad: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("--calibration-data", bad / "texts", "-o", tmp_path / "out", "--skip-unreadable")
    assert "no image that can be used" in error_line(run("export-tflite", small, *arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--feature", "image"], ["--skip-unreadable"]])
def test_an_option_of_images_needs_images(option: list[str], small: Path, tmp_path: Path, run: Run) -> None:
    assert f"{option[0]} is for the images" in error_line(run("export-tflite", small, "-o", tmp_path / "out", *option))


@pytest.fixture(scope="module")
def records(photos: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """All photos as PNG in a .tfrecord, turned by half in another feature; the tenth record is cut short."""
    path = tmp_path_factory.mktemp("records") / "photos.tfrecord"
    code = (
        "import io, pathlib, sys\n"
        "import tensorflow as tf\n"
        "from PIL import Image\n"
        "def feature(data):\n"
        "    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))\n"
        "with tf.io.TFRecordWriter(sys.argv[2]) as writer:\n"
        "    for number, path in enumerate(sorted(pathlib.Path(sys.argv[1]).iterdir())):\n"
        "        data, turned = path.read_bytes(), io.BytesIO()\n"
        "        Image.open(path).rotate(180).save(turned, 'PNG')\n"
        "        named = {'sound': feature(data), 'turned': feature(turned.getvalue()),\n"
        "                 'image': feature(data[:900] if number == 10 else data)}\n"
        "        example = tf.train.Example(features=tf.train.Features(feature=named))\n"
        "        writer.write(example.SerializeToString())\n"
    )
    done = run("python", "-c", code, photos, path, world="tensorflow")
    assert done.returncode == 0, done.stderr
    return path


def test_a_tfrecord_calibrates_as_its_images_do(
    small: Path, photos: Path, records: Path, tmp_path: Path, run: Run
) -> None:
    for name, data in (("files", [photos]), ("records", [records, "--feature", "sound"])):
        done = run(
            "export-tflite", small, "-o", tmp_path / name, "-q", "int8", *TRIES_NOTHING, "--calibration-data", *data
        )
        assert done.returncode == 0, done.stderr
    files, stored = (
        json.loads((tmp_path / name / "small.export.json").read_text())["files"][0] for name in ("files", "records")
    )
    assert files["drift"] == stored["drift"]
    # Ids are part of it.
    assert files["contract"]["calibration"]["fingerprint"] != stored["contract"]["calibration"]["fingerprint"]


def test_one_damaged_record_is_named_or_left_out(small: Path, records: Path, tmp_path: Path, run: Run) -> None:
    command = (
        "export-tflite",
        small,
        "-o",
        tmp_path / "out",
        "-q",
        "int8",
        "--calibration-data",
        records,
        *TRIES_NOTHING,
    )
    assert f"{records}, record 10" in error_line(run(*command))
    message = error_line(run(*command, "--feature", "missing"))
    assert "record 0: its feature 'missing' is not there" in message
    assert all(name in message for name in ("'image'", "'sound'", "'turned'", "--feature"))
    done = run(*command, "--skip-unreadable", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert [image["id"] for image in json.loads(done.stdout)["skipped"]] == ["10"]


def test_a_feature_reaches_every_command(small: Path, records: Path, tmp_path: Path, run: Run) -> None:
    assert run("export-tflite", small, "-o", tmp_path).returncode == 0
    encoder, vectors = tmp_path / "small.float32.tflite", {}
    for feature in ("sound", "turned"):
        vectors[feature] = tmp_path / f"{feature}.npz"
        done = run("embed-tflite", encoder, records, "-o", vectors[feature], "--feature", feature)
        assert done.returncode == 0, done.stderr
        for reference in (small, encoder, vectors[feature]):
            report = ("--reference", reference, "--data", records, "--feature", feature, "--json", "-")
            done = run("drift-report", encoder, *report)
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads(done.stdout)["metrics"]["cosine_min"] > 0.9999
    first, second = (np.load(path) for path in vectors.values())
    assert first["ids"].tolist() == second["ids"].tolist() == [str(number) for number in range(60)]
    assert not np.allclose(first["embeddings"], second["embeddings"])
    stored = ("drift-report", vectors["sound"], "--reference", vectors["turned"], "--feature", "sound")
    assert "nothing to embed" in error_line(run(*stored))


def test_an_existing_file_is_kept_unless_forced(small: Path, tmp_path: Path, run: Run) -> None:
    existing = tmp_path / "small.float32.tflite"
    existing.write_text("mine")
    assert "--force" in error_line(run("export-tflite", small, "-o", tmp_path))
    assert existing.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [existing]
    assert run("export-tflite", small, "-o", tmp_path, "--force").returncode == 0
    assert existing.read_bytes()[4:8] == b"TFL3"


def test_a_lambda_in_a_functional_model_is_the_only_layer_named(tmp_path: Path, run: Run) -> None:
    code = (
        "import keras\n"
        "def norm(x):\n"
        "    return x - keras.ops.min(x)\n"
        "image = keras.Input((8, 8, 3))\n"
        "x = keras.layers.Flatten()(image)\n"
        "keras.Model(image, keras.layers.Lambda(norm, name='scale')(x)).save('functional.keras')\n"
    )
    assert run("python", "-c", code, cwd=tmp_path, world="tensorflow").returncode == 0
    message = error_line(run("export-tflite", "functional.keras", cwd=tmp_path))
    assert "'scale' wants the function 'norm'. Either pass" in message


def test_a_model_saved_before_it_was_built_is_refused(tmp_path: Path, run: Run) -> None:
    code = "import keras\nkeras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.Flatten()]).save('unbuilt.keras')\n"
    assert run("python", "-c", code, cwd=tmp_path, world="tensorflow").returncode == 0
    for options in ([], ["--input-shape", "8,8,3"]):
        assert "no weights" in error_line(run("export-tflite", "unbuilt.keras", *options, cwd=tmp_path))


def test_a_classifier_map_is_not_an_embedding(tmp_path: Path, run: Run) -> None:
    code = "import keras\nkeras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]).save('map.keras')\n"
    assert run("python", "-c", code, cwd=tmp_path, world="tensorflow").returncode == 0
    assert "not an embedding" in error_line(run("export-tflite", "map.keras", cwd=tmp_path))


def test_ctrl_c_during_calibration_leaves_nothing(small: Path, tmp_path: Path) -> None:
    """On a terminal, because only there the progress says that calibration has begun."""
    images, out = tmp_path / "many.npy", tmp_path / "out"
    np.save(images, np.random.default_rng(0).integers(0, 256, (60_000, 24, 24, 3), np.uint8))
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            Path(sysconfig.get_path("scripts"), "export-tflite"),
            small,
            *("-o", out, "--calibration-data", images),
        ],
        stdout=subprocess.PIPE,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    end = time.monotonic() + 120
    while b"calibrating" not in shown and time.monotonic() < end:
        shown += os.read(leader, 1000)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    shown += os.read(leader, 1000)
    os.close(leader)
    assert process.returncode == 130, shown
    assert b"interrupted: nothing was written" in shown
    assert b"Traceback" not in shown
    assert stdout == b""
    assert not out.exists()


def test_help_names_every_option(run: Run) -> None:
    done = run.cold("export-tflite", "-h")
    assert done.returncode == 0
    for option in ("--calibration-data", "--test-data", "--input-shape", "--mean", "--json", "--force", "--version"):
        assert option in done.stdout


def test_the_example_ends_with_a_passing_report(digits: Digits) -> None:
    report = json.loads((digits.folder / "drift.json").read_text())
    assert report["verdict"] == "pass"
    assert report["metrics"]["count"] == 450
    vectors = np.load(digits.folder / "vectors.npz")
    assert vectors["embeddings"].shape == (450, 128)
