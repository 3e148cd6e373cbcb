"""Who is who in a gang: each role's world, as torchrun's variables tell it. Pure.

A gang without roles is one world. With `launch: per_node` a place stands for all slots that the
gang has on its machine: RANK and WORLD_SIZE count machines, and NNODES, NODE_RANK, NPROC_PER_NODE
(and the same as PET_…, which torchrun reads for options that are not given) tell the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quarterdeck.specs.protocol import RankPlacement, RunOrder

ROLE = "QUARTERDECK_ROLE"
ACCELERATOR = "QUARTERDECK_ACCELERATOR"
"""Model of the machine that a rank is on."""


@dataclass(frozen=True)
class HostFacts:
    """What a host tells before the start: its address, a free port for each role whose first rank
    it has, its devices in the order of its slots."""

    address: str
    ports: Mapping[str, int]
    devices: Sequence[str] = ()


@dataclass(frozen=True)
class Berth:
    """One rank's place in its gang. `rank` is its number in the gang, `world_rank` in its world."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    master_address: str
    master_port: int
    devices: tuple[str, ...] = ()
    """Device numbers of all of its role's ranks on this node, by local rank."""
    world_rank: int = 0
    command: str | None = None
    variables: Mapping[str, str] | None = None
    """Further ones of its role and launch."""


def roles_on(hosts: Mapping[str, Sequence[RankPlacement]], node_id: str) -> list[str]:
    """The roles whose first rank is on the node: whose rendezvous it holds."""
    first: dict[str, tuple[int, str]] = {}
    for node, places in hosts.items():
        for place in places:
            first[place.role] = min(first.get(place.role, (place.rank, node)), (place.rank, node))
    return [role for role, (_, node) in first.items() if node == node_id]


def berths_of(
    order: RunOrder,
    hosts: Mapping[str, Sequence[RankPlacement]],
    facts: Mapping[str, HostFacts],
) -> dict[str, list[Berth]]:
    """The berths of each host. `hosts` has the placements by node, by local rank."""
    worlds: dict[str, list[RankPlacement]] = {}
    for place in sorted(order.placements, key=lambda place: place.rank):
        worlds.setdefault(place.role, []).append(place)
    shared = _directory(worlds, facts) if order.spec.get("roles") else {}
    berths: dict[str, list[Berth]] = {node_id: [] for node_id in hosts}
    for role, world in worlds.items():
        nodes = list(dict.fromkeys(place.node_id for place in world))
        master = facts[world[0].node_id]
        for world_rank, place in enumerate(world):
            mine = [other for other in world if other.node_id == place.node_id]
            slots = sum(other.slots for other in mine)
            node_rank = nodes.index(place.node_id)
            berths[place.node_id].append(
                Berth(
                    rank=place.rank, world_size=len(world), local_rank=mine.index(place),
                    local_world_size=slots, node_rank=node_rank,
                    master_address=master.address, master_port=master.ports[role],
                    devices=_devices(hosts[place.node_id], role, facts[place.node_id].devices),
                    world_rank=world_rank, command=_command(order, role),
                    variables={
                        **_role_env(order, role), **shared, **_accelerator(place),
                        **_launch(order, len(nodes), node_rank, slots, master, role),
                    },
                )
            )  # fmt: skip
    return berths


def _devices(places: Sequence[RankPlacement], role: str, devices: Sequence[str]) -> tuple[str, ...]:
    taken = 0
    mine: list[str] = []
    for place in places:
        if place.role == role:
            mine += devices[taken : taken + place.slots]
        taken += place.slots
    return tuple(mine)


def _command(order: RunOrder, role: str) -> str | None:
    roles = order.spec.get("roles") or {}
    text = roles[role]["command"] if role in roles else order.spec.get("command")
    return str(text) if order.kind == "command" else None


def _role_env(order: RunOrder, role: str) -> dict[str, str]:
    roles = order.spec.get("roles") or {}
    if role not in roles:
        return {}
    env = {str(name): str(value) for name, value in (roles[role].get("env") or {}).items()}
    return {**env, ROLE: role}


def _accelerator(place: RankPlacement) -> dict[str, str]:
    return {ACCELERATOR: place.accelerator} if place.accelerator else {}


def _directory(
    worlds: Mapping[str, Sequence[RankPlacement]], facts: Mapping[str, HostFacts]
) -> dict[str, str]:
    """Where every role is; `_HOSTS` has an address for each rank, in their order."""
    found: dict[str, str] = {}
    for role, world in worlds.items():
        name = f"{ROLE}_{role.upper()}"
        first = facts[world[0].node_id]
        found[f"{name}_HOSTS"] = ",".join(facts[place.node_id].address for place in world)
        found[f"{name}_RANKS"] = str(len(world))
        found[f"{name}_MASTER_ADDR"] = first.address
        found[f"{name}_MASTER_PORT"] = str(first.ports[role])
    return found


def _launch(
    order: RunOrder, nodes: int, node_rank: int, slots: int, master: HostFacts, role: str
) -> dict[str, Any]:
    if order.spec.get("launch") != "per_node":
        return {}
    values = {
        "NNODES": str(nodes), "NODE_RANK": str(node_rank), "NPROC_PER_NODE": str(slots),
    }  # fmt: skip
    rendezvous = {"MASTER_ADDR": master.address, "MASTER_PORT": str(master.ports[role])}
    return values | {f"PET_{name}": value for name, value in {**values, **rendezvous}.items()}
