"""What is installed: the wheel, and what a device without TensorFlow can and cannot do with it."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT, Digits


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy of what git tracks, as `pip install .` builds it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(target), str(source))
    (built,) = target.iterdir()
    return built


def pip(python: str | Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_only_embedlite_and_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 300_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"embedlite", names[-1].split("/")[0]}
    assert {name.split("/")[1] for name in names if name.startswith("embedlite/")} == {
        *("runtime", "calibration", "convert")
    }
    assert {f"embedlite/{name}/py.typed" for name in ("runtime", "calibration", "convert")} <= set(names)


class Device:
    """A virtual environment with the wheel and whatever a test adds; nothing else."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.bin = folder / "bin"
        self.install("--no-deps", str(wheel))
        self.install("click", "numpy>=2")

    def install(self, *arguments: str) -> None:
        pip(self.bin / "python", "install", *arguments)

    def run(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {
            key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "EMBEDLITE_RUNTIME")
        }
        return subprocess.run(
            [str(self.bin / command), *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.bin,
            check=False,
        )


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(tmp_path_factory.mktemp("device") / "venv", wheel)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for this Python")
def test_a_device_goes_from_nothing_to_vectors(device: Device, digits: Digits, tmp_path: Path) -> None:
    """In this order, because each step installs more into the same environment."""
    embed = ("embed-tflite", digits.int8, digits.test_images, "-o", tmp_path / "vectors.npz")

    neither = device.run(*embed)
    assert neither.returncode == 2
    assert "no TFLite interpreter can be used" in neither.stderr
    assert "pip install ai-edge-litert" in neither.stderr

    device.install("--no-deps", "tflite-runtime==2.14.0")
    numpy_two = device.run(*embed)
    assert numpy_two.returncode == 2
    assert "built for numpy 1" in numpy_two.stderr
    assert "pip install 'numpy<2'" in numpy_two.stderr

    export = device.run("export-tflite", digits.model)
    assert export.returncode == 2
    assert "pip install 'embedlite[convert]'" in export.stderr
    assert "Traceback" not in export.stderr

    device.install("numpy<2")
    without_pillow = device.run(*embed)
    assert without_pillow.returncode == 2
    assert "pip install 'embedlite[images]'" in without_pillow.stderr

    device.install("Pillow")
    old = device.run(*embed)
    assert old.returncode == 0, old.stderr
    assert "by tflite-runtime 2.14.0" in old.stdout

    device.install("numpy>=2", "ai-edge-litert")
    new = device.run(*embed, "--force")
    assert new.returncode == 0, new.stderr
    assert "by ai-edge-litert" in new.stdout

    report = device.run("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images)
    assert report.returncode == 0, report.stderr
    assert report.stdout.startswith("PASS")
    keras = device.run("drift-report", digits.int8, "--reference", digits.model, "--data", digits.test_images)
    assert keras.returncode == 2
    assert "compare with the float32 .tflite" in keras.stderr


HEAVY = (
    *("tensorflow", "keras", "PIL", "click", "rich", "litert_quantizer", "ai_edge_litert", "tflite_runtime"),
    *("tflite_micro", "ethosu", "google_crc32c"),
    *("embedlite.convert", "embedlite.calibration"),
)


def imported_by(module: str) -> set[str]:
    """What importing one of the packages brings in, of what is heavy or above it."""
    code = f"import sys, {module}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout))


def test_importing_the_runtime_imports_nothing_heavy() -> None:
    assert imported_by("embedlite.runtime") == set()


def test_calibration_imports_neither_convert_nor_tensorflow() -> None:
    assert imported_by("embedlite.calibration") == {"embedlite.calibration"}
