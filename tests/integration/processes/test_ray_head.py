"""A head whose port and token others know beforehand: KubeRay lets no worker start before
`ray health-check` of the head's port succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.processes.conftest import Machine, free_port

pytest.importorskip("ray")
ADDRESS = "127.0.0.9"


def health(port: int, **environment: str) -> int:
    """What KubeRay's container runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    return subprocess.run(
        [*command, "--address", f"{ADDRESS}:{port}"], env={**kept, **environment},
        capture_output=True, timeout=60, check=False,
    ).returncode  # fmt: skip


def test_a_head_listens_where_and_to_whom_it_was_told(machine: Machine, tmp_path: Path) -> None:
    token, port = tmp_path / "token", free_port()
    token.write_text("a" * 64)
    token.chmod(0o600)
    url = f"http://127.0.0.1:{machine.port}"
    api = machine.start("api", "--port", str(machine.port))
    agent = machine.start(
        "agent", "--url", url, "--cluster", "pool", "--node-ip", ADDRESS, "--slots", "1",
        "--ray-port", str(port), "--ray-token-file", str(token), "--stop-ray",
    )  # fmt: skip
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    try:
        until = time.monotonic() + 120
        while health(port, **known):
            assert agent.poll() is None, agent.communicate()
            assert time.monotonic() < until, "the head never answered"
        assert health(port) != 0, "without the token"
    finally:
        for process in (agent, api):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
