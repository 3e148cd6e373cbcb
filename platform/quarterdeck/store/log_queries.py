"""A log as readers need it: the chunks and files that follow, or precede, a place in it.

A chunk is in the database or in a file, never in both, and moves once, oldest first. Readers ask
for both in one session, the chunks first: where a file covers the place, the file is the answer,
else the chunks are. So whatever moves between the two questions is seen once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, literal, select, tuple_
from sqlalchemy.orm import Session

from quarterdeck.specs.log_records import LogKey, LogPart, LogRecord
from quarterdeck.store.outbox import visible
from quarterdeck.store.paging import BadCursor
from quarterdeck.store.tables import LogChunkRow, LogFileRow, OwnerLogsRow

CHUNKS = 100
_LARGEST = 2**63 - 1
_KEY = tuple_(LogChunkRow.transaction_id, LogChunkRow.id)
_LAST = tuple_(LogFileRow.last_transaction, LogFileRow.last_id)
_FIRST = tuple_(LogFileRow.first_transaction, LogFileRow.first_id)


@dataclass(frozen=True)
class LogFilter:
    """Which lines are wanted; `since` is unix seconds, `ranks` None all of them."""

    owner_id: str
    ranks: frozenset[int] | None = None
    epoch: int | None = None
    stream: str | None = None
    since: float | None = None

    def wants(self, part: LogPart) -> bool:
        """Whether lines of that rank, stream and epoch are wanted."""
        return (
            (self.ranks is None or part.rank in self.ranks)
            and (self.epoch is None or part.epoch == self.epoch)
            and (self.stream is None or part.stream == self.stream)
        )


@dataclass(frozen=True)
class LogFile:
    """A stored stretch."""

    id: int
    path: str
    first: LogKey
    last: LogKey
    lines: int
    last_at: float
    parts: tuple[LogPart, ...]


@dataclass(frozen=True)
class Pruned:
    """What retention has deleted of a log."""

    lines: int
    until: float
    at: datetime


Stretch = LogFile | Sequence[LogRecord]


def following(session: Session, wanted: LogFilter, place: LogKey, *, inclusive: bool) -> Stretch:
    """What comes after the chunk at `place` (with `inclusive` that one too): a file that reaches
    beyond it, else chunks in order, at most `CHUNKS`."""
    key = _literal(place)
    query = _chunks(session, wanted).where(key <= _KEY if inclusive else key < _KEY)
    rows = session.scalars(query.order_by(*_order()).limit(CHUNKS)).all()
    file = session.scalars(
        _files(wanted)
        .where(key <= _LAST if inclusive else key < _LAST)
        .order_by(LogFileRow.last_transaction, LogFileRow.last_id)
        .limit(1)
    ).first()
    return _file(file) if file is not None else [_record(row) for row in rows]


def preceding(session: Session, wanted: LogFilter, place: LogKey | None) -> Stretch:
    """The chunks before `place` (None: the newest), oldest first; where there are none, the last
    file before it."""
    query = _chunks(session, wanted)
    if place is not None:
        query = query.where(_literal(place) > _KEY)
    newest_first = [each.desc() for each in _order()]
    rows = session.scalars(query.order_by(*newest_first).limit(CHUNKS)).all()
    if rows:
        return [_record(row) for row in reversed(rows)]
    files = _files(wanted)
    if place is not None:
        files = files.where(_literal(place) > _FIRST)
    order = (LogFileRow.last_transaction.desc(), LogFileRow.last_id.desc())
    file = session.scalars(files.order_by(*order).limit(1)).first()
    return _file(file) if file is not None else []


def is_stored(session: Session, file_id: int) -> bool:
    """Whether a file still is part of its log."""
    state = session.scalar(select(LogFileRow.state).where(LogFileRow.id == file_id))
    return state == "stored"


def pruned(session: Session, owner_id: str) -> Pruned | None:
    """What retention has deleted of this log; None for nothing."""
    row = session.get(OwnerLogsRow, owner_id)
    if row is None or row.pruned_at is None or row.pruned_until is None:
        return None
    return Pruned(row.pruned_lines, row.pruned_until, row.pruned_at)


def unseen(session: Session, owner_id: str) -> bool:
    """Whether chunks are there that readers may not see yet (PostgreSQL's commit order)."""
    if (bound := visible(session, LogChunkRow.transaction_id)) is None:
        return False
    query = select(LogChunkRow.id).where(LogChunkRow.owner_id == owner_id, ~bound).limit(1)
    return session.scalar(query) is not None


def transaction_of(session: Session, chunk_id: int) -> int | None:
    """The transaction of a chunk in the database."""
    return session.scalar(select(LogChunkRow.transaction_id).where(LogChunkRow.id == chunk_id))


def read_cursor(session: Session, cursor: str) -> tuple[LogKey, int]:
    """The chunk and the line in it of `TRANSACTION.CHUNK.LINE`; of earlier versions' `CHUNK.LINE`
    while the chunk is in the database. Raises BadCursor."""
    parts = cursor.split(".")
    if len(parts) not in (2, 3) or len(cursor) > 60:
        raise BadCursor
    if not all(part.isascii() and part.isdecimal() and int(part) <= _LARGEST for part in parts):
        raise BadCursor
    *transaction, chunk, line = map(int, parts)
    found = transaction[0] if transaction else transaction_of(session, chunk)
    if found is None:
        raise BadCursor
    return (found, chunk), line


def _chunks(session: Session, wanted: LogFilter) -> Select[LogChunkRow]:
    query = select(LogChunkRow).where(LogChunkRow.owner_id == wanted.owner_id)
    if wanted.ranks is not None:
        query = query.where(LogChunkRow.rank.in_(sorted(wanted.ranks)))
    if wanted.epoch is not None:
        query = query.where(LogChunkRow.epoch == wanted.epoch)
    if wanted.stream is not None:
        query = query.where(LogChunkRow.stream == wanted.stream)
    if wanted.since is not None:
        query = query.where(LogChunkRow.last_at >= wanted.since)
    if (bound := visible(session, LogChunkRow.transaction_id)) is not None:
        query = query.where(bound)
    return query


def _files(wanted: LogFilter) -> Select[LogFileRow]:
    query = select(LogFileRow).where(
        LogFileRow.owner_id == wanted.owner_id, LogFileRow.state == "stored"
    )
    return query if wanted.since is None else query.where(LogFileRow.last_at >= wanted.since)


def _order() -> tuple[Any, Any]:
    return (LogChunkRow.transaction_id, LogChunkRow.id)


def _literal(key: LogKey) -> Any:
    return tuple_(literal(key[0]), literal(key[1]))


def _record(row: LogChunkRow) -> LogRecord:
    key = (row.transaction_id, row.id)
    return LogRecord(key, row.epoch, row.rank, row.stream, row.seq, row.lines)


def _file(row: LogFileRow) -> LogFile:
    return LogFile(
        id=row.id,
        path=row.path,
        first=(row.first_transaction, row.first_id),
        last=(row.last_transaction, row.last_id),
        lines=row.lines,
        last_at=row.last_at,
        parts=tuple(LogPart(*part) for part in row.parts),
    )
