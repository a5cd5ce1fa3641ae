"""Time and peak memory of ``drift-report`` on stored embeddings.

The embeddings have 32 directions of their own and some noise in 128 dimensions, as trained encoders have; the candidate
is rounded to steps of 0.2 and stands in another order, so the rows have to be matched by id, and so do the labels of
1,000 classes where memory is measured. The command runs as a user
runs it; Python's start with the imports of the command (``--help``) is taken off. Neighbours are timed in one process.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIZE, LATENT, STEP, K, RUNS, CLASSES = 128, 32, 0.2, 10, 5, 1000
COMMAND = [sys.executable, "-c", "from embedlite.report.command import main; main()"]
LIMIT_SECONDS, LIMIT_MB = 3, 1000


def embeddings(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidate and reference, (count, 128) float32."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(LATENT, SIZE)).astype(np.float32)
    reference = rng.normal(size=(count, LATENT)).astype(np.float32) @ basis
    reference += 0.3 * rng.normal(size=(count, SIZE)).astype(np.float32)
    return np.round(reference / np.float32(STEP)) * np.float32(STEP), reference


def store(folder: Path, count: int) -> tuple[str, ...]:
    """Write both sides and return the command's arguments."""
    candidate, reference = embeddings(count)
    ids = np.array([f"image{row:07d}.jpg" for row in range(count)])
    order = np.random.default_rng(1).permutation(count)
    np.savez(folder / "reference.npz", embeddings=reference, ids=ids)
    np.savez(folder / "candidate.npz", embeddings=candidate[order], ids=ids[order])
    labels = np.random.default_rng(2).integers(0, CLASSES, count)
    np.savez(folder / "labels.npz", ids=ids[order], labels=labels)
    return (str(folder / "candidate.npz"), "--reference", str(folder / "reference.npz"))


def seconds(work: Callable[[], object]) -> float:
    """Median of a few runs."""
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure_time() -> None:
    """The whole report, then neighbours alone beside scikit-learn and, where it is installed, faiss."""
    from embedlite.runtime.drift.neighbours import neighbour_overlap
    from embedlite.runtime.drift.rows import Rows

    count = 10_000
    with tempfile.TemporaryDirectory() as name:
        arguments = store(Path(name), count)
        run = lambda *more: subprocess.run([*COMMAND, *more], capture_output=True, check=False)  # noqa: E731
        start, whole = seconds(lambda: run("--help")), seconds(lambda: run(*arguments))
    print(f"{count:,} x {SIZE}, median of {RUNS} runs, seconds")
    print(f"{'Python and imports':<44}{start:>8.2f}")
    print(f"{'the report beyond that':<44}{whole - start:>8.2f}   limit {LIMIT_SECONDS}\n")
    candidate, reference = embeddings(count)
    mine = seconds(lambda: neighbour_overlap(Rows(candidate), Rows(reference), K, np.arange(count)))
    print(f"{'overlap self and cross: three searches':<44}{mine:>8.2f}   ratio")
    for label, search in _others():
        peer = seconds(lambda search=search: [search(*pair) for pair in _searches(candidate, reference)])
        print(f"{f'three searches by {label}':<44}{peer:>8.2f}   {mine / peer:.2f}")


def _searches(candidate: np.ndarray, reference: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(reference, reference), (candidate, reference), (candidate, candidate)]


def _others() -> list[tuple[str, Callable[[np.ndarray, np.ndarray], object]]]:
    from sklearn.neighbors import NearestNeighbors

    def sklearn(queries: np.ndarray, gallery: np.ndarray) -> object:
        found = NearestNeighbors(n_neighbors=K + 1, metric="cosine", algorithm="brute", n_jobs=-1).fit(gallery)
        return found.kneighbors(queries, return_distance=False)

    peers: list[tuple[str, Callable[[np.ndarray, np.ndarray], object]]] = [("scikit-learn", sklearn)]
    try:
        import faiss
    except ImportError:
        print("faiss is not installed; pip install faiss-cpu shows it, too")
        return peers

    def by_faiss(queries: np.ndarray, gallery: np.ndarray) -> object:
        sides = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
        return faiss.knn(*sides, K + 1, metric=faiss.METRIC_INNER_PRODUCT)

    return [*peers, ("faiss", by_faiss)]


def measure_memory() -> None:
    """Peak resident memory of the command; mapped pages count as long as they are mapped."""
    count = 1_000_000
    with tempfile.TemporaryDirectory() as name:
        # Another process makes the files: the peak of all ended children is what the system tells.
        subprocess.run([sys.executable, __file__, name, str(count)], check=True)
        made = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        arguments = (f"{name}/candidate.npz", "--reference", f"{name}/reference.npz", "--labels", f"{name}/labels.npz")
        code = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *COMMAND, *arguments], capture_output=True, text=True, check=True
        )
        taken = time.perf_counter() - start
    both = 2 * count * SIZE * 4 / 1e6
    print(f"{count:,} x {SIZE} against as many, with labels: {both:,.0f} MB (making them took {made / 1e3:,.0f} MB)")
    print(f"peak {int(done.stdout) / 1e3 * 1.024:,.0f} MB, limit {LIMIT_MB}; {taken:.0f} s, 2,000 rows searching")


if __name__ == "__main__":
    store(Path(sys.argv[1]), int(sys.argv[2]))
