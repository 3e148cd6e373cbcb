"""Whether the database has the schema that this code needs."""

from __future__ import annotations

from alembic.runtime.migration import MigrationContext

from quarterdeck.store.migrate import head_revision, schema_of
from quarterdeck.store.sessions import Database


class Unready(RuntimeError):
    """The schema is older than this code."""


def check_ready(database: Database) -> None:
    """Raise Unready unless the database has this version's schema or a newer one: an upgrade
    migrates while the version before it serves on. Raises also whatever the driver does when it
    does not answer (failures.UNAVAILABLE)."""
    with database.read() as session:
        found = MigrationContext.configure(session.connection()).get_current_revision()
    if schema_of(found) == "older":
        raise Unready(
            f"the database has schema {found or 'none'}, this version needs {head_revision()}: "
            "run quarterdeck db upgrade"
        )
