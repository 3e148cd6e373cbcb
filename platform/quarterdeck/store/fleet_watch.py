"""Clusters that fall silent and come back, by the database's clock."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import ClusterRow, NodeRow
from quarterdeck.store.transitions import ACTOR

SILENT_AFTER_S = 30.0


def mark_silent(session: Session, silent_after: float = SILENT_AFTER_S) -> list[str]:
    """Clusters whose agent has just been silent for too long; their nodes become unknown."""
    rows = session.execute(
        update(ClusterRow)
        .where(
            ClusterRow.phase == "connected",
            ClusterRow.last_beat_at < database_now(-silent_after),
        )
        .values(phase="silent")
        .returning(ClusterRow.name, ClusterRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    for name, cluster_id in rows:
        session.execute(
            update(NodeRow)
            .where(NodeRow.cluster == name, NodeRow.phase == "alive")
            .values(phase="unknown")
            .execution_options(synchronize_session=False)
        )
        _tell(session, name, cluster_id, "cluster.silent", f"no word for {silent_after:g} s")
    return [name for name, _ in rows]


def mark_connected(session: Session, silent_after: float = SILENT_AFTER_S) -> list[str]:
    """Clusters that speak again; their agent's beat has set their nodes already."""
    rows = session.execute(
        update(ClusterRow)
        .where(
            ClusterRow.phase == "silent",
            ClusterRow.last_beat_at >= database_now(-silent_after),
        )
        .values(phase="connected")
        .returning(ClusterRow.name, ClusterRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    for name, cluster_id in rows:
        _tell(session, name, cluster_id, "cluster.connected", "its agent speaks again")
    return [name for name, _ in rows]


def _tell(session: Session, name: str, cluster_id: str, type: str, message: str) -> None:
    append_event(
        session,
        type=type,
        subject=f"cluster/{name}",
        subject_id=cluster_id,
        project="default",
        message=f"cluster {name}: {message}",
        actor=ACTOR,
    )
