"""An S3 server on this machine, for tests: moto's, which speaks S3 over HTTP."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def s3_bucket(name: str, files: Iterable[tuple[str, Path]]) -> Iterator[None]:
    """A bucket with these files; its address and credentials are in the environment meanwhile."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    patch = pytest.MonkeyPatch()
    try:
        host, port = server.get_host_and_port()
        for variable, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(variable, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket=name)
        for key, path in files:
            client.upload_file(str(path), name, key)
        yield
    finally:
        patch.undo()
        server.stop()
