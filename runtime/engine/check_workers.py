"""Whether a cluster's workers would give this machine's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import EngineError, WorkerMismatchError
from ..version import __version__
from .worker import describe_worker

_PROBE_SECONDS = 60.0


def check_workers(client: Any) -> dict[str, str]:
    """Ask every worker what it is.

    Args:
        client: a ``distributed.Client``.

    Returns:
        What all of them are, see :func:`.worker.describe_worker`.

    Raises:
        WorkerMismatchError: one lacks embedlite, or differs from this machine in what decides results.
        EngineError: one does not answer.
    """
    here = describe_worker()

    # Inside, so that it is sent whole: a worker without embedlite could not import it.
    def probe() -> Any:
        try:
            from embedlite.runtime.engine.worker import describe_worker
        except ImportError as error:
            return str(error)
        try:
            return describe_worker()
        except Exception as error:
            return str(error)

    try:
        answers = client.sync(client._run, probe, callback_timeout=_PROBE_SECONDS)
    except (OSError, TimeoutError) as error:
        raise EngineError(
            f"a worker did not say within {_PROBE_SECONDS:g} s what it is ({error or type(error).__name__}). Restart "
            "the workers."
        ) from error
    for worker, answer in answers.items():
        if isinstance(answer, str):
            raise WorkerMismatchError(
                f"the worker {worker} cannot run embedlite: {answer}. Run on every worker: pip install "
                f"'embedlite[images,dask]=={__version__}'."
            )
        check_environment(answer, here, worker)
    return here


def check_environment(there: Mapping[str, str], here: Mapping[str, str], worker: str) -> None:
    """Refuse a worker whose results may differ.

    Raises:
        WorkerMismatchError: it differs from this machine in what decides results.
    """
    different = [f"{key} {there[key]} (here {here[key]})" for key in here if there[key] != here[key]]
    if different:
        raise WorkerMismatchError(
            f"the worker {worker} would not give this machine's results: it has {', '.join(different)}. Install the "
            "same versions there, or leave it out of the cluster."
        )
