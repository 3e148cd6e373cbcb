"""What happened and what was made: events, metrics, checkpoints, asset versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from quarterdeck.store.columns import Base, BigId, current_transaction, database_now


class EventRow(Base):
    """An append-only fact. Read it through outbox.events_after: ids alone are not commit order."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    transaction_id: Mapped[int] = mapped_column(BigInteger, default=current_transaction())
    type: Mapped[str]
    subject: Mapped[str]
    subject_id: Mapped[str]
    project: Mapped[str]
    message: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(default="")
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
    at: Mapped[datetime] = mapped_column(default=database_now())

    __table_args__ = (
        Index(None, "transaction_id", "id"),
        Index(None, "subject_id", "id"),
        Index(None, "project", "id"),
        {"sqlite_autoincrement": True},
    )


class StepMetricsRow(Base):
    """The metrics of one step; a later epoch supersedes an earlier one."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    values: Mapped[dict[str, Any]]


class CheckpointRow(Base):
    """A checkpoint's existence. `state`: registered → deleting → deleted."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    job_name: Mapped[str]
    project: Mapped[str]
    run_id: Mapped[str]
    epoch: Mapped[int]
    step: Mapped[int] = mapped_column(BigInteger)
    uri: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    loss: Mapped[float | None]
    manifest: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(default="registered")
    created_at: Mapped[datetime] = mapped_column(default=database_now())

    __table_args__ = (
        UniqueConstraint("job_id", "epoch", "step"),
        Index(None, "job_id", "state", "step"),
        Index(None, "state"),
    )


class UploadRow(Base):
    """Bytes that somebody sent, with whoever is deleting them; see store.uploads."""

    __tablename__ = "uploads"

    project: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    touched_at: Mapped[datetime] = mapped_column(default=database_now(), index=True)
    """When somebody last sent it, asked for it or submitted a job that names it."""
    claim_id: Mapped[str | None]
    claim_until: Mapped[datetime | None]


class AssetVersionRow(Base):
    """A version of a model, dataset or tokenizer."""

    __tablename__ = "asset_versions"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    version: Mapped[int]
    digest: Mapped[str]
    uri: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger, default=0)
    files: Mapped[list[Any]] = mapped_column(default=list)
    details: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    job_id: Mapped[str | None] = mapped_column(index=True)
    run_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=database_now())

    __table_args__ = (
        UniqueConstraint("project", "kind", "name", "version"),
        UniqueConstraint("run_id", "kind", "name"),
    )


class AssetAliasRow(Base):
    """A movable name of one version, e.g. `prod`."""

    __tablename__ = "asset_aliases"

    project: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(default=database_now())


class AssetInputRow(Base):
    """Lineage: a version that the run which made `asset_id` read."""

    __tablename__ = "asset_inputs"

    asset_id: Mapped[str] = mapped_column(
        ForeignKey("asset_versions.id", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
