"""Leases on rows: which controller works on what, by columns, the same on both databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Table, bindparam, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ClauseElement, ColumnElement

from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.tables_logs import OwnerLogsRow
from quarterdeck.store.tables_work import JobRow, RunRow, ServiceRow

Row = TypeVar("Row", JobRow, RunRow, ServiceRow)
Leased = TypeVar("Leased", JobRow, RunRow, ServiceRow, OwnerLogsRow)


def claim_rows(
    session: Session,
    table: type[Leased],
    where: Sequence[ColumnElement[bool]],
    *,
    lease_id: str,
    seconds: float,
    limit: int,
) -> list[str]:
    """Lease up to `limit` due rows for `seconds`; the ids that are now ours."""
    free = or_(table.lease_until.is_(None), table.lease_until < database_now())
    due = (
        select(table.id)
        .where(*where, free, table.due_at <= database_now())
        .order_by(table.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return list(
        session.scalars(
            update(table)
            .where(table.id.in_(due))
            .values(lease_id=lease_id, lease_until=database_now(seconds))
            .returning(table.id)
            .execution_options(synchronize_session=False)
        )
    )


def release_rows(
    session: Session, table: type[Leased], ids: Sequence[str], lease_id: str, *, due_in: float = 0.0
) -> None:
    """Give leases back; the rows are due again in `due_in` seconds. Rows leased by somebody else
    meanwhile are left alone."""
    if ids:
        session.execute(
            update(table)
            .where(table.id.in_(ids), table.lease_id == lease_id)
            .values(lease_id=None, lease_until=None, due_at=database_now(due_in))
            .execution_options(synchronize_session=False)
        )


def swap(
    session: Session,
    row: Row,
    values: dict[str, Any],
    *,
    lease_id: str | None = None,
    extra: Sequence[ColumnElement[bool]] = (),
) -> None:
    """Compare and swap: write `values` where the row still has the version and phase that `row`
    was read with (and our lease). Raises StaleRow otherwise.

    The version rises, except a service's: that is the ETag of what its user wrote.
    """
    table = type(row)
    guards = [table.id == row.id, table.version == row.version, table.phase == row.phase, *extra]
    if lease_id is not None:
        guards.append(table.lease_id == lease_id)
    if not isinstance(row, ServiceRow):
        values = {**values, "version": row.version + 1}
    result = session.execute(
        update(table).where(*guards).values(**values).execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise StaleRow(f"{table.__tablename__} {row.id} changed since version {row.version}")
    session.refresh(row)


def swap_all(
    session: Session, changes: Sequence[tuple[JobRow, Mapping[str, Any]]], *, lease_id: str
) -> None:
    """`swap` of several jobs of ours, one statement for those with the same columns. Raises
    StaleRow when any of them changed: the caller's savepoint must then be rolled back. The rows in
    memory stay as they were read."""
    groups: dict[tuple[str, ...], list[tuple[JobRow, Mapping[str, Any]]]] = {}
    for row, values in changes:
        groups.setdefault(tuple(sorted(values)), []).append((row, values))
    table = JobRow.__table__
    assert isinstance(table, Table)
    for columns, group in groups.items():
        # What the database computes stands in the statement, the rest are its parameters.
        first = group[0][1]
        computed = {name for name in columns if isinstance(first[name], ClauseElement)}
        written = {name: first[name] if name in computed else bindparam(name) for name in columns}
        statement = (
            update(table)
            .where(
                table.c.id == bindparam("of_id"),
                table.c.version == bindparam("of_version"),
                table.c.phase == bindparam("of_phase"),
                table.c.lease_id == lease_id,
            )
            .values(**written, version=table.c.version + 1)
        )
        rows = [
            {"of_id": row.id, "of_version": row.version, "of_phase": row.phase}
            | {name: values[name] for name in columns if name not in computed}
            for row, values in group
        ]
        result = session.connection().execute(statement, rows)
        if result.rowcount != len(rows):
            raise StaleRow(f"{len(rows) - result.rowcount} of {len(rows)} jobs changed meanwhile")
