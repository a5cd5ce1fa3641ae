"""A signal that ends a command while Python still imports it is answered as later on: one line, its exit code."""

import configparser
import signal
import subprocess
import sys

import pytest

from conftest import ROOT


def entry_points() -> dict[str, str]:
    """Each command's module and function, as scripts are made of them."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(line.split(" = ") for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", entry_points())
def test_a_signal_among_the_imports_is_one_line(command: str, number: signal.Signals) -> None:
    module, _, function = entry_points()[command].partition(":")
    # Python tells of each import; at numpy's, the first of those that take their time, the signal comes.
    code = f"""
import os, sys
sys.addaudithook(lambda event, found: event == "import" and found[0] == "numpy" and os.kill(os.getpid(), {number}))
from {module} import {function}
{function}()
"""
    done = subprocess.run([sys.executable, "-c", code, "missing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "interrupted: nothing was written.\n")
