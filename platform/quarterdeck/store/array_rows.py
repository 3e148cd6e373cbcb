"""Arrays and their members in the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, and_, cast, func, or_, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.arrays import Members
from quarterdeck.lifecycle.job import JOB, NOT_NEEDED
from quarterdeck.store.columns import database_now
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.leases import claim_rows
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import JobRow

LEASE_S = 30.0


@dataclass(frozen=True)
class NewMember:
    """One member to insert."""

    name: str
    spec: dict[str, Any]
    digest: str
    ranks: int | None
    layout: dict[str, Any] | None
    smaller_layouts: list[Any] | None = None


def add_members(
    session: Session, array: JobRow, members: Sequence[NewMember], *, actor: str
) -> None:
    """Insert the members of a new array, held until it lets them go, with their events."""
    array.array_size = len(members)
    rows = [
        JobRow(
            id=new_id("job"), name=member.name, project=array.project, kind=array.kind,
            spec=member.spec, spec_digest=member.digest, queue=array.queue,
            priority=array.priority, ranks=member.ranks, layout=member.layout,
            smaller_layouts=member.smaller_layouts,
            ordinal=next_ordinal(), edges_bound=True, array_id=array.id, array_index=index,
            held=True, reason="Held", message=f"job/{array.name} has not let it go yet",
        )
        for index, member in enumerate(members)
    ]  # fmt: skip
    session.add_all(rows)
    session.flush()
    for row in rows:
        append_event(
            session,
            type="job.submitted",
            subject=f"job/{row.name}",
            subject_id=row.id,
            project=row.project,
            message=f"{row.kind} job {row.name} submitted, member of job/{array.name}",
            actor=actor,
            data={"kind": row.kind, "desired": row.desired, "array": array.id},
        )


def members_of(session: Session, array_id: str) -> Sequence[JobRow]:
    """The members by index."""
    return session.scalars(
        select(JobRow).where(JobRow.array_id == array_id).order_by(JobRow.array_index)
    ).all()


def wish_members(session: Session, array_id: str, desired: str) -> None:
    """Write an array's intent on its members that have not ended; a cancelled one stays so."""
    session.execute(
        update(JobRow)
        .where(
            JobRow.array_id == array_id,
            JobRow.phase.not_in(sorted(JOB.final)),
            JobRow.desired.not_in((desired, "cancel")),
        )
        .values(desired=desired, version=JobRow.version + 1, due_at=database_now())
        .execution_options(synchronize_session=False)
    )


def release_members(session: Session, array_id: str, limit: int | None = None) -> None:
    """Let held members go to admission, the first by index first."""
    chosen = (
        select(JobRow.id)
        .where(JobRow.array_id == array_id, JobRow.held)
        .where(JobRow.phase.not_in(sorted(JOB.final)))
        .order_by(JobRow.array_index)
        .limit(limit)
        .scalar_subquery()
    )
    session.execute(
        update(JobRow)
        .where(JobRow.id.in_(chosen))
        .values(held=False, due_at=database_now())
        .execution_options(synchronize_session=False)
    )


def claim_arrays(session: Session, lease_id: str, limit: int = 200) -> list[str]:
    """Lease the arrays that may move by what their members do."""
    moving = or_(
        JobRow.phase.in_(("queued", "running")),
        and_(JobRow.desired == "cancel", JobRow.phase.in_(("waiting", "suspended"))),
    )
    return claim_rows(
        session,
        JobRow,
        [JobRow.array_size.is_not(None), moving],
        lease_id=lease_id,
        seconds=LEASE_S,
        limit=limit,
    )


def count_members(session: Session, ids: Sequence[str]) -> Mapping[str, Members]:
    """What the members of each array are doing."""
    live = JobRow.phase.not_in(sorted(JOB.final))
    rows = session.execute(
        select(
            JobRow.array_id,
            JobRow.phase,
            func.count(),
            func.sum(cast(and_(JobRow.held, live), Integer)),
            func.sum(cast(JobRow.reason == NOT_NEEDED, Integer)),
        )
        .where(JobRow.array_id.in_(ids))
        .group_by(JobRow.array_id, JobRow.phase)
    ).all()
    found: dict[str, Members] = {}
    for array in ids:
        mine = [row for row in rows if row[0] == array]
        found[array] = Members(
            size=sum(row[2] for row in mine),
            phases={row[1]: row[2] for row in mine},
            held=sum(row[3] or 0 for row in mine),
            not_needed=sum(row[4] or 0 for row in mine),
        )
    return found


def note_members(session: Session, array: JobRow, message: str, *, lease_id: str) -> None:
    """Say what an array's members are doing; no event: theirs tell."""
    if array.message == message:
        return
    session.execute(
        update(JobRow)
        .where(JobRow.id == array.id, JobRow.lease_id == lease_id, JobRow.phase == array.phase)
        .values(message=message)
        .execution_options(synchronize_session=False)
    )
