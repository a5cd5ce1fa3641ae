"""``--fine-tune-checkpoint``: the state of each mode's training, so that one that was killed goes on where it was.

An ``.npz`` file without pickles: the parameters, Adam's moments, the best parameters so far, and JSON with the rest. A
state belongs to one training by a fingerprint of all that it depends on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.arrays import load_npz
from ...runtime.errors import OutputError, UnreadableDataError
from ...runtime.files import replace_file
from ..modes import CALIBRATED, MIXED

_FACTS = "facts"

_BEGINNINGS = (*(f"{mode}/".encode() for mode in CALIBRATED), MIXED.encode())
_NAME = slice(30, 42)
"""Where a ZIP archive names its first file."""


def check_checkpoint(path: Path) -> None:
    """Refuse a file that is something else: the first state would take its place.

    Raises:
        OutputError: it does not begin as a checkpoint; a damaged one does.
    """
    with path.open("rb") if path.exists() else io.BytesIO() as file:
        head = file.read(_NAME.stop)
    if head and not (head.startswith(b"PK\x03\x04") and head[_NAME].startswith(_BEGINNINGS)):
        raise OutputError(
            f"{path} is not a checkpoint of fine-tuning, and would be lost. Remove it, or name another file."
        )


@dataclass(frozen=True)
class Saved:
    """A state.

    Attributes:
        facts: JSON values.
        arrays: by name.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


class Checkpoint:
    """The state of one mode's training in a file.

    Attributes:
        problem: why the file was of no use, in words; empty if it was or there is none.
    """

    def __init__(self, path: str | Path | None, mode: str, key: str) -> None:
        """Name the file; nothing is read.

        Args:
            path: where it is; None keeps nothing.
            mode: whose.
            key: fingerprint of the training.
        """
        self._path, self._mode, self._key = None if path is None else Path(path), mode, key
        self.problem = ""

    def read(self) -> Saved | None:
        """The state that a training like this one left; None if there is none."""
        if self._path is None or not self._path.exists():
            return None
        try:
            begin = f"{self._mode}/"
            arrays = {name[len(begin) :]: it for name, it in load_npz(self._path).items() if name.startswith(begin)}
            if not arrays:
                return None
            facts = json.loads(arrays.pop(_FACTS).tobytes())
            key = facts.pop("key")
        except (UnreadableDataError, ValueError, KeyError, AttributeError, TypeError) as error:
            # What the reader itself says names a way out that is not one here.
            self.useless(f"cannot be read ({error.__cause__ or error})")
            return None
        if key != self._key:
            self.useless("is of a training of another model, or with other images, options or versions")
            return None
        return Saved(facts, arrays)

    def useless(self, why: str) -> None:
        """Note that what the file holds is of no use."""
        self.problem = f"the checkpoint {self._path} {why}, so the fine-tuning of {self._mode} began again."

    def write(self, saved: Saved) -> None:
        """Replace what the file holds of this mode; a disk that refuses costs the checkpoint and not the training."""
        if self._path is None:
            return
        facts = json.dumps({**saved.facts, "key": self._key}).encode()
        mine = {**saved.arrays, _FACTS: np.frombuffer(facts, np.uint8)}
        stream = io.BytesIO()
        arrays: dict[str, Any] = {**self._others(), **{f"{self._mode}/{name}": array for name, array in mine.items()}}
        np.savez(stream, **arrays)
        try:
            replace_file(self._path, stream.getvalue())
        except OutputError as error:
            self.problem = f"no checkpoint of fine-tuning was kept: {error}"

    def _others(self) -> dict[str, NDArray[Any]]:
        """What other modes' trainings left."""
        assert self._path is not None
        try:
            found = load_npz(self._path)
        except UnreadableDataError:
            return {}
        return {name: array for name, array in found.items() if not name.startswith(f"{self._mode}/")}
