"""Machines that join a cluster, and gangs across them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import Machine, marked
from worker_recorder import Recorder

from quarterdeck.specs.protocol import NodeReport
from quarterdeck_workers.agent.versions import own_versions

SUM = """
import os, torch, torch.distributed as dist
dist.init_process_group('gloo')
total = torch.tensor(10 ** dist.get_rank())
dist.all_reduce(total)
os.write(1, f'{dist.get_rank()} {dist.get_world_size()} {int(total)}{chr(10)}'.encode())
dist.destroy_process_group()
"""
ANSWER = """
import os, socket
listener = socket.create_server(('', int(os.environ['MASTER_PORT'])))
connection, _ = listener.accept()
print('asked by', connection.recv(100).decode(), flush=True)
connection.sendall(b'42')
"""
ASK = """
import os, socket, time
role = 'QUARTERDECK_ROLE_SERVER_'
where = os.environ[role + 'MASTER_ADDR'], int(os.environ[role + 'MASTER_PORT'])
assert os.environ[role + 'HOSTS'] == where[0] != os.environ['MASTER_ADDR'], dict(os.environ)
for _ in range(300):
    try:
        connection = socket.create_connection(where, 10)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
connection.sendall(os.environ['QUARTERDECK_ROLE'].encode())
print('answered', connection.recv(100).decode(), flush=True)
"""


ENTER = """
import os, sys
from pathlib import Path
from quarterdeck_workers.agent.ray_process import client_environment, running
home = Path(sys.argv[1])
os.environ.update(client_environment(home))
import ray
from quarterdeck_workers.agent.ray_cluster import RayCluster, RayDiffers
ray.__version__ = '2.0.0'
try:
    RayCluster(home, running(home))
except RayDiffers as error:
    print(error)
else:
    sys.exit('it was let in')
"""


@pytest.fixture(scope="module")
def joined(
    recorder: Recorder, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Machine]]:
    """Two machines of two slots beside the head, one of them with two accelerators."""
    joined = [
        Machine(
            tmp_path_factory.mktemp("j"), recorder.url, 2, address, join=True,
            devices=devices, accelerator=accelerator,
        )
        for address, devices, accelerator in (("127.0.0.3", 0, "cpu"), ("127.0.0.4", 2, "L4"))
    ]  # fmt: skip
    try:
        recorder.wait(lambda: len(recorder.nodes) == 3, 90)
        yield joined
    finally:
        for each in joined:
            each.close()
    assert [marked(each.home) for each in joined] == [[], []]


@pytest.fixture
def nodes(recorder: Recorder, joined: list[Machine]) -> dict[str, NodeReport]:
    return {node.address: node for node in recorder.nodes}


def test_machines_join_and_a_gang_is_pinned_to_the_chosen_ones(
    recorder: Recorder, nodes: dict[str, NodeReport]
) -> None:
    assert sorted(nodes) == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert [nodes[address].slots for address in sorted(nodes)] == [8, 2, 2]
    assert [nodes[address].is_head for address in sorted(nodes)] == [True, False, False]
    assert [nodes[address].versions for address in sorted(nodes)] == [own_versions()] * 3
    assert all(not nodes[address].labels for address in nodes)
    chosen = [nodes[address].node_id for address in ("127.0.0.4", "127.0.0.3", "127.0.0.4")]
    command = "echo $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR"
    run = recorder.submit("pinned", "command", {"command": command}, nodes=chosen)
    assert recorder.ended(run).reported_phase == "succeeded"
    said = [recorder.lines(run, rank) for rank in range(3)]
    assert said == [["0 0 2 0 127.0.0.4"], ["1 0 1 1 127.0.0.4"], ["2 1 2 0 127.0.0.4"]]


def test_an_agent_of_another_ray_says_what_to_do(machine: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENTER, str(machine.home)], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Ray: 2.0.0" in done.stdout and "Ray: 2.60.0" in done.stdout


def test_torchrun_meets_across_machines_by_the_variables_alone(
    recorder: Recorder, nodes: dict[str, NodeReport]
) -> None:
    chosen = [nodes[address].node_id for address in ("127.0.0.3", "127.0.0.4")]
    spec = {"command": f'echo "{SUM}" > sum.py && torchrun sum.py', "launch": "per_node"}
    run = recorder.submit("across", "command", spec, nodes=chosen, slots=2)
    final = recorder.ended(run, 180)
    assert final.reported_phase == "succeeded", final.failure
    for place, ranks in enumerate(((0, 1), (2, 3))):
        found = [line for line in recorder.lines(run, place) if line.endswith(" 4 1111")]
        assert sorted(found) == [f"{rank} 4 1111" for rank in ranks]


def test_roles_find_each_other_across_machines(
    recorder: Recorder, nodes: dict[str, NodeReport]
) -> None:
    roles = {
        "server": {"ranks": 1, "command": f'python -c "{ANSWER}"'},
        "asker": {"ranks": 1, "command": f'python -c "{ASK}"'},
    }
    chosen = [nodes[address].node_id for address in ("127.0.0.3", "127.0.0.4")]
    run = recorder.submit(
        "two-roles", "command", {"roles": roles}, nodes=chosen, roles=["server", "asker"]
    )
    final = recorder.ended(run, 120)
    assert final.reported_phase == "succeeded", final.failure
    said = [recorder.lines(run, rank) for rank in range(2)]
    assert said == [["asked by asker"], ["answered 42"]]


def test_roles_hold_the_accelerators_of_their_machines(
    recorder: Recorder, nodes: dict[str, NodeReport]
) -> None:
    """Two ranks on devices and one on a slot of a machine without any, in one gang."""
    assert [nodes[address].accelerator for address in sorted(nodes)] == ["cpu", "cpu", "L4"]
    say = "echo $QUARTERDECK_ACCELERATOR of $WORLD_SIZE sees [$CUDA_VISIBLE_DEVICES]"
    roles = {
        "trainer": {"ranks": 2, "command": say, "resources": {"accelerator": "L4"}},
        "driver": {"ranks": 1, "command": say, "resources": {"accelerator": "cpu"}},
    }
    chosen = [nodes[address].node_id for address in ("127.0.0.4", "127.0.0.4", "127.0.0.3")]
    run = recorder.submit(
        "mixed", "command", {"roles": roles}, nodes=chosen,
        roles=["trainer", "trainer", "driver"],
    )  # fmt: skip
    final = recorder.ended(run, 120)
    assert final.reported_phase == "succeeded", final.failure
    said = [recorder.lines(run, rank) for rank in range(3)]
    assert sorted(said[0] + said[1]) == ["L4 of 2 sees [0,1]"] * 2
    assert said[2] == ["cpu of 1 sees []"]


def test_the_failure_of_a_machine_is_blamed_on_it(
    recorder: Recorder, joined: list[Machine], nodes: dict[str, NodeReport]
) -> None:
    chosen = [nodes[address].node_id for address in ("127.0.0.3", "127.0.0.4")]
    lost = recorder.submit("lost-node", "command", {"command": "sleep 600"}, nodes=chosen)
    recorder.pids(lost)
    joined[0].close()
    failure = recorder.ended(lost, 90).failure
    assert failure is not None
    assert (failure.rank, failure.blame) == (0, "node")
