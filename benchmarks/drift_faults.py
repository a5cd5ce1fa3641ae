"""Planted faults: real embeddings of an int8 file, broken in the ways in which files break.

The embeddings are the example's: 450 digits that calibrated nothing, by the float32 and by the int8 file. Each fault is
planted in the int8 ones. It names the gate that should catch it; others may as well.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Rows = np.ndarray


def shuffled(rows: Rows) -> Rows:
    """The rows of other images."""
    return rows[np.random.default_rng(0).permutation(len(rows))]


def garbage(rows: Rows) -> Rows:
    """2 % of the rows are noise of the same mean and spread."""
    made, chance = rows.copy(), np.random.default_rng(0)
    chosen = chance.choice(len(rows), len(rows) // 50, replace=False)
    made[chosen] = chance.normal(rows.mean(axis=0), rows.std(axis=0), (len(chosen), rows.shape[1]))
    return made


def rotated(rows: Rows) -> Rows:
    """Another basis of the same space."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(rows.shape[1],) * 2))
    return rows @ basis.astype(np.float32)


def biased(rows: Rows) -> Rows:
    """Half a standard deviation added to every dimension."""
    return rows + np.float32(0.5) * rows.std(axis=0)


def noisy(rows: Rows) -> Rows:
    """Noise at 17 dB below the signal."""
    power = np.sqrt(np.mean(rows * rows)) * 10 ** (-17 / 20)
    return rows + power * np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)


def _widest(rows: Rows, count: int) -> np.ndarray:
    return np.argsort(rows.std(axis=0))[-count:]


def dead(rows: Rows) -> Rows:
    """One dimension stuck at its mean."""
    made = rows.copy()
    (dimension,) = _widest(rows, 1)
    made[:, dimension] = rows[:, dimension].mean()
    return made


def not_a_number(rows: Rows) -> Rows:
    """NaN in one value of one row."""
    made = rows.copy()
    made[7, 3] = np.nan
    return made


def swapped(rows: Rows) -> Rows:
    """Two dimensions in each other's place."""
    made = rows.copy()
    one, other = _widest(rows, 2)
    made[:, [one, other]] = rows[:, [other, one]]
    return made


def repeated(rows: Rows) -> Rows:
    """Every hundredth row is the one before it once more."""
    made = rows.copy()
    made[1::100] = made[0:-1:100]
    return made


FAULTS: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "rows shuffled": (shuffled, "cosine_p1"),
    "2 % garbage rows": (garbage, "cosine_p1"),
    "a rotation": (rotated, "knn_overlap_cross"),
    "a constant bias": (biased, "bias_max_sigma"),
    "noise": (noisy, "sqnr_db"),
    "one dead dimension": (dead, "dead_dimensions"),
    "NaN in one row": (not_a_number, "invalid"),
    "two dimensions swapped": (swapped, "gain_error_max"),
    "rows repeated": (repeated, "invalid"),
}


def show_faults() -> None:
    """Make the embeddings with the example, plant every fault, and print what caught it."""
    from embedlite.runtime import Encoder
    from embedlite.runtime.images.open import open_source

    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as name:
        subprocess.run([sys.executable, root / "examples" / "digits.py", name], check=True, capture_output=True)
        sides = []
        for mode in ("int8", "float32"):
            with Encoder(Path(name, f"model.{mode}.tflite")) as encoder:
                images = open_source(Path(name, "test"), encoder.contract.input)
                sides.append(np.stack(list(encoder.embed_iter(images))))
    candidate, reference = sides
    print(f"{'fault':<26}{'should fail':<20}{'failed':<70}advice")
    for fault, (plant, gate) in {"none: the int8 file": (np.copy, "nothing"), **FAULTS}.items():
        failed, action = judge(plant(candidate), reference)
        fine = gate in failed or (gate == "nothing" and not failed)
        print(f"{fault:<26}{gate:<20}{', '.join(failed) or 'nothing':<70}{action}{'' if fine else '   MISSED'}")


def judge(candidate: Rows, reference: Rows) -> tuple[list[str], str]:
    """The gates that fail, and the advice."""
    from embedlite.runtime.drift import DEFAULT_K, measure
    from embedlite.runtime.drift.report import Description, build_report
    from embedlite.runtime.drift.rows import Rows as Paired

    ids = [str(row) for row in range(len(reference))]
    facts = Description({"path": "candidate"}, {"path": "reference"}, {"count": len(ids)}, ids)
    report = build_report(measure(Paired(candidate), Paired(reference), DEFAULT_K), facts, {})
    return [gate.name for gate in report.gates if not gate.passed], report.advice.action
