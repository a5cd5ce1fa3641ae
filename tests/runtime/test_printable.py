"""Names that hold escape sequences, on a terminal."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedlite.runtime.printable import one_line, printable, styled
from embedlite.runtime.progress import stage, telling

from conftest import Run

EVIL = "\x1b[31mEVIL\x07\r\nfake: PASS\u202e"


def harmless(text: str) -> bool:
    return all(unicodedata.category(character) != "Cc" or character in "\n\t" for character in text)


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert harmless(printable(text))
    assert harmless(one_line(text))
    assert len(one_line(text).splitlines()) <= 1
    assert printable(text).count("\n") == text.count("\n")
    assert printable("1\tplain line\n2") == "1\tplain line\n2"


def test_our_own_colours_pass_and_those_of_names_do_not() -> None:
    line = styled(f"\x1b[90m{one_line(EVIL)}\x1b[0m")
    assert printable(f"{line}\n{EVIL}").count("\x1b") == 2


def test_the_commands_show_names_escaped(run: Run, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    ids = np.array([f"{EVIL}{row}" for row in range(30)])
    for name in ("home", "device"):
        np.savez(tmp_path / f"{name}.npz", embeddings=rows, ids=ids)
    page = tmp_path / "page.html"
    done = run("drift-report", tmp_path / "device.npz", "--reference", tmp_path / "home.npz", "--html", page)
    assert harmless(page.read_text())
    assert harmless(done.stdout), done.stdout
    assert "\\x1b[31mEVIL\\x07\\r\\nfake: PASS\\u202e" in done.stdout
    missing = run("inspect-tflite", tmp_path / f"{EVIL.replace('/', '')}.tflite")
    assert missing.returncode == 2
    assert harmless(missing.stderr)


def test_what_is_being_done_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with telling(lines=True, quiet=False), stage(f"embedding with {EVIL}"):
        pass
    said = capsys.readouterr().err
    assert harmless(said)
    assert len(said.splitlines()) == 1
