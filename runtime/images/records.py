"""The images of ``.tfrecord`` files of ``tf.train.Example``."""

from __future__ import annotations

import copy
import io
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import NPY_MAGIC
from ..errors import EmptyDataError, InputError, InputShapeError, RequestError, UnreadableDataError
from ..input.shapes import check_one
from ..model.contract import InputContract
from .decode import decode_image
from .formats import begins_like_an_image
from .npy import npy_from_bytes
from .tfrecord import Feature, FilePath, stored_tensor

IMAGE_FEATURES = ("image/encoded", "image", "images", "x")
"""Where images are looked for, in this order."""

_MOST_LOOKED_AT = 100
"""Records that may be damaged before one that tells what the file holds."""


class Records(Protocol):
    """Records of a file, by their places among these."""

    @property
    def path(self) -> FilePath:
        """Where the file is."""

    def __len__(self) -> int: ...

    def number(self, place: int) -> int:
        """The record's number in the file."""

    def features(self, place: int) -> dict[str, Feature]:
        """What is in the record, by name.

        Raises:
            UnreadableDataError: it cannot be read.
            ValueError: it is not a ``tf.train.Example``.
        """

    def only(self, feature: str) -> None:
        """Nothing but this is asked for from now on."""

    def part(self, numbers: Sequence[int]) -> Records:
        """These records alone; see :meth:`embedlite.runtime.images.folder.Images.part`."""


class RecordImages:
    """Images in the records of some files, one after the other.

    Attributes:
        pixels: whether they are pixels (rather than model-ready floats); the first sound record decides.

    Args:
        name: what the user called them.
        files: the files in their order.
        contract: size, channels and preprocessing.
        feature: the feature that holds the image; default see :data:`IMAGE_FEATURES`.

    Raises:
        EmptyDataError: there is no record.
        RequestError: the feature that holds the image cannot be told.
        UnreadableDataError: no record can be read, or none has the feature.
    """

    def __init__(self, name: str, files: Sequence[Records], contract: InputContract, feature: str | None) -> None:
        self._files, self._contract = files, contract
        self._ends = list(accumulate(len(file) for file in files))
        if not self._ends[-1]:
            raise EmptyDataError(f"{name} holds no records. Write at least one, or name another file.")
        self._feature, self.pixels = self._first_sound(feature)
        for file in files:
            file.only(self._feature)

    def __len__(self) -> int:
        return self._ends[-1]

    def load(self, index: int) -> NDArray[Any]:
        """Image ``index``: (H, W, C), uint8 or int64 pixels, or model-ready float32.

        Raises:
            MissingPackageError: it is an image file, and Pillow is not installed.
            UnreadableDataError: the record or the image is damaged, lacks the feature, or is of another kind than the
                first.
            InputShapeError: it holds another number of values.
        """
        where = self._where(index)
        values = _pick(self._example(index), self._feature, where)
        if self._contract.is_image and _are_pixels(values) != self.pixels:
            kinds = ("floats", "pixels")
            raise UnreadableDataError(
                f"{where}: its feature {self._feature!r} holds {kinds[not self.pixels]}, but the first sound record "
                f"holds {kinds[self.pixels]}. Write all of them in the same way."
            )
        if isinstance(values, tuple):
            return self._from_bytes(values, where)
        if values.size != math.prod(self._contract.shape) and not self._contract.is_image:
            raise InputShapeError(
                f"{where}: its feature {self._feature!r} holds {values.size} values; an input of shape "
                f"{self._contract.shape} has {math.prod(self._contract.shape)}. Inputs are never cut or padded; store "
                "lists of that length."
            )
        if values.size != math.prod(self._contract.shape):
            raise InputShapeError(
                f"{where}: its feature {self._feature!r} holds {values.size} values; an image of shape "
                f"{self._contract.shape} has {math.prod(self._contract.shape)}. Lists are never resized; store images "
                "of that size, or image files."
            )
        return values.reshape(self._contract.shape)

    def raw(self, index: int) -> bytes:
        """The image of record ``index`` as it is stored: the same as of the image file, or of an array of all images.

        The record's other features do not count, nor does their order, which TensorFlow's writer leaves to chance.

        Raises:
            UnreadableDataError: the record is damaged or lacks the feature.
        """
        values = _pick(self._example(index), self._feature, self._where(index))
        if isinstance(values, tuple) and begins_like_an_image(values[0]):
            return values[0]
        kind, data = ("uint8", b"".join(values)) if isinstance(values, tuple) else (values.dtype, values.tobytes())
        return f"{kind} {self._contract.shape} ".encode() + data

    def part(self, indices: Sequence[int]) -> RecordImages:
        """See :meth:`embedlite.runtime.images.folder.Images.part`."""
        chosen = copy.copy(self)
        # Consecutive records of one file together, so that a part in the source's order has each of its files once.
        placed = groupby(map(self._place, indices), key=lambda item: id(item[0]))
        runs = [list(run) for _, run in placed]
        chosen._files = [run[0][0].part([number for _, number in run]) for run in runs]
        chosen._ends = list(accumulate(len(file) for file in chosen._files))
        return chosen

    def _from_bytes(self, values: tuple[bytes, ...], where: str) -> NDArray[Any]:
        if len(values) != 1:
            raise UnreadableDataError(
                f"{where}: its feature {self._feature!r} holds {len(values)} byte strings. Store one image a record."
            )
        (data,) = values
        if not self._contract.is_image:
            return self._array_from_bytes(data, where)
        if begins_like_an_image(data):
            return decode_image(io.BytesIO(data), f"in {where}", self._contract, "record")
        size = math.prod(self._contract.shape)
        if len(data) != size:
            raise UnreadableDataError(
                f"{where}: its feature {self._feature!r} holds {len(data)} bytes, which do not begin like an image "
                f"file and are not the {size} pixels of an image of shape {self._contract.shape}. Store one of the two."
            )
        return np.frombuffer(data, np.uint8).reshape(self._contract.shape)

    def _array_from_bytes(self, data: bytes, where: str) -> NDArray[Any]:
        """What ``tf.io.serialize_tensor``, ``numpy.save`` or ``tobytes()`` of float32 made."""
        shape, what = self._contract.shape, f"{where}: its feature {self._feature!r}"
        found = npy_from_bytes(data, what) if data.startswith(NPY_MAGIC) else stored_tensor(data)
        if found is None and len(data) == 4 * math.prod(shape):
            found = np.frombuffer(data, "<f4").reshape(shape)
        if found is None:
            image = ", an image file," if begins_like_an_image(data) else ""
            raise UnreadableDataError(
                f"{what} holds {len(data)} bytes{image} and not an array of shape {shape}. Store a list of floats, or "
                "what tf.io.serialize_tensor, numpy.save, or tobytes() of float32 gives."
            )
        try:
            return check_one(found.astype(found.dtype.newbyteorder("="), copy=False), self._contract)
        except InputError as error:
            raise type(error)(f"{what}: {error}") from error

    def _first_sound(self, feature: str | None) -> tuple[str, bool]:
        """The feature that holds the image, and whether that is pixels, from the first record that says so."""
        errors = []
        for index in range(min(len(self), _MOST_LOOKED_AT)):
            try:
                features = self._example(index)
                chosen = feature or _choose(features, self._contract, self._where(index))
                return chosen, _are_pixels(_pick(features, chosen, self._where(index)))
            except UnreadableDataError as error:
                errors.append(error)
        raise errors[0]

    def _example(self, index: int) -> dict[str, Feature]:
        file, number = self._place(index)
        try:
            features = file.features(number)
        except ValueError as error:
            raise UnreadableDataError(
                f"{self._where(index)}: it is not a tf.train.Example ({error}). Write the file again, or save its "
                "images as files or .npy."
            ) from error
        if not features:
            raise UnreadableDataError(f"{self._where(index)}: it has no features. Remove or replace the record.")
        return features

    def _place(self, index: int) -> tuple[Records, int]:
        position = bisect_right(self._ends, index)
        return self._files[position], index - (self._ends[position - 1] if position else 0)

    def _where(self, index: int) -> str:
        file, number = self._place(index)
        return f"{file.path}, record {file.number(number)}"


def _are_pixels(values: Feature) -> bool:
    return isinstance(values, tuple) or values.dtype.kind == "i"


def _pick(features: Mapping[str, Feature], name: str, where: str) -> Feature:
    if name not in features or not len(features[name]):
        missing = "is empty" if name in features else "is not there"
        raise UnreadableDataError(
            f"{where}: its feature {name!r} {missing}; it has {', '.join(map(repr, features))}. Remove the record, or "
            "name the feature that holds the image with --feature."
        )
    return features[name]


def _choose(features: Mapping[str, Feature], contract: InputContract, where: str) -> str:
    for name in IMAGE_FEATURES if contract.is_image else ():
        if name in features:
            return name
    possible = [name for name, values in features.items() if _could_be_input(values, contract)]
    if len(possible) == 1:
        return possible[0]
    raise RequestError(
        f"cannot tell which feature of {where}, holds the {contract.noun}: it has {', '.join(map(repr, features))}. "
        "Name it with --feature."
    )


def _could_be_input(values: Feature, contract: InputContract) -> bool:
    size = math.prod(contract.shape)
    if not isinstance(values, tuple):
        return values.size == size
    if len(values) != 1:
        return False
    if contract.is_image:
        return len(values[0]) == size or begins_like_an_image(values[0])
    return len(values[0]) == 4 * size or values[0].startswith(NPY_MAGIC) or stored_tensor(values[0]) is not None
