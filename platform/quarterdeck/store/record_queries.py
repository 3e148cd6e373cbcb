"""What was recorded: events, metrics, log lines and checkpoints, in pages and after a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased

from quarterdeck.store.errors import NotFound
from quarterdeck.store.outbox import after_cursor, last_visible
from quarterdeck.store.paging import BadCursor, fetch_page
from quarterdeck.store.tables import CheckpointRow, EventRow, LogChunkRow, StepMetricsRow

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Line:
    """One line of a rank's output with its place in the record."""

    cursor: str
    rank: int
    epoch: int
    at: float
    text: str


@dataclass(frozen=True)
class LogFilter:
    """Which lines are wanted; `since` is unix seconds."""

    owner_id: str
    rank: int | None = None
    epoch: int | None = None
    stream: str | None = None
    since: float | None = None


def head(session: Session) -> tuple[int, int]:
    """The newest event and log chunk that readers may see: it changes when there is news."""
    return (
        last_visible(session, EventRow.transaction_id, EventRow.id),
        last_visible(session, LogChunkRow.transaction_id, LogChunkRow.id),
    )


def lines_after(
    session: Session, wanted: LogFilter, cursor: str | None, *, limit: int
) -> list[Line]:
    """At most `limit` lines after `cursor` (a line's; None: from the first). Raises BadCursor."""
    chunk, skipped = _place(cursor)
    found: list[Line] = []
    if chunk:
        rest = _chosen(wanted).where(LogChunkRow.id == chunk)
        found += _lines(session.scalars(rest).all(), wanted, chunk, skipped)
    while len(found) < limit:
        query = _chosen(wanted).order_by(LogChunkRow.transaction_id, LogChunkRow.id).limit(100)
        query = after_cursor(session, query, chunk, LogChunkRow.transaction_id, LogChunkRow.id)
        chunks = session.scalars(query).all()
        if not chunks:
            break
        found += _lines(chunks, wanted)
        chunk = chunks[-1].id
    return found[:limit]


def last_lines(session: Session, wanted: LogFilter, count: int) -> list[Line]:
    """The newest `count` lines, oldest of them first."""
    found: list[Line] = []
    order = (LogChunkRow.transaction_id.desc(), LogChunkRow.id.desc())
    offset = 0
    while len(found) < count:
        chunks = session.scalars(_chosen(wanted).order_by(*order).offset(offset).limit(50)).all()
        if not chunks:
            break
        found = _lines(chunks[::-1], wanted) + found
        offset += len(chunks)
    return found[-count:] if count else []


def _chosen(wanted: LogFilter) -> Select[LogChunkRow]:
    query = select(LogChunkRow).where(LogChunkRow.owner_id == wanted.owner_id)
    if wanted.rank is not None:
        query = query.where(LogChunkRow.rank == wanted.rank)
    if wanted.epoch is not None:
        query = query.where(LogChunkRow.epoch == wanted.epoch)
    if wanted.stream is not None:
        query = query.where(LogChunkRow.stream == wanted.stream)
    if wanted.since is not None:
        query = query.where(LogChunkRow.last_at >= wanted.since)
    return query


def _lines(
    chunks: Sequence[LogChunkRow], wanted: LogFilter, after_chunk: int = 0, skipped: int = -1
) -> list[Line]:
    return [
        Line(f"{chunk.id}.{place}", chunk.rank, chunk.epoch, at, text)
        for chunk in chunks
        for place, (at, text) in enumerate(chunk.lines)
        if (chunk.id != after_chunk or place > skipped)
        and (wanted.since is None or at >= wanted.since)
    ]


def _place(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return 0, -1
    chunk, dot, line = cursor.partition(".")
    if not (dot and chunk.isdecimal() and line.isdecimal() and len(cursor) < 30):
        raise BadCursor
    if int(chunk) > _LARGEST:
        raise BadCursor
    return int(chunk), int(line)


def list_metrics(
    session: Session,
    job_id: str,
    *,
    after_step: int | None,
    cursor: str | None,
    limit: int,
) -> tuple[list[StepMetricsRow], str | None]:
    """Metrics by step; of a step that was done again only the latest epoch's."""
    other = aliased(StepMetricsRow)
    newest = (
        select(func.max(other.epoch))
        .where(other.job_id == job_id, other.step == StepMetricsRow.step)
        .scalar_subquery()
    )
    query = select(StepMetricsRow).where(
        StepMetricsRow.job_id == job_id, StepMetricsRow.epoch == newest
    )
    if after_step is not None:
        query = query.where(StepMetricsRow.step > after_step)
    keys = (StepMetricsRow.step,)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def list_checkpoints(
    session: Session,
    *,
    project: str | None,
    job_id: str | None = None,
    cursor: str | None,
    limit: int,
) -> tuple[list[CheckpointRow], str | None]:
    """Checkpoints that are not deleted, newest first."""
    query = select(CheckpointRow).where(CheckpointRow.state != "deleted")
    if project is not None:
        query = query.where(CheckpointRow.project == project)
    if job_id is not None:
        query = query.where(CheckpointRow.job_id == job_id)
    keys = (CheckpointRow.created_at, CheckpointRow.id)
    return fetch_page(session, query, keys, descending=True, cursor=cursor, limit=limit)


def get_checkpoint(session: Session, identity: str) -> CheckpointRow:
    """The checkpoint with this id. Raises NotFound."""
    found = session.get(CheckpointRow, identity)
    if found is None:
        raise NotFound("checkpoint", identity)
    return found


def newest_event(session: Session, subject_id: str) -> int:
    """The highest id of the subject's events, given out or not; 0 when there is none."""
    query = select(func.max(EventRow.id)).where(EventRow.subject_id == subject_id)
    return int(session.scalars(query).one() or 0)
