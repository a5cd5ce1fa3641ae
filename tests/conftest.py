"""What many tests share: the example's files, small encoders, and the commands as subprocesses."""

import contextlib
import gc
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Before the others, because numpy counts the processors for its threads when it is imported.
import one_processor  # noqa: F401

# isort: split
import numpy as np
import pytest
from PIL import Image

from embedlite.runtime.machine import available_threads

from project_wheel import ROOT, build_wheel
from quick import is_quick, starts_a_world
from seeded import seed_everything
from servers import CONNECTION_LOST, ReadyPython, ready_python
from servers.client import READ_BY_ALL
from shared import made_once
from ways_out import meet_errors

for name in ("COLUMNS", "LINES"):
    # Readline sets them in whatever imports it, pytest-xdist's processes too; commands lay out their lines by them.
    os.environ.pop(name, None)

LONGEST_FIRST = (
    "test_seeds.py",
    "test_resolve.py",
    "test_device.py",
    "test_recognise.py",
    "test_export.py",
    "test_docs_export.py",
    "test_search_command.py",
    "test_docs_scale_out.py",
    "test_export_command.py",
    "test_applications.py",
    "test_docs.py",
    "test_float_end.py",
    "test_scaling.py",
    "test_install.py",
    "test_engine.py",
    "test_calibration_cache.py",
    "test_hostile_models.py",
    "test_recurrent.py",
    "test_ladder.py",
    "test_device_commands.py",
    "test_ways_out.py",
    "test_c_source.py",
    "test_doubt_contract.py",
    "test_runtimes_agree.py",
    "test_freeze.py",
    "test_fine_tune.py",
    "test_mediapipe.py",
    "test_formats.py",
    "test_search.py",
    "test_keras_2.py",
)
"""Files of tests that take longest, in the order of that."""


# Tracing a model makes objects by the hundred thousand, and few in cycles: looking for those after every 700 takes a
# sixth of the time of such tests.
gc.set_threshold(50_000, 20, 50)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--digits", metavar="FOLDER", help="use what an earlier `run.py demo FOLDER` left there")
    parser.addoption("--quick", action="store_true", help="only tests that start neither TensorFlow nor another world")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, because some wait for an index of packages, a browser or an end by signal.

    xdist counts cores, of which a small virtual machine may have only one.
    """
    return available_threads() + 1


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--quick``, a file of tests that start another world is not even imported."""
    return True if config.getoption("--quick") and starts_a_world(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first: a file stays in one process, and the last one would leave the other processors idle."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if config.getoption("--quick"):
        config.hook.pytest_deselected(items=[item for item in items if not is_quick(item)])
        items[:] = [item for item in items if is_quick(item)]


def pytest_collectstart() -> None:
    """Modules of tests make the same layers each time, whatever was imported before them."""
    seed_everything()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before its fixtures: a test has the same weights alone, and after any other."""
    seed_everything()


@pytest.fixture(autouse=True, scope="module")
def _collections_pass_over_what_stays() -> None:
    """Garbage is collected ever again while models are traced, and all that was ever imported looked through for it."""
    gc.collect()
    gc.freeze()


TRIES_NOTHING = ("--calibrate-method", "minmax", "--no-equalize", "--correct", "none")
"""Options of a command as ``encoders.PLAIN`` says them in Python."""


@dataclass(frozen=True)
class Digits:
    """The folder that the example fills; see examples/digits.py."""

    folder: Path
    output: str

    @property
    def model(self) -> Path:
        return self.folder / "model.keras"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration"

    @property
    def test_images(self) -> Path:
        return self.folder / "test"

    @property
    def float32(self) -> Path:
        return self.file("float32")

    @property
    def int8(self) -> Path:
        return self.file("int8")

    def file(self, mode: str) -> Path:
        return self.folder / f"model.{mode}.tflite"


@pytest.fixture(scope="session")
def digits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """A trained digit encoder with all its files, made by the example itself."""
    given = request.config.getoption("--digits")
    if given:
        return Digits(Path(given).resolve(), "")
    folder = tmp_path_factory.mktemp("digits")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "digits.py", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Digits(folder, done.stdout)


@pytest.fixture(scope="session")
def ready() -> Iterator[ReadyPython]:
    """Processes that have imported what the commands import; each command is a fork of one, see :mod:`servers`."""
    with ready_python() as servers:
        yield servers


@pytest.fixture(autouse=True, scope="session")
def _signals_arrive() -> Iterator[None]:
    """In the background signals are ignored (a shell does that to SIGINT, nohup to SIGHUP), and children inherit it.

    A signal that has a handler here has its default in what a test starts.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: lambda number, frame: None}
    ignored = [number for number in handlers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, handlers[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def _what_is_marked_meets_its_errors(request: pytest.FixtureRequest) -> Iterator[None]:
    marks = list(request.node.iter_markers("walks"))
    with meet_errors(marks) if marks else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def _variables() -> dict[str, str]:
    """What the shell, and imports of test modules, gave this process before any test."""
    return _read_once()


@pytest.fixture(autouse=True)
def _libraries_set_no_variables_of_commands(_variables: dict[str, str]) -> Iterator[None]:
    """Libraries set such variables, OpenCV $LD_LIBRARY_PATH, Dask's clusters $OMP_NUM_THREADS; a user's shell does not.

    Before a test as well as after it: a cluster may be of the module.
    """
    _restore(_variables)
    yield
    _restore(_variables)


def _restore(variables: dict[str, str]) -> None:
    for name in _read_once():
        if name not in variables:
            del os.environ[name]
    os.environ.update(variables)


def _read_once() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(READ_BY_ALL)}


@pytest.fixture(scope="module")
def served(ready: ReadyPython) -> Iterator[None]:
    """What the code under test starts with ``sys.executable``, such as an interpreter, is a fork as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(ready.executable))
        yield


@dataclass(frozen=True)
class Run:
    """Runs one of the project's commands, or ``python``, as a user would; never with a terminal."""

    ready: ReadyPython

    def __call__(
        self,
        command: str,
        *arguments: str | Path,
        runtime: str | None = None,
        world: str | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run it in a process of its own that has imported everything already.

        Args:
            command: one of the project's; or ``python``, which only with a world has imported anything.
            arguments: its own.
            runtime: $EMBEDLITE_RUNTIME.
            world: ``tensorflow`` or ``device``: what ``python`` finds imported.
            cwd: the current folder.
        """
        if command == "python" and world is None:
            return self.cold(command, *arguments, runtime=runtime, cwd=cwd)
        done = self._run([*self.ready.of(world or "auto"), *self._script(command)], arguments, runtime, cwd)
        if done.returncode == CONNECTION_LOST:
            raise RuntimeError(f"{done.stderr}{self.ready.log()}")
        return done

    def cold(
        self, command: str, *arguments: str | Path, runtime: str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it in a process that imports everything itself: for what imports say, cost, or must not import."""
        return self._run([self.ready.python, *self._script(command)], arguments, runtime, cwd)

    @staticmethod
    def _script(command: str) -> list[str]:
        return [] if command == "python" else [str(Path(sysconfig.get_path("scripts"), command))]

    @staticmethod
    def _run(
        program: list[str], arguments: tuple[str | Path, ...], runtime: str | None, cwd: Path | None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *(str(argument) for argument in arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**_without_size(), **({"EMBEDLITE_RUNTIME": runtime} if runtime else {})},
            # For a machine with much else to do; alone, the longest takes half a minute.
            timeout=1200,
            check=False,
        )


def _without_size() -> dict[str, str]:
    """The environment without the size of a terminal that there is not; commands print 100 columns then."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


@pytest.fixture(scope="session")
def run(ready: ReadyPython) -> Run:
    """Commands as users run them."""
    return Run(ready)


def save_small_encoder(run: Run, path: Path, sizes: str = "") -> None:
    """Save a small encoder with a min-max at its end, in a process of its own: this one stays free of TensorFlow.

    Args:
        run: the fixture.
        path: of the ``.keras``.
        sizes: what else :func:`encoders.small_encoder` is given, as Python writes it.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'support')!r})\n"
        "from encoders import small_encoder\n"
        "from keras import layers\n"
        "from embedlite.convert.layers import MinMaxNormalization\n"
        f"small_encoder([layers.Flatten(), MinMaxNormalization()], {sizes}).save({str(path)!r})\n"
    )
    done = run("python", "-c", code, world="tensorflow")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A small saved encoder."""

    def make(folder: Path) -> None:
        save_small_encoder(run, folder / "small.keras")

    return made_once(tmp_path_factory, "small", make) / "small.keras"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty 24x24 RGB crops of scikit-image's photos, as PNG files."""

    def make(folder: Path) -> None:
        from skimage import data

        rng = np.random.default_rng(0)
        for name in ("astronaut", "coffee", "chelsea"):
            photo = getattr(data, name)()
            for index in range(20):
                top, left = (int(rng.integers(0, size - 120)) for size in photo.shape[:2])
                crop = Image.fromarray(photo[top : top + 120, left : left + 120]).resize((24, 24))
                crop.save(folder / f"{name}{index:02d}.png")

    return made_once(tmp_path_factory, "photos", make)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    (built,) = made_once(tmp_path_factory, "wheel", build_wheel).glob("*.whl")
    return built


def blocks(document: str, language: str) -> list[str]:
    """The contents of a Markdown document's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


def console_commands(document: str) -> list[list[str]]:
    """The commands of its console blocks, each split into words."""
    lines = "".join(blocks(document, "console")).splitlines()
    return [shlex.split(line[2:]) for line in lines if line.startswith("$ ")]


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one error a command printed; fails if there was a traceback or anything on stdout."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]
