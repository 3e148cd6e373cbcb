"""The control plane's image, built and run as a cluster would run it: no root, nothing writable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import quarterdeck
from tests.containers.conftest import Docker

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 350_000_000
HOME = "/var/lib/quarterdeck"
CONFINED = [
    "--read-only", "--tmpfs", "/tmp", "--tmpfs", f"{HOME}:uid=10001,gid=10001,mode=0700",
    "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "1g",
]  # fmt: skip

pytestmark = pytest.mark.timeout(900)  # the first build fetches every package


@pytest.fixture(scope="module")
def image(docker: Docker) -> Iterator[str]:
    environment = {**docker.environment, "IMAGE_TAG": f"test-{os.getpid()}"}
    program = [sys.executable, str(ROOT / "tools" / "images.py")]
    built = subprocess.run(
        [*program, "control"], env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-4000:]
    name = f"quarterdeck/control:test-{os.getpid()}"
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture(scope="module")
def api(docker: Docker, image: str) -> Iterator[str]:
    """The name of a container with an api on SQLite, published on the loopback."""
    name = f"quarterdeck-api-{os.getpid()}"
    docker(
        "run", "--detach", "--name", name, "--publish", "127.0.0.1::8080", *CONFINED, image,
        "api", "--host", "0.0.0.0",
    )  # fmt: skip
    check = ["exec", name, "python", "-m", "quarterdeck.processes.health"]
    until = time.monotonic() + 60
    while docker.try_to(*check, "http://127.0.0.1:8080/readyz").returncode:
        assert time.monotonic() < until, docker.try_to("logs", name).stderr
        time.sleep(0.5)
    yield name
    docker("rm", "--force", name)


def test_it_is_small(docker: Docker, image: str) -> None:
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image)) < LARGEST


def test_it_says_what_it_is(docker: Docker, image: str) -> None:
    said = docker("run", "--rm", "--network", "none", *CONFINED, image, "--version")
    assert said == f"quarterdeck {quarterdeck.__version__}"
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))
    assert config["User"] == "10001:10001"
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items()}
    assert labels["version"] == quarterdeck.__version__


def test_it_has_neither_torch_nor_ray_and_says_so(docker: Docker, image: str) -> None:
    refused = docker.try_to("run", "--rm", *CONFINED, image, "agent", "--url", "http://127.0.0.1")
    assert refused.returncode == 2
    assert "lacks ray" in refused.stderr


KUBERNETES = """
from kubernetes import client
from quarterdeck.cluster.kubernetes_client import Kubernetes, connect
from quarterdeck.cluster.provider import ProviderError
for call in (connect, lambda: Kubernetes(client.Configuration("http://127.0.0.1:9")).get("/api")):
    try:
        call()
    except ProviderError as error:
        print(error.reason)
"""
S3 = """
from quarterdeck.artifacts import ArtifactStore
options = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s",
           "config_kwargs": {"retries": {"max_attempts": 0}}}
try:
    ArtifactStore("s3://bucket/x", options).read_bytes("logs/1")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param(KUBERNETES, "NoCredentials\nKubernetesUnreachable", id="kubernetes"),
        pytest.param(S3, "Could not connect to the endpoint", id="s3"),
    ],
)
def test_what_was_trimmed_is_not_missed(docker: Docker, image: str, code: str, said: str) -> None:
    run = ["run", "--rm", "--network", "none", *CONFINED, "--entrypoint", "python", image]
    assert said in docker(*run, "-c", code)


def test_postgresqls_programs_run(docker: Docker, image: str) -> None:
    for tool in ("pg_dump", "pg_restore"):
        run = ["run", "--rm", *CONFINED, "--entrypoint", tool, image]
        assert "PostgreSQL" in docker(*run, "--version")


def test_an_api_serves_from_a_read_only_root(docker: Docker, api: str) -> None:
    key = docker("exec", api, "cat", f"{HOME}/keys/admin")
    port = docker("port", api, "8080").rpartition(":")[2]
    request = Request(f"http://127.0.0.1:{port}/api/v1/jobs")
    request.add_header("authorization", f"Bearer {key}")
    with urlopen(request, timeout=10) as answer:
        assert json.load(answer)["items"] == []
    here = ["exec", "--env", "QUARTERDECK_URL=http://127.0.0.1:8080", api, "quarterdeck"]
    assert "home-agent" in docker(*here, "keys", "list")
    assert "backups/quarterdeck-" in docker("exec", api, "quarterdeck", "db", "backup")
    assert docker("exec", api, "id", "-u") == "10001"
    for place in ("/x", "/opt/quarterdeck/x", "/srv/quarterdeck/artifacts/x"):
        refused = docker.try_to("exec", api, "touch", place)
        assert "Read-only file system" in refused.stderr
    assert key not in docker.try_to("logs", api).stderr


def test_an_api_ends_when_it_is_told(docker: Docker, api: str) -> None:
    began = time.monotonic()
    docker("stop", "--time", "20", api)
    assert time.monotonic() - began < 10
    assert docker("inspect", "--format", "{{.State.ExitCode}}", api) == "0"
