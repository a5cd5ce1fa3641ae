"""From the user's model to the float TFLite graph: the one time that TensorFlow's converter runs.

The model is traced with a fixed batch of one, its variables are frozen into constants, and the frozen function is
written as a SavedModel and converted. Freezing first is what makes it fast: a SavedModel with variables takes three
times as long to write and convert, and ``from_concrete_functions`` would leave the variables out of the file
altogether.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.model.contract import kind_of
from ..errors import ConversionError, ModelLoadError, ModelShapeError
from ..graph.graph import Graph
from ..graph.loops import UNROLLED, has_loops, steps, unbounded_loops
from ..graph.run import float_runner
from .bounds.graph import check_whole
from .edit.float32 import in_float32, other_precisions
from .edit.graph_def import DEFAULT_SIGNATURE, as_function, nodes_of, without_tables, write_saved_model
from .edit.lay_out import lay_out
from .edit.open_batch import close_lists, has_open_lists
from .edit.spell import spell_out
from .edit.spelled.layouts import is_channels_first
from .edit.still import changing_layers, is_still, not_still
from .edit.without_lists import has_shapeless_lists, without_lists
from .foreign import reason, told
from .original import Original, named_outputs, several_outputs
from .scaling import Scaling, scaling_of_tensorflow, scaling_of_tflite

INPUT_NAME = "image"
"""Of the graph between the steps; a file's own input is named after what it is."""
OUTPUT_NAME = "embedding"

_CHANNELS_FIRST = (
    "TensorFlow has no kernel here for layers of this model that have their channels first, so the files are compared "
    "with the same model on channels last."
)

CHECK_IT = "Call the model on one image where it was made, and save it again once that works."
"""The way out where TensorFlow cannot run the original."""

Batch = NDArray[np.float32]


@dataclass(frozen=True)
class LoweredModel:
    """The float graph, and the original it was made from.

    Attributes:
        flatbuffer: a TFLite file with batch 1, one input and one output.
        reference: the original at batch 1: (H, W, C) float32 to the output without the batch axis.
        in_batches: the original at a batch size: a function of (N, H, W, C) for that N only, whose rows are what
            ``reference`` gives for one image. None, or a None from it, if the original takes one image at a time.
        scaling: what the model does to its pixels before its first layer; None for nothing.
        decisions: what was decided on the user's behalf while lowering.
        precisions: the floating-point types besides float32 in which the original computes, by TensorFlow's names.
        frozen: the original as a concrete function without variables; None for a ``.tflite``.
        unroll: makes the float graph without its loops, their steps one after the other; None where it has none, or
            more steps than :data:`UNROLLED`, or they cannot be laid out.
    """

    flatbuffer: bytes
    reference: Callable[[Batch], Batch]
    in_batches: Callable[[int], Callable[[Batch], Batch] | None] | None
    scaling: Scaling | None = None
    decisions: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    frozen: Any = None
    unroll: Callable[[], bytes] | None = None


def lower(original: Original) -> LoweredModel:
    """Convert a loaded model; a float ``.tflite`` is taken as it is.

    Raises:
        ConversionError: TensorFlow cannot express the model in TFLite's own operators.
        ModelShapeError: its output is not an embedding.
        ModelLoadError: weights that the embedding needs are NaN or infinite.
    """
    if original.flatbuffer is not None:
        _check_constants(original.name, Graph(original.flatbuffer))
        return _already_lowered(original.flatbuffer)
    original, traced, spec, taken_out = _trace_still(original)
    flatbuffer, scaling, precisions, frozen = _convert(original, traced, spec)
    _check_graph(original.name, Graph(flatbuffer))
    _check_constants(original.name, Graph(flatbuffer))
    batches = None if original.batch is not None else (lambda size: _in_batches(original, size))
    decisions = (*taken_out, *((_explain_precisions(precisions),) if precisions else ()))
    running: Any = traced
    if not _can_run(traced, spec):
        frozen = spell_out(frozen)
        running = functools.partial(_first_result, frozen)
        batches, decisions = None, (*decisions, _CHANNELS_FIRST)
    single = keras_reference(original, running)
    unroll = None
    if 0 < steps(Graph(flatbuffer)) <= UNROLLED:
        unroll = functools.cache(functools.partial(_unrolled, original, traced, spec))
    return LoweredModel(flatbuffer, single, batches, scaling, decisions, precisions, frozen, unroll)


def _can_run(traced: Any, spec: Any) -> bool:
    """Whether TensorFlow has all that a model needs on this machine; only with channels first it may have not."""
    import tensorflow as tf

    if not any(map(is_channels_first, nodes_of(traced.graph.as_graph_def()))):
        return True
    try:
        traced(tf.zeros(spec.shape, spec.dtype))
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError):
        return False
    return True


def _first_result(frozen: Any, image: Any) -> Any:
    return frozen(image)[0]


def _unrolled(original: Original, traced: Any, spec: Any) -> bytes:
    """The float graph without loops: recurrent layers of Keras traced so, all else laid out.

    Raises:
        ConversionError: a loop is left, or the converter refuses the outcome.
    """
    if original.unrolling is not None:
        with original.unrolling():
            flatbuffer = _convert(original, *trace(original))[0]
        if not has_loops(Graph(flatbuffer)):
            return flatbuffer
    flatbuffer = _convert(original, traced, spec, without_loops=True)[0]
    if has_loops(Graph(flatbuffer)):
        raise ConversionError(f"{original.name} has a loop whose number of steps depends on the input.")
    return flatbuffer


def _trace_still(original: Original) -> tuple[Original, Any, Any, tuple[str, ...]]:
    """The model, once it answers the same to the same image; it traced, its TensorSpec, and what to say of that.

    Raises:
        ConversionError: it does not, and its layers cannot be taken out.
    """
    traced, spec = trace(original)
    changing, said = changing_layers(traced), tuple[str, ...]()
    if changing and not is_still(traced, spec):
        taken = () if original.quieten is None else original.quieten()
        if taken:
            traced, spec = trace(original)
        changing = changing_layers(traced)
        if not taken or (changing and not is_still(traced, spec)):
            raise not_still(original.name, changing, keras=original.quieten is not None)
        said = (
            f"the model is random at inference; its layers {', '.join(taken)} do nothing in the files, nor in the "
            "original that they are compared with.",
        )
    if changing and original.calm is not None:
        # Recurrent layers and augmentation count on where their random numbers come from, even if they use none.
        original = replace(original, call=_under(original.calm, original.call))
        traced, spec = trace(original)
    return original, traced, spec, said


def _under(context: Callable[[], AbstractContextManager[None]], call: Any) -> Callable[[Any], Any]:
    def inside(image: Any) -> Any:
        with context():
            return call(image)

    return inside


def _convert(
    original: Original, traced: Any, spec: Any, *, without_loops: bool = False
) -> tuple[bytes, Scaling | None, tuple[str, ...], Any]:
    """The float graph of a traced model, what it does to its pixels, in which types besides float32 it computes, and it
    without variables."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        frozen = convert_variables_to_constants_v2(traced, lower_control_flow=not without_loops)
    except ValueError as error:
        # What writes to a variable has none to write to afterwards.
        writing = " and ".join(changing_layers(traced))
        why = f"{writing} write(s) to them, as in training" if writing else reason(error)
        raise ConversionError(
            f"TensorFlow cannot make constants of the model's variables: {why}. Save the Keras model itself, "
            "model.save('model.keras'), and pass that file."
        ) from error
    if len(frozen.inputs) > 1:
        frozen = without_tables(frozen)
    if frozen is None:
        raise ConversionError(
            f"{original.name} looks its embedding up in a table, and a .tflite holds none. Save the encoder without it."
        )
    frozen, precisions = _in_float32(frozen)
    if not without_loops and has_shapeless_lists(frozen.graph.as_graph_def()):
        return _convert(original, traced, spec, without_loops=True)
    scaling = scaling_of_tensorflow(frozen)
    spelled = spell_out(_without_loops(original.name, frozen) if without_loops else frozen)
    way_out = "Build the model without what is named there, and load its weights into that; -vv shows all that is said."
    with (
        tempfile.TemporaryDirectory(prefix="embedlite-") as folder,
        told(ConversionError, original.name, original.framework, "cannot be converted", way_out),
    ):
        return _to_tflite(spelled, spec.name, folder), scaling, precisions, frozen


def _to_tflite(frozen: Any, source: str, folder: str) -> bytes:
    """What the converter makes of a frozen function.

    ``tf.lite.TFLiteConverter.from_saved_model`` loads the SavedModel with all its functions, and the ``convert`` of
    what it returns does so twice more, for stack traces that it then does not pass on, and writes metadata that the
    files do not keep. That takes several times as long as the conversion of most encoders, so the step in it that
    converts is called by itself; setup.cfg bounds TensorFlow to the minor version whose converter this was read in.
    """
    import tensorflow as tf
    from tensorflow.lite.python.lite import TFLiteSavedModelConverterV2

    graph = write_saved_model(frozen, source, OUTPUT_NAME, Path(folder))
    converter = TFLiteSavedModelConverterV2(folder, {tf.saved_model.SERVING}, [DEFAULT_SIGNATURE])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return bytes(converter._convert_from_saved_model(graph))


def _without_loops(name: str, frozen: Any) -> Any:
    """A frozen function with its loops laid out, as far as they can be, with what lists hold in their place."""
    laid_out = without_lists(lay_out(frozen))
    if has_shapeless_lists(laid_out.graph.as_graph_def()):
        raise ConversionError(
            f"{name} maps over more than {UNROLLED} rows, or over a number of them that is not known beforehand, and "
            "nothing says of what shape the results are. Say it, with tf.map_fn(function, rows, "
            "fn_output_signature=tf.TensorSpec(shape, dtype)), and save the model again."
        )
    return laid_out


def _in_float32(frozen: Any) -> tuple[Any, tuple[str, ...]]:
    """A frozen function that computes in float32 throughout and on one input, and in which other types it did."""
    graph = frozen.graph.as_graph_def()
    others = other_precisions(graph)
    if not others and not has_open_lists(graph):
        return frozen, ()
    return as_function(close_lists(in_float32(graph), 1), frozen), others


def _explain_precisions(names: tuple[str, ...]) -> str:
    return (
        f"the model computes in {' and '.join(names)} in places; the files compute in float32 there, and are compared "
        "with the model as it is, so that its own rounding is part of the drift."
    )


def _check_graph(name: str, graph: Graph) -> None:
    """Refuse loops that may never end."""
    endless = unbounded_loops(graph)
    if endless:
        raise ConversionError(
            f"{name} has a loop that nothing known beforehand ends ({endless[0]}), so a device might never answer. "
            "Give it a fixed number of steps."
        )


_COMPARING = ("MAXIMUM", "MINIMUM", "PADV2", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL")
"""Operators in which an infinite constant is a bound that never acts."""

_LARGEST = float(np.finfo(np.float32).max)


def _check_constants(name: str, graph: Graph) -> None:
    """Refuse weights that are NaN or infinite: every embedding would be NaN, or zero where a normalization hides it.

    TensorFlow's converter turns infinity into the largest float32.
    """
    for index in range(len(graph.subgraph.tensors)):
        values = graph.constant(index) if graph.dtype(index).startswith("float") else None
        if values is None or (np.abs(values) < _LARGEST).all():
            continue
        nan = int(np.isnan(values).sum())
        if all(_may_be_infinite(graph, reader, values, nan=nan > 0) for reader in graph.consumers(index)):
            continue
        broken, what = (nan, "NaN") if nan else (int((np.abs(values) >= _LARGEST).sum()), "infinite")
        raise ModelLoadError(
            f"{name}: {broken:,} of the {values.size:,} weights in {graph.tensor_name(index)!r} are {what}, as a "
            "training run that diverged leaves them. Export an earlier checkpoint."
        )


def _may_be_infinite(graph: Graph, reader: Any, values: Any, *, nan: bool) -> bool:
    """Whether a constant that an operator reads may be no number.

    What stands for "no answer", as in a median of nothing, is chosen or not; it is not a weight. Minus infinity in
    front of a softmax masks what is left out, and a single number may be multiplied by a mask first.
    """
    kind = graph.operator_name(reader)
    if nan or "SELECT" in kind or kind in _COMPARING:
        return "SELECT" in kind or not nan
    if kind not in ("ADD", "SUB", "MUL", "DIV"):
        return False
    after = [item for result in reader.outputs for item in graph.consumers(int(result))]
    return values.size == 1 or any(graph.operator_name(item) == "SOFTMAX" for item in after)


def trace(original: Original, batch: int = 1) -> tuple[Any, Any]:
    """The model as a concrete function of one batch of images, and that batch's TensorSpec.

    Raises:
        ModelShapeError: the output is not a vector or list of vectors of floats, or the model refuses the shape.
        ModelLimitError: it asks for tensors, operators or steps of a number that no encoder has.
    """
    import tensorflow as tf

    call = original.call
    assert call is not None, "a .tflite is not traced"
    name = INPUT_NAME if kind_of(original.input_shape) == "image" else "input"
    spec = tf.TensorSpec((batch, *original.input_shape), tf.float32, name=name)

    def embed(image: Any) -> Any:
        outputs = named_outputs(call(image))
        if len(outputs) != 1:
            raise several_outputs(original.name, list(outputs))
        result = _as_rows(_with_batch(next(iter(outputs.values())), batch), original.rows)
        return tf.cast(result, tf.float32) if result.dtype.is_floating else result

    failed = f"cannot be called on float {name}s of shape {spec.shape}"
    way_out = "Check --input-shape, and that the model takes a batch of one."
    with told(ModelShapeError, original.name, original.framework, failed, way_out):
        traced = tf.function(embed, autograph=False).get_concrete_function(spec)
        graph = traced.graph.as_graph_def(add_shapes=True)
    check_whole(original.name, graph)
    check_embedding(traced.structured_outputs.dtype.name, traced.structured_outputs.shape.as_list())
    return traced, spec


def _with_batch(result: Any, batch: int) -> Any:
    """A result whose batch the model does not tell, as a SavedModel with a loop in it: it is that of the input."""
    shape = result.shape.as_list() if result.shape.rank is not None else []
    if len(shape) > 1 and shape[0] is None and None not in shape[1:]:
        result.set_shape((batch, *shape[1:]))
    return result


def _as_rows(result: Any, rows: bool) -> Any:
    """A result of one pixel is a vector; what a replaced Lambda leaves as a map becomes rows of its channels."""
    import tensorflow as tf

    shape = result.shape.as_list()
    if len(shape) != 4 or None in shape:
        return result
    if shape[1:3] == [1, 1]:
        return tf.reshape(result, (shape[0], shape[3]))
    return tf.reshape(result, (shape[0] * shape[1] * shape[2], shape[3])) if rows else result


def check_embedding(dtype: str, shape: list[int | None] | tuple[int, ...]) -> None:
    """Refuse an output that is not an embedding.

    Raises:
        ModelShapeError: not floats, or not (1, D), (rows, D) or (1, rows, D).
    """
    if len(shape) not in (2, 3) or None in shape or dtype != "float32":
        raise ModelShapeError(
            f"the model's output is {dtype} of shape {tuple(shape)}, which is not an embedding: expected float32 "
            "(1, D) or (1, rows, D). Flatten or pool it in the model, or end it at another layer with --layer"
            + (", and give its layers the dtype float32." if dtype != "float32" else ".")
        )


def keras_reference(original: Original, traced: Any) -> Callable[[Batch], Batch]:
    """A model traced at batch 1 as a plain function on one (H, W, C) float32 image.

    The function raises ConversionError where TensorFlow cannot run the model.
    """
    import tensorflow as tf

    def embed(image: Batch) -> Batch:
        with told(ConversionError, original.name, original.framework, "cannot be run", CHECK_IT):
            values = traced(tf.constant(image[None])).numpy()
        return np.asarray(values[0] if values.shape[0] == 1 else values, np.float32)

    return embed


def _in_batches(original: Original, size: int) -> Callable[[Batch], Batch] | None:
    try:
        traced, _ = trace(original, size)
    except ModelShapeError:
        return None  # built for one image at a time, and it insists
    import tensorflow as tf

    def embed(images: Batch) -> Batch:
        with told(ConversionError, original.name, original.framework, "cannot be run", CHECK_IT):
            values = np.asarray(traced(tf.constant(images)).numpy(), np.float32)
        # An encoder whose embedding is rows gives those of all images one below the other.
        return values if values.shape[0] == size else values.reshape(size, -1, *values.shape[1:])

    return embed


def _already_lowered(flatbuffer: bytes) -> LoweredModel:
    graph = Graph(flatbuffer)
    result = int(graph.subgraph.outputs[0])
    shape = graph.shape(result)
    check_embedding(graph.dtype(result), shape if shape[1:3] != (1, 1) else (shape[0], shape[-1]))
    return LoweredModel(flatbuffer, float_runner(flatbuffer), None, scaling_of_tflite(flatbuffer))
