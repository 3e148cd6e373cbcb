"""Machines whose death somebody vouches for, and the given-up runs that machines hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NodeAlive
from quarterdeck.store.outbox import append_event
from quarterdeck.store.slots import SlotCount, held_by
from quarterdeck.store.tables import NodeRow, RunRow
from quarterdeck.store.text import clean


@dataclass(frozen=True)
class QuarantinedRun:
    """Slots of one machine that a run holds which was given up and is not proven dead."""

    run_id: str
    owner: str
    epoch: int
    slots: float
    """A replica may hold but a part of one."""
    since: datetime | None


@dataclass(frozen=True)
class Part:
    """What one replica holds of a shared slot, in thousandths."""

    run_id: str
    owner: str
    share: int


@dataclass
class Held:
    """What runs hold of one machine: all slots, who shares one (by its number), and the given-up
    runs among the holders."""

    slots: int = 0
    shared: dict[int, list[Part]] = field(default_factory=dict)
    quarantined: list[QuarantinedRun] = field(default_factory=list)

    @property
    def parts_free(self) -> int:
        """Thousandths of the shared slots that nobody holds."""
        return sum(max(0, left_of(parts)) for parts in self.shared.values())


def left_of(parts: Iterable[Part]) -> int:
    """Thousandths of a shared slot beside these parts."""
    return WHOLE - sum(part.share for part in parts)


def held_by_node(session: Session) -> Mapping[str, Held]:
    """By node: runs that live, and those given up but not proven dead."""
    held: defaultdict[str, Held] = defaultdict(Held)
    count = SlotCount()
    query = (
        select(RunRow)
        .where(or_(RunRow.phase.not_in(sorted(ENDED)), RunRow.quarantined.is_(True)))
        .order_by(RunRow.created_at, RunRow.id)
    )
    for run in session.scalars(query):
        count.add(run.placements)
        owner = f"{run.owner_type}/{run.owner_name}"
        for placement in run.placements:
            if (number := placement.get("shared_slot")) is not None:
                parts = held[placement["node_id"]].shared.setdefault(number, [])
                parts.append(Part(run.id, owner, placement["share"]))
        if run.quarantined:
            for node, parts_held in held_by(run.placements).items():
                slots = parts_held / WHOLE
                given_up = QuarantinedRun(run.id, owner, run.epoch, slots, run.ended_at)
                held[node].quarantined.append(given_up)
    for node, slots_held in count.slots.items():
        held[node].slots = slots_held
    return held


def confirm_dead(session: Session, row: NodeRow, *, actor: str, reason: str, force: bool) -> None:
    """Take somebody's word that a machine is dead: it takes no work any more, and controllers
    hold the runs whose machines are all confirmed for proven dead.

    Raises NodeAlive while its agent reports it alive, unless `force`. Repeating changes nothing.
    """
    session.refresh(row, with_for_update=True)
    if row.confirmed_dead is not None:
        return
    now = session.execute(select(database_now())).scalar_one()
    if row.phase == "alive" and not force:
        raise NodeAlive(row.host, max(0.0, (now - row.last_seen_at).total_seconds()))
    reason = clean(reason, 500)
    before, row.phase = row.phase, "dead"
    row.confirmed_dead = {"by": actor, "reason": reason, "at": now.isoformat()}
    append_event(
        session,
        type="node.confirmed_dead",
        subject=f"node/{row.host}",
        subject_id=row.id,
        project="default",
        message=f"node {row.host} of {row.cluster} was {before} and is confirmed dead: {reason}",
        actor=actor,
        data={"cluster": row.cluster, "reason": reason, "before": before, "forced": force},
    )
