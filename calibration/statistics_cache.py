"""``--calibration-cache``: statistics that survive a killed run, and are refused where they do not belong.

The file holds what the statistics depend on (the float graph's weights, the preprocessing, the versions of what
computes them, and every image by id, size and hash), and for each part of the images its statistics and how many of its
images they cover. It is replaced whole, about once a second (on a cluster every ten), so that a run that is killed
loses no more.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends.interpreters import find_runtime
from ..runtime.errors import UnreadableDataError
from ..runtime.files import check_writable
from ..runtime.images.source import Source
from ..runtime.version import __version__
from .collect import collect_statistics
from .engine import Engine, Listing, LocalEngine, list_images
from .errors import StatisticsMismatchError
from .statistics import Statistics, merge, plain_contract
from .statistics_file import (
    pack_statistics,
    pack_texts,
    read_arrays,
    unpack_statistics,
    unpack_texts,
    write_arrays,
)
from .tensors import model_fingerprint


class CalibrationCache:
    """Statistics of one float graph over one source, on disk while they grow."""

    def __init__(
        self,
        path: str | Path,
        flatbuffer: bytes,
        source: Source,
        without: Iterable[str] = (),
        *,
        engine: Engine | None = None,
        listing: Listing | None = None,
    ) -> None:
        """Open the cache, or begin a new one.

        Args:
            path: of the file.
            flatbuffer: see :func:`embedlite.calibration.collect.collect_statistics`.
            source: see there.
            without: see there.
            engine: what runs the images; default the threads that :meth:`collect` is told.
            listing: of the source, if it is known already.

        Raises:
            StatisticsMismatchError: it is of another model, other images or other settings; the message says which.
            UnreadableDataError: it is cut short, or no cache.
            OutputError: it could not be written there.
        """
        self.path, self._flatbuffer, self._source = Path(path), flatbuffer, source
        check_writable([self.path], force=True)
        self._without = tuple(without)
        runtime = find_runtime()
        self._identity: dict[str, Any] = {
            "model": model_fingerprint(flatbuffer),
            "input": plain_contract(source.contract),
            "tools": {"embedlite": __version__, runtime.name: runtime.version, "Pillow": _pillow_version()},
        }
        self._engine = engine
        found = listing or list_images(source, engine or LocalEngine())
        self._listing: dict[str, NDArray[Any]] = {
            "ids": pack_texts(list(source.ids)),
            "sizes": found.sizes,
            "hashes": found.digests,
        }
        self._parts: dict[str, tuple[int, Statistics]] = {}
        if self.path.exists():
            self._load()

    def collect(self, part: str, indices: Sequence[int], *, threads: int | None, shown: Iterable[int]) -> Statistics:
        """Statistics of some of the images, taking up where an earlier run stopped.

        Args:
            part: a name for these images.
            indices: which images.
            threads: processors to use; default all.
            shown: yields the same indices and may report progress.
        """
        done, statistics = self._parts.get(part, (0, None))
        waiting = islice(shown, done, None)
        engine = self._engine or LocalEngine(threads)
        size = engine.first_chunk
        while done < len(indices):
            started, chunk = time.monotonic(), list(islice(waiting, size))
            more = collect_statistics(
                self._flatbuffer, self._source, engine=engine, without=self._without, indices=chunk
            )
            statistics = more if statistics is None else merge([statistics, more])
            done += len(chunk)
            self._parts[part] = done, statistics
            self._save()
            # How the images are cut into chunks changes no statistics, so the clock may decide it.
            if time.monotonic() - started < engine.save_seconds / 2:
                size *= 2
        assert statistics is not None
        return statistics

    def _save(self) -> None:
        header = {"kind": "cache", **self._identity, "parts": {name: done for name, (done, _) in self._parts.items()}}
        arrays = dict(self._listing)
        for name, (_, statistics) in self._parts.items():
            arrays |= pack_statistics(f"{name}/", statistics)
        write_arrays(self.path, header, arrays)

    def _load(self) -> None:
        header, arrays = read_arrays(self.path, "cache")
        try:
            self._compare(header, arrays)
            self._parts = {
                name: (int(done), unpack_statistics(self.path, f"{name}/", arrays))
                for name, done in header["parts"].items()
            }
        except (KeyError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise UnreadableDataError(
                f"{self.path} is damaged ({type(error).__name__}: {error}). Remove it, or name another cache."
            ) from error

    def _compare(self, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        differences = []
        if header["model"] != self._identity["model"]:
            differences.append(f"the model (weights {header['model'][:12]}, now {self._identity['model'][:12]})")
        for name in ("input", "tools"):
            then, now = header[name], self._identity[name]
            differences += [
                f"{key} ({then.get(key)}, now {now.get(key)})"
                for key in sorted({*then, *now})
                if then.get(key) != now.get(key)
            ]
        differences += self._listing_differences(arrays)
        if differences:
            raise StatisticsMismatchError(
                f"the cache {self.path} does not fit this run; different are: {'; '.join(differences)}. Name another "
                "cache, or remove this one; it was left as it is."
            )

    def _listing_differences(self, arrays: dict[str, NDArray[Any]]) -> list[str]:
        if all(np.array_equal(arrays[name], values) for name, values in self._listing.items()):
            return []
        names = unpack_texts(arrays["ids"])
        then = dict(zip(names, map(bytes, arrays["hashes"]), strict=True))
        now = dict(zip(self._source.ids, map(bytes, self._listing["hashes"]), strict=True))
        found = {
            "added": sorted(now.keys() - then.keys()),
            "removed": sorted(then.keys() - now.keys()),
            "changed": sorted(name for name in then.keys() & now.keys() if then[name] != now[name]),
        }
        told = [f"{len(images)} image(s) {what} ({images[0]!r})" for what, images in found.items() if images]
        return told or ["the order of the images"]


def _pillow_version() -> str | None:
    """Another Pillow may decode or stretch an image file to other pixels."""
    try:
        return importlib.metadata.version("Pillow")
    except importlib.metadata.PackageNotFoundError:
        return None
