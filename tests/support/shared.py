"""Files that take long to make, made once for all of pytest's workers."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, key: str, make: Callable[[Path], object]) -> Path:
    """The folder of a key; whoever comes first fills it, and the others wait for that.

    Args:
        factory: of the fixture that asks.
        key: everything that decides the content.
        make: fills the folder, which exists; one that raises leaves it to the next who asks.
    """
    root = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        # Each worker has a folder of its own in that of the run.
        root = root.parent
    folder = root / "shared" / key
    folder.mkdir(parents=True, exist_ok=True)
    done = folder.with_name(f"{folder.name}.done")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder
