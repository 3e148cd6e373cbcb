"""Where a gang may go: into one pool, or, where its roles name several accelerators, into one pool
of a cluster for each. Such a gang starts in all of its pools at once, or in none.

Pools share no machines, so the roles of each are placed by themselves. What a gang waits for in one
of its pools it waits for in all of them: those behind it in any must not delay it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from quarterdeck.scheduling.placement import Pool, Room, numbered
from quarterdeck.scheduling.snapshot import Hold, NodeView, Request
from quarterdeck.specs.protocol import RankPlacement

PoolKey = tuple[str, str]
"""Cluster, and accelerator in lower case."""


@dataclass(eq=False)
class PoolState:
    """One pool while a plan is made."""

    key: PoolKey
    pool: Pool
    empty: Pool
    holds: list[Hold]
    waiting: list[Wait] = field(default_factory=list)

    @property
    def accelerator(self) -> str:
        """As its machines write it."""
        return next(iter(self.empty.rooms.values())).node.accelerator

    @cached_property
    def alone(self) -> Site:
        """The site of gangs that need no other pool."""
        return Site((self,))


@dataclass(frozen=True, eq=False)
class Site:
    """The pools of one cluster that a gang starts in together, in the order of its `models`."""

    states: tuple[PoolState, ...]

    @property
    def cluster(self) -> str:
        return self.states[0].key[0]

    @property
    def ahead(self) -> list[Wait]:
        """What waits in its longest queue."""
        if len(self.states) == 1:
            return self.states[0].waiting
        return max((state.waiting for state in self.states), key=len)

    @property
    def holds(self) -> list[Hold]:
        """What runs in its pools, each once."""
        found = {id(hold): hold for state in self.states for hold in state.holds}
        return list(found.values())

    @property
    def rooms(self) -> dict[str, Room]:
        """Its machines by id, as if nothing ran there."""
        return {node: room for state in self.states for node, room in state.empty.rooms.items()}

    @property
    def free(self) -> int:
        return sum(state.pool.free for state in self.states)

    @property
    def total(self) -> int:
        return sum(state.empty.total for state in self.states)

    def place(self, request: Request) -> tuple[RankPlacement, ...] | None:
        """All ranks of the gang as things are, or None."""
        return place([state.pool for state in self.states], request)

    def fits(self, request: Request) -> bool:
        """Whether all ranks of the gang find a place as things are."""
        if len(self.states) == 1:
            return self.states[0].pool.fits(request)
        return self.place(request) is not None

    def fits_if_empty(self, request: Request) -> bool:
        """Whether all ranks of the gang would find a place if nothing ran there."""
        if len(self.states) == 1:
            return self.states[0].empty.fits(request)
        return place([state.empty for state in self.states], request) is not None


@dataclass(frozen=True, eq=False)
class Wait:
    """A gang in the queues of all pools of a site."""

    request: Request
    site: Site


def place(pools: Sequence[Pool], request: Request) -> tuple[RankPlacement, ...] | None:
    """All ranks of the gang, each role in the pool of its accelerator, or None when not all of them
    fit. Takes nothing. `pools` are in the order of the request's `models`."""
    if len(pools) == 1:
        return pools[0].place(request)
    placed: dict[str, list[RankPlacement]] = {}
    for model, pool in zip(request.models, pools, strict=True):
        found = pool.place(request.on(model))
        if found is None:
            return None
        for rank in found:
            placed.setdefault(rank.role, []).append(rank)
    return numbered(request.parts, placed)


def take(pools: Sequence[Pool], request: Request, placements: Sequence[RankPlacement]) -> Hold:
    """Reserve `placements`; the hold that stands for them."""
    if len(pools) == 1:
        return pools[0].take(request, placements)
    slots: dict[str, int] = {}
    cpus: dict[str, float] = {}
    memory: dict[str, int] = {}
    cluster = ""
    for pool in pools:
        held = pool.take(request, [one for one in placements if one.node_id in pool.rooms])
        slots |= held.slots
        cpus |= held.cpus
        memory |= held.memory
        cluster = held.cluster
    return Hold(request.label, cluster, slots, cpus, memory)


def by_pool(nodes: Iterable[NodeView]) -> dict[PoolKey, list[NodeView]]:
    """Machines by the pool they belong to, sorted by key."""
    found: dict[PoolKey, list[NodeView]] = {}
    for node in nodes:
        found.setdefault((node.cluster, node.accelerator.lower()), []).append(node)
    return dict(sorted(found.items()))


def choices(keys: Iterable[PoolKey], request: Request) -> list[tuple[PoolKey, ...]]:
    """The pools, of these, that the gang may have: one or, of one cluster, several together."""
    models = request.models
    mine = [
        key for key in keys if request.cluster in (None, key[0]) and key[0] not in request.closed
    ]
    if len(models) < 2:
        return [(key,) for key in mine if not models or key[1] == models[0]]
    known = set(mine)
    found = ([(cluster, model) for model in models] for cluster in dict(mine))
    return [tuple(wanted) for wanted in found if known.issuperset(wanted)]


def linked(site: Site, most: int) -> list[PoolState] | None:
    """The pools whose queues depend on each other with the site's, its own first: gangs that wait
    in several link them. None where more than `most` gangs wait in one."""
    found = list(site.states)
    for state in found:  # which grows
        if len(state.waiting) > most:
            return None
        for wait in state.waiting:
            if len(wait.site.states) > 1:
                found += [other for other in wait.site.states if other not in found]
    return found


def queue(states: Sequence[PoolState]) -> list[Wait]:
    """What waits in these pools, in order, each gang once for each site."""
    if len(states) == 1:
        return list(states[0].waiting)
    waits = dict.fromkeys(wait for state in states for wait in state.waiting)
    return sorted(waits, key=lambda wait: order(wait.request))


def order(request: Request) -> tuple[int, int, str]:
    """Who comes first: higher priority, then earlier submission."""
    return -request.priority, request.ordinal, request.id
