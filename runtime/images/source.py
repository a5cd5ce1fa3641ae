"""Named images (or other arrays) of one size, and parts of them that another process can open."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, EmptyDataError, InputError, RequestError
from ..input.preprocess import model_ready
from ..model.contract import InputContract
from .folder import Images, Names


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
        pixels: whether the images are pixels or files of them (rather than model-ready floats of unknown origin); never
            where the contract is not of images.
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
        self.name, self.pixels = name, pixels and contract.is_image
        self.ids: Sequence[str] = ids if isinstance(ids, Names) else tuple(ids)
        self._load, self._raw, self.contract, self._part = load, raw, contract, part

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> NDArray[Any]:
        """Input ``index`` as it is, of the contract's shape: pixels or model-ready floats, or other values."""
        return self._load(index)

    def ready(self, index: int) -> NDArray[np.float32]:
        """Input ``index`` as the float model takes it: float32 of the contract's shape."""
        what = self.contract.noun
        return model_ready(self._load(index), self.contract, f"{self.name}, {what} {self.ids[index]!r}")

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


class Readable:
    """The images of a source that can be used, read once, in order.

    Attributes:
        ids: of those that were given out.
        skipped: the others so far, with the reason.

    Args:
        source: the images.
    """

    def __init__(self, source: Source) -> None:
        self.ids: list[str] = []
        self.skipped: list[Skipped] = []
        self._source = source

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for index, name in enumerate(self._source.ids):
            try:
                image = self._source.load(index)
                if image.dtype != np.uint8:
                    # What an encoder would refuse: NaN, integers that are not pixels.
                    model_ready(image, self._source.contract)
            except (DataError, InputError) as error:
                self.skipped.append(Skipped(name, str(error)))
            else:
                self.ids.append(name)
                yield image
