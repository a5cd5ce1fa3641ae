"""The documentation's commands, for the files of tests that run them; pytest's workers take whole files."""

import shutil
from pathlib import Path

from conftest import ROOT, Digits, Run, blocks, console_commands

WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_WINDOWS = ROOT / "docs" / "audio-and-sensors.md"
"""Its commands are those of examples/windows.py, and run where that leaves its files: tests/docs/test_windows.py."""

WITH_COMMANDS = [path for path in WRITTEN if "```console" in path.read_text() and path != OF_WINDOWS]

ABOUT_FIGURES = ("accuracy.md",)
"""Documents whose exports are of the trained model. The others show commands, which say the same of a small one."""


def exports(document: Path) -> bool:
    """Whether a document's commands make files, which takes longest."""
    return any(command == "export-tflite" for command, *_ in console_commands(document.read_text()))


def run_console_blocks(document: Path, models: Path, digits: Digits, run: Run, tmp_path: Path) -> None:
    """In a folder with what the documents speak of: a model, its files, photos to calibrate and others to test.

    Args:
        document: whose commands are run.
        models: the folder of ``model.keras`` and its files.
        digits: whose images are used.
        run: runs the commands.
        tmp_path: where.
    """
    # As many as suffice: of those that export, most of the time is spent on images.
    few = exports(document)
    for images, name, count in ((digits.calibration, "photos", 100), (digits.test_images, "held-out", 150)):
        (tmp_path / name).mkdir()
        for path in sorted(images.iterdir())[: count if few else None]:
            shutil.copy(path, tmp_path / name)
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
            arguments[arguments.index("--time-budget") + 1] = "2"
        done = run(command, *arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{command} {arguments}\n{done.stdout}{done.stderr}"


def run_monitored(digits: Digits, run: Run, folder: Path, device: str) -> None:
    """The first program of monitor.md on one device, in a folder with the models; its camera shows the test images."""
    program = blocks((ROOT / "docs" / "monitor.md").read_text(), "python")[0]
    camera = (
        "from pathlib import Path\nimport numpy as np\nfrom PIL import Image\n"
        f"files = sorted(Path({str(digits.test_images)!r}).glob('*.png'))\n"
        "camera = [np.asarray(Image.open(path))[..., None] for path in files] * 10\n"
        "def keep(vector):\n    assert vector.shape == (128,)\n"
    )
    done = run("python", "-c", camera + program.replace("door", device), cwd=folder)
    assert (done.returncode, done.stderr.count("Warning")) == (0, 0), done.stderr
