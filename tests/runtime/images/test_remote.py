"""Data that fsspec reaches, from servers on this machine: moto's, which speaks S3, and Python's web server."""

import functools
import http.server
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

from embedlite.calibration import collect_statistics, save_statistics
from embedlite.calibration.engine import list_images
from embedlite.calibration.engine.dask_engine import DaskEngine
from embedlite.runtime import InputContract
from embedlite.runtime.errors import EmptyDataError, InputShapeError, RequestError, UnreadableDataError
from embedlite.runtime.images.folder import Names
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.remote import RemoteFolder
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.artifact import read_artifact

from buckets import s3_bucket
from cluster import two_workers
from conftest import Digits, Run, error_line
from example_records import record

CONTRACT = InputContract((32, 32, 1))
COUNT = 24

pytestmark = pytest.mark.filterwarnings("ignore:.*entries are left out")


@pytest.fixture(scope="module")
def pool(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as files, a zip, .npy, .tfrecord and Parquet with three kinds of columns."""
    folder = tmp_path_factory.mktemp("pool")
    files = sorted(digits.calibration.iterdir())[:COUNT]
    (folder / "photos" / "deep").mkdir(parents=True)
    for number, file in enumerate(files):
        (folder / "photos" / ("deep" if number % 2 else "") / file.name).write_bytes(file.read_bytes())
    (folder / "photos" / "README.txt").write_text("no image")
    with zipfile.ZipFile(folder / "pool.zip", "w") as archive:
        for file in files:
            archive.write(file, f"inside/{file.name}")
    pixels = np.stack(list(open_source(folder / "photos", CONTRACT)))
    np.save(folder / "pool.npy", pixels)
    (folder / "pool.tfrecord").write_bytes(b"".join(map(record, pixels)))
    ordered = sorted(
        (folder / "photos").rglob("*.png"), key=lambda path: path.relative_to(folder / "photos").as_posix()
    )
    encoded = [path.read_bytes() for path in ordered]
    table = pa.table(
        {
            "label": list(range(COUNT)),
            "image": encoded,
            "struct": [{"bytes": data, "path": "x.png"} for data in encoded],
            "array": [image.tolist() for image in pixels],
            "scaled": [(image / np.float32(255)).ravel().tolist() for image in pixels],
        }
    )
    pq.write_table(table, folder / "pool.parquet", row_group_size=7)
    (folder / "parts").mkdir()
    for part in range(2):
        pq.write_table(table.slice(part * 12, 12), folder / "parts" / f"{part}.parquet")
    return folder


@pytest.fixture(scope="module")
def bucket(pool: Path) -> Iterator[str]:
    files = sorted(path for path in pool.rglob("*") if path.is_file())
    with s3_bucket("pool", [(path.relative_to(pool).as_posix(), path) for path in files]):
        yield "s3://pool"


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Answers requests for some bytes of a file, as every web server but Python's does."""

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().do_GET()
        first, last = int(wanted[1]), int(wanted[2])
        content = path.read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}")
        self.send_header("Content-Length", str(len(content[first : last + 1])))
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        return None

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def web(pool: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=str(pool)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def client(bucket: str) -> Iterator[Client]:
    """Started when the environment names the server, as a worker's would."""
    with two_workers() as (_, connected):
        yield connected


@pytest.fixture
def base(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def same(far: Source, near: Source) -> None:
    assert len(far) == len(near) == COUNT
    assert far.pixels == near.pixels
    # Sent as it is to workers, and opened there.
    there = pickle.loads(pickle.dumps(far.shard(range(COUNT)))).open()
    for index in range(COUNT):
        for source in (far, there):
            np.testing.assert_array_equal(source.load(index), near.load(index))
            assert source.stored(index) == near.stored(index)


@pytest.mark.parametrize("base", ["bucket", "web"], indirect=True)
def test_folders_and_files_far_away_are_those_at_hand(base: str, pool: Path) -> None:
    photos = open_source(pool / "photos", CONTRACT)
    far = open_source(f"{base}/photos", CONTRACT)
    assert tuple(far.ids) == tuple(photos.ids)
    same(far, photos)
    same(open_source(f"{base}/pool.npy", CONTRACT), open_source(pool / "pool.npy", CONTRACT))
    same(open_source(f"{base}/pool.tfrecord", CONTRACT), open_source(pool / "pool.tfrecord", CONTRACT))
    parquet = open_source(f"{base}/pool.parquet", CONTRACT)
    assert parquet.ids == open_source(pool / "pool.parquet", CONTRACT).ids
    same(parquet, photos)


def test_patterns_and_archives(bucket: str, web: str, pool: Path) -> None:
    for location in (str(pool / "photos" / "*" / "*.png"), f"{bucket}/photos/*/*.png"):
        found = open_source(location, CONTRACT)
        assert [name.rpartition("/")[0] for name in found.ids] == ["deep"] * (COUNT // 2)
    photos = sorted(open_source(pool / "photos", CONTRACT), key=lambda image: image.tobytes())
    for location in (
        f"zip://::{pool}/pool.zip",
        f"zip://inside/*.png::{bucket}/pool.zip",
        f"zip://inside::{web}/pool.zip",
    ):
        found = open_source(location, CONTRACT)
        assert all(name.endswith(".png") for name in found.ids)
        images = [pickle.loads(pickle.dumps(found.shard([i]))).open().load(0) for i in range(COUNT)]
        np.testing.assert_array_equal(sorted(images, key=lambda image: image.tobytes()), photos)


@pytest.mark.parametrize("column", ["image", "struct", "array", "scaled"])
def test_columns_of_parquet(column: str, pool: Path) -> None:
    near = open_source(pool / "pool.npy", CONTRACT)
    for location in (pool / "pool.parquet", pool / "parts", str(pool / "parts" / "*.parquet")):
        source = open_source(location, CONTRACT, column)
        part = pickle.loads(pickle.dumps(source.shard([20, 3, 4]))).open()
        assert part.ids == tuple(source.ids[i] for i in (20, 3, 4))
        for place, index in enumerate((20, 3, 4)):
            expected = near.load(index) / np.float32(255) if column == "scaled" else near.load(index)
            np.testing.assert_array_equal(source.load(index), expected)
            np.testing.assert_array_equal(part.load(place), expected)
            assert part.stored(place) == source.stored(index)


def test_a_column_of_repeated_values_is_found(pool: Path, tmp_path: Path) -> None:
    encoded = pq.read_table(pool / "pool.parquet", columns=["image"])["image"].combine_chunks()
    pq.write_table(
        pa.table({"label": range(len(encoded)), "photo": encoded.dictionary_encode()}), tmp_path / "few.parquet"
    )
    source, near = open_source(tmp_path / "few.parquet", CONTRACT), open_source(pool / "pool.npy", CONTRACT)
    for index in range(COUNT):
        np.testing.assert_array_equal(source.load(index), near.load(index))


def test_a_cluster_reads_the_bucket_itself(bucket: str, pool: Path, client: Client, digits: Digits) -> None:
    flatbuffer = read_artifact(digits.float32).flatbuffer
    near, far = (open_source(item, CONTRACT) for item in (pool / "photos", f"{bucket}/photos"))
    with DaskEngine(client) as engine:
        there = collect_statistics(flatbuffer, far, engine=engine)
        assert list_images(far, engine).fingerprint(far.ids) == near.fingerprint()
        assert engine.summary.images == 2 * COUNT
    save_statistics(pool / "there.npz", there)
    save_statistics(pool / "here.npz", collect_statistics(flatbuffer, near))
    assert (pool / "there.npz").read_bytes() == (pool / "here.npz").read_bytes()


def test_an_image_is_fetched_once_to_be_decoded_and_hashed(
    bucket: str, monkeypatch: pytest.MonkeyPatch, digits: Digits
) -> None:
    source, fetched = open_source(f"{bucket}/photos", CONTRACT), []
    read = RemoteFolder.read
    monkeypatch.setattr(RemoteFolder, "read", lambda folder, name: fetched.append(name) or read(folder, name))
    collect_statistics(read_artifact(digits.float32).flatbuffer, source, threads=2)
    assert len(fetched) == len(set(fetched)) == COUNT


@pytest.mark.parametrize(
    ("location", "error", "words"),
    [
        ("s3://nothing-here/photos", UnreadableDataError, "not there"),
        ("s3://pool/pool.parquet.png", UnreadableDataError, "not there"),
        ("s3://pool/photos/*.jpg", EmptyDataError, "nothing at"),
        ("nosuch://pool", UnreadableDataError, "nosuch"),
        ("http://127.0.0.1:9/photos/a.png", UnreadableDataError, "cannot read http"),
        ("zip://::/nothing/pool.zip", UnreadableDataError, "not there"),
        ("gs://pool/photos", Exception, r"gcsfs"),
    ],
)
def test_what_is_not_there_is_told(bucket: str, location: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_source(location, CONTRACT)


def test_credentials_that_are_missing_are_told(bucket: str, digits: Digits, run: Run, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(tmp_path / "none"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        done = run("drift-report", digits.int8, "--reference", digits.float32, "--data", f"{bucket}/photos")
    assert "Credentials are missing" in error_line(done)


def test_parquet_that_does_not_fit(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no column 'photo': it has label, image, struct, array, scaled"):
        open_source(pool / "pool.parquet", CONTRACT, "photo")
    pq.write_table(pa.table({"label": [1, 2]}), tmp_path / "bare.parquet")
    with pytest.raises(UnreadableDataError, match=r"no column of bytes or of lists of numbers: it has label"):
        open_source(tmp_path / "bare.parquet", CONTRACT)
    (tmp_path / "cut.parquet").write_bytes((pool / "pool.parquet").read_bytes()[:-9])
    with pytest.raises(UnreadableDataError, match=r"cannot read .*cut.parquet as Parquet"):
        open_source(tmp_path / "cut.parquet", CONTRACT)
    source = open_source(pool / "pool.parquet", InputContract((16, 16, 1)), "array")
    with pytest.raises(InputShapeError, match=r"row|record 0.*1024 values"):
        source.load(0)


def test_many_names_take_little_room() -> None:
    names = [f"folder/{number:07}.jpg" for number in range(1000)] + ["ü.png", "\udcff.png"]
    kept = Names(names)
    assert list(kept) == names and kept == names and kept[-1] == names[-1] and kept[3:5] == names[3:5]
    assert len(pickle.dumps(kept)) < 30 * len(names)
