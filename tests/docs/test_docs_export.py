"""The documents whose commands export run too; see tests/docs/test_docs.py for the others."""

from pathlib import Path

import pytest

from conftest import Digits, Run
from documents import WITH_COMMANDS, exports, run_console_blocks

DOCUMENTS = [path for path in WITH_COMMANDS if exports(path)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_console_blocks_run(document: Path, digits: Digits, run: Run, tmp_path: Path) -> None:
    run_console_blocks(document, digits, run, tmp_path)
