"""Logs: the newest chunks, the index of the files that hold the rest, and what is kept of whom."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from quarterdeck.store.columns import Base, BigId, current_transaction, database_now


class LogChunkRow(Base):
    """Lines of one rank: `lines` is a list of [unix seconds, text], `size` their characters."""

    __tablename__ = "log_chunks"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    transaction_id: Mapped[int] = mapped_column(BigInteger, default=current_transaction())
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    owner_id: Mapped[str]
    epoch: Mapped[int]
    rank: Mapped[int]
    stream: Mapped[str]
    seq: Mapped[int] = mapped_column(BigInteger)
    first_at: Mapped[float]
    last_at: Mapped[float]
    lines: Mapped[list[Any]]
    size: Mapped[int] = mapped_column(BigInteger, server_default="0")

    __table_args__ = (
        UniqueConstraint("run_id", "rank", "stream", "seq"),
        Index(None, "owner_id", "transaction_id", "id"),
        Index(None, "transaction_id", "id"),
        {"sqlite_autoincrement": True},
    )


class LogFileRow(Base):
    """A stretch of an owner's log in the artifact store: all of its chunks from the first to the
    last key. `state`: stored → deleting → gone with its row."""

    __tablename__ = "log_files"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    owner_id: Mapped[str]
    path: Mapped[str]
    first_transaction: Mapped[int] = mapped_column(BigInteger)
    first_id: Mapped[int] = mapped_column(BigInteger)
    last_transaction: Mapped[int] = mapped_column(BigInteger)
    last_id: Mapped[int] = mapped_column(BigInteger)
    first_at: Mapped[float]
    last_at: Mapped[float]
    lines: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    parts: Mapped[list[Any]]
    """[epoch, rank, stream, offset, bytes, first seq, last seq] of each rank's part."""
    state: Mapped[str] = mapped_column(server_default="stored")
    created_at: Mapped[datetime | None] = mapped_column(default=database_now())
    """By the database's clock: machines' own may be wrong, and their lines are not to go for it."""

    __table_args__ = (
        UniqueConstraint("owner_id", "first_transaction", "first_id"),
        Index(None, "owner_id", "last_transaction", "last_id"),
        Index(None, "state"),
        {"sqlite_autoincrement": True},
    )


class OwnerLogsRow(Base):
    """What is kept of the log of one job or service, whose id is `id`. Controllers lease it."""

    __tablename__ = "owner_logs"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_type: Mapped[str]
    owner_name: Mapped[str]
    project: Mapped[str]
    hot_chunks: Mapped[int] = mapped_column(BigInteger, default=0)
    hot_size: Mapped[int] = mapped_column(BigInteger, default=0)
    """What is in log_chunks."""
    stored_lines: Mapped[int] = mapped_column(BigInteger, default=0)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """What is in files."""
    written_at: Mapped[datetime] = mapped_column(default=database_now())
    """When the newest lines arrived."""
    pruned_lines: Mapped[int] = mapped_column(BigInteger, default=0)
    pruned_until: Mapped[float | None]
    """Unix seconds of the newest line that retention deleted."""
    pruned_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    """When to look whether something must move; None: not before lines come."""
    lease_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]

    __table_args__ = (Index(None, "due_at"), Index(None, "project"))
