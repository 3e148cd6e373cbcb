"""Copies of the database, taken while it is in use, and put back.

SQLite is copied by its online backup, PostgreSQL by pg_dump and pg_restore. What is put back is of
yesterday while machines run on: `_settle` raises the generation, from which agents and controllers
know that the rows are not the whole truth (see orphans.py).
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, inspect, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from quarterdeck.store.columns import Base, current_transaction
from quarterdeck.store.database import make_engine
from quarterdeck.store.migrate import (
    RESTORING,
    NewerSchema,
    head_revision,
    known_revisions,
    upgrade,
)
from quarterdeck.store.outbox import append_event
from quarterdeck.store.sessions import Database, Session
from quarterdeck.store.settings import generation, raise_generation
from quarterdeck.store.tables import EventRow, LogChunkRow, LogFileRow

TOOL_SECONDS = 3600.0
ID_GAP = 1_000_000
"""Readers hold cursors of events that the backup does not have: new ones get higher ids."""


class BackupError(RuntimeError):
    """A copy could not be made or put back; the message says what is as it was."""


def back_up(url: str, target: Path) -> None:
    """Copy the database at `url` into the new file `target` (mode 0600): one consistent moment.

    Raises BackupError, with no file left.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        source = Path(parsed.database or "")
        if not source.is_file():
            raise BackupError(f"{source} does not exist: nothing to copy")
    try:
        target.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise BackupError(f"{target} cannot be created: {error.strerror}") from error
    try:
        if parsed.get_backend_name() == "sqlite":
            _copy(source, target)
        else:
            _run("pg_dump", ["--format=custom", f"--file={target}"], parsed)
    except (BackupError, sqlite3.Error, OSError) as error:
        target.unlink(missing_ok=True)
        raise BackupError(f"no backup was made: {error}") from error


def restore(url: str, source: Path) -> tuple[int, Path | None]:
    """Put `source` in the place of the database at `url`; the new generation, and the copy of what
    was there (None: nothing).

    The caller makes sure that no process uses the database. Raises BackupError and NewerSchema;
    then the database is as it was, or, on PostgreSQL, refuses to be used until a restore ends.
    """
    if not source.is_file():
        raise BackupError(f"{source} does not exist")
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _restore_sqlite(parsed, source)
    return _restore_postgresql(url, parsed, source)


def others_connected(url: str) -> list[str]:
    """Who else of the platform is connected to a PostgreSQL database: `pid 12 at 10.0.0.7`."""
    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT pid, coalesce(host(client_addr), 'this machine') FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name = 'quarterdeck' "
                    "AND pid <> pg_backend_pid() ORDER BY pid"
                )
            ).all()
    finally:
        engine.dispose()
    return [f"pid {pid} at {address}" for pid, address in rows]


# --- SQLite ------------------------------------------------------------------------------------


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(target)) as copy:
        original.backup(copy)


def _restore_sqlite(url: URL, source: Path) -> tuple[int, Path | None]:
    place = Path(url.database or "")
    _check_sqlite(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.restoring")
    for leftover in (fresh, *_side_files(fresh)):
        leftover.unlink(missing_ok=True)
    try:
        fresh.touch(mode=0o600)
        _copy(source, fresh)
        fresh_url = f"sqlite:///{fresh}"
        upgrade(fresh_url, back_up_first=False)
        raised = _settle(fresh_url, _generation_of(url.render_as_string(hide_password=False)))
        _fold(fresh)
        kept = None
        if place.is_file():
            kept = _keep(place)
        for leftover in _side_files(place):
            leftover.unlink(missing_ok=True)
        fresh.replace(place)  # from here on the restored one is the database
    except (sqlite3.Error, OSError) as error:
        raise BackupError(f"nothing was restored: {error}") from error
    finally:
        for leftover in (fresh, *_side_files(fresh)):
            leftover.unlink(missing_ok=True)
    return raised, kept


def _check_sqlite(source: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as found:
            verdict = found.execute("PRAGMA quick_check(1)").fetchone()[0]
            revision = found.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source} is no backup of Quarterdeck's SQLite: {error}") from error
    if verdict != "ok":
        raise BackupError(f"{source} is damaged: {verdict}")
    _check_revision(source, revision[0] if revision else None)


def _side_files(place: Path) -> list[Path]:
    return [place.with_name(place.name + end) for end in ("-wal", "-shm", "-journal")]


def _keep(place: Path) -> Path:
    """Copy what is about to be replaced; a damaged database as it lies there."""
    kept = place.with_name(f"{place.name}.before-restore.{_stamp()}")
    copied = {place: kept}
    try:
        _fold(place)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        copied |= {
            side: kept.with_name(kept.name + side.name.removeprefix(place.name))
            for side in _side_files(place)
            if side.is_file()
        }
    for original, copy in copied.items():
        shutil.copyfile(original, copy)
        copy.chmod(0o600)
    return kept


def _fold(place: Path) -> None:
    """Bring everything of the write-ahead log into the file itself."""
    with closing(sqlite3.connect(place)) as connection:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise BackupError(f"another process still uses {place}: stop it first")


# --- PostgreSQL --------------------------------------------------------------------------------


def _restore_postgresql(url: str, parsed: URL, source: Path) -> tuple[int, Path | None]:
    listed = _run("pg_restore", ["--data-only", "--table=alembic_version", "--file=-", str(source)])
    found = re.search(r"^COPY [^\n]*alembic_version[^\n]*\n([^\n\\]+)\n", listed, re.MULTILINE)
    _check_revision(source, found[1].strip() if found else None)
    before = _generation_of(url)
    kept: Path | None = None
    engine = make_engine(url, pool_size=1)
    try:
        if inspect(engine).get_table_names():
            kept = source.with_name(f"{source.name}.before-restore.{_stamp()}")
            back_up(url, kept)
        with engine.begin() as connection:
            # Until the end nobody may use what is half a database; see migrate.upgrade.
            connection.execute(text(f"CREATE TABLE IF NOT EXISTS {RESTORING} (generation integer)"))
            if not connection.scalar(text(f"SELECT count(*) FROM {RESTORING}")):
                connection.execute(text(f"INSERT INTO {RESTORING} VALUES (:g)"), {"g": before})
            # A restore that was cut off knew the generation; the database did not any more.
            before = int(connection.scalar(text(f"SELECT max(generation) FROM {RESTORING}")) or 0)
            names = {*Base.metadata.tables, "alembic_version"}
            names |= {name for name in inspect(connection).get_table_names() if name != RESTORING}
            for name in sorted(names):
                connection.execute(text(f'DROP TABLE IF EXISTS "{name}" CASCADE'))
        options = ["--single-transaction", "--no-owner", "--no-privileges", "--exit-on-error"]
        try:
            _run("pg_restore", [*options, f"--dbname={parsed.database}", str(source)], parsed)
        except BackupError as error:
            hint = f"; what was there is in {kept}" if kept else ""
            raise BackupError(f"the database is empty now, restore again{hint}: {error}") from error
        upgrade(url, restoring=True)
        raised = _settle(url, before)
        with engine.begin() as connection:
            connection.execute(text(f"DROP TABLE {RESTORING}"))
    finally:
        engine.dispose()
    return raised, kept


def _run(tool: str, arguments: Sequence[str], database: URL | None = None) -> str:
    """What a tool of PostgreSQL prints. The password goes by its environment, never by argv."""
    found = shutil.which(tool)
    if found is None:
        raise BackupError(f"{tool} is not on PATH: install PostgreSQL's client programs")
    try:
        done = subprocess.run(
            [found, *arguments], env={**os.environ, **_libpq(database)}, capture_output=True,
            text=True, timeout=TOOL_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackupError(f"{tool}: {error}") from error
    if done.returncode != 0:
        raise BackupError(f"{tool}: {done.stderr.strip()[-1000:]}")
    return done.stdout


def _libpq(url: URL | None) -> Mapping[str, str]:
    """The variables by which PostgreSQL's programs find what the URL names: one server, or several
    of which one takes writes (`?host=one:5432&host=two:5432`)."""
    if url is None:
        return {}
    found = url.get_dialect()().create_connect_args(url)[1]
    values = {
        "PGHOST": found.get("host"),
        "PGPORT": found.get("port"),
        "PGUSER": found.get("user"),
        "PGPASSWORD": found.get("password"),
        "PGDATABASE": found.get("dbname"),
        "PGSSLMODE": found.get("sslmode"),
        "PGTARGETSESSIONATTRS": found.get("target_session_attrs"),
    }
    return {name: str(value) for name, value in values.items() if value}


# --- both --------------------------------------------------------------------------------------


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")


def _check_revision(source: Path, revision: str | None) -> None:
    if revision is None:
        raise BackupError(f"{source} is no backup of Quarterdeck: it names no schema revision")
    if revision not in known_revisions():
        raise NewerSchema(revision, head_revision())


def _generation_of(url: str) -> int:
    """The generation of a database; 0 where there is none, or none that can be read."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return 0
    database = Database.open(url)
    try:
        with database.read() as session:
            return generation(session)
    except SQLAlchemyError:
        return 0
    finally:
        database.close()


def _settle(url: str, before: int) -> int:
    """Tell the restored database what it is: of an older day than its machines."""
    database = Database.open(url)
    try:
        with database.write() as session:
            if database.dialect == "postgresql":
                _forget_transactions(session)
            for table in (EventRow, LogChunkRow):
                _skip_ids(session, table)
            raised = raise_generation(session, at_least=before)
            append_event(
                session, type="platform.restored", subject="platform", subject_id="platform",
                project="default", actor="quarterdeck db restore",
                message=f"a backup was restored: generation {raised}", data={"generation": raised},
            )  # fmt: skip
        return raised
    finally:
        database.close()


def _forget_transactions(session: Session) -> None:
    """Rows of a server whose transactions are numbered higher than this one's would be hidden from
    their readers for long: they go first, in the order of their ids."""
    here = session.scalar(select(current_transaction())) or 0
    newest = [
        session.scalar(select(func.max(row.transaction_id))) for row in (EventRow, LogChunkRow)
    ]
    if max(number or 0 for number in newest) < here:
        return
    session.execute(update(EventRow).values(transaction_id=0))
    session.execute(update(LogChunkRow).values(transaction_id=0))
    session.execute(update(LogFileRow).values(first_transaction=0, last_transaction=0))


def _skip_ids(session: Session, table: type[EventRow] | type[LogChunkRow]) -> None:
    newest = session.scalar(select(func.max(table.id))) or 0
    if table is LogChunkRow:  # most of them have moved into files
        newest = max(newest, session.scalar(select(func.max(LogFileRow.last_id))) or 0)
    name, value = table.__tablename__, newest + ID_GAP
    if session.get_bind().dialect.name == "postgresql":
        sequence = text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :value)")
        session.execute(sequence, {"name": name, "value": value})
        return
    session.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
    session.execute(
        text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :value)"),
        {"name": name, "value": value},
    )
