"""Log files on their way out: stored → deleting → gone, with the numbers of what went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.logs import Shelved
from quarterdeck.store.columns import database_now
from quarterdeck.store.job_queries import ENDED
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import JobRow, LogFileRow, OwnerLogsRow, ServiceRow
from quarterdeck.store.transitions import ACTOR

EMPTY_AFTER_S = 3600.0
"""An ended owner's folder goes with its last file when no line came for so long."""


@dataclass(frozen=True)
class Leaving:
    """A file to delete."""

    id: int
    owner_id: str
    path: str


def shelved(session: Session) -> list[Shelved]:
    """What files hold of every log."""
    query = (
        select(
            OwnerLogsRow.id, OwnerLogsRow.project, OwnerLogsRow.written_at,
            OwnerLogsRow.stored_bytes, _ended(),
        )
        .outerjoin(JobRow, JobRow.id == OwnerLogsRow.id)
        .outerjoin(ServiceRow, ServiceRow.id == OwnerLogsRow.id)
        .where(OwnerLogsRow.stored_bytes > 0)
    )  # fmt: skip
    return [
        Shelved(id_, project, written_at, size, bool(ended))
        for id_, project, written_at, size, ended in session.execute(query)
    ]


def _ended() -> ColumnElement[bool]:
    return or_(
        JobRow.phase.in_(sorted(ENDED)),
        ServiceRow.phase == "stopped",
        and_(JobRow.id.is_(None), ServiceRow.id.is_(None)),
    )


def owners_with_older(session: Session, seconds: float, limit: int = 100) -> list[str]:
    """Owners with files that were made more than `seconds` ago."""
    query = (
        select(LogFileRow.owner_id)
        .where(LogFileRow.state == "stored", LogFileRow.created_at < database_now(-seconds))
        .distinct()
        .limit(limit)
    )
    return list(session.scalars(query))


def mark_files(
    session: Session, owner_id: str, why: str, *, older_than: float | None = None,
    beyond_bytes: int | None = None,
) -> int:  # fmt: skip
    """Take files out of an owner's log: those older than so many seconds, its oldest beyond so
    many bytes, or all. Their lines cannot be read from now on; answers how many files go.

    The event says how many lines went and `why`.
    """
    logs = session.scalars(
        select(OwnerLogsRow).where(OwnerLogsRow.id == owner_id).with_for_update()
    ).one_or_none()
    if logs is None:
        return 0
    now = session.execute(select(database_now())).scalar_one()
    stored = [LogFileRow.owner_id == owner_id, LogFileRow.state == "stored"]
    if older_than is not None:
        stored.append(LogFileRow.created_at < database_now(-older_than))
    order = (LogFileRow.last_transaction, LogFileRow.last_id)
    files = session.scalars(select(LogFileRow).where(*stored).order_by(*order)).all()
    if beyond_bytes is not None:
        files = _oldest_beyond(files, logs.stored_bytes - beyond_bytes)
    if not files:
        return 0
    for file in files:
        file.state = "deleting"
    lines = sum(file.lines for file in files)
    logs.stored_lines -= lines
    logs.stored_bytes -= sum(file.bytes for file in files)
    logs.pruned_lines += lines
    logs.pruned_until = max([logs.pruned_until or 0.0, *(file.last_at for file in files)])
    logs.pruned_at = now
    append_event(
        session,
        type="logs.deleted",
        subject=f"{logs.owner_type}/{logs.owner_name}",
        subject_id=owner_id,
        project=logs.project,
        message=f"{lines:,} log lines deleted by retention: {why}",
        actor=ACTOR,
        data={"lines": lines, "files": len(files), "until": logs.pruned_until},
    )
    return len(files)


def _oldest_beyond(files: Sequence[LogFileRow], excess: int) -> list[LogFileRow]:
    chosen: list[LogFileRow] = []
    for file in files:
        if excess <= 0:
            break
        chosen.append(file)
        excess -= file.bytes
    return chosen


def leaving(session: Session, limit: int = 200) -> list[Leaving]:
    """Files that are still to be deleted, after a crash too."""
    query = select(LogFileRow).where(LogFileRow.state == "deleting")
    rows = session.scalars(query.order_by(LogFileRow.id).limit(limit))
    return [Leaving(row.id, row.owner_id, row.path) for row in rows]


def forget_file(session: Session, file: Leaving) -> bool:
    """The file is gone; whether its owner's folder has served too: the owner has ended, and
    nothing of its log is left or on its way."""
    session.execute(
        delete(LogFileRow).where(LogFileRow.id == file.id, LogFileRow.state == "deleting")
    )
    left = session.scalar(
        select(func.count()).select_from(LogFileRow).where(LogFileRow.owner_id == file.owner_id)
    )
    if left:
        return False
    query = (
        select(OwnerLogsRow.id)
        .outerjoin(JobRow, JobRow.id == OwnerLogsRow.id)
        .outerjoin(ServiceRow, ServiceRow.id == OwnerLogsRow.id)
        .where(
            OwnerLogsRow.id == file.owner_id,
            OwnerLogsRow.hot_chunks == 0,
            OwnerLogsRow.written_at < database_now(-EMPTY_AFTER_S),
            _ended(),
        )
    )
    return session.scalar(query) is not None
