"""The encoder as the user has it, whatever it was saved as: one image or other array in, one embedding out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ...runtime.model.contract import MOST_AXES, InputOptions
from ...runtime.model.origin import Statement, statement
from ..errors import ModelShapeError


@dataclass(frozen=True)
class Original:
    """An encoder that TensorFlow runs, or a float ``.tflite`` that is there already.

    Attributes:
        name: what to call it in messages.
        input_shape: of one input: (height, width, channels), or one to four sizes of another array.
        call: (N, ...) float32 tensor to one output tensor; None for a ``.tflite``.
        flatbuffer: the float ``.tflite``; None for what TensorFlow runs.
        batch: the batch size that the model declares; None if it takes any, or may.
        rows: whether a 4-D result is to be read as rows of its channels.
        inputs: what the model itself says of its preprocessing: a ``.tflite`` by a contract or metadata, others by
            layers that bring pictures of any size to theirs.
        resizes_to: the size of such layers where the caller gave another one, and what they do, in words; else None.
        decisions: what was decided on the user's behalf while loading.
        quieten: makes layers that are random do what they do at inference, whatever the model says, and returns their
            names; None where that cannot be done.
        framework: the kind of model and who runs it, with versions, for messages.
        calm: a context in which layers draw no random numbers that change nothing; None where none do.
        unrolling: a context in which recurrent layers are traced step by step; None where there are none, or that
            cannot be done.
    """

    name: str
    input_shape: tuple[int, ...]
    call: Callable[[Any], Any] | None = None
    flatbuffer: bytes | None = None
    batch: int | None = None
    rows: bool = False
    inputs: Statement | None = None
    resizes_to: tuple[tuple[int, ...], str] | None = None
    decisions: tuple[str, ...] = ()
    quieten: Callable[[], tuple[str, ...]] | None = None
    framework: str = ""
    calm: Callable[[], AbstractContextManager[None]] | None = None
    unrolling: Callable[[], AbstractContextManager[None]] | None = None


def near(wanted: str, known: Iterable[str]) -> str:
    """The names that are most like one that does not exist, for a message; the last ones where none is like it."""
    names = list(dict.fromkeys(known))
    return ", ".join(difflib.get_close_matches(wanted, names, n=4, cutoff=0.4) or names[-8:]) or "none"


def named_outputs(result: Any) -> dict[str, Any]:
    """What a model gives, by name: its own, else as Keras names them in a SavedModel, ``output_0`` and so on."""
    import tensorflow as tf

    outputs = tf.nest.flatten(result)
    own = isinstance(result, dict) and len(result) == len(outputs)
    return dict(zip(sorted(result) if own else map("output_{}".format, range(len(outputs))), outputs, strict=True))


def several_outputs(name: str, names: Sequence[str]) -> ModelShapeError:
    """An error that says which outputs there are to choose from."""
    return ModelShapeError(
        f"{name} has {len(names)} outputs; an encoder gives one embedding. Choose one: "
        f"{' or '.join(f'--output {other}' for other in names)}."
    )


def check_input_shape(
    name: str, known: tuple[int | None, ...] | None, wanted: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The shape of one input of a model.

    Args:
        name: what to call the model in an error.
        known: its input shape with the batch axis, None for every size it leaves open; None if nothing is known.
        wanted: fills in what the model leaves open.

    Raises:
        ModelShapeError: fewer or more than one to four axes, a size that is not known, or a contradiction.
    """
    if known is not None and not 1 <= len(known) - 1 <= MOST_AXES:
        raise ModelShapeError(
            f"{name} takes inputs of shape {known}; an encoder takes one image, (batch, height, width, channels), or "
            f"one other array of one to {MOST_AXES} axes after the batch."
        )
    shape = tuple(known[1:]) if known is not None else None
    if wanted is not None:
        sizes = wanted if shape is None else shape
        if len(sizes) != len(wanted) or any(
            size is not None and size != given for size, given in zip(sizes, wanted, strict=True)
        ):
            raise ModelShapeError(
                f"the input shape {wanted} was asked for, but {name} takes {shape}. Leave --input-shape out."
                if None not in sizes
                else f"the input shape {wanted} was asked for, but {name} takes {shape}, None for any size. Pass sizes "
                f"that fit, for instance --input-shape {_example(sizes, wanted)}."
            )
        return wanted
    if shape is None or (None in shape and len(shape) == 3):
        text = "unknown" if shape is None else str(shape)
        raise ModelShapeError(
            f"the input size of {name} is not fixed (height, width, channels: {text}), and a device needs it fixed. "
            "Pass --input-shape, for instance --input-shape 224,224,3."
        )
    if None in shape:
        example = _example(shape)
        raise ModelShapeError(
            f"the input size of {name} is not fixed: {shape}, and a device needs it fixed. Pass --input-shape, for "
            f"instance --input-shape {example}."
        )
    return tuple(size for size in shape if size is not None)


def has_open_size(shape: tuple[int | None, ...] | None) -> bool:
    """Whether an input, its batch axis included, is a picture of any size."""
    return shape is not None and len(shape) == 4 and None in shape[1:3] and shape[3] is not None


def pixels_as_integers(dtype: str, shape: tuple[int | None, ...] | None) -> Statement | None:
    """What a type of integers says of an input: pixels come as they are, since fractions of them would be cut off.

    Args:
        dtype: of the input.
        shape: of the input with the batch axis.
    """
    is_picture = shape is not None and len(shape) == 4
    takes_all = "int" in dtype and dtype != "int8"
    return statement(f"its input of {dtype}", "inferred", mean=(0.0,), std=(1.0,)) if is_picture and takes_all else None


def joined(*statements: Statement | None) -> Statement | None:
    """What a model says in several places, of different parts; None where none says anything."""
    found = [one for one in statements if one is not None]
    if len(found) < 2:
        return found[0] if found else None
    said = {name: value for one in found for name, value in one.options.stated().items()}
    origins = {name: origin for one in found for name, origin in one.origins.items()}
    return Statement(" and ".join(one.source for one in found), InputOptions(**said), origins)


def _example(sizes: tuple[int | None, ...], wanted: tuple[int, ...] = ()) -> str:
    """Sizes to suggest where some are open: what was wanted there, if that has as many."""
    open_sizes = wanted if len(wanted) == len(sizes) else (128,) * len(sizes)
    return ",".join(str(other if size is None else size) for size, other in zip(sizes, open_sizes, strict=True))
