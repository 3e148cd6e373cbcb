"""Machines that their versions keep out of a cluster: Ray would refuse them, so none becomes a node
and nobody would see them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.specs.protocol import JoinRequest
from quarterdeck.specs.versions import apart
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound
from quarterdeck.store.tables import ClusterRow
from quarterdeck.store.text import clean

MOST_KEPT = 20
KEPT_S = 86_400.0
"""One that has not asked for so long is forgotten."""
REWRITTEN_S = 60.0
"""A machine that waits asks every few seconds: its row is not written each time."""


def is_news(session: Session, row: ClusterRow, said: JoinRequest) -> bool:
    """Whether `record_join` would write anything: machines that wait ask again and again."""
    return _kept(session, row, said) != (row.refused_joins or [])


def record_join(session: Session, cluster: str, said: JoinRequest) -> None:
    """Keep whom the versions keep out of the cluster, and forget it once it fits. Raises
    NotFound."""
    row = session.scalars(
        select(ClusterRow).where(ClusterRow.name == cluster).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound("cluster", cluster)
    row.refused_joins = _kept(session, row, said) or None


def _kept(session: Session, row: ClusterRow, said: JoinRequest) -> list[dict[str, Any]]:
    now = session.scalars(select(database_now())).one()
    before: list[dict[str, Any]] = list(row.refused_joins or [])
    host = clean(said.host, 253)
    others = [one for one in before if one["host"] != host and not _old(one, now)]
    if not apart(said.versions, row.versions):
        return others
    versions = {clean(name, 100): clean(text, 100) for name, text in said.versions.items()}
    mine = next((one for one in before if one["host"] == host), None)
    young = timedelta(seconds=REWRITTEN_S)
    if mine and mine["versions"] == versions and now - _at(mine) < young:
        return before
    new = {"host": host, "address": clean(said.address, 253), "versions": versions,
           "at": now.isoformat()}  # fmt: skip
    return [*others, new][-MOST_KEPT:]


def refused_joins(session: Session, row: ClusterRow) -> list[tuple[str, str]]:
    """(host, what it has) of machines that asked lately and that the head's versions of today still
    keep out."""
    now = session.scalars(select(database_now())).one()
    return [
        (one["host"], "; ".join(apart(one["versions"], row.versions)))
        for one in row.refused_joins or []
        if not _old(one, now) and apart(one["versions"], row.versions)
    ]


def _at(one: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(one["at"])


def _old(one: dict[str, Any], now: datetime) -> bool:
    return now - _at(one) > timedelta(seconds=KEPT_S)
