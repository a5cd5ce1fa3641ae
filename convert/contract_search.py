"""Other input contracts that people train with, and the search for the one that explains what they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..runtime.model.contract import COLOR_ORDERS, EXIF, FITS, GRAYS, JPEG_DECODERS, RESAMPLERS, InputContract

PLAIN: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
"""Mean and std of pixels as they are."""

_TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = (123.68, 116.779, 103.939)
SCALINGS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.0,), (255.0,)),
    PLAIN,
    ((127.5,), (127.5,)),
    _TORCH,
    (CAFFE, (1.0,)),
)
"""Mean and std for 0-1, 0-255, ±1, torch and caffe, in the order red, green, blue."""

_SHORT_SIDES = (232 / 224, 1 / 0.95, 1 / 0.9, 256 / 224)
"""What the short side is resized to before the middle is cut out, for one pixel of the model's."""

_GAIN_DB = 0.5
"""A contract that is better by less explains no more."""

_ROUNDS = 3

Score = Callable[[InputContract], float]
"""How well a contract explains what there is, in dB."""


@dataclass(frozen=True)
class Explained:
    """The contract that explains most.

    Attributes:
        contract: the contract.
        decibels: its score.
        steps: what was changed, in order, each with the score so far.
        reached: the contracts after each of these steps.
        tried: number of contracts.
    """

    contract: InputContract
    decibels: float
    steps: tuple[tuple[str, float], ...]
    reached: tuple[InputContract, ...]
    tried: int


def explain(start: InputContract, score: Score, *, scalings: bool = True) -> Explained:
    """Look for the contract with the highest score, one aspect at a time, until none is better.

    Args:
        start: where to begin; of equal ones it stands.
        score: called once for each contract.
        scalings: whether to try other means and stds, and not only other colour orders.
    """
    scores: dict[InputContract, float] = {}

    def judge(contract: InputContract) -> float:
        if contract not in scores:
            scores[contract] = score(contract)
        return scores[contract]

    best = start
    for _ in range(_ROUNDS):
        before = best
        for aspect in _aspects(scalings=scalings):
            others = [item for item in aspect(best) if item != best]
            if others and judge(leader := max(others, key=judge)) > judge(best) + _GAIN_DB:
                best = leader
        if best == before:
            break
    steps, reached = list[tuple[str, float]](), [start]
    for fields in _FIELDS.values():
        back = replace(best, **{field: getattr(start, field) for field in fields})
        if back != best and judge(back) > judge(best) - _GAIN_DB:
            best = back
    for fields in _FIELDS.values():
        changed = replace(reached[-1], **{field: getattr(best, field) for field in fields})
        if changed != reached[-1]:
            steps.append((as_options(changed, reached[-1]), judge(changed)))
            reached.append(changed)
    return Explained(best, judge(best), tuple(steps), tuple(reached[1:]), len(scores))


def as_options(contract: InputContract, than: InputContract) -> str:
    """What says on a command line that a contract is another one: ``--resampler tf-bilinear --exif ignore``."""
    words = []
    for name in (name for fields in _FIELDS.values() for name in fields):
        value = getattr(contract, name)
        if value != getattr(than, name):
            text = ",".join(f"{item:g}" for item in value) if isinstance(value, tuple) else value
            words.append(f"--{name.replace('_', '-')} {text}")
    return " ".join(words)


_FIELDS = {
    "scaling": ("mean", "std", "color_order"),
    "fit": ("fit",),
    "resampler": ("resampler",),
    "decoder": ("jpeg_decoder",),
    "exif": ("exif",),
    "gray": ("gray",),
}
"""The fields of a contract that are one question, in the order in which they are told."""


def _aspects(*, scalings: bool) -> list[Callable[[InputContract], Iterator[InputContract]]]:
    return [_scaled if scalings else _ordered, _turned, _fitted, _resampled, _decoded, _gray]


def _scaled(contract: InputContract) -> Iterator[InputContract]:
    channels = contract.shape[2]
    for order in COLOR_ORDERS.get(channels, ("none",)):
        # The values in use come along when the channels change places.
        for mean, std in (*SCALINGS, (contract.mean, contract.std)):
            if channels != 3 and max(len(mean), len(std)) > 1:
                continue
            turn = -1 if order == "bgr" and (mean, std) in SCALINGS else 1
            yield replace(contract, color_order=order, mean=mean[::turn], std=std[::turn])


def _ordered(contract: InputContract) -> Iterator[InputContract]:
    return (replace(contract, color_order=order) for order in COLOR_ORDERS.get(contract.shape[2], ("none",)))


def _turned(contract: InputContract) -> Iterator[InputContract]:
    return (replace(contract, exif=way) for way in EXIF)


def _fitted(contract: InputContract) -> Iterator[InputContract]:
    side = max(contract.shape[:2])
    shorts = sorted({round(side * share) for share in _SHORT_SIDES})
    return (replace(contract, fit=way) for way in (*FITS, *(f"resize-crop:{short}" for short in shorts)))


def _resampled(contract: InputContract) -> Iterator[InputContract]:
    return (replace(contract, resampler=name) for name in RESAMPLERS)


def _decoded(contract: InputContract) -> Iterator[InputContract]:
    return (replace(contract, jpeg_decoder=name) for name in JPEG_DECODERS)


def _gray(contract: InputContract) -> Iterator[InputContract]:
    return (replace(contract, gray=way) for way in (GRAYS if contract.shape[2] == 1 else ()))
