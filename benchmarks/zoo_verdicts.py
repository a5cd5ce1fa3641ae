"""What the zoo's figures say: which network is worst, and whether int8 is nowhere worse than what people have.

A loss is tested, not read off: test images are resampled by source photo, all images of one together (a paired
bootstrap), the median over the draws of calibration images is taken each time, and a network counts as worse where so
many samples show a loss above 0.3 dB, or a tail more than a tenth longer, that chance does not explain it in any of so
many networks (Holm's correction, 5 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TF, TF_DYNAMIC, MINMAX, LITERT, TUNED = "TF int8", "TF dynamic", "min/max", "litert own", "tuned"
LEAST_DB, LONGEST_TAIL, LEVEL = -0.3, 1.1, 0.05
SAMPLES = 2000

COMPARED = {"int8": (TF, MINMAX), TUNED: ("int8",), "dynamic": (TF_DYNAMIC,)}
"""Of each of our files, what it must nowhere be worse than."""

Stored = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One of our files on one network against the better of others.

    Attributes:
        name: of the network.
        db: median over draws of what is gained.
        low: the lower end of its 95 % interval; the upper one is ``high``.
        high: see ``low``.
        tail: median over draws of the tail's length, by the shortest one's.
        chance: how likely a loss is by chance: of decibels, and of the tail.
    """

    name: str
    db: float
    low: float
    high: float
    tail: float
    chance: tuple[float, float]


def tail(angles: NDArray[np.float64]) -> float:
    """The mean of the worst twentieth."""
    return float(np.sort(angles)[-max(1, len(angles) // 20) :].mean())


def judge(name: str, draws: Sequence[Stored], ours: str, others: Sequence[str]) -> Verdict:
    """Compare on the images as they are, and on samples of them by source."""
    sources = np.array(draws[0]["sources"])
    places = [np.flatnonzero(sources == source) for source in np.unique(sources)]

    def compared(chosen: NDArray[np.intp]) -> tuple[float, float]:
        decibels, tails = [], []
        for draw in draws:
            errors = {way: np.array(draw["ways"][way]["squared"])[chosen].sum() for way in (ours, *others)}
            ends = {way: tail(np.array(draw["ways"][way]["angles"])[chosen]) for way in (ours, *others)}
            decibels.append(10 * np.log10(_some(min(errors[way] for way in others)) / _some(errors[ours])))
            tails.append(_some(ends[ours]) / _some(min(ends[way] for way in others)))
        return float(np.median(decibels)), float(np.median(tails))

    rng = np.random.default_rng(0)
    picks = (rng.integers(len(places), size=len(places)) for _ in range(SAMPLES))
    samples = np.array([compared(np.concatenate([places[place] for place in pick])) for pick in picks])
    db, longer = compared(np.arange(len(sources)))
    unlucky = ((samples[:, 0] >= LEAST_DB).sum() + 1, (samples[:, 1] <= LONGEST_TAIL).sum() + 1)
    low, high = np.quantile(samples[:, 0], (0.025, 0.975))
    return Verdict(name, db, low, high, longer, (unlucky[0] / (SAMPLES + 1), unlucky[1] / (SAMPLES + 1)))


def _some(value: float) -> float:
    return max(float(value), 1e-30)


def holm(chances: Sequence[float]) -> list[float]:
    """Corrected for so many tests (Holm, 1979)."""
    corrected, least = [1.0] * len(chances), 0.0
    for rank, place in enumerate(np.argsort(chances)):
        least = max(least, min((len(chances) - rank) * chances[place], 1.0))
        corrected[place] = least
    return corrected


def report(stored: Sequence[Stored]) -> str:
    """Tables, the worst network first, then a verdict for each and what follows."""
    by_name: dict[str, list[Stored]] = {}
    for line in stored:
        by_name.setdefault(line["network"], []).append(line)
    verdicts = {way: _verdicts(by_name, way, others) for way, others in COMPARED.items()}
    order = [item.name for item in sorted(verdicts["int8"], key=lambda item: item.db)]
    parts = [_table(by_name[name]) for name in order]
    for way, found in verdicts.items():
        if found:
            parts.append(_judged(way, found))
    return "\n\n".join([*parts, *_found_again(by_name), _medians(by_name)])


def _verdicts(by_name: dict[str, list[Stored]], way: str, others: Sequence[str]) -> list[Verdict]:
    return [
        judge(name, having, way, others)
        for name, draws in by_name.items()
        if (having := [draw for draw in draws if {way, *others} <= draw["ways"].keys()])
    ]


def _table(draws: Sequence[Stored]) -> str:
    """Means over the draws; of SQNR the least and the greatest, too."""
    random = "" if draws[0]["trained"] else ", random weights"
    lines = [
        f"{draws[0]['network']}{random}; {len(draws)} draw(s) of {draws[0]['images']} images",
        f"{'':<12}{'SQNR dB':>8}{'(draws)':>14}{'p1':>9}{'tail':>10}{'lost':>7}{'bytes':>11}{'CPU':>11}",
    ]
    for way in draws[0]["ways"]:
        rows = [draw["ways"][way] for draw in draws if way in draw["ways"]]
        sqnr = [row["sqnr"] if row["sqnr"] is not None else np.inf for row in rows]
        mean = {key: np.mean([row[key] or 0 for row in rows]) for key in ("p1", "lost", "bytes", "cpu_us")}
        tails = np.mean([tail(np.array(row["angles"])) for row in rows])
        lines.append(
            f"{way:<12}{np.median(sqnr):>8.1f}{f'{min(sqnr):.1f} to {max(sqnr):.1f}':>14}{mean['p1']:>9.5f}"
            f"{tails:>10.2e}{mean['lost']:>7.3f}{mean['bytes']:>11,.0f}{mean['cpu_us']:>9,.0f}us"
        )
    return "\n".join(lines)


def _judged(way: str, verdicts: Sequence[Verdict]) -> str:
    """A line a network, the worst first, and whether "never worse" holds."""
    corrected = [holm([item.chance[part] for item in verdicts]) for part in (0, 1)]
    lines, worse = [f"{way} against the better of {' and '.join(COMPARED[way])}:"], []
    for place in sorted(range(len(verdicts)), key=lambda place: verdicts[place].db):
        item = verdicts[place]
        reasons = [text for text, part in zip(("dB", "tail"), corrected, strict=True) if part[place] < LEVEL]
        worse += [item.name] if reasons else []
        said = f"WORSE by {' and '.join(reasons)}" if reasons else "not worse"
        lines.append(
            f"{item.name:<34}{item.db:>+7.2f} dB ({item.low:+.2f} to {item.high:+.2f}), tail x{item.tail:.2f}: {said}"
        )
    holds = f"does not hold: {', '.join(worse)}" if worse else f"holds on {len(verdicts)} networks"
    return "\n".join([*lines, f'"never worse" {holds}'])


def _found_again(by_name: dict[str, list[Stored]]) -> list[str]:
    """How much of what fine-tuning gains on the images that were held out for it is gained on test images."""
    lines, gains = [], []
    for name, draws in by_name.items():
        for draw in draws:
            tuned, plain = draw["ways"].get(TUNED, {}), draw["ways"].get("int8", {})
            if not tuned.get("kept") or not plain:
                continue
            test, held = _db(tuned) - _db(plain), tuned["held_out_gain"]
            gains.append((test, held))
            before, after = (np.maximum(row["squared"], 1e-30) for row in (plain, tuned))
            by_image = 10 * np.log10(before / after)
            lines.append(
                f"{name:<34}{test:>+7.2f} dB, held out {held:+.2f} ({test / held:.0%}); "
                f"image by image {by_image.mean():+.2f}, more than none on {np.mean(by_image > 0):.0%}; "
                f"five images have {np.sort(before)[-5:].sum() / before.sum():.0%} of the noise"
            )
    if not gains:
        return []
    test, held = np.sum(gains, axis=0)
    total = f"in sum {test:+.1f} dB, held out {held:+.1f} ({test / held:.0%})"
    return ["\n".join(["tuned on int8, on test images:", *lines, total])]


def _medians(by_name: dict[str, list[Stored]]) -> str:
    """Over the trained networks, of what is gained in the median over draws."""
    lines = []
    for way, other in (("int8", TF), ("int8", MINMAX), (TUNED, "int8"), ("int16x8", "int8"), ("dynamic", TF_DYNAMIC)):
        gains = []
        for draws in by_name.values():
            both = [draw["ways"] for draw in draws if {way, other} <= draw["ways"].keys() and draw["trained"]]
            if both:
                gains.append(np.median([_db(ways[way]) - _db(ways[other]) for ways in both]))
        if gains:
            lines.append(f"median over {len(gains)} trained networks: {way} {np.median(gains):+.1f} dB on {other}")
    return "\n".join(lines)


def _db(row: Stored) -> float:
    return 200.0 if row["sqnr"] is None else float(row["sqnr"])
