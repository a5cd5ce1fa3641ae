"""Loading ``.keras`` and ``.h5`` files; no code runs that is not Keras', ours, or handed over by the user."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...runtime.errors import ModelLimitError
from ..errors import ConversionError, CustomCodeError, ModelLoadError, ModelShapeError
from .archive import H5_SUFFIXES, holds_integers, keras_2_version, keras_version, read_config, write_copy
from .bounds.variables import as_many_as_stored
from .custom_code import (
    INSTALL_KERAS_2,
    PREPROCESSING,
    bring_code,
    check_unopened,
    drop_compiling,
    find_needs,
    load_custom_objects,
    parse_replacements,
    rename_replaced,
)
from .edit.cut import alone, cut, inner_model, library_of, shared_layer, tower
from .edit.prune import prune
from .edit.resizing import Sized, with_own_size
from .edit.still import quieten
from .edit.unroll import calm, unrolling
from .foreign import reason, told, versions
from .keras_2.load import is_installed, load_keras_2
from .options import LoadOptions
from .original import (
    Original,
    check_input_shape,
    has_open_size,
    joined,
    named_outputs,
    near,
    pixels_as_integers,
    several_outputs,
)

_SEPARABLE = {"groups": 1, "kernel_regularizer": None, "kernel_constraint": None, "kernel_initializer": ...}
_OLD_SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"groups": 1} for name in ("DepthwiseConv1D", "DepthwiseConv2D", "Conv1DTranspose", "Conv2DTranspose")},
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _SEPARABLE),
    **{name: {"time_major": False} for name in ("LSTM", "GRU", "SimpleRNN", "RNN")},
}
"""What Keras 2 wrote and Keras 3 refuses, by layer: the value that says what is so anyway, or ``...`` for any value,
because an initializer means nothing to weights that are loaded."""

SAVE_AGAIN = "Save it again with model.save('model.keras'), or export it as a SavedModel with model.export('folder')."
"""The way out of what Keras cannot do with a file."""


def load_keras(path: Path, options: LoadOptions) -> Original:
    """Load a Keras file.

    Raises:
        ModelLoadError: not a Keras file, cut short, or Keras cannot build it.
        CustomCodeError: it needs code that nobody handed over.
        ModelShapeError: it has several inputs or outputs, no known shape, or no weights.
    """
    config = read_config(path)
    replaced = parse_replacements(tuple(options.replace_lambda))
    version = keras_2_version(path)
    old = path.suffix.lower() in H5_SUFFIXES
    said: tuple[str, ...] = ()
    if options.layer is not None and (version is None or old):
        config, said = prune(str(path), config, options.layer)
    if options.custom_objects is None and "keras" not in sys.modules and (version is None or is_installed()):
        # What is missing can be told before seconds go into importing TensorFlow.
        check_unopened(path, config, replaced, "keras" if version is None else "tf_keras")
    check_backend(str(path))
    from .. import layers  # noqa: F401 -- registers our layers

    offered = load_custom_objects(Path(options.custom_objects)) if options.custom_objects else {}
    if version is not None and is_installed() and not any(map(_is_of_keras_3, offered.values())):
        return _opened(load_keras_2(path, config, offered, replaced), path, options, said)
    try:
        return _opened(_load(path, config, offered, replaced, edited=bool(said)), path, options, said)
    except ModelLoadError as error:
        # Code that is missing is missing under either Keras, but the newer of Keras 2's formats Keras 3 cannot read.
        if version is None or (isinstance(error, CustomCodeError) and old):
            raise
        hint = INSTALL_KERAS_2
        if is_installed():
            hint = f"Define what {options.custom_objects} holds with tf_keras, and the file is read by that."
        raise ModelLoadError(
            f"{path} was written by Keras {version}, and Keras 3 cannot read it: {reason(error)}. {hint}"
        ) from error


def _opened(model: Any, path: Path, options: LoadOptions, said: tuple[str, ...]) -> Original:
    original = from_keras(model, str(path), options)
    return replace(original, decisions=(*said, *original.decisions))


def _is_of_keras_3(value: Any) -> bool:
    import keras

    return isinstance(value, type) and issubclass(value, keras.Layer)


def _load(
    path: Path, config: dict[str, Any], offered: dict[str, Any], replaced: dict[str, str], *, edited: bool
) -> Any:
    """The Keras 3 model of a configuration that was looked into."""
    needs = find_needs(config)
    custom = bring_code(path, needs, offered, replaced)
    rename_replaced(config, replaced)
    edited = drop_compiling(config) or edited
    edited = _as_given(config) or edited
    old = path.suffix.lower() in H5_SUFFIXES
    if old:
        _drop_old_settings(config)
        _check_axes(path, config)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        # Only what differs from the user's file is written again; weights may be large.
        edited = edited or old or any(need.kind == "Lambda" or need.bytecode for need in needs)
        return _build(path, config, write_copy(path, config, Path(folder)) if edited else path, custom)


def _build(path: Path, config: dict[str, Any], file: Path, custom: dict[str, Any]) -> Any:
    import keras

    try:
        with warnings.catch_warnings():
            # Keras' advice on how the model might have been written comes too late here.
            warnings.simplefilter("ignore")
            with as_many_as_stored(path):
                return keras.saving.load_model(file, custom_objects=custom, compile=False, safe_mode=True)
    except ModelLimitError:
        raise
    except Exception as error:
        # Keras has no error classes of its own for this: ValueError, TypeError and others, each with pages of text.
        written = keras_version(path)
        by = f", which Keras {written} wrote," if written else ""
        if "Attention" in str(config) and holds_integers(path):
            raise ModelLoadError(
                f"{path} was quantized by Keras, which does not write that of the projections of an attention, so that "
                f"it cannot read the file: {reason(error)}. Export it where it was quantized, with "
                "model.export('folder'), or save it before model.quantize()."
            ) from error
        raise ModelLoadError(
            f"{path}{by} cannot be loaded by Keras {keras.__version__}: {reason(error)}. {SAVE_AGAIN}"
        ) from error


def _as_given(config: Any) -> bool:
    """Write the factors of a RandomShear as they were given: Keras keeps a factor of a as (-a, a), and does not read
    that. Returns whether there were any."""
    changed = False
    if isinstance(config, dict) and config.get("class_name") == "RandomShear":
        settings = config.get("config")
        settings = settings if isinstance(settings, dict) else {}
        for name in ("x_factor", "y_factor"):
            match settings.get(name):
                case [float() | int() as low, float() | int() as high] if low == -high:
                    settings[name], changed = high, True
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        changed = _as_given(item) or changed
    return changed


def _drop_old_settings(config: Any) -> None:
    """Drop the settings of Keras 2 that Keras 3 refuses and that change nothing; write others as Keras 3 reads them."""
    settings = config.get("config") if isinstance(config, dict) else None
    if isinstance(config, dict) and isinstance(settings, dict):
        for name, harmless in _OLD_SETTINGS.get(str(config.get("class_name")), {}).items():
            if name in settings and (harmless is ... or settings[name] == harmless):
                del settings[name]
        # What a random layer drew its numbers from; none are drawn after training.
        settings.pop("rng_type", None)
        axis = settings.get("axis")
        if isinstance(axis, list) and len(axis) == 1:
            # Keras 3 takes the number out of such a list in a functional model and not in a nested one.
            settings["axis"] = axis[0]
        for ends in ("input_layers", "output_layers"):
            tensors = settings.get(ends)
            if isinstance(tensors, list) and len(tensors) == 1 and isinstance(tensors[0], list):
                # Keras 3 would give a list of one tensor to the layer after a nested model.
                settings[ends] = tensors[0]
        _count_calls_from_zero(settings)
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        _drop_old_settings(item)


def _count_calls_from_zero(settings: dict[str, Any]) -> None:
    """Number the calls of nested models as Keras 3 does: to Keras 2 the first is the one that made the model."""
    members = settings.get("layers")
    members = [item for item in members if isinstance(item, dict)] if isinstance(members, list) else []
    nested = {item.get("name") for item in members if item.get("class_name") in ("Functional", "Model")}
    for item in members:
        for call in item.get("inbound_nodes") or ():
            # Keras 3 itself writes objects instead of lists, and counts from zero there.
            for tensor in call if isinstance(call, list) else ():
                if isinstance(tensor, list) and len(tensor) > 2 and tensor[0] in nested and tensor[1]:
                    tensor[1] -= 1


def _check_axes(path: Path, config: Any) -> None:
    """Refuse a layer over several axes: Keras' reader of HDF5 drops them, and the layer would compute something else.

    Raises:
        ModelLoadError: a layer of Keras' own has such axes; ours store them under another name.
    """
    settings = config.get("config") if isinstance(config, dict) else None
    if isinstance(config, dict) and isinstance(settings, dict) and "class_name" in config:
        axis = settings.get("axis")
        if isinstance(axis, str) or (isinstance(axis, list) and len(axis) > 1):
            raise ModelLoadError(
                f"{path}: the layer {settings.get('name')!r} works over the axes {axis}, and Keras drops them when it "
                "reads HDF5, so that the layer would compute something else. Save the model again with "
                "model.save('model.keras')."
            )
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        _check_axes(path, item)


def from_keras(model: Any, name: str, options: LoadOptions) -> Original:
    """A Keras model as an encoder: one image in, one of its outputs out.

    Args:
        model: a ``keras.Model``.
        name: what to call it in an error.
        options: input shape, layer, output.

    Raises:
        ModelShapeError: several inputs, outputs without a choice, no image, no known size, or no weights.
        ModelLoadError: Keras fails.
    """
    check_backend(name)
    framework = versions(type(model).__name__, library_of(model).__name__, "tensorflow")
    with told(ModelLoadError, name, framework, "cannot be used as an encoder", SAVE_AGAIN):
        return replace(_as_encoder(model, name, options), framework=framework)


def check_backend(name: str) -> None:
    """Refuse a process whose Keras runs on something else than TensorFlow.

    Raises:
        ModelLoadError: it does.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ModelLoadError(
            f"{name} cannot be exported where Keras runs on {backend}, because TensorFlow converts it. Save it with "
            "model.save('model.keras'), and pass that file to export-tflite, which opens it in TensorFlow."
        )


def _as_encoder(model: Any, name: str, options: LoadOptions) -> Original:
    if not model.built or (not model.weights and any(hasattr(layer, "kernel") for layer in model.layers)):
        raise ModelShapeError(
            f"{name} was saved before it was ever built, so it holds no weights. Call it once on an input, or give "
            "it an Input, train it, and save it again."
        )
    stateful = [layer for layer in model._flatten_layers() if hasattr(layer, "return_sequences") and layer.stateful]
    if stateful:
        raise ConversionError(
            f"{name} keeps state from one input to the next ({stateful[0].name}), so an embedding would depend on the "
            "inputs before it. Build its recurrent layers with stateful=False, and load its weights into that."
        )
    said: tuple[str, ...] = ()
    inside = None if options.layer is None else inner_model(model, options.layer)
    if inside is not None:
        said = (
            f"the encoder is the model {options.layer!r} inside, on its own input: a class of your own does not tell "
            "what it does before.",
        )
        model, options = inside, replace(options, layer=None)
    inputs = getattr(model, "inputs", None) or []
    names = [_input_name(tensor) for tensor in inputs]
    place = None
    if options.input is not None:
        if options.input not in names:
            raise ModelShapeError(
                f"{name} has no input {options.input!r}. Its inputs are: {near(options.input, names)}."
            )
        place = names.index(options.input)
    if len(inputs) > 1 and options.layer is None and place is not None:
        model, said = alone(model, name, place, options.output)
        options = replace(options, output=None)
        inputs = model.inputs
    elif len(inputs) > 1:
        if options.layer is None:
            raise ModelShapeError(
                f"{name} has {len(inputs)} inputs ({', '.join(names)}); an encoder takes one. Name that one with "
                "--input, if the output needs no other, or the layer at which one input's embedding is ready, for "
                f"instance --layer {shared_layer(model)}, or save a keras.Model with one input."
            )
        model, said = tower(model, name, options.layer, place)
        options = replace(options, layer=None)
        inputs = model.inputs
    if inputs and "string" in str(inputs[0].dtype):
        raise ModelShapeError(f"{name} takes text (a string input); an encoder takes numbers. Save the model after it.")
    known = _known_shape(model)
    # An open picture size may be one that the model brings pictures to itself, which is found when it is whole.
    open_size = has_open_size(known)
    shape: Any = known[1:] if open_size and known is not None else check_input_shape(name, known, options.input_shape)
    if inputs and "int" in str(inputs[0].dtype) and len(shape) != 3:
        raise ModelShapeError(
            f"{name} takes {inputs[0].dtype} of shape {shape}: numbers that stand for words or categories; an encoder "
            f"here takes floats. Save one that takes them as floats: x = keras.Input({shape}), keras.Model(x, "
            f"model(keras.ops.cast(x, {str(inputs[0].dtype)!r})))."
        )
    integers = pixels_as_integers(str(inputs[0].dtype), known) if inputs else None
    if options.layer is not None:
        model = cut(model, name, options.layer, shape)
    call, decisions = _choose_output(model, name, options.output)
    sized = with_own_size(name, call, known, options.input_shape) if open_size else Sized(shape, call)
    whole = sized.call is call
    return Original(
        name=name,
        input_shape=sized.shape,
        call=sized.call,
        # A replaced normalization may have reshaped a map into rows as well; preprocessing never does.
        rows=any(not text.rpartition("=")[2].startswith(PREPROCESSING) for text in options.replace_lambda),
        inputs=joined(integers, sized.inputs),
        resizes_to=sized.resizes_to,
        decisions=(*said, *decisions, *sized.decisions),
        # What comes after a part that was left out is traced already.
        quieten=quieten(model) if whole else None,
        calm=calm(model) if whole else None,
        unrolling=unrolling(model) if whole else None,
    )


def _input_name(tensor: Any) -> str:
    return str(tensor.name).partition(":")[0]


def _choose_output(model: Any, name: str, wanted: str | None) -> tuple[Any, tuple[str, ...]]:
    """The model as a function of a batch with one result."""
    structure = getattr(model, "output", None)
    names: list[str] = list(structure) if isinstance(structure, dict) else list(getattr(model, "output_names", []))
    if wanted is None and len(names) > 1:
        raise several_outputs(name, names)

    def missing(known: Iterable[str]) -> ModelShapeError:
        return ModelShapeError(f"{name} has no output {wanted!r}. Its outputs are: {near(str(wanted), known)}.")

    def call_unnamed(image: Any) -> Any:
        outputs = named_outputs(model(image, training=False))
        if wanted not in outputs:
            raise missing(outputs)
        return outputs[wanted]

    if wanted is not None and not names:
        # A class of one's own says what it gives when it is called.
        return call_unnamed, (f"the embedding is the output {wanted!r}.",)
    if wanted is not None and wanted not in names:
        raise missing(names)
    if wanted is None or len(names) == 1:
        return (lambda image: model(image, training=False)), ()
    place = names.index(wanted)

    def call(image: Any) -> Any:
        result = model(image, training=False)
        return result[wanted] if isinstance(result, dict) else result[place]

    return call, (f"the embedding is the output {wanted!r} of {len(names)}.",)


def _known_shape(model: Any) -> tuple[int | None, ...] | None:
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):
        # Built by a call, so there is no symbolic input; Keras still remembers the shape it was built with.
        shape = (model.get_build_config() or {}).get("input_shape")
    if isinstance(shape, (list, tuple)) and all(size is None or isinstance(size, int) for size in shape):
        return tuple(shape)
    return None
