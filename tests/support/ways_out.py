"""What errors tell to do, collected from where they are raised, and the tests that do it literally.

``@walks("part of the message", ...)`` on a test, or ``walk("part", ...)`` as one of its parameters, says that it makes
the error and does what it says. ``tests/house/test_every_way_out.py`` holds the marks against the source, and
:func:`meet_errors` sees to it that a test with a mark really meets the error.
"""

import ast
import contextlib
import functools
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from embedlite.runtime.errors import EmbedliteError, MissingPackageError

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "calibration", "convert", "report")
NAMES_A_WAY = re.compile(
    r"--[a-z]|-q [a-z{]|pip install|\w[.]\w+\(|\bstateful=|\b(?:export|embed|inspect)-tflite\b"
    r"|\bdrift-(?:report|fleet)\b|(?:^|[.:;,] |\bor |\band )(?:[Uu]se|[Pp]ass|[Ll]eave)\b"
)
"""An option, a call, a package or a command, or what to use, pass or leave out."""


SENTENCE = re.compile(r"(?:^|[.;] )[A-Z][a-z]+ ")


class Message(NamedTuple):
    """A message as it stands in the source, ``{}`` for what is filled in."""

    where: str
    text: str


def walks(*phrases: str) -> pytest.MarkDecorator:
    """Marks a test that makes the errors of these words, ``{}`` for what is filled in, and does what they say."""
    return pytest.mark.walks(*phrases)


def walk(phrase: str, *values: Any) -> Any:
    """The parameters of one walk, for a test that is a table of them."""
    return pytest.param(*values, marks=walks(phrase), id=phrase)


@contextlib.contextmanager
def meet_errors(marks: Sequence[pytest.Mark]) -> Iterator[None]:
    """Assert that a test meets the errors that its marks name: in this process, or as what a command prints."""
    said: list[str] = []
    run, refuse, raises = subprocess.run, click.ClickException.__init__, pytest.raises

    def keep(error: EmbedliteError, *values: object) -> None:
        Exception.__init__(error, *values)
        said.append(" ".join(map(str, values)))

    def keep_refused(error: click.ClickException, message: str) -> None:
        refuse(error, message)
        said.append(message)

    @contextlib.contextmanager
    def keep_raised(*values: Any, **options: Any) -> Iterator[pytest.ExceptionInfo[BaseException]]:
        """For errors of Python's own, such as those of Keras layers."""
        with raises(*values, **options) as caught:
            yield caught
        said.append(str(caught.value))

    def keep_output(*values: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
        done = run(*values, **options)
        said.append(str(done.stderr))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbedliteError, "__init__", keep)
        patch.setattr(click.ClickException, "__init__", keep_refused)
        patch.setattr(pytest, "raises", keep_raised)
        patch.setattr(subprocess, "run", keep_output)
        yield
    for phrase in (phrase for mark in marks for phrase in mark.args):
        assert any(pattern(phrase).search(text) for text in said), f"no error of this test says: {phrase}"


def pattern(phrase: str) -> re.Pattern[str]:
    """What a phrase stands for in a message that was made; lines may be wrapped."""
    parts = (r"\s+".join(map(re.escape, part.split(" "))) for part in phrase.split("{}"))
    return re.compile(r"[\s\S]+?".join(parts))


def check_extra(said: str, module: str) -> None:
    """Assert that the ``pip install`` which an error names brings the package of a module."""
    owners = {_plain(name) for name in importlib.metadata.packages_distributions()[module]}
    assert owners & brought(said), said


def brought(said: str) -> set[str]:
    """The distributions that the ``pip install`` in an error brings, by what the extras of this project ask for."""
    named = re.search(r"pip install '?([\w.-]+)(?:\[([\w,-]+)\])?", said)
    assert named is not None, said
    if named[2] is None:
        return {_plain(named[1].rstrip("."))}
    assert named[1] == "embedlite"
    names, extras = set[str](), named[2].split(",")
    for line in importlib.metadata.requires("embedlite") or []:
        if any(f'extra == "{extra}"' in line for extra in extras):
            inner = re.match(r"embedlite\[[\w,-]+\]", line)
            names |= {_plain(re.split(r"[^\w.-]", line)[0])} if inner is None else brought(f"pip install {inner[0]}")
    return names


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def needs_package(module: str, needed: Callable[[], Any]) -> None:
    """Without a module there is an error whose ``pip install`` brings it; with it, what is needed works."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, module, None)
        with pytest.raises(MissingPackageError) as caught:
            needed()
    check_extra(str(caught.value), module)
    needed()


def marked() -> Iterator[tuple[str, str]]:
    """Every phrase that a test says to walk, and the test's file."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("walk", "walks"):
                for argument in node.args[: 1 if node.func.id == "walk" else None]:
                    if isinstance(argument, ast.Constant):
                        yield str(argument.value), str(path.relative_to(ROOT))


@functools.cache
def messages() -> tuple[Message, ...]:
    """Every message of the packages: of errors where they are made, and of what errors are made of."""
    return tuple(_messages())


def _messages() -> Iterator[Message]:
    modules = {
        path: ast.parse(path.read_text(encoding="utf-8")) for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    }
    functions: dict[str, list[tuple[Path, ast.FunctionDef]]] = {}
    constants: dict[str, list[tuple[Path, ast.expr]]] = {}
    for path, module in modules.items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, []).append((path, node))
        for statement in module.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                constants.setdefault(statement.targets[0].id, []).append((path, statement.value))
    for path, module in modules.items():
        local = _assigned(module)
        for call in _errors(module):
            yield _message(path, call, " ".join(map(_template, call.args)))
            for part in (part for argument in call.args for part in ast.walk(argument)):
                if isinstance(part, ast.Call) and isinstance(part.func, ast.Name | ast.Attribute):
                    name = part.func.id if isinstance(part.func, ast.Name) else part.func.attr
                    for origin, function in functions.get(name, []):
                        yield from _returned(origin, function)
                if isinstance(part, ast.Name):
                    yield from (_message(origin, value) for origin, value in constants.get(part.id, []))
                    # A part that is no sentence, such as the name of an option, tells nobody to do anything.
                    found = (_message(path, value) for value in local.get(part.id, []))
                    yield from (message for message in found if SENTENCE.search(message.text))


def _message(path: Path, node: ast.expr, text: str | None = None) -> Message:
    return Message(f"{path.relative_to(ROOT)}:{node.lineno}", _template(node) if text is None else text)


def _errors(module: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute) and node.args:
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name.endswith("Error") or name in ("BadParameter", "ClickException", "fail", "told"):
                yield node


def _assigned(module: ast.Module) -> dict[str, list[ast.expr]]:
    """What names stand for inside functions, wherever that is in the module."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for one, part in zip(target.elts, value.elts, strict=False) if several else [(target, value)]:
                if isinstance(one, ast.Name):
                    found.setdefault(one.id, []).append(part)
    return found


def _returned(path: Path, function: ast.FunctionDef) -> Iterator[Message]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            yield from (_message(path, value) for value in values)


def _template(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return _joined(node.values)
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    if isinstance(node, ast.IfExp):
        return f"{_template(node.body)} {_template(node.orelse)}"
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.IfExp):
        return _template(node.value)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Call):
        # ' or '.join(f'--output {name}' for name in names)
        call = node.value
        if isinstance(call.func, ast.Attribute) and call.func.attr == "join":
            (joined,) = call.args
            return _template(joined.elt) if isinstance(joined, ast.GeneratorExp) else "{}"
    return "{}"


def _joined(parts: Sequence[ast.AST]) -> str:
    return "".join(map(_template, parts))
