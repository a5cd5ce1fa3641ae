"""``.tfrecord`` files that TensorFlow wrote: what is read, under which names, and what is refused."""

import io
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from embedlite.runtime import EmbedliteError, InputContract
from embedlite.runtime.errors import (
    EmbedliteWarning,
    EmptyDataError,
    InputShapeError,
    InputValueError,
    RequestError,
    UnreadableDataError,
)
from embedlite.runtime.images.decode import load_image
from embedlite.runtime.images.formats import begins_like_an_image
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.images.tfrecord import RecordFile, is_tfrecord, parse_example

SHAPE = (6, 4, 3)
CONTRACT = InputContract(SHAPE)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)


def feature(values: Any) -> tf.train.Feature:
    """A feature of the kind that TensorFlow's own tutorials choose for such values."""
    if isinstance(values, bytes):
        values = [values]
    if isinstance(values, list):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values.ravel()))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values.ravel()))


def example(**features: Any) -> bytes:
    """A serialized Example; ``__`` in a name stands for a slash."""
    named = {name.replace("__", "/"): feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def png(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def write(path: Path, records: Sequence[bytes], options: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)
    return path


def loaded(source: Source) -> np.ndarray:
    return np.stack(list(source))


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """Five records with a PNG, a label and a name each."""
    label = np.array([3])
    return write(
        tmp_path / "photos.tfrecord",
        [example(image__encoded=png(image), label=label, name=f"n{row}".encode()) for row, image in enumerate(PIXELS)],
    )


KINDS: dict[str, tuple[Callable[[np.ndarray], Any], bool]] = {
    "an image file": (png, True),
    "raw pixels": (np.ndarray.tobytes, True),
    "integers": (lambda pixels: pixels.astype(np.int64), True),
    "floats": (lambda pixels: pixels.astype(np.float32) / 100 - 1, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_feature_gives_the_same_image(kind: str, tmp_path: Path) -> None:
    store, pixels = KINDS[kind]
    path = write(tmp_path / "x.tfrecord", [example(image=store(image)) for image in PIXELS])
    source = open_source(path, CONTRACT)
    assert (source.name, source.ids, source.pixels) == (str(path), ("0", "1", "2", "3", "4"), pixels)
    wanted = PIXELS if pixels else PIXELS.astype(np.float32) / 100 - 1
    np.testing.assert_array_equal(loaded(source), wanted)
    np.testing.assert_array_equal(source.load(3), wanted[3])
    np.testing.assert_array_equal(source.ready(2), open_source(wanted, CONTRACT).ready(2))


def test_an_image_in_a_record_is_read_as_the_file_would_be(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    big = np.random.default_rng(1).integers(0, 256, (50, 30, 3), np.uint8)
    deep = np.random.default_rng(2).integers(0, 65536, (9, 8), np.uint16)
    contents = {
        "rotated.jpg": png(big, "JPEG", exif=exif),
        "alpha.png": png(np.dstack([big, big[..., 0]])),
        "deep.png": png(deep),
        "gray.bmp": png(big[..., 0], "BMP"),
        "lossless.webp": png(big, "WEBP", lossless=True),
        "plain.tif": png(big, "TIFF", exif=exif),
        "flat.gif": png(big[..., 0], "GIF"),
    }
    contract = InputContract((12, 7, 3), color_order="bgr", resampler="lanczos")
    source = open_source(write(tmp_path / "x.tfrecord", [example(x=data) for data in contents.values()]), contract)
    for index, (name, data) in enumerate(contents.items()):
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(source.load(index), load_image(tmp_path / name, contract), err_msg=name)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.binary(min_size=0, max_size=18))
def test_raw_pixels_are_never_taken_for_a_format_without_a_signature(start: bytes, tmp_path: Path) -> None:
    """TGA, for one: Pillow takes many flat images for it."""
    pixels = (start + bytes(72))[:72]
    assume(not begins_like_an_image(pixels))
    source = open_source(write(tmp_path / "x.tfrecord", [example(image=pixels)]), CONTRACT)
    assert source.load(0).tobytes() == pixels


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"])
def test_an_image_file_as_long_as_its_pixels_is_still_an_image_file(kind: str, tmp_path: Path) -> None:
    flat = np.full((8, 8), 200, np.uint8)
    data = png(flat, kind)
    source = open_source(
        write(tmp_path / "x.tfrecord", [example(image=data)]), InputContract((len(data), 1, 1), resampler="nearest")
    )
    assert np.abs(source.load(0).astype(int) - 200).max() <= 1


@pytest.mark.parametrize(
    ("features", "wanted"),
    [
        ({"x": 1, "image": 2, "image__encoded": 3, "images": 4}, 3),
        ({"x": 1, "images": 2, "image": 3}, 3),
        ({"x": 1, "images": 2}, 2),
        ({"anything": 1, "x": 2}, 2),
        ({"anything": 4}, 4),
    ],
)
def test_a_feature_is_chosen_by_its_name(features: dict[str, int], wanted: int, tmp_path: Path) -> None:
    record = example(label=np.array([7]), text=b"cat", **{name: png(PIXELS[row]) for name, row in features.items()})
    source = open_source(write(tmp_path / "x.tfrecord", [record]), CONTRACT)
    np.testing.assert_array_equal(source.load(0), PIXELS[wanted])
    if "anything" in features:
        chosen = open_source(tmp_path / "x.tfrecord", CONTRACT, "anything")
        np.testing.assert_array_equal(chosen.load(0), PIXELS[features["anything"]])


def test_a_feature_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [example(left=png(PIXELS[0]), right=png(PIXELS[1]))])
    with pytest.raises(RequestError, match=r"cannot tell which feature.*'(left|right)', '(left|right)'.*--feature"):
        open_source(path, CONTRACT)
    np.testing.assert_array_equal(open_source(path, CONTRACT, "right").load(0), PIXELS[1])
    with pytest.raises(UnreadableDataError, match=r"record 0: its feature 'middle' is not there; it has '"):
        open_source(path, CONTRACT, "middle")


def test_a_label_alone_is_no_image(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [example(label=np.array([7]), text=b"cat")])
    with pytest.raises(RequestError, match="cannot tell which feature"):
        open_source(path, CONTRACT)


def test_a_record_without_the_feature_is_named_with_what_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [example(image=png(PIXELS[0])), example(label=np.array([1]), picture=b"x")])
    source = open_source(path, CONTRACT)
    assert source.load(0).shape == SHAPE
    with pytest.raises(UnreadableDataError, match=r"x\.tfrecord, record 1: .*'image' is not there.*'label'.*--feature"):
        source.load(1)


DAMAGED: dict[str, tuple[bytes, type[EmbedliteError], str]] = {
    "no Example": (b"\xff\xff just some text", UnreadableDataError, "not a tf.train.Example"),
    "an empty record": (b"", UnreadableDataError, "has no features"),
    "an empty feature": (example(image=[]), UnreadableDataError, "'image' is empty; it has 'image'"),
    "two images": (example(image=[png(PIXELS[0])] * 2), UnreadableDataError, "holds 2 byte strings"),
    "half an image": (example(image=png(PIXELS[0])[:60]), UnreadableDataError, "cannot read the image in .*record 1"),
    "some bytes": (example(image=b"cat"), UnreadableDataError, "3 bytes, which do not begin like an image"),
    "too few integers": (example(image=np.arange(9)), InputShapeError, "holds 9 values; .* has 72"),
    "floats among pixels": (example(image=np.zeros(72)), UnreadableDataError, "holds floats, but .* holds pixels"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_record_that_is_damaged_is_named_and_can_be_left_out(name: str, tmp_path: Path) -> None:
    record, error, message = DAMAGED[name]
    good = example(image=png(PIXELS[0]))
    path = write(tmp_path / "x.tfrecord", [good, record, good])
    source = open_source(path, CONTRACT)
    with pytest.raises(error, match=message) as caught:
        source.load(1)
    assert f"{path}, record 1" in str(caught.value)
    left, skipped = source.readable()
    assert left.ids == ("0", "2")
    assert [image.id for image in skipped] == ["1"]
    assert "record 1" in skipped[0].reason


def test_pixels_among_floats_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [example(image=np.zeros(72)), example(image=png(PIXELS[0]))])
    source = open_source(path, CONTRACT)
    assert not source.pixels
    with pytest.raises(UnreadableDataError, match=r"record 1: .*holds pixels, but the first sound record holds floats"):
        source.load(1)


def test_the_first_sound_record_decides(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [b"", example(other=np.zeros(2)), example(image=np.ones(72))])
    source = open_source(path, CONTRACT, "image")
    assert not source.pixels
    left, skipped = source.readable()
    assert (left.ids, [image.id for image in skipped]) == (("2",), ["0", "1"])


def test_integers_beyond_a_byte_are_no_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [example(image=np.full(72, 300)), example(image=np.full(72, -1))])
    source = open_source(path, CONTRACT)
    for index, value in enumerate((300, -1)):
        with pytest.raises(InputValueError, match=f"x.tfrecord, image '{index}' holds int64 values from {value}"):
            source.ready(index)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.tfrecord", True),
        ("a.TFRecords", True),
        ("a.tfrecord-00000-of-00010", True),
        ("tfrecord-a.tfrecord", True),
        ("a.tfrecord.gz", True),
        ("a.tfrecord.index", False),
        ("tfrecord", False),
        ("a.tfrecord-part", False),
    ],
)
def test_names_of_tfrecords(name: str, wanted: bool) -> None:
    assert is_tfrecord(name) is wanted


def test_shards_in_a_folder_are_one_source_in_the_order_of_the_paths(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    records = [example(image=png(image)) for image in PIXELS]
    write(folder / "b.tfrecord-00001-of-00002", records[3:])
    write(folder / "b.tfrecord-00000-of-00002", records[1:3])
    write(folder / "a" / "z.tfrecords", records[:1])
    write(folder / "empty.tfrecord", [])
    write(folder / ".hidden.tfrecord", records)
    source = open_source(folder, CONTRACT)
    assert source.ids == (
        "a/z.tfrecords:0",
        *(f"b.tfrecord-00000-of-00002:{number}" for number in (0, 1)),
        *(f"b.tfrecord-00001-of-00002:{number}" for number in (0, 1)),
    )
    np.testing.assert_array_equal(loaded(source), PIXELS)
    np.testing.assert_array_equal(loaded(source.subset([4, 0])), PIXELS[[4, 0]])
    np.testing.assert_array_equal(loaded(open_source(folder / "b.tfrecord-00001-of-00002", CONTRACT)), PIXELS[3:])
    Image.fromarray(PIXELS[0]).save(folder / "image.png")
    with pytest.warns(EmbedliteWarning, match=r"4 of 5 entries are left out: other kinds: 4 \(a/z\.tfrecords, "):
        assert open_source(folder, CONTRACT).ids == ("image.png",)


def test_a_feature_is_chosen_in_a_folder_too(tmp_path: Path) -> None:
    write(tmp_path / "x.tfrecord", [example(left=png(PIXELS[0]), right=png(PIXELS[1]))])
    np.testing.assert_array_equal(open_source(tmp_path, CONTRACT, "right").load(0), PIXELS[1])


def test_a_digest_is_of_the_image_alone_and_the_same_as_elsewhere(tmp_path: Path) -> None:
    """Calibration splits by it, so that the same images give the same file wherever they are stored."""
    names = ["encoded", "raw", "integers", "floats"]
    stored = [png(PIXELS[0]), PIXELS[0].tobytes(), PIXELS[0].astype(np.int64), PIXELS[0].astype(np.float32)]
    (tmp_path / "image.png").write_bytes(png(PIXELS[0]))
    others = [tmp_path / "image.png", PIXELS[:1], PIXELS[:1].astype(np.int64), PIXELS[:1].astype(np.float32)]
    path = write(tmp_path / "x.tfrecord", [example(**dict(zip(names, stored, strict=True)), label=np.array([3]))])
    for name, other in zip(names, others, strict=True):
        assert open_source(path, CONTRACT, name).digest(0) == open_source(other, CONTRACT).digest(0), name
    assert open_source(path, CONTRACT, "raw").fingerprint() == open_source(PIXELS[:1], CONTRACT).fingerprint()
    assert len({open_source(path, CONTRACT, name).fingerprint() for name in names}) == 4


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz", "x.tfrecord-00000-of-00001.gz"])
def test_a_compressed_file_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, [example(image=png(PIXELS[0]))], "GZIP")
    with pytest.raises(UnreadableDataError, match=f"{name} is compressed with gzip.*gunzip"):
        open_source(path, CONTRACT)


def test_a_zlib_file_is_no_tfrecord_without_compression(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [example(image=png(PIXELS[0]))], "ZLIB")
    with pytest.raises(UnreadableDataError, match=r"not a \.tfrecord file.*without compression"):
        open_source(path, CONTRACT)


@pytest.mark.parametrize("content", [b"text", b"just some text, and some more of it\n" * 9])
def test_a_text_is_no_tfrecord(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(content)
    with pytest.raises(UnreadableDataError, match=r"x\.tfrecord is not a \.tfrecord file: it begins with b'"):
        open_source(tmp_path / "x.tfrecord", CONTRACT)


def test_a_file_without_records_is_empty(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match=r"x\.tfrecord holds no records"):
        open_source(write(tmp_path / "x.tfrecord", []), CONTRACT)


def test_a_file_that_ends_within_a_record_says_how_many_are_whole(encoded: Path) -> None:
    whole = encoded.read_bytes()
    encoded.write_bytes(whole[:-1])
    with pytest.raises(UnreadableDataError, match="ends in the middle of a record, after 4 whole one"):
        open_source(encoded, CONTRACT)


def test_a_damaged_length_says_that_nothing_after_it_can_be_found(encoded: Path) -> None:
    content = bytearray(encoded.read_bytes())
    second = 16 + struct.unpack_from("<Q", content)[0]
    content[second + 1] ^= 1
    encoded.write_bytes(content)
    with pytest.raises(UnreadableDataError, match="record 1: its length does not have the checksum"):
        open_source(encoded, CONTRACT)


def test_a_damaged_content_is_left_out(encoded: Path) -> None:
    content = bytearray(encoded.read_bytes())
    content[40] ^= 1
    encoded.write_bytes(content)
    source = open_source(encoded, CONTRACT)
    with pytest.raises(UnreadableDataError, match="record 0: its content does not have the checksum"):
        source.load(0)
    assert source.readable()[0].ids == ("1", "2", "3", "4")


def test_a_file_that_changes_while_it_is_read_is_refused(encoded: Path) -> None:
    source = open_source(encoded, CONTRACT)
    encoded.write_bytes(encoded.read_bytes()[:100])
    with pytest.raises(UnreadableDataError, match="record 4"):
        source.load(4)
    encoded.unlink()
    with pytest.raises(UnreadableDataError, match="record 0: cannot read it"):
        source.load(0)


SMALL = InputContract((2, 2, 1))
SMALL_RECORDS = [example(image=bytes([row, 2, 3, 4])) for row in range(3)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("small") / "x.tfrecord", SMALL_RECORDS).read_bytes()


def images_of(path: Path) -> list[bytes | None]:
    """Every image; None where it was refused. Anything but a refusal ends the test."""
    try:
        source = open_source(path, SMALL)
    except (UnreadableDataError, EmptyDataError) as error:
        assert str(path) in str(error)
        return []
    images: list[bytes | None] = []
    for index in range(len(source)):
        try:
            images.append(source.load(index).tobytes())
        except UnreadableDataError as error:
            assert f"{path}, record {index}" in str(error)
            images.append(None)
    return images


WHOLE = [bytes([row, 2, 3, 4]) for row in range(3)]


def test_every_truncation_is_refused_or_gives_the_records_before_it(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    size = len(small) // 3
    for end in range(len(small) + 1):
        path.write_bytes(small[:end])
        # A file that was cut between two records cannot be told from one that was written so.
        assert images_of(path) == (WHOLE[: end // size] if end % size == 0 else [])


def test_every_flipped_byte_is_refused_or_changes_nothing(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    rng = np.random.default_rng(0)
    for place in range(len(small)):
        content = bytearray(small)
        content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        found = images_of(path)
        assert found == [] or found == [
            None if place // (len(small) // 3) == row else image for row, image in enumerate(WHOLE)
        ]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_arbitrary_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    path.write_bytes(content)
    assert images_of(path) == []


def features_by_tensorflow(data: bytes) -> dict[str, Any]:
    parsed = tf.train.Example.FromString(data)
    result: dict[str, Any] = {}
    for name, values in parsed.features.feature.items():
        kind = values.WhichOneof("kind")
        if kind == "float_list":
            result[name] = np.array(values.float_list.value, np.float32).tobytes()
        elif kind == "int64_list":
            result[name] = np.array(values.int64_list.value, np.int64).tobytes()
        else:
            result[name] = tuple(values.bytes_list.value)
    return result


def features_by_us(data: bytes) -> dict[str, Any]:
    return {
        name: values if isinstance(values, tuple) else values.tobytes() for name, values in parse_example(data).items()
    }


VALUES = st.one_of(
    st.lists(st.binary(max_size=6), max_size=3).map(lambda v: tf.train.Feature(bytes_list={"value": v})),
    st.lists(st.floats(width=32), max_size=5).map(lambda v: tf.train.Feature(float_list={"value": v})),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda v: tf.train.Feature(int64_list={"value": v})),
    st.just(tf.train.Feature()),
)
EXAMPLES = st.dictionaries(st.text(max_size=5), VALUES, max_size=4).map(
    lambda named: tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()
)


@settings(max_examples=300, deadline=None)
@given(data=EXAMPLES)
def test_examples_are_parsed_as_tensorflow_parses_them(data: bytes) -> None:
    assert features_by_us(data) == features_by_tensorflow(data)


@settings(max_examples=300, deadline=None)
@given(whole=st.builds(bytes.__add__, EXAMPLES, EXAMPLES), seed=st.integers(0, 2**32 - 1))
def test_a_damaged_example_is_refused_or_parsed_as_tensorflow_parses_it(whole: bytes, seed: int) -> None:
    """Each in ten ways, because making up an example takes far longer than damaging it."""
    chance = random.Random(seed)
    for _ in range(10):
        content = bytearray(whole)
        for _ in range(chance.randint(0, 3) if whole else 0):
            content[chance.randrange(len(content))] = chance.choice([0, 1, 8, 10, 13, 18, 26, 127, 128, 255])
        damaged = bytes(content[: chance.randint(0, len(content))])
        try:
            ours = features_by_us(damaged)
        except ValueError:
            continue
        assert ours == features_by_tensorflow(damaged)


def message(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def unpacked(kind: int, values: bytes) -> bytes:
    return message(1, message(1, message(1, b"image") + message(2, message(kind, values))))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(unpacked(2, b"".join(b"\x0d" + struct.pack("<f", v) for v in (1.5, -2))), id="floats"),
        pytest.param(unpacked(3, b"\x08\x05\x08\xac\x02\x08" + b"\xff" * 9 + b"\x01"), id="integers"),
        pytest.param(unpacked(3, b"\x08\x05\x0a\x02\x01\x02\x08\x07"), id="mixed"),
        pytest.param(message(1, b"") + unpacked(3, b"\x08\x05") + unpacked(1, b""), id="the last entry counts"),
        pytest.param(unpacked(3, b"\x08\x05") + b"\x18\x01\x21" + bytes(8) + b"\x25" + bytes(4), id="unknown fields"),
    ],
)
def test_what_other_writers_write_is_parsed_as_tensorflow_parses_it(data: bytes) -> None:
    assert features_by_us(data) == features_by_tensorflow(data)


def test_a_map_entry_with_more_than_a_name_and_a_value_is_refused() -> None:
    """Protobuf's implementations disagree: one takes it for a feature without a name, another for unknown fields."""
    with pytest.raises(ValueError, match="more than a name and a value"):
        parse_example(message(1, message(1, b"\x0d" + bytes(4))))


def test_a_large_index_holds_little_and_reads_at_random(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [bytes([row % 256]) * (row % 50) for row in range(20_000)])
    file = RecordFile(path)
    assert len(file) == 20_000
    for row in (0, 19_999, 7, 12_345):
        assert file.read(row) == bytes([row % 256]) * (row % 50)


def test_without_the_checksum_package_the_pip_line_is_named(encoded: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['google_crc32c'] = None\n"
        "from embedlite.runtime import InputContract\n"
        "from embedlite.runtime.errors import MissingPackageError\n"
        "from embedlite.runtime.images.open import open_source\n"
        "try:\n"
        f"    open_source({str(encoded)!r}, InputContract((6, 4, 3)))\n"
        "except MissingPackageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'embedlite[images]'" in done.stdout


def test_reading_needs_no_tensorflow(encoded: Path) -> None:
    code = (
        "import sys\n"
        "from embedlite.runtime import InputContract\n"
        "from embedlite.runtime.images.open import open_source\n"
        "assert 'PIL' not in sys.modules and 'google_crc32c' not in sys.modules\n"
        f"print(open_source({str(encoded)!r}, InputContract((6, 4, 3))).load(1).shape)\n"
        "print([name for name in ('tensorflow', 'google.protobuf', 'click') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(6, 4, 3)\n[]\n"
