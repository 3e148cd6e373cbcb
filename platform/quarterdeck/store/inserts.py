"""Inserts that meet rows which are there already, in either dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement


def insert_ignoring(session: Session, table: Any, keys: Sequence[str]) -> Insert:
    """An INSERT that skips rows whose `keys` exist already."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql_insert(table).on_conflict_do_nothing(index_elements=keys)
    return sqlite_insert(table).on_conflict_do_nothing(index_elements=keys)


def insert_or_update(
    session: Session,
    table: Any,
    values: dict[str, Any],
    keys: Sequence[str],
    changes: Any,
    only: ColumnElement[bool] | None = None,
) -> Insert:
    """An INSERT of `values` that writes `changes` to the row with the same `keys` instead; with
    `only`, where that holds of the row."""
    if session.get_bind().dialect.name == "postgresql":
        statement = postgresql_insert(table).values(values)
        return statement.on_conflict_do_update(index_elements=keys, set_=changes, where=only)
    other = sqlite_insert(table).values(values)
    return other.on_conflict_do_update(index_elements=keys, set_=changes, where=only)
