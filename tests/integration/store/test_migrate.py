"""The one migration tree on both databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from quarterdeck.store.migrate import (
    NewerSchema,
    current_revision,
    differences,
    downgrade,
    head_revision,
    upgrade,
)
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import ProjectRow


def test_upgrade_makes_exactly_the_tables_in_code_and_downgrade_removes_them(
    database_url: str,
) -> None:
    assert current_revision(database_url) is None
    upgrade(database_url)
    assert current_revision(database_url) == head_revision()
    assert differences(database_url) == []
    assert upgrade(database_url) is None
    downgrade(database_url)
    database = Database.open(database_url)
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version", "sqlite_sequence"}
    database.close()
    upgrade(database_url)
    assert differences(database_url) == []


def test_a_missing_column_shows_as_a_difference(database_url: str) -> None:
    upgrade(database_url)
    database = Database.open(database_url)
    with database.write() as session:
        session.execute(text("ALTER TABLE runs DROP COLUMN sighted_detail"))
    database.close()
    assert "sighted_detail" in str(differences(database_url))


def test_a_newer_schema_is_refused_and_left_alone(database_url: str) -> None:
    upgrade(database_url)
    database = Database.open(database_url)
    with database.write() as session:
        session.add(ProjectRow(name="kept"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for change in (upgrade, downgrade):
        with pytest.raises(NewerSchema, match="9999"):
            change(database_url)
    with database.read() as session:
        assert session.get(ProjectRow, "kept") is not None
    database.close()


def test_sqlite_is_backed_up_before_it_changes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/quarterdeck.db"
    assert upgrade(url) is None, "an empty database needs no backup"
    database = Database.open(url)
    with database.write() as session:
        session.add(ProjectRow(name="precious"))
    backup = downgrade(url)
    database.close()
    assert backup is not None and backup.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT name FROM projects").fetchall() == [("precious",)]
