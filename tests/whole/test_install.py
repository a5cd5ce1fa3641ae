"""What is installed: the wheel, and what a device without TensorFlow can and cannot do with it."""

import ast
import email
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from embedlite.runtime.backends.registry import INTERPRETERS

from conftest import ROOT, Digits, blocks, console_commands
from project_wheel import pip


def test_the_wheel_holds_only_embedlite_and_is_small(wheel: Path) -> None:
    # A device that has 5 MB for numpy alone has 0.88 of one for all of it; what runs there is less than a third of it.
    assert wheel.stat().st_size < 880_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        runtime = [
            entry.compress_size for entry in archive.infolist() if entry.filename.startswith("embedlite/runtime/")
        ]
    assert sum(runtime) < 240_000
    assert {name.split("/")[0] for name in names} == {"embedlite", names[-1].split("/")[0]}
    assert {name.split("/")[1] for name in names if name.startswith("embedlite/")} == {
        *("runtime", "calibration", "convert", "report")
    }
    assert {f"embedlite/{name}/py.typed" for name in ("runtime", "calibration", "convert", "report")} <= set(names)


class BareEnvironment:
    """A virtual environment with whatever a test installs; nothing else."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / "bin"

    def install(self, *arguments: str) -> None:
        # What is imported compiles itself; compiling all that is installed takes longer than installing it.
        pip("--python", str(self.bin / "python"), "install", "--no-compile", *arguments)

    def run(self, command: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {
            key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "EMBEDLITE_RUNTIME")
        }
        return subprocess.run(
            [str(self.bin / command), *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=cwd or self.bin,
            check=False,
        )


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for this Python")
def test_a_device_goes_from_nothing_to_vectors(wheel: Path, digits: Digits, tmp_path: Path) -> None:
    """In this order, because each step installs more into the same environment."""
    device = BareEnvironment(tmp_path / "venv")
    device.install("--no-deps", str(wheel))
    device.install("click", "numpy>=2")
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
    assert "by tflite-runtime 2.14.0" in " ".join(old.stdout.split())  # the path before it may fill the line

    device.install("numpy>=2", "ai-edge-litert")
    new = device.run(*embed, "--force")
    assert new.returncode == 0, new.stderr
    assert "by ai-edge-litert" in " ".join(new.stdout.split())

    report = device.run("drift-report", digits.int8, "--reference", digits.float32, "--data", digits.test_images)
    assert report.returncode == 0, report.stderr
    assert report.stdout.startswith("PASS")
    keras = device.run("drift-report", digits.int8, "--reference", digits.model, "--data", digits.test_images)
    assert keras.returncode == 2
    assert "compare with the float32 .tflite" in keras.stderr


WORKSTATION = ("tensorflow", "keras", "litert_quantizer", "rich", "jinja2", "h5py")

# The page, which of its blocks installs, and the interpreter and numpy that are there afterwards.
INSTALLS = [
    ("server.md", 0, "ai-edge-litert", ""),
    pytest.param(
        *("raspberry-pi.md", 1, "tflite-runtime", "1.26."),
        marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for this Python"),
    ),
]


@pytest.mark.parametrize(("page", "block", "runtime", "numpy"), INSTALLS)
def test_the_readme_s_device_section_runs_on_what_a_page_installs(
    page: str, block: int, runtime: str, numpy: str, wheel: Path, digits: Digits, tmp_path: Path
) -> None:
    device = BareEnvironment(tmp_path / "venv")
    lines = blocks((ROOT / "docs" / page).read_text(), "sh")[block].splitlines()
    installs = [shlex.split(line)[2:] for line in lines if line.startswith("pip install ")]
    assert any("embedlite" in word for words in installs for word in words)
    for words in installs:
        device.install(*(re.sub("^embedlite", str(wheel), word) for word in words))

    find = f"import importlib.util as u, numpy; print([n for n in {WORKSTATION} if u.find_spec(n)], numpy.__version__)"
    found, version = device.run("python", "-c", find).stdout.rsplit(" ", 1)
    assert found == "[]"
    assert version.startswith(numpy)

    shutil.copytree(digits.test_images, tmp_path / "held-out")
    for path in (digits.int8, digits.float32):
        shutil.copy(path, tmp_path)
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("\nOn the device:") : readme.index("\n## Can I ship it?")]
    commands = [
        *console_commands(section),
        ["drift-report", "model.int8.tflite", "--reference", "model.float32.tflite", "--data", "held-out"],
        ["embed-tflite", "model.float32.tflite", "held-out", "-o", "home.npz"],
        ["drift-report", "vectors.npz", "--reference", "home.npz"],
        ["drift-report", "model.int8.tflite", "--reference", "home.npz", "--data", "held-out"],
        ["embed-tflite", ".", "--measure", "device.json"],
    ]
    assert commands[0][0] == "embed-tflite"
    for command, *arguments in commands:
        done = device.run(command, *arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{command} {arguments}\n{done.stdout}{done.stderr}"
        assert runtime in done.stdout or command != "embed-tflite"
    (program,) = blocks(section, "python")
    given = "import numpy as np\nimages = np.arange(2048, dtype=np.uint8).reshape(2, 32, 32, 1)\n"
    done = device.run("python", "-c", f"{given}{program}\nprint(vectors.shape, encoder.runtime.name)", cwd=tmp_path)
    assert done.stdout.splitlines() == [f"(2, 128) {runtime}"], done.stderr


@pytest.mark.parametrize(
    ("machine", "interpreter", "numpy_two"),
    [("armv7l", "tflite-runtime", False), ("aarch64", "ai-edge-litert", True), ("x86_64", "ai-edge-litert", True)],
)
def test_each_machine_is_brought_an_interpreter_that_has_wheels_for_it(
    machine: str, interpreter: str, numpy_two: bool, wheel: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    there = {"platform_machine": machine, "extra": ""}
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    needed = {each.name: each for each in requirements if each.marker is None or each.marker.evaluate(there)}
    assert set(needed) == {"click", "numpy", interpreter}
    assert needed["numpy"].specifier.contains("2.0") is numpy_two


IMPORTED = """
import sys, sysconfig
from pathlib import Path

{code}
folders = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
names = set()
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and any(folder in Path(file).parents for folder in folders):
        names.add(name.split(".")[0])
print(sorted(names - {{"embedlite"}}))
"""


def third_party(code: str) -> set[str]:
    """The installed packages, this one left out, that are imported once ``code`` has run."""
    program = IMPORTED.format(code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout))


def test_the_runtime_imports_numpy_and_nothing_else() -> None:
    """In an environment where TensorFlow, Keras, Pillow, rich, click and jinja2 could be imported."""
    started = third_party("")
    everything = "import embedlite.runtime as all\nfor name in all.__all__: getattr(all, name)"
    assert third_party(everything) - started == {"numpy"}


@pytest.mark.parametrize(
    ("runtime", "module"), [(name, backend.module) for name, backend in INTERPRETERS.items() if backend.automatic]
)
def test_an_encoder_adds_the_interpreter_and_what_that_imports(runtime: str, module: str, digits: Digits) -> None:
    if importlib.util.find_spec(module.split(".", maxsplit=1)[0]) is None:
        pytest.skip(f"{runtime} is not installed")
    interpreter = third_party(f"import numpy, {module}")
    work = (
        "import numpy as np\nfrom embedlite.runtime import Encoder\n"
        f"with Encoder({str(digits.int8)!r}, runtime={runtime!r}) as encoder:\n"
        "    encoder.embed(np.zeros((2, 32, 32, 1), np.uint8))\n"
        "    encoder.embed_one(np.zeros((32, 32, 1), np.float32))\n"
    )
    assert third_party(work) - interpreter == set()


HEAVY = (
    *("tensorflow", "keras", "PIL", "click", "rich", "litert_quantizer", "ai_edge_litert", "tflite_runtime"),
    *("tflite_micro", "ethosu", "google_crc32c", "jinja2"),
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
