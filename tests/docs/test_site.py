"""The documentation as a site: built strictly, complete, and without anything from elsewhere."""

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LINKS_FETCHED = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}


class Fetches(HTMLParser):
    """What a browser fetches for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in FETCHED and values.get(FETCHED[tag]):
            self.found.append(str(values[FETCHED[tag]]))
        if tag == "link" and LINKS_FETCHED & set((values.get("rel") or "").split()):
            self.found.append(str(values.get("href")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-f", ROOT / "site" / "mkdocs.yml", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, "--strict"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        fetches = Fetches()
        fetches.feed(page.read_text())
        assert fetches.found
        for address in fetches.found:
            assert not re.match(r"(https?:)?//", address), f"{page.name} fetches {address}"
            assert address.startswith("data:") or (page.parent / address.partition("?")[0]).resolve().exists(), address
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text()), style


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "site" / "mkdocs.yml").read_text()
    # Tags of Python objects are of no interest here.
    listed = re.findall(r": ([\w/-]+\.md)$", navigation, re.MULTILINE)
    assert yaml.safe_load(navigation)["theme"]["font"] is False
    assert len(set(listed)) == len(listed)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(listed), f"not in site/mkdocs.yml: {pages - set(listed)}"


@pytest.mark.parametrize("package", ["runtime", "calibration", "convert"])
def test_every_public_name_is_in_the_reference(site: Path, package: str) -> None:
    page = (site / "reference" / f"{package}.html").read_text()
    module = importlib.import_module(f"embedlite.{package}")
    for name in module.__all__:
        if callable(getattr(module, name)):
            assert f'.{name}"' in page, name


def test_every_command_is_in_the_reference_and_can_be_searched_for(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text()
    for entry in entry_points(group="console_scripts"):
        if entry.value.startswith("embedlite."):
            assert f'id="{entry.name}"' in page
    assert "--calibration-data" in page
    # Search works without a server: the index is a script beside the pages.
    assert "calibration" in (site / "search" / "search_index.js").read_text()
