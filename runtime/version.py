"""The version of embedlite, in one place: setup.cfg reads it from here without importing anything."""

import re

__version__ = "0.1.0"


def newer(made_by: object, known: int) -> str:
    """What to do about a file of a schema above ``known``, which names the embedlite that made it."""
    install = f"'embedlite>={made_by}'" if re.fullmatch(r"\d+(\.\w+)*", str(made_by)) else "--upgrade embedlite"
    return f"embedlite {__version__} reads up to {known}. Install a newer one: pip install {install}."
