"""The wheel on other processors, emulated: Debian's Python under qemu with each interpreter; see emulated_device.py.

A part of its own: ``pytest -m device`` runs it alone, ``-m 'not device'`` leaves it out. Setting the devices up takes a
minute, once.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedlite.convert import Asked, export_asked

from conftest import ROOT, Digits, Run, console_commands
from emulated_device import ARCHITECTURES, Device, same_interpreter, set_up
from foreign_packages import FetchError, install_wheels
from tools import require, unavailable

pytestmark = pytest.mark.device

IMAGES = 16

DEVICES = [(machine, runtime) for machine, kind in ARCHITECTURES.items() for runtime in kind.wheels]


@dataclass(frozen=True)
class Devices:
    """Devices that are set up and served; each once, for all the tests."""

    project: Path
    stack: ExitStack
    made: dict[tuple[str, str, str], Device] = field(default_factory=dict)

    def of(self, machine: str, runtime: str, cpu: str | None = None) -> Device:
        architecture = ARCHITECTURES[machine]
        key = (machine, runtime, cpu or architecture.cpu)
        if key not in self.made:
            for program in (architecture.emulator, "apt-get", "dpkg-deb"):
                require(program)
            try:
                installed = set_up(architecture)
            except (FetchError, RuntimeError) as error:
                unavailable(f"the packages of {machine} cannot be had: {error}")
            device = Device(replace(architecture, cpu=key[-1]), runtime, installed, self.project)
            self.made[key] = self.stack.enter_context(device.served())
        return self.made[key]


@pytest.fixture(scope="module")
def devices(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    project = tmp_path_factory.mktemp("device") / "project"
    install_wheels(["--no-deps", str(wheel)], project)
    with ExitStack() as stack:
        yield Devices(project, stack)


@pytest.fixture(scope="module", params=DEVICES, ids="-".join)
def device(request: pytest.FixtureRequest, devices: Devices) -> Device:
    return devices.of(*request.param)


@pytest.fixture(scope="module")
def models(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example's float32 and int8 file, and an int8 one that ends at the raw integers."""
    folder = tmp_path_factory.mktemp("models")
    plain = {"calibrate_method": "minmax", "equalize": False, "correct": ["none"], "measure": False}
    ends = {"input_type": "uint8", "output_type": "int8"}
    integers = Asked(output_dir=folder, quantize=["int8"], calibration_data=digits.calibration, **ends, **plain)
    (file,) = export_asked(digits.float32, integers).files
    return {"float32": digits.float32, "int8": digits.int8, "integers": Path(file.path)}


def image_files(digits: Digits) -> list[Path]:
    files = sorted(digits.test_images.glob("*.png"))[:IMAGES]
    assert len(files) == IMAGES
    return files


EMBED = """
import sys
import numpy as np
from embedlite.runtime import Encoder

images, target, *models = sys.argv[1:]
vectors = {}
for model in models:
    name, _, path = model.partition("=")
    with Encoder(path) as encoder:
        vectors[name] = encoder.embed(np.load(images))
        runs_on = f"{encoder.runtime.name} {encoder.runtime.version}"
np.savez(target, runtime=runs_on, **vectors)
"""


@pytest.fixture(scope="module")
def sides(
    device: Device, models: dict[str, Path], digits: Digits, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Vectors of the same images from the device and from this machine, by the same version of the interpreter."""
    folder = tmp_path_factory.mktemp("sides")
    images = [np.asarray(Image.open(path))[..., None] for path in image_files(digits)]
    np.save(folder / "images.npy", np.stack(images))
    named = [f"{name}={path}" for name, path in models.items()]

    done = device.run("python", "-c", EMBED, folder / "images.npy", folder / "device.npz", *named)
    assert done.returncode == 0, done.stderr

    if device.runtime == "ai-edge-litert":
        here = {
            "PYTHONPATH": os.pathsep.join(
                [str(device.project), str(same_interpreter(device.architecture, device.runtime))]
            )
        }
    elif sys.version_info < (3, 12):
        here = {}
    else:
        pytest.skip("tflite-runtime has no wheel for this Python to compare with")
    subprocess.run(
        [sys.executable, "-c", EMBED, folder / "images.npy", folder / "here.npz", *named],
        env={**os.environ, **here, "EMBEDLITE_RUNTIME": device.runtime},
        check=True,
    )
    loaded = (np.load(folder / "device.npz"), np.load(folder / "here.npz"))
    theirs, ours = ({name: file[name] for name in file.files} for file in loaded)
    return theirs, ours


def test_both_sides_ran_the_same_interpreter(device: Device, sides: tuple[dict[str, np.ndarray], ...]) -> None:
    there, here = (str(side["runtime"]) for side in sides)
    assert there == here
    assert there.startswith(device.runtime)


def test_the_device_is_another_processor(device: Device) -> None:
    done = device.cold("python", "-c", "import platform, numpy; print(platform.machine(), numpy.__file__)")
    machine, numpy_file = done.stdout.split()
    assert machine == device.architecture.machine
    assert device.folder in Path(numpy_file).parents


def test_integer_embeddings_are_bit_identical(sides: tuple[dict[str, np.ndarray], ...]) -> None:
    """Integers to the end of the file; the normalization is Encoder's, on integers, rounded once."""
    there, here = (side["integers"] for side in sides)
    assert np.array_equal(there, here)
    assert len(np.unique(there, axis=0)) == IMAGES


def test_int8_embeddings_are_bit_identical(device: Device, sides: tuple[dict[str, np.ndarray], ...]) -> None:
    """With tflite-runtime the integers are (above); its float kernels round the normalization's last bit otherwise."""
    there, here = (side["int8"] for side in sides)
    if device.runtime == "ai-edge-litert":
        assert np.array_equal(there, here)
    assert np.abs(there - here).max() <= 1e-5
    assert len(np.unique(there, axis=0)) == IMAGES


def test_float_embeddings_agree(sides: tuple[dict[str, np.ndarray], ...]) -> None:
    there, here = (side["float32"] for side in sides)
    assert np.abs(there - here).max() <= 1e-5
    assert len(np.unique(there, axis=0)) == IMAGES


def test_the_selftest_passes(device: Device, digits: Digits) -> None:
    for model in (digits.int8, digits.float32):
        done = device.run("embed-tflite", model, "--selftest")
        assert done.returncode == 0, done.stdout + done.stderr
        assert device.runtime in done.stdout


def test_a_file_shows_the_same_there(device: Device, digits: Digits, run: Run) -> None:
    there, here = (side("inspect-tflite", digits.int8) for side in (device.run, run))
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout


def test_half_precision_is_computed_where_the_processor_has_it(
    digits: Digits, devices: Devices, tmp_path: Path
) -> None:
    """The files that the export marks, on a Cortex-A76, which has the instructions, and on an A72, which has not."""
    names = {"float32": digits.float32, "int8": digits.int8}
    # Of the float32 file, because that needs no TensorFlow.
    wanted = {"quantize": ["float32", "float16"], "allow_fp16": True, "test_data": digits.test_images}
    files = export_asked(digits.float32, Asked(output_dir=tmp_path, **wanted)).files
    told = files[0].contract["half_precision"]["sqnr_db"]
    names |= {f"{file.mode} in half": Path(file.path) for file in files}
    np.save(
        tmp_path / "images.npy",
        np.stack([np.asarray(Image.open(path))[..., None] for path in image_files(digits)[: IMAGES // 2]]),
    )
    sides = []
    for cpu in ("cortex-a72", "cortex-a76"):
        one = devices.of("aarch64", "ai-edge-litert", cpu)
        vectors = tmp_path / f"{cpu}.npz"
        done = one.run(
            "python", "-c", EMBED, tmp_path / "images.npy", vectors, *(f"{name}={path}" for name, path in names.items())
        )
        assert done.returncode == 0, done.stderr
        sides.append(np.load(vectors))
        done = one.run("embed-tflite", names["float16 in half"], "--selftest")
        assert done.returncode == 0, done.stdout + done.stderr
        said = {
            "cortex-a72": "does not have it, and computes the file in float32",
            "cortex-a76": "has it, and may compute",
        }
        assert said[cpu] in done.stdout
    without, having = sides
    for name in ("float32", "int8"):
        np.testing.assert_array_equal(without[name], having[name])
    assert np.abs(without["float32 in half"] - without["float32"]).max() <= 1e-5
    for name in ("float32 in half", "float16 in half"):
        noise = ((having[name] - without["float32"]).astype(np.float64) ** 2).sum()
        found = 10 * np.log10((without["float32"].astype(np.float64) ** 2).sum() / noise)
        # Sums in half precision are not simulated.
        assert told - 6 <= found <= told + 6, f"{name}: {found:.1f} dB, told {told:.1f}"
        assert (having[name] != without[name]).any()


@pytest.mark.parametrize(
    ("page", "machine", "runtime"),
    [("raspberry-pi.md", "aarch64", "ai-edge-litert"), ("armv7l.md", "armv7l", "tflite-runtime")],
)
def test_the_commands_of_the_page_run_on_its_device(
    page: str, machine: str, runtime: str, digits: Digits, run: Run, devices: Devices, tmp_path: Path
) -> None:
    """Those under "On the device"; the tests of the documents run the others, and these once more, on this machine."""
    device = devices.of(machine, runtime)
    (tmp_path / "held-out").mkdir()
    for path in image_files(digits):
        shutil.copy(path, tmp_path / "held-out")
    for path in (digits.float32, digits.int8):
        shutil.copy(path, tmp_path)
    home = run("embed-tflite", "model.float32.tflite", "held-out", "-o", "home.npz", cwd=tmp_path)
    assert home.returncode == 0, home.stderr
    _, section = (ROOT / "docs" / page).read_text().split("\n## On the device\n")
    commands = console_commands(section.split("\n## ")[0])
    assert len(commands) >= 3
    for command, *arguments in commands:
        # One of them in a process of its own, as on a device; the others are forks.
        there = device.cold if "--selftest" in arguments else device.run
        done = there(command, *arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{command} {arguments}\n{done.stdout}{done.stderr}"
