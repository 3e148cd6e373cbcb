"""`quarterdeck db`: migrations and copies."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.settings import Settings
from quarterdeck.store import migrate

_SQLITE = "sqlite:///"


def upgrade_database(settings: Settings) -> str:
    """Migrate to this version; answers what was done. Raises ProcessFailed for a newer schema."""
    try:
        backup = migrate.upgrade(settings.database_url)
    except migrate.NewerSchema as error:
        raise ProcessFailed(str(error)) from error
    kept = f", the old one is kept in {backup}" if backup else ""
    return f"the database is at revision {migrate.head_revision()}{kept}"


def backup_database(settings: Settings, target: Path) -> str:
    """Copy a SQLite database while it is in use; the copy has mode 0600.

    Raises ProcessFailed for another database, a missing source, or an existing target.
    """
    if not settings.database_url.startswith(_SQLITE):
        raise ProcessFailed("only SQLite is copied here: use pg_dump for PostgreSQL")
    source = Path(settings.database_url.removeprefix(_SQLITE))
    if not source.is_file():
        raise ProcessFailed(f"{source} does not exist: nothing to copy")
    try:
        target.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise ProcessFailed(f"{target} cannot be created: {error.strerror}") from error
    with (
        closing(sqlite3.connect(source)) as original,
        closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)
    return f"{target}: {target.stat().st_size:,} bytes"
