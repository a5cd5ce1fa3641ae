"""A Keras file without what does not lead to the layer that the encoder ends at, before anything of it is built.

A model is trained with heads that an encoder has no use for: a distance, a margin, several tasks, often in code of the
user's own. They are dropped from the configuration, so that nobody has to bring that code.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import ModelShapeError
from ..original import near

_MODELS = ("Functional", "Model", "Sequential")


def prune(name: str, config: dict[str, Any], layer: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The part of a model's configuration that leads to a layer, and what is to be said of that.

    Args:
        name: what to call the model in an error.
        config: of a Keras file.
        layer: the name of a layer, which may be inside a nested model.

    Returns:
        Another configuration, or the same one where there is nothing to drop.

    Raises:
        ModelShapeError: there is no such layer.
    """
    members = _members(config)
    owner = next((item for item in members if layer in (name_of(item), *layer_names(item))), None)
    if members and owner is None:
        raise ModelShapeError(
            f"{name} has no layer {layer!r} to end at. Near ones: {near(layer, layer_names(config))}."
        )
    if owner is None:
        return config, ()  # a class of the user's own, whose layers its code makes
    changed = copy.deepcopy(config)
    settings = changed["config"]
    if config.get("class_name") == "Sequential":
        settings["layers"] = settings["layers"][: members.index(owner) + 1]
        return _unless_whole(config, changed)
    place = next((found for found in _places(config["config"]) if found[0] == name_of(owner)), None)
    if place is None:
        return config, ()
    kept, left = set[str](), [name_of(owner)]
    sources = {name_of(item): {found[0] for found in _places(item.get("inbound_nodes"))} for item in members}
    while left:
        found = left.pop()
        if found not in kept:
            kept.add(found)
            left += sources.get(found, ())
    settings["layers"] = [item for item in settings["layers"] if name_of(item) in kept]
    inputs = [found for found in _places(settings["input_layers"]) if found[0] in kept]
    new = any(isinstance(node, dict) for item in members for node in item.get("inbound_nodes") or ())
    settings["input_layers"] = inputs[0] if new and len(inputs) == 1 else inputs
    settings["output_layers"] = place if new else [place]
    return _unless_whole(config, changed)


def _unless_whole(config: dict[str, Any], changed: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    before, after = ([name_of(item) for item in _members(one)] for one in (config, changed))
    dropped = [name for name in before if name not in after]
    if not dropped:
        return config, ()
    names = ", ".join(dropped[:6]) + (" and others" if len(dropped) > 6 else "")
    return changed, (f"layers that do not lead to the one that the encoder ends at were not loaded: {names}.",)


def layer_names(config: dict[str, Any]) -> list[str]:
    """The names of all layers of a configuration, those of nested models after the model that has them."""
    names = []
    for item in _members(config):
        names += [name_of(item), *layer_names(item)]
    return names


def name_of(item: dict[str, Any]) -> str:
    """The name of a layer by its configuration."""
    settings = item.get("config")
    return str(settings.get("name") if isinstance(settings, dict) else item.get("name"))


def weight_groups(config: dict[str, Any]) -> dict[str, str]:
    """By a layer's name that of its group of weights in a ``.keras`` file: its class, counted, in the model's order."""
    groups, counts = dict[str, str](), dict[str, int]()
    for item in _members(config):
        kind = _snake(str(item.get("class_name")))
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        groups[name_of(item)] = f"{kind}_{number}" if number else kind
    return groups


def _snake(name: str) -> str:
    """``Conv2D`` as Keras names its weights: ``conv2d``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _members(config: Any) -> list[dict[str, Any]]:
    """The layers of a model's configuration; none for what is not a model."""
    settings = config.get("config") if isinstance(config, dict) and config.get("class_name") in _MODELS else None
    members = settings.get("layers") if isinstance(settings, dict) else None
    return [item for item in members if isinstance(item, dict)] if isinstance(members, list) else []


def _places(value: Any) -> Iterator[list[Any]]:
    """Every reference to a tensor, [layer, call, tensor], in a part of a configuration, nested models left out."""
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
        yield value[:3]
        value = value[3:]
    parts: Iterable[Any] = ()
    if isinstance(value, list):
        parts = value
    elif isinstance(value, dict):
        # What a nested model's own layers refer to is inside it.
        nested = "inbound_nodes" in value
        parts = [value["inbound_nodes"]] if nested else value.values()
    for part in parts:
        yield from _places(part)
