"""`up` with its agent and Ray: jobs survive a killed `up`, and a stop suspends and resumes them."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import psutil
import pytest

from quarterdeck.client import Client
from quarterdeck.client.config import read_key
from quarterdeck.processes.records import read_record, with_children

from .conftest import Machine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra `workers`"
)


def _ray_processes(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("QUARTERDECK_NODE_HOME") == str(home):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_jobs_survive_a_killed_up_and_a_stop(machine: Machine) -> None:
    up = ["up", "--detach", "--slots", "4", *machine.up_arguments[2:]]
    first = machine.run(*up, timeout=240)
    assert first.returncode == 0, first.stderr
    assert "· 1 node, 4 slots ·" in first.stdout
    key = read_key(machine.home.admin_key)
    with Client(f"http://127.0.0.1:{machine.port}", key, retry_seconds=30) as client:
        job = client.submit({"kind": "command", "name": "long", "command": "sleep 600", "ranks": 2})
        assert client.wait(job.id, until="running", timeout=120).phase == "running"

        record = read_record(machine.home)
        assert record is not None
        leader = record.named("up")
        assert leader is not None
        os.kill(leader.pid, signal.SIGKILL)
        assert client.jobs.get(job.id).phase == "running"
        adopted = machine.run(*up, timeout=240)
        assert adopted.returncode == 0, adopted.stderr
        (run,) = client.jobs.runs(job.id)
        assert (run.epoch, run.phase) == (1, "running")

        rays = _ray_processes(machine.home.folder)
        assert rays
        stopped = machine.run("down", timeout=240)
        assert stopped.returncode == 0, stopped.stderr
        assert not any(process.is_running() for process in rays)
        assert machine.living() == []

        again = machine.run(*up, timeout=240)
        assert again.returncode == 0, again.stderr
        assert client.wait(job.id, until="running", timeout=120).phase == "running"
        newest = max(client.jobs.runs(job.id), key=lambda run: run.epoch)
        assert newest.epoch == 2
        assert not machine.home.suspended.exists()
    # Ray's agents wipe their environment: they are known by their parents alone.
    everything = with_children(_ray_processes(machine.home.folder))
    purged = machine.run("down", "--purge", timeout=240)
    assert purged.returncode == 0, purged.stderr
    assert [process for process in everything if process.is_running()] == []
    assert not machine.home.folder.exists()
