"""What an option is: declared once, as a field of a dataclass, and read by commands, Python, checks and results alike.

>>> @described
... @dataclass(frozen=True, kw_only=True)
... class RunOptions:
...     '''How the work is done.'''
...     title: ClassVar[str] = "run"
...     threads: int | None = option(None, "Processors to use.", least=1)

A class is a group with a title; a class that inherits from several groups has the options of all.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .errors import RequestError

_KEY = "option"

_T = TypeVar("_T")
_kinds = functools.cache(typing.get_type_hints)


@dataclass(frozen=True)
class Option:
    """What there is to say of an option besides its name, type and default.

    Attributes:
        help: what it does, for ``--help`` and for Python.
        flag: on the command line; default ``--`` and the name with dashes.
        short: the short flag.
        metavar: what the value is called in ``--help``.
        parse: from the text on the command line to the value; raises ValueError with the reason.
        least: the smallest number.
        choices: the texts that there are.
        check: refuses a value with :class:`~embedlite.runtime.errors.RequestError`.
        decides: whether the bytes of the files depend on it beyond what the model and the images say; a recipe is for
            one value of it.
        command: whether the command has it; else it is for Python only.
    """

    help: str
    flag: str = ""
    short: str = ""
    metavar: str = ""
    parse: Callable[[str], Any] | None = None
    least: int | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], object] | None = None
    decides: bool = False
    command: bool = True


def option(default: Any, help: str, **more: Any) -> Any:
    """Declares a field of a group; ``more`` is what else :class:`Option` takes."""
    return declare(default, Option(help, **more))


def declare(default: Any, declared: Option) -> Any:
    """A field that several groups share, so that it is the same everywhere."""
    return field(default=default, metadata={_KEY: declared})


@dataclass(frozen=True)
class Row:
    """A declared option: its name, type and default, the title of its group, and the rest."""

    name: str
    kind: Any
    default: Any
    group: str
    option: Option

    @property
    def flag(self) -> str:
        """What it is called on the command line."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"


def rows(group: type[Any]) -> Iterator[Row]:
    """The options of a class and of those that it inherits from, in the order of declaration."""
    for owner in group.__mro__:
        title = owner.__dict__.get("title")
        if title is None or not dataclasses.is_dataclass(owner):
            continue
        kinds = _kinds(owner)
        for item in dataclasses.fields(owner):
            if item.name in owner.__annotations__ and _KEY in item.metadata:
                yield Row(item.name, kinds[item.name], item.default, title, item.metadata[_KEY])


def described(group: type[_T]) -> type[_T]:
    """Adds the options to a group's docstring, for ``help()``."""
    own = [row for row in rows(group) if row.name in group.__annotations__]
    group.__doc__ = "\n".join([f"{group.__doc__}\n\nAttributes:", *(f"    {row.name}: {_text(row)}" for row in own)])
    return group


def _text(row: Row) -> str:
    default = "" if row.default in (None, ()) else f" Default: {row.default}."
    return f"{row.option.help}{default}"


def part(options: Any, group: type[_T]) -> _T:
    """Those of the options that one group declares, as an object of its own."""
    named: Any = group
    return typing.cast(_T, named(**{item.name: getattr(options, item.name) for item in dataclasses.fields(named)}))


def given(options: Any) -> dict[str, Any]:
    """The options that are not their defaults, by name, as they stand in JSON."""
    values = ((row, getattr(options, row.name)) for row in rows(type(options)))
    return {row.name: as_json(value) for row, value in values if not _is_default(value, row.default)}


def deciding(options: Any) -> dict[str, Any]:
    """The options that decide about bytes, by name, as they stand in JSON; the order of repeated ones is nothing."""
    values = {row.name: as_json(getattr(options, row.name)) for row in rows(type(options)) if row.option.decides}
    return {name: sorted(value) if isinstance(value, list) else value for name, value in values.items()}


def check_values(options: Any) -> None:
    """Refuse a value that its option's row does not allow.

    Raises:
        RequestError: the first of them.
    """
    for row in rows(type(options)):
        value, declared = getattr(options, row.name), row.option
        if _is_default(value, row.default):
            continue
        if declared.least is not None and value < declared.least:
            raise RequestError(f"{row.flag} is {value}. Use a whole number of {declared.least} or more.")
        if declared.choices:
            for text in (value,) if isinstance(value, str) else value:
                if text not in declared.choices:
                    raise RequestError(f"unknown {row.flag} {text!r}. Use one of: {', '.join(declared.choices)}.")
        if declared.check is not None:
            declared.check(value)


def as_json(value: Any) -> Any:
    """A value as JSON has it; what has no spelling there (an array, a client) is named by its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, (bool, int, float, str, Path)) for item in value):
        return [as_json(item) for item in value]
    return type(value).__name__


def _is_default(value: Any, default: Any) -> bool:
    if value is default:
        return True
    if isinstance(value, Sequence) and isinstance(default, tuple) and not isinstance(value, str):
        return len(value) == len(default) and all(
            one is other or one == other for one, other in zip(value, default, strict=True)
        )
    return type(value) is type(default) and bool(value == default)


def numbers(text: str) -> tuple[float, ...]:
    """One number, or several with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{text!r} is not a number or list of numbers with commas, such as 127.5 or 123.7,116.8,103.9"
        ) from None


def shape(text: str) -> tuple[int, ...]:
    """Height, width and channels, or the sizes of another array, with commas between them."""
    parts = text.split(",")
    if len(parts) > 4 or not all(item.strip().isdecimal() and int(item) > 0 for item in parts):
        raise ValueError(f"{text!r} is not a height,width,channels such as 224,224,3, nor another shape such as 128,6")
    return tuple(int(item) for item in parts)


THREADS = Option("Processors to use; all by default.", least=1, metavar="N")
FEATURE = Option("What holds the images: a feature of a .tfrecord, or an array of a .npz.", metavar="NAME")
ACCEPT = Option("Go on with an input contract that is in doubt or contradicted, too.")
ENGINE = Option(
    "What runs the images: local, dask (a cluster of processes here), tcp://host:8786 (a Dask scheduler); in Python a "
    "distributed.Client, too.",
    metavar="WHERE",
)
"""Options that several commands have."""
