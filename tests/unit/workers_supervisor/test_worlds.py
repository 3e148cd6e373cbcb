"""Every rank knows its world, and roles know each other."""

from __future__ import annotations

from typing import Any

from quarterdeck.specs.protocol import RankPlacement, RunOrder
from quarterdeck_workers.supervisor.worlds import Berth, HostFacts, berths_of, roles_on


def order(spec: dict[str, Any], *places: tuple[str, str, int]) -> RunOrder:
    """An order of (role, node, slots) by rank."""
    placements = [
        RankPlacement(
            rank=rank, role=role, node_id=node, slots=slots,
            local_rank=sum(other[1] == node for other in places[:rank]),
        )
        for rank, (role, node, slots) in enumerate(places)
    ]  # fmt: skip
    return RunOrder(
        run_id="r", epoch=1, owner_type="job", owner_id="j", owner_name="x", kind="command",
        spec=spec, cluster="c", placements=placements, artifacts_uri="memory://", api_url="",
        run_key="",
    )  # fmt: skip


def berths(order: RunOrder, devices: int = 0) -> dict[int, Berth]:
    hosts: dict[str, list[RankPlacement]] = {}
    for place in order.placements:
        hosts.setdefault(place.node_id, []).append(place)
    facts = {
        node: HostFacts(
            f"10.0.0.{number}",
            {role: 1000 * number + len(role) for role in roles_on(hosts, node)},
            [str(device) for device in range(devices)],
        )
        for number, node in enumerate(hosts, start=1)
    }
    found = berths_of(order, hosts, facts)
    return {berth.rank: berth for host in found.values() for berth in host}


def test_a_gang_without_roles_is_one_world() -> None:
    gang = berths(order({"command": "c"}, *[("trainer", node, 1) for node in "aabb"]), devices=2)
    told = [
        (one.world_rank, one.world_size, one.local_rank, one.local_world_size, one.node_rank)
        for one in gang.values()
    ]
    assert told == [(0, 4, 0, 2, 0), (1, 4, 1, 2, 0), (2, 4, 0, 2, 1), (3, 4, 1, 2, 1)]
    assert {(one.master_address, one.master_port) for one in gang.values()} == {("10.0.0.1", 1007)}
    assert {one.devices for one in gang.values()} == {("0", "1")}
    assert {one.command for one in gang.values()} == {"c"}
    assert all(one.variables == {} for one in gang.values())


def test_each_rank_is_told_the_accelerator_of_its_machine() -> None:
    roles = {"trainer": {"ranks": 1, "command": "a"}, "driver": {"ranks": 1, "command": "b"}}
    told = order({"roles": roles}, ("trainer", "a", 1), ("driver", "b", 1))
    models = ("H100", "cpu")
    placed = [
        place.model_copy(update={"accelerator": model})
        for place, model in zip(told.placements, models, strict=True)
    ]
    gang = berths(told.model_copy(update={"placements": placed}))
    found = [(one.variables or {})["QUARTERDECK_ACCELERATOR"] for one in gang.values()]
    assert found == ["H100", "cpu"]


def test_per_node_tells_a_launcher_what_it_needs() -> None:
    spec = {"command": "torchrun train.py", "launch": "per_node"}
    gang = berths(order(spec, ("trainer", "a", 4), ("trainer", "b", 2)), devices=4)
    assert [one.local_world_size for one in gang.values()] == [4, 2]
    assert [one.devices for one in gang.values()] == [("0", "1", "2", "3"), ("0", "1")]
    variables = gang[1].variables or {}
    assert variables == {
        "NNODES": "2", "NODE_RANK": "1", "NPROC_PER_NODE": "2", "PET_NNODES": "2",
        "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "2", "PET_MASTER_ADDR": "10.0.0.1",
        "PET_MASTER_PORT": "1007",
    }  # fmt: skip


def test_each_role_has_a_world_and_devices_of_its_own_and_finds_the_others() -> None:
    roles = {
        "actor": {"ranks": 3, "command": "a", "env": {"SIZE": "big"}},
        "reward": {"ranks": 2, "command": "r"},
    }
    places = [
        ("actor", "a", 1), ("actor", "a", 1), ("actor", "b", 1),
        ("reward", "b", 1), ("reward", "b", 1),
    ]  # fmt: skip
    gang = berths(order({"roles": roles}, *places), devices=4)
    assert [(one.world_rank, one.world_size) for one in gang.values()] == [
        (0, 3), (1, 3), (2, 3), (0, 2), (1, 2),
    ]  # fmt: skip
    assert [one.command for one in gang.values()] == ["a"] * 3 + ["r"] * 2
    assert [one.node_rank for one in gang.values()] == [0, 0, 1, 0, 0]
    assert gang[2].devices == ("0",)
    assert gang[3].devices == gang[4].devices == ("1", "2")
    assert (gang[4].local_rank, gang[4].local_world_size) == (1, 2)
    assert (gang[0].master_address, gang[0].master_port) == ("10.0.0.1", 1005)
    assert (gang[3].master_address, gang[3].master_port) == ("10.0.0.2", 2006)
    variables = gang[3].variables or {}
    assert variables["QUARTERDECK_ROLE"] == "reward"
    assert variables["QUARTERDECK_ROLE_ACTOR_HOSTS"] == "10.0.0.1,10.0.0.1,10.0.0.2"
    assert variables["QUARTERDECK_ROLE_ACTOR_MASTER_PORT"] == "1005"
    assert variables["QUARTERDECK_ROLE_REWARD_RANKS"] == "2"
    assert "SIZE" not in variables
    assert (gang[0].variables or {})["SIZE"] == "big"
