"""Which machines a gang of several prefers: those of the smallest part of the network that has room
for all of it.

A machine's place is a path of domains from the widest to the narrowest, `zone-a/rack-3`. A gang
goes into the narrowest domain that takes it, among equals into the one with the fewest free slots,
so that large rooms stay whole; where none takes it, wherever there is room. It is a wish: no gang
waits for it. Source of the rule: Kueue, "Topology aware scheduling", preferred placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import Request
from quarterdeck.scheduling.spread import Site
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
        parts = path.split(SEPARATOR) if path else []
        if shared is None:
            shared = parts
        else:
            pairs = zip(shared, parts, strict=False)
            same = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
            shared = shared[: min(len(shared), len(parts)) if same is None else same]
    return SEPARATOR.join(shared or [])


def place(site: Site, request: Request) -> tuple[RankPlacement, ...] | None:
    """All ranks of the gang, close to each other where that is possible, or None when not all of
    them fit. Takes nothing."""
    packed = site.place(request)
    if packed is None or len(site.states) > 1 or len({one.node_id for one in packed}) < 2:
        return packed
    pool = site.states[0].pool
    for nodes in _narrowest_first(pool, request.ranks):
        if placed := pool.part_of(nodes).place(request):
            return placed
    return packed


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
