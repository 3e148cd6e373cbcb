"""Which machines a pool has to bring for a gang that waits. Pure.

A pool's groups are machines that may come: some are ordered and on their way, some may still be
ordered. Gangs are looked at in the plan's order, each as a whole, with all of its roles: it counts
on what is free, then on what is coming, then on as few new machines as are enough. A gang that
would not fit beside what runs now, however many came, blocks its pools: nothing is brought for
those behind it. One that could not fit into the empty pools at their largest brings nothing and
blocks nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from quarterdeck.scheduling.placement import SPOT_WORDS, Pool, takes_spot
from quarterdeck.scheduling.snapshot import (
    Assignment,
    Demand,
    GroupView,
    NodeView,
    Pending,
    Request,
)
from quarterdeck.scheduling.spread import PoolKey, PoolState, choices, place


@dataclass(frozen=True)
class Help:
    """What pools can do for a gang.

    `comes`: with these machines it fits. `blocked`: not beside what runs. `behind`: something
    else is blocked that comes first. `never`: not at the pools' largest.
    """

    kind: Literal["comes", "blocked", "behind", "never"]
    keys: tuple[PoolKey, ...]
    groups: tuple[GroupView, ...]
    """Those that may have something for it."""
    free: int = 0
    machines: Mapping[str, int] = field(default_factory=dict)
    """By group: those that the gang counts on and that are not there yet."""
    first: str = ""
    """Of `behind`: what is blocked."""
    short: tuple[GroupView, ...] = ()
    """Of `comes`: those that it would rather have had machines of."""

    @property
    def cluster(self) -> str:
        return self.keys[0][0]

    @property
    def holds_place(self) -> bool:
        """Whether those behind must leave it what is there: not while nobody knows whether the
        rest comes."""
        stuck = any(group.trouble for group in self.groups if group.name in self.machines)
        return self.kind in ("comes", "blocked") and not stuck


@dataclass
class _Grown:
    """The machines of one cluster and accelerator: those there are, and those to come."""

    groups: tuple[GroupView, ...]
    pool: Pool
    largest: Pool
    spare: Mapping[str, Sequence[NodeView]]
    """By group: the machines that may still be ordered; the first of them are `ordered`."""
    ordered: dict[str, int] = field(default_factory=dict)


class Growth:
    """Collects what a plan's waiting gangs need. `ask` it in the plan's order."""

    def __init__(
        self,
        groups: Sequence[GroupView],
        pools: Mapping[PoolKey, PoolState],
        clusters: Mapping[str, bool],
    ) -> None:
        """`pools` are the machines there are, as the plan changes them. A cluster of `clusters`
        that is not connected starts nothing: it gets no machines."""
        self._pools = pools
        self._groups: dict[PoolKey, list[GroupView]] = {}
        for group in groups:
            if clusters.get(group.cluster, True):
                self._groups.setdefault(group.key, []).append(group)
        self._grown: dict[PoolKey, _Grown] = {}
        self._whom: dict[tuple[str, str], list[str]] = {}
        self._coming: dict[tuple[str, str], set[str]] = {}
        self._reserved: set[str] = set()
        self._spent: Counter[tuple[str, str]] = Counter()
        """New machines by purse."""
        self._blocked: dict[tuple[str, str], str] = {}
        """By purse, the first gang that would fit, but not beside what runs."""
        self._instead: dict[tuple[str, str], str] = {}
        """By cluster and group, the group whose machines were not waited for."""

    def started(self, assignment: Assignment) -> None:
        """A gang starts now on machines there are: what they still have is less."""
        nodes = {place.node_id for place in assignment.placements}
        for key, grown in self._grown.items():
            state = self._pools.get(key)
            if state is not None and not nodes.isdisjoint(state.empty.rooms):
                grown.pool.hold(state.holds[-1])

    def ask(self, request: Request) -> Help | None:
        """What pools can do for a gang that found no place; None: no pool has machines for it."""
        if not self._groups:
            return None
        helps: list[Help] = []
        known = sorted({*self._groups, *self._pools})
        for keys in sorted(choices(known, request), key=self._barred):
            if self._groups.keys().isdisjoint(keys):
                continue
            found = self._help(keys, request)
            if found.kind == "comes":
                return found
            helps.append(found)
        order = ("blocked", "behind", "never")
        return min(helps, key=lambda one: order.index(one.kind), default=None)

    def _barred(self, keys: tuple[PoolKey, ...]) -> bool:
        return any(group.barred for key in keys for group in self._groups.get(key, ()))

    def demands(self) -> dict[tuple[str, str], Demand]:
        """What all gangs asked so far need, by cluster and group."""
        return {
            (group.cluster, group.name): Demand(
                new=grown.ordered.get(group.name, 0),
                coming=len(self._coming.get((group.cluster, group.name), ())),
                whom=tuple(self._whom.get((group.cluster, group.name), ())),
                blocked=self._blocked.get(group.purse, ""),
                instead=self._instead.get((group.cluster, group.name), ""),
            )
            for grown in self._grown.values()
            for group in grown.groups
        }

    @property
    def reserved(self) -> frozenset[str]:
        """Machines there are that gangs count on which wait for others."""
        return frozenset(self._reserved)

    def _pool(self, key: PoolKey) -> _Grown:
        if (known := self._grown.get(key)) is not None:
            return known
        groups, state = tuple(self._groups.get(key, ())), self._pools.get(key)
        coming = [_machine(group, i) for group in groups for i in range(group.coming)]
        most = [_machine(group, i) for group in groups for i in range(group.most)]
        spare = {
            group.name: [_machine(group, group.coming + i) for i in range(group.room)]
            for group in groups
        }
        here = state.pool if state is not None else Pool(())
        largest = Pool(most) if groups or state is None else state.empty
        grown = self._grown[key] = _Grown(groups, here.joined_by(coming), largest, spare)
        return grown

    def _help(self, keys: tuple[PoolKey, ...], request: Request) -> Help:
        grown = [self._pool(key) for key in keys]
        asks = [request] if len(keys) == 1 else [request.on(key[1]) for key in keys]
        pairs = list(zip(grown, asks, strict=True))
        groups = tuple(group for one in grown for group in one.groups)
        free = sum(one.pool.free for one in grown)
        if not all(one.largest.fits(mine) for one, mine in pairs):
            return Help("never", keys, groups)
        takes = [group for group in groups if takes_spot(request.spot, group.spot)]
        behind = {group.spot: self._blocked[group.purse] for group in takes
                  if group.purse in self._blocked}  # fmt: skip
        if behind and behind.keys() >= {group.spot for group in takes}:
            return Help("behind", keys, groups, free, first=next(iter(behind.values())))
        if behind:  # of its two kinds of machines one is left
            wish = "avoid" if True in behind else "only"
            pairs = [(one, replace(mine, spot=wish)) for one, mine in pairs]
        picky = [(one, without_short(one.groups, mine)) for one, mine in pairs]
        wider = [_wider(one, mine, self._spent) for one, mine in picky]
        if None in wider and picky != pairs:
            picky, wider = pairs, [_wider(one, mine, self._spent) for one, mine in pairs]
        if None in wider:
            self._blocked |= dict.fromkeys((group.purse for group in takes), request.label)
            return Help("blocked", keys, groups, free)
        machines: dict[str, int] = {}
        for (one, mine), new in zip(picky, wider, strict=True):
            machines |= self._take(one, mine, new or [])
        short = tuple(group for group in groups if group.short and picky != pairs)
        for name in machines if short else ():
            self._instead[keys[0][0], name] = short[0].name
        return Help("comes", keys, groups, free, machines, short=short)

    def _take(self, grown: _Grown, request: Request, new: Sequence[NodeView]) -> dict[str, int]:
        """Order `new` machines, and let the gang have its places; how many it counts on that are
        not there yet, by group."""
        grown.pool.join(new)
        purse_of = {group.name: group.purse for group in grown.groups}
        for node in new:
            name = _group_of(node.id)
            grown.ordered[name] = grown.ordered.get(name, 0) + 1
            self._spent[purse_of[name]] += 1
        placed = grown.pool.place(request)
        assert placed is not None, "it fitted a moment ago"
        grown.pool.take(request, placed)
        machines: dict[str, set[str]] = {}
        for node_id in {rank.node_id for rank in placed}:
            if node_id.startswith(_PREFIX):
                machines.setdefault(_group_of(node_id), set()).add(node_id)
            else:
                self._reserved.add(node_id)
        for group in grown.groups:
            if mine := machines.get(group.name):
                of = (group.cluster, group.name)
                coming = {node_id for node_id in mine if _number(node_id) < group.coming}
                self._coming.setdefault(of, set()).update(coming)
                self._whom.setdefault(of, []).append(request.label)
        return {name: len(ids) for name, ids in machines.items()}


def roomiest(groups: Sequence[GroupView], request: Request) -> str:
    """The first pool, by name, that would take the gang at its largest; empty: none would."""
    by_key: dict[PoolKey, list[NodeView]] = {}
    for group in groups:
        machines = [_machine(group, i) for i in range(group.most)]
        by_key.setdefault(group.key, []).extend(machines)
    for keys in choices(sorted(by_key), request):
        if place([Pool(by_key[key]) for key in keys], request) is not None:
            return keys[0][0]
    return ""


def _wider(
    grown: _Grown, request: Request, spent: Mapping[tuple[str, str], int]
) -> Sequence[NodeView] | None:
    """As few new machines as are enough for the gang, often none; None: there are too few."""
    pool = grown.pool
    if pool.fits(request):
        return []
    for order in _orders(grown, request, spent):
        if (count := _fewest(pool, request, order)) is not None:
            return order[:count]
    return None


def _fewest(pool: Pool, request: Request, order: Sequence[NodeView]) -> int | None:
    """How many of these machines are enough, taken in order; None: not even all of them.

    They come to the pool for a trial, more and more of them, and go again: gangs need few, and
    copies of a large pool for each of many gangs would be most of a plan's work.
    """
    joined = 0

    def enough(count: int) -> bool:
        nonlocal joined
        pool.join(order[joined:count])
        pool.part(max(0, joined - count))
        joined = count
        return pool.fits(request)

    missing = request.ranks - pool.free
    low = max(1, -(-missing // max(node.slots for node in order)))
    high = low = min(low, len(order))
    while not enough(high):
        if high == len(order):
            enough(0)
            return None
        low, high = high + 1, min(2 * high, len(order))
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    enough(0)
    return low


_PREFIX = "+"
_NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")
_OF_WHAT_IS_THERE = frozenset({"InsufficientSlots", "Queued", "NodesCordoned", "NodesExcluded"})
"""Reasons of machines that are big enough as they are."""


def _machine(group: GroupView, number: int) -> NodeView:
    """One that is not there: those that are coming have the first numbers."""
    return NodeView(
        f"{_PREFIX}{group.name}/{number}", group.cluster, group.slots, group.accelerator,
        cpus=group.cpus, memory=group.memory, spot=group.spot,
    )  # fmt: skip


def _group_of(node_id: str) -> str:
    return node_id.removeprefix(_PREFIX).rpartition("/")[0]


def _number(node_id: str) -> int:
    return int(node_id.rpartition("/")[2])


def _orders(
    grown: _Grown, request: Request, spent: Mapping[tuple[str, str], int]
) -> Iterator[Sequence[NodeView]]:
    """Which new machines to try: those of one group, spot ones first, then those of all. What
    others of the same purse have `spent` is not there any more."""
    every: list[NodeView] = []
    for group in sorted(grown.groups, key=lambda group: not group.spot):
        if not takes_spot(request.spot, group.spot) or _machine(group, 0).id in request.shunned:
            continue
        mine = grown.ordered.get(group.name, 0)
        others = spent.get(group.purse, 0) - mine
        new = grown.spare[group.name][mine : max(mine, group.room - others)]
        every += new
        if new:
            yield new
    if len(grown.groups) > 1 and every:
        yield every


def say(pending: Pending, request: Request, help_: Help) -> Pending:
    """A gang's reason to wait, with what its pool does about it."""
    needs = f"needs {_slots(request, help_)}{SPOT_WORDS[request.spot]}"
    pool = f"pool {help_.cluster}"
    most = ", ".join(f"{g.most} of group {g.name}" for g in help_.groups)
    there_is_enough = pending.reason in _OF_WHAT_IS_THERE
    if help_.kind == "comes":
        if not help_.machines:  # what is there is enough, but something comes first
            return pending
        coming = ", ".join(
            f"{count} {'machine' if count == 1 else 'machines'} of group {name}"
            for name, count in sorted(help_.machines.items())
        )
        message = f"{needs}, {help_.free} free in {pool} with what is ordered; waits for {coming}"
        facts = tuple(
            f"group {group.name}: {group.trouble}"
            for group in help_.groups
            if group.name in help_.machines and group.trouble
        ) + tuple(f"group {group.name}: {group.short}" for group in help_.short)
        if image := _not_pulled(help_):
            message = f"image {image} cannot be pulled: correct environment.image and submit anew"
            return Pending(request.id, "ImageNotPulled", message, facts)
        return Pending(request.id, "WaitingForMachines", message, facts, pending.starts_at)
    if there_is_enough:
        if help_.kind != "blocked":
            return pending
        fact = f"{pool} cannot bring more for it: it has at most {most} (max_replicas)"
        return replace(pending, facts=(*pending.facts, fact))
    if help_.kind == "never" and pending.reason == "SpotUnwanted":
        return pending
    if help_.kind == "never":
        slots = sum(group.most * group.slots for group in help_.groups)
        message = (
            f"{needs}, {pool} has {slots} at its largest, {most}: raise max_replicas, or ask for "
            "less"
        )
        if slots >= request.ranks:
            message = (
                f"{needs}, which {pool} never has so that it fits (at its largest {most}): ask for "
                "less on one machine, or give the pool larger machines"
            )
        return Pending(request.id, "ExceedsCluster", message)
    message = f"{needs}, {help_.free} free in {pool}, which has at most {most} (max_replicas)"
    if help_.kind == "behind":
        message = f"{needs}; {help_.first} waits ahead of it in {pool}, which has at most {most}"
    return Pending(request.id, "InsufficientSlots", message, pending.facts, pending.starts_at)


def _not_pulled(help_: Help) -> str:
    """The image of its own that the machines of a gang do not get; empty: none."""
    mine = (group for group in help_.groups if group.name in help_.machines and group.image)
    bad = (group.image for group in mine if any(one in group.trouble for one in _NOT_PULLED))
    return next(bad, "")


def without_short(groups: Sequence[GroupView], request: Request) -> Request:
    """The request, kept off the machines of groups that are short of them."""
    short = [group for group in groups if group.short]
    if not short or request.spot != "allow":
        return request
    numbers = ((group, i) for group in short for i in range(group.coming + max(group.room, 1)))
    shunned = {_machine(group, i).id: group.short for group, i in numbers}
    return replace(request, shunned={**request.shunned, **shunned})


def _slots(request: Request, help_: Help) -> str:
    """`16 H100`, `2 slots`, or by the accelerators of its roles `4 H100 and 2 L4`."""
    names = {group.accelerator.lower(): group.accelerator for group in help_.groups}

    def unit(model: str) -> str:
        return "slots" if model == "cpu" else names.get(model, model)

    if len(help_.keys) == 1:
        return f"{request.ranks} {unit(help_.keys[0][1])}"
    return " and ".join(f"{request.on(key[1]).ranks} {unit(key[1])}" for key in help_.keys)
