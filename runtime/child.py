"""One request to a process of its own: a module of this package that is run with ``python -m``.

What runs models in C++ may crash, and a crash there is then an answer instead of the end of the caller. The request is
JSON on stdin, the answer JSON on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .child_limits import end_with_parent


def ask(module: str, request: Mapping[str, Any], seconds: float) -> tuple[Any, str]:
    """Run a module with a request and wait for its answer.

    Args:
        module: its name in this package; it calls :func:`serve`.
        request: a JSON object.
        seconds: the process is ended after them.

    Returns:
        The answer and an empty text; or None and how the process failed.
    """
    try:
        process = subprocess.run(
            [sys.executable, "-m", f"{__package__}.{module}"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"gave no answer within {seconds:g} s"
    if process.returncode == 0 and process.stdout:
        return json.loads(process.stdout), ""
    if process.returncode < 0:
        return None, f"crashed with signal {-process.returncode}"
    lines = process.stderr.strip().splitlines()
    return None, f"ended with code {process.returncode}: {lines[-1] if lines else 'no message'}"


def serve(answer: Callable[..., Any]) -> None:
    """Answer the one request that this process was started for.

    Args:
        answer: takes the request's items as keyword arguments; what it returns has to be fit for JSON.
    """
    end_with_parent()
    request = json.load(sys.stdin)
    # The answer's channel is kept for the answer: libraries print to stdout as well.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(answer(**request), channel)
    channel.close()
