"""Keras' two file formats, looked into without executing anything.

Both hold a configuration as JSON and weights as HDF5. The configuration can ask for code (a Lambda's bytecode, a class
of the user's), the archive can try to write elsewhere or to unpack into more than fits, and HDF5 can refer to other
files. All of that is found here, before Keras sees the file.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ModelLoadError
from .bounds.keras_config import check_config
from .edit.prune import layer_names, weight_groups

CONFIG_NAME = "config.json"
_WEIGHTS = {"model.weights.h5", "model.weights.npz"}
_VERSION = re.compile(r"\d+\.\d+")
H5_SUFFIXES = (".h5", ".hdf5")

LARGEST_CONFIG = 64 << 20
"""Bytes; the configuration of the largest published Keras models has a few megabytes."""

LARGEST_GROWTH = 20
"""How many times its own size an archive may unpack to; Keras stores weights uncompressed."""

_SLACK = 64 << 20
_MOST_ATTRIBUTES = 10_000


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a ``.keras`` or ``.h5`` file, after the file was found sound and harmless.

    Raises:
        ModelLoadError: the file is cut short, is something else, holds weights only, has members outside its own
            folder, declares absurd sizes, or refers to other files.
        ModelShapeError, ModelLimitError: see :func:`embedlite.convert.load.bounds.keras_config.check_config`.
    """
    text = _config_of_h5(path) if path.suffix.lower() in H5_SUFFIXES else _config_of_keras(path)
    try:
        config = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelLoadError(
            f"{path} is damaged: its configuration is not JSON ({error}). Save the model again with "
            "model.save('model.keras')."
        ) from error
    if not isinstance(config, dict):
        raise ModelLoadError(
            f"{path} is damaged: its configuration is {type(config).__name__}, not an object. Copy it again."
        )
    check_config(path, config)
    return config


def write_copy(path: Path, config: dict[str, Any], folder: Path) -> Path:
    """A copy of a model file with another configuration and the same weights.

    Args:
        path: the original, which :func:`read_config` accepted.
        config: the new configuration.
        folder: where the copy goes.

    Returns:
        The copy's path; it has the original's name.
    """
    copy = folder / path.name
    if path.suffix.lower() in H5_SUFFIXES:
        import h5py

        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            dropped = _dropped(json.loads(file.attrs["model_config"]), config)
            del file.attrs["model_config"]
            file.attrs["model_config"] = json.dumps(config)
            if dropped:
                _forget_layers(file, dropped)
        return copy
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        whole = json.loads(source.read(CONFIG_NAME))
        dropped = _dropped(whole, config)
        for entry in source.infolist():
            content = json.dumps(config).encode() if entry.filename == CONFIG_NAME else source.read(entry)
            if dropped and entry.filename.endswith(H5_SUFFIXES):
                before, after = weight_groups(whole), weight_groups(config)
                content = _renamed_groups(content, {before[name]: group for name, group in after.items()})
            target.writestr(entry.filename, content)
    return copy


def _dropped(whole: dict[str, Any], part: dict[str, Any]) -> set[str]:
    """The layers that one configuration has and a part of it has not; none if it is no part of it."""
    names, left = set(layer_names(whole)), set(layer_names(part))
    return names - left if left < names else set()


def _forget_layers(file: Any, dropped: set[str]) -> None:
    """Leave layers out of the list by which Keras reads weights from HDF5; many names are stored in parts."""
    attributes = file["model_weights"].attrs
    for key in [key for key in attributes if re.fullmatch(r"layer_names\d*", key)]:
        names = [name if isinstance(name, bytes) else str(name).encode() for name in attributes[key]]
        attributes[key] = [name for name in names if name.decode("utf-8", "replace") not in dropped]


def _renamed_groups(content: bytes, groups: dict[str, str]) -> bytes:
    """The weights of a ``.keras`` file with its layers' groups, by their old names, under their new ones alone."""
    import h5py

    with h5py.File(io.BytesIO(content)) as source:
        if not set(groups) <= set(source.get("layers", ())):
            return content
        written = io.BytesIO()
        with h5py.File(written, "w") as target:
            for name in source:
                if name != "layers":
                    source.copy(name, target)
            target.create_group("layers").attrs.update(source["layers"].attrs)
            for old, new in groups.items():
                source.copy(f"layers/{old}", target["layers"], name=new)
    return written.getvalue()


def _config_of_keras(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_members(path, entries)
            broken = archive.testzip()
            names = archive.namelist()
            if broken or CONFIG_NAME not in names:
                reason = f"{broken} fails its checksum" if broken else f"it has no {CONFIG_NAME}"
                raise ModelLoadError(f"{path} is damaged: {reason}. Copy it again.")
            if not _WEIGHTS.intersection(names):
                raise ModelLoadError(
                    f"{path} holds no weights, only {', '.join(sorted(names)[:4])}. Copy it again, or save the model "
                    "again with model.save('model.keras')."
                )
            for entry in entries:
                if entry.filename.endswith(H5_SUFFIXES):
                    _check_h5(path, io.BytesIO(archive.read(entry)))
            _check_version(path)
            return archive.read(CONFIG_NAME)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelLoadError(
            f"{path} is not a complete .keras file ({error}): it was cut short or is something else. Copy it again."
        ) from error


def _check_version(path: Path) -> None:
    """Refuse a file of a Keras of the future, whose layers and weights may mean something else."""
    written, installed = keras_version(path), importlib.metadata.version("keras")
    if written is not None and int(written.partition(".")[0]) > int(installed.partition(".")[0]):
        raise ModelLoadError(
            f"{path} was written by Keras {written}, and Keras {installed} is installed here. Install that one or a "
            "newer, or have the model exported as a SavedModel where it was made: model.export('folder')."
        )


def keras_2_version(path: Path) -> str | None:
    """The version of Keras 2 (or 1) that wrote a file which was looked into; None for Keras 3's or an unnamed one."""
    version = keras_version(path)
    return version if version is not None and version.startswith(("1.", "2.")) else None


def keras_version(path: Path) -> str | None:
    """The version of Keras that says it wrote a file; None where nothing says it, or nonsense."""
    try:
        if path.suffix.lower() in H5_SUFFIXES:
            import h5py

            with h5py.File(path, "r") as file:
                version = file.attrs.get("keras_version")
        else:
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
    except (KeyError, TypeError, ValueError, OSError, RecursionError, zipfile.BadZipFile):
        return None
    version = version.decode("utf-8", "replace") if isinstance(version, bytes) else version
    return version if isinstance(version, str) and _VERSION.match(version) else None


def holds_integers(path: Path) -> bool:
    """Whether weights of a Keras file are 8-bit integers, as ``model.quantize`` leaves them (or two of 4 bits in one).

    Args:
        path: a file that was looked into; where its weights cannot be read, nothing is said of them.
    """
    import h5py

    types = set[str]()
    broken = (OSError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile)
    with contextlib.suppress(*broken), contextlib.ExitStack() as opened:
        file: Any = path
        if path.suffix.lower() not in H5_SUFFIXES:
            archive = opened.enter_context(zipfile.ZipFile(path))
            file = opened.enter_context(archive.open("model.weights.h5"))
        weights = opened.enter_context(h5py.File(file, "r"))
        weights.visititems(lambda _, item: types.add(str(getattr(item, "dtype", ""))))
    return "int8" in types


def _check_members(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in entry.filename:
            raise ModelLoadError(
                f"{path} was refused: its member {entry.filename!r} would be unpacked outside the archive's own "
                "folder. No tool that saves models writes such names; do not trust the file."
            )
        if entry.filename == CONFIG_NAME and entry.file_size > LARGEST_CONFIG:
            raise ModelLoadError(
                f"{path} was refused: it declares a configuration of {entry.file_size:,} bytes, more than "
                f"{LARGEST_CONFIG:,}. Save the model again with model.save('model.keras')."
            )
    declared = sum(entry.file_size for entry in entries)
    if declared > LARGEST_GROWTH * path.stat().st_size + _SLACK:
        raise ModelLoadError(
            f"{path} was refused: its {path.stat().st_size:,} bytes would unpack to {declared:,}. Models are saved "
            "uncompressed, so this is not a model; get the file again from where it was saved."
        )


def _config_of_h5(path: Path) -> bytes:
    import h5py

    _check_h5(path, path)
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise ModelLoadError(
                f"{path} holds no model, only {', '.join(sorted(file)[:4]) or 'nothing'}: perhaps weights alone. "
                "Load them into the model they belong to and save that with model.save('model.keras')."
            )
        return config.encode() if isinstance(config, str) else bytes(config)


def _check_h5(path: Path, content: Any) -> None:
    """Refuse HDF5 that is broken, that points to other files, or that declares more values than it stores."""
    import h5py

    seen = set()

    def look_at(name: str, item: Any) -> None:
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            raise ModelLoadError(
                f"{path} was refused: its member {name!r} stands in the file under another name, too. Keras never "
                "writes such links; do not trust the file."
            )
        seen.add(place)
        for index in range(h5py.h5a.get_num_attrs(item.id)):
            attribute = h5py.h5a.open(item.id, index=index)
            size = attribute.dtype.itemsize * attribute.get_space().get_simple_extent_npoints()
            if index >= _MOST_ATTRIBUTES or size > LARGEST_CONFIG:
                raise ModelLoadError(
                    f"{path} was refused: {name!r} has more than {_MOST_ATTRIBUTES:,} attributes, or one of more than "
                    f"{LARGEST_CONFIG:,} bytes. Get the file again from where it was saved."
                )

    def walk(file: Any) -> None:
        look_at("/", file)
        groups, declared, stored = [file], 0, 0
        while groups:
            group = groups.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    to = f"the other file {link.filename!r}" if isinstance(link, h5py.ExternalLink) else repr(link.path)
                    raise ModelLoadError(
                        f"{path} was refused: its member {name!r} points to {to}. Keras never writes such links; do "
                        "not trust the file."
                    )
                item = group[name]
                look_at(name, item)
                if isinstance(item, h5py.Group):
                    groups.append(item)
                    continue
                if not isinstance(item, h5py.Dataset) or item.shape is None:
                    raise ModelLoadError(
                        f"{path} was refused: its member {name!r} is neither a group nor an array with values. Keras "
                        "never writes such members; do not trust the file."
                    )
                if item.external or item.is_virtual:
                    raise ModelLoadError(
                        f"{path} was refused: its array {name!r} takes its values from another file. Keras never "
                        "writes such arrays; do not trust the file."
                    )
                declared, stored = declared + item.nbytes, stored + item.id.get_storage_size()
                if declared > LARGEST_GROWTH * stored + _SLACK:
                    raise ModelLoadError(
                        f"{path} was refused: up to its array {name!r} it declares {declared:,} bytes but stores "
                        f"{stored:,}. Get the file again from where it was saved."
                    )

    try:
        with h5py.File(content, "r") as file:
            walk(file)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ModelLoadError(
            f"{path} is not a complete HDF5 file ({str(error).splitlines()[0]}): it was cut short or is something "
            "else. Copy it again."
        ) from error
