"""Which gateways live, and what keys with limits ask of each."""

from __future__ import annotations

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.inserts import insert_or_update
from quarterdeck.store.tables import GatewayRow

ALIVE_S = 10.0
"""A gateway that reported so lately takes its share."""
KEEP_S = 120.0
MOST = 1000
"""Gateways that share a limit; of more only those heard last."""


def hear_gateway(
    session: Session, name: str, seq: int, demand: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Note a gateway's report, unless a later one of it came first; the demand of every living
    gateway, this one among them."""
    values = {"name": name, "seq": seq, "demand": demand, "seen_at": database_now()}
    changes = {"seq": seq, "demand": demand, "seen_at": database_now()}
    later = GatewayRow.seq < seq
    session.execute(insert_or_update(session, GatewayRow, values, ["name"], changes, later))
    session.execute(
        delete(GatewayRow)
        .where(GatewayRow.seen_at < database_now(-KEEP_S))
        .execution_options(synchronize_session=False)
    )
    living = session.execute(
        select(GatewayRow.name, GatewayRow.demand)
        .where(or_(GatewayRow.seen_at > database_now(-ALIVE_S), GatewayRow.name == name))
        .order_by(GatewayRow.seen_at.desc())
        .limit(MOST)
    )
    return {row.name: dict(row.demand) for row in living}
