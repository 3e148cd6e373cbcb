"""Capacity in use: what is free on a cluster, counted under its lock.

Counting anew what every living run holds costs more the more there are. A cluster's `placed` rises
with each run that is created on it, so who counted once can tell that nothing was added since;
ended runs only give room back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.accelerator_share import WHOLE, part
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.specs.tenancy import Tenancy
from quarterdeck.store.errors import CapacityTaken
from quarterdeck.store.settings import generation
from quarterdeck.store.slots import SlotCount
from quarterdeck.store.tables import ClusterRow, NodeRow, PoolRow, RunRow
from quarterdeck.store.tenants import read_tenancy

_ROOMS = "rooms"
_OF_SPEC = frozenset({"resources", "roles", "max_duration"})


@dataclass(frozen=True)
class Usage:
    """Slots in use, when `placed` runs had been created on the cluster."""

    placed: int
    used: SlotCount


@dataclass
class _Room:
    """What a cluster has to give, under its lock."""

    connected: bool
    told: bool
    """Its agent has been heard since the last restore of the database."""
    placed: int
    slots: dict[str, int]
    """By node, of those that take work."""
    used: SlotCount
    tenancy: Tenancy = field(default_factory=Tenancy)
    guests: set[str] = field(default_factory=set)
    """The projects of runs that hold slots, where a project is isolated."""


class Holding(NamedTuple):
    """What admission knows of a run that holds slots. There are as many as runs live, and all are
    read at every look: whole rows would cost more than all the rest of it."""

    id: str
    owner_type: str
    owner_id: str
    owner_name: str
    project: str
    epoch: int
    cluster: str
    phase: str
    quarantined: bool
    stopping_for: str | None
    created_at: datetime
    claimed_at: datetime | None
    placements: Sequence[Mapping[str, Any]]
    resources: Mapping[str, Any] | None
    roles: Mapping[str, Any] | None
    max_duration: float | None
    """Seconds; these three are of the run's spec."""

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out, or given up."""
        return self.quarantined or self.phase in ("draining", "stopping")


def holding_runs(session: Session) -> Sequence[Holding]:
    """Runs that hold slots: not ended, or given up and not proven dead."""
    columns = [
        RunRow.spec[name] if name in _OF_SPEC else getattr(RunRow, name) for name in Holding._fields
    ]
    return [Holding(*row) for row in session.execute(select(*columns).where(_holds()))]


def _holds() -> ColumnElement[bool]:
    return RunRow.phase.not_in(sorted(ENDED)) | RunRow.quarantined


def usage(clusters: Iterable[ClusterRow], holding: Iterable[Holding]) -> dict[str, Usage]:
    """What `holding` use of each cluster. The clusters must have been read before them: a run
    that came between then is counted, and shows in the cluster's next `placed`."""
    found = {row.name: Usage(row.placed, SlotCount()) for row in clusters}
    for run in holding:
        if (known := found.get(run.cluster)) is not None:
            known.used.add(run.placements)
    return found


def hold_capacity(
    session: Session, clusters: Iterable[str], known: Mapping[str, Usage] | None = None
) -> None:
    """Lock clusters until the transaction's end and count what is free once, for all runs that it
    creates. Call it before any savepoint: rolling one back would give the lock away.

    `known` spares the count where nothing was created since.
    """
    rooms = session.info.setdefault(_ROOMS, {})
    for cluster in sorted(set(clusters)):
        rooms[cluster] = _room(session, cluster, (known or {}).get(cluster))


def held_capacity(session: Session) -> dict[str, Usage]:
    """What the clusters that this transaction holds have in use once it is committed."""
    rooms: dict[str, _Room] = session.info.get(_ROOMS, {})
    return {name: Usage(room.placed, room.used) for name, room in rooms.items()}


@contextmanager
def tentative(session: Session) -> Iterator[None]:
    """A savepoint; what is raised rolls it back, with the room that was reserved inside."""
    rooms: dict[str, _Room] = session.info.get(_ROOMS, {})
    before = {
        name: replace(room, used=room.used.copy(), guests=set(room.guests))
        for name, room in rooms.items()
    }
    try:
        with session.begin_nested():
            yield
    except BaseException:
        rooms.update(before)
        raise


def reserve(
    session: Session, cluster: str, project: str, placements: Sequence[RankPlacement]
) -> None:
    """Take room for one gang of a project, one creator a cluster at a time. Raises
    CapacityTaken."""
    rooms: dict[str, _Room] = session.info.get(_ROOMS, {})
    room = rooms.get(cluster) or _room(session, cluster, None)
    if not room.connected:
        raise CapacityTaken(f"cluster {cluster} is not connected any more")
    if not room.told:
        raise CapacityTaken(f"cluster {cluster} has not told what lives there since a restore")
    if closed := room.tenancy.why_closed(cluster, project, room.guests):
        raise CapacityTaken(f"cluster {cluster} is closed to project {project}: it {closed}")
    wanted = slots_used_by(placements)
    for node_id, count in wanted.slots.items():
        if node_id not in room.slots:
            raise CapacityTaken(f"node {node_id} takes no work any more")
        parts = wanted.shared.get(node_id, {})
        known = room.used.shared.get(node_id, {})
        slots = count - len(parts.keys() & known.keys())  # one that is shared already is counted
        if room.used.slots.get(node_id, 0) + slots > room.slots[node_id]:
            raise CapacityTaken(f"node {node_id} has fewer than {slots} slots free")
        for number, share in parts.items():
            left = WHOLE - known.get(number, 0)
            if share > left:
                raise CapacityTaken(
                    f"of shared slot {number} of node {node_id} {part(left)} is left, less than "
                    f"{part(share)}"
                )
    for placement in placements:
        _count_one(room.used, placement)
    room.guests.add(project)


def count_placed(session: Session, cluster: str, runs: int = 1) -> None:
    """Tell others that `runs` were created on the cluster."""
    session.execute(
        update(ClusterRow)
        .where(ClusterRow.name == cluster)
        .values(placed=ClusterRow.placed + runs)
        .execution_options(synchronize_session=False)
    )
    rooms: dict[str, _Room] = session.info.get(_ROOMS, {})
    if (room := rooms.get(cluster)) is not None:
        room.placed += runs


def slots_used_by(placements: Iterable[RankPlacement]) -> SlotCount:
    """What one gang wants of each node."""
    wanted = SlotCount()
    for placement in placements:
        _count_one(wanted, placement)
    return wanted


def _count_one(count: SlotCount, placement: RankPlacement) -> None:
    if placement.shared_slot is None:
        count.take(placement.node_id, placement.slots)
    else:
        count.take_part(placement.node_id, placement.shared_slot, placement.share)


def _room(session: Session, cluster: str, known: Usage | None) -> _Room:
    found = session.execute(
        select(ClusterRow.phase, ClusterRow.generation, ClusterRow.placed)
        .where(ClusterRow.name == cluster)
        .with_for_update()
    ).one_or_none()
    nodes = session.execute(
        select(NodeRow.id, NodeRow.slots).where(
            NodeRow.cluster == cluster,
            NodeRow.phase == "alive",
            NodeRow.cordoned.is_(False),
            NodeRow.quarantined.is_(False),
        )
    )
    ending = session.scalar(select(PoolRow.ending).where(PoolRow.name == cluster))
    placed = found.placed if found is not None else 0
    tenancy = read_tenancy(session, cluster)
    return _Room(
        connected=found is not None and found.phase == "connected" and not ending,
        told=found is not None and found.generation >= generation(session),
        placed=placed,
        slots={row.id: row.slots for row in nodes},
        used=known.used.copy() if known and known.placed == placed else _count(session, cluster),
        tenancy=tenancy,
        guests=_guests(session, cluster) if tenancy.isolated else set(),
    )


def _guests(session: Session, cluster: str) -> set[str]:
    query = select(RunRow.project).where(RunRow.cluster == cluster, _holds()).distinct()
    return set(session.scalars(query))


def _count(session: Session, cluster: str) -> SlotCount:
    used = SlotCount()
    query = select(RunRow.placements).where(RunRow.cluster == cluster, _holds())
    for placements in session.scalars(query):
        used.add(placements)
    return used
