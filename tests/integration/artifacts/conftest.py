"""Stores to test against: a local folder, and S3 spoken by moto's server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from quarterdeck.artifacts import ArtifactStore


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, object]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options: dict[str, object] = {
        "key": "testing",
        "secret": "testing",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"},
    }
    fsspec.filesystem("s3", **options).mkdir("artifacts", region_name="us-east-2")
    yield options
    server.stop()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return ArtifactStore((tmp_path / "artifacts").as_uri())
    options = request.getfixturevalue("s3_options")
    return ArtifactStore(f"s3://artifacts/{tmp_path.name}", options)
