"""One real platform on loopback for all end-to-end tests: api, controller, gateway, agent, Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from quarterdeck.client import Client


@dataclass(frozen=True)
class Platform:
    """A platform that is up: its folder, addresses and admin key."""

    home: Path
    url: str
    gateway_url: str
    key: str

    def client(self) -> Client:
        return Client(self.url, self.key)

    def quarterdeck(
        self, *arguments: str, timeout: float = 120, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user of this platform."""
        return subprocess.run(
            [sys.executable, "-m", "quarterdeck.processes.main", *arguments],
            env={**os.environ, "QUARTERDECK_HOME": str(self.home)},
            capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd,
        )  # fmt: skip


def running_commands() -> list[str]:
    """Command lines of the processes of this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        found.append(" ".join(process.info["cmdline"] or []))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("platform") / ".quarterdeck"
    port, gateway_port = free_port(), free_port()
    command = [sys.executable, "-m", "quarterdeck.processes.main"]
    environment = {**os.environ, "QUARTERDECK_HOME": str(home)}
    started = subprocess.run(
        [*command, "up", "--detach", "--slots", "10", "--port", str(port),
         "--gateway-port", str(gateway_port), "--node-ip", "127.0.0.7"],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert started.returncode == 0, started.stdout + started.stderr + _logs(home)
    try:
        yield Platform(
            home=home,
            url=f"http://127.0.0.1:{port}",
            gateway_url=f"http://127.0.0.1:{gateway_port}",
            key=(home / "keys" / "admin").read_text().strip(),
        )
    finally:
        subprocess.run([*command, "down"], env=environment, timeout=120, check=False)


def _logs(home: Path) -> str:
    return "".join(
        f"\n--- {log.name}\n{log.read_text(errors='replace')[-3000:]}"
        for log in sorted((home / "logs").glob("*.log"))
    )
