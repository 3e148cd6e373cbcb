"""Bringing a database's schema to this version, safely.

One Alembic tree serves both dialects. SQLite files are copied before they are changed; on
PostgreSQL an advisory lock lets only one of several starting processes migrate. A schema that is
newer than this code is refused, never touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from quarterdeck.store.database import make_engine
from quarterdeck.store.tables import Base

ADVISORY_LOCK = 0x51554152
KEPT_BACKUPS = 5
Schema = Literal["older", "current", "newer"]
RESTORING = "quarterdeck_restoring"
"""A table that exists while a backup is being restored: see backups.py."""


class NewerSchema(RuntimeError):
    """The database was migrated by a newer version of this platform."""

    def __init__(self, revision: str, head: str) -> None:
        super().__init__(
            f"the database has schema revision {revision!r}, which this version does not know "
            f"(it ends at {head!r}): install the newer version, or restore the backup that it "
            "made beside the database"
        )


@cache
def head_revision() -> str:
    """The newest revision that this code knows. Read once: a running process keeps its code when
    its files are replaced."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the migrations are missing from this installation: reinstall it")
    return head


@cache
def known_revisions() -> frozenset[str]:
    """Every revision that this code can upgrade from; read once, as the head is."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return frozenset(script.revision for script in scripts)


def schema_of(revision: str | None) -> Schema:
    """How a database's revision compares with this code. A newer schema serves this code on,
    because migrations only expand until nobody runs the version before them."""
    if revision == head_revision():
        return "current"
    return "older" if revision is None or revision in known_revisions() else "newer"


def current_revision(url: str) -> str | None:
    """The database's revision; None for an empty one."""
    with _connected(url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


class RestoreUnfinished(RuntimeError):
    """A restore was cut off: what is there is no whole database."""


def upgrade(
    url: str, revision: str = "head", *, back_up_first: bool = True, restoring: bool = False
) -> Path | None:
    """Migrate the database at `url`, all or nothing; the backup's path if one was made.

    Raises NewerSchema, with nothing changed, when the database is ahead of this code, and
    RestoreUnfinished, unless `restoring` says that the caller finishes it.
    """
    with _connected(url) as connection:
        if not restoring and inspect(connection).has_table(RESTORING):
            raise RestoreUnfinished(
                "a restore of a backup was cut off: run `quarterdeck db restore FILE` again"
            )
        current = MigrationContext.configure(connection).get_current_revision()
        _refuse_newer(current)
        if current == head_revision():
            return None
        backup = _back_up(connection, current) if back_up_first else None
        command.upgrade(_config(connection), revision)
        _check_foreign_keys(connection)
        connection.commit()
        return backup


def downgrade(url: str, revision: str = "base") -> Path | None:
    """Undo migrations down to `revision`; the backup's path if one was made."""
    with _connected(url) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        _refuse_newer(current)
        backup = _back_up(connection, current)
        command.downgrade(_config(connection), revision)
        _check_foreign_keys(connection)
        connection.commit()
        return backup


def differences(url: str) -> list[Any]:
    """How the database differs from the tables in code: empty after `upgrade`."""
    with _connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))


def write_revision(url: str, message: str, revision: str) -> None:
    """For developers: write the migration from the database at `url` to the tables in code."""
    with _connected(url) as connection:
        command.revision(_config(connection), message=message, autogenerate=True, rev_id=revision)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> Path:
    packaged = Path(__file__).with_name("migrations")
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    """A connection in one transaction, alone with the schema."""
    engine = make_engine(url, pool_size=1)
    if engine.dialect.name == "sqlite":
        # Altering a table copies and drops it, and a drop would cascade into its children.
        event.listen(engine, "connect", _foreign_keys_off)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                # Waits for another process that migrates; ends with the transaction.
                connection.execute(text("SET LOCAL statement_timeout = '10min'"))
                connection.execute(text("SET LOCAL lock_timeout = '10min'"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
            yield connection
    finally:
        engine.dispose()


def _foreign_keys_off(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=OFF")
    cursor.close()


def _check_foreign_keys(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    if broken := connection.execute(text("PRAGMA foreign_key_check")).fetchall():
        raise RuntimeError(f"the migration broke foreign keys, nothing was changed: {broken[:5]}")


def _refuse_newer(current: str | None) -> None:
    if current is not None and current not in known_revisions():
        raise NewerSchema(current, head_revision())


def _back_up(connection: Connection, current: str | None) -> Path | None:
    """Copy a SQLite database that has something to lose. PostgreSQL's owner has backups."""
    database = connection.engine.url.database
    if connection.dialect.name != "sqlite" or current is None or not database:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    path = Path(database)
    target = path.with_name(f"{path.name}.{current}.{stamp}.backup")
    with (
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
    target.chmod(0o600)
    old = sorted(path.parent.glob(f"{path.name}.*.backup"), key=lambda p: p.stat().st_mtime)
    for stale in old[:-KEPT_BACKUPS]:
        stale.unlink()
    return target
