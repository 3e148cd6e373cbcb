"""A home of its own for each test, free ports, and the promise that nothing is left running."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from quarterdeck.processes.home import Home
from quarterdeck.processes.records import end, marked, with_children


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Machine:
    """Runs `quarterdeck` commands against one home."""

    home: Home
    port: int
    gateway_port: int
    more: dict[str, str] = field(default_factory=dict)
    """Variables besides the home's."""

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("QUARTERDECK_")}
        return {**kept, "QUARTERDECK_HOME": str(self.home.folder), **self.more}

    @property
    def up_arguments(self) -> list[str]:
        ports = ["--port", str(self.port), "--gateway-port", str(self.gateway_port)]
        return ["up", "--no-agent", *ports]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "quarterdeck.processes.main", *arguments]

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def living(self) -> list[psutil.Process]:
        """Every process that carries this home's mark."""
        if not self.home.instance.exists():
            return []
        return marked(self.home.instance.read_text().strip())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(Home(tmp_path / ".quarterdeck"), free_port(), free_port())
    copy = tmp_path / "instance"
    yield machine
    if machine.home.instance.exists():
        shutil.copy(machine.home.instance, copy)
        end(with_children(marked(copy.read_text().strip())), 0)
