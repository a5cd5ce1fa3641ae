"""The attack of ``run.py bench attack``, for a moment: the files of one seed end as they should, findings are found."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from conftest import ROOT, Digits

ATTACK = ROOT / "benchmarks" / "attack.py"


def test_forty_files_of_one_seed(digits: Digits, tmp_path: Path) -> None:
    command = [sys.executable, ATTACK, "--count", "40", "--seed", "3", "--keep", tmp_path / "kept", digits.int8]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 finding(s)" in done.stdout
    assert "with contract" in done.stdout
    assert "without contract" in done.stdout
    assert not (tmp_path / "kept").exists()


def test_findings_are_found(digits: Digits, tmp_path: Path) -> None:
    """Another vector than the one that is wanted, an exception that is not ours, the end of the process."""
    spec = importlib.util.spec_from_file_location("attack", ATTACK)
    assert spec is not None
    assert spec.loader is not None
    attack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(attack)
    worker = attack.Worker("ai-edge-litert")
    pixels, wanted = tmp_path / "pixels.npy", tmp_path / "wanted.npy"
    np.save(pixels, np.zeros((32, 32, 1), np.uint8))
    np.save(wanted, np.ones(3, np.float32))
    job = {"path": str(digits.int8), "pixels": str(pixels), "wanted": str(wanted), "shape": [32, 32, 1]}
    assert worker.judge(job) == "FINDING another vector"
    assert worker.judge({**job, "pixels": "missing.npy"}).startswith("FINDING foreign exception FileNotFoundError")
    worker._process.kill()
    worker._process.wait()
    assert worker.judge(job).startswith("FINDING crash")
    assert worker.judge(job) == "FINDING another vector"
    worker.close()
