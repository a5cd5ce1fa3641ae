"""Keeps each of pytest-xdist's processes, and what it starts, to a processor of its own, if there are enough processes.

TensorFlow and OpenBLAS start as many threads as there are processors. With a process of tests for each processor, they
would wait for one another most of the time, and do that by spinning: the same tests took half as much again.
"""

import os


def keep_to_one() -> None:
    """Choose the processor by the number of the process; without pytest-xdist, or with few processes, all stay."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if worker is None or count is None or not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    if int(count) >= len(processors):
        os.sched_setaffinity(0, {processors[int(worker.removeprefix("gw")) % len(processors)]})


keep_to_one()
