"""Encoder shared by threads, closed under their hands, and fed in every way that it takes."""

import itertools
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embedlite.convert import Asked, ExportOptions, export, export_asked
from embedlite.runtime import Encoder
from embedlite.runtime.errors import (
    EmptyBatchError,
    EncoderClosedError,
    InputError,
    InputShapeError,
    InputTypeError,
    InputValueError,
    RequestError,
)

from encoders import quick_encoder

SHAPE = (32, 32, 3)
THREADS, CALLS = 8, 10_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A quick encoder: float32, and int8 with integer input."""
    folder = tmp_path_factory.mktemp("quick")
    images = np.random.default_rng(0).random((16, *SHAPE), np.float32)
    made = {}
    for name, options in (("float32", {}), ("int8", {"input_type": "int8"}), ("uint8", {"input_type": "uint8"})):
        mode = "float32" if name == "float32" else "int8"
        result = export_asked(
            quick_encoder(),
            Asked(
                output_dir=folder / name,
                quantize=[mode],
                calibration_data=None if mode == "float32" else images,
                measure=False,
                **options,
            ),
        )
        made[name] = Path(result.files[0].path)
    return made


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (24, *SHAPE), np.uint8)


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_threads_that_share_an_encoder_get_their_own_vectors(
    name: str, files: dict[str, Path], pixels: np.ndarray
) -> None:
    """Every vector is kept to the end, so that one which a later call wrote over would show."""
    inputs = [*pixels, *(pixels / np.float32(255))]
    with Encoder(files[name], threads=2) as encoder:
        wanted = np.stack([encoder.embed_one(image) for image in inputs])
        assert len(np.unique(wanted, axis=0)) >= len(pixels)
        start = threading.Barrier(THREADS)

        def work(seed: int) -> int:
            order = np.random.default_rng(seed).integers(0, len(inputs), CALLS)
            start.wait()
            got = [encoder.embed_one(inputs[index]) for index in order]
            return int((np.stack(got) != wanted[order]).any(axis=1).sum())

        with ThreadPoolExecutor(THREADS) as pool:
            assert list(pool.map(work, range(THREADS))) == [0] * THREADS


MEMORY = """
import os, sys
import numpy as np
from embedlite.runtime import Encoder

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
with Encoder(sys.argv[1], threads=2) as encoder:
    inputs = [*pixels, *(pixels / np.float32(255))]
    for call in range(1, 100_001):
        encoder.embed_one(inputs[call % len(inputs)])
        if call % 1000 == 0:
            encoder.embed(pixels)
        if call in (1_000, 100_000):
            print(resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_a_hundred_thousand_calls_leave_nothing_behind(files: dict[str, Path]) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, files["int8"]], capture_output=True, text=True, check=True)
    few, many = (int(line) for line in done.stdout.split())
    assert many - few <= 2 * 2**20


def test_a_second_model_of_the_same_architecture_has_weights_of_its_own(
    files: dict[str, Path], pixels: np.ndarray, tmp_path: Path
) -> None:
    """Under the first one's name too, which is what a cache keyed by the path would confuse; doubling is exact."""
    model = quick_encoder()
    model.set_weights([weights * 2 for weights in model.get_weights()])
    second = Path(export(model, tmp_path / "second", options=ExportOptions(measure=False)).files[0].path)
    path = tmp_path / "deployed.tflite"
    shutil.copy(files["float32"], path)
    with Encoder(path) as first:
        wanted = 2 * first.embed(pixels)
        assert wanted.any(axis=1).all()
        shutil.copy(second, path)
        with Encoder(path) as doubled:
            np.testing.assert_array_equal(doubled.embed(pixels), wanted)
            np.testing.assert_array_equal(2 * first.embed(pixels), wanted)
    with Encoder(path) as again:
        np.testing.assert_array_equal(again.embed(pixels), wanted)


def test_batches_of_several_threads_do_not_mix(files: dict[str, Path], pixels: np.ndarray) -> None:
    with Encoder(files["float32"], threads=3) as encoder:
        wanted = encoder.embed(pixels)

        def work(seed: int) -> bool:
            order = np.random.default_rng(seed).permutation(len(pixels))
            batch = np.array_equal(encoder.embed(pixels[order]), wanted[order])
            one_by_one = np.array_equal(np.stack(list(encoder.embed_iter(pixels[order]))), wanted[order])
            return batch and one_by_one and np.array_equal(encoder.embed_one(pixels[order[0]]), wanted[order[0]])

        with ThreadPoolExecutor(THREADS) as pool:
            assert all(pool.map(work, range(100)))


@pytest.mark.parametrize("name", ["float32", "int8", "uint8"])
def test_every_way_in_gives_the_same_vectors(name: str, files: dict[str, Path], pixels: np.ndarray) -> None:
    with Encoder(files[name], threads=1) as single, Encoder(files[name], threads=2) as spread:
        wanted = np.stack([single.embed_one(image) for image in pixels])
        ways: dict[str, Callable[[], np.ndarray]] = {
            "batch": lambda: spread.embed(pixels),
            "batch on one core": lambda: single.embed(pixels),
            "list": lambda: spread.embed(list(pixels)),
            "tuple": lambda: spread.embed(tuple(pixels)),
            "generator": lambda: spread.embed(image for image in pixels),
            "generator on one core": lambda: single.embed(iter(pixels)),
            "iterator": lambda: np.stack(list(spread.embed_iter(pixels))),
            "one at a time": lambda: np.concatenate([spread.embed(image[None]) for image in pixels]),
            "another order of memory": lambda: spread.embed(np.asfortranarray(pixels)),
            "every other column": lambda: spread.embed(np.repeat(pixels, 2, axis=2)[:, :, ::2]),
            "other integers": lambda: spread.embed(pixels.astype(np.int64)),
        }
        for way, embed in ways.items():
            np.testing.assert_array_equal(embed(), wanted, err_msg=way)


@pytest.mark.parametrize("name", ["float32", "int8", "uint8"])
def test_pixels_and_what_they_become_give_the_same_vector(
    name: str, files: dict[str, Path], pixels: np.ndarray
) -> None:
    with Encoder(files[name]) as encoder:
        ready = (pixels.astype(np.float32) - np.float32(0)) / np.float32(255)
        np.testing.assert_array_equal(encoder.embed(ready), encoder.embed(pixels))
        np.testing.assert_array_equal(encoder.embed(ready.astype(np.float64)), encoder.embed(pixels))


def test_pixels_beside_floats_stay_pixels(files: dict[str, Path], pixels: np.ndarray) -> None:
    """One array of them would be floats 0-255."""
    with Encoder(files["float32"]) as encoder:
        mixed = encoder.embed([pixels[0], pixels[1] / np.float32(255)])
        np.testing.assert_array_equal(mixed, encoder.embed(pixels[:2]))


def test_what_is_wrong_in_a_list_is_named_by_its_place(files: dict[str, Path], pixels: np.ndarray) -> None:
    wrong: list[tuple[object, type[InputError], str]] = [
        (pixels[0][:20], InputShapeError, r"image 1: expected images of shape \(32, 32, 3\).* \(20, 32, 3\)"),
        (pixels[0].astype(np.int8), InputTypeError, r"image 1: .*int8 has no scale"),
        (pixels[0] > 9, InputTypeError, r"image 1: .*image.astype\(np.uint8\) \* 255"),
    ]
    with Encoder(files["float32"]) as encoder:
        for image, error, message in wrong:
            for inputs in ([pixels[0], image], iter([pixels[0], image])):
                with pytest.raises(error, match=message):
                    encoder.embed(inputs)


def test_an_empty_batch_is_an_error(files: dict[str, Path]) -> None:
    with Encoder(files["float32"]) as encoder:
        for empty in ([], (), np.empty((0, *SHAPE), np.uint8), iter(()), np.empty(0)):
            with pytest.raises(EmptyBatchError, match="Pass at least one"):
                encoder.embed(empty)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_one_or_more(threads: int, files: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match=f"threads is {threads}. Pass 1 or more"):
        Encoder(files["float32"], threads)


def test_no_more_interpreters_than_images(files: dict[str, Path], pixels: np.ndarray) -> None:
    """Each has memory of its own, and a server has many cores."""
    with Encoder(files["float32"], threads=16) as encoder:
        for count in (2, 5):
            encoder.embed(pixels[:count])
            assert len(encoder._idle) <= count


def test_a_closed_encoder_says_so_to_everyone(files: dict[str, Path], pixels: np.ndarray) -> None:
    for threads in (1, 2):
        encoder = Encoder(files["float32"], threads)
        begun = encoder.embed_iter(itertools.cycle(pixels))
        next(begun)
        encoder.close()
        encoder.close()
        uses: list[Callable[[], object]] = [
            lambda: encoder.embed(pixels),  # noqa: B023 -- called within this turn of the loop
            lambda: encoder.embed_one(pixels[0]),  # noqa: B023
            lambda: next(encoder.embed_iter(pixels)),  # noqa: B023
            lambda: list(begun),  # noqa: B023
        ]
        for use in uses:
            with pytest.raises(EncoderClosedError, match="Open the file again"):
                use()


def test_closing_while_others_work_ends_their_work_cleanly(files: dict[str, Path], pixels: np.ndarray) -> None:
    """Each thread gets right vectors up to an EncoderClosedError, and nothing else."""
    for _ in range(5):
        encoder = Encoder(files["float32"], threads=2)
        wanted = encoder.embed(pixels)
        counts = [0, 0, 0]

        def use(kind: int) -> None:
            rows = itertools.cycle(range(len(pixels)))
            try:
                if kind == 0:
                    for row, vector in zip(rows, encoder.embed_iter(itertools.cycle(pixels)), strict=False):  # noqa: B023
                        np.testing.assert_array_equal(vector, wanted[row])  # noqa: B023
                        counts[kind] += 1  # noqa: B023
                while True:
                    got = encoder.embed(pixels) if kind == 1 else [encoder.embed_one(pixels[0])]  # noqa: B023
                    np.testing.assert_array_equal(got, wanted[: len(got)])  # noqa: B023
                    counts[kind] += 1  # noqa: B023
            except EncoderClosedError:
                return

        with ThreadPoolExecutor(3) as pool:
            used = [pool.submit(use, kind) for kind in range(3)]
            while min(counts) == 0 and not any(each.done() for each in used):
                time.sleep(0.01)
            encoder.close()
            assert [each.result(timeout=30) for each in used] == [None] * 3
        assert min(counts) > 0


def test_a_consumer_may_stop_early(files: dict[str, Path], pixels: np.ndarray) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        for image in itertools.cycle(pixels):
            taken += 1
            yield image

    with Encoder(files["float32"], threads=2) as encoder:
        vectors = encoder.embed_iter(endless())
        first = [next(vectors) for _ in range(10)]
        vectors.close()
        # A few are read ahead, however many there are.
        assert taken <= 10 + 2 * 2 + 1
        np.testing.assert_array_equal(first, encoder.embed(pixels[:10]))


def test_an_error_of_the_iterable_reaches_the_caller(files: dict[str, Path], pixels: np.ndarray) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from pixels[:3]
        raise ConnectionError("camera unplugged")

    with Encoder(files["float32"], threads=2) as encoder:
        with pytest.raises(ConnectionError, match="camera unplugged"):
            encoder.embed(broken())
        assert encoder.embed(pixels).shape == (24, 32)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["float32", "int8", "uint8"])
def test_no_vector_comes_from_nan(name: str, value: float, files: dict[str, Path], pixels: np.ndarray) -> None:
    ready = pixels[:2] / np.float32(255)
    ready[1, 31, 5, 2] = value
    with Encoder(files[name], threads=2) as encoder:
        for embed in (
            encoder.embed,
            lambda images: encoder.embed_one(images[1]),
            lambda images: encoder.embed(images[1:]),
        ):
            with pytest.raises(
                InputValueError, match=r"1 value\(s\) that are NaN or infinite, the first at \(31, 5, 2\)"
            ):
                embed(ready)
        np.testing.assert_array_equal(encoder.embed_one(ready[0]), encoder.embed_one(pixels[0]))
