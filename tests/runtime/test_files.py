"""Results are written whole or not at all, also by a disk that refuses."""

import hashlib
import json
import math
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.runtime.errors import EmbedliteWarning, OutputError, OutputExistsError, RequestError
from embedlite.runtime.files import (
    check_names,
    check_writable,
    finite_json,
    json_bytes,
    only_writer,
    sha256,
    write_file,
    write_files,
)


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask() -> Iterator[int]:
    mask = 0o027
    before = os.umask(mask)
    yield mask
    os.umask(before)


def test_files_are_written_as_they_were_given(tmp_path: Path) -> None:
    contents = {tmp_path / "a.bin": bytes(range(256)), tmp_path / "b.json": b"{}", tmp_path / "empty": b""}
    write_files(contents)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"a longer text than the new one")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_file(path, b"new")
        assert reader.read() == b"old"


def test_a_result_is_an_ordinary_file_under_the_users_umask(tmp_path: Path, umask: int) -> None:
    write_file(tmp_path / "a.bin", b"x")
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o666 & ~umask
    assert os.umask(umask) == umask, "the umask itself is left alone"


def test_a_bare_name_is_written_into_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable([Path("a.bin")], force=False)
    write_file(Path("a.bin"), b"x")
    assert (tmp_path / "a.bin").read_bytes() == b"x"


@pytest.mark.parametrize("last", ["missing/c.bin", "file/c.bin"])
def test_when_one_file_cannot_be_made_none_appears(last: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    (tmp_path / "b.bin").write_bytes(b"old")
    contents = {tmp_path / "a.bin": b"new", tmp_path / "b.bin": b"new", tmp_path / last: b"new"}
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / last}.*Nothing was written"):
        write_files(contents)
    assert names(tmp_path) == ["b.bin", "file"]
    assert (tmp_path / "b.bin").read_bytes() == b"old"


def test_when_the_last_destination_is_a_folder_nothing_appears(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="Nothing was written"):
        write_files({tmp_path / "a.bin": b"new", tmp_path / "folder": b"new"})
    assert names(tmp_path) == ["folder"]


def test_any_other_exception_leaves_nothing_behind_either(tmp_path: Path) -> None:
    contents: dict[Path, Any] = {tmp_path / "a.bin": b"new", tmp_path / "b.bin": "text is not bytes"}
    with pytest.raises(TypeError):
        write_files(contents)
    assert names(tmp_path) == []


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from embedlite.runtime.errors import EmbedliteWarning, OutputError
    from embedlite.runtime.files import check_writable, write_files

    # From here on the system refuses to let any file grow beyond this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    contents = {Path(name): b"n" * int(size) for name, size in zip(sys.argv[1::2], sys.argv[2::2])}
    check_writable(list(contents), force=True)
    try:
        write_files(contents)
    except OutputError as error:
        print(error)
        sys.exit(error.exit_code)
"""


def write_with_a_limit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("size", ["50001", "3000000"])
def test_a_disk_that_refuses_leaves_everything_as_it_was(size: str, tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"old")
    done = write_with_a_limit(tmp_path, "a.bin", "50000", "b.bin", size, "c.bin", "10")
    assert (done.returncode, done.stderr) == (2, "")
    assert "cannot write b.bin: File too large. Nothing was written; free some space" in done.stdout
    assert names(tmp_path) == ["b.bin"]
    assert (tmp_path / "b.bin").read_bytes() == b"old"


def test_a_disk_with_just_enough_room_is_enough(tmp_path: Path) -> None:
    done = write_with_a_limit(tmp_path, "a.bin", "50000", "b.bin", "49999")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [(tmp_path / name).stat().st_size for name in names(tmp_path)] == [50000, 49999]


def test_a_new_file_in_an_existing_folder_is_fine_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(b"old")
    check_writable([tmp_path / "new.bin", tmp_path / "other.bin"], force=False)
    check_writable([tmp_path / "old.bin"], force=True)
    assert names(tmp_path) == ["old.bin"]
    assert (tmp_path / "old.bin").read_bytes() == b"old"


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=rf"{tmp_path}/old\.bin exists and was kept\. Pass --force"):
        check_writable([tmp_path / "new.bin", tmp_path / "old.bin"], force=False)
    assert (tmp_path / "old.bin").read_bytes() == b"old"


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "it is a folder. Name a file"),
        ("missing/a.bin", "there is no folder .*missing. Create it first"),
        ("file/a.bin", "there is no folder .*file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    force: bool, name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / name}: {message}"):
        check_writable([tmp_path / name], force=force)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody may write, root included")
def test_a_folder_that_takes_no_files_is_refused() -> None:
    for write in (lambda path: check_writable([path], force=True), lambda path: write_file(path, b"x")):
        with pytest.raises(OutputError, match=r"cannot write /proc/a\.bin.*folder"):
            write(Path("/proc/a.bin"))


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        check_writable([tmp_path / ("x" * 256)], force=True)


def test_the_longest_name_is_not_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    check_writable([path], force=False)
    write_file(path, b"x")
    assert path.read_bytes() == b"x"


def test_a_device_or_pipe_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Somebody listens, so that writing into the pipe would not block.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable([pipe], force=True)
        with pytest.warns(EmbedliteWarning, match="is a pipe or device, so it was written through"):
            write_file(pipe, b"x")
        assert os.read(reader, 9) == b"x"
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
    finally:
        os.close(reader)


def test_the_checksum_is_the_known_one() -> None:
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(memoryview(b"xabcx")[1:4]) == hashlib.sha256(b"abc").hexdigest()


plain = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]))
trees = st.recursive(
    plain | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcü", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def without_json_lacks(value: Any) -> Any:
    """The same by the standard library: its parser is asked to read NaN and infinities as None."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


@settings(max_examples=100, deadline=None)
@given(value=trees)
def test_json_is_what_it_was_with_null_for_what_json_lacks(value: Any) -> None:
    written = json_bytes(value)
    assert written.endswith(b"\n")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(written.decode("utf-8"), parse_constant=refuse) == without_json_lacks(value)


def test_json_is_indented_and_keeps_letters_and_order() -> None:
    assert json_bytes({"b": "ü", "a": (1, math.inf)}).decode() == '{\n  "b": "ü",\n  "a": [\n    1,\n    null\n  ]\n}\n'


def test_numpy_doubles_and_keys_that_are_no_text_have_a_json_form() -> None:
    assert finite_json({1: np.float64("nan"), None: np.float64(0.5)}) == {"1": None, "None": 0.5}


def test_a_file_name_that_is_no_utf8_can_be_reported() -> None:
    assert json.loads(json_bytes({"id": os.fsdecode(b"caf\xe9.png")}))["id"].startswith("caf")


def test_outputs_are_compared_with_each_other_and_with_what_is_read(tmp_path: Path) -> None:
    model, photos = tmp_path / "model.tflite", tmp_path / "photos"
    photos.mkdir()
    beside = tmp_path / "model.tflite.embedlite.json"
    for path in (model, beside, photos / "a.jpg"):
        path.write_bytes(b"precious")
    (tmp_path / "again").symlink_to(model)
    for clash in (model, beside, tmp_path / "again", photos / "a.jpg", photos / ".." / "model.tflite"):
        with pytest.raises(RequestError, match="it is read, and --json would replace it"):
            check_names([model, photos, None, "s3://bucket/photos", np.zeros(3)], {"--json": clash})
    with pytest.raises(RequestError, match="as --html and as --json"):
        check_names([], {"--html": tmp_path / "x", "--json": str(tmp_path / "photos" / ".." / "x")})
    check_names([model, photos], {"--json": photos / "report.json", "--html": None, "--junit": "-"})
    # The folder one stands in has no name of its own.
    check_names([Path(), "."], {"--json": tmp_path / "report.json"})
    # A link that leads back to itself is refused where it is written.
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop.name)
    check_names([model], {"--json": loop})
    check_names([], {"--html": Path("/dev/null"), "--json": Path("/dev/null")})


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    """A link, a link to that, and one that leads to nothing yet."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there/real").write_bytes(b"old")
    links = {"link": "there/real", "second": "link", "new": "there/not yet"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for name in links:
        check_writable([tmp_path / name], force=True)
        with pytest.warns(EmbedliteWarning, match="is a link, so the file to which it leads was replaced"):
            write_file(tmp_path / name, name.encode())
    assert (tmp_path / "there/real").read_bytes() == b"second"
    assert (tmp_path / "there/not yet").read_bytes() == b"new"
    assert all((tmp_path / name).is_symlink() for name in links)
    assert names(tmp_path / "there") == ["not yet", "real"]


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "far").symlink_to("missing/file")
    with pytest.raises(OutputError, match="leads back to itself"):
        check_writable([tmp_path / "circle"], force=True)
    with pytest.raises(OutputError, match="there is no folder"):
        check_writable([tmp_path / "far"], force=True)
    with pytest.raises(OutputError, match="leads back to itself"):
        write_file(tmp_path / "circle", b"x")


def test_two_writers_of_a_folder_wait_for_each_other(tmp_path: Path) -> None:
    """The second one, another process, is told when the first has the folder, and writes after it."""
    code = f"""
        import sys
        from pathlib import Path
        from embedlite.runtime.files import only_writer
        print("here", flush=True)
        sys.stdin.readline()
        with only_writer(Path({str(tmp_path)!r})):
            print(Path({str(tmp_path)!r}, "first").exists(), flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    with only_writer(tmp_path):
        process.stdin.write("go\n")
        process.stdin.flush()
        (tmp_path / "first").write_bytes(b"")
    assert process.communicate(timeout=60)[0] == "True\n"


def test_a_writer_that_was_killed_keeps_nobody_waiting(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from embedlite.runtime.files import only_writer
        with only_writer(Path({str(tmp_path)!r})):
            print("here", flush=True)
            sys.stdin.readline()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    done: list[bool] = []

    def write() -> None:
        with only_writer(tmp_path):
            done.append(True)

    second = threading.Thread(target=write, daemon=True)
    second.start()
    second.join(0.1)
    assert done == []
    process.kill()
    process.communicate()
    second.join(60)
    assert done == [True]


def test_sets_of_files_that_threads_write_at_once_do_not_mix(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.tflite", "b.tflite", "export.json")]
    whole = []

    def write(tag: bytes) -> None:
        for _ in range(10):
            with only_writer(tmp_path):
                write_files(dict.fromkeys(paths, tag))
            with only_writer(tmp_path):
                whole.append(len({path.read_bytes() for path in paths}) == 1)

    threads = [threading.Thread(target=write, args=(tag,)) for tag in (b"one", b"two", b"three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole == [True] * 30
    assert names(tmp_path) == sorted(path.name for path in paths)


def test_ctrl_c_between_two_renames_waits_for_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": b"a", tmp_path / "b": b"b"})
    assert names(tmp_path) == ["a", "b"]
