"""Every extra can be installed wherever docs/install.md says so: asked of PyPI, for platforms that are not this one.

uv judges the markers of another Python and platform, which pip cannot. What can be installed together can be installed
apart.
"""

import configparser
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import ROOT

# The oldest glibc that wheels are built for: tflite-runtime's for aarch64 want 2.34.
PLATFORMS = (
    "x86_64-manylinux_2_28",
    "aarch64-manylinux_2_35",
    "x86_64-pc-windows-msvc",
    "aarch64-apple-darwin",
)


def requirements(*extras: str) -> list[str]:
    """What setup.cfg asks for, extras of extras included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    for extra in extras:
        lines += config["options.extras_require"][extra].split("\n")
    found = [line for line in lines if line]
    nested = [name for line in found for name in re.findall(r"^embedlite\[(.*)\]$", line)]
    own = [line for line in found if not line.startswith("embedlite[")]
    return own + [line for names in nested for line in requirements(*names.split(","))]


def every_extra() -> tuple[str, ...]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return tuple(name for name in config["options.extras_require"] if name != "dev")


def resolve(case: tuple[str, str, tuple[str, ...]]) -> subprocess.CompletedProcess[str]:
    python, platform, extras = case
    # Without a Python named uv looks for that version on this machine, and downloads it: markers need none.
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--python", sys.executable]
    return subprocess.run(
        [*command, "--only-binary", ":all:", "--python-version", python, "--python-platform", platform],
        input="\n".join(requirements(*extras)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "UV_HTTP_TIMEOUT": "120"},
    )


EVERY = [(python, platform, every_extra()) for python in ("3.10", "3.11", "3.12", "3.13") for platform in PLATFORMS]
DEVICE = [("3.14", platform, ("images",)) for platform in PLATFORMS]
TESTED = [(python, PLATFORMS[0], ("dev",)) for python in ("3.10", "3.13")]


@pytest.fixture(scope="module")
def resolved() -> dict[tuple[str, str, tuple[str, ...]], subprocess.CompletedProcess[str]]:
    """All of them at a time: they wait for PyPI."""
    cases = [*EVERY, *DEVICE, *TESTED]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(cases, pool.map(resolve, cases), strict=True))


@pytest.mark.parametrize("case", [*EVERY, *DEVICE, *TESTED], ids=lambda case: "-".join(case[:2]))
def test_there_are_wheels(case: tuple[str, str, tuple[str, ...]], resolved: dict) -> None:
    python, platform, extras = case
    done = resolved[case]
    assert done.returncode == 0, done.stderr
    old_enough = "linux" in platform and python in ("3.10", "3.11") and extras != ("images",)
    assert ("tflite-runtime==" in done.stdout) == old_enough
