"""Loading ``.keras`` and ``.h5`` files; no code runs that is not Keras', ours, or handed over by the user."""

from __future__ import annotations

import contextlib
import difflib
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CustomCodeError, ModelLoadError, ModelShapeError
from .archive import H5_SUFFIXES, keras_2_version, read_config, write_copy
from .custom_code import PREPROCESSING, bring_code, find_needs, load_custom_objects, parse_replacements, rename_replaced
from .options import LoadOptions
from .original import Original, check_image_shape, first_line

_SEPARABLE = {"groups": 1, "kernel_regularizer": None, "kernel_constraint": None, "kernel_initializer": ...}
_OLD_SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"groups": 1} for name in ("DepthwiseConv1D", "DepthwiseConv2D", "Conv1DTranspose", "Conv2DTranspose")},
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _SEPARABLE),
    **{name: {"time_major": False} for name in ("LSTM", "GRU", "SimpleRNN", "RNN")},
}
"""What Keras 2 wrote and Keras 3 refuses, by layer: the value that says what is so anyway, or ``...`` for any value,
because an initializer means nothing to weights that are loaded."""


def load_keras(path: Path, options: LoadOptions) -> Original:
    """Load a Keras file.

    Raises:
        ModelLoadError: not a Keras file, cut short, or Keras cannot build it.
        CustomCodeError: it needs code that nobody handed over.
        ModelShapeError: it has several inputs or outputs, no known shape, or no weights.
    """
    config = read_config(path)
    from .. import layers  # noqa: F401 -- registers our layers

    try:
        model = _load(path, config, options)
    except (CustomCodeError, ModelLoadError) as error:
        version = keras_2_version(path)
        if version is None:
            raise
        raise ModelLoadError(
            f"{path} was written by Keras {version}, whose .keras files Keras 3 does not read. Load it where it was "
            "made and save it as HDF5, which is read: model.save('model.h5')."
        ) from error
    return from_keras(model, str(path), options)


def _load(path: Path, config: dict[str, Any], options: LoadOptions) -> Any:
    """The Keras model of a configuration that was looked into."""
    offered = load_custom_objects(Path(options.custom_objects)) if options.custom_objects else {}
    replaced = parse_replacements(tuple(options.replace_lambda))
    needs = find_needs(config)
    custom = bring_code(path, needs, offered, replaced)
    rename_replaced(config, replaced)
    old = path.suffix.lower() in H5_SUFFIXES
    if old:
        _drop_old_settings(config)
        _check_axes(path, config)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        # Only what differs from the user's file is written again; weights may be large.
        edited = old or any(need.kind == "Lambda" for need in needs)
        return _build(path, write_copy(path, config, Path(folder)) if edited else path, custom)


def _build(path: Path, file: Path, custom: dict[str, Any]) -> Any:
    import keras

    try:
        with warnings.catch_warnings():
            # Keras' advice on how the model might have been written comes too late here.
            warnings.simplefilter("ignore")
            return keras.saving.load_model(file, custom_objects=custom, compile=False, safe_mode=True)
    except Exception as error:
        # Keras has no error classes of its own for this: ValueError, TypeError and others, each with pages of text.
        raise ModelLoadError(
            f"{path} cannot be loaded by Keras {keras.__version__}: {first_line(error)}. "
            "Save it again with model.save('model.keras'), or export it as a SavedModel with model.export('folder')."
        ) from error


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
    """
    if not model.built or (not model.weights and any(hasattr(layer, "kernel") for layer in model.layers)):
        raise ModelShapeError(
            f"{name} was saved before it was ever built, so it holds no weights. Call it once on an image, or give "
            "it an Input, train it, and save it again."
        )
    inputs = getattr(model, "inputs", None) or []
    said: tuple[str, ...] = ()
    if len(inputs) > 1:
        if options.layer is None:
            raise ModelShapeError(
                f"{name} has {len(inputs)} inputs ({', '.join(tensor.name for tensor in inputs)}); an encoder takes "
                "one image. Name the layer at which one input's embedding is ready, for instance "
                f"--layer {_shared_layer(model)}, or save a keras.Model with one input."
            )
        model, said = _tower(model, name, options.layer)
        options = replace(options, layer=None)
        inputs = model.inputs
    if inputs and str(inputs[0].dtype) == "string":
        raise ModelShapeError(f"{name} takes text (a string input); an encoder takes images. Save the image model.")
    shape = check_image_shape(name, _known_shape(model), options.input_shape)
    if options.layer is not None:
        model = _cut(model, name, options.layer, shape)
    call, decisions = _choose_output(model, name, options.output)
    return Original(
        name=name,
        input_shape=shape,
        call=call,
        # A replaced normalization may have reshaped a map into rows as well; preprocessing never does.
        rows=any(not text.rpartition("=")[2].startswith(PREPROCESSING) for text in options.replace_lambda),
        decisions=(*said, *decisions),
    )


def _shared_layer(model: Any) -> str:
    """A layer to suggest: the first nested model, else the last layer that only one input leads to."""
    import keras

    nested = [layer.name for layer in model.layers if _is_model(layer)]
    if nested:
        return str(nested[0])
    found = model.layers[-1].name
    for layer in model.layers:
        for tensor in () if isinstance(layer, keras.layers.InputLayer) else model.inputs:
            with contextlib.suppress(ValueError):
                keras.Model(tensor, _tensors(layer, "output_tensors")[0])
                found = layer.name
    return str(found)


def _tower(model: Any, name: str, layer: str) -> tuple[Any, tuple[str, ...]]:
    """The part of a model with several inputs from the one that leads to a layer up to that layer, and what to say."""
    import keras

    for place, tensor in enumerate(model.inputs):
        image = keras.Input(tensor.shape[1:], dtype=tensor.dtype)
        found = _follow(model, image, layer, place)
        if found is not None:
            tower = keras.Model(image, found, name=model.name)
            return tower, (
                f"of the {len(model.inputs)} inputs only {tensor.name!r} leads to the layer {layer!r}, or it is the "
                "first that does; the encoder is the part between them.",
            )
    raise _no_layer(model, name, layer)


def _choose_output(model: Any, name: str, wanted: str | None) -> tuple[Any, tuple[str, ...]]:
    """The model as a function of a batch with one result."""
    structure = getattr(model, "output", None)
    names: list[str] = list(structure) if isinstance(structure, dict) else list(getattr(model, "output_names", []))
    if wanted is None and len(names) > 1:
        raise ModelShapeError(
            f"{name} has {len(names)} outputs; an encoder gives one embedding. Choose one: "
            f"{' or '.join(f'--output {other}' for other in names)}."
        )
    if wanted is not None and wanted not in names:
        raise ModelShapeError(f"{name} has no output {wanted!r}. Its outputs are: {', '.join(names) or 'unnamed'}.")
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


def _cut(model: Any, name: str, layer: str, shape: tuple[int, int, int]) -> Any:
    """The model up to one of its layers, which may be inside a nested model."""
    import keras

    image = keras.Input(shape)
    found = _follow(model, image, layer)
    if found is None:
        raise _no_layer(model, name, layer)
    return keras.Model(image, found, name=model.name)


def _no_layer(model: Any, name: str, layer: str) -> ModelShapeError:
    known = list(_layer_names(model))
    near = difflib.get_close_matches(layer, known, n=4, cutoff=0.4) or known[-8:]
    if layer in known:
        return ModelShapeError(
            f"the layer {layer!r} of {name} depends on several inputs, and an encoder takes one. "
            f"Name an earlier layer, for instance {_shared_layer(model)}."
        )
    return ModelShapeError(f"{name} has no layer {layer!r} to end at. Near ones: {', '.join(near)}.")


def _follow(model: Any, inputs: Any, layer: str, place: int = 0) -> Any | None:
    """The output of the layer called ``layer`` when ``model`` is applied to ``inputs``; None if it has no such one.

    ``place`` is that of the model's input which ``inputs`` takes; the others must not be needed.
    """
    import keras

    if isinstance(model, keras.Sequential):
        for member in model.layers:
            if _is_model(member) and member.name != layer:
                inside = _follow(member, inputs, layer)
                if inside is not None:
                    return inside
            inputs = member(inputs, training=False) if _takes_training(member) else member(inputs)
            if member.name == layer:
                return inputs
        return None
    if not hasattr(model, "_operations") and not getattr(model, "_is_graph_network", False):
        return None
    owner = next((member for member in model.layers if member.name == layer), None)
    if owner is not None:
        return _apply_until(model, inputs, _tensors(owner, "output_tensors"), place)
    for member in model.layers:
        if _is_model(member) and layer in _layer_names(member):
            before = _apply_until(model, inputs, _tensors(member, "input_tensors"), place)
            return None if before is None else _follow(member, before, layer)
    return None


def _tensors(layer: Any, side: str) -> list[Any]:
    """What a layer took or gave each time it was called; Keras has no public name for it."""
    return [getattr(node, side)[0] for node in layer._inbound_nodes]


def _apply_until(model: Any, inputs: Any, tensors: list[Any], place: int = 0) -> Any | None:
    """The part of a functional model up to the first of these tensors that is in it, applied to ``inputs``."""
    import keras

    for tensor in tensors:
        try:
            part = keras.Model(model.inputs[place], tensor)
        except ValueError:
            continue  # of another model that shares the layer
        return part(inputs, training=False)
    return None


def _is_model(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.Model)


def _takes_training(layer: Any) -> bool:
    import inspect

    return "training" in inspect.signature(layer.call).parameters


def _layer_names(model: Any) -> list[str]:
    names: list[str] = []
    for layer in model.layers:
        names.append(layer.name)
        if _is_model(layer):
            names += _layer_names(layer)
    return names
