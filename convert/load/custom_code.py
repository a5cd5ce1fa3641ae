"""Code that a Keras file needs and does not hold: what it is, and the user's two ways to bring it.

A model file never brings code that runs by itself: not the bytecode of a Lambda, which Keras 2 stores for every one
and once ran on loading whatever ``safe_mode`` said (CVE-2025-9905), and not a class of the user's. Either the user
hands over a Python file (``--custom-objects``), which is code that they trust, or a Lambda is replaced by one of our
layers (``--replace-lambda``), and then no foreign code runs at all.
"""

from __future__ import annotations

import difflib
import re
import runpy
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.errors import RequestError
from ...runtime.model.normalizations import replacements
from ..errors import CustomCodeError
from .keras_3.known import KERAS_3, TENSORFLOW_CALLS, Library, public, unopened

PREPROCESSING = "preprocess-"
"""How the kinds begin that take pixels 0-255 and scale them."""

REPLACEMENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **replacements(),
    **{f"{PREPROCESSING}{mode}": ("PixelPreprocessing", {"mode": mode}) for mode in ("caffe", "tf", "torch")},
}
"""The layers that ``--replace-lambda LAYER=KIND`` can put in a Lambda's place: class name and arguments."""

_ACTIVATIONS = ("activation", "recurrent_activation")
_BYTECODE = "value"
"""Under this alone Keras stores a lambda that it was given for an activation."""

INSTALL_KERAS_2 = "Run: pip install 'embedlite[keras2]', which brings tf-keras, and the file is read by that."
"""The way out of what only Keras 2 reads."""

_LAMBDA_FUNCTIONS = ("function", "output_shape", "mask")
_KERAS_2_LAMBDA = ("function_type", "module", "output_shape_type", "output_shape_module")


@dataclass(frozen=True)
class Need:
    """Code that a configuration asks for.

    Attributes:
        layer: name of the layer that wants it; empty for what belongs to no layer.
        kind: ``Lambda``, ``class`` or ``function``.
        wanted: names that would satisfy it, the best first; for bytecode the layer's own name, numbered from the second
            function of a layer on.
        bytecode: whether the file stores bytecode instead of a name.
        item: the part of the configuration.
    """

    layer: str
    kind: str
    wanted: tuple[str, ...]
    bytecode: bool
    item: dict[str, Any]

    def __str__(self) -> str:
        if self.kind == "Lambda":
            return f"the Lambda layer {self.layer!r} wants {self._function()}"
        where = f"the layer {self.layer!r}" if self.layer else "the file"
        return f"{where} " + (
            f"is of the custom class {self.wanted[0]!r}" if self.kind == "class" else f"wants {self._function()}"
        )

    def _function(self) -> str:
        if self.bytecode:
            return "a function that is stored in the file as bytecode"
        return f"the function {self.wanted[0]!r}"


def find_needs(config: Mapping[str, Any], library: Library | None = None) -> list[Need]:
    """Everything in a configuration that a library has not, in the order of the layers; nothing is executed.

    Args:
        config: the configuration of a model.
        library: default Keras 3 with our layers.
    """
    found, counts = [], Counter[str]()
    for need in _walk(config, "", library or KERAS_3):
        counts[need.layer] += need.bytecode
        several = need.bytecode and counts[need.layer] > 1
        found.append(replace(need, wanted=(f"{need.layer}_{counts[need.layer]}",)) if several else need)
    return found


def _walk(value: Any, layer: str, library: Library) -> Iterator[Need]:
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, layer, library)
        return
    if not isinstance(value, dict):
        return
    settings = value.get("config")
    if "class_name" in value:
        if isinstance(settings, dict) and isinstance(settings.get("name"), str):
            layer = settings["name"]
        if value["class_name"] == "Lambda" and isinstance(settings, dict):
            need = _lambda_need(layer, settings, library)
            if need is not None:
                yield need
            # Whatever other functions it holds (for its output's shape, its mask) go with its own.
            own = {key for key in _LAMBDA_FUNCTIONS if isinstance(settings.get(key), dict)}
            rest = {key: item for key, item in value.items() if key != "class_name"}
            rest["config"] = {key: item for key, item in settings.items() if key not in own}
            yield from _walk(rest, layer, library)
            return
        need = _object_need(layer, value, library)
        if need is not None:
            yield need
    for key, item in value.items():
        if key in _ACTIVATIONS and isinstance(item, str) and not library.has_activation(item):
            yield Need(layer, "function", (item,), False, value)
        if key in _ACTIVATIONS and isinstance(item, dict) and [*item] == [_BYTECODE]:
            yield Need(layer, "function", (layer,), True, item)
        # It is for training, and nothing builds it here: see drop_compiling.
        if key != "compile_config":
            yield from _walk(item, layer, library)


def _lambda_need(layer: str, settings: dict[str, Any], library: Library) -> Need | None:
    function = settings.get("function")
    name = function.get("config") if isinstance(function, dict) else function
    if isinstance(name, str) and settings.get("function_type", "function") == "function":
        plain = not any(isinstance(settings.get(key), dict) for key in _LAMBDA_FUNCTIONS[1:])
        if plain and isinstance(function, dict) and library.has_function(name, function.get("module")):
            return None
        return Need(layer, "Lambda", (name, layer), False, settings)
    return Need(layer, "Lambda", (layer,), True, settings)


def _object_need(layer: str, value: dict[str, Any], library: Library) -> Need | None:
    kind, module = str(value["class_name"]), value.get("module")
    if kind == "function":
        name = str(value.get("config"))
        return None if library.has_function(name, module) else Need(layer, "function", (name,), False, value)
    if kind == "__lambda__":
        return Need(layer, "function", (layer,), True, value)
    if library.has_class(value):
        return None
    registered = str(value.get("registered_name") or kind)
    return Need(layer, "class", (registered, registered.rpartition(">")[2]), False, value)


def check_unopened(path: Path, config: Mapping[str, Any], replaced: Mapping[str, str], package: str) -> None:
    """Say what is missing without importing the package; what a function's name alone cannot tell is told later.

    Raises:
        CustomCodeError, RequestError: see :func:`check_code`.
    """
    library = unopened(package)
    needs = find_needs(config, library)
    everything = find_needs(config, replace(library, has_function=lambda name, module: False))
    # A Lambda of the user's may be called as a function of Keras is, such as ``norm``.
    unsure = {need.layer for need in everything if need.kind == "Lambda"} - {need.layer for need in needs}
    check_code(path, needs, {}, {name: kind for name, kind in replaced.items() if name not in unsure}, library)


def load_custom_objects(path: Path) -> dict[str, Any]:
    """The classes and functions of a Python file that the user trusts, by name.

    The file is executed. Classes that it registers with Keras are found by their registered names as well.

    Raises:
        RequestError: there is no such file, or it fails.
    """
    if not path.is_file():
        raise RequestError(
            f"--custom-objects: there is no file {path}. Pass a Python file that defines what is needed."
        )
    sys.path.insert(0, str(path.resolve().parent))
    try:
        values = runpy.run_path(str(path), run_name="custom_objects")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise RequestError(
            f"--custom-objects: {path} fails when it is run: {type(error).__name__}: {error}. It should only define "
            "classes and functions."
        ) from error
    finally:
        sys.path.pop(0)
    return {name: value for name, value in values.items() if callable(value) and not name.startswith("__")}


def parse_replacements(texts: tuple[str, ...]) -> dict[str, str]:
    """``("norm=minmax-sample",)`` as layer name to kind.

    Raises:
        RequestError: no equals sign, an unknown kind, or a layer twice.
    """
    replacements: dict[str, str] = {}
    for text in texts:
        layer, equals, kind = text.rpartition("=")
        if not equals or not layer or kind not in REPLACEMENTS:
            raise RequestError(
                f"--replace-lambda is {text!r}. Use LAYER=KIND, where KIND is one of: {', '.join(REPLACEMENTS)}."
            )
        if layer in replacements:
            raise RequestError(f"--replace-lambda names the layer {layer!r} twice. Name it once.")
        replacements[layer] = kind
    return replacements


def bring_code(
    path: Path,
    needs: list[Need],
    offered: Mapping[str, Any],
    replaced: Mapping[str, str],
    library: Library | None = None,
) -> dict[str, Any]:
    """Satisfy every need, editing the configuration in place, or say all that is missing.

    Args:
        path: the model file, for messages.
        needs: from :func:`find_needs`, whose items are edited.
        offered: objects of the user's own, by name.
        replaced: layer name to one of :data:`REPLACEMENTS`.
        library: what loads the file; default Keras 3.

    Returns:
        ``custom_objects`` for Keras.

    Raises:
        CustomCodeError, RequestError: see :func:`check_code`.
    """
    check_code(path, needs, offered, replaced, library)
    custom = dict(offered)
    for need in needs:
        found = next((name for name in need.wanted if name in offered), None)
        if need.kind == "Lambda" and need.layer in replaced:
            _replace(need.item, replaced[need.layer])
            continue
        if found is not None:
            custom[need.wanted[0]] = offered[found]
        if need.kind == "Lambda" or need.bytecode:
            _name_function(need)
    return custom


def check_code(
    path: Path,
    needs: list[Need],
    offered: Mapping[str, Any],
    replaced: Mapping[str, str],
    library: Library | None = None,
) -> None:
    """Say all that is missing, if anything is; the arguments are those of :func:`bring_code`.

    Raises:
        CustomCodeError: something is missing.
        RequestError: a replacement is for a layer that is not a Lambda.
    """
    lambdas = {need.layer for need in needs if need.kind == "Lambda"}
    for layer in replaced:
        if layer not in lambdas:
            near = difflib.get_close_matches(layer, lambdas) or sorted(lambdas)
            known = f"Its Lambda layers are: {', '.join(near)}." if near else "It has no Lambda layers; leave it out."
            raise RequestError(f"--replace-lambda: {path} has no Lambda layer {layer!r}. {known}")
    missing = []
    for need in needs:
        brought = (need.kind == "Lambda" and need.layer in replaced) or any(name in offered for name in need.wanted)
        if not brought and not (need.kind == "class" and (library or KERAS_3).registered(need.wanted[0])):
            missing.append(need)
    if missing:
        raise CustomCodeError(_missing_message(path, missing))


def rename_replaced(config: Any, replaced: Mapping[str, str]) -> None:
    """Give the replaced Lambdas of a configuration their new class, in place.

    A functional model stores what each call of a layer was given; a Lambda takes a mask and ``training``, even if both
    are nothing, and the layer in its place takes its input alone.
    """
    for item in _objects(config):
        settings = item.get("config")
        if item.get("class_name") == "Lambda" and isinstance(settings, dict) and settings.get("name") in replaced:
            name = f"embedlite>{REPLACEMENTS[replaced[settings['name']]][0]}"
            _drop_call_arguments(item)
            if "registered_name" in item:
                item.update(module=None, class_name=name.partition(">")[2], registered_name=name)
            else:
                item["class_name"] = name


def drop_compiling(config: dict[str, Any]) -> bool:
    """Take out of a configuration, in place, how models within the model were trained, and say whether any was there.

    Keras leaves a model uncompiled when it is asked to, and compiles those within it all the same.
    """
    inside = [item for item in _objects(config) if item is not config and "compile_config" in item]
    for item in inside:
        del item["compile_config"]
    return bool(inside)


def _drop_call_arguments(item: dict[str, Any]) -> None:
    """Leave only the inputs in the calls of a layer: Keras 3 stores them as objects, Keras 2 as nested lists."""
    for node in item.get("inbound_nodes") or ():
        if isinstance(node, dict):
            node["kwargs"] = {}
            node["args"] = node.get("args", [])[:1]
        else:
            for call in node:
                if isinstance(call, list) and len(call) == 4 and isinstance(call[3], dict):
                    call[3] = {}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item)


def _replace(settings: dict[str, Any], kind: str) -> None:
    kept = {key: settings[key] for key in ("name", "trainable", "dtype") if key in settings}
    settings.clear()
    settings.update(**kept, **REPLACEMENTS[kind][1])


def _name_function(need: Need) -> None:
    """Make a layer ask for a function by name, in the form that Keras 3 reads; drop any bytecode it holds."""
    function = {"module": "builtins", "class_name": "function", "config": need.wanted[0], "registered_name": "function"}
    if need.kind != "Lambda":
        need.item.clear()
        need.item.update(function)
        return
    for key in (*_LAMBDA_FUNCTIONS[1:], *_KERAS_2_LAMBDA):
        if key != "output_shape" or not isinstance(need.item.get(key), list):
            need.item.pop(key, None)
    need.item["function"] = function


def _missing_message(path: Path, missing: list[Need]) -> str:
    text = f"{path} needs code that is not in the file: {'; '.join(str(need) for need in missing)}. "
    names = dict.fromkeys(need.wanted[-1 if need.kind == "class" else 0] for need in missing)
    if any(need.wanted[0] in TENSORFLOW_CALLS for need in missing):
        return (
            f"{text}TFOpLambda and SlicingOpLambda are calls of TensorFlow that only Keras 2 can replay. "
            f"{INSTALL_KERAS_2}"
        )
    if called := dict.fromkeys(need.wanted[0] for need in missing if _is_operation(need)):
        return (
            f"{path} calls functions of Keras ({', '.join(called)}) between its layers, and Keras cannot read such "
            "calls from this format. Save the model again with model.save('model.keras')."
        )
    text += f"Either pass --custom-objects FILE.py, a file you trust that defines {', '.join(names)}"
    if lambdas := [need.layer for need in missing if need.kind == "Lambda"]:
        return (
            f"{text}; or put a known layer in a Lambda's place, and none of that code runs: "
            f"{' '.join(f'--replace-lambda {layer}=KIND' for layer in lambdas)}, KIND one of "
            f"{', '.join(_likely_kinds(names))}."
        )
    return f"{text}; or build the model from layers of Keras or embedlite.convert.layers and save it again."


def _is_operation(need: Need) -> bool:
    """Whether what is missing is a function of ``keras.ops`` or a slice; unlike layers, those cannot be trained."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", need.wanted[0]).lower()
    is_class = need.kind == "class" and "trainable" not in (need.item.get("config") or {"trainable": None})
    return is_class and name in {*public("keras", "ops"), "get_item"}


def _likely_kinds(functions: Iterable[str]) -> list[str]:
    """The kinds of replacement, those that a function's name speaks for first and alone: preprocessing is called so."""
    preprocessing = [kind for kind in REPLACEMENTS if kind.startswith(PREPROCESSING)]
    if all("preprocess" in name for name in functions):
        return preprocessing
    return [kind for kind in REPLACEMENTS if kind not in preprocessing] + preprocessing
