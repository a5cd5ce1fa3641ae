"""What a user says of a model file that TensorFlow opens; the same options on every command that takes one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


def is_keras_model(path: Path) -> bool:
    """Whether a reference has to be run by TensorFlow: a Keras file or a SavedModel's folder."""
    return path.suffix.lower() in KERAS_SUFFIXES or path.is_dir()


@dataclass(frozen=True)
class LoadOptions:
    """What the user says of a model file.

    Attributes:
        input_shape: (height, width, channels), for a model whose fixed shape is lost.
        layer: the encoder ends at this layer.
        output: which of several outputs is the embedding.
        custom_objects: a Python file whose classes and functions the model may use; it is executed.
        replace_lambda: ``LAYER=KIND``, a known layer in a Lambda's place.
    """

    input_shape: tuple[int, int, int] | None = None
    layer: str | None = None
    output: str | None = None
    custom_objects: Path | None = None
    replace_lambda: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON object; its keys are the arguments of :meth:`from_json`."""
        path = None if self.custom_objects is None else str(self.custom_objects.absolute())
        return {**vars(self), "custom_objects": path, "replace_lambda": list(self.replace_lambda)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LoadOptions:
        """The options from their JSON object."""
        path = None if value["custom_objects"] is None else Path(value["custom_objects"])
        shape = None if value["input_shape"] is None else tuple(value["input_shape"])
        return cls(
            **{**value, "input_shape": shape, "custom_objects": path, "replace_lambda": tuple(value["replace_lambda"])}
        )


def model_options(function: _F) -> _F:
    """Adds ``--layer --output --custom-objects --replace-lambda``; the command receives them as one ``opening``."""

    @functools.wraps(function)
    def gathered(
        layer: str | None,
        output: str | None,
        custom_objects: Path | None,
        replace_lambda: tuple[str, ...],
        **others: Any,
    ) -> Any:
        return function(opening=LoadOptions(None, layer, output, custom_objects, replace_lambda), **others)

    command: Any = gathered
    for option in (
        click.option(
            "--replace-lambda",
            multiple=True,
            metavar="LAYER=KIND",
            help="A known layer in a Lambda's place, such as minmax-sample or l2; repeatable.",
        ),
        click.option(
            "--custom-objects",
            type=click.Path(path_type=Path),
            metavar="FILE.py",
            help="Python that you trust: the classes and functions a Keras file needs. It is executed.",
        ),
        click.option("--output", metavar="NAME", help="Which of several outputs is the embedding."),
        click.option("--layer", metavar="NAME", help="The encoder ends at this layer."),
    ):
        command = option(command)
    gathered_command: _F = command
    return gathered_command
