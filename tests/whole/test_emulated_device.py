"""The devices' cache folder: built whole, once, whoever asks and whatever interrupts; no emulator is needed for it."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import ROOT
from emulated_device import cached, main


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def fill(folder: Path) -> None:
    """Refuses a folder in which somebody has been, and takes long enough to be overtaken."""
    (folder / "first").touch(exist_ok=False)
    time.sleep(0.2)
    (folder / "last").touch(exist_ok=False)


def test_it_is_built_once_however_many_ask() -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        fill(folder)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: cached("device", build), range(4)))
    assert len(calls) == 1
    (folder,) = folders
    assert sorted(path.name for path in folder.iterdir()) == ["first", "last"]


def test_a_killed_build_leaves_nothing_that_is_used(cache: Path) -> None:
    code = (
        "import os, signal\nfrom emulated_device import cached\n"
        "def build(folder):\n"
        "    (folder / 'first').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cached('device', build)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests" / "support", check=False)
    assert killed.returncode < 0
    assert not (cache / "embedlite" / "devices" / "device").exists()
    assert sorted(path.name for path in cached("device", fill).iterdir()) == ["first", "last"]


def test_a_failed_build_is_tried_again() -> None:
    def fail(folder: Path) -> None:
        (folder / "first").touch()
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        cached("device", fail)
    assert (cached("device", fill) / "last").exists()


@pytest.mark.parametrize("arguments", [[], ["aarch64"], ["riscv64", "ai-edge-litert"], ["armv7l", "ai-edge-litert"]])
def test_an_unknown_device_shows_what_there_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "armv7l" in capsys.readouterr().err


def test_a_missing_emulator_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["armv7l", "tflite-runtime"]) == 2
    error = capsys.readouterr().err
    assert "qemu-arm-static" in error
    assert "apt-get install qemu-user-static" in error
