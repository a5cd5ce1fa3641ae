"""One Encoder in several processes: forked, pickled, copied. Each script runs in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Digits

PROLOGUE = """
import copy, logging, multiprocessing, os, pickle, sys, threading
import numpy as np
from embedlite.runtime import Encoder
from embedlite.runtime.errors import EmbedliteError
path = sys.argv[1]
images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), np.uint8)
def same(encoder, wanted):
    return np.array_equal(encoder.embed(images), wanted) and np.array_equal(encoder.embed_one(images[3]), wanted[3])
"""

FORK = """
encoder = Encoder(path, threads=2)
wanted = encoder.embed(images)
for _ in range(2):
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        right = same(encoder, wanted)
        if grandchild:
            right &= os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
        encoder.close()
        sys.exit(0 if right else 1)  # not os._exit: what is freed at the end must not wait either
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert same(encoder, wanted)
"""

BUSY = """
encoder = Encoder(path, threads=2)
wanted = encoder.embed(images)
going = True
def work():
    while going:
        encoder.embed_one(images[0])
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if same(encoder, wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
going = False
for thread in threads:
    thread.join()
"""

POOLS = """
def embed(image):
    return encoder.embed_one(image)
def embed_with(arguments):
    encoder, image = arguments
    return encoder.embed_one(image)
if __name__ == "__main__":
    encoder = Encoder(path, threads=2)
    wanted = encoder.embed(images)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert np.array_equal(np.stack(pool.map(embed, images)), wanted)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(np.stack(pool.map(embed_with, [(encoder, image) for image in images[:2]])), wanted[:2])
"""

COPIES = """
encoder = Encoder(path, threads=2)
wanted = encoder.embed(images)
for other in (copy.copy(encoder), copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
    encoder_is_another = other is not encoder
    assert encoder_is_another and same(other, wanted)
    other.close()
    assert same(encoder, wanted)
pickled = pickle.dumps(encoder)
encoder.close()
for attempt in (lambda: pickle.dumps(encoder), lambda: copy.copy(encoder)):
    try:
        attempt()
    except EmbedliteError as error:
        assert "was closed" in str(error)
    else:
        raise AssertionError
os.replace(sys.argv[2], path)
try:
    pickle.loads(pickled)
except EmbedliteError as error:
    assert "is not the file that the encoder was made of" in str(error)
else:
    raise AssertionError
"""

LOGGED = """
encoder = Encoder(path, threads=2)
encoder.embed(images)
iteration = encoder.embed_iter(images)
next(iteration)
child = os.fork()
if child == 0:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
    encoder.embed(images)
    encoder.embed(images)
    try:
        list(iteration)
    except EmbedliteError as error:
        print(error)
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run_script(body: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + body, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="nothing forks here")


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_an_encoder_works_in_forked_children_and_theirs(digits: Digits, mode: str) -> None:
    run_script(FORK, digits.file(mode))


def test_an_encoder_that_other_threads_use_can_be_forked(digits: Digits) -> None:
    run_script(BUSY, digits.int8)


def test_pools_of_both_kinds(digits: Digits, tmp_path: Path) -> None:
    script = tmp_path / "pools.py"
    script.write_text(PROLOGUE + POOLS)
    done = subprocess.run(
        [sys.executable, script, digits.int8], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_copies_and_pickles_are_the_same_file_opened_again(digits: Digits, tmp_path: Path) -> None:
    model, other = tmp_path / "model.tflite", tmp_path / "other.tflite"
    model.write_bytes(digits.int8.read_bytes())
    other.write_bytes(digits.float32.read_bytes())
    run_script(COPIES, model, other)


def test_opening_again_is_logged_once_and_an_iteration_of_the_parent_is_refused(digits: Digits) -> None:
    said = run_script(LOGGED, digits.int8)
    assert said.count("is opened again after a fork") == 1
    assert "this iteration was begun before the process was forked" in said
