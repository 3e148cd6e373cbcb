"""Checkpoints on their way out: registered → deleting → deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.retention import Saved
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import CheckpointRow, JobRow, RunRow
from quarterdeck.store.transitions import ACTOR


@dataclass(frozen=True)
class Shelf:
    """A job's registered checkpoints and its policy."""

    job_id: str
    keep_last: int
    keep_every: int | None
    saved: Sequence[Saved]
    in_use: frozenset[str]


def shelves(session: Session) -> list[Shelf]:
    """Jobs that have more than one registered checkpoint."""
    many = (
        select(CheckpointRow.job_id)
        .where(CheckpointRow.state == "registered")
        .group_by(CheckpointRow.job_id)
        .having(func.count() > 1)
    )
    found: list[Shelf] = []
    for job in session.scalars(select(JobRow).where(JobRow.id.in_(many))):
        policy = job.spec.get("checkpoints") or {}
        rows = session.scalars(
            select(CheckpointRow).where(
                CheckpointRow.job_id == job.id, CheckpointRow.state == "registered"
            )
        )
        used = session.scalars(
            select(RunRow.resume_checkpoint).where(
                RunRow.owner_id == job.id, RunRow.phase.not_in(sorted(ENDED))
            )
        )
        found.append(
            Shelf(
                job_id=job.id,
                keep_last=int(policy.get("keep_last") or 3),
                keep_every=policy.get("keep_every"),
                saved=[Saved(row.id, row.epoch, row.step) for row in rows],
                in_use=frozenset(item for item in used if item),
            )
        )
    return found


def mark_deleting(session: Session, ids: Sequence[str]) -> None:
    """Stop these from existing: nothing resumes from them any more."""
    session.execute(
        update(CheckpointRow)
        .where(CheckpointRow.id.in_(ids), CheckpointRow.state == "registered")
        .values(state="deleting")
        .execution_options(synchronize_session=False)
    )


def being_deleted(session: Session, limit: int = 100) -> Sequence[CheckpointRow]:
    """Checkpoints whose files are still to be deleted, after a crash too."""
    return session.scalars(
        select(CheckpointRow)
        .where(CheckpointRow.state == "deleting")
        .order_by(CheckpointRow.created_at)
        .limit(limit)
    ).all()


def mark_deleted(session: Session, row: CheckpointRow) -> None:
    """The files are gone."""
    changed = session.scalars(
        update(CheckpointRow)
        .where(CheckpointRow.id == row.id, CheckpointRow.state == "deleting")
        .values(state="deleted")
        .returning(CheckpointRow.id)
        .execution_options(synchronize_session=False)
    ).first()
    if changed is not None:
        append_event(
            session,
            type="checkpoint.deleted",
            subject=f"job/{row.job_name}",
            subject_id=row.job_id,
            project=row.project,
            message=f"checkpoint of step {row.step} deleted by retention",
            actor=ACTOR,
            data={"checkpoint_id": row.id, "step": row.step, "epoch": row.epoch},
        )


def forget_missing(session: Session, row: CheckpointRow) -> None:
    """A checkpoint of a restored backup whose files have been deleted since."""
    session.execute(
        update(CheckpointRow)
        .where(CheckpointRow.id == row.id, CheckpointRow.state == "registered")
        .values(state="deleted")
    )
    append_event(
        session,
        type="checkpoint.deleted",
        subject=f"job/{row.job_name}",
        subject_id=row.job_id,
        project=row.project,
        message=f"files of the checkpoint of step {row.step} are gone since the restored backup",
        actor="quarterdeck db restore",
        data={"checkpoint_id": row.id, "step": row.step},
    )
