"""The commands of the documentation run, in the order in which they stand there."""

import json
import re
import shutil
from pathlib import Path

import pytest

from embedlite.runtime.model.artifact import read_artifact

from conftest import ROOT, Digits, Run, blocks
from documents import (
    IMAGES,
    WITH_COMMANDS,
    WRITTEN,
    copy_first,
    exports,
    run_console_blocks,
    run_monitored,
    small_models,
)

DOCUMENTS = [path for path in WITH_COMMANDS if not exports(path)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_console_blocks_run(document: Path, digits: Digits, run: Run, tmp_path: Path) -> None:
    """Of documents that only use files; tests/docs/test_docs_export.py has those that make them."""
    run_console_blocks(document, digits.folder, digits, run, tmp_path)


def test_python_blocks_of_the_readme_run(
    digits: Digits, run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy_first(digits.calibration, 60, tmp_path / "photos")
    # What the first exports is small; the second runs the example's file, on images of its shape.
    for path in (small_models(digits, run, tmp_path_factory) / "model.keras", digits.int8):
        shutil.copy(path, tmp_path)
    programs = blocks((ROOT / "README.md").read_text(), "python")
    assert len(programs) == 2
    given = "import numpy as np\nimages = np.arange(2048, dtype=np.uint8).reshape(2, 32, 32, 1)\n"
    done = run("python", "-c", given + "\n".join(programs) + "print(vectors.shape)\n", cwd=tmp_path, world="tensorflow")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(2, 128)"
    assert "CPU: ship" in done.stdout


def test_the_python_of_calibration_runs(digits: Digits, run: Run, tmp_path: Path) -> None:
    copy_first(digits.calibration, 60, tmp_path / "photos")
    copy_first(digits.test_images, 40, tmp_path / "held-out")
    shutil.copy(digits.float32, tmp_path)
    programs = blocks((ROOT / "docs" / "calibration.md").read_text(), "python")
    done = run("python", "-c", "\n".join(programs), cwd=tmp_path, world="tensorflow")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100 images;")


def test_the_python_of_device_runs(digits: Digits, run: Run, tmp_path: Path) -> None:
    shutil.copy(digits.int8, tmp_path)
    block, reader = blocks((ROOT / "docs" / "device.md").read_text(), "python")
    given = (
        "import numpy as np\nimages = np.arange(2048, dtype=np.uint8).reshape(2, 32, 32, 1)\ncamera = iter(images)\n"
    )
    done = run(
        "python",
        "-W",
        "error",
        "-c",
        given + block + "print(vectors.shape, (vectors == vector).all(axis=1))\n",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 128) [ True  True]\n"
    assert run("embed-tflite", "model.int8.tflite", "--measure", "device.json", cwd=tmp_path).returncode == 0
    done = run("python", "-W", "error", "-c", reader + "print(figures.path, figures.passed)\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "model.int8.tflite True\n"


def test_the_python_of_drift_sources_runs(digits: Digits, run: Run, tmp_path: Path) -> None:
    copy_first(digits.test_images, 60, tmp_path / "held-out")
    for path in (digits.float32, digits.int8):
        shutil.copy(path, tmp_path)
    document = (ROOT / "docs" / "drift-sources.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    done = run("python", "-c", block, cwd=tmp_path, world="device")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_the_python_of_npu_gives_a_compiled_file_its_contract(digits: Digits, run: Run, tmp_path: Path) -> None:
    """The flatbuffer alone stands for what a compiler makes of it."""
    shutil.copy(digits.int8, tmp_path)
    compiled = tmp_path / "model_edgetpu.tflite"
    compiled.write_bytes(read_artifact(digits.int8).flatbuffer)
    (program,) = blocks((ROOT / "docs" / "npu.md").read_text(), "python")
    done = run("python", "-c", program, cwd=tmp_path, world="device")
    assert done.returncode == 0, done.stderr
    assert read_artifact(compiled).contract is not None
    done = run(
        "embed-tflite",
        compiled,
        copy_first(digits.test_images, 60, tmp_path / "held-out"),
        "-o",
        tmp_path / "vectors.npz",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_python_of_monitor_runs(digits: Digits, run: Run, tmp_path: Path) -> None:
    """Both programs: beside the float file, and beside stored embeddings."""
    for path in (digits.float32, digits.int8):
        shutil.copy(path, tmp_path)
    run_monitored(digits, run, tmp_path, "door")
    assert json.loads((tmp_path / "door.json").read_text())["counters"]["inputs"] == 10 * IMAGES
    copy_first(digits.test_images, 60, tmp_path / "held-out")
    done = run("embed-tflite", "model.float32.tflite", "held-out", "-o", "home.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, second = blocks((ROOT / "docs" / "monitor.md").read_text(), "python")
    given = "from embedlite.runtime import DriftMonitor, Encoder\nencoder = Encoder('model.int8.tflite')\n"
    used = "import numpy as np\nmonitor.embed(np.zeros((500, 32, 32, 1), np.uint8))\nmonitor.close()\n"
    done = run("python", "-c", given + second + used, cwd=tmp_path, world="device")
    assert done.returncode == 0, done.stderr
    crowd = json.loads((tmp_path / "crowd.json").read_text())
    assert crowd["counters"]["inputs"] == 500
    assert crowd["statistics"]["counts"]["rows"] > 0


def test_the_readme_shows_the_form_of_the_real_output(digits: Digits, run: Run) -> None:
    """Figures differ from machine to machine and training to training; names, rows and columns do not."""
    readme = (ROOT / "README.md").read_text()
    done = run(
        "drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images, "--num-samples", "60"
    )

    def metrics(text: str) -> list[str]:
        """The names in the table of metrics, which an empty line ends."""
        table = text[text.index("metric   ") :].split("\n\n", maxsplit=1)[0]
        return [line.split()[0] for line in table.splitlines()[1:]]

    assert metrics(done.stdout)[-1] == "knn_overlap_cross"
    assert metrics(readme) == metrics(done.stdout)
    for heading in (
        "file                      bytes",
        "CPU: ship",
        "NPU: ship",
        "microcontroller: ship",
        "made for you",
    ):
        assert heading in readme


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
