"""Where inputs come from: a folder, one file, ``.npy``, ``.npz``, ``.tfrecord``, ``.parquet``, an array, an iterable.

Folders and files may be far away: whatever fsspec reaches by a URL.

Everything is opened lazily: ids and shapes are known at once, pixels are read one image at a time. Only an iterable
is read through at once, because it cannot be read twice.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import load_npy, load_npz, read_row, texts
from ..errors import EmbedliteWarning, EmptyDataError, InputError, RequestError, UnreadableDataError
from ..input.shapes import check_batch, check_one
from ..model.contract import InputContract
from .folder import Folder, ImageFiles, Images, LocalFolder, Names
from .formats import IMAGE_SUFFIXES
from .iterable import SpooledImages
from .npy import ArrayFile, NpyFiles, open_remote_array, raw_row
from .parquet import PARQUET_SUFFIX, ParquetRows
from .records import RecordImages, Records
from .remote import GLOB_CHARACTERS, fixed_part, is_url, list_url
from .source import Source
from .tfrecord import FilePath, RecordFile, is_tfrecord
from .walk import describe, irregular, walk

Data = str | os.PathLike[str] | NDArray[Any] | Iterable[Any] | Callable[[], Iterable[Any]]
"""What :func:`open_source` opens."""

_IMAGE_KEYS = ("images", "image", "x")

_ARRAY_KEYS = ("inputs", "input", "x", "data")


def open_source(data: Data, contract: InputContract, feature: str | None = None) -> Source:
    """Open images, or other arrays, for an encoder with this input contract.

    Args:
        data: a folder of images or of ``.npy`` (searched recursively, in the order of the paths), an image file, a
            ``.npy`` or ``.npz`` file with an array (N, H, W, C), or (N, ...) for an encoder of other arrays, a
            ``.tfrecord`` of ``tf.train.Example``, a ``.parquet`` with a column of image files or lists, a pattern with
            ``*``, or the URL of any of these but ``.npz``; or such an array; or an iterable of images, or a function
            that returns one, see
            :class:`embedlite.runtime.images.iterable.SpooledImages`.
        contract: size, channels and preprocessing.
        feature: which feature of a ``.tfrecord``, column of a ``.parquet``, array of a ``.npz`` or key of a dict holds
            the images.

    Raises:
        EmptyDataError: there is no image in it.
        UnreadableDataError: it does not exist, or is not what its name says.
        InputError: an array of the wrong shape or dtype.
        RequestError: ``feature`` for data whose parts have no names, or it is needed to tell which holds the images.
    """
    if isinstance(data, np.ndarray):
        _check_nameless(feature, "an array")
        return _array_source("the array", data, None, contract)
    if not isinstance(data, (str, os.PathLike)):
        spooled = SpooledImages(data, contract, feature)
        return Source("the iterable", spooled.ids, spooled.load, spooled.raw, contract, pixels=spooled.pixels)
    if isinstance(data, str) and is_url(data):
        return _url_source(data, contract, feature)
    path = Path(data)
    try:
        folder, missing = path.is_dir(), not path.exists()
        special = None if missing and not path.is_symlink() else irregular(path)
    except OSError as error:
        raise UnreadableDataError(f"cannot look for {path}: {error.strerror or error}. Check the path.") from error
    if folder:
        return _folder_source(path, contract, feature)
    if special is not None:
        raise UnreadableDataError(
            f"{path} is one of the {special}, and {contract.noun}s are read from files alone. Name a file or a folder."
        )
    if missing and GLOB_CHARACTERS.intersection(str(path)):
        return _glob_source(path, contract, feature)
    if missing:
        kinds = "a folder of images, an image file" if contract.is_image else "a folder of .npy files"
        raise UnreadableDataError(f"there is no {path}. Pass {kinds}, .npy, .npz, .tfrecord or .parquet.")
    return _file_source(path, contract, feature)


def _file_source(path: Path, contract: InputContract, feature: str | None) -> Source:
    if path.suffix == ".npz":
        return _npz_source(path, contract, feature)
    if is_tfrecord(path.name) or path.name.lower().endswith(PARQUET_SUFFIX):
        return _record_source(str(path), [path], [""], contract, feature)
    if path.suffix == ".npy":
        _check_nameless(feature, str(path))
        array = load_npy(path)
        if not contract.is_image and array.shape == contract.shape:
            return _npy_source(path.name, [path.name], LocalFolder(path.parent), contract)
        rows = ArrayFile(path, np.arange(len(array)) if array.ndim else np.empty(0, np.intp))
        return _array_source(str(path), array, None, contract, rows.part)
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    if is_image and contract.is_image:
        _check_nameless(feature, str(path))
        return _image_source(path.name, [path.name], LocalFolder(path.parent), contract)
    if is_image:
        raise UnreadableDataError(
            f"{path} is an image file, and the model takes arrays of shape {contract.shape}. Pass a folder of .npy "
            "files, .npy, .npz, .tfrecord or .parquet."
        )
    if not contract.is_image:
        raise UnreadableDataError(
            f"cannot tell what {path} holds from its name. Pass a folder of .npy files, .npy, .npz, .tfrecord or "
            ".parquet; save what other formats hold as .npy first."
        )
    raise UnreadableDataError(
        f"cannot tell what {path} holds from its name. Pass a folder of images, .npy, .npz, .tfrecord, .parquet, or "
        "one of: " + ", ".join(IMAGE_SUFFIXES)
    )


def _check_nameless(feature: str | None, what: str) -> None:
    if feature is not None:
        raise RequestError(
            f"{what} has no feature {feature!r}: --feature names what holds the images in a .tfrecord or .npz. "
            "Leave it out."
        )


def _folder_source(folder: Path, contract: InputContract, feature: str | None) -> Source:
    names, left = walk(folder)
    return _files_source(f"the folder {folder}", str(folder), LocalFolder(folder), names, contract, feature, left)


def _glob_source(pattern: Path, contract: InputContract, feature: str | None) -> Source:
    folder = Path(fixed_part(pattern.as_posix()) or (pattern.root or "."))
    found = {path.relative_to(folder).as_posix(): path for path in folder.glob(pattern.relative_to(folder).as_posix())}
    names = [name for name, path in found.items() if path.is_file()]
    kinds = {name: irregular(path) for name, path in found.items()}
    left = {name: kind for name, kind in kinds.items() if kind is not None}
    return _files_source(str(pattern), str(pattern), LocalFolder(folder), names, contract, feature, left)


def _url_source(url: str, contract: InputContract, feature: str | None) -> Source:
    folder, names = list_url(url, (*IMAGE_SUFFIXES, ".npy", ".tfrecord", ".tfrecords", PARQUET_SUFFIX))
    if len(names) == 1 and names[0].endswith(".npy"):
        _check_nameless(feature, url)
        array = open_remote_array(folder.file(names[0]))
        if not contract.is_image and array.row_shape == contract.shape[1:]:
            return _npy_source(url, names, folder, contract)
        check_one(np.zeros(array.row_shape, array.dtype), contract)
        ids = [str(index) for index in range(len(array))]
        return Source(url, ids, array.load, array.raw, contract, pixels=array.dtype.kind in "iu", part=array.part)
    return _files_source(url, url, folder, names, contract, feature)


def _files_source(
    place: str,
    name: str,
    folder: Folder,
    names: list[str],
    contract: InputContract,
    feature: str | None,
    left: Mapping[str, str] = MappingProxyType({}),
) -> Source:
    """Images among files, or if there are none, records; what is left out is told."""
    images = [item for item in names if item.lower().endswith(IMAGE_SUFFIXES)]
    if images and contract.is_image:
        _check_nameless(feature, f"the folder of images {name}")
        # Sorted in place: of the names of millions there is one list and, at the end, none.
        images.sort()
        _tell(place, names, images, left)
        return _image_source(name, images, folder, contract)
    if arrays := sorted(item for item in names if item.endswith(".npy")):
        _check_nameless(feature, f"the folder of arrays {name}")
        _tell(place, names, arrays, left)
        return _npy_source(name, arrays, folder, contract)
    for belongs in (is_tfrecord, lambda item: item.lower().endswith(PARQUET_SUFFIX)):
        records = sorted(item for item in names if belongs(item.rpartition("/")[2]))
        if records:
            _tell(place, names, records, left)
            prefixes = [""] if records == names and len(records) == 1 else [f"{item}:" for item in records]
            return _record_source(name, [folder.file(item) for item in records], prefixes, contract, feature)
    there = _left_out(names, (), left)
    if not contract.is_image:
        what = f"{len(images)} images and no arrays" if images else "no arrays"
        raise EmptyDataError(
            f"there are {what} in {place}{f' ({describe(there)})' if there and not images else ''}, and the model "
            f"takes arrays of shape {contract.shape}. Put .npy files of that shape there, or name another folder."
        )
    raise EmptyDataError(
        f"there are no images in {place}{f' ({describe(there)})' if there else ''}. Put images there "
        f"({', '.join(IMAGE_SUFFIXES)}), or name another folder."
    )


def _left_out(names: Sequence[str], taken: Sequence[str], left: Mapping[str, str]) -> dict[str, str]:
    if len(taken) == len(names):
        return dict(left)
    chosen = set(taken)
    return {**left, **{name: "other kinds" for name in names if name not in chosen}}


def _tell(place: str, names: Sequence[str], taken: Sequence[str], left: Mapping[str, str]) -> None:
    """Say what of a folder is not read."""
    there = _left_out(names, taken, left)
    if there:
        warnings.warn(
            f"{place}: {len(there)} of {len(there) + len(taken)} entries are left out: {describe(there)}.",
            EmbedliteWarning,
            stacklevel=2,
        )


def _image_source(name: str, names: Sequence[str], folder: Folder, contract: InputContract) -> Source:
    files = ImageFiles(folder, Names(names), contract)
    return Source(name, files.names, files.load, files.raw, contract, pixels=True, part=files.part)


def _npy_source(name: str, names: Sequence[str], folder: Folder, contract: InputContract) -> Source:
    files = NpyFiles(folder, names, contract)
    if not files.ids:
        raise EmptyDataError(f"{name} holds no {contract.noun}s: its .npy files are empty. Pass at least one.")
    return Source(name, files.ids, files.load, files.raw, contract, pixels=files.pixels, part=files.part)


def _array_source(
    name: str,
    array: NDArray[Any],
    ids: Sequence[str] | None,
    contract: InputContract,
    part: Callable[[Sequence[int]], Images] | None = None,
) -> Source:
    if array.size == 0:
        what = f"{contract.noun}s"
        raise EmptyDataError(f"{name} holds no {what}: its shape is {array.shape}. Pass at least one.")
    try:
        check_batch(array, contract)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    return Source(
        name,
        ids or [str(index) for index in range(len(array))],
        lambda index: read_row(array, index),
        lambda index: raw_row(array, index),
        contract,
        pixels=array.dtype.kind in "iu",
        part=part,
    )


def _record_source(
    name: str, paths: Sequence[FilePath], prefixes: Sequence[str], contract: InputContract, feature: str | None
) -> Source:
    files: list[Records] = [
        RecordFile(path) if is_tfrecord(path.name) else ParquetRows(path, feature) for path in paths
    ]
    images = RecordImages(name, files, contract, feature)
    ids = [f"{prefix}{number}" for file, prefix in zip(files, prefixes, strict=True) for number in range(len(file))]
    return Source(name, ids, images.load, images.raw, contract, pixels=images.pixels, part=images.part)


def _npz_source(path: Path, contract: InputContract, feature: str | None) -> Source:
    arrays = load_npz(path)
    stored_ids = arrays.pop("ids", None)
    if contract.is_image:
        chosen = next((name for name in _IMAGE_KEYS if name in arrays), None)
    else:
        fitting = [name for name, array in arrays.items() if array.shape[1:] == contract.shape]
        chosen = fitting[0] if len(fitting) == 1 else next((name for name in _ARRAY_KEYS if name in arrays), None)
    if chosen is None and len(arrays) == 1:
        chosen = next(iter(arrays))
    if feature is not None:
        if feature not in arrays:
            raise RequestError(
                f"{path} has no array {feature!r}: it has {', '.join(arrays) or 'none'}. Name one of these with "
                "--feature."
            )
        chosen = feature
    if chosen is None:
        name = (_IMAGE_KEYS if contract.is_image else _ARRAY_KEYS)[0]
        raise RequestError(
            f"cannot tell which array of {path} holds the {contract.noun}s: it has {', '.join(arrays) or 'none'}. "
            f"Call it {name!r}, or name it with --feature."
        )
    array, ids = arrays[chosen], None
    if stored_ids is not None:
        ids = texts(stored_ids, path)
        if array.ndim == 0 or len(ids) != len(array) or len(set(ids)) != len(ids):
            raise UnreadableDataError(
                f"{path} has {contract.noun}s of shape {array.shape} and {len(ids)} ids, {len(set(ids))} of them "
                f"different. Every {contract.noun} needs an id of its own."
            )
    return _array_source(str(path), array, ids, contract)
