"""A database's standby takes over: who writes finds it, and what was committed is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from quarterdeck.store import backups, migrate
from quarterdeck.store.access_queries import add_project, project_names
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.sessions import Database
from tests.postgres_pair import Pair, pair


@pytest.fixture
def servers() -> Iterator[Pair]:
    with pair() as started:
        yield started


def test_a_standby_takes_over(servers: Pair) -> None:
    database, blind = Database.open(servers.url), Database.open(servers.standby_url)
    try:
        with database.write() as session:
            session.execute(text("CREATE TABLE kept (number int)"))
            session.execute(text("INSERT INTO kept VALUES (1)"))
        # Whoever is connected to a server that is none any more, as behind a name that moved.
        before = connection_of(blind)
        with pytest.raises(UNAVAILABLE), blind.write() as session:
            session.execute(text("INSERT INTO kept VALUES (2)"))
        assert connection_of(blind) != before, "it is asked again whom the name means"

        servers.lose_primary()
        with pytest.raises(UNAVAILABLE), database.write() as session:
            session.execute(text("INSERT INTO kept VALUES (3)"))
        servers.promote()
        for one in (database, blind):
            with one.write() as session:
                session.execute(text("INSERT INTO kept VALUES (4)"))
        with database.read() as session:
            found = session.execute(text("SELECT number FROM kept ORDER BY number"))
            assert found.scalars().all() == [1, 4, 4]
    finally:
        database.close()
        blind.close()


@pytest.mark.usefixtures("postgres_tools")
def test_a_backup_is_of_whichever_takes_writes(servers: Pair, tmp_path: Path) -> None:
    migrate.upgrade(servers.url)
    add("yesterday", servers)
    backups.back_up(servers.url, tmp_path / "backup")
    add("today", servers)
    servers.lose_primary()
    servers.promote()
    backups.restore(servers.url, tmp_path / "backup")
    database = Database.open(servers.url)
    with database.read() as session:
        assert project_names(session) == ["yesterday"]
    database.close()


def add(project: str, servers: Pair) -> None:
    database = Database.open(servers.url)
    with database.write() as session:
        add_project(session, project, actor="test")
    database.close()


def connection_of(database: Database) -> int:
    with database.read() as session:
        return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())
