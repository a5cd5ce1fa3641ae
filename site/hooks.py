"""Pages of the site that no file in docs/ holds: the README as the first one, docstrings, and the commands' help."""

import importlib
import os
import re
import subprocess
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Named so that the plugin "offline" does not add one from somebody's server.
WORKER = "assets/iframe-worker.js"
WIDTH = {"COLUMNS": "100"}
PACKAGES = ("runtime", "calibration", "convert", "report")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"index.md": front_page(), "reference/commands.md": commands_page()}
    pages |= {f"reference/{name}.md": package_page(name) for name in PACKAGES}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, WORKER, content=(ROOT / "site" / "worker.js").read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ lead to files that the site does not have: their names stay."""
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"`\1`", markdown)


def front_page() -> str:
    """The README, its links turned to the site's pages; files that the site does not have are named."""
    return re.sub(r"\[([^\]]*)\]\(([^)]*)\)", _turned, (ROOT / "README.md").read_text())


def _turned(link: re.Match[str]) -> str:
    text, target = link.groups()
    if target.startswith(("https:", "#")):
        return link[0]
    return f"[{text}]({target.removeprefix('docs/')})" if target.startswith("docs/") else text


def package_page(name: str) -> str:
    """Every public name of a package, by its docstring."""
    package = importlib.import_module(f"embedlite.{name}")
    lines = [f"# embedlite.{name}", "", (package.__doc__ or "").partition("\n")[0], ""]
    for public in getattr(package, "__all__", ()):
        thing = getattr(package, public)
        if isinstance(thing, str | dict | tuple):
            continue
        lines += [f"::: {getattr(thing, '__module__', package.__name__)}.{public}", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """What every command says with ``--help``."""
    lines = ["# Commands", ""]
    names = sorted(
        entry.name for entry in entry_points(group="console_scripts") if entry.value.startswith("embedlite.")
    )
    for name in dict.fromkeys(names):
        program = Path(sysconfig.get_path("scripts"), name)
        done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True, env=os.environ | WIDTH)
        lines += [f"## {name}", "", "```text", done.stdout.rstrip(), "```", ""]
    return "\n".join(lines)
