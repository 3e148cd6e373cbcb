"""Moving a log's oldest chunks into files: claimed by lease, swapped in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from sqlalchemy import case, delete, func, null, or_, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.logs import DEFAULT, LogPolicy, stretch
from quarterdeck.specs.log_records import LogPart, LogRecord
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.inserts import insert_or_update
from quarterdeck.store.leases import claim_rows
from quarterdeck.store.outbox import visible
from quarterdeck.store.tables import LogChunkRow, LogFileRow, OwnerLogsRow, RunRow


def note_written(session: Session, run: RunRow, chunks: int, size: int) -> None:
    """Chunks came in: they are looked at when they may fill a file, or have gone cold."""
    logs = OwnerLogsRow
    full = or_(
        logs.hot_chunks + chunks >= DEFAULT.hot_chunks + DEFAULT.file_chunks,
        logs.hot_size + size >= DEFAULT.hot_size + DEFAULT.file_size,
    )
    cold = database_now(DEFAULT.idle_seconds)
    values = {
        "id": run.owner_id,
        "owner_type": run.owner_type,
        "owner_name": run.owner_name,
        "project": run.project,
        "hot_chunks": chunks,
        "hot_size": size,
        "stored_lines": 0,
        "stored_bytes": 0,
        "pruned_lines": 0,
        "written_at": database_now(),
        "due_at": cold,
    }
    changes = {
        "hot_chunks": logs.hot_chunks + chunks,
        "hot_size": logs.hot_size + size,
        "written_at": database_now(),
        "due_at": case((full, database_now()), else_=func.coalesce(logs.due_at, cold)),
    }
    session.execute(insert_or_update(session, logs, values, ["id"], changes))


def claim_logs(session: Session, lease_id: str, *, seconds: float, limit: int) -> list[str]:
    """Lease owners whose logs are due; their ids."""
    where = [OwnerLogsRow.hot_chunks > 0]
    return claim_rows(session, OwnerLogsRow, where, lease_id=lease_id, seconds=seconds, limit=limit)


def next_stretch(session: Session, owner_id: str, policy: LogPolicy) -> list[LogRecord]:
    """The oldest chunks that are to make the next file; none when it is not time yet.

    Only chunks that no other can come before any more are looked at.
    """
    mine = [LogChunkRow.owner_id == owner_id]
    if (bound := visible(session, LogChunkRow.transaction_id)) is not None:
        mine.append(bound)
    chunks, size = session.execute(
        select(func.count(), func.coalesce(func.sum(LogChunkRow.size), 0)).where(*mine)
    ).one()
    idle = session.scalar(
        select(OwnerLogsRow.id).where(
            OwnerLogsRow.id == owner_id,
            OwnerLogsRow.written_at <= database_now(-policy.idle_seconds),
        )
    )
    oldest = session.execute(
        select(LogChunkRow.id, LogChunkRow.size)
        .where(*mine)
        .order_by(LogChunkRow.transaction_id, LogChunkRow.id)
        .limit(policy.file_chunks)
    ).all()
    sizes = [row.size for row in oldest]
    count = stretch(policy, sizes, chunks, int(size), idle=idle is not None)
    rows = session.scalars(
        select(LogChunkRow)
        .where(LogChunkRow.id.in_([row.id for row in oldest[:count]]))
        .order_by(LogChunkRow.transaction_id, LogChunkRow.id)
    )
    return [
        LogRecord((row.transaction_id, row.id), row.epoch, row.rank, row.stream, row.seq, row.lines)
        for row in rows
    ]


def move_to_file(
    session: Session,
    owner_id: str,
    lease_id: str,
    records: Sequence[LogRecord],
    *,
    path: str,
    size: int,
    parts: Sequence[LogPart],
) -> None:
    """The file at `path` (`size` bytes, whole and durable) takes the records' place.

    Raises StaleRow when the lease is lost or a chunk is not there any more: then nothing changed.
    """
    held = session.scalars(
        select(OwnerLogsRow)
        .where(OwnerLogsRow.id == owner_id, OwnerLogsRow.lease_id == lease_id)
        .with_for_update()
    ).one_or_none()
    if held is None:
        raise StaleRow(f"the lease on the log of {owner_id} is lost")
    ids = [record.key[1] for record in records]
    gone = session.scalars(
        delete(LogChunkRow)
        .where(LogChunkRow.owner_id == owner_id, LogChunkRow.id.in_(ids))
        .returning(LogChunkRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    if len(gone) != len(ids):
        raise StaleRow(f"{len(ids) - len(gone)} chunks of {owner_id} have moved already")
    times = [float(line[0]) for record in records for line in record.lines]
    (first_transaction, first_id), (last_transaction, last_id) = records[0].key, records[-1].key
    session.add(
        LogFileRow(
            owner_id=owner_id,
            path=path,
            first_transaction=first_transaction,
            first_id=first_id,
            last_transaction=last_transaction,
            last_id=last_id,
            first_at=min(times),
            last_at=max(times),
            lines=len(times),
            bytes=size,
            parts=[list(astuple(part)) for part in parts],
        )
    )
    left = session.execute(
        select(func.count(), func.coalesce(func.sum(LogChunkRow.size), 0)).where(
            LogChunkRow.owner_id == owner_id
        )
    ).one()
    held.hot_chunks, held.hot_size = left[0], int(left[1])
    held.stored_lines += len(times)
    held.stored_bytes += size


def release_logs(session: Session, owner_id: str, lease_id: str, *, due_in: float | None) -> None:
    """Give the lease back; with None the log is due when it fills a file or goes cold."""
    logs = OwnerLogsRow
    full = or_(
        logs.hot_chunks >= DEFAULT.hot_chunks + DEFAULT.file_chunks,
        logs.hot_size >= DEFAULT.hot_size + DEFAULT.file_size,
    )
    calm = case(
        (logs.hot_chunks == 0, null()),
        (full, database_now()),
        else_=database_now(DEFAULT.idle_seconds),
    )
    session.execute(
        update(logs)
        .where(logs.id == owner_id, logs.lease_id == lease_id)
        .values(
            lease_id=None,
            lease_until=None,
            due_at=calm if due_in is None else database_now(due_in),
        )
        .execution_options(synchronize_session=False)
    )
