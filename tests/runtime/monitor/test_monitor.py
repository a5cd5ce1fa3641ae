"""The monitor on real images and the real interpreter: what it gives, what it counts, what it never does."""

import json
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import FloatGraph

from embedlite.convert.graph.graph import Graph
from embedlite.report.command import drift_report
from embedlite.runtime import DriftMonitor, Encoder
from embedlite.runtime.drift.gates import DEFAULT_GATES, apply_gates
from embedlite.runtime.drift.stored import pack_embeddings
from embedlite.runtime.errors import (
    EmbedliteWarning,
    EncoderClosedError,
    InputShapeError,
    NotTFLiteError,
    OutputError,
    RequestError,
)
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.contract import InputContract
from embedlite.runtime.monitor import ReferenceDistribution
from embedlite.runtime.monitor.distribution import canonical_bytes
from embedlite.runtime.monitor.paired import add_pair, paired_layout
from embedlite.runtime.monitor.state import read_state
from embedlite.runtime.monitor.tallies import WORST_ROWS, Statistics
from embedlite.runtime.monitor.unpaired import add_row, unpaired_layout

from conftest import Digits, Run
from digit_vectors import digit_images, digit_vectors
from ways_out import walks

IMAGES = 120


@pytest.fixture(scope="module")
def images(digits: Digits) -> np.ndarray:
    return digit_images(digits, IMAGES)


@pytest.fixture(scope="module")
def vectors(digits: Digits, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return digit_vectors(digits, images)


@pytest.fixture
def encoder(digits: Digits) -> Iterator[Encoder]:
    with Encoder(digits.int8, threads=2) as opened:
        yield opened


def paired_bytes(candidate: np.ndarray, reference: np.ndarray) -> bytes:
    """The statistics of these rows, added one by one."""
    statistics = Statistics(paired_layout(candidate.shape[1]))
    for pair in zip(candidate, reference, strict=True):
        add_pair(statistics, *pair)
    return canonical_bytes(statistics.to_json())


def stored_bytes(path: Path) -> bytes:
    return canonical_bytes(read_state(path).statistics.to_json())


# What it gives, and what it finds


def test_vectors_are_the_encoders_and_cosines_those_computed_directly(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """By each of the three ways in, a third of the images each."""
    state = tmp_path / "door.json"
    with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=state) as monitor:
        given = [monitor.embed_one(image) for image in images[:40]]
        given += list(monitor.embed(images[40:80]))
        given += list(monitor.embed_iter(iter(images[80:])))
        monitor.save()
        metrics = monitor.metrics()
        assert monitor.counters == {"inputs": IMAGES, "skipped": 0, "failed": 0, "compared": IMAGES}
        assert monitor.last_error is None
    mine, theirs = vectors
    assert np.array_equal(np.stack(given), mine)
    assert stored_bytes(state) == paired_bytes(mine, theirs)

    c, r = mine.astype(np.float64), theirs.astype(np.float64)
    cosines = np.sort((c * r).sum(axis=1) / np.linalg.norm(c, axis=1) / np.linalg.norm(r, axis=1))
    worst = [row[0] for row in read_state(state).statistics.worst]
    assert worst == pytest.approx(1 - cosines[:WORST_ROWS], abs=1e-12)
    assert metrics["cosine_min"] == pytest.approx(cosines[0], abs=1e-12)
    assert metrics["cosine_mean"] == pytest.approx(cosines.mean(), abs=1e-12)
    assert cosines[0] < cosines[-1] < 1


def test_one_input_in_n_is_compared_and_the_coin_says_which(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    every, rounds, state = 10, 10, tmp_path / "door.json"
    with DriftMonitor(encoder, digits.float32, every=every, budget=None, state=state, seed=7) as monitor:
        for _ in range(rounds):
            monitor.embed(images)
    coin = random.Random(7)
    chosen = np.flatnonzero([coin.random() * every < 1 for _ in range(rounds * IMAGES)])
    assert 80 < len(chosen) < 160
    assert len(set(chosen % every)) == every, "no rhythm that an input's own could meet"
    found = read_state(state)
    assert (found.counters["inputs"], found.statistics.counts["rows"]) == (rounds * IMAGES, len(chosen))
    assert stored_bytes(state) == paired_bytes(*(side[chosen % IMAGES] for side in vectors))


def test_the_caller_may_fill_its_array_again(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    buffer, state = np.empty_like(images[0]), tmp_path / "door.json"
    with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=state) as monitor:
        for image in images:
            buffer[:] = image
            monitor.embed_one(buffer)[:] = -1
            buffer[:] = 0
    assert stored_bytes(state) == paired_bytes(*vectors)


def test_without_the_float_file_stored_embeddings_are_the_reference(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """As the .npz of embed-tflite, as the .json made of it at home, or as the object."""
    mine, theirs = vectors
    (tmp_path / "home.npz").write_bytes(pack_embeddings(theirs, [str(row) for row in range(IMAGES)], "ab" * 32))
    home = ReferenceDistribution.load(tmp_path / "home.npz")
    home.save(tmp_path / "home.json")
    expected = Statistics(unpaired_layout(mine.shape[1]))
    for row in mine:
        add_row(expected, row, home)
    for number, reference in enumerate((tmp_path / "home.npz", str(tmp_path / "home.json"), home)):
        state = tmp_path / f"{number}.json"
        with DriftMonitor(encoder, reference, every=1, budget=None, state=state) as monitor:
            assert np.array_equal(monitor.embed(images), mine)
        assert stored_bytes(state) == canonical_bytes(expected.to_json())
        metrics = read_state(state).metrics()
        assert metrics["psi_excess"] is not None
        assert metrics["psi_excess"] < 0.1, "int8 moves the crowd but little"


def test_a_camera_that_always_sees_the_same_raises_no_alarm(
    digits: Digits, encoder: Encoder, images: np.ndarray
) -> None:
    """One scene and a sensor's noise: int8 rounds always the same way, which is not a shift of the crowd."""
    noise = np.random.default_rng(0).normal(0, 2, (60, 32, 32, 1)).round()
    with DriftMonitor(encoder, digits.float32, every=1, budget=None) as monitor:
        monitor.embed(np.clip(images[3] + noise, 0, 255).astype(np.uint8))
        monitor.save()
        metrics = monitor.metrics()
    assert [name for name, value in metrics.items() if value is None] == [
        *("bias_max_sigma", "gain_error_max", "dead_dimensions"),
    ]
    assert all(gate.passed for gate in apply_gates(metrics, DEFAULT_GATES))


def test_no_image_and_no_vector_is_kept(digits: Digits, encoder: Encoder, images: np.ndarray, tmp_path: Path) -> None:
    """The file grows with nothing but the digits of its counters, and has no place for anything else."""
    sizes = []
    for name, count in (("few", 20), ("many", 400)):
        state = tmp_path / f"{name}.json"
        with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=state) as monitor:
            for index in range(count):
                monitor.embed_one(images[index % IMAGES])
        sizes.append(state.stat().st_size)
    assert sizes[1] - sizes[0] < 2000 < images[0].nbytes * 380
    statistics = read_state(tmp_path / "many.json").statistics
    assert len(statistics.worst) == WORST_ROWS
    assert sum(statistics.layout.sums.values()) == 5 * encoder.embedding_size + 2
    assert set(vars(read_state(tmp_path / "many.json"))) == {
        *("candidate", "reference", "embedding_size", "statistics", "device", "runtimes", "counters", "series"),
    }


# What it never does


class Held(Encoder):
    """The real reference, which answers only once it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, threads=1)
        self.may = threading.Event()
        self.may.set()

    def embed_one(self, image: Any) -> np.ndarray:
        assert self.may.wait(60)
        return super().embed_one(image)


def test_nobody_waits_for_the_reference(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray]
) -> None:
    """With a reference that does not answer, vectors come as ever; what does not fit in is skipped and counted."""
    now = 0.0
    with Held(digits.float32) as reference:
        with DriftMonitor(encoder, reference, every=1, budget=1.0, clock=lambda: now) as monitor:
            now = 1000.0
            reference.may.clear()
            given = np.stack([monitor.embed_one(image) for image in images])
            counters = monitor.counters
            reference.may.set()
            monitor.save()
            after = monitor.counters
        assert np.array_equal(given, vectors[0])
        assert counters == {"inputs": IMAGES, "skipped": IMAGES - 8, "failed": 0, "compared": 0}
        assert after == {**counters, "compared": 8}
        reference.embed_one(images[0])


class Timed(Encoder):
    """The real reference, which notes how long it took."""

    def embed_one(self, image: Any) -> np.ndarray:
        began = time.monotonic()
        try:
            return super().embed_one(image)
        finally:
            self.taken = [*getattr(self, "taken", []), time.monotonic() - began]


def test_the_reference_takes_its_share_of_the_time_at_most(
    digits: Digits, encoder: Encoder, images: np.ndarray
) -> None:
    share = 0.02
    with (
        Timed(digits.float32, threads=1) as reference,
        DriftMonitor(encoder, reference, every=1, budget=share) as monitor,
    ):
        reference.taken = []
        began = time.monotonic()
        while time.monotonic() - began < 1.0 or (not reference.taken and time.monotonic() - began < 30):
            monitor.embed_one(images[0])
        monitor.save()
        lasted, counters = time.monotonic() - began, monitor.counters
        assert counters["compared"] == len(reference.taken) > 0
        assert counters["skipped"] > 0
        assert counters["inputs"] == counters["compared"] + counters["skipped"]
        # But for the last one, which may take longer than the one before it.
        assert sum(reference.taken) <= share * lasted + max(reference.taken)


def test_a_share_has_to_be_saved_up_first(digits: Digits, encoder: Encoder, images: np.ndarray) -> None:
    """By a clock that moves a second with every look while the monitor is made: the reference seems to take one."""
    ticking, now = iter(range(1000)), None

    def clock() -> float:
        return float(next(ticking)) if now is None else now

    with DriftMonitor(encoder, digits.float32, every=1, budget=0.1, clock=clock) as monitor:
        made = next(ticking)
        for seconds, compared in ((0, 0), (7, 0), (11, 1)):
            now = float(made + seconds)
            monitor.embed_one(images[0])
            monitor.save()
            assert monitor.counters["compared"] == compared, seconds


def test_a_reference_that_fails_is_counted_and_told_of_once(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray]
) -> None:
    reference = Encoder(digits.float32, threads=1)
    with DriftMonitor(encoder, reference, every=1, budget=None) as monitor:
        monitor.embed(images[:3])
        monitor.save()
        reference.close()
        with pytest.warns(
            EmbedliteWarning, match="the drift monitor goes on without this: this encoder was closed"
        ) as told:
            given = monitor.embed(images[3:])
            monitor.save()
        assert np.array_equal(given, vectors[0][3:])
        assert len(told) == 1
        assert isinstance(monitor.last_error, EncoderClosedError)
        assert monitor.counters == {"inputs": IMAGES, "skipped": 0, "failed": IMAGES - 3, "compared": 3}


@walks("the reference's own embedding is not finite, so the input was not")
def test_a_reference_that_answers_infinity_is_seen_in_a_report(tmp_path: Path) -> None:
    """Bright pictures are too much for it: the monitor skips them, and the report counts them."""
    weights = np.random.default_rng(0).normal(size=(8, 48)).astype(np.float32)
    for name, scale in (("candidate", 1), ("reference", 1e37)):
        graph = FloatGraph((4, 4, 3)).dense("e", weights * np.float32(scale), np.zeros(8, np.float32))
        (tmp_path / f"{name}.tflite").write_bytes(graph.to_bytes())
    seen = np.random.default_rng(0).integers(0, 3, (20, 4, 4, 3), np.uint8)
    seen[:2] = 255
    np.save(tmp_path / "seen.npy", seen)
    contract = InputContract((4, 4, 3), mean=(0.0,), std=(1.0,))
    candidate, reference = tmp_path / "candidate.tflite", tmp_path / "reference.tflite"
    command = ["--reference", str(candidate), "--data", str(tmp_path / "seen.npy"), "--mean", "0", "--std", "1"]
    report = tmp_path / "report.json"
    with pytest.warns(EmbedliteWarning), Encoder(candidate, 1, input_contract=contract) as encoder:
        with DriftMonitor(encoder, reference, every=1, budget=None) as monitor:
            monitor.embed(seen)
        assert monitor.counters == {"inputs": 20, "skipped": 0, "failed": 2, "compared": 18}
        assert drift_report.main([str(reference), *command, "--json", str(report)], standalone_mode=False) == 1
    assert json.loads(report.read_text())["metrics"]["invalid"] == 2


def test_where_warnings_are_errors_nothing_ends_either(
    digits: Digits, encoder: Encoder, images: np.ndarray, tmp_path: Path
) -> None:
    reference, folder = Encoder(digits.float32, threads=1), tmp_path / "card"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with DriftMonitor(encoder, reference, every=1, budget=None, state=folder / "door.json") as monitor:
            reference.close()
            assert monitor.embed(images[:4]).shape == (4, 128)
            folder.rename(tmp_path / "elsewhere")
        assert monitor.counters["failed"] == 4
        assert isinstance(monitor.last_error, OutputError)


def test_a_mistake_of_the_caller_is_the_encoders_own_error_and_counts_as_nothing(
    digits: Digits, encoder: Encoder, images: np.ndarray
) -> None:
    with DriftMonitor(encoder, digits.float32, every=1) as monitor:
        for call in (monitor.embed_one, lambda image: monitor.embed([image]), lambda i: list(monitor.embed_iter([i]))):
            with pytest.raises(InputShapeError):
                call(images[0, :5])
        assert monitor.counters["inputs"] == 0


def test_threads_share_a_monitor(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """The same vectors, every input counted, and statistics that do not show who came first."""
    state, wrong = tmp_path / "door.json", []

    def work(monitor: DriftMonitor, first: int) -> None:
        for turn in range(IMAGES):
            row = (first + turn) % IMAGES
            if not np.array_equal(monitor.embed_one(images[row]), vectors[0][row]):
                wrong.append(row)

    with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=state, save_seconds=0.01) as monitor:
        threads = [threading.Thread(target=work, args=(monitor, 30 * number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert monitor.last_error is None
    assert read_state(state).counters == {"inputs": 4 * IMAGES, "skipped": 0, "failed": 0}
    assert stored_bytes(state) == paired_bytes(*(np.tile(side, (4, 1)) for side in vectors))


def test_a_program_that_forgets_to_close_ends_all_the_same(digits: Digits, tmp_path: Path) -> None:
    program = (
        "import numpy as np\nfrom embedlite.runtime import DriftMonitor, Encoder\n"
        f"encoder = Encoder({str(digits.int8)!r})\n"
        f"monitor = DriftMonitor(encoder, {str(digits.float32)!r}, every=1, budget=None, state='door.json')\n"
        "monitor.embed(np.zeros((20, 32, 32, 1), np.uint8))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=60, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


# Wrong from the start


def test_a_closed_monitor_says_so_and_leaves_the_encoder_open(
    digits: Digits, encoder: Encoder, images: np.ndarray
) -> None:
    monitor = DriftMonitor(encoder, digits.float32)
    monitor.close()
    monitor.close()
    for call in (monitor.embed_one, monitor.embed, lambda all_images: list(monitor.embed_iter(all_images))):
        with pytest.raises(EncoderClosedError, match="this monitor was closed"):
            call(images)
    with pytest.raises(EncoderClosedError):
        monitor.save()
    assert encoder.embed_one(images[0]).shape == (128,)


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"budget": 0.0}, {"budget": 1.5}, {"save_seconds": 0.0}, {"save_seconds": float("nan")}]
)
def test_an_argument_out_of_range_is_refused(wrong: dict[str, Any], digits: Digits, encoder: Encoder) -> None:
    (name,) = wrong
    with pytest.raises(RequestError, match=rf"{name} (is )?{wrong[name]}.* Pass every from 1 on"):
        DriftMonitor(encoder, digits.float32, **wrong)


def test_a_reference_that_does_not_fit_is_refused(digits: Digits, encoder: Encoder, tmp_path: Path) -> None:
    other = ReferenceDistribution.from_embeddings(np.random.default_rng(0).normal(size=(30, 16)))
    with pytest.raises(RequestError, match="embeddings of 16 values, the encoder gives 128"):
        DriftMonitor(encoder, other)
    (tmp_path / "model.tflite").write_bytes(b"no model")
    with pytest.raises(NotTFLiteError, match=r"model\.tflite"):
        DriftMonitor(encoder, tmp_path / "model.tflite", state=tmp_path / "door.json")
    # Nothing holds the state after a start that failed.
    DriftMonitor(encoder, digits.float32, state=tmp_path / "door.json").close()


def test_a_reference_with_frozen_constants_embeds_another_function(
    digits: Digits, encoder: Encoder, run: Run, tmp_path: Path
) -> None:
    """What freezing changes would look like drift of the file."""
    frozen = ("--normalization", "frozen", "--calibration-data", digits.calibration, "--num-samples", "20")
    done = run("export-tflite", digits.float32, "-q", "float32", *frozen, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    (reference,) = tmp_path.glob("*.tflite")
    with pytest.raises(RequestError, match=r"the reference normalizes by .*frozen.*Use the float32 file of the same"):
        DriftMonitor(encoder, reference)


def test_a_plain_reference_is_fed_by_the_encoders_contract(
    digits: Digits, encoder: Encoder, images: np.ndarray, vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    graph = Graph(read_artifact(digits.float32).flatbuffer)
    graph.model.metadata, graph.model.description = [], "MLIR Converted."
    (tmp_path / "plain.tflite").write_bytes(graph.to_bytes())
    state = tmp_path / "door.json"
    with DriftMonitor(encoder, tmp_path / "plain.tflite", every=1, budget=None, state=state) as monitor:
        monitor.embed(images)
    assert stored_bytes(state) == paired_bytes(*vectors)


def test_a_quantized_reference_is_told_of(digits: Digits, encoder: Encoder) -> None:
    with pytest.warns(EmbedliteWarning, match=r"the reference is itself quantized \(dynamic\)"):
        DriftMonitor(encoder, digits.file("dynamic")).close()


def test_only_who_monitors_imports_the_monitor() -> None:
    program = (
        "import sys\nfrom embedlite.runtime import Encoder\n"
        "loaded = [name for name in sys.modules if name.startswith('embedlite.runtime.monitor')]\n"
        "from embedlite.runtime import DriftMonitor\n"
        "print(loaded, [name for name in ('click', 'PIL', 'tensorflow', 'ai_edge_litert') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"
