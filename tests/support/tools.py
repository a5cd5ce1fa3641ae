"""Programs that tests need and pip cannot install, such as an emulator or a browser.

Where one is missing, its tests say so and skip; with ``$EMBEDLITE_REQUIRE_TOOLS`` set, as in ``.ci/run``, they fail.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE_VARIABLE = "EMBEDLITE_REQUIRE_TOOLS"

ALSO_CALLED = {"cc": ("gcc", "clang"), "chromium": ("chromium-browser", "google-chrome")}
"""Other names under which systems install a program."""


def require(program: str) -> Path:
    """Where a program is; skips the test, or fails it, if it is nowhere on the path."""
    for name in (program, *ALSO_CALLED.get(program, ())):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    unavailable(f"{program} is not installed")


def unavailable(reason: str) -> NoReturn:
    """Skip the test that needs what is not to be had here, or fail it where everything must run."""
    if os.environ.get(REQUIRE_VARIABLE):
        pytest.fail(f"{reason}, and ${REQUIRE_VARIABLE} is set", pytrace=False)
    pytest.skip(reason)
