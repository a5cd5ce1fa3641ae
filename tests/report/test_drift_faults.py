"""Planted faults in the example's real int8 embeddings: each fails the gate that should catch it, the file itself none.

The faults are those of ``benchmarks/drift_faults.py``, which prints them as a table.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from embedlite.runtime import Encoder
from embedlite.runtime.images.open import open_source

from conftest import ROOT, Digits

sys.path.insert(0, str(ROOT / "benchmarks"))

from drift_faults import FAULTS, judge


@pytest.fixture(scope="module")
def sides(digits: Digits) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the test images by the int8 and by the float32 file."""
    return _embed(digits.int8, digits.test_images), _embed(digits.float32, digits.test_images)


def _embed(model: Path, images: Path) -> np.ndarray:
    with Encoder(model) as encoder:
        return np.stack(list(encoder.embed_iter(open_source(images, encoder.contract.input))))


def test_the_int8_file_passes(sides: tuple[np.ndarray, np.ndarray]) -> None:
    failed, action = judge(*sides)
    # Neighbours stand in for labels: whether the old threshold stays valid depends on the digits.
    assert failed == []
    assert action in ("ship", "ship-with-threshold")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_its_gate(fault: str, sides: tuple[np.ndarray, np.ndarray]) -> None:
    candidate, reference = sides
    plant, gate = FAULTS[fault]
    broken = plant(candidate)
    assert not np.array_equal(broken, candidate, equal_nan=True)
    failed, action = judge(broken, reference)
    assert gate in failed
    assert action != "ship"
