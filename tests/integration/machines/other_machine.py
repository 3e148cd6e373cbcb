"""Another machine, as the network shows it: a network namespace behind a cable that can be cut.

A process that ends says so to its peers; a machine without power says nothing any more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PORT = 7000


class OtherMachine:
    """Runs one Python program, of which `said` reads a line; `cut` takes its network away."""

    def __init__(self, program: Path, *arguments: str) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("a network namespace needs root and iproute2")
        number = os.getpid() % 16384
        self._name = f"qd-m{number}"
        third, fourth = number // 64, number % 64 * 4
        here, self.address = (f"10.251.{third}.{fourth + one}" for one in (1, 2))
        self._ip("netns", "add", self._name)
        self._ip(
            "link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._name
        )
        self._ip("addr", "add", f"{here}/30", "dev", self._name)
        self._ip("link", "set", self._name, "up")
        self._ip("-n", self._name, "addr", "add", f"{self.address}/30", "dev", "eth0")
        self._ip("-n", self._name, "link", "set", "eth0", "up")
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", self._name, sys.executable, str(program), str(PORT),
             *arguments],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.said() == "listening"

    def said(self) -> str:
        """The next line that the program writes."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def cut(self) -> None:
        """From now on nothing arrives there, and nothing comes back, not even a refusal."""
        self._ip("-n", self._name, "link", "set", "eth0", "down")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._ip("netns", "del", self._name)
        subprocess.run(["ip", "link", "del", self._name], check=False, capture_output=True)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@contextmanager
def other_machine(program: Path, *arguments: str) -> Iterator[OtherMachine]:
    """One that is gone at the end."""
    machine = OtherMachine(program, *arguments)
    try:
        yield machine
    finally:
        machine.close()
