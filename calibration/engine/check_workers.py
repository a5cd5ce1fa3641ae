"""Whether a cluster's workers would give this machine's results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...runtime.errors import EngineError, WorkerMismatchError
from ...runtime.version import __version__

_PROBE_SECONDS = 60.0


_ALWAYS_SAME = ("embedlite",)
"""What may not differ even between workers that are reported apart: they could not read what they are sent."""


def ask_workers(client: Any) -> dict[str, dict[str, str]]:
    """Ask every worker what it is.

    Args:
        client: a ``distributed.Client``.

    Returns:
        What each is, by its address; see :func:`embedlite.calibration.engine.worker.describe_worker`.

    Raises:
        WorkerMismatchError: one lacks embedlite, or what it needs to run it.
        EngineError: one does not answer.
    """

    # Inside, so that it is sent whole: a worker without embedlite could not import it.
    def probe() -> Any:
        try:
            from .worker import describe_worker
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
    return dict(answers)


def others_by_kind(
    answers: Mapping[str, Mapping[str, str]], here: Mapping[str, str]
) -> list[tuple[dict[str, str], tuple[str, ...]]]:
    """Workers that differ from this machine: each kind once, with the addresses of its workers, in order.

    Raises:
        WorkerMismatchError: one has another embedlite.
    """
    kinds: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for worker, there in answers.items():
        check_environment(there, here, worker, _ALWAYS_SAME)
        if dict(there) != dict(here):
            kinds.setdefault(tuple(there.items()), []).append(worker)
    return [(dict(kind), tuple(sorted(workers))) for kind, workers in sorted(kinds.items())]


def check_environment(
    there: Mapping[str, str], here: Mapping[str, str], worker: str, keys: Collection[str] | None = None
) -> None:
    """Refuse a worker whose results may differ.

    Args:
        there, here: what it is, and what it should be.
        worker: its name.
        keys: what has to be the same; default all.

    Raises:
        WorkerMismatchError: it differs in one of them.
    """
    different = [f"{key} {there[key]} (here {here[key]})" for key in keys or here if there[key] != here[key]]
    if different:
        raise WorkerMismatchError(
            f"the worker {worker} would not give this machine's results: it has {', '.join(different)}. Install the "
            "same versions there, or leave it out of the cluster; drift-report --workers-apart shows how far its "
            "embeddings are from this machine's."
        )
