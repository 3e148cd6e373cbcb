"""Who may do what: projects, keys, secrets, remembered answers, the installation's settings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from quarterdeck.store.columns import Base, database_now


class ProjectRow(Base):
    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(primary_key=True)
    isolation: Mapped[str] = mapped_column(default="shared", server_default="shared")
    """shared, or cluster: its runs use clusters of its own alone."""
    created_at: Mapped[datetime] = mapped_column(default=database_now())


class KeyRow(Base):
    """A credential, stored as the SHA-256 of its text.

    `access` is viewer, operator, admin, agent, or `run`: a run's key names its run and epoch
    and ends with it.
    """

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str]
    access: Mapped[str]
    project: Mapped[str | None] = mapped_column(ForeignKey("projects.name"))
    run_id: Mapped[str | None] = mapped_column(index=True)
    epoch: Mapped[int | None]
    cluster: Mapped[str | None]
    """An agent's key may be bound to one cluster; None: it reaches every cluster."""
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    streams: Mapped[int | None] = mapped_column(BigInteger)
    """Requests at once. Gateways hold keys to these three."""
    created_at: Mapped[datetime] = mapped_column(default=database_now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SecretRow(Base):
    """A write-only value, encrypted before it comes here."""

    __tablename__ = "secrets"

    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
    version: Mapped[int] = mapped_column(default=1)
    updated_at: Mapped[datetime] = mapped_column(default=database_now())


class IdempotencyRow(Base):
    """The first answer to a creation, by the caller's key and the `Idempotency-Key` header."""

    __tablename__ = "idempotency_keys"

    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_digest: Mapped[str]
    status: Mapped[int]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=database_now())

    __table_args__ = (Index(None, "created_at"),)


class SettingRow(Base):
    """One value of the installation, e.g. `generation`, which a restore raises."""

    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]]
