"""Transactions: the only two ways to the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from quarterdeck.store.database import READ_ONLY, make_engine

__all__ = ["Database", "Session"]


class Database:
    """One engine and its two kinds of transaction.

    `write()` commits at the end of its block and rolls back when it raises; on SQLite it takes
    the write lock at once. `read()` sees one snapshot on SQLite, never writes, and always rolls
    back. Rows stay readable after the block.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect: str = engine.dialect.name
        self._write = sessionmaker(engine, expire_on_commit=False)
        self._read = sessionmaker(
            engine.execution_options(**{READ_ONLY: True}), expire_on_commit=False, autoflush=False
        )

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect lazily to `url`; raises DatabaseUrlError when it is not supported."""
        return cls(make_engine(url))

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self._write() as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._read() as session:
            yield session

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
