"""Where a gang's ranks go inside one pool.

A pool is the machines of one cluster with one accelerator: a gang never spans clusters, and spans
pools only where its roles name several accelerators (spread.py). The rank map is
rank = (pp·D + dp)·T + tp. A tensor group (T neighbouring ranks) talks in every layer, so it never
leaves a machine; a pipeline stage (D·T ranks) is kept on one machine too where that is possible, so
that gradients are reduced inside machines and only activations cross the network. Four stages of
2 × TP 4 on four machines of 8: machine i has stage i.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import islice

from quarterdeck.scheduling.sharing import NOTHING, added, best_slot, freest
from quarterdeck.scheduling.snapshot import Hold, NodeView, Part, Request
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.protocol import RankPlacement

SPOT_WORDS = {"allow": "", "avoid": " that are not spot", "only": " that are spot"}
"""What a gang's wish says of machines."""


def takes_spot(wish: str, spot: bool | None) -> bool:
    """Whether a gang goes to a machine of which this is known."""
    return wish == "allow" or spot is (wish == "only")


@dataclass
class Room:
    """What is left on one machine."""

    node: NodeView
    slots: int
    cpus: float
    memory: int
    shared: Mapping[int, int] = field(default_factory=dict)
    """What is held of slots that runs share, in thousandths by number; `slots` are whole ones."""

    def groups(self, request: Request, size: int) -> int:
        """How many groups of `size` ranks of `request` fit here."""
        return self.times(request, size, self.slots // size) if self.slots >= size else 0

    def times(self, request: Request, size: int, most: int) -> int:
        """The same where slots are enough for `most`."""
        node_id = self.node.id
        if node_id in request.avoid or node_id in request.excluded or node_id in request.shunned:
            return 0
        if request.spot != "allow" and not takes_spot(request.spot, self.node.spot):
            return 0
        limits = [most]
        if request.cpus:
            limits.append(int((self.cpus + 1e-9) // (request.cpus * size)))
        if request.memory:
            limits.append(self.memory // (request.memory * size))
        return max(min(limits), 0)


class Pool:
    """The usable machines of one cluster and accelerator, and what is left on each."""

    def __init__(self, nodes: Iterable[NodeView]) -> None:
        chosen = sorted(nodes, key=lambda node: (node.host, node.id))
        self._fill([Room(node, node.slots, node.cpus, node.memory) for node in chosen])

    def _fill(self, rooms: Sequence[Room]) -> None:
        self.rooms = {room.node.id: room for room in rooms}
        self.free = sum(max(room.slots, 0) for room in rooms)
        """Slots of which nothing holds even a part."""
        self._rank = {node_id: rank for rank, node_id in enumerate(self.rooms)}
        # (free slots, rank), ascending: the fullest machine that takes a gang is found at once.
        self._fullest_first = sorted((room.slots, rank) for rank, room in enumerate(rooms))
        self._ids = list(self.rooms)

    def copy(self) -> Pool:
        twin = Pool(())
        twin._fill([replace(room) for room in self.rooms.values()])
        return twin

    def part_of(self, node_ids: Iterable[str]) -> Pool:
        """A copy with these machines alone."""
        twin = Pool(())
        twin._fill([replace(self.rooms[node_id]) for node_id in node_ids])
        return twin

    def joined_by(self, nodes: Iterable[NodeView]) -> Pool:
        """A copy with more machines, empty ones, that come after the others."""
        twin = Pool(())
        more = [Room(node, node.slots, node.cpus, node.memory) for node in nodes]
        twin._fill([*(replace(room) for room in self.rooms.values()), *more])
        return twin

    def join(self, nodes: Sequence[NodeView]) -> None:
        """Let more machines come, empty ones, after the others."""
        for node in nodes:
            rank = len(self._ids)
            self.rooms[node.id] = Room(node, node.slots, node.cpus, node.memory)
            self._rank[node.id] = rank
            self._ids.append(node.id)
            insort(self._fullest_first, (node.slots, rank))
            self.free += node.slots

    def part(self, count: int) -> None:
        """Let the machines that came last go again, empty as they came."""
        for _ in range(count):
            node_id = self._ids.pop()
            room, rank = self.rooms.pop(node_id), self._rank.pop(node_id)
            del self._fullest_first[bisect_left(self._fullest_first, (room.slots, rank))]
            self.free -= room.slots

    @property
    def total(self) -> int:
        return sum(room.node.slots for room in self.rooms.values())

    def hold(self, hold: Hold, sign: int = 1) -> None:
        """Take what a run holds (`sign` -1: give it back)."""
        for node_id, slots in hold.slots.items():
            if node_id in self.rooms:
                cpus, memory = hold.cpus.get(node_id, 0.0), hold.memory.get(node_id, 0)
                parts = {n: sign * part for n, part in hold.shared.get(node_id, NOTHING).items()}
                self._take(node_id, sign * slots, sign * cpus, sign * memory, parts)

    def _take(
        self, node_id: str, slots: int, cpus: float, memory: int, parts: Mapping[int, int] = NOTHING
    ) -> None:
        room, rank = self.rooms[node_id], self._rank[node_id]
        if parts:
            before, room.shared = room.shared, added(room.shared, parts)
            slots += len(room.shared) - len(before)
        del self._fullest_first[bisect_left(self._fullest_first, (room.slots, rank))]
        self.free -= max(room.slots, 0)
        room.slots -= slots
        room.cpus -= cpus
        room.memory -= memory
        self.free += max(room.slots, 0)
        insort(self._fullest_first, (room.slots, rank))

    def place(self, request: Request) -> tuple[RankPlacement, ...] | None:
        """All ranks of the gang, or None when not all of them fit. Takes nothing."""
        if request.share < WHOLE:
            return self._place_part(request)
        if request.parts:
            return self._place_parts(request)
        chosen = self._choose(request)
        return None if chosen is None else self._ranks(chosen)

    def fits(self, request: Request) -> bool:
        """Whether `place` finds a place, for less than it takes to name that of every rank."""
        if request.share < WHOLE or request.parts:
            return self.place(request) is not None
        return self._choose(request) is not None

    def _choose(self, request: Request) -> list[tuple[str, int]] | None:
        """The machines of a gang of equal ranks, in rank order, with how many each gets."""
        stage = request.data * request.tensor
        by_stage = self._pack(request, request.pipeline, stage)
        return by_stage or self._pack(request, request.pipeline * request.data, request.tensor)

    def _place_part(self, request: Request) -> tuple[RankPlacement, ...] | None:
        """A single rank on a part of a slot."""
        found = best_slot(self._takers(request), request.share)
        if found is None:
            return None
        node_id, number = found
        accelerator = self.rooms[node_id].node.accelerator
        return (
            RankPlacement(
                rank=0, node_id=node_id, share=request.share, shared_slot=number,
                accelerator=accelerator,
            ),
        )  # fmt: skip

    @property
    def freest(self) -> int:
        """Thousandths of the slot of which most is free."""
        return freest(self.rooms.values())

    def _takers(self, request: Request) -> Iterator[Room]:
        """The machines that have what one rank needs beside its slot."""
        return (room for room in self.rooms.values() if room.times(request, 1, 1))

    def _place_parts(self, request: Request) -> tuple[RankPlacement, ...] | None:
        """The roles one after the other, the most demanding first, numbered as they are written."""
        by_need = sorted(request.parts, key=lambda part: (-(part.memory or 0), -(part.cpus or 0.0)))
        trial = self.copy() if len(by_need) > 1 else self
        placed: dict[str, Sequence[RankPlacement]] = {}
        for part in by_need:
            found = trial.place(request.of(part))
            if found is None:
                return None
            if trial is not self:
                trial.take(request.of(part), found)
            placed[part.role] = found
        return numbered(request.parts, placed)

    def take(self, request: Request, placements: Sequence[RankPlacement]) -> Hold:
        """Reserve `placements`; the hold that stands for them."""
        asks = {part.role: request.of(part) for part in request.parts}
        slots: dict[str, int] = {}
        cpus: dict[str, float] = {}
        memory: dict[str, int] = {}
        shared: dict[str, dict[int, int]] = {}
        for placement in placements:
            node_id, ask = placement.node_id, asks.get(placement.role, request)
            if placement.shared_slot is None:
                slots[node_id] = slots.get(node_id, 0) + 1
            else:
                slots.setdefault(node_id, 0)
                shared[node_id] = {placement.shared_slot: placement.share}
            cpus[node_id] = cpus.get(node_id, 0.0) + (ask.cpus or 0.0)
            memory[node_id] = memory.get(node_id, 0) + (ask.memory or 0)
        for node_id in slots:
            parts = shared.get(node_id, NOTHING)
            self._take(node_id, slots[node_id], cpus[node_id], memory[node_id], parts)
        cluster = next(iter(self.rooms.values())).node.cluster
        return Hold(
            request.label, cluster, slots, cpus, memory, shared=shared, service=request.service
        )

    def _pack(self, request: Request, units: int, size: int) -> list[tuple[str, int]] | None:
        """Spread `units` of `size` ranks over few machines, in rank order: [(node, ranks)].

        The fullest machine that still takes all the rest, else the emptiest: big gangs get few
        machines, small ones do not break into empty machines.
        """
        if units * size > self.free or units > self._most(size):
            return None
        chosen: list[tuple[str, int]] = []
        used: set[str] = set()
        emptiest = self._emptiest(request, size)
        left = units
        while left:
            last = self._fullest(request, left, size, used)
            node_id, count = (last, left) if last is not None else next(emptiest, ("", 0))
            if not count:
                return None
            used.add(node_id)
            chosen.append((node_id, count * size))
            left -= count
        return chosen

    def _most(self, size: int) -> int:
        """How many groups of `size` ranks the free slots are enough for."""
        most, first, rooms = 0, 0, self._fullest_first
        while first < len(rooms):
            slots = rooms[first][0]
            end = bisect_left(rooms, (slots + 1, -1), first)
            most += (end - first) * max(slots // size, 0)
            first = end
        return most

    def _emptiest(self, request: Request, size: int) -> Iterator[tuple[str, int]]:
        """Machines by falling number of groups of `size` ranks that they take, with that number;
        those that come first before those that are alike.

        Slots bound the number: a machine is asked for the rest that it has only when those with
        more slots have been taken, so few are where there are many.
        """
        rooms = self._fullest_first
        below: list[tuple[int, int]] = []  # (-groups, rank): fewer than their slots are enough for
        end = len(rooms)
        while end and (bound := rooms[end - 1][0] // size) > 0:
            first = bisect_left(rooms, (bound * size, -1), 0, end)
            alike = rooms[first][0] == rooms[end - 1][0]
            ranks = (rooms[i][1] for i in range(first, end))
            for rank in ranks if alike else sorted(ranks):
                while below and below[0] < (-bound, rank):
                    yield self._popped(below)
                count = self.rooms[self._ids[rank]].groups(request, size)
                if count == bound:
                    yield self._ids[rank], count
                elif count:
                    heappush(below, (-count, rank))
            end = first
        while below:
            yield self._popped(below)

    def _popped(self, below: list[tuple[int, int]]) -> tuple[str, int]:
        fewer, rank = heappop(below)
        return self._ids[rank], -fewer

    def _ranks(self, chosen: Sequence[tuple[str, int]]) -> tuple[RankPlacement, ...]:
        placements: list[RankPlacement] = []
        for node_id, ranks in chosen:
            accelerator = self.rooms[node_id].node.accelerator
            for local_rank in range(ranks):
                placements.append(
                    RankPlacement(
                        rank=len(placements), node_id=node_id, local_rank=local_rank,
                        accelerator=accelerator,
                    )
                )  # fmt: skip
        return tuple(placements)

    def _fullest(
        self, request: Request, units: int, size: int, used: Collection[str]
    ) -> str | None:
        """The fullest machine that takes so many groups, but for those `used` already."""
        first = bisect_left(self._fullest_first, (units * size, -1))
        for _, rank in islice(self._fullest_first, first, None):
            node_id = self._ids[rank]
            if node_id not in used and self.rooms[node_id].groups(request, size) >= units:
                return node_id
        return None


def numbered(
    parts: Sequence[Part], placed: Mapping[str, Sequence[RankPlacement]]
) -> tuple[RankPlacement, ...]:
    """The ranks of all roles, numbered in the order in which the roles are written."""
    ranks: list[RankPlacement] = []
    on_node: Counter[str] = Counter()
    for part in parts:
        for place in placed[part.role]:
            local = on_node[place.node_id]
            on_node[place.node_id] += 1
            update = {"rank": len(ranks), "role": part.role, "local_rank": local}
            ranks.append(place.model_copy(update=update))
    return tuple(ranks)


def by_node(placements: Sequence[RankPlacement]) -> tuple[RankPlacement, ...]:
    """One place for all slots of a role on a machine: what `launch: per_node` starts."""
    first: dict[tuple[str, str], RankPlacement] = {}
    slots: Counter[tuple[str, str]] = Counter()
    for place in placements:
        seat = place.role, place.node_id
        first.setdefault(seat, place)
        slots[seat] += place.slots
    merged: list[RankPlacement] = []
    on_node: Counter[str] = Counter()
    for seat, place in first.items():
        update = {
            "rank": len(merged), "slots": slots[seat], "local_rank": on_node[place.node_id],
        }  # fmt: skip
        on_node[place.node_id] += 1
        merged.append(place.model_copy(update=update))
    return tuple(merged)
