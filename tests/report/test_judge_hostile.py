"""A saved report that somebody changed: ``drift-report --judge`` gives one error or a report, never a traceback."""

import collections
import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from hostile import HOSTILE, places

from embedlite.report.command import drift_report
from embedlite.runtime.errors import EmbedliteError

SEED, CHANGES = 5, 150


def test_any_value_of_a_saved_report(tmp_path: Path) -> None:
    """Any value in a place, a place left out, any number far off; with and without the page."""
    run, rng, rows = CliRunner(), random.Random(SEED), np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    ids = np.array([f"image {number}" for number in range(len(rows))])
    for name, values in {"candidate": rows + 0.01, "reference": rows}.items():
        np.savez(tmp_path / f"{name}.npz", embeddings=values.astype(np.float32), ids=ids, model_sha256=name)
    saved, page = tmp_path / "report.json", tmp_path / "page.html"
    run.invoke(
        drift_report,
        [str(tmp_path / "candidate.npz"), "--reference", str(tmp_path / "reference.npz"), "--json", str(saved)],
        standalone_mode=False,
        catch_exceptions=False,
    )
    sound, ends = json.loads(saved.read_text()), collections.Counter[str]()
    for _ in range(CHANGES):
        value: Any = copy.deepcopy(sound)
        container, key = rng.choice(list(places(value)))
        how = rng.randrange(3)
        if how == 0:
            del container[key]
        elif how == 1 and isinstance(container[key], (int, float)):
            container[key] *= rng.choice((-1, 1e300, 10**20))
        else:
            container[key] = copy.deepcopy(rng.choice(HOSTILE))
        saved.write_text(json.dumps(value))
        drawn = ["--html", str(page)] if rng.random() < 0.3 else []
        done = run.invoke(drift_report, ["--judge", str(saved), *drawn], standalone_mode=False)
        assert done.exception is None or isinstance(done.exception, EmbedliteError), (container, key, done.exception)
        ends["report" if done.exception is None else "error"] += 1
        page.unlink(missing_ok=True)
    assert min(ends.values()) > CHANGES // 10
    assert len(ends) == 2
