"""The example of a motion sensor, and the document that shows its commands."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, Run, blocks, console_commands
from documents import OF_WINDOWS


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example leaves before its commands run, after less training."""
    out = tmp_path_factory.mktemp("windows")
    code = (
        f"import json, pathlib, sys; sys.path.insert(0, {str(ROOT / 'examples')!r})\n"
        "import windows\n"
        "windows.EPOCHS, windows.TRAINING, windows.CALIBRATION, windows.TEST = 3, 240, 40, 80\n"
        "windows.prepare(pathlib.Path(sys.argv[1]))\n"
        "print(json.dumps(windows.COMMANDS))\n"
    )
    done = run("python", "-c", code, out, world="tensorflow")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == console_commands(OF_WINDOWS.read_text())
    return out


def test_the_commands_run_and_speak_of_no_images(folder: Path, run: Run) -> None:
    for command, *arguments in console_commands(OF_WINDOWS.read_text()):
        done = run(command, *arguments, cwd=folder)
        assert done.returncode == 0, f"{command} {arguments}\n{done.stdout}{done.stderr}"
        assert not re.search("image|photo|pixel", done.stdout + done.stderr, re.IGNORECASE), done.stdout
    page = (folder / "drift.html").read_text()
    assert page.count('class="input"') >= 5
    shown = re.sub("<[^>]*>", " ", re.sub("<(style|script).*?</(style|script)>", "", page, flags=re.DOTALL))
    assert not re.search("image|photo|pixel", shown, re.IGNORECASE), shown
    done = run("inspect-tflite", "model.int8.tflite", cwd=folder)
    assert not re.search("image|photo|pixel|colour", done.stdout, re.IGNORECASE), done.stdout
    assert run("embed-tflite", "model.int8.tflite", "--selftest", cwd=folder).returncode == 0


def test_the_python_of_the_document_runs(folder: Path, run: Run) -> None:
    (program,) = blocks(OF_WINDOWS.read_text(), "python")
    windows = np.stack([np.load(path) for path in sorted((folder / "test").iterdir())[:3]])
    np.save(folder / "windows.npy", windows)
    given = "import numpy as np\nwindows = np.load('windows.npy')\n"
    done = run("python", "-c", given + program + "print(vectors.shape)\n", cwd=folder, world="device")
    assert (done.returncode, done.stdout) == (0, "(3, 32)\n"), done.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [(np.zeros((3, 8, 8, 3), np.uint8), "expected inputs of shape (128, 6), received an array of shape (3, 8, 8, 3)")],
)
def test_images_for_an_encoder_of_windows_are_one_error(
    data: np.ndarray, message: str, folder: Path, run: Run, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", data)
    done = run("embed-tflite", folder / "model.int8.tflite", tmp_path / "x.npy", "-o", tmp_path / "v.npz")
    assert done.returncode == 2 and message in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr
