"""Thousands of damaged exported files: each ends in one of the package's own errors, or in the right embedding.

Never in a crash of an interpreter, never in another vector. Mutants are opened in processes of their own, a few hundred
each, so that a crash of C++ would be seen; the child says which mutant it is at before it opens it.
"""

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from keras import layers

from embedlite.convert import Asked, export_asked
from embedlite.convert.graph.graph import Graph
from embedlite.convert.layers import MinMaxNormalization
from embedlite.runtime import Encoder
from embedlite.runtime.model.artifact import (
    CONTRACT_NAME,
    DESCRIPTION,
    GOLDEN_NAME,
    MARKER,
    SIDECAR_SUFFIX,
    append_contract,
    read_artifact,
    sidecar,
)
from embedlite.runtime.model.contract import Contract

from encoders import small_encoder

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (24, 24, 3)
PIXELS = np.random.default_rng(5).integers(0, 256, SHAPE, dtype=np.uint8)

CHILD = """
import json, sys, warnings
from pathlib import Path
import numpy as np
from embedlite.runtime import Encoder
from embedlite.runtime.errors import EmbedliteError

warnings.simplefilter("ignore")
job = json.load(sys.stdin)
pixels, wanted = np.load(job["pixels"]), np.load(job["wanted"])
path, counts = Path(job["path"]), {}
for name in job["names"]:
    # Flushed before the file is opened: the parent reads which one a crash belongs to.
    print(name, flush=True)
    for suffix in ("", ".embedlite.json"):
        target, source = Path(str(path) + suffix), Path(job["folder"], name + suffix)
        target.unlink(missing_ok=True)
        if source.exists():
            source.rename(target)
    try:
        with Encoder(path, 1) as encoder:
            found = encoder.embed_one(pixels)
    except EmbedliteError as error:
        end = type(error).__name__
        assert str(path) in str(error), f"{name}: {error}"
    else:
        end = "right"
        assert found.shape == wanted.shape and np.array_equal(found, wanted), f"{name}: another vector"
    counts[end] = counts.get(end, 0) + 1
print(json.dumps(counts))
"""


@dataclass(frozen=True)
class Exported:
    """An exported file, its bytes, its parts and the right embedding of ``PIXELS``."""

    path: Path
    data: bytes
    flatbuffer: bytes
    contract: Contract
    golden: bytes
    wanted: np.ndarray


@pytest.fixture(scope="module", params=["float32", "int8"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An encoder with a mean of its own, so that a lost contract would show in the vectors."""
    model = small_encoder([layers.Flatten(), MinMaxNormalization()])
    images = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
    types = {"input_type": "uint8"} if request.param == "int8" else {}
    (file,) = export_asked(
        model,
        Asked(
            output_dir=tmp_path_factory.mktemp("fuzz"),
            quantize=[request.param],
            calibration_data=images if types else None,
            mean=(127.0,),
            std=(128.0,),
            **types,
        ),
    ).files
    artifact = read_artifact(file.path)
    assert artifact.contract is not None and artifact.golden is not None
    with Encoder(file.path, 1) as encoder:
        wanted = encoder.embed_one(PIXELS)
    return Exported(file.path, file.path.read_bytes(), artifact.flatbuffer, artifact.contract, artifact.golden, wanted)


Mutant = tuple[str, bytes, bytes | None]
"""Its name, the file, and the sidecar beside it."""


def judge(exported: Exported, mutants: Iterator[Mutant], folder: Path, child: str = CHILD) -> dict[str, int]:
    """How many mutants ended in which error, or in the right embedding; fails at any other end."""
    np.save(folder / "pixels.npy", PIXELS)
    np.save(folder / "wanted.npy", exported.wanted)
    names = []
    for name, data, beside in mutants:
        (folder / name).write_bytes(data)
        if beside is not None:
            (folder / (name + SIDECAR_SUFFIX)).write_bytes(beside)
        names.append(name)
    assert len(set(names)) == len(names)
    job = {"pixels": str(folder / "pixels.npy"), "wanted": str(folder / "wanted.npy"), "names": names}
    job |= {"folder": str(folder), "path": str(folder / "mutant.tflite")}
    done = subprocess.run(
        [sys.executable, "-c", child], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"at {last}: code {done.returncode}\n{done.stderr}"
    counts: dict[str, int] = json.loads(last)
    assert sum(counts.values()) == len(names)
    return counts


def flip(data: bytes, position: int, bit: int) -> bytes:
    mutant = bytearray(data)
    mutant[position] ^= 1 << bit
    return bytes(mutant)


def test_bit_flips_anywhere(exported: Exported, tmp_path: Path) -> None:
    """Half of them after the flatbuffer, where the contract, the golden vectors and the zip's own structure are."""
    rng, front = np.random.default_rng(1), len(exported.flatbuffer)

    def mutants() -> Iterator[Mutant]:
        for number in range(500):
            position = int(rng.integers(0, front) if number % 2 else rng.integers(front, len(exported.data)))
            yield f"{number}_at_{position}", flip(exported.data, position, int(rng.integers(0, 8))), None

    counts = judge(exported, mutants(), tmp_path)
    # What is not used may change, such as time stamps; everything in front of the zip is covered by the checksum.
    assert counts["DamagedModelError"] >= 250


def test_every_byte_of_the_zips_structure(exported: Exported, tmp_path: Path) -> None:
    """Local headers, the central directory and its end: each byte turned into others."""
    rng = np.random.default_rng(2)
    with zipfile.ZipFile(io.BytesIO(exported.data)) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        central = archive.start_dir
    places = [range(central, len(exported.data))]
    places += [range(info.header_offset, info.header_offset + 30 + len(info.filename)) for info in infos.values()]

    def mutants() -> Iterator[Mutant]:
        for place in places:
            for position in place:
                mutant = bytearray(exported.data)
                mutant[position] = (mutant[position] + int(rng.integers(1, 256))) % 256
                yield f"at_{position}", bytes(mutant), None

    counts = judge(exported, mutants(), tmp_path)
    assert counts["DamagedModelError"] > 50
    assert counts["right"] > 5


def test_truncations_and_extensions(exported: Exported, tmp_path: Path) -> None:
    data, front = exported.data, len(exported.flatbuffer)
    rng = np.random.default_rng(3)

    def mutants() -> Iterator[Mutant]:
        ends = {front, front + 1, front - 1, len(data) - 1, len(data) - 22, *map(int, rng.integers(0, len(data), 120))}
        for end in sorted(ends):
            yield f"cut_{end}", data[:end], None
            yield f"zeros_from_{end}", data[:end] + bytes(len(data) - end), None
        for size in (1, 21, 22, 23, 500, 65_535, 65_536, 100_000):
            yield f"zeros_behind_{size}", data + bytes(size), None
            yield f"noise_behind_{size}", data + rng.bytes(size), None
            yield f"in_front_{size}", rng.bytes(size) + data, None
            yield f"between_{size}", data[:front] + rng.bytes(size) + data[front:], None
        yield "twice", data + data, None
        yield "zip_twice", data + data[front:], None
        for position in sorted({0, front, *map(int, rng.integers(0, len(data), 60))}):
            yield f"inserted_{position}", data[:position] + b"\0" + data[position:], None
            yield f"deleted_{position}", data[:position] + data[position + 1 :], None

    counts = judge(exported, mutants(), tmp_path)
    assert set(counts) <= {"DamagedModelError", "NotTFLiteError", "right"}
    assert counts.get("right", 0) <= 20


def archive_of(front: bytes, *entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO(front)
    with zipfile.ZipFile(buffer, "a", compression) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


CHANGES: dict[str, Callable[[Contract], Contract]] = {
    "mean": lambda c: replace(c, input=replace(c.input, mean=(126.0,))),
    "std": lambda c: replace(c, input=replace(c.input, std=(127.0,))),
    "channels": lambda c: replace(c, input=replace(c.input, mean=(127.0, 127.0, 126.0))),
    "bgr": lambda c: replace(c, input=replace(c.input, color_order="bgr")),
    "resampler": lambda c: replace(c, input=replace(c.input, resampler="nearest")),
    "fit": lambda c: replace(c, input=replace(c.input, fit="pad")),
    "jpeg": lambda c: replace(c, input=replace(c.input, jpeg_decoder="tensorflow")),
    "exif": lambda c: replace(c, input=replace(c.input, exif="ignore")),
    "shape": lambda c: replace(c, input=replace(c.input, shape=(12, 48, 3))),
    "dtype": lambda c: replace(c, input=replace(c.input, dtype="int8")),
    "placement": lambda c: replace(c, normalization=replace(c.normalization, placement="runtime")),
    "kind": lambda c: replace(c, normalization=replace(c.normalization, kind="l2", placement="runtime")),
    "rows": lambda c: replace(c, output_shape=(*c.output_shape[:-1], c.output_shape[-1] // 2)),
    "matrix": lambda c: replace(c, output_shape=(2, c.output_shape[0] // 2)),
    "mode": lambda c: replace(c, mode="dynamic"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_tampered_zips(exported: Exported, tmp_path: Path) -> None:
    """Sealed again, so that every checksum in the zip is right: only the marker in the flatbuffer can tell."""
    front, golden = exported.flatbuffer, exported.golden
    with zipfile.ZipFile(io.BytesIO(exported.data)) as archive:
        text = archive.read(CONTRACT_NAME)

    def mutants() -> Iterator[Mutant]:
        for name, change in CHANGES.items():
            changed = append_contract(front, change(exported.contract), golden)
            yield f"sealed_{name}", changed, None
            yield f"sealed_without_golden_{name}", append_contract(front, change(exported.contract)), None
            yield f"beside_{name}", front, sidecar(front, change(exported.contract))
            yield f"beside_the_whole_{name}", exported.data, sidecar(front, change(exported.contract))
            later = archive_of(exported.data, (CONTRACT_NAME, changed[len(front) :]))
            yield f"entry_twice_{name}", later, None
            with zipfile.ZipFile(io.BytesIO(changed)) as archive:
                again = archive.read(CONTRACT_NAME)
            yield f"first_entry_{name}", archive_of(front, (CONTRACT_NAME, again), (CONTRACT_NAME, text)), None
            yield f"second_entry_{name}", archive_of(front, (CONTRACT_NAME, text), (CONTRACT_NAME, again)), None
            yield f"zip_behind_zip_{name}", archive_of(exported.data, (CONTRACT_NAME, again)), None
        yield "swapped", archive_of(front, (GOLDEN_NAME, golden), (CONTRACT_NAME, text)), None
        yield "exchanged", archive_of(front, (GOLDEN_NAME, text), (CONTRACT_NAME, golden)), None
        yield "no_golden", archive_of(front, (CONTRACT_NAME, text)), None
        yield "golden_twice", archive_of(exported.data, (GOLDEN_NAME, golden)), None
        yield "golden_altered", archive_of(front, (CONTRACT_NAME, text), (GOLDEN_NAME, flip(golden, 900, 3))), None
        yield "only_golden", archive_of(front, (GOLDEN_NAME, golden)), None
        yield "another_entry", archive_of(exported.data, ("labels.txt", b"cat")), None
        yield "another_first", archive_of(front, ("a", b"cat"), (CONTRACT_NAME, text), (GOLDEN_NAME, golden)), None
        yield "folder", archive_of(front, (f"x/{CONTRACT_NAME}", text)), None
        yield "empty", archive_of(front, (CONTRACT_NAME, b"")), None
        yield "foreign", archive_of(front, (CONTRACT_NAME, b'{"schema": 1}')), None
        for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            yield f"compressed_{kind}", archive_of(front, (CONTRACT_NAME, text), compression=kind), None
        bomb = archive_of(front, (CONTRACT_NAME, bytes(50_000_000)), compression=zipfile.ZIP_DEFLATED)
        yield "bomb", bomb, None
        yield "encrypted", encrypted(exported.data), None

    counts = judge(exported, mutants(), tmp_path)
    # The right ones: a whole file with any sidecar, the two entries in another order, an entry more.
    assert counts == {"DamagedModelError": sum(counts.values()) - counts["right"], "right": len(CHANGES) + 3}


def encrypted(data: bytes) -> bytes:
    """The flag of encryption set on every entry."""
    mutant = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir
        for info in archive.infolist():
            mutant[info.header_offset + 6] |= 1
            mutant[at + 8] |= 1
            at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(mutant)


def test_the_contracts_text(exported: Exported, tmp_path: Path) -> None:
    """A bit of the contract flips in memory, say, before the zip is written: then the CRC is right as well."""
    with zipfile.ZipFile(io.BytesIO(exported.data)) as archive:
        text = archive.read(CONTRACT_NAME)
    rng = np.random.default_rng(4)

    def mutants() -> Iterator[Mutant]:
        for position in range(0, len(text), 2):
            altered = flip(text, position, int(rng.integers(0, 7)))
            data = archive_of(exported.flatbuffer, (CONTRACT_NAME, altered), (GOLDEN_NAME, exported.golden))
            yield f"at_{position}", data, None

    counts = judge(exported, mutants(), tmp_path)
    # Those of provenance only: fingerprints, versions, white space.
    assert counts["right"] < 0.5 * sum(counts.values())


def test_marker_description_and_zip_are_lost_one_after_the_other(exported: Exported, tmp_path: Path) -> None:
    """With the zip gone, either of the two marks in the flatbuffer is enough to notice."""
    front = exported.flatbuffer
    marks = {"marker": MARKER.encode(), "description": len(DESCRIPTION).to_bytes(4, "little") + DESCRIPTION.encode()}

    def mutants() -> Iterator[Mutant]:
        for name, mark in marks.items():
            assert front.count(mark) == 1
            for offset in range(len(mark)):
                for bit in range(0, 8, 3):
                    mutant = flip(front, front.index(mark) + offset, bit)
                    yield f"{name}_{offset}_{bit}", mutant, None
                    yield f"{name}_{offset}_{bit}_with_zip", mutant + exported.data[len(front) :], None
        yield "both", front, None

    counts = judge(exported, mutants(), tmp_path)
    assert counts == {"DamagedModelError": sum(counts.values())}


def test_sidecars(exported: Exported, tmp_path: Path) -> None:
    """A file that another tool rewrote, and what can happen to the contract beside it."""
    front, rng = exported.flatbuffer, np.random.default_rng(6)
    beside = sidecar(front, exported.contract)

    def mutants() -> Iterator[Mutant]:
        yield "whole", front, beside
        for number in range(100):
            yield f"flip_{number}", front, flip(beside, int(rng.integers(0, len(beside))), int(rng.integers(0, 8)))
            yield f"cut_{number}", front, beside[: int(rng.integers(0, len(beside)))]
        for number in range(50):
            yield f"model_{number}", flip(front, int(rng.integers(0, len(front))), int(rng.integers(0, 8))), beside
            yield f"model_cut_{number}", front[: int(rng.integers(0, len(front)))], beside

    counts = judge(exported, mutants(), tmp_path)
    assert counts["right"] >= 1
    assert counts["DamagedModelError"] >= 150


def test_the_judge_notices_another_vector_and_a_crash(exported: Exported, tmp_path: Path) -> None:
    """A file of other weights, soundly sealed, gives another vector; a signal ends the child before it answers."""
    weights = exported.flatbuffer
    constants = [bytes(buffer.data) for buffer in Graph(weights).model.buffers if buffer.data is not None]
    largest = max(constants, key=len)
    other = append_contract(weights.replace(largest, largest[::-1]), exported.contract)
    with pytest.raises(AssertionError, match="another vector"):
        judge(exported, iter([("other", other, None)]), tmp_path)
    crashing = CHILD.replace("        with Encoder", "        import os; os.abort()\n        with Encoder")
    with pytest.raises(AssertionError, match="at whole: code -6"):
        judge(exported, iter([("whole", exported.data, None)]), tmp_path, crashing)
