"""The deployed file: the contract after the flatbuffer, and what happens when either is damaged."""

import io
import json
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.runtime import __version__
from embedlite.runtime.errors import (
    DamagedModelError,
    ModelFileError,
    NewerContractError,
    NotTFLiteError,
    RequestError,
    UnreadableDataError,
)
from embedlite.runtime.files import sha256
from embedlite.runtime.model.artifact import (
    CONTRACT_NAME,
    GOLDEN_NAME,
    MARKER,
    append_contract,
    parse_artifact,
    read_artifact,
    sidecar,
)
from embedlite.runtime.model.contract import (
    COLOR_ORDERS,
    EXIF,
    FITS,
    GRAYS,
    INPUT_DTYPES,
    JPEG_DECODERS,
    RESAMPLERS,
    SCHEMA,
    Contract,
    InputContract,
    InputOptions,
    NormalizationSpec,
    binding,
)

from conftest import Digits


@pytest.fixture(scope="session")
def int8_file(digits: Digits) -> Path:
    return digits.int8


def flatbuffer(marker: bytes | None) -> bytes:
    """A TFLite file with one tensor and no operators, with or without the marker of a contract."""
    image = schema.TensorT()
    image.name, image.shape = "image", [1, 4, 4, 1]
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [image], [0], [0], []
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], []
    model.buffers, model.metadata = [schema.BufferT(), schema.BufferT()], []
    if marker is not None:
        model.buffers[1].data = list(marker)
        entry = schema.MetadataT()
        entry.name, entry.buffer = MARKER, 1
        model.metadata = [entry]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def contract(**changes: Any) -> Contract:
    spec = NormalizationSpec("minmax", (1,), "shifted", 1e-12, "max")
    made_of = {"method": "minmax", "samples": 3, "fingerprint": "ab"}
    made_by = {"embedlite": "0.1.0"}
    return replace(Contract(InputContract((4, 4, 1)), (16,), "float32", spec, "int8", made_of, made_by), **changes)


def marked(owner: Contract) -> bytes:
    return flatbuffer(binding(owner.to_json()))


BARE, MARKED = flatbuffer(None), marked(contract())
GOLDEN = b"a few vectors"
DEPLOYED = append_contract(MARKED, contract(), GOLDEN)


def with_entry(front: bytes, text: bytes, compression: int = zipfile.ZIP_STORED, name: str = CONTRACT_NAME) -> bytes:
    """``front`` with any text in place of a contract."""
    buffer = io.BytesIO(front)
    with zipfile.ZipFile(buffer, "a", compression) as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


def test_what_was_appended_is_read_again() -> None:
    artifact = parse_artifact(DEPLOYED)
    assert artifact.flatbuffer == MARKED
    sealed = {"flatbuffer_bytes": len(MARKED), "flatbuffer_sha256": sha256(MARKED), "golden_sha256": sha256(GOLDEN)}
    assert artifact.contract == contract(**sealed)
    assert artifact.golden == GOLDEN
    assert (artifact.sha256, artifact.size) == (sha256(DEPLOYED), len(DEPLOYED))
    assert artifact.info.inputs[0].name == "image"


def test_the_same_contract_gives_the_same_bytes() -> None:
    assert append_contract(MARKED, contract(), GOLDEN) == DEPLOYED
    assert append_contract(MARKED, contract(mode="float32"), GOLDEN) != DEPLOYED
    assert append_contract(MARKED, contract(), GOLDEN + b"!") != DEPLOYED


def test_an_exported_file_is_a_flatbuffer_and_a_stored_zip(int8_file: Path) -> None:
    artifact = read_artifact(int8_file)
    assert artifact.contract is not None
    with zipfile.ZipFile(int8_file) as archive:
        assert archive.namelist() == [CONTRACT_NAME, GOLDEN_NAME]
        entry = archive.getinfo(CONTRACT_NAME)
        text = json.loads(archive.read(CONTRACT_NAME))
        assert sha256(archive.read(GOLDEN_NAME)) == text["golden_sha256"]
        for stored in archive.infolist():
            assert (stored.compress_type, stored.date_time) == (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
    assert entry.header_offset == len(artifact.flatbuffer) == text["flatbuffer_bytes"]
    assert text["flatbuffer_sha256"] == sha256(artifact.flatbuffer)
    assert Contract.from_json(text) == artifact.contract
    assert artifact.contract.mode == "int8"


def test_the_appended_zip_changes_nothing_for_the_interpreter(int8_file: Path) -> None:
    image = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)

    def embed(data: bytes) -> np.ndarray:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    np.testing.assert_array_equal(embed(int8_file.read_bytes()), embed(read_artifact(int8_file).flatbuffer))


def test_a_plain_file_has_no_contract() -> None:
    artifact = parse_artifact(BARE)
    assert (artifact.contract, artifact.flatbuffer) == (None, BARE)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_other_tools_behind_a_plain_file_is_theirs(compression: int) -> None:
    artifact = parse_artifact(with_entry(BARE, b"cat\ndog", compression, "labels.txt"))
    assert artifact.contract is None
    assert artifact.info.inputs[0].name == "image"


def test_a_marked_file_without_its_contract_is_refused() -> None:
    with pytest.raises(DamagedModelError, match=r"contract is missing.*Copy it again"):
        parse_artifact(MARKED)
    with pytest.raises(DamagedModelError, match="contract is missing"):
        parse_artifact(with_entry(MARKED, b"cat\ndog", name="labels.txt"))


def test_a_damaged_contract_is_not_taken_for_none() -> None:
    data = bytearray(append_contract(BARE, contract()))
    data[data.rindex(b"PK\x01\x02")] ^= 1
    with pytest.raises(DamagedModelError, match="contract at the end of the model is damaged"):
        parse_artifact(bytes(data))


def test_every_truncation_is_refused() -> None:
    for end in range(len(DEPLOYED)):
        with pytest.raises(ModelFileError):
            parse_artifact(DEPLOYED[:end])


def test_no_flipped_bit_gets_another_flatbuffer_or_contract_through() -> None:
    whole = parse_artifact(DEPLOYED)
    refused = 0
    for position in range(len(DEPLOYED)):
        for bit in range(8):
            mutant = bytearray(DEPLOYED)
            mutant[position] ^= 1 << bit
            try:
                artifact = parse_artifact(bytes(mutant))
            except DamagedModelError:
                refused += 1
            else:
                # Time stamps and the like: the zip says the same with them.
                assert position >= len(MARKED)
                assert (artifact.flatbuffer, artifact.contract) == (whole.flatbuffer, whole.contract)
                assert artifact.golden == GOLDEN
    assert refused > 8 * len(MARKED)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_damaged_exported_file_is_refused_by_its_checksum(data: st.DataObject, int8_file: Path) -> None:
    mutant = bytearray(int8_file.read_bytes())
    position = data.draw(st.integers(0, len(read_artifact(int8_file).flatbuffer) - 1))
    mutant[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedModelError, match=r"its SHA-256 is .* It was not given to any interpreter"):
        parse_artifact(bytes(mutant))


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        (b"other vectors", "their SHA-256 is [0-9a-f]{12}, but the contract says [0-9a-f]{12}"),
        (None, "is missing, but"),
    ],
)
def test_golden_vectors_that_are_not_the_contracts_are_refused(golden: bytes | None, message: str) -> None:
    with zipfile.ZipFile(io.BytesIO(DEPLOYED)) as archive:
        text = archive.read(CONTRACT_NAME)
    data = with_entry(MARKED, text)
    if golden is not None:
        data = with_entry(data, golden, name=GOLDEN_NAME)
    with pytest.raises(DamagedModelError, match=message):
        parse_artifact(data)
    none_said = with_entry(append_contract(MARKED, contract()), GOLDEN, name=GOLDEN_NAME)
    with pytest.raises(DamagedModelError, match="the contract says that there are none"):
        parse_artifact(none_said)


def test_a_contract_without_word_of_golden_vectors_has_none() -> None:
    value = contract().to_json()
    del value["golden_sha256"]
    assert Contract.from_json(value) == contract()


def test_a_contract_moved_behind_another_flatbuffer_is_refused() -> None:
    with pytest.raises(DamagedModelError, match=f"{len(BARE)} bytes.*{len(MARKED)} bytes"):
        parse_artifact(BARE + DEPLOYED[len(MARKED) :])


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"7", b'"text"', b"{}"])
def test_a_contract_that_is_no_json_object_of_ours_is_damage(text: bytes) -> None:
    with pytest.raises(DamagedModelError, match=r"contract .*(Copy the file again|Export the model again)"):
        parse_artifact(with_entry(MARKED, text))


def test_a_newer_schema_names_the_version_to_install() -> None:
    newer = {"schema": SCHEMA + 1, "tools": {"embedlite": "9.8.7"}, "something": "unheard of"}
    advice = f"schema {SCHEMA + 1}; embedlite {__version__} reads up to {SCHEMA}.*pip install 'embedlite>=9.8.7'"
    with pytest.raises(NewerContractError, match=advice):
        parse_artifact(with_entry(MARKED, json.dumps(newer).encode()))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tflite", tmp_path):
        with pytest.raises(UnreadableDataError, match=f"{path}.*Pass the path of a .tflite file"):
            read_artifact(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(DEPLOYED[:-1])
    with pytest.raises(DamagedModelError, match=str(path)):
        read_artifact(path)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"just some text", NotTFLiteError),
        (with_entry(MARKED, json.dumps({"schema": SCHEMA + 1}).encode()), NewerContractError),
    ],
)
def test_a_foreign_and_a_newer_file_are_named(data: bytes, error: type[ModelFileError], tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(data)
    with pytest.raises(error, match=str(path)):
        read_artifact(path)


def floats(low: float, high: float = 1e6) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    channels = draw(st.sampled_from([1, 2, 3, 4, 12]))
    sizes = st.sampled_from([1, channels])
    inputs = InputContract(
        (draw(st.integers(1, 512)), draw(st.integers(1, 512)), channels),
        draw(st.sampled_from(INPUT_DTYPES)),
        draw(st.sampled_from(COLOR_ORDERS.get(channels, ("none",)))),
        tuple(draw(floats(-1e6)) for _ in range(draw(sizes))),
        tuple(draw(floats(1e-6)) for _ in range(draw(sizes))),
        draw(st.sampled_from(RESAMPLERS)),
        draw(st.sampled_from([*FITS, "resize-crop:512"])),
        draw(st.sampled_from(JPEG_DECODERS)),
        draw(st.sampled_from(EXIF)),
        draw(st.sampled_from(GRAYS)),
        kind="image",
    )
    normalization = NormalizationSpec(
        draw(st.sampled_from(["none", "minmax", "l2"])),
        tuple(draw(st.lists(st.integers(0, 3), max_size=3, unique=True))),
        draw(st.sampled_from(["shifted", "input"])),
        draw(floats(0, 1)),
        draw(st.sampled_from(["none", "add", "max"])),
    )
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    calibration = draw(st.none() | st.dictionaries(words, words | st.integers()))
    shape = tuple(draw(st.lists(st.integers(1, 512), min_size=1, max_size=3)))
    return Contract(inputs, shape, "float32", normalization, draw(words), calibration, {"embedlite": draw(words)})


@settings(max_examples=60, deadline=None)
@given(original=contracts())
def test_every_contract_survives_the_file(original: Contract) -> None:
    front = marked(original)
    read = parse_artifact(append_contract(front, original)).contract
    assert read == replace(original, flatbuffer_bytes=len(front), flatbuffer_sha256=sha256(front))


@settings(max_examples=60, deadline=None)
@given(original=contracts(), other=contracts())
def test_a_contract_of_other_vectors_is_refused_however_it_is_sealed(original: Contract, other: Contract) -> None:
    front, bound = marked(original), ("input", "output_shape", "output_dtype", "normalization", "mode")
    first, second = (json.dumps([item.to_json()[name] for name in bound]) for item in (original, other))
    if first == second:
        assert parse_artifact(append_contract(front, other)).contract.input == original.input
        return
    for read_sidecar, data in ((lambda: None, append_contract(front, other)), (lambda: sidecar(front, other), front)):
        with pytest.raises(DamagedModelError, match="not the one that the model was exported with"):
            parse_artifact(data, read_sidecar)


@pytest.mark.parametrize("key", ["input", "output_shape", "output_dtype", "normalization", "mode", "calibration"])
def test_a_contract_without_a_key_is_damage_that_names_it(key: str) -> None:
    value = contract().to_json()
    del value[key]
    with pytest.raises(DamagedModelError, match=f"{key}.*Export the model again"):
        Contract.from_json(value)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("input", "shape", [4, 4]),
        ("input", "shape", 4),
        ("input", "shape", [4, 4, 3]),
        ("input", "mean", [0.0, 1.0]),
        ("input", "mean", "0"),
        ("input", "mean", [float("nan")]),
        ("input", "std", [0.0]),
        ("input", "std", None),
        ("input", "dtype", "float64"),
        ("input", "color_order", "rgb"),
        ("input", "resampler", "sinc"),
        ("input", "fit", "zoom"),
        ("input", "fit", None),
        ("input", "jpeg_decoder", "libjpeg"),
        ("input", "exif", True),
        ("input", "gray", []),
        ("input", "unheard of", 1),
        ("normalization", "axes", None),
        ("normalization", "unheard of", 1),
        (None, "normalization", []),
        (None, "output_shape", 16),
        (None, "schema", "one"),
        (None, "schema", None),
        (None, "unheard of", 1),
    ],
)
def test_a_contract_with_a_wrong_value_is_damage(part: str | None, key: str, value: Any) -> None:
    wrong = json.loads(json.dumps(contract().to_json()))
    (wrong if part is None else wrong[part])[key] = value
    with pytest.raises(DamagedModelError, match="contract cannot be read"):
        Contract.from_json(wrong)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("input", "shape", [4, -4, 1]),
        ("input", "shape", [4, 4.5, 1]),
        ("normalization", "kind", "softmax"),
        ("normalization", "divisor", "mean"),
        ("normalization", "epsilon_mode", "sometimes"),
        ("normalization", "placement", "elsewhere"),
        (None, "output_shape", ["wide"]),
        (None, "calibration", 3),
    ],
)
def test_a_contract_with_a_value_that_means_nothing_is_damage(part: str | None, key: str, value: Any) -> None:
    wrong = json.loads(json.dumps(contract().to_json()))
    (wrong if part is None else wrong[part])[key] = value
    with pytest.raises(DamagedModelError):
        Contract.from_json(wrong)


@pytest.mark.parametrize(("channels", "order"), [(1, "gray"), (3, "rgb"), (4, "rgba"), (2, "none"), (12, "none")])
def test_the_colour_order_follows_from_the_channels(channels: int, order: str) -> None:
    inputs = InputContract((8, 8, channels))
    assert inputs.color_order == order
    assert InputOptions().for_shape((8, 8, channels)) == inputs


def test_options_replace_only_the_defaults_that_they_name() -> None:
    given_all = InputOptions((1.0,), (2.0,), "bgr", "box").for_shape((8, 8, 3))
    assert given_all == InputContract((8, 8, 3), "float32", "bgr", (1.0,), (2.0,), "box")
    assert InputOptions(std=(2.0,)).for_shape((8, 8, 3)) == InputContract((8, 8, 3), std=(2.0,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_order": "gray"}, r"'gray' does not fit a model with 3 channel.*rgb, bgr"),
        ({"resampler": "area"}, "'area'.*nearest, box, bilinear"),
        ({"dtype": "int16"}, "'int16'.*float32, uint8, int8"),
        ({"mean": (1.0, 2.0)}, r"mean has the values \[1.0, 2.0\].*3 channel.*one for each channel"),
        ({"mean": ()}, "mean has the values"),
        ({"std": (1.0, 1.0, float("inf"))}, "std has the values.*finite"),
        ({"std": (1.0, 0.0, 1.0)}, "std.*greater than zero"),
        ({"std": (-1.0,)}, "std.*greater than zero"),
    ],
)
def test_options_that_make_no_sense_say_what_would(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        InputContract((8, 8, 3), **options)


def test_the_json_has_a_key_for_every_field() -> None:
    value = contract().to_json()
    assert set(value) == {field.name for field in fields(Contract)}
    assert set(value["input"]) == {field.name for field in fields(InputContract)}
    assert json.loads(json.dumps(value))["schema"] == SCHEMA
