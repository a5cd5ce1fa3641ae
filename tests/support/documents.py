"""The documentation's commands, for the files of tests that run them; pytest's workers take whole files."""

import shutil
from pathlib import Path

import pytest

from conftest import ROOT, Digits, Run, blocks, console_commands, save_small_encoder
from shared import made_once

WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_WINDOWS = ROOT / "docs" / "audio-and-sensors.md"
"""Its commands are those of examples/windows.py, and run where that leaves its files: tests/docs/test_windows.py."""

WITH_COMMANDS = [path for path in WRITTEN if "```console" in path.read_text() and path != OF_WINDOWS]

ABOUT_FIGURES = ("accuracy.md",)
"""Documents whose exports are of the trained model. The others show commands, which say the same of a small one."""


def exports(document: Path) -> bool:
    """Whether a document's commands make files, which takes longest."""
    return any(command == "export-tflite" for command, *_ in console_commands(document.read_text()))


IMAGES = 120
"""Of the example's test images: what is said of them is what counts, and most of the time is spent on each."""


def copy_first(images: Path, count: int, folder: Path) -> Path:
    """A new folder with the first images of another."""
    folder.mkdir()
    for path in sorted(images.iterdir())[:count]:
        shutil.copy(path, folder)
    return folder


def small_models(digits: Digits, run: Run, factory: pytest.TempPathFactory) -> Path:
    """A folder as the example leaves it, of a model whose layers have the same names and are few and small."""

    def make(folder: Path) -> None:
        save_small_encoder(run, folder / "model.keras", "(12, 12, 1), 32")
        data = ("--calibration-data", digits.calibration, "--num-samples", "60")
        done = run("export-tflite", folder / "model.keras", "-q", "float32", "-q", "int8", *data)
        assert done.returncode == 0, done.stderr

    return made_once(factory, "soon", make)


def run_console_blocks(document: Path, models: Path, digits: Digits, run: Run, tmp_path: Path) -> None:
    """In a folder with what the documents speak of: a model, its files, photos to calibrate and others to test.

    Args:
        document: whose commands are run.
        models: the folder of ``model.keras`` and its files.
        digits: whose images are used.
        run: runs the commands.
        tmp_path: where.
    """
    # As many as suffice: coverage chooses 60 of the photos.
    copy_first(digits.calibration, 64, tmp_path / "photos")
    copy_first(digits.test_images, 80 if exports(document) else IMAGES, tmp_path / "held-out")
    held_out = sorted(path.name for path in (tmp_path / "held-out").iterdir())
    # The digit follows the number of the image: 0001_3.png.
    (tmp_path / "labels.csv").write_text("".join(f"{name},{name[5]}\n" for name in held_out))
    shutil.copy(models / "model.keras", tmp_path)
    if document.name != "README.md":
        for path in models.glob("*.tflite"):
            shutil.copy(path, tmp_path)
    if document.name == "monitor.md":
        # The states that it joins are what its own program leaves on two devices.
        for device in ("attic", "door"):
            run_monitored(digits, run, tmp_path, device)
    commands = console_commands(document.read_text())
    assert commands
    for command, *arguments in commands:
        if "--time-budget" in arguments:
            # Whatever was found until then is what the next commands work on.
            arguments[arguments.index("--time-budget") + 1] = "0.5"
        done = run(command, *arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{command} {arguments}\n{done.stdout}{done.stderr}"


def run_monitored(digits: Digits, run: Run, folder: Path, device: str) -> None:
    """The first program of monitor.md on one device, in a folder with the models.

    Its camera shows ten times :data:`IMAGES` test images.
    """
    program = blocks((ROOT / "docs" / "monitor.md").read_text(), "python")[0]
    camera = (
        "from pathlib import Path\nimport numpy as np\nfrom PIL import Image\n"
        f"files = sorted(Path({str(digits.test_images)!r}).glob('*.png'))[:{IMAGES}]\n"
        "camera = [np.asarray(Image.open(path))[..., None] for path in files] * 10\n"
        "def keep(vector):\n    assert vector.shape == (128,)\n"
    )
    done = run("python", "-c", camera + program.replace("door", device), cwd=folder, world="device")
    assert (done.returncode, done.stderr.count("Warning")) == (0, 0), done.stderr
