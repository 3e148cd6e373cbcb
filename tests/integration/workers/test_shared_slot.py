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

HERE = Path(__file__).parent
SLEEP = {"command": "echo devices=$CUDA_VISIBLE_DEVICES share=$QUARTERDECK_ACCELERATOR_SHARE; "
                    "sleep 300"}  # fmt: skip


class Looker:
    """What Ray itself says is free on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.program = subprocess.Popen(
            [sys.executable, str(HERE / "look_at_ray.py"), str(machine.home)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def free(self, resource: str = "slots") -> float:
        assert self.program.stdin is not None and self.program.stdout is not None
        self.program.stdin.write("\n")
        self.program.stdin.flush()
        return float(json.loads(self.program.stdout.readline()).get(resource, 0.0))

    def close(self) -> None:
        assert self.program.stdin is not None and self.program.stdout is not None
        self.program.stdin.close()
        self.program.wait(30)
        self.program.stdout.close()


@pytest.fixture(scope="module")
def looker(machine: Machine) -> Iterator[Looker]:
    looker = Looker(machine)
    yield looker
    looker.close()


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
        assert recorder.ended(run).reported_phase == "cancelled", "nothing else has ended it"


def supervisors(machine: Machine, run: str) -> list[psutil.Process]:
    """The supervisor of a run, by what processes say of themselves (supervisor/presence.py)."""
    files = Path(machine.home, "ray", "actors").glob("*.json")
    told = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    mine = [one for one in told if (one["kind"], one["run_id"]) == ("supervisor", run)]
    return [psutil.Process(one["pid"]) for one in mine]


def test_two_share_a_slot_and_the_last_gives_it_back(recorder: Recorder, looker: Looker) -> None:
    one, two = share(recorder, "share-1", 0, 400), share(recorder, "share-2", 0, 600)
    other = share(recorder, "share-3", 1, 600)
    for run in (one, two, other):
        up(recorder, run)
    assert "share=0.4" in said(recorder, one)
    recorder.wait(lambda: looker.free() == 6.0)  # two slots of eight are shared
    stop(recorder, one)
    again = share(recorder, "share-4", 0, 400)
    up(recorder, again)
    assert looker.free() == 6.0, "one was left there, and has company again"
    stop(recorder, two, again, other)
    recorder.wait(lambda: looker.free() == 8.0)
    gang = recorder.submit("share-gang", "command", {"command": "true"}, ranks=8)
    assert recorder.ended(gang).reported_phase == "succeeded"


def test_a_slot_is_freed_whose_last_run_s_supervisor_was_killed(
    recorder: Recorder, machine: Machine, looker: Looker
) -> None:
    one, two = share(recorder, "killed-1", 0, 500), share(recorder, "killed-2", 0, 500)
    for run in (one, two):
        up(recorder, run)
    (first,) = supervisors(machine, one)
    first.send_signal(signal.SIGKILL)
    first.wait(20)
    beats = len(recorder.agent_beats)
    recorder.wait(lambda: len(recorder.agent_beats) > beats + 4)
    assert recorder.phase(two) == "running" and looker.free() == 7.0, "the other one goes on"
    (second,) = supervisors(machine, two)
    second.send_signal(signal.SIGKILL)
    second.wait(20)
    recorder.wait(lambda: looker.free() == 8.0)


@pytest.fixture(scope="module")
def devices(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Recorder, Machine, Looker]]:
    """A Ray of two slots that hands out two devices."""
    recorder = Recorder()
    machine = Machine(tmp_path_factory.mktemp("d"), recorder.url, 2, "127.0.0.9", devices=2)
    try:
        recorder.wait(lambda: recorder.nodes or machine.agent.poll() is not None, 90)
        assert machine.agent.poll() is None, machine.log()
        looker = Looker(machine)
        yield recorder, machine, looker
        looker.close()
    finally:
        machine.close()
        recorder.close()


def device_of(recorder: Recorder, run: str) -> str:
    (line,) = [line for line in said(recorder, run).splitlines() if line.startswith("devices=")]
    return line.partition("=")[2].split()[0]


def test_those_of_one_slot_get_one_device_whatever_ray_would_choose(
    devices: tuple[Recorder, Machine, Looker],
) -> None:
    recorder, _, looker = devices
    # By itself Ray would put 0.5 beside 0.4, where it leaves least, and 0.6 beside none.
    plan = {"d-1": (0, 400), "d-2": (1, 500), "d-3": (0, 600), "d-4": (1, 500)}
    for run, (number, part) in plan.items():
        share(recorder, run, number, part)
        recorder.wait(lambda run=run: recorder.phase(run))  # in this order
    for run in plan:
        up(recorder, run)
    found = {run: device_of(recorder, run) for run in plan}
    assert found["d-1"] == found["d-3"] != found["d-2"] == found["d-4"]
    assert set(found.values()) == {"0", "1"}
    recorder.wait(lambda: looker.free("GPU") == 0.0)
    stop(recorder, "d-1", "d-3")
    whole = recorder.submit("d-whole", "command", SLEEP)
    up(recorder, whole)
    assert device_of(recorder, whole) == found["d-1"], "a whole device is free again"
    stop(recorder, "d-2", "d-4", whole)
    recorder.wait(lambda: looker.free("GPU") == 2.0)


def test_who_comes_while_the_last_leaves_finds_a_slot_of_its_own(
    devices: tuple[Recorder, Machine, Looker],
) -> None:
    """Three take turns as fast as they can: no group is removed under one that has joined it."""
    recorder, machine, looker = devices
    program = [sys.executable, str(HERE / "take_turns.py")]
    command = [*program, str(machine.home), recorder.nodes[0].node_id, "8"]
    takers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    said = [taker.communicate(timeout=150)[0] for taker in takers]
    assert all(text.endswith("took turns\n") for text in said), "\n".join(said)[-4000:]
    recorder.wait(lambda: looker.free("GPU") == 2.0)


def test_the_agent_removes_no_slot_in_use(
    devices: tuple[Recorder, Machine, Looker],
) -> None:
    recorder, machine, looker = devices
    run = share(recorder, "kept", 0, 100)
    up(recorder, run)
    machine.kill_agent()
    machine.start()
    beats = len(recorder.agent_beats)
    recorder.wait(lambda: len(recorder.agent_beats) > beats + 3)
    assert recorder.phase(run) == "running" and looker.free() == 1.0
    node = running(machine.home)
    assert node is not None and list(Path(node.temp, "shared-slots").glob("*-0"))
    stop(recorder, run)
    recorder.wait(lambda: looker.free() == 2.0)
