"""A Docker daemon for the tests of images: the one that DOCKER_HOST names, else one of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

OPT_IN = "QUARTERDECK_DOCKER_TESTS"
BASES = ("debian:bookworm-slim", "postgres:16-bookworm")


@dataclass(frozen=True)
class Docker:
    """A daemon that answers; `environment` leads the client to it."""

    environment: Mapping[str, str]

    def __call__(self, *arguments: str, seconds: float = 60) -> str:
        """What `docker …` prints. Fails the test when it fails."""
        done = self.try_to(*arguments, seconds=seconds)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def try_to(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments], env=dict(self.environment), capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip


def scripts() -> Path:
    """The folder of the scripts that start a daemon; skips, with the reason, without."""
    if os.environ.get(OPT_IN) != "1":
        pytest.skip(f"{OPT_IN}=1 builds and runs the image: 4 minutes the first time, then 1")
    folder = Path(os.environ.get("QUARTERDECK_DOCKER", ""))
    if not (folder / "start-docker.sh").is_file():
        pytest.skip("QUARTERDECK_DOCKER names no folder with start-docker.sh")
    if os.geteuid() != 0:
        pytest.skip("starting a Docker daemon needs root")
    return folder


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A daemon with the images that ours are built from."""
    folder = scripts()
    environment = dict(os.environ)
    own = None
    if "DOCKER_HOST" not in environment:
        own = tempfile.mkdtemp(prefix="qd-docker-", dir="/tmp")  # its socket's path must be short
        started = subprocess.run(
            [folder / "start-docker.sh", own], capture_output=True, text=True, check=True
        )
        exports = (line.removeprefix("export ") for line in started.stdout.splitlines())
        environment |= dict(line.split("=", 1) for line in exports)
    daemon = Docker(environment)
    try:
        if any(daemon.try_to("image", "inspect", base).returncode for base in BASES):
            make = [folder / "make-base-images.sh", "postgres"]
            subprocess.run(make, env=environment, check=True, capture_output=True)
        yield daemon
    finally:
        if own is not None:
            subprocess.run([folder / "stop-docker.sh", own], check=True, capture_output=True)
            shutil.rmtree(own, ignore_errors=True)
