"""Alembic's entry: migrate.py hands over an open connection inside one transaction."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from quarterdeck.store.columns import UtcDateTime
from quarterdeck.store.tables import Base


def _render(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """Migrations are history: they name plain types, never ours, which may change."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def run() -> None:
    connection = context.config.attributes["connection"]
    if not isinstance(connection, Connection):
        raise TypeError("migrations run through quarterdeck.store.migrate, not the alembic command")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite alters a table by copying it.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        transactional_ddl=True,
        render_item=_render,
    )
    context.run_migrations()


run()
