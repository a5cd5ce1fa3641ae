"""The encoder inside a larger Keras model: up to a layer, from the one input that leads to it.

Works on models of Keras 3 and of Keras 2 (tf-keras) alike.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import Any

from ...errors import ModelShapeError
from ..original import near


def library_of(model: Any) -> Any:
    """The Keras that a model is of: the module ``keras``, or ``tf_keras``; None for what is not a model."""
    import keras

    old = sys.modules.get("tf_keras")
    return next((one for one in (keras, old) if one is not None and isinstance(model, one.Model)), None)


def shared_layer(model: Any) -> str:
    """A layer to suggest: the first nested model, else the last layer that only one input leads to."""
    keras = library_of(model)
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


def tower(model: Any, name: str, layer: str, only: int | None) -> tuple[Any, tuple[str, ...]]:
    """The part of a model with several inputs from the one that leads to a layer up to that layer, and what to say.

    ``only`` is the place of the input, where it was named.

    Raises:
        ModelShapeError: there is no such layer, or it depends on several inputs.
    """
    keras = library_of(model)
    for place, tensor in enumerate(model.inputs):
        if only not in (None, place):
            continue
        image = keras.Input(tensor.shape[1:], dtype=tensor.dtype)
        found = _follow(model, image, layer, place)
        if found is not None:
            return keras.Model(image, found, name=model.name), (
                f"of the {len(model.inputs)} inputs only {tensor.name!r} leads to the layer {layer!r}, or it is the "
                "first that does; the encoder is the part between them.",
            )
    raise _no_layer(model, name, layer)


def alone(model: Any, name: str, place: int, output: str | None) -> tuple[Any, tuple[str, ...]]:
    """The part of a model with several inputs from one of them to the output that needs no other, and what to say.

    Raises:
        ModelShapeError: no such output, none that needs this input alone, or several.
    """
    keras = library_of(model)
    structure = model.output
    tensors = structure if isinstance(structure, dict) else dict(zip(model.output_names, model.outputs, strict=True))
    if output is not None and output not in tensors:
        raise ModelShapeError(f"{name} has no output {output!r}. Its outputs are: {near(output, tensors)}.")
    found = {}
    for key, tensor in tensors.items():
        if output in (None, key):
            with contextlib.suppress(ValueError):
                found[key] = keras.Model(model.inputs[place], tensor, name=model.name)
    title = str(model.inputs[place].name).partition(":")[0]
    if not found:
        raise ModelShapeError(
            f"{name} has no output that needs the input {title!r} alone. Name the layer at which its embedding is "
            f"ready, for instance --layer {shared_layer(model)}."
        )
    if len(found) > 1:
        raise ModelShapeError(
            f"{name} has {len(found)} outputs of the input {title!r}; an encoder gives one embedding. Choose one: "
            f"{' or '.join(f'--output {key}' for key in found)}."
        )
    ((key, part),) = found.items()
    return part, (f"the encoder takes the input {title!r} of {len(model.inputs)} and gives the output {key!r}.",)


def cut(model: Any, name: str, layer: str, shape: tuple[int, ...]) -> Any:
    """The model up to one of its layers, which may be inside a nested model.

    Raises:
        ModelShapeError: there is no such layer.
    """
    keras = library_of(model)
    inputs = getattr(model, "inputs", None) or []
    image = keras.Input(shape, **({"dtype": inputs[0].dtype} if inputs else {}))
    found = _follow(model, image, layer)
    if found is None:
        raise _no_layer(model, name, layer)
    return keras.Model(image, found, name=model.name)


def inner_model(model: Any, layer: str) -> Any | None:
    """The model called ``layer`` inside one of the user's own class, if it has an input of its own; None otherwise."""
    if _is_connected(model):
        return None
    found = (member for member in model._flatten_layers(include_self=False) if member.name == layer)
    return next((member for member in found if _is_model(member) and getattr(member, "inputs", None)), None)


def _is_connected(model: Any) -> bool:
    """Whether a model tells how its layers are connected."""
    sequential = isinstance(model, library_of(model).Sequential)
    return sequential or hasattr(model, "_operations") or bool(getattr(model, "_is_graph_network", False))


def _no_layer(model: Any, name: str, layer: str) -> ModelShapeError:
    known = list(_layer_names(model))
    if layer in known and not _is_connected(model):
        return ModelShapeError(
            f"{name} is a model of your own class {type(model).__name__}, which does not tell how its layers are "
            f"connected, so it cannot be cut at {layer!r}. Save the part up to there as a model of its own."
        )
    if layer in known:
        return ModelShapeError(
            f"the layer {layer!r} of {name} depends on several inputs, and an encoder takes one. "
            f"Name an earlier layer, for instance {shared_layer(model)}."
        )
    return ModelShapeError(f"{name} has no layer {layer!r} to end at. Near ones: {near(layer, known)}.")


def _follow(model: Any, inputs: Any, layer: str, place: int = 0) -> Any | None:
    """The output of the layer called ``layer`` when ``model`` is applied to ``inputs``; None if it has no such one.

    ``place`` is that of the model's input which ``inputs`` takes; the others must not be needed.
    """
    keras = library_of(model)
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
    if not _is_connected(model):
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
    found = (getattr(node, side) for node in layer._inbound_nodes)
    return [tensors[0] if isinstance(tensors, (list, tuple)) else tensors for tensors in found]


def _apply_until(model: Any, inputs: Any, tensors: list[Any], place: int = 0) -> Any | None:
    """The part of a functional model up to the first of these tensors that is in it, applied to ``inputs``."""
    keras = library_of(model)
    for tensor in tensors:
        try:
            part = keras.Model(model.inputs[place], tensor)
        except ValueError:
            continue  # of another model that shares the layer
        return part(inputs, training=False)
    return None


def _is_model(layer: Any) -> bool:
    return library_of(layer) is not None


def _takes_training(layer: Any) -> bool:
    return "training" in inspect.signature(layer.call).parameters


def _layer_names(model: Any) -> list[str]:
    names: list[str] = []
    for layer in model.layers:
        names.append(layer.name)
        if _is_model(layer):
            names += _layer_names(layer)
    return names
