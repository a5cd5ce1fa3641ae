"""The input contract of an export: what the caller says, what the file says of itself, and what the graph does.

Where they contradict each other, that is an error that shows all of them, and the caller may insist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..runtime.errors import RequestError
from ..runtime.model.contract import InputContract, InputOptions
from ..runtime.model.origin import Statement, contract_of, numbers_text, same_scaling, statement
from .load.scaling import PixelRange, Scaling, fitting_ranges


@dataclass(frozen=True)
class Decided:
    """What an export says of its input.

    Attributes:
        contract: the contract.
        origins: where each part of it comes from, see :class:`embedlite.runtime.model.contract.Contract`.
        decisions: what was decided on the user's behalf.
    """

    contract: InputContract
    origins: dict[str, str]
    decisions: tuple[str, ...]


def stated_contract(
    shape: tuple[int, ...], given: InputOptions, known: Statement | None
) -> tuple[InputContract, dict[str, str]]:
    """What the caller says of the input, filled up with what the file says of itself, and that with defaults."""
    return contract_of(shape, statement("the options", "given", **given.stated()), known)


def decide_contract(
    name: str,
    shape: tuple[int, ...],
    given: InputOptions,
    known: Statement | None,
    scaling: Scaling | None,
    *,
    accept: bool = False,
) -> Decided:
    """The contract, from what the caller says, what the file says of itself, and what the graph does.

    Args:
        name: the model, for messages.
        shape: of one input.
        given: what the caller says.
        known: what the file says of itself; None if it says nothing.
        scaling: what the graph does to its input; None for nothing.
        accept: take what the caller says although the graph or the file contradicts it, and what the file says although
            the graph does (``--accept-contract``).

    Raises:
        RequestError: options, file and graph contradict each other, or the graph's scaling fits no pixel range, or
            several.
    """
    resized = _other_resizing(name, given.stated(), known)
    if resized and not accept:
        raise RequestError(f"{resized} Leave the options out, or insist with --accept-contract.")
    decided = _decide_scaling(name, shape, given, known, scaling, accept=accept)
    insisted = (f"{resized} --accept-contract takes the options all the same.",) if resized else ()
    return replace(decided, decisions=(*insisted, *decided.decisions))


def _decide_scaling(
    name: str,
    shape: tuple[int, ...],
    given: InputOptions,
    known: Statement | None,
    scaling: Scaling | None,
    *,
    accept: bool,
) -> Decided:
    said = given.stated()
    contract, origins = stated_contract(shape, given, known)
    told = {**({} if known is None else known.options.stated()), **said}
    # What has no colours is not a picture: its values have no range to guess. Our own contract was decided before.
    if scaling is None or scaling.identity or contract.color_order == "none" or (known is not None and known.settled):
        problem = _disagreement(shape, given, known)
        _refuse(f"{name}: {problem}" if problem else "", accept=accept)
        decisions = (f"{problem}; --accept-contract takes the options all the same.",) if problem else ()
        return Decided(contract, origins, decisions)
    asked = "mean" in told and "std" in told
    if scaling.bent:
        what = f"the model computes {', '.join(scaling.bent)} on its input, which is not a factor and an offset"
        if asked:
            unchecked = f"{what}; that it takes what --mean and --std make of pixels is not checked."
            return Decided(contract, origins, (unchecked,))
        raise RequestError(
            f"{name}: {what}, so the graph does not tell which pixels it takes. Say so: --mean 0 --std 1 for 0-255, "
            "--mean 0 --std 255 for 0-1, --mean 127.5 --std 127.5 for -1 to 1."
        )
    fitting = fitting_ranges(scaling)
    if len(fitting) != 1:
        if asked:
            taken = f"the model scales its input itself ({scaling}); --mean and --std are taken as given."
            return Decided(contract, origins, (taken,))
        which = "no usual pixel range" if not fitting else " and ".join(pixels.name for pixels in fitting)
        raise RequestError(
            f"{name} scales its input itself ({scaling}), and {which} would suit that. Say what it takes: --mean 0 "
            "--std 1 for 0-255, --mean 0 --std 255 for 0-1, --mean 127.5 --std 127.5 for -1 to 1."
        )
    (pixels,) = fitting
    found = statement("the graph", "graph", mean=(pixels.mean,), std=(pixels.std,))
    contradiction = _contradiction(name, contract, said, scaling, pixels) or _file_contradiction(
        name, shape, known, found, scaling, pixels
    )
    if contradiction and known is not None and known.tells:
        contradiction += f" What the file says of itself, {known}."
    _refuse(contradiction, accept=accept)
    if contradiction:
        return Decided(contract, origins, (f"{contradiction} --accept-contract takes it all the same.",))
    contract, origins = contract_of(shape, statement("the options", "given", **said), known, found)
    scales = (
        f"the model scales pixels of {pixels.name} itself ({scaling}), so the contract is mean {pixels.mean:g}, std "
        f"{pixels.std:g}."
    )
    return Decided(contract, origins, (scales,))


def _other_resizing(name: str, said: dict[str, object], known: Statement | None) -> str:
    """What the caller says of resizing against what the model did itself; empty where it is the same."""
    if known is None or known.settled:
        return ""
    own = {key: known.options.stated()[key] for key, origin in known.origins.items() if origin == "graph"}
    others = [key for key in ("resampler", "fit") if key in said and said[key] != own.get(key, said[key])]
    if not others:
        return ""
    given = " ".join(f"--{key} {said[key]}" for key in others)
    right = " ".join(f"--{key} {own[key]}" for key in ("resampler", "fit"))
    return f"{given} contradicts {name}: it brings pictures to its size itself, as {right} does."


def _refuse(contradiction: str, *, accept: bool) -> None:
    if contradiction and not accept:
        end = "" if contradiction.endswith(".") else "."
        raise RequestError(
            f"{contradiction}{end} Leave --mean, --std and --color-order out, take the scaling out of the model, or "
            "insist with --accept-contract."
        )


def _disagreement(shape: tuple[int, ...], given: InputOptions, known: Statement | None) -> str:
    """Where the options and the file contradict each other, without a graph that could tell; empty if they do not."""
    options = statement("the options", "given", **given.stated())
    if known is None or not options.tells or not known.tells:
        return ""
    both, _ = contract_of(shape, options, known)
    own, _ = contract_of(shape, known)
    same = same_scaling(both, own) if known.options.mean else True
    same = same and known.options.color_order in (None, both.color_order)
    return "" if same else f"({options}) and ({known}) contradict each other"


def _contradiction(
    name: str, contract: InputContract, said: dict[str, object], scaling: Scaling, pixels: PixelRange
) -> str:
    """What of a mean, std or colour order that the caller gives the graph denies; empty for nothing."""
    for option, value, right in (("mean", contract.mean, pixels.mean), ("std", contract.std, pixels.std)):
        if option in said and not np.allclose(value, right, rtol=1e-3, atol=1e-3):
            return (
                f"--{option} {numbers_text(value)} contradicts {name}: it scales its input itself ({scaling}), which "
                f"suits pixels of {pixels.name}, that is --mean {pixels.mean:g} --std {pixels.std:g}."
            )
    caffe = scaling.reversed and math.isclose(abs(scaling.factor[0]), 1, abs_tol=0.02)
    if caffe and contract.color_order == "bgr":
        return f"--color-order bgr contradicts {name}: it turns RGB into BGR itself ({scaling})."
    return ""


def _file_contradiction(
    name: str,
    shape: tuple[int, ...],
    known: Statement | None,
    found: Statement,
    scaling: Scaling,
    pixels: PixelRange,
) -> str:
    """The same for what the file says of itself, where the caller says nothing of it."""
    if known is None or not known.options.mean:
        return ""
    if same_scaling(contract_of(shape, known)[0], contract_of(shape, found)[0]):
        return ""
    return (
        f"what the file says contradicts its graph: {name} scales its input itself ({scaling}), which suits pixels of "
        f"{pixels.name}, that is --mean {pixels.mean:g} --std {pixels.std:g}."
    )
