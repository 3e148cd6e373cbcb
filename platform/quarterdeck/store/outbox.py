"""Events: appended in the transaction that they tell of, read in commit order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Select,
    Text,
    cast,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.store.tables import EventRow
from quarterdeck.store.text import clean


def append_event(
    session: Session,
    *,
    type: str,
    subject: str,
    subject_id: str,
    project: str,
    message: str,
    actor: str = "",
    data: dict[str, Any] | None = None,
) -> EventRow:
    """Add one fact to the running transaction. `type` is dotted, e.g. `job.phase`."""
    row = EventRow(
        type=type,
        subject=subject,
        subject_id=subject_id,
        project=project,
        message=clean(message),
        actor=actor,
        data=data or {},
    )
    session.add(row)
    return row


@dataclass(frozen=True)
class Fact:
    """An event that is written together with others: the arguments of `append_event`."""

    type: str
    subject: str
    subject_id: str
    project: str
    message: str
    actor: str
    data: dict[str, Any]


def append_events(session: Session, facts: Sequence[Fact]) -> None:
    """`append_event` of several facts, in their order, without reading anything back."""
    if facts:
        # What was added before comes before.
        session.flush()
        values = [{**vars(fact), "message": clean(fact.message)} for fact in facts]
        session.execute(insert(EventRow), values)


def events_after(
    session: Session,
    cursor: int,
    *,
    limit: int = 500,
    project: str | None = None,
    subject_id: str | None = None,
) -> Sequence[EventRow]:
    """Events after the one with id `cursor` (0: from the first), in commit order.

    On PostgreSQL a lower id can commit later than a higher one, so a plain `id > cursor` loses
    events: they are read by (transaction, id), and only below the oldest transaction that still
    runs. Pass the last returned id as the next cursor.
    """
    query = select(EventRow).order_by(EventRow.transaction_id, EventRow.id).limit(limit)
    if project is not None:
        query = query.where(EventRow.project == project)
    if subject_id is not None:
        query = query.where(EventRow.subject_id == subject_id)
    return session.scalars(
        after_cursor(session, query, cursor, EventRow.transaction_id, EventRow.id)
    ).all()


def after_cursor(
    session: Session,
    query: Select[Any],
    cursor: int,
    transaction_id: Any,
    row_id: Any,
) -> Select[Any]:
    """Restrict `query` to rows that follow the row with id `cursor` in commit order."""
    if session.get_bind().dialect.name != "postgresql":
        return query.where(row_id > cursor)
    table = row_id.class_
    found = session.execute(
        select(table.transaction_id).where(table.id == cursor)
    ).scalar_one_or_none()
    return query.where(
        tuple_(transaction_id, row_id) > tuple_(literal(found or 0), literal(cursor)),
        transaction_id < _oldest_running(),
    )


def _oldest_running() -> ColumnElement[int]:
    return cast(cast(literal_column("pg_snapshot_xmin(pg_current_snapshot())"), Text()), BigInteger)


def visible(session: Session, transaction_id: Any) -> ColumnElement[bool] | None:
    """The condition under which nothing older can still be committed; None where that is always
    so (SQLite)."""
    if session.get_bind().dialect.name != "postgresql":
        return None
    return cast(transaction_id < _oldest_running(), Boolean)


def last_visible(session: Session, transaction_id: Any, row_id: Any) -> int:
    """The id of the newest row that `after_cursor` would give out, 0 when there is none."""
    query = select(row_id).order_by(transaction_id.desc(), row_id.desc()).limit(1)
    if session.get_bind().dialect.name == "postgresql":
        query = query.where(transaction_id < _oldest_running())
    return int(session.scalars(query).one_or_none() or 0)
