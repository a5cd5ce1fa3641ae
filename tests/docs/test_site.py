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

from browser import open_browser
from conftest import ROOT
from tools import require

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
            # The page for missing addresses counts from the server's root.
            place = site / address[1:] if address.startswith("/") else page.parent / address.partition("?")[0]
            assert address.startswith("data:") or place.exists(), address
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


def test_every_command_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text()
    for entry in entry_points(group="console_scripts"):
        if entry.value.startswith("embedlite."):
            assert f'id="{entry.name}"' in page
    assert "--calibration-data" in page


def test_search_works_from_a_disk(site: Path, tmp_path: Path) -> None:
    with open_browser(require("chromium"), tmp_path) as page:
        page.open_address(f"{(site / 'index.html').as_uri()}?q=resampler", 1200)
        count = page.evaluate(
            "(async () => { const found = () => document.querySelectorAll('.md-search-result__item').length;"
            " for (let tries = 0; tries < 300 && !found(); tries++) await new Promise((done) => setTimeout(done, 100));"
            " return found(); })()"
        )
    assert count > 0
    assert all(address.startswith(("file:", "data:", "blob:", "about:")) for address in page.requests), page.requests
