"""Which gateways live, and what keys with limits ask of each."""

from __future__ import annotations

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.inserts import insert_or_update
from quarterdeck.store.tables import GatewayRow

ALIVE_S = 10.0
"""A gateway that reported so lately takes its share."""
KEEP_S = 120.0
MOST = 1000
"""Gateways on record; beyond that the oldest are forgotten."""


def hear_gateway(
    session: Session, name: str, seq: int, demand: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Note a gateway's report, unless a later one was noted; the demand of every living gateway,
    this one's as it stands."""
    values = {"name": name, "seq": seq, "demand": demand, "seen_at": database_now()}
    changes = {"seq": seq, "demand": demand, "seen_at": database_now()}
    statement = insert_or_update(session, GatewayRow, values, ["name"], changes)
    session.execute(statement)
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


def living_gateways(session: Session) -> int:
    """How many gateways reported lately."""
    count = session.scalar(
        select(func.count())
        .select_from(GatewayRow)
        .where(GatewayRow.seen_at > database_now(-ALIVE_S))
    )
    return int(count or 0)
