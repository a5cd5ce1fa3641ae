"""A command's work in a process of its own: how it ends is passed on, or is one clear error, and nothing is left."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from graphs import written_encoder

from embedlite.runtime.child_limits import bounded

from conftest import Run
from ways_out import walks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands fork on Linux only")

PROGRAM = """
import os, signal, sys, tempfile, time
from pathlib import Path
import click
from embedlite.runtime.commands import supervise
from embedlite.runtime.commands.options import run_command
from embedlite.runtime.child_limits import bounded, note_made

model = Path(__file__)

def ready():
    Path(tempfile.mkdtemp(), "large").write_bytes(b"x")
    print(tempfile.gettempdir(), flush=True)

@click.command()
def command():
{body}

if "SIG_" "IGN" in model.read_text():
    supervise._PATIENCE = 0.1
run_command(command, runs_models=True)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a command with this body; its temporary folders lie in ``tmp``."""
    (tmp_path / "tmp").mkdir()

    def started(body: str) -> "subprocess.Popen[str]":
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    ")))
        return subprocess.Popen(
            [sys.executable, program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
            cwd=tmp_path,
        )

    return started


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and stderr."""
    stderr = process.communicate(timeout=60)[1]
    return process.returncode, stderr


ENDS: dict[str, tuple[str, int, str]] = {
    "an answer": ("ready(); return 1", 1, ""),
    "nothing": ("ready()", 0, ""),
    "a crash": (
        "ready(); os.kill(os.getpid(), signal.SIGSEGV)",
        2,
        "error: the process that did the work crashed (SIGSEGV). The model is damaged",
    ),
    "a crash while loading": (
        "with bounded('loading it', model, 60): os.abort()",
        2,
        "error: the process that did the work crashed while loading it (SIGABRT). The model is damaged",
    ),
    "no end": (
        "with bounded('loading it', model, 0.1):\n    while True: pass",
        2,
        "error: loading it took longer than 0.1 s and was ended. If the model is large and you trust it, allow more",
    ),
    "memory": (
        "with bounded('loading it', model, 60): bytearray(1 << 42)",
        2,
        "error: memory ran out while loading it, which may take ",
    ),
    "memory in C++": (
        "with bounded('loading it', model, 60):\n    os.write(2, b'what():  std::bad_alloc')\n    os.abort()",
        2,
        "error: memory ran out while loading it, which may take ",
    ),
    "the system's end": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        2,
        "error: the system ended the process that did the work (SIGKILL), as it does where memory runs out.",
    ),
    "an empty folder of results": (
        "os.mkdir('out'); note_made(Path('out')); os.kill(os.getpid(), signal.SIGSEGV)",
        2,
        "error: the process that did the work crashed (SIGSEGV).",
    ),
}


@pytest.mark.parametrize("kind", ENDS)
def test_ends(kind: str, start: Start, tmp_path: Path) -> None:
    body, code, message = ENDS[kind]
    found, stderr = ended(start(body))
    assert found == code
    assert stderr.startswith(message)
    assert len(stderr.splitlines()) == bool(message), stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program.py", "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "body",
    [
        "ready(); time.sleep(60)",
        # A library in C++ that does not come back to Python.
        "for n in (2, 15, 1): signal.signal(n, signal.SIG_IGN)\n"
        "with bounded('loading', model, 60):\n    ready(); time.sleep(60)",
    ],
    ids=["Python", "C++"],
)
def test_signals_end_it_and_nothing_is_left(number: int, body: str, start: Start, tmp_path: Path) -> None:
    process = start(body)
    assert process.stdout is not None
    folder = process.stdout.readline().strip()
    assert Path(folder).is_relative_to(tmp_path / "tmp")
    process.send_signal(number)
    code, stderr = ended(process)
    assert code == 128 + number
    assert stderr.strip() == "interrupted: nothing was written."
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends(number: int, start: Start) -> None:
    """Python takes its handlers away before it has ended: the work was done, and nothing crashed."""
    process = start("import atexit; atexit.register(lambda: (ready(), time.sleep(0.5)))")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    assert ended(process) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_command_started_ends_without_a_word(number: int, start: Start, tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text("print('it runs', file=open('started', 'w'))\nimport time; time.sleep(60)\n")
    process = start("from embedlite.report.reference import ask_tensorflow; ask_tensorflow('sleeps', {})")
    begun = time.monotonic()
    while not (tmp_path / "started").exists():
        assert time.monotonic() < begun + 60
        time.sleep(0.05)
    process.send_signal(number)
    code, stderr = ended(process)
    assert (code, stderr.strip()) == (128 + number, "interrupted: nothing was written.")


def test_the_work_ends_with_the_process_that_waits(start: Start) -> None:
    process = start("ready(); time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    # Its standard output is closed when the last process that has it is gone.
    assert process.communicate(timeout=60)[0] == ""


def test_a_process_that_is_nobody_elses_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.delenv("EMBEDLITE_PROCESS", raising=False)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with bounded("loading", Path(__file__), 1):
        assert resource.getrlimit(resource.RLIMIT_AS) == before
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_limits_hold_while_a_model_is_loaded_and_no_longer(start: Start) -> None:
    body = """
        import resource
        kinds = (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)
        before = [resource.getrlimit(kind)[0] for kind in kinds]
        with bounded('loading', model, 60):
            inside = [resource.getrlimit(kind)[0] for kind in kinds]
        assert [resource.getrlimit(kind)[0] for kind in kinds] == before
        assert inside[0] >= 8 << 30 and inside[1] > 0 and inside[2] >= 4 << 30 and inside[3] == 0, inside
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    """
    assert ended(start(body)) == (0, "")


LOADS_SLOWLY = """
import sys
import time
import embedlite.convert.exporting as exporting
from embedlite.convert.command import main

def load(path, options):
    # For ever, or as good as.
    while time.monotonic() < until:
        pass
    return original(path, options)

until = time.monotonic() + 2
original, exporting.load_original = exporting.load_original, load
sys.argv = ["export-tflite", "model.tflite", "-q", "float32", "-o", "out", "--time-limit", sys.argv[1]]
main()
"""


@walks("took longer than {} s and was ended. If the model is large and you trust it, allow more")
def test_a_model_that_loads_for_ever_and_one_that_is_allowed_more_time(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(written_encoder())
    done = run("python", "-c", LOADS_SLOWLY, "1", world="tensorflow", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: loading the model took longer than 1 s and was ended.")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    done = run("python", "-c", LOADS_SLOWLY, "100", world="tensorflow", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.float32.tflite").exists()


def test_what_a_command_started_ends_with_it() -> None:
    child = (
        "import time\nfrom embedlite.runtime.child_limits import end_with_parent\n"
        "end_with_parent()\nprint('here', flush=True)\ntime.sleep(20)\nprint('late', flush=True)\n"
    )
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.kill()
        assert process.stdout.read() == ""
