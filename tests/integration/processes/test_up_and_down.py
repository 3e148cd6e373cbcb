"""`up` and `down` with real processes: attach, adopt, restart, Ctrl-C, purge, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from quarterdeck.client import Client
from quarterdeck.client.config import read_key
from quarterdeck.processes.records import Record, alive, read_record

from .conftest import Machine


def _wait(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def _record(machine: Machine) -> Record:
    record = read_record(machine.home)
    assert record is not None
    return record


def _pids(machine: Machine) -> dict[str, int]:
    return {entry.name: entry.pid for entry in _record(machine).processes}


def _ready(machine: Machine) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{machine.port}/readyz", timeout=2).is_success
    except httpx.HTTPError:
        return False


def _read_ready_line(up: subprocess.Popen[str]) -> str:
    assert up.stdout is not None
    line = up.stdout.readline()
    if not line:
        assert up.stderr is not None
        pytest.fail(f"up ended: {up.stderr.read()}")
    return line


def test_the_whole_life_of_a_platform(machine: Machine) -> None:
    first = machine.run(*machine.up_arguments, "--detach")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"ready http://127.0.0.1:{machine.port} · 0 nodes, 0 slots")
    before = _pids(machine)
    assert set(before) == {"up", "api", "controller", "gateway"}

    again = machine.run(*machine.up_arguments)
    assert again.returncode == 0 and again.stdout == first.stdout
    assert "up already" in again.stderr
    assert _pids(machine) == before

    # No key may be seen by other users of the machine.
    key = read_key(machine.home.admin_key)
    for process in machine.living():
        assert key not in " ".join(process.cmdline())
        assert key not in str(process.environ())

    os.kill(before["gateway"], signal.SIGKILL)
    _wait(lambda: _pids(machine)["gateway"] != before["gateway"], "the gateway restarts")

    os.kill(before["up"], signal.SIGKILL)
    _wait(lambda: alive(_record(machine).named("up")) is None, "up is gone")
    assert _ready(machine), "the children live on"
    adopted = machine.run(*machine.up_arguments, "--detach")
    assert adopted.returncode == 0, adopted.stderr
    after = _pids(machine)
    assert (after["api"], after["controller"]) == (before["api"], before["controller"])
    assert after["up"] != before["up"]

    # An adopted child is watched like an own one.
    os.kill(after["controller"], signal.SIGKILL)
    _wait(lambda: _pids(machine)["controller"] != after["controller"], "the controller restarts")

    with Client(f"http://127.0.0.1:{machine.port}", key) as client:
        client.apply([{"kind": "command", "name": "kept", "command": "true"}])
    pids = list(_pids(machine).values())
    stopped = machine.run("down")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n"), stopped.stderr
    assert machine.living() == []
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert machine.home.folder.exists()

    assert machine.run("down").stdout == "nothing was running\n"
    assert machine.run(*machine.up_arguments, "--detach").returncode == 0
    with Client(f"http://127.0.0.1:{machine.port}", key) as client:
        assert client.jobs.get("kept").phase == "queued"
    living = machine.living()
    assert len(living) >= 3
    purged = machine.run("down", "--purge")
    assert purged.returncode == 0, purged.stderr
    assert not any(process.is_running() for process in living)
    assert not machine.home.folder.exists()


def test_ctrl_c_stops_everything(machine: Machine) -> None:
    with machine.start(*machine.up_arguments) as up:
        _read_ready_line(up)
        children = machine.living()
        assert len(children) >= 3
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    assert not any(process.is_running() for process in children)
    assert machine.living() == []
    assert read_record(machine.home) is None


def test_a_taken_port_is_named_with_its_owner(machine: Machine) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", machine.port))
        listener.listen()
        failed = machine.run(*machine.up_arguments)
    assert failed.returncode == 1
    assert f"port {machine.port} is taken by" in failed.stderr
    assert f"(pid {os.getpid()})" in failed.stderr
    assert "--port" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert machine.living() == []


def test_a_child_that_cannot_start_ends_up_with_its_last_words(machine: Machine) -> None:
    environment = {**machine.environment, "QUARTERDECK_DATABASE_URL": "mysql://nowhere/x"}
    failed = subprocess.run(
        machine.command(*machine.up_arguments), env=environment, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "mysql is not supported" in failed.stderr
    assert machine.living() == []
