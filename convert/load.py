"""Loading a Keras model without running any code that is not Keras' or ours."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CustomCodeError, ModelLoadError, ModelShapeError


@dataclass(frozen=True)
class LoadedModel:
    """A Keras model and the (height, width, channels) that it takes."""

    model: Any
    input_shape: tuple[int, int, int]


def load_model(path: Path, input_shape: tuple[int, int, int] | None = None) -> LoadedModel:
    """Load a ``.keras`` file.

    Args:
        path: the file.
        input_shape: for a model that was built but saved without a fixed input shape.

    Raises:
        ModelLoadError: no such file, not a ``.keras``, or cut short.
        CustomCodeError: it needs a Lambda's function or a custom layer.
        ModelShapeError: it has several inputs or outputs, no known shape, or no weights.
    """
    _check_archive(path)
    import keras

    from . import layers  # noqa: F401 -- registers our layers

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # Keras has no error classes of its own for this: ValueError, TypeError and others, each with pages of text.
        needed = _custom_layers(path)
        if needed:
            raise CustomCodeError(
                f"{path} needs code that is not in the file: {'; '.join(needed)}. Replace these layers by ones that "
                "Keras or embedlite.convert.layers has (MinMaxNormalization, L2Normalization) and save the model again."
            ) from error
        reason = str(error).strip().splitlines()
        raise ModelLoadError(
            f"{path} cannot be loaded by Keras {keras.__version__}: {reason[0] if reason else type(error).__name__}. "
            "Save it again with model.save('model.keras')."
        ) from error
    return LoadedModel(model, resolve_input_shape(model, str(path), input_shape))


def resolve_input_shape(model: Any, name: str, wanted: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
    """The (height, width, channels) of a Keras model that takes one image and answers one embedding.

    Args:
        model: the Keras model.
        name: what to call it in an error.
        wanted: fills in what the model leaves open.

    Raises:
        ModelShapeError: several inputs or outputs, no image, no known size, a contradiction, or no weights.
    """
    if not model.built or (not model.weights and any(hasattr(layer, "kernel") for layer in model.layers)):
        raise ModelShapeError(
            f"{name} was saved before it was ever built, so it holds no weights. Call it once on an image, or give "
            "it an Input, train it, and save it again."
        )
    for kind in ("inputs", "outputs"):
        count = len(getattr(model, kind, None) or [None])
        if count != 1:
            raise ModelShapeError(
                f"{name} has {count} {kind}; an encoder takes one image and gives one embedding. "
                "Save a keras.Model with one input and one output."
            )
    known = _known_shape(model)
    if known is not None and len(known) != 4:
        raise ModelShapeError(
            f"{name} takes inputs of shape {known}; an encoder takes images, (batch, height, width, channels)."
        )
    shape = tuple(known[1:]) if known is not None else (None, None, None)
    if wanted is not None:
        if any(size is not None and size != given for size, given in zip(shape, wanted, strict=True)):
            raise ModelShapeError(f"the input shape {wanted} was asked for, but {name} takes {shape}. Use that shape.")
        return wanted
    if None in shape:
        text = "unknown" if known is None else str(shape)
        raise ModelShapeError(
            f"the input size of {name} is not fixed (height, width, channels: {text}), and a device needs it fixed. "
            "Pass --input-shape, for instance --input-shape 224,224,3."
        )
    height, width, channels = (size for size in shape if size is not None)
    return height, width, channels


def _known_shape(model: Any) -> tuple[int | None, ...] | None:
    try:
        shape = model.input_shape
    except AttributeError:
        # Built by a call, so there is no symbolic input; Keras still remembers the shape it was built with.
        shape = (model.get_build_config() or {}).get("input_shape")
    if isinstance(shape, (list, tuple)) and all(size is None or isinstance(size, int) for size in shape):
        return tuple(shape)
    return None


def _check_archive(path: Path) -> None:
    if not path.exists():
        raise ModelLoadError(f"there is no {path}. Pass the path of a .keras file.")
    if path.is_dir():
        raise ModelLoadError(f"{path} is a folder, not a model. Pass a .keras file (model.save('model.keras')).")
    if path.suffix != ".keras":
        raise ModelLoadError(f"{path} is no .keras file. Save the model with model.save('model.keras').")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ModelLoadError(
            f"{path} is no complete .keras file ({error}): it was cut short or is something else. Copy it again."
        ) from error
    if broken or "config.json" not in names:
        raise ModelLoadError(
            f"{path} is damaged: {f'{broken} fails its checksum' if broken else 'it has no config.json'}. "
            "Copy it again."
        )


def _custom_layers(path: Path) -> list[str]:
    """The layers that need the user's code, found in the archive's config without executing anything."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    needed: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            settings = value.get("config")
            if isinstance(settings, dict) and "class_name" in value:
                name = settings.get("name", "unnamed")
                module = str(value.get("module") or "")
                if value["class_name"] == "Lambda":
                    function = settings.get("function")
                    detail = function.get("config") if isinstance(function, dict) else function
                    needed.append(f"the Lambda layer {name!r} wants the function {_short(detail)}")
                elif str(value["class_name"]).startswith("__"):
                    pass  # Keras' own wrappers of tensors and functions
                elif not module.startswith("keras") and not str(value.get("registered_name")).startswith("embedlite>"):
                    needed.append(f"the layer {name!r} is of the custom class {value['class_name']!r}")
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(config)
    return needed


def _short(function: Any) -> str:
    return repr(function) if isinstance(function, str) and len(function) < 60 else "stored in it as bytecode"
