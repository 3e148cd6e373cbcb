"""What gateways observe of services: stored for a while, summed for those who decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.lifecycle.analysis import Observed
from quarterdeck.specs.observations import GatewayObservations
from quarterdeck.store.columns import database_now
from quarterdeck.store.inserts import insert_ignoring
from quarterdeck.store.tables import ObservationRow, ServiceRow

ACTIVE_S = 5.0
KEEP_S = 900.0
"""How long a window is kept."""


def record_observations(session: Session, said: GatewayObservations) -> int:
    """Store one report of a gateway, at most once; how many revisions it told of. Services that
    do not live any more are ignored. Windows beyond KEEP_S go."""
    session.execute(
        delete(ObservationRow)
        .where(ObservationRow.at < database_now(-KEEP_S))
        .execution_options(synchronize_session=False)
    )
    names = {(one.project, one.service) for one in said.revisions}
    if not names:
        return 0
    ids: dict[tuple[str, str], str] = {}
    for project, name, identity in session.execute(
        select(ServiceRow.project, ServiceRow.name, ServiceRow.id)
        .where(ServiceRow.phase != "stopped", ServiceRow.name.in_({name for _, name in names}))
        .order_by(ServiceRow.ordinal)
    ):
        ids[project, name] = identity
    rows = [
        {
            "gateway": said.gateway,
            "seq": said.seq,
            "service_id": ids[one.project, one.service],
            "seconds": said.seconds,
            **one.model_dump(exclude={"project", "service", "ttft"}),
            "ttft": {str(index): count for index, count in one.ttft.items()},
        }
        for one in said.revisions
        if (one.project, one.service) in ids
    ]
    busy = {
        ids[one.project, one.service]
        for one in said.revisions
        if (one.requests or one.in_flight or one.waiting) and (one.project, one.service) in ids
    }
    if busy:
        _note_active(session, busy)
    if rows:
        keys = ["gateway", "seq", "service_id", "revision"]
        session.execute(insert_ignoring(session, ObservationRow, keys), rows)
    return len(rows)


def wake_service(session: Session, project: str, name: str) -> bool:
    """Note that requests wait for a service, and have it looked at soon; whether it lives."""
    row = session.scalars(
        select(ServiceRow)
        .where(ServiceRow.project == project, ServiceRow.name == name, ServiceRow.desired == "run")
        .order_by(ServiceRow.ordinal.desc())
        .limit(1)
        .with_for_update()
    ).first()
    if row is None:
        return False
    row.active_at = database_now()
    row.due_at = database_now()
    return True


def _note_active(session: Session, services: Collection[str]) -> None:
    """At most every ACTIVE_S for each, so that traffic does not write the row all the time."""
    stale = or_(ServiceRow.active_at.is_(None), ServiceRow.active_at < database_now(-ACTIVE_S))
    session.execute(
        update(ServiceRow)
        .where(ServiceRow.id.in_(sorted(services)), stale)
        .values(active_at=database_now())
        .execution_options(synchronize_session=False)
    )


def observed_since(session: Session, service_id: str, revision: int, since: datetime) -> Observed:
    """The sum of what arrived of a revision after `since`, and is still kept."""
    return _sum(session, service_id, revision, ObservationRow.at > since)


def observed_lately(session: Session, service_id: str, revision: int, seconds: float) -> Observed:
    """The sum of what arrived of a revision in the last `seconds`."""
    return _sum(session, service_id, revision, ObservationRow.at > database_now(-seconds))


def _sum(session: Session, service_id: str, revision: int, when: ColumnElement[bool]) -> Observed:
    rows = session.execute(
        select(ObservationRow.requests, ObservationRow.errors, ObservationRow.ttft).where(
            ObservationRow.service_id == service_id, ObservationRow.revision == revision, when
        )
    ).all()
    ttft: Counter[int] = Counter()
    for _, _, buckets in rows:
        ttft.update({int(index): count for index, count in buckets.items()})
    return Observed(sum(row.requests for row in rows), sum(row.errors for row in rows), ttft)
