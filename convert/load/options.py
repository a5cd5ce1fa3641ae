"""What a user says of a model file that TensorFlow opens; the same options on every command that takes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...runtime.child_limits import TIME_LIMIT
from ...runtime.options import described, option, part, shape

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


def is_keras_model(path: Path) -> bool:
    """Whether a reference has to be run by TensorFlow: a Keras file or a SavedModel's folder."""
    return path.suffix.lower() in KERAS_SUFFIXES or path.is_dir()


@described
@dataclass(frozen=True)
class LoadOptions:
    """What the user says of a model file."""

    title: ClassVar[str] = "Model"

    input_shape: tuple[int, ...] | None = option(
        None,
        "Height, width and channels (of another array its sizes), for a model whose fixed shape is lost.",
        metavar="H,W,C",
        parse=shape,
    )
    layer: str | None = option(
        None,
        "The encoder ends at this layer (in a SavedModel of TensorFlow 1 an operation, in a .tflite a tensor).",
        metavar="NAME",
    )
    input: str | None = option(
        None, "Which of several inputs the encoder takes; the others must not be needed.", metavar="NAME"
    )
    output: str | None = option(None, "Which of several outputs is the embedding.", metavar="NAME")
    signature: str | None = option(
        None, "Which signature of a SavedModel is the encoder.  [default: serving_default]", metavar="NAME"
    )
    custom_objects: str | Path | None = option(
        None, "Python that you trust: the classes and functions a Keras file needs. It is executed.", metavar="FILE.py"
    )
    replace_lambda: Sequence[str] = option(
        (), "A known layer in a Lambda's place, such as minmax-sample or l2; repeatable.", metavar="LAYER=KIND"
    )
    time_limit: int = option(
        TIME_LIMIT, "Seconds that a command may take to load the model, and to convert it.", metavar="S", least=1
    )

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON object; its keys are the arguments of :meth:`from_json`."""
        path = None if self.custom_objects is None else str(Path(self.custom_objects).absolute())
        said = vars(part(self, LoadOptions))
        return {**said, "custom_objects": path, "replace_lambda": list(self.replace_lambda)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LoadOptions:
        """The options from their JSON object."""
        path = None if value["custom_objects"] is None else Path(value["custom_objects"])
        shape = None if value["input_shape"] is None else tuple(value["input_shape"])
        return cls(
            **{**value, "input_shape": shape, "custom_objects": path, "replace_lambda": tuple(value["replace_lambda"])}
        )
