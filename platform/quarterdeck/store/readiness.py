"""Whether the database has the schema that this code needs."""

from __future__ import annotations

from alembic.runtime.migration import MigrationContext

from quarterdeck.store.migrate import head_revision
from quarterdeck.store.sessions import Database


class Unready(RuntimeError):
    """The schema is another one."""


def check_ready(database: Database) -> None:
    """Raise Unready unless the database has this version's schema; whatever the driver raises
    when it does not answer (failures.UNAVAILABLE)."""
    wanted = head_revision()
    with database.read() as session:
        found = MigrationContext.configure(session.connection()).get_current_revision()
    if found != wanted:
        raise Unready(
            f"the database has schema {found or 'none'}, this version needs {wanted}: "
            "run quarterdeck db upgrade"
        )
