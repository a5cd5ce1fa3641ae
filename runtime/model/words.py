"""What a sentence calls an encoder's inputs: it is written of images, and said of inputs where there are none.

Sentences of a report are made with the noun of its contract. Those of an export, and errors, are written of images;
they pass through here where they leave the house. Names that the user chose stay as they are: what is in quotes or
looks like a path, and what the caller says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from ..errors import EmbedliteError

_QUOTED = r"(?<!\w)(?:'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`)(?!\w)"
# Not what belongs to a path, an option or an attribute: images.npy, photos/images, --image-size.
_WORD = (
    r"(?<![\w/\\.'\"`=<:-])(?P<article>[Aa]n? )?(?P<noun>[Ii]mage|[Pp]hoto)(?P<plural>s?)"
    r"(?! file)(?![\w/\\\"`=-])(?!'(?!s\b))(?!\.\w)"
)


def names_of(*values: object) -> tuple[str, ...]:
    """What sentences may call files and folders: each as it was given, and the last part of its path."""
    texts = [str(value) for value in values if isinstance(value, (str, Path))]
    return tuple(dict.fromkeys(name for text in texts for name in (text, Path(text).name) if name))


def reworded(text: str, names: Collection[str] = ()) -> str:
    """A sentence about images as one about inputs; names of files and options, and ``names``, stay as they are."""
    return _pattern(tuple(names)).sub(_said, text)


@lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    touched = [name for name in sorted(names, key=len, reverse=True) if re.search("image|photo", name, re.IGNORECASE)]
    kept = [rf"(?<!\w){re.escape(name)}(?!\w)" for name in touched]
    return re.compile("|".join([*kept, _QUOTED, _WORD]))


def _said(found: re.Match[str]) -> str:
    noun = found["noun"]
    if noun is None:
        return found[0]
    article = f"{found['article'][0]}n " if found["article"] else ""
    return f"{article}{'Input' if noun[0].isupper() else 'input'}{found['plural']}"


def word(text: str, names: Collection[str] = (), *, is_image: bool) -> str:
    """The sentence as it is for images, :func:`reworded` for anything else."""
    return text if is_image else reworded(text, names)


@contextmanager
def wording(is_image: Callable[[], bool], *named: object) -> Iterator[None]:
    """Lets errors out in the words that suit the input.

    Args:
        is_image: whether the input is an image, asked when there is an error.
        named: files and folders of the user's, which keep their names.
    """
    try:
        yield
    except EmbedliteError as error:
        if not is_image():
            names = names_of(*named)
            error.args = tuple(reworded(part, names) if isinstance(part, str) else part for part in error.args)
        raise
