"""A runtime's verdict on a quantized file: its drift against LiteRT's, not its distance from LiteRT."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from embedlite.convert.verify.verdicts import Frames, judge
from embedlite.runtime.check.probe import ProbeResult

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=(8, 64)).astype(np.float32)
FRAMES = Frames(Path("none.npy"), REFERENCE, np.zeros(8, bool), np.ones(8, bool))


def noisy(sqnr_db: float) -> np.ndarray:
    noise = RNG.normal(size=REFERENCE.shape) * 10 ** (-sqnr_db / 20)
    return (REFERENCE + noise).astype(np.float32)


def verdict(mine: np.ndarray, first: np.ndarray) -> tuple[bool, str]:
    found = judge(ProbeResult("tflite-micro", "1", mine), "int8", FRAMES, first)
    return found.ok, found.detail


def test_two_right_kernels_on_a_noisy_network_are_far_apart_and_both_pass() -> None:
    mine, first = noisy(10), noisy(10)
    apart = 10 * np.log10((first**2).sum() / ((mine - first) ** 2).sum())
    assert apart < 8.5
    ok, detail = verdict(mine, first)
    assert ok
    assert "dB from the original, LiteRT" in detail


def test_a_kernel_with_much_more_drift_than_litert_fails_however_near_to_it() -> None:
    assert not verdict(noisy(20), noisy(35))[0]
    assert verdict(noisy(34), noisy(35))[0]


def test_one_image_of_a_handful_decides_no_verdict() -> None:
    """One kernel's rounding is better for one image and worse for the next; a fault is worse for all, or by far."""
    first = noisy(31)
    mine = noisy(31)
    mine[0] += 2.5 * (mine[0] - REFERENCE[0])
    ok, detail = verdict(mine, first)
    assert ok, detail
    drift = [float(10 * np.log10((REFERENCE**2).sum() / ((run - REFERENCE) ** 2).sum())) for run in (first, mine)]
    assert 3 < drift[0] - drift[1] < 6
    # As much noise, shared by all images.
    everywhere = REFERENCE + (first - REFERENCE) * np.float32(10 ** ((drift[0] - drift[1]) / 20))
    assert not verdict(everywhere, first)[0]
    # One image alone that is wrong altogether.
    mine[0] += 30 * (mine[0] - REFERENCE[0])
    assert not verdict(mine, first)[0]


def test_next_to_no_drift_passes_whatever_litert_has() -> None:
    assert verdict(noisy(45), noisy(70))[0]


def test_an_original_that_rounds_itself_is_not_met_exactly() -> None:
    own = replace(FRAMES, rounded=True)
    for frames, decibels, ok in ((own, 50, True), (own, 10, False), (FRAMES, 50, False)):
        assert judge(ProbeResult("ai-edge-litert", "1", noisy(decibels)), "float32", frames, None).ok is ok


def test_images_whose_references_differ_by_rounding_alone_may_be_answered_alike() -> None:
    """The batch that an original computes them in leaves the last bits of a row other than the next one's."""
    rounded = np.tile(REFERENCE[:1], (8, 1)) * (1 + 2**-22 * np.arange(8, dtype=np.float32)[:, None])
    alike = np.tile(REFERENCE[:1], (8, 1))
    frames = replace(FRAMES, reference=rounded.astype(np.float32))
    assert judge(ProbeResult("litert", "1", alike), "float32", frames, None).ok
    found = judge(ProbeResult("litert", "1", alike), "float32", FRAMES, None)
    assert (found.ok, found.detail) == (False, "answers the same embedding for every image")
