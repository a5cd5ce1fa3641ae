"""The monitor's state file: whole at every moment, whatever the power, the disk or another process does."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedlite.runtime import DriftMonitor, Encoder
from embedlite.runtime.errors import EmbedliteError, EmbedliteWarning, MonitorStateError, OutputError
from embedlite.runtime.files import sha256
from embedlite.runtime.monitor.distribution import canonical_bytes
from embedlite.runtime.monitor.state import MonitorState, read_state

from conftest import Digits
from servers import ReadyPython

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), np.uint8)


@pytest.fixture(scope="module")
def encoder(digits: Digits) -> Iterator[Encoder]:
    with Encoder(digits.int8, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def state_bytes(digits: Digits, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A state with twenty inputs."""
    path = tmp_path_factory.mktemp("state") / "door.json"
    with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=path, device="door") as monitor:
        monitor.embed(IMAGES)
    return path.read_bytes()


@pytest.fixture
def state(state_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "door.json"
    path.write_bytes(state_bytes)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def saved_inputs(path: Path) -> int | None:
    return read_state(path).counters["inputs"] if path.exists() else None


def altered(state_bytes: bytes, **changes: object) -> bytes:
    """The state with other content, and a checksum that says it is right."""
    value = {**json.loads(state_bytes), **changes}
    body = {name: value[name] for name in MonitorState.__dataclass_fields__}
    return canonical_bytes({**value, "sha256": sha256(canonical_bytes(body))})


def test_a_state_goes_on_where_it_was(digits: Digits, encoder: Encoder, state: Path) -> None:
    """Two runs, the second without a name, are one as if nothing had happened between."""
    with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=state) as monitor:
        assert monitor.counters["compared"] == 20
        monitor.embed(IMAGES[:5])
    again = read_state(state)
    whole = state.with_name("whole.json")
    with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=whole) as monitor:
        monitor.embed(np.concatenate([IMAGES, IMAGES[:5]]))
    assert again.statistics.to_json() == read_state(whole).statistics.to_json()
    assert (again.device, again.counters["inputs"]) == ("door", 25)


def test_a_state_is_saved_when_its_time_has_come(digits: Digits, encoder: Encoder, tmp_path: Path) -> None:
    now, state = 0.0, tmp_path / "door.json"
    with DriftMonitor(encoder, digits.float32, budget=0.01, state=state, save_seconds=60, clock=lambda: now) as monitor:
        for now, saved in ((59.0, None), (61.0, 2), (119.0, 2), (122.0, 4)):  # noqa: B007
            monitor.embed_one(IMAGES[0])
            deadline = time.monotonic() + 30
            while saved_inputs(state) != saved and time.monotonic() < deadline:
                time.sleep(0.01)
            assert saved_inputs(state) == saved


# Power cuts

ENDLESS = """
    import signal, sys
    import numpy as np
    from embedlite.runtime import DriftMonitor, Encoder

    encoder = Encoder(sys.argv[1], threads=1)
    monitor = DriftMonitor(encoder, sys.argv[2], every=1, budget=None, state="door.json", save_seconds=1e-9)
    image = np.zeros((32, 32, 1), np.uint8)
    while True:
        monitor.embed_one(image)
        if monitor.counters["inputs"] % 10 == 0:
            monitor.save()
            print(monitor.counters["inputs"], flush=True)
"""


def test_a_process_killed_at_any_moment_leaves_a_whole_state(
    digits: Digits, ready: ReadyPython, tmp_path: Path
) -> None:
    """SIGKILL while it does little else than write: what it said was saved is there, and each start goes on."""
    state, saved, chance = tmp_path / "door.json", 0, random.Random(0)
    for cuts in range(1, 7):
        # The server kills the process of whoever is killed, and all is read once that is gone.
        program = [*ready.of("device"), "-c", textwrap.dedent(ENDLESS), digits.int8, digits.float32]
        with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = int(process.stdout.readline())
            assert first > saved, "it went on from what was saved before"
            time.sleep(chance.random() / 4)
            process.kill()
            told = [first, *map(int, process.stdout.read().split())]
        assert process.returncode == -signal.SIGKILL
        found = read_state(state)
        assert found.counters["inputs"] >= told[-1]
        lost = found.counters["inputs"] - found.statistics.counts["rows"]
        assert 0 <= lost <= 9 * cuts, "with each cut at most those that waited and the one that was not handed over yet"
        saved = found.counters["inputs"]
        assert set(names(tmp_path)) <= {"door.json", "door.json.lock", "door.json.tmp"}


CUT = """
    import resource, signal, sys
    import numpy as np
    from embedlite.runtime import DriftMonitor, Encoder

    with Encoder(sys.argv[1], threads=1) as encoder:
        monitor = DriftMonitor(encoder, sys.argv[2], every=1, budget=None, state="door.json")
        monitor.embed(np.zeros((5, 32, 32, 1), np.uint8))
        # The system ends the process at the first byte beyond this.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
        monitor.save()
"""


@pytest.mark.parametrize("size", [1, 5000])
def test_a_process_that_dies_within_a_write_leaves_the_old_state(
    size: int, digits: Digits, encoder: Encoder, state: Path, state_bytes: bytes
) -> None:
    program = [sys.executable, "-c", textwrap.dedent(CUT), digits.int8, digits.float32, str(size)]
    done = subprocess.run(program, cwd=state.parent, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGXFSZ, done.stderr
    half = state.with_name("door.json.tmp")
    assert half.stat().st_size == size
    assert state.read_bytes() == state_bytes
    with DriftMonitor(encoder, digits.float32, every=1, budget=None, state=state) as monitor:
        assert monitor.counters["compared"] == 20
    assert not half.exists()


# A disk that refuses

FULL = """
    import resource, sys, warnings
    import numpy as np
    from embedlite.runtime import DriftMonitor, Encoder

    warnings.showwarning = lambda message, *_, **__: print(message)
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), np.uint8)
    with Encoder(sys.argv[1], threads=1) as encoder:
        expected = encoder.embed(images)
        with DriftMonitor(encoder, sys.argv[2], every=1, budget=None, state="door.json", save_seconds=1e-9) as monitor:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
            print(np.array_equal(np.stack([monitor.embed_one(image) for image in images]), expected))
            try:
                monitor.save()
            except Exception as error:
                print(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(monitor.counters["compared"], type(monitor.last_error).__name__)
"""


def test_a_full_disk_ends_nothing_and_is_told_of_once(digits: Digits, state: Path) -> None:
    """The service goes on, the old state stays, nothing counted is lost once there is room again."""
    program = [sys.executable, "-c", textwrap.dedent(FULL), digits.int8, digits.float32]
    done = subprocess.run(program, cwd=state.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told, *rest = done.stdout.splitlines()
    assert told.startswith("the drift monitor goes on without this: cannot write door.json: File too large. ")
    assert rest == ["True", "OutputError", "40 OutputError"]
    assert read_state(state).counters["inputs"] == 40
    assert names(state.parent) == ["door.json", "door.json.lock"]


def test_a_state_whose_folder_went_away_is_a_warning_at_the_end(
    digits: Digits, encoder: Encoder, tmp_path: Path
) -> None:
    folder = tmp_path / "card"
    folder.mkdir()
    monitor = DriftMonitor(encoder, digits.float32, state=folder / "door.json")
    folder.rename(tmp_path / "elsewhere")
    monitor.embed_one(IMAGES[0])
    with pytest.raises(OutputError, match=r"cannot write .*card/door\.json: No such file"):
        monitor.save()
    with pytest.warns(EmbedliteWarning, match=r"cannot write .*card/door\.json"):
        monitor.close()


def test_a_place_where_no_state_can_be_is_refused_at_the_start(digits: Digits, encoder: Encoder, state: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        DriftMonitor(encoder, digits.float32, state=state.parent / "missing" / "door.json")


# What is not a state, or not this monitor's


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_state_is_refused_or_the_same(data: st.DataObject, state_bytes: bytes) -> None:
    """Any bit flipped, or cut short anywhere: never a state with other figures."""
    place = data.draw(st.integers(0, len(state_bytes) - 1))
    if data.draw(st.booleans()):
        damaged = state_bytes[:place]
    else:
        flipped = state_bytes[place] ^ 1 << data.draw(st.integers(0, 7))
        damaged = state_bytes[:place] + bytes([flipped]) + state_bytes[place + 1 :]
    try:
        found = MonitorState.from_bytes(damaged)
    except (MonitorStateError, KeyError, TypeError, ValueError, AttributeError):
        return
    assert found.to_bytes() == state_bytes


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b'{"embedlite": 7}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_state_is_set_aside_with_a_warning(
    content: bytes, digits: Digits, encoder: Encoder, state: Path
) -> None:
    """Not lost, not in the way, and not silent; also the second time."""
    for number in (1, 2):
        state.write_bytes(content)
        with (
            pytest.warns(EmbedliteWarning, match=rf"is not a state.*kept as .*door\.json\.damaged-{number},"),
            DriftMonitor(encoder, digits.float32, every=1, budget=None, state=state) as monitor,
        ):
            monitor.embed(IMAGES[:3])
        assert state.with_name(f"door.json.damaged-{number}").read_bytes() == content
        assert read_state(state).counters["inputs"] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"counters": {"inputs": 1.5, "skipped": 0, "failed": 0}},
        {"counters": {}},
        {"embedding_size": 0},
        {"embedding_size": 1 << 40},
        {"embedding_size": 127},
        {"reference": {"kind": "rumour", "sha256": ""}},
        {"reference": {"kind": "distribution", "sha256": ""}},
        {"candidate": {}},
        {"candidate": {"sha256": 7}},
        {"device": ["door"]},
        {"runtimes": None},
        {"series": 5},
        {"statistics": []},
    ],
)
def test_content_that_cannot_be_is_refused_even_with_a_checksum(
    changes: dict[str, object], state: Path, state_bytes: bytes
) -> None:
    state.write_bytes(altered(state_bytes, **changes))
    with pytest.raises(EmbedliteError, match=r"door\.json is not a state of DriftMonitor, or damaged"):
        read_state(state)


def test_a_state_of_a_newer_version_is_left_alone(
    digits: Digits, encoder: Encoder, state: Path, state_bytes: bytes
) -> None:
    newer = altered(state_bytes, schema=2)
    state.write_bytes(newer)
    with pytest.raises(MonitorStateError, match=r"door\.json: it has schema 2; .* reads up to 1\. Install"):
        DriftMonitor(encoder, digits.float32, state=state)
    assert state.read_bytes() == newer


def test_a_state_of_another_model_or_reference_is_refused_and_kept(
    digits: Digits, encoder: Encoder, state: Path, state_bytes: bytes
) -> None:
    with (
        Encoder(digits.file("dynamic"), threads=1) as other,
        pytest.raises(MonitorStateError, match=r"door\.json holds statistics of another model"),
    ):
        DriftMonitor(other, digits.float32, state=state)
    with (
        pytest.warns(EmbedliteWarning, match="itself quantized"),
        pytest.raises(MonitorStateError, match=r"door\.json holds statistics of another reference"),
    ):
        DriftMonitor(encoder, digits.file("float16"), state=state)
    assert state.read_bytes() == state_bytes


def test_two_monitors_never_share_a_state(digits: Digits, encoder: Encoder, state: Path) -> None:
    with DriftMonitor(encoder, digits.float32, state=state):
        with pytest.raises(MonitorStateError, match=r"door\.json is in use by another monitor"):
            DriftMonitor(encoder, digits.float32, state=state)
        program = (
            "import sys\nfrom embedlite.runtime import DriftMonitor, Encoder\n"
            "DriftMonitor(Encoder(sys.argv[1]), sys.argv[2], state=sys.argv[3])\n"
        )
        arguments = [digits.int8, digits.float32, state]
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
        assert "MonitorStateError" in done.stderr
    DriftMonitor(encoder, digits.float32, state=state).close()
