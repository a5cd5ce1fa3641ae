"""The page on messages quotes words that some message really has."""

import ast
import re

from conftest import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
PACKAGES = ("runtime", "calibration", "convert", "report")


def texts() -> str:
    """Every text in the code, those in pieces put together, with {} where a value stands."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_every_quoted_message_is_one() -> None:
    rows = [row.split("|")[1] for row in PAGE.splitlines() if row.startswith('| "')]
    quoted = [words for row in rows for words in re.findall(r'"([^"]+)"', row)]
    assert len(quoted) > 30
    known = texts()
    assert [words for words in quoted if words not in known] == []
