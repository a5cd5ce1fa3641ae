"""Images that are there more than once: test images that also set ranges, or that are one image.

Compared is what is stored, byte by byte and without decoding; a copy in another format is another image here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.images.source import Source

MOST_COMPARED = 4096
"""Calibration images that are read for it, a random part of more; they may lie far away."""


def explain_repeats(calibration: Source | None, test: Source | None, seed: int) -> list[str]:
    """What is to be said of test images that prove less than their number.

    Args:
        calibration: what sets ranges; None without.
        test: what drift is measured on; None without.
        seed: chooses the calibration images that are compared, if there are many.

    Returns:
        Sentences, none if nothing is repeated.
    """
    if test is None:
        return []
    digests = [test.digest(index) for index in range(len(test))]
    said = []
    if len(set(digests)) == 1:
        are = "there is one test image" if len(digests) == 1 else f"all {len(digests)} test images are the same one"
        said.append(f"WARNING: {are}, so the drift says nothing of others. Pass other --test-data.")
    if calibration is None:
        return said
    compared = calibration.sample(MOST_COMPARED, seed)
    setting = {compared.digest(index) for index in range(len(compared))}
    both = sum(digest in setting for digest in digests)
    if both:
        least = "at least " if len(compared) < len(calibration) else ""
        said.append(
            f"WARNING: {least}{both} of {len(test)} test images are calibration images, too "
            f"({_named(test, digests, setting)}). The drift on them is that of images by which the ranges were chosen; "
            "pass --test-data that is apart."
        )
    return said


def _named(test: Source, digests: Sequence[bytes], setting: set[bytes]) -> str:
    """The first that is in both, by its name."""
    first = next(index for index, digest in enumerate(digests) if digest in setting)
    return f"{test.ids[first]}, for instance"
