"""Which machines a gang of several prefers: those of the smallest part of the network that has room
for all of it.

A machine's place is a path of domains from the widest to the narrowest, `zone-a/rack-3`. A gang
goes into the narrowest domain that takes it, among equals into the one with the fewest free slots,
so that large rooms stay whole; but only where that neither splits more of its pipeline stages nor
needs more machines than it would without places: what crosses between machines costs more than
what crosses between racks. Where no domain takes it so, it goes wherever there is room. Source of
the rule: Kueue, "Topology aware scheduling", preferred placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quarterdeck.scheduling import spread
from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import Request
from quarterdeck.specs.protocol import RankPlacement

SEPARATOR = "/"


def domains(path: str) -> list[str]:
    """The domains of a place, the widest first: of `a/r1` they are `a` and `a/r1`."""
    parts = path.split(SEPARATOR) if path else []
    return [SEPARATOR.join(parts[:end]) for end in range(1, len(parts) + 1)]


def common(paths: Iterable[str]) -> str:
    """The narrowest domain that has all of these; empty: none has."""
    shared: list[str] | None = None
    for path in paths:
        mine = domains(path)
        shared = mine if shared is None else [name for name in shared if name in mine]
    return shared[-1] if shared else ""


def place(pools: Sequence[Pool], request: Request) -> tuple[RankPlacement, ...] | None:
    """All ranks of the gang, close to each other where that is possible, or None when not all of
    them fit. Takes nothing. A gang that spans several pools goes where there is room."""
    packed = spread.place(pools, request)
    if packed is None or len(pools) > 1 or len({one.node_id for one in packed}) < 2:
        return packed
    (pool,) = pools
    bound = _cost(packed, request)
    for nodes in _narrowest_first(pool, request.ranks):
        placed = pool.part_of(nodes).place(request)
        if placed and _cost(placed, request) <= bound:
            return placed
    return packed


def _cost(placed: Sequence[RankPlacement], request: Request) -> tuple[int, int]:
    """How often a pipeline stage goes from one machine to another, and how many machines there
    are."""
    stage = len(placed) if request.parts else request.data * request.tensor
    stages = (placed[first : first + stage] for first in range(0, len(placed), stage))
    splits = sum(len({one.node_id for one in ranks}) - 1 for ranks in stages)
    return splits, len({one.node_id for one in placed})


def _narrowest_first(pool: Pool, ranks: int) -> list[Sequence[str]]:
    """The machines of each domain with so many free slots."""
    nodes: dict[str, list[str]] = {}
    free: dict[str, int] = {}
    for node_id, room in pool.rooms.items():
        for domain in domains(room.node.topology):
            nodes.setdefault(domain, []).append(node_id)
            free[domain] = free.get(domain, 0) + max(room.slots, 0)
    enough = [domain for domain in nodes if free[domain] >= ranks]
    enough.sort(key=lambda domain: (-domain.count(SEPARATOR), free[domain], domain))
    return [nodes[domain] for domain in enough]
