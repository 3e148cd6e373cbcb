"""Where runs go: clusters and their machines, as agents last reported them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from quarterdeck.store.columns import Base, database_now


class ClusterRow(Base):
    __tablename__ = "clusters"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    phase: Mapped[str] = mapped_column(default="connected")
    """connected or silent."""
    agent_id: Mapped[str | None]
    agent_started_at: Mapped[datetime | None]
    address: Mapped[str] = mapped_column(default="")
    ray_token: Mapped[bytes | None]
    """Encrypted before it comes here."""
    endpoints_reachable: Mapped[bool] = mapped_column(default=True)
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    last_beat_at: Mapped[datetime | None]
    heard_since: Mapped[datetime | None]
    """Since when beats have come without a long gap. Silence of a run counts only while somebody
    was heard all that time: after an outage of the control plane itself nobody is silent."""
    created_at: Mapped[datetime] = mapped_column(default=database_now())


class NodeRow(Base):
    """One start of a raylet: Ray gives each a new id, so a machine that came back is a new row."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(primary_key=True)
    cluster: Mapped[str] = mapped_column(ForeignKey("clusters.name"), index=True)
    host: Mapped[str]
    address: Mapped[str]
    phase: Mapped[str] = mapped_column(default="alive")
    """alive, unknown or dead."""
    accelerator: Mapped[str] = mapped_column(default="cpu")
    slots: Mapped[int]
    cordoned: Mapped[bool] = mapped_column(default=False)
    quarantined: Mapped[bool] = mapped_column(default=False)
    cpus: Mapped[float] = mapped_column(default=0.0)
    memory: Mapped[int] = mapped_column(BigInteger, default=0)
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    is_head: Mapped[bool] = mapped_column(default=False)
    last_seen_at: Mapped[datetime] = mapped_column(default=database_now())
    created_at: Mapped[datetime] = mapped_column(default=database_now())
