"""The servers that commands are forked from: each command is as one that the shell started."""

import contextlib
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedlite.runtime.commands.start import ENDING

import servers
from conftest import Run
from servers import CONNECTION_LOST, ReadyPython, ready_python

SHOW = (
    "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ.get('EMBEDLITE_TEST'), sys.stdin.read(), __name__)\n"
    "print('tensorflow' in sys.modules, file=sys.stderr); sys.exit(int(sys.argv[1]))"
)
SUPPORT = Path(servers.__file__).parent
IMPORTED = "import sys; print('click' in sys.modules)"


def test_arguments_streams_folder_environment_and_exit_code_are_its_own(
    ready: ReadyPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (0, 1, 130):
        monkeypatch.setenv("EMBEDLITE_TEST", f"value {code}")
        done = subprocess.run(
            [*ready.of("device"), "-c", SHOW, str(code), "two words"],
            cwd=tmp_path,
            input="asked",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert done.stdout == f"['{code}', 'two words'] {tmp_path} value {code} asked __main__\n"
        assert done.stderr == "False\n"


def test_what_one_command_changes_no_other_sees(run: Run) -> None:
    first = "import os, click; click.left = 1; os.environ['LEFT'] = '1'; os.chdir('/'); os.umask(0o777)"
    assert run("python", "-c", first, world="device").returncode == 0
    second = "import os, click; print(hasattr(click, 'left'), 'LEFT' in os.environ, os.getcwd() != '/', os.umask(0))"
    for _ in range(2):
        assert run("python", "-c", second, world="device").stdout == f"False False True {own_umask()}\n"


def own_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_each_command_is_another_process(run: Run) -> None:
    show = "import os, numpy; print(os.getpid(), numpy.random.random())"
    shown = [run("python", "-c", show, world="device").stdout.split() for _ in range(3)]
    assert len({process for process, _ in shown}) == len({number for _, number in shown}) == 3


def test_a_traceback_is_exit_code_one_and_a_crash_its_signal(run: Run) -> None:
    failed = run("python", "-c", "raise ValueError('seen')", world="device")
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, "ValueError: seen")
    for number in (signal.SIGABRT, signal.SIGKILL):
        crashed = run("python", "-c", f"import os; os.kill(os.getpid(), {int(number)})", world="device")
        assert crashed.returncode == -number


def test_who_is_no_longer_waited_for_is_ended(ready: ReadyPython, tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    command = subprocess.Popen([*ready.of("device"), "-c", code])
    pid = wait_for_pid(tmp_path / "pid")
    command.kill()
    command.wait()
    wait_for_end(pid)


def wait_for_pid(path: Path) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
        time.sleep(0.02)
    raise TimeoutError(path)


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_variables_that_imports_read_make_a_process_that_imports(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("python", "-c", IMPORTED, world="device").stdout == "True\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run("python", "-c", IMPORTED, world="device").stdout == "False\n"


def test_variables_are_as_before_the_imports_of_a_server_or_as_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or no command that needs TensorFlow is served once a test module has imported OpenCV, which Keras does."""
    monkeypatch.syspath_prepend(SUPPORT)
    could = runpy.run_path(str(SUPPORT / "server.py"))["_could_have_imported"]
    del sys.modules["client"]
    before = {"LD_LIBRARY_PATH": "cv2", "HOME": "/root"}
    after = {"LD_LIBRARY_PATH": "cv2:cv2", "HOME": "/root", "TF_SET_BY_IMPORT": "1"}
    for served in (before, after, {**before, "HOME": "/elsewhere"}, {**before, "TF_SET_BY_IMPORT": "1"}):
        assert could("tensorflow", served, before, after)
    for other in ({}, {"LD_LIBRARY_PATH": "mine"}, {**before, "OMP_NUM_THREADS": "1"}, {**after, "TF_MINE": "1"}):
        assert not could("tensorflow", other, before, after)


def test_so_do_limits_that_a_fork_of_another_process_would_not_have(ready: ReadyPython) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command = [*ready.of("device"), "-c", IMPORTED]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_signals_that_are_ignored_are_ignored_in_a_fork(ready: ReadyPython) -> None:
    """The project's commands ignore SIGTTOU, and so does what they start."""
    shown = f"{IMPORTED}; import signal; print(signal.getsignal(signal.SIGTTOU).name)"
    for before, name in (("", "SIG_DFL"), ("signal.signal(signal.SIGTTOU, signal.SIG_IGN); ", "SIG_IGN")):
        words = [*ready.of("device"), "-c", shown]
        code = f"import os, signal; {before}os.execv({words[0]!r}, {words!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout == f"True\n{name}\n", done.stderr


def test_signals_that_are_blocked_are_blocked_in_a_fork(ready: ReadyPython) -> None:
    """A Keras reference is started so; where it is not served, each imports TensorFlow."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    shown = f"{IMPORTED}; import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))"
    words = [*ready.of("device"), "-c", shown]
    for added in ((), (signal.SIGINT, *ENDING)):
        signal.pthread_sigmask(signal.SIG_BLOCK, added)
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        assert done.stdout == f"True\n{sorted(map(int, {*blocked, *added}))}\n", done.stderr


def test_other_programs_are_run_by_python(ready: ReadyPython) -> None:
    show = [ready.executable, "-c", "import sys; print('numpy' in sys.modules, sys.executable)"]
    assert subprocess.run(show, capture_output=True, text=True, check=True).stdout == f"False {ready.python}\n"


def test_a_client_that_leaves_before_its_request_is_whole_stops_nobody(ready: ReadyPython, run: Run) -> None:
    for said in (b"", b"\0\0\0", (9).to_bytes(8, "big"), (9).to_bytes(8, "big") + b"{}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(ready.folder / "device"))
            client.sendall(said)
    assert run("python", "-c", IMPORTED, world="device").stdout == "True\n"


def test_a_server_that_ends_is_said_and_python_takes_its_place(capfd: pytest.CaptureFixture[str]) -> None:
    """While a command runs it is an error, which names the server; before that, Python runs the command."""
    kill_the_server = "import os, time; os.kill(os.getppid(), 9); time.sleep(60)"
    with ready_python() as ready:
        run = Run(ready)
        with pytest.raises(RuntimeError, match=r"server device .* ended before the command did"):
            run("python", "-c", kill_the_server, world="device")
        assert run("python", "-c", IMPORTED, world="device").stdout == "False\n"
    assert "ended before they were told to: ['device']" in capfd.readouterr().err


def test_servers_end_with_what_they_run(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with ready_python() as ready:
        command = subprocess.Popen([*ready.of("device"), "-c", code], stderr=subprocess.DEVNULL)
        pid = wait_for_pid(tmp_path / "pid")
    wait_for_end(pid)
    assert command.wait(60) == CONNECTION_LOST
