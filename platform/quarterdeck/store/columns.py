"""Column types and expressions that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key: SQLite numbers only a column of type INTEGER by itself."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps it as text with six digits of microseconds."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time {value.isoformat()} has no zone: pass an aware UTC datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_now(FunctionElement[datetime]):
    """The database's own clock, moved by `offset` seconds (negative: into the past).

    Leases and liveness compare with this in the statement that decides, so that controllers
    and apis with wrong clocks agree.
    """

    name = "database_now"
    inherit_cache = True
    type = UtcDateTime()

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__(literal(round(offset, 3)))


@compiles(database_now, "sqlite")
def _now_sqlite(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', ({offset}) || ' seconds') || '000')"


@compiles(database_now, "postgresql")
def _now_postgresql(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + make_interval(secs => CAST({offset} AS double precision)))"


class current_transaction(FunctionElement[int]):
    """The number of this transaction where the database has one (PostgreSQL), else 0."""

    name = "current_transaction"
    inherit_cache = True
    type = BigInteger()


@compiles(current_transaction, "sqlite")
def _transaction_sqlite(element: current_transaction, compiler: SQLCompiler, **options: Any) -> str:
    return "0"


@compiles(current_transaction, "postgresql")
def _transaction_postgresql(
    element: current_transaction, compiler: SQLCompiler, **options: Any
) -> str:
    return "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"


class Base(DeclarativeBase):
    """All tables. Python annotations choose the column types."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
    }
