"""Runs that share a slot, on a real Ray: one device for all of them, no more than all of it, and
the slot comes back with the last of them, however that one ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Machine
from worker_recorder import Recorder

from quarterdeck_workers.agent.ray_process import running

LOOK = """
import json, os, sys
from pathlib import Path
from quarterdeck_workers.agent.ray_process import client_environment, running
home = Path(sys.argv[1])
os.environ.update(client_environment(home))
import ray
ray.init(address=running(home).address, namespace="quarterdeck", log_to_driver=False,
         _node_ip_address=sys.argv[2])
print(json.dumps(ray.available_resources()))
"""
SLEEP = {"command": "echo devices=$CUDA_VISIBLE_DEVICES share=$QUARTERDECK_ACCELERATOR_SHARE; "
                    "sleep 300"}  # fmt: skip


def free(machine: Machine, resource: str = "slots") -> float:
    """What Ray itself says is free."""
    node = running(machine.home)
    assert node is not None
    answer = subprocess.run(
        [sys.executable, "-c", LOOK, str(machine.home), node.node_ip],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return float(json.loads(answer.stdout.splitlines()[-1]).get(resource, 0.0))


def share(recorder: Recorder, run: str, number: int, part: int, **fields: Any) -> str:
    spec = {**SLEEP, "resources": {"accelerator_share": part / 1000}}
    return recorder.submit(run, "command", spec, shared=(number, part), **fields)


def up(recorder: Recorder, run: str) -> None:
    recorder.wait(lambda: recorder.phase(run) == "running" and said(recorder, run))


def said(recorder: Recorder, run: str) -> str:
    chunks = [chunk for beat in recorder.beats.get(run, []) for chunk in beat.logs]
    return "\n".join(line for chunk in chunks for _, line in chunk.lines)


def stop(recorder: Recorder, *runs: str) -> None:
    for run in runs:
        recorder.reply(run, "stop", 5)
    for run in runs:
        recorder.ended(run)


def supervisors(machine: Machine, run: str) -> list[psutil.Process]:
    """The supervisor of a run, by what processes say of themselves (supervisor/presence.py)."""
    files = Path(machine.home, "ray", "actors").glob("*.json")
    told = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    mine = [one for one in told if (one["kind"], one["run_id"]) == ("supervisor", run)]
    return [psutil.Process(one["pid"]) for one in mine]


def test_two_share_a_slot_and_the_last_gives_it_back(recorder: Recorder, machine: Machine) -> None:
    one, two = share(recorder, "share-1", 0, 400), share(recorder, "share-2", 0, 600)
    other = share(recorder, "share-3", 1, 600)
    for run in (one, two, other):
        up(recorder, run)
    assert "share=0.4" in said(recorder, one)
    assert free(machine) == 6.0, "two slots of eight are shared, one of them by two"
    stop(recorder, one)
    assert free(machine) == 6.0, "one is left there"
    assert recorder.phase(two) == "running"
    again = share(recorder, "share-4", 0, 400)
    up(recorder, again)
    assert free(machine) == 6.0
    stop(recorder, two, again, other)
    assert free(machine) == 8.0
    gang = recorder.submit("share-gang", "command", {"command": "true"}, ranks=8)
    assert recorder.ended(gang).reported_phase == "succeeded"


def test_a_slot_is_freed_whose_last_run_s_supervisor_was_killed(
    recorder: Recorder, machine: Machine
) -> None:
    one, two = share(recorder, "killed-1", 0, 500), share(recorder, "killed-2", 0, 500)
    for run in (one, two):
        up(recorder, run)
    (first,) = supervisors(machine, one)
    first.send_signal(signal.SIGKILL)
    first.wait(20)
    beats = len(recorder.agent_beats)
    recorder.wait(lambda: len(recorder.agent_beats) > beats + 4)
    assert recorder.phase(two) == "running" and free(machine) == 7.0, "the other one goes on"
    (second,) = supervisors(machine, two)
    second.send_signal(signal.SIGKILL)
    second.wait(20)
    recorder.wait(lambda: free(machine) == 8.0, 30)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recorder, Machine]]:
    """A Ray of two slots that hands out two devices."""
    recorder = Recorder()
    machine = Machine(tmp_path_factory.mktemp("d"), recorder.url, 2, "127.0.0.9", devices=2)
    try:
        recorder.wait(lambda: recorder.nodes or machine.agent.poll() is not None, 90)
        assert machine.agent.poll() is None, machine.log()
        yield recorder, machine
    finally:
        machine.close()
        recorder.close()


def device_of(recorder: Recorder, run: str) -> str:
    (line,) = [line for line in said(recorder, run).splitlines() if line.startswith("devices=")]
    return line.partition("=")[2].split()[0]


def test_those_of_one_slot_get_one_device_whatever_ray_would_choose(
    devices: tuple[Recorder, Machine],
) -> None:
    recorder, machine = devices
    # By itself Ray would put 0.5 beside 0.4, where it leaves least, and 0.6 beside none.
    plan = {"d-1": (0, 400), "d-2": (1, 500), "d-3": (0, 600), "d-4": (1, 500)}
    for run, (number, part) in plan.items():
        up(recorder, share(recorder, run, number, part))
    found = {run: device_of(recorder, run) for run in plan}
    assert found["d-1"] == found["d-3"] != found["d-2"] == found["d-4"]
    assert set(found.values()) == {"0", "1"}
    assert free(machine, "GPU") == 0.0
    stop(recorder, "d-1", "d-3")
    whole = recorder.submit("d-whole", "command", SLEEP)
    up(recorder, whole)
    assert device_of(recorder, whole) == found["d-1"], "a whole device is free again"
    stop(recorder, "d-2", "d-4", whole)
    assert free(machine, "GPU") == 2.0


def test_the_agent_removes_no_slot_that_is_in_use(devices: tuple[Recorder, Machine]) -> None:
    recorder, machine = devices
    run = share(recorder, "kept", 0, 100)
    up(recorder, run)
    machine.kill_agent()
    machine.start()
    beats = len(recorder.agent_beats)
    recorder.wait(lambda: len(recorder.agent_beats) > beats + 3)
    assert recorder.phase(run) == "running" and free(machine) == 1.0
    node = running(machine.home)
    assert node is not None and list(Path(node.temp, "shared-slots").glob("*-0"))
    stop(recorder, run)
    assert free(machine) == 2.0
