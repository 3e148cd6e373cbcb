"""Tunnels that wait to be opened by a rank's node. Times by the database's clock."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import RunRow, TunnelRow

WAIT_S = 30.0
"""A tunnel that nobody opened for so long is given up."""
_VERBS = {"exec": "runs a program in", "attach": "attached to", "forward": "forwards a port to"}


def add_tunnel(
    session: Session, tunnel_id: str, run: RunRow, *, rank: int, kind: str, actor: str
) -> None:
    """Ask the run's cluster for a tunnel to `rank`; an event says who did."""
    session.execute(delete(TunnelRow).where(TunnelRow.created_at < _since(session)))
    session.add(
        TunnelRow(
            id=tunnel_id, run_id=run.id, epoch=run.epoch, cluster=run.cluster, rank=rank, kind=kind
        )
    )
    append_event(
        session,
        type=f"tunnel.{kind}",
        subject=f"{run.owner_type}/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"{actor} {_VERBS[kind]} rank {rank}",
        actor=actor,
        data={"run_id": run.id, "epoch": run.epoch, "rank": rank, "tunnel_id": tunnel_id},
    )


def waiting_tunnels(session: Session, cluster: str) -> list[TunnelRow]:
    """What the cluster's agent shall open."""
    query = select(TunnelRow).where(TunnelRow.cluster == cluster)
    rows = session.scalars(query.order_by(TunnelRow.created_at)).all()
    if not rows:
        return []
    since = _since(session)
    return [row for row in rows if row.created_at >= since]


def take_tunnel(session: Session, tunnel_id: str) -> bool:
    """Whether the tunnel was waiting; it no longer is."""
    deleted = delete(TunnelRow).where(TunnelRow.id == tunnel_id).returning(TunnelRow.id)
    return session.scalar(deleted) is not None


def _since(session: Session) -> datetime:
    now: datetime = session.execute(select(database_now())).scalar_one()
    return now - timedelta(seconds=WAIT_S)
