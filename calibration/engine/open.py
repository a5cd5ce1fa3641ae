"""From what the user says, ``local``, ``dask`` or an address, to an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...runtime.errors import MissingPackageError, RequestError
from .local import LocalEngine
from .task import Engine

if TYPE_CHECKING:
    from .dask_engine import DaskEngine

LOCAL = "local"

DASK = "dask"
_ADDRESSES = ("tcp://", "tls://", "ucx://", "ws://", "wss://")


@contextlib.contextmanager
def open_engine(engine: Any, threads: int | None, *, apart: bool = False) -> Iterator[Engine]:
    """An engine, closed at the end if it was opened here.

    Args:
        engine: ``local``; ``dask``, a cluster on this machine; the address of a Dask scheduler, such as
            ``tcp://host:8786``; a ``distributed.Client``; or an engine.
        threads: processors of this machine to use; default all.
        apart: of a scheduler or client, see :class:`embedlite.calibration.engine.dask_engine.DaskEngine`.

    Raises:
        RequestError: none of these.
        MissingPackageError: Dask is not installed.
        EngineError: the scheduler does not answer, it has no workers, or they do not fit.
    """
    if isinstance(engine, str):
        if engine == LOCAL:
            yield LocalEngine(threads)
            return
        if engine != DASK and not engine.startswith(_ADDRESSES):
            raise RequestError(
                f"unknown engine {engine!r}. Use local, dask (a cluster on this machine) or a scheduler's address such "
                "as tcp://host:8786."
            )
        dask_engine = _import()
        opened = dask_engine.on_this_machine(threads) if engine == DASK else dask_engine.at(engine, apart=apart)
        with opened as connected:
            yield connected
        return
    if hasattr(engine, "run") and hasattr(engine, "counted"):
        yield engine
        return
    dask_engine = _import()
    if not dask_engine.is_client(engine):
        raise RequestError(
            f"cannot compute on {type(engine).__name__}. Pass 'local', 'dask', a scheduler's address or a "
            "distributed.Client."
        )
    with dask_engine(engine, apart=apart) as connected:
        yield connected


def _import() -> type[DaskEngine]:
    try:
        from .dask_engine import DaskEngine
    except ImportError as error:
        raise MissingPackageError(
            f"a cluster needs Dask, which cannot be imported ({error}). Run: pip install 'embedlite[dask]'."
        ) from error
    return DaskEngine
