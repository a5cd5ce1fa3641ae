"""Whether the images that were observed are the ones that were there at the beginning."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.engine import Engine, Listing, list_images
from ..runtime.sources import Source
from .errors import CalibrationDataError
from .statistics import MODULUS, Statistics, image_number


def check_unchanged(
    statistics: Statistics, source: Source, indices: Sequence[int], listing: Listing, engine: Engine
) -> None:
    """Refuse statistics of other images than those that were listed.

    Args:
        statistics: of the images.
        source: what they came from.
        indices: which they were.
        listing: of the source, made before.
        engine: what reads the source again, to say which images are others now.

    Raises:
        CalibrationDataError: the pool changed while it was read, or an image was counted twice or not at all.
    """
    expected = sum(image_number(source.ids[index], listing.digest(index)) for index in indices) % MODULUS
    if (statistics.samples, statistics.images) == (len(indices), expected):
        return
    now = list_images(source, engine)
    changed = [source.ids[index] for index in indices if now.digest(index) != listing.digest(index)]
    which = f"{len(changed)} image(s), such as {changed[0]!r}" if changed else "which of its images is not known"
    raise CalibrationDataError(
        f"{source.name} changed while it was read: {which}. Run again once nothing is written there any more."
    )
