"""Image files under one folder, of which another process can be handed any part."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UnreadableDataError
from ..model.contract import InputContract
from .decode import decode_image
from .tfrecord import FilePath


class Images(Protocol):
    """What a source reads its images from."""

    def load(self, index: int) -> NDArray[Any]:
        """Image ``index``: (H, W, C), pixels or model-ready floats."""

    def raw(self, index: int) -> bytes:
        """Image ``index`` as it is stored."""

    def part(self, indices: Sequence[int]) -> Images:
        """These images alone; pickled it says where they are, and holds no pixel."""


class Folder(Protocol):
    """Where files are, by a name relative to it."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            UnreadableDataError: it cannot be read.
        """

    def spell(self, name: str) -> str:
        """What to call a file in a message."""

    def file(self, name: str) -> FilePath:
        """A file in it."""


class LocalFolder:
    """A folder of this machine.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        # Another process may have another working directory.
        return LocalFolder, (self.path.resolve(),)

    def read(self, name: str) -> bytes:
        """See :meth:`Folder.read`."""
        path = self.path / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnreadableDataError(
                f"cannot read the image {path}: {error.strerror or error}. Remove or replace the file."
            ) from error

    def spell(self, name: str) -> str:
        """See :meth:`Folder.spell`."""
        return str(self.path / name)

    def file(self, name: str) -> Path:
        """See :meth:`Folder.file`."""
        return self.path / name


class Names(Sequence[str]):
    """Many names as one block of bytes: a tenth of what a list of them takes.

    Args:
        names: the names in their order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode(errors="surrogateescape") for name in names]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.uint64)
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._text[int(self._ends[place]) : int(self._ends[place + 1])].decode(errors="surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none


class ImageFiles:
    """Image files by their names in a folder.

    Args:
        folder: where they are.
        names: of the files; they are the images' ids as well.
        contract: size, colour order and resampler.
    """

    def __init__(self, folder: Folder, names: Sequence[str], contract: InputContract) -> None:
        self.names = names
        self._folder, self._contract = folder, contract
        self._last = threading.local()

    def __reduce__(self) -> Any:
        return ImageFiles, (self._folder, self.names, self._contract)

    def load(self, index: int) -> NDArray[Any]:
        """The image as :func:`embedlite.runtime.images.decode.load_image` gives it.

        Raises:
            UnreadableDataError: the file cannot be read, or is not an image.
        """
        name = self.names[index]
        return decode_image(io.BytesIO(self.raw(index)), self._folder.spell(name), self._contract)

    def raw(self, index: int) -> bytes:
        """The file's content.

        Raises:
            UnreadableDataError: the file cannot be read.
        """
        # An image is decoded and hashed: one read of what may be far away does for both.
        place, content = getattr(self._last, "read", (-1, b""))
        if place == index:
            self._last.read = (-1, b"")
            return bytes(content)
        content = self._folder.read(self.names[index])
        self._last.read = (index, content)
        return content

    def part(self, indices: Sequence[int]) -> ImageFiles:
        """See :meth:`Images.part`."""
        return ImageFiles(self._folder, [self.names[index] for index in indices], self._contract)
