"""Where each part of an input contract comes from, and what the sources say where they contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .contract import COLOR_ORDERS, IMAGE_PARTS, InputContract, InputOptions

PARTS = tuple(item.name for item in fields(InputOptions))
"""The parts of a contract that have an origin."""

_SAME = 0.02
"""Pixels that become values nearer than this share of their range are scaled alike: 127 and 127.5 are one mean."""


@dataclass(frozen=True)
class Statement:
    """What one source says of the input.

    Attributes:
        source: in words.
        options: what it says; None where it says nothing.
        origins: where it has each part from, one of :data:`embedlite.runtime.model.contract.ORIGINS`, by part.
        settled: whether it is a whole contract, decided at an export.
    """

    source: str
    options: InputOptions
    origins: Mapping[str, str]
    settled: bool = False

    @property
    def tells(self) -> bool:
        """Whether it says anything of what pixels become."""
        return any(getattr(self.options, name) is not None for name in ("mean", "std", "color_order"))

    @property
    def text(self) -> str:
        """What it says of pixels."""
        said = self.options.stated()
        words = [f"{name} {numbers_text(said[name])}" for name in ("mean", "std") if name in said]
        words += [f"colour order {said['color_order']}"] if "color_order" in said else []
        return ", ".join(words) or "nothing of pixels"

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


def statement(source: str, origin: str, **said: Any) -> Statement:
    """What a source says, all of one origin."""
    return Statement(source, InputOptions(**said), dict.fromkeys(said, origin))


def contract_of(shape: tuple[int, ...], *statements: Statement | None) -> tuple[InputContract, dict[str, str]]:
    """The contract that statements make, and the origin of each part; the first that says a part is believed."""
    said: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for one in statements:
        for name, value in ({} if one is None else one.options.stated()).items():
            if one is not None and name not in said:
                said[name], origins[name] = value, one.origins[name]
    contract = InputOptions(**said).for_shape(shape)
    origins.setdefault("kind", "inferred")
    if not contract.is_image:
        return contract, {name: origins.get(name, "assumed") for name in PARTS if name not in IMAGE_PARTS}
    if len(COLOR_ORDERS.get(shape[2], ("none",))) == 1:
        # There is but one, so that nothing is assumed.
        origins.setdefault("color_order", "inferred")
    return contract, {name: origins.get(name, "assumed") for name in PARTS}


def same_scaling(one: InputContract, other: InputContract) -> bool:
    """Whether two contracts make about the same values of pixels."""
    mine, theirs = ends(one), ends(other)
    span = max(float(np.ptp(mine)), float(np.ptp(theirs)))
    return bool(np.allclose(mine, theirs, rtol=0, atol=_SAME * span))


def ends(contract: InputContract) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What 0 and 255 become in each channel or element of the last axis, (2, C)."""
    channels = contract.shape[-1]
    mean, std = np.broadcast_to(contract.mean, channels), np.broadcast_to(contract.std, channels)
    found: np.ndarray[Any, np.dtype[np.float64]] = (np.array([[0.0], [255.0]]) - mean) / std
    return found


def describe_input(contract: InputContract, origins: Mapping[str, str]) -> str:
    """A contract in words, each part with its origin: ``(pixel - 0) / 255 (given), rgb (assumed)``.

    Of an array the value is said in place of the pixel, and nothing more.
    """
    mean, std = numbers_text(contract.mean), numbers_text(contract.std)
    made = [origins.get("mean", "assumed"), origins.get("std", "assumed")]
    scaling = made[0] if made[0] == made[1] else f"mean {made[0]}, std {made[1]}"
    if not contract.is_image:
        return f"(value - {mean}) / {std} ({scaling})"
    parts = {
        f"(pixel - {mean}) / {std}": scaling,
        contract.color_order: origins.get("color_order", "assumed"),
        contract.reading: origins.get("resampler", "assumed"),
    }
    if contract.color_order == "none":
        del parts["none"]
    return ", ".join(f"{part} ({origin})" for part, origin in parts.items())


CHECK = "drift-report FILE --reference VECTORS --data PHOTOS"
"""What checks a contract: vectors that the user's own pipeline made of the same photos."""


PROOF = "export-tflite --preprocess FILE.py:FUNCTION"
"""What proves one, at the export: the user's own code."""


def check_command(contract: InputContract) -> str:
    """The command that checks a contract, with the right word for the data."""
    return CHECK if contract.is_image else CHECK.replace("PHOTOS", "DATA")


def explain_assumed(contract: InputContract, origins: Mapping[str, str]) -> str:
    """What of a contract nothing proves, and what checks it; empty where nothing of it is assumed."""
    parts = assumed_parts(origins)
    if not parts:
        return ""
    values = [getattr(contract, name) for name in parts]
    said = [
        f"{name.replace('color_order', 'colour order')} {value if isinstance(value, str) else numbers_text(value)}"
        for name, value in zip(parts, values, strict=True)
    ]
    verb, check = "is" if len(said) == 1 else "are", check_command(contract)
    return f"{', '.join(said)} {verb} assumed, not proved: {check} checks your own pipeline"


def assumed_parts(origins: Mapping[str, str]) -> tuple[str, ...]:
    """The parts that decide what pixels become and that nothing told."""
    # Arrays have no colour order, nor an origin of it.
    names = ("mean", "std", "color_order") if "color_order" in origins or not origins else ("mean", "std")
    return tuple(name for name in names if origins.get(name, "assumed") == "assumed")


def numbers_text(values: tuple[float, ...]) -> str:
    """One number where they are all the same, or all of them in brackets."""
    few = values[:1] if np.allclose(values, values[0], rtol=1e-4) else values
    return "[" * (len(few) > 1) + ", ".join(f"{value:.4g}" for value in few) + "]" * (len(few) > 1)
