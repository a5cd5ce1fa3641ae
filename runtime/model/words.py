"""What a sentence calls an encoder's inputs: it is written of images, and said of inputs where there are none.

Most sentences of exports and reports are about images, and hold for any other array as they stand, but for that word.
They pass through here where they leave the house, so that each is written once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import EmbedliteError

# Not what belongs to a path, a name in quotes, an option or an attribute: images.npy, photos/images, --image-size.
_WORD = re.compile(r"(?<![\w/\\.'\"`=<:-])([Aa]n? )?([Ii]mage|[Pp]hoto)(s?)(?! file)(?![\w/\\'\"`=-])(?!\.\w)")


def reworded(text: str) -> str:
    """A sentence about images as one about inputs; names of files and options stay as they are."""
    return _WORD.sub(_said, text)


def _said(found: re.Match[str]) -> str:
    article, noun, plural = found[1] or "", found[2], found[3]
    article = f"{article[0]}n " if article else ""
    return f"{article}{'Input' if noun[0].isupper() else 'input'}{plural}"


def word(text: str, *, is_image: bool) -> str:
    """The sentence as it is for images, :func:`reworded` for anything else."""
    return text if is_image else reworded(text)


@contextmanager
def wording(is_image: Callable[[], bool]) -> Iterator[None]:
    """Lets errors out in the words that suit the input.

    Args:
        is_image: whether the input is an image, asked when there is an error.
    """
    try:
        yield
    except EmbedliteError as error:
        if not is_image():
            error.args = tuple(reworded(part) if isinstance(part, str) else part for part in error.args)
        raise
