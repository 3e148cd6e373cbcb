"""Engines: SQLite and PostgreSQL with the settings that make both safe for several writers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_MS = 15_000
STATEMENT_TIMEOUT_MS = 30_000
CONNECT_TIMEOUT_S = 10
LOST_AFTER_S = 15.0
"""A server that takes no packet for so long is gone: a machine without power never says so."""
READ_ONLY = "quarterdeck_read_only"


class DatabaseUrlError(ValueError):
    """The database URL names something that this platform does not speak."""


def make_engine(url: str, *, pool_size: int = 10) -> Engine:
    """An engine for `sqlite:///PATH` or `postgresql+psycopg://…`.

    Raises DatabaseUrlError for another dialect or driver.
    """
    parsed = make_url(url)
    dialect = parsed.get_backend_name()
    if dialect == "sqlite":
        return _sqlite(parsed)
    if dialect == "postgresql":
        return _postgresql(parsed, pool_size)
    raise DatabaseUrlError(
        f"database URL {parsed.render_as_string(hide_password=True)!r}: {dialect} is not "
        "supported; write sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
    )


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise DatabaseUrlError(
            "database URL: an in-memory SQLite is lost with its process; write sqlite:///PATH"
        )
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        json_serializer=dump_json,
        hide_parameters=True,  # a failure's log must not show what people stored
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        pool_size=10,
        max_overflow=20,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    # The driver's own BEGIN comes too late and is deferred: we begin by ourselves.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads before it writes fails with SQLITE_BUSY whatever the
    # timeout, once another wrote between; taking the write lock first makes it wait instead.
    deferred = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN DEFERRED" if deferred else "BEGIN IMMEDIATE")


def _postgresql(url: URL, pool_size: int) -> Engine:
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_driver_name() != "psycopg":
        raise DatabaseUrlError(
            f"database URL: driver {url.get_driver_name()!r} is not supported; "
            "write postgresql+psycopg://…"
        )
    engine = create_engine(
        url,
        json_serializer=dump_json,
        hide_parameters=True,  # a failure's log must not show what people stored
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=30,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "quarterdeck",
            "tcp_user_timeout": int(LOST_AFTER_S * 1000),
            "keepalives_idle": 5,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": (
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS} "
                f"-c lock_timeout={BUSY_TIMEOUT_MS} "
                "-c idle_in_transaction_session_timeout=60000 -c timezone=UTC"
            ),
        },
    )
    event.listen(engine, "handle_error", _leave_standby)
    return engine


def _leave_standby(context: ExceptionContext) -> OperationalError | None:
    """A server that takes no writes has become a standby: another is the primary now, or will be.
    All connections are opened anew, as if it had gone."""
    found = context.original_exception
    if not isinstance(found, ReadOnlySqlTransaction):
        return None
    context.is_disconnect = True
    return OperationalError(context.statement, None, found, hide_parameters=True)


def dump_json(value: Any) -> str:
    """JSON that both databases accept: numbers that are not finite become their names
    (`NaN`, `Infinity`), which pydantic reads back as numbers."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
