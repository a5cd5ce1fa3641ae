"""The house as its imports draw it: nothing points up, nothing goes round, and every room is installed."""

import ast
import collections
import configparser
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PACKAGES = ("runtime", "calibration", "convert", "report")
"""Bottom to top."""

LEVELS = {
    "runtime": (
        "errors printable version progress options child_limits terminal | files arrays machine child | model | "
        "backends input | drift images session embedding_map | encoder | check monitor | commands"
    ),
    "calibration": (
        "errors bins tensors ranges statistics statistics_file | engine observe collect | "
        "methods assess auto coverage statistics_cache images"
    ),
    "convert": (
        "errors modes results layers graph contract_search | load | options max_drift | normalization | quantize | "
        "tune | request | make | verify | search repeated_images | outcome data contract_decision | steps | pipeline "
        "exporting command"
    ),
    "report": (
        "reference labels embedding | sides causes | several gallery | page workers | outputs fleet | "
        "one_candidate candidates | command"
    ),
}
"""The rooms of each package, and the files beside them, bottom to top; those of one level may use each other."""


def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name, without the namespace."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@dataclass(frozen=True)
class Arrow:
    """A module names another one.

    Attributes:
        source, target: their names, without the namespace.
        place: file and line.
        imported: by an import (at the top or inside a function), rather than in text.
    """

    source: str
    target: str
    place: str
    imported: bool


def arrows(name: str, path: Path, root: Path = ROOT) -> Iterator[Arrow]:
    """Every module that a module names."""
    package = list(path.relative_to(root).parent.parts)

    def arrow(node: ast.AST, target: str, *, imported: bool = True) -> Iterator[Arrow]:
        # Of what is imported from a module, only the module is a file; of a package it may be a module.
        parts = target.split(".")
        known = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        found = next((module for module in known if module in MODULES), name)
        if found != name:
            yield Arrow(name, found, f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}", imported)

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield from arrow(node, ".".join([*base, alias.name]).removeprefix("embedlite."))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from arrow(node, alias.name.removeprefix("embedlite."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for said in re.findall(r"\bembedlite\.([\w.]+)", node.value):
                yield from arrow(node, said, imported=False)


ARROWS = [arrow for name, path in MODULES.items() for arrow in arrows(name, path)]


def room(module: str) -> tuple[str, str]:
    """The package, and the room in it or the file beside the rooms; empty for the package's front door."""
    package, _, rest = module.partition(".")
    return package, rest.split(".")[0]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A way round a graph, empty if there is none."""
    done: set[str] = set()

    def search(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if found := search(following, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


def test_no_arrow_points_up_between_packages() -> None:
    up = [arrow for arrow in ARROWS if PACKAGES.index(room(arrow.target)[0]) > PACKAGES.index(room(arrow.source)[0])]
    assert not up, "\n".join(map(str, up))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_arrow_points_up_between_rooms(package: str) -> None:
    level = {name: index for index, part in enumerate(LEVELS[package].split("|")) for name in part.split()}
    inside = {room(name)[1] for name in MODULES if name.startswith(f"{package}.")}
    assert inside == set(level), "a room without a place in the order, or a place without a room"
    up = [
        arrow
        for arrow in ARROWS
        if room(arrow.source)[0] == room(arrow.target)[0] == package
        and room(arrow.source)[1]
        and room(arrow.target)[1]
        and level[room(arrow.target)[1]] > level[room(arrow.source)[1]]
    ]
    assert not up, "\n".join(map(str, up))


def test_no_imports_go_round() -> None:
    files: dict[str, set[str]] = {name: set() for name in MODULES}
    rooms: dict[str, set[str]] = {".".join(room(name)): set() for name in MODULES}
    for arrow in ARROWS:
        if arrow.imported:
            files[arrow.source].add(arrow.target)
            one, other = room(arrow.source), room(arrow.target)
            # A package's front door opens its rooms, and they do not use it.
            if one != other and one[1] and other[1]:
                rooms[".".join(one)].add(".".join(other))
    assert cycle(rooms) == []
    assert cycle(files) == []


def test_arrows_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    code = (
        "from ..convert import export\n"
        "def late() -> None:\n"
        "    from ..report.page import page\n"
        '    """Runs embedlite.convert.load.lower."""\n'
    )
    path = tmp_path / "runtime" / "new.py"
    path.parent.mkdir()
    path.write_text(code)
    found = {arrow.target: arrow.imported for arrow in arrows("runtime.new", path, tmp_path)}
    assert found == {"convert": True, "report.page.page": True, "convert.load.lower": False}


def test_a_circle_is_seen() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b"}, "b": set()}) == []


def test_setup_lists_every_subpackage() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    rooms = {
        f"embedlite.{'.'.join(path.parent.relative_to(ROOT).parts)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == rooms
    assert len(listed) == len(rooms)


def test_every_folder_with_modules_is_a_package_with_a_sentence() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_modules_are_read_in_one_sitting() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items() if path.name != "__init__.py"}
    assert statistics.median(lengths.values()) <= 200
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_a_folder_has_a_dozen_modules() -> None:
    inside = collections.Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {folder: count for folder, count in inside.items() if count > 14} == {}


def test_no_two_files_of_tests_have_one_name() -> None:
    """They would be the same module, and the second is never run."""
    names = collections.Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name, count in names.items() if count > 1} == set()
