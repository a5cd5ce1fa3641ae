"""Where images come from: a folder, one file, ``.npy``, ``.npz``, ``.tfrecord``, ``.parquet``, an array, an iterable.

Folders and files may be far away: whatever fsspec reaches by a URL.

Everything is opened lazily: ids and shapes are known at once, pixels are read one image at a time. Only an iterable
is read through at once, because it cannot be read twice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .array_file import ArrayFile, raw_row
from .contract import InputContract
from .errors import DataError, EmptyDataError, InputError, RequestError, UnreadableDataError
from .image_files import Folder, ImageFiles, Images, LocalFolder, Names
from .images import IMAGE_SUFFIXES
from .input_checks import check_batch, check_one
from .iterables import SpooledImages
from .numpy_files import load_npy, load_npz, texts
from .pages import read_row
from .parquet_rows import PARQUET_SUFFIX, ParquetRows
from .preprocess import model_ready
from .record_images import RecordImages, Records
from .remote import GLOB_CHARACTERS, fixed_part, is_url, list_url
from .remote_array import open_remote_array
from .tfrecord import FilePath, RecordFile, is_tfrecord

Data = str | os.PathLike[str] | NDArray[Any] | Iterable[Any] | Callable[[], Iterable[Any]]
"""What :func:`open_source` opens."""

_IMAGE_KEYS = ("images", "image", "x")


@dataclass(frozen=True)
class Skipped:
    """An image that was left out.

    Attributes:
        id: its name in the source.
        reason: the error that it raised.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """Some images of a source, as another process can open them: it says where they are and holds none of them.

    Attributes:
        name: of the source.
        ids: of the images.
        images: where they are.
        contract, pixels: as of the source.
    """

    name: str
    ids: tuple[str, ...]
    images: Images
    contract: InputContract
    pixels: bool

    def open(self) -> Source:
        """The images."""
        return Source(self.name, self.ids, self.images.load, self.images.raw, self.contract, pixels=self.pixels)


class Source:
    """Named images of one size, readable by index.

    Attributes:
        name: what the user called it.
        ids: one text for each image: the path within the folder, or the row number.
        pixels: whether the images are pixels (rather than model-ready floats).
        contract: the preprocessing that :meth:`ready` applies.
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        load: Callable[[int], NDArray[Any]],
        raw: Callable[[int], bytes],
        contract: InputContract,
        *,
        pixels: bool,
        part: Callable[[Sequence[int]], Images] | None = None,
    ) -> None:
        self.name, self.pixels = name, pixels
        self.ids: Sequence[str] = ids if isinstance(ids, Names) else tuple(ids)
        self._load, self._raw, self.contract, self._part = load, raw, contract, part

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> NDArray[Any]:
        """Image ``index`` as it is: (H, W, C), pixels or model-ready floats."""
        return self._load(index)

    def ready(self, index: int) -> NDArray[np.float32]:
        """Image ``index`` as the float model takes it: (H, W, C) float32."""
        return model_ready(self._load(index), self.contract, f"{self.name}, image {self.ids[index]!r}")

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self._load(index) for index in range(len(self)))

    def subset(self, indices: Sequence[int]) -> Source:
        """The source that holds only these images, in this order."""
        chosen, part = list(indices), self._part
        return Source(
            self.name,
            [self.ids[i] for i in chosen],
            lambda index: self._load(chosen[index]),
            lambda index: self._raw(chosen[index]),
            self.contract,
            pixels=self.pixels,
            part=None if part is None else lambda indices: part([chosen[i] for i in indices]),
        )

    def shard(self, indices: Sequence[int]) -> Shard:
        """These images for another process to open.

        Raises:
            RequestError: they are in this process's memory alone.
        """
        if self._part is None:
            raise RequestError(
                f"{self.name} cannot be read by another process: images are never sent, only where they are. Save them "
                "as .npy or as files where every worker can read them, or use the engine local."
            )
        return Shard(self.name, tuple(self.ids[i] for i in indices), self._part(indices), self.contract, self.pixels)

    def sample(self, count: int | None, seed: int) -> Source:
        """A seeded random choice of ``count`` images in their order; all of them for None."""
        if count is None or count >= len(self):
            return self
        return self.subset(sorted(np.random.default_rng(seed).choice(len(self), count, replace=False).tolist()))

    def readable(self, indices: Iterable[int] | None = None) -> tuple[Source, tuple[Skipped, ...]]:
        """The source without the images that cannot be used; each one is loaded for it.

        Args:
            indices: which images; default all. A generator may report progress between them.

        Returns:
            The source of the sound images, in their order, and the others with the reason.

        Raises:
            EmptyDataError: no image is left.
        """
        kept, skipped = [], []
        for index in range(len(self)) if indices is None else indices:
            try:
                self.ready(index)
            except (DataError, InputError) as error:
                skipped.append(Skipped(self.ids[index], str(error)))
            else:
                kept.append(index)
        if not kept:
            reason = f" The first of {len(skipped)}: {skipped[0].reason}" if skipped else ""
            raise EmptyDataError(f"{self.name} has no image that can be used. Pass others.{reason}")
        return self.subset(kept), tuple(skipped)

    def digest(self, index: int) -> bytes:
        """SHA-256 of image ``index`` as it is stored; nothing is decoded for it."""
        return self.stored(index)[1]

    def stored(self, index: int) -> tuple[int, bytes]:
        """Size in bytes and SHA-256 of image ``index`` as it is stored; nothing is decoded for it."""
        raw = self._raw(index)
        return len(raw), hashlib.sha256(raw).digest()

    def fingerprint(self) -> str:
        """SHA-256 over ids and stored content of every image, in order."""
        total = hashlib.sha256()
        for index, name in enumerate(self.ids):
            total.update(f"{name}\0".encode(errors="surrogateescape") + self.digest(index))
        return total.hexdigest()


def open_source(data: Data, contract: InputContract, feature: str | None = None) -> Source:
    """Open images for an encoder with this input contract.

    Args:
        data: a folder (searched recursively, in the order of the paths), an image file, a ``.npy`` or ``.npz``
            file with an array (N, H, W, C), a ``.tfrecord`` of ``tf.train.Example``, a ``.parquet`` with a column of
            image files or lists, a pattern with ``*``, or the URL of any of these but ``.npz``; or such an array; or an
            iterable of images, or a function that returns one, see
            :class:`embedlite.runtime.iterables.SpooledImages`.
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
    except OSError as error:
        raise UnreadableDataError(f"cannot look for {path}: {error.strerror or error}. Check the path.") from error
    if folder:
        return _folder_source(path, contract, feature)
    if missing and GLOB_CHARACTERS.intersection(str(path)):
        return _glob_source(path, contract, feature)
    if missing:
        raise UnreadableDataError(
            f"there is no {path}. Pass a folder of images, an image file, .npy, .npz, .tfrecord or .parquet."
        )
    if path.suffix == ".npz":
        return _npz_source(path, contract, feature)
    if is_tfrecord(path.name) or path.name.lower().endswith(PARQUET_SUFFIX):
        return _record_source(str(path), [path], [""], contract, feature)
    if path.suffix == ".npy":
        _check_nameless(feature, str(path))
        array = load_npy(path)
        rows = ArrayFile(path, np.arange(len(array)) if array.ndim else np.empty(0, np.intp))
        return _array_source(str(path), array, None, contract, rows.part)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        _check_nameless(feature, str(path))
        return _image_source(path.name, [path.name], LocalFolder(path.parent), contract)
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
    names = []
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(parent).relative_to(folder)
        names += [(inside / name).as_posix() for name in files if not name.startswith(".")]
    return _files_source(f"the folder {folder}", str(folder), LocalFolder(folder), names, contract, feature)


def _glob_source(pattern: Path, contract: InputContract, feature: str | None) -> Source:
    folder = Path(fixed_part(pattern.as_posix()) or (pattern.root or "."))
    found = folder.glob(pattern.relative_to(folder).as_posix())
    names = [path.relative_to(folder).as_posix() for path in found if path.is_file()]
    return _files_source(str(pattern), str(pattern), LocalFolder(folder), names, contract, feature)


def _url_source(url: str, contract: InputContract, feature: str | None) -> Source:
    folder, names = list_url(url, (*IMAGE_SUFFIXES, ".npy", ".tfrecord", ".tfrecords", PARQUET_SUFFIX))
    if len(names) == 1 and names[0].endswith(".npy"):
        _check_nameless(feature, url)
        array = open_remote_array(folder.file(names[0]))
        check_one(np.zeros(array.row_shape, array.dtype), contract)
        ids = [str(index) for index in range(len(array))]
        return Source(url, ids, array.load, array.raw, contract, pixels=array.dtype.kind in "iu", part=array.part)
    return _files_source(url, url, folder, names, contract, feature)


def _files_source(
    place: str, name: str, folder: Folder, names: list[str], contract: InputContract, feature: str | None
) -> Source:
    """Images among files, or if there are none, records."""
    images = [item for item in names if item.lower().endswith(IMAGE_SUFFIXES)]
    if images:
        _check_nameless(feature, f"the folder of images {name}")
        # Sorted in place: of the names of millions there is one list and, at the end, none.
        images.sort()
        return _image_source(name, images, folder, contract)
    for belongs in (is_tfrecord, lambda item: item.lower().endswith(PARQUET_SUFFIX)):
        records = sorted(item for item in names if belongs(item.rpartition("/")[2]))
        if records:
            prefixes = [""] if records == names and len(records) == 1 else [f"{item}:" for item in records]
            return _record_source(name, [folder.file(item) for item in records], prefixes, contract, feature)
    raise EmptyDataError(
        f"there are no images in {place}. Put images there ({', '.join(IMAGE_SUFFIXES)}), or name another folder."
    )


def _refuse(error: OSError) -> None:
    raise UnreadableDataError(
        f"cannot look into {error.filename}: {error.strerror}. Make it readable, or move it away."
    ) from error


def _image_source(name: str, names: Sequence[str], folder: Folder, contract: InputContract) -> Source:
    files = ImageFiles(folder, Names(names), contract)
    return Source(name, files.names, files.load, files.raw, contract, pixels=True, part=files.part)


def _array_source(
    name: str,
    array: NDArray[Any],
    ids: Sequence[str] | None,
    contract: InputContract,
    part: Callable[[Sequence[int]], Images] | None = None,
) -> Source:
    if array.size == 0:
        raise EmptyDataError(f"{name} holds no images: its shape is {array.shape}. Pass at least one.")
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
    chosen = next((name for name in _IMAGE_KEYS if name in arrays), None)
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
        raise RequestError(
            f"cannot tell which array of {path} holds the images: it has {', '.join(arrays) or 'none'}. "
            f"Call it {_IMAGE_KEYS[0]!r}, or name it with --feature."
        )
    array, ids = arrays[chosen], None
    if stored_ids is not None:
        ids = texts(stored_ids, path)
        if array.ndim == 0 or len(ids) != len(array) or len(set(ids)) != len(ids):
            raise UnreadableDataError(
                f"{path} has images of shape {array.shape} and {len(ids)} ids, {len(set(ids))} of them different. "
                "Every image needs an id of its own."
            )
    return _array_source(str(path), array, ids, contract)
