"""Images that a Python program hands over one by one, kept in a temporary file instead of in memory."""

from __future__ import annotations

import inspect
import mmap
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import give_back
from ..errors import DataError, EmptyDataError, InputError, InputTypeError, RequestError
from ..input.shapes import check_batch, check_one
from ..model.contract import InputContract
from .records import IMAGE_FEATURES

_NAMES = ("id", "name")
"""Where a dict may have its image's name, in this order."""


class SpooledImages:
    """Images of an iterable, read once and readable by index any number of times.

    Attributes:
        ids: one text for each image: its name, or its place.
        pixels: whether they are pixels (rather than model-ready floats); the first decides.

    Args:
        images: an iterable, or a function without arguments that returns one. Its elements: an array (H, W, C) or
            (N, H, W, C); a list or tuple with one such array in it; a dict of arrays; or ``(name, array)``.
        contract: size and channels.
        feature: the key of the image in a dict; default the first of :data:`IMAGE_FEATURES` that is there, or the only
            array.

    Raises:
        RequestError: it cannot be iterated over, or ``feature`` was given and no dict came.
        InputError: an element is none of these, or of another shape or dtype; see :func:`check_batch`.
        EmptyDataError: there are no elements.
        DataError: two images have the same name, or the temporary file has no room.
    """

    def __init__(self, images: Any, contract: InputContract, feature: str | None) -> None:
        self._shape, self._is_image = contract.shape, contract.is_image
        self._dtypes: list[np.dtype[Any]] = []
        self._kinds, self._starts = array("H"), array("Q", [0])
        names: dict[str, None] = {}
        # The mapping outlives the file, whose room is free again once nobody holds the mapping.
        # Unbuffered, because a full disk would otherwise be noticed only when the file is closed.
        with tempfile.TemporaryFile(buffering=0, prefix="embedlite-") as file:
            for name, image in _named(_iterator(images), contract, feature):
                if name in names:
                    raise DataError(f"two images are called {name!r}. Give every image a name of its own, or none.")
                names[name] = None
                self._append(file, image, name)
            if not names:
                raise EmptyDataError(
                    "the iterable holds no images. Pass at least one; an iterator that was used before is empty."
                )
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.ids, self.pixels = tuple(names), self._dtypes[0].kind in "iu"

    def load(self, index: int) -> NDArray[Any]:
        """Image ``index``: (H, W, C) of the dtype that it came in."""
        dtype = self._dtypes[self._kinds[index]]
        return np.frombuffer(self._stored(index), dtype).reshape(self._shape)

    def raw(self, index: int) -> bytes:
        """Image ``index`` as it is stored, after its dtype and shape; the same as of an array of all images."""
        return f"{self._dtypes[self._kinds[index]]} {self._shape} ".encode() + self._stored(index)

    def _stored(self, index: int) -> bytes:
        start, end = self._starts[index], self._starts[index + 1]
        stored = self._mapping[start:end]
        give_back(self._mapping, start, end)
        return stored

    def _append(self, file: IO[bytes], image: NDArray[Any], name: str) -> None:
        other = self._dtypes and (image.dtype.kind == "f") != (self._dtypes[0].kind == "f")
        if other and self._is_image:
            raise InputTypeError(
                f"image {name!r} is of dtype {image.dtype}, the first of dtype {self._dtypes[0]}. Integers are pixels "
                "and floats are model-ready; pass all images in one of the two ways."
            )
        if image.dtype not in self._dtypes:
            self._dtypes.append(image.dtype)
        self._kinds.append(self._dtypes.index(image.dtype))
        self._starts.append(self._starts[-1] + image.nbytes)
        try:
            left = memoryview(image.tobytes())
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise DataError(
                f"cannot keep the images in a temporary file in {tempfile.gettempdir()}: {error.strerror or error}, "
                f"after {len(self._kinds) - 1} of them. Make room there, or set TMPDIR to another folder."
            ) from error


def _iterator(images: Any) -> Iterator[Any]:
    if callable(images):
        _check_no_arguments(images)
        images = images()
    if isinstance(images, (bytes, bytearray, memoryview, Mapping)) or not isinstance(images, Iterable):
        raise RequestError(
            f"cannot take images from {type(images).__name__}. Pass a path, an array (N, H, W, C), an iterable of "
            "arrays, or a function that returns one."
        )
    return iter(images)


def _check_no_arguments(function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Some functions in C do not tell; calling them will.
        return
    try:
        signature.bind()
    except TypeError as error:
        raise RequestError(
            f"the function that gives the images needs arguments ({error}). Pass one that takes none."
        ) from error


def _named(elements: Iterator[Any], contract: InputContract, feature: str | None) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every image with its name: its own, or its place among all images."""
    count = 0
    for position, element in enumerate(elements):
        where = f"element {position} of the iterable"
        if feature is not None and not isinstance(element, Mapping):
            raise RequestError(
                f"the feature {feature!r} was asked for, but {where} is not a dict but {type(element).__name__}. Leave "
                "the feature out, or pass dicts."
            )
        name, value = _taken_apart(element, feature, where)
        images = _checked(value, contract, where if name is None else f"{where} ({name!r})")
        for row, image in enumerate(images):
            own = name if name is None or len(images) == 1 else f"{name}:{row}"
            yield str(count) if own is None else own, image
            count += 1


def _taken_apart(element: Any, feature: str | None, where: str) -> tuple[str | None, Any]:
    """The name, if there is one, and what should be the array."""
    if isinstance(element, (str, bytes, os.PathLike)):
        raise InputTypeError(f"{where} is {element!r}, and no array. For files, pass the folder that they are in.")
    if isinstance(element, Mapping):
        return _name_in(element, where), element[_image_key(element, feature, where)]
    if isinstance(element, (list, tuple)) and not _is_nested_numbers(element):
        if len(element) == 1:
            return None, element[0]
        if len(element) == 2 and isinstance(element[0], str):
            return str(element[0]), element[1]
        raise InputTypeError(
            f"{where} is a {type(element).__name__} of {len(element)}, such as (image, label). Yield the image alone, "
            "[image], or (name, image); for a tf.data.Dataset: dataset.map(lambda image, label: image)."
        )
    return None, element


def _is_nested_numbers(element: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list is an array written out, and not a list of arrays."""
    while isinstance(element, (list, tuple)) and element:
        element = element[0]
    return isinstance(element, (int, float))


def _image_key(element: Mapping[Any, Any], feature: str | None, where: str) -> Any:
    keys = ", ".join(map(repr, element)) or "nothing"
    if feature is not None:
        if feature not in element:
            raise InputError(f"{where} has no {feature!r}; it has {keys}. Name one of these as the feature.")
        return feature
    chosen = next((key for key in IMAGE_FEATURES if key in element), None)
    arrays = [key for key, value in element.items() if chosen is None and np.asarray(value).dtype.kind in "iuf"]
    if chosen is None and len(arrays) != 1:
        raise InputError(
            f"cannot tell which array of {where} is the image: it has {keys}. Call it {IMAGE_FEATURES[1]!r}, or name "
            "it as the feature."
        )
    return arrays[0] if chosen is None else chosen


def _name_in(element: Mapping[Any, Any], where: str) -> str | None:
    key = next((key for key in _NAMES if key in element), None)
    if key is None:
        return None
    # A string tensor becomes an array of one bytes object.
    value = np.asarray(element[key])
    item = value.item() if value.size == 1 else None
    if isinstance(item, bytes):
        try:
            item = item.decode()
        except UnicodeDecodeError:
            item = None
    if not isinstance(item, (str, int)):
        raise InputTypeError(f"the {key!r} of {where} is {element[key]!r}, and not text. Give every image one name.")
    return str(item)


def _checked(value: Any, contract: InputContract, where: str) -> NDArray[Any]:
    """The images of an element as an array (N, H, W, C)."""
    try:
        try:
            made = np.asarray(value)
        except (TypeError, RuntimeError) as error:
            # What other libraries' arrays raise that cannot be copied to here, such as tensors on another device.
            raise InputTypeError(
                f"{type(value).__name__} cannot be made an array ({error}). Pass numpy arrays."
            ) from error
        except ValueError:
            # check_one says what is uneven about it.
            made = value
        if isinstance(made, np.ndarray) and made.ndim == len(contract.shape) + 1:
            return check_batch(made, contract)
        return check_one(made, contract)[None]
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error
