"""Images that a program hands over one by one: every form of an element, what is refused, and what memory it takes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from embedlite.runtime import InputContract
from embedlite.runtime.errors import (
    DataError,
    EmptyDataError,
    InputError,
    InputShapeError,
    InputTypeError,
    InputValueError,
    RequestError,
)
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source

SHAPE = (4, 4, 3)
CONTRACT = InputContract(SHAPE)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
NUMBERS = ("0", "1", "2", "3", "4", "5")


def loaded(source: Source) -> np.ndarray:
    return np.stack(list(source))


def representative_dataset() -> Iterator[list[Any]]:
    """As TensorFlow's documentation writes it."""
    for image in tf.data.Dataset.from_tensor_slices(PIXELS).batch(1).take(100):
        yield [image]


FORMS: dict[str, Callable[[], Any]] = {
    "a list": lambda: list(PIXELS),
    "a tuple": lambda: tuple(PIXELS),
    "a generator": lambda: (image for image in PIXELS),
    "a function": lambda: lambda: iter(PIXELS),
    "batches": lambda: (PIXELS[:1], PIXELS[1:4], PIXELS[4:]),
    "batches and images": lambda: (PIXELS[0], PIXELS[1:]),
    "lists of one": lambda: ([image] for image in PIXELS),
    "tuples of one batch": lambda: ((PIXELS[start : start + 2],) for start in (0, 2, 4)),
    "a representative dataset": lambda: representative_dataset,
    "a tf.data.Dataset": lambda: tf.data.Dataset.from_tensor_slices(PIXELS),
    "a batched tf.data.Dataset": lambda: tf.data.Dataset.from_tensor_slices(PIXELS).batch(4),
    "a dataset of dicts": lambda: tf.data.Dataset.from_tensor_slices({"image": PIXELS, "label": np.arange(6)}),
    "a tensor": lambda: tf.constant(PIXELS),
    "dicts": lambda: ({"image": image, "label": 3} for image in PIXELS),
    "dicts with one array": lambda: ({"anything": image, "text": "a cat"} for image in PIXELS),
    "lists of numbers": PIXELS.tolist,
    "transposed views": lambda: (image.T.copy().T for image in PIXELS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form: str) -> None:
    source = open_source(FORMS[form](), CONTRACT)
    assert (source.name, source.ids, source.pixels) == ("the iterable", NUMBERS, True)
    for _ in range(2):
        np.testing.assert_array_equal(loaded(source), PIXELS)
    np.testing.assert_array_equal(source.load(3), PIXELS[3])
    if form != "lists of numbers":
        assert source.load(0).dtype == np.uint8
        assert source.fingerprint() == open_source(PIXELS, CONTRACT).fingerprint()


def test_an_iterable_is_read_once() -> None:
    calls = []

    def images() -> Iterator[np.ndarray]:
        calls.append(1)
        yield from PIXELS

    source = open_source(images, CONTRACT)
    assert loaded(source.subset([5, 0])).tolist() == PIXELS[[5, 0]].tolist()
    loaded(source)
    assert calls == [1]


def test_an_array_that_is_used_again_by_its_maker_is_kept_as_it_was() -> None:
    def images() -> Iterator[np.ndarray]:
        buffer = np.empty(SHAPE, np.uint8)
        for image in PIXELS:
            buffer[:] = image
            yield buffer

    np.testing.assert_array_equal(loaded(open_source(images, CONTRACT)), PIXELS)


NAMES = ["a", "b/c.png", "ü", "d", "e", "f"]


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(lambda: zip(NAMES, PIXELS, strict=True), id="pairs"),
        pytest.param(lambda: ([name, image[None]] for name, image in zip(NAMES, PIXELS, strict=True)), id="lists"),
        pytest.param(lambda: ({"id": n, "name": "other", "x": i} for n, i in zip(NAMES, PIXELS, strict=True)), id="id"),
        pytest.param(lambda: ({"image": i, "name": n.encode()} for n, i in zip(NAMES, PIXELS, strict=True)), id="name"),
        pytest.param(lambda: tf.data.Dataset.from_tensor_slices({"id": NAMES, "image": PIXELS}), id="tensors"),
    ],
)
def test_names_are_kept(images: Callable[[], Any]) -> None:
    source = open_source(images(), CONTRACT)
    assert source.ids == tuple(NAMES)
    np.testing.assert_array_equal(loaded(source), PIXELS)


def test_a_named_batch_numbers_its_rows() -> None:
    assert open_source([("a", PIXELS[:2]), ("b", PIXELS[2:3]), PIXELS[3]], CONTRACT).ids == ("a:0", "a:1", "b", "3")


def test_a_feature_names_the_key() -> None:
    elements = [{"left": PIXELS[0], "right": PIXELS[1]}, {"right": PIXELS[2], "image": PIXELS[3]}]
    np.testing.assert_array_equal(loaded(open_source(elements, CONTRACT, "right")), PIXELS[[1, 2]])
    with pytest.raises(InputError, match=r"element 1 of the iterable has no 'left'; it has 'right', 'image'"):
        open_source(elements, CONTRACT, "left")
    with pytest.raises(InputError, match=r"cannot tell which array of element 0 .*'left', 'right'.*Call it 'image'"):
        open_source(elements, CONTRACT)
    with pytest.raises(RequestError, match=r"'right' was asked for, but element 0 of the iterable is not a dict"):
        open_source(PIXELS.tolist(), CONTRACT, "right")


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "image and label": ([(PIXELS[0], 3)], InputTypeError, r"element 0 .* tuple of 2, such as \(image, label\).*\.map"),
    "two arrays": ([(PIXELS[0], PIXELS[1])], InputTypeError, r"tuple of 2"),
    "two inputs": ([[PIXELS[0], PIXELS[1]]], InputTypeError, r"list of 2"),
    "three things": ([("a", PIXELS[0], 3)], InputTypeError, r"tuple of 3"),
    "nothing in a list": ([[]], InputTypeError, r"list of 0"),
    "another size": ([PIXELS[0], PIXELS[1, :3]], InputShapeError, r"element 1 of the iterable: .*\(3, 4, 3\)"),
    "another size, named": ([("cat", PIXELS[0, :3])], InputShapeError, r"element 0 of the iterable \('cat'\): "),
    "a batch of another size": ([PIXELS[:, :3]], InputShapeError, r"\(6, 3, 4, 3\)"),
    "five axes": ([PIXELS[None]], InputShapeError, r"\(1, 6, 4, 4, 3\)"),
    "int8": ([PIXELS[0].astype(np.int8)], InputTypeError, "element 0 of the iterable: .*int8 has no scale"),
    "text": (["cat.png"], InputTypeError, r"element 0 of the iterable is 'cat\.png'.*pass the folder"),
    "an object": ([object()], InputTypeError, "element 0 of the iterable: .*dtype object"),
    "nothing": ([None], InputTypeError, "element 0 of the iterable: .*dtype object"),
    "uneven": ([[[1, 2], [3]]], InputShapeError, "element 0 of the iterable: .*do not form one array"),
    "floats after pixels": ([PIXELS[0], np.zeros(SHAPE)], InputTypeError, "image '1' is of dtype float64.*uint8"),
    "pixels after floats": ([np.zeros(SHAPE), PIXELS[0]], InputTypeError, "image '1' is of dtype uint8.*float64"),
    "the same name": ([("a", PIXELS[0]), ("a", PIXELS[1])], DataError, "two images are called 'a'"),
    "a number's name": ([("1", PIXELS[0]), PIXELS[1]], DataError, "two images are called '1'"),
    "a list of names": ([{"id": ["a", "b"], "x": PIXELS[:2]}], InputTypeError, "'id' of element 0 .*not text"),
    "a name that is not UTF-8": ([{"id": b"\xff", "x": PIXELS[0]}], InputTypeError, "'id' of element 0 .*not text"),
    "an empty dict": ([{}], InputError, "element 0 of the iterable is the image: it has nothing"),
    "no elements": ([], EmptyDataError, "the iterable holds no images"),
    "empty batches": ([PIXELS[:0]], EmptyDataError, "the iterable holds no images"),
    "bytes": (b"image", RequestError, "cannot take images from bytes"),
    "a number": (3, RequestError, "cannot take images from int"),
    "None": (None, RequestError, "cannot take images from NoneType"),
    "a dict": ({"image": PIXELS}, RequestError, "cannot take images from dict"),
    "a function that wants more": (lambda count: iter(PIXELS), RequestError, "needs arguments .*'count'"),
    "a function that returns nothing": (lambda: None, RequestError, "cannot take images from NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_named(name: str) -> None:
    images, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        open_source(images, CONTRACT)


def test_an_iterator_that_was_used_before_is_empty() -> None:
    iterator = iter(PIXELS)
    open_source(iterator, CONTRACT)
    with pytest.raises(EmptyDataError, match="used before"):
        open_source(iterator, CONTRACT)


def test_an_error_in_the_callers_own_code_is_left_alone() -> None:
    def images() -> Iterator[np.ndarray]:
        yield PIXELS[0]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        open_source(images, CONTRACT)


def test_dtypes_of_one_kind_may_differ_and_are_kept() -> None:
    wide = PIXELS.astype(np.uint16) * 257
    source = open_source([PIXELS[0], wide[0], PIXELS[0].astype(">i4")], CONTRACT)
    assert [image.dtype for image in source] == [np.uint8, np.uint16, np.dtype(">i4")]
    for index in (1, 2):
        np.testing.assert_array_equal(source.ready(index), source.ready(0))


def test_values_are_checked_when_they_are_used() -> None:
    images = np.zeros((3, *SHAPE), np.float32)
    images[1, 2, 3, 0] = np.nan
    source = open_source(iter(images), CONTRACT)
    assert not source.pixels
    with pytest.raises(InputValueError, match=r"the iterable, image '1' has 1 value.*\(2, 3, 0\)"):
        source.ready(1)
    left, skipped = source.readable()
    assert (left.ids, [image.id for image in skipped]) == (("0", "2"), ["1"])


MEMORY = """
import sys
import numpy as np
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source

def resident():
    lines = (line.split() for line in open("/proc/self/status"))
    return next(int(line[1]) for line in lines if line[0] == "VmRSS:") / 1024

def images():
    for number in range(1500):
        yield np.full((256, 256, 3), number % 251, np.uint8)

before = resident()
source = open_source(images, InputContract((256, 256, 3)))
spooled = resident()
assert all((source.load(index) == index % 251).all() for index in range(len(source)))
print(spooled - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_images() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    spooled, read = map(float, done.stdout.split())
    # There are 281 MiB of images.
    assert spooled < 30
    assert read < 30


@pytest.mark.parametrize("side", [8, 64])
def test_a_temporary_folder_without_room_is_named(side: int) -> None:
    code = (
        "import resource\n"
        "import numpy as np\n"
        "from embedlite.runtime import InputContract\n"
        "from embedlite.runtime.errors import DataError\n"
        "from embedlite.runtime.images.open import open_source\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n"
        f"    images = (np.zeros(({side}, {side}, 3), np.uint8) for _ in range(200))\n"
        f"    open_source(images, InputContract(({side}, {side}, 3)))\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot keep the images in a temporary file in" in done.stdout, done.stderr
    assert "TMPDIR" in done.stdout
