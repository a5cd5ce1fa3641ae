"""A copy of the project's packages, to change a line of, and scripts that import it."""

import shutil
import subprocess
from pathlib import Path

from conftest import Run

ROOT = Path(__file__).resolve().parents[2]


FORGET = """import sys
for name in [*sys.modules]:
    if name.partition(".")[0] == "embedlite":
        del sys.modules[name]
"""
"""What a process runs first that is to import the packages anew."""


def copy_packages(folder: Path) -> Path:
    """What imports know as ``embedlite``, without the reports, in a folder; returns the package."""
    for package in ("runtime", "calibration", "convert"):
        shutil.copytree(ROOT / package, folder / "embedlite" / package)
    return folder / "embedlite"


def run_with(run: Run, folder: Path, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script with the packages of a folder, and :mod:`encoders`, in a process that has imported TensorFlow.

    It had imported this project's packages as well, and forgets them; processes that it starts know the folder's only.
    """
    path = [str(folder), str(ROOT / "tests" / "support")]
    code = f"{FORGET}import os\nsys.path[:0] = {path!r}\nos.environ['PYTHONPATH'] = os.pathsep.join(sys.path[:2])\n"
    return run("python", "-c", code + script, *arguments, world="tensorflow")
