"""The documents whose commands export run too; see tests/docs/test_docs.py for the others."""

from pathlib import Path

import pytest

from conftest import Digits, Run
from documents import ABOUT_FIGURES, WITH_COMMANDS, exports, run_console_blocks, small_models

DOCUMENTS = [path for path in WITH_COMMANDS if exports(path)]


@pytest.fixture(scope="module")
def soon(digits: Digits, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_models(digits, run, tmp_path_factory)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_console_blocks_run(document: Path, digits: Digits, soon: Path, run: Run, tmp_path: Path) -> None:
    models = digits.folder if document.name in ABOUT_FIGURES else soon
    run_console_blocks(document, models, digits, run, tmp_path)


def test_every_document_about_figures_is_there() -> None:
    assert set(ABOUT_FIGURES) <= {path.name for path in DOCUMENTS}
